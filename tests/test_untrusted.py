"""Weight files and manifests of others: whatever they hold, a WeightsError comes at once, in a short line."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from task_losses import JPEGLoss, TaskLoss, WeightsError, WeightsIntegrity, WeightsNotFound
from task_losses.architecture import Architecture
from task_losses.weights import MANIFEST, METADATA_KEY, parse_manifest, parse_weights, serialize_weights, tensor_shapes

Header = dict[str, Any]
SMALL = Architecture(channels=(3, 4))


def weight_file(change: Callable[[Header, Any], Any] | None = None, value: float = 0.1) -> bytes:
    """A sound weight file of one value, or one whose header or metadata was changed, by a function of both."""
    tensors = {name: torch.full(shape, value) for name, shape in tensor_shapes(SMALL).items()}
    data = serialize_weights(tensors, SMALL, {"task": "jpeg"})
    if change is None:
        return data
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    info = json.loads(header["__metadata__"][METADATA_KEY])
    changed = change(header, info)
    header["__metadata__"][METADATA_KEY] = changed if isinstance(changed, str) else json.dumps(info)
    return with_header(json.dumps(header), data[8 + length :])


def with_header(text: str, rest: bytes) -> bytes:
    return len(text.encode()).to_bytes(8, "little") + text.encode() + rest


def architecture(**change: Any) -> Callable[[Header, Any], None]:
    return lambda header, info: info["architecture"].update(change)


def refusal(parse: Callable[[], Any], within: float = 2.0) -> str:
    """The message of the WeightsError, which came soon and is short and of one line."""
    start = time.monotonic()
    with pytest.raises(WeightsError) as raised:
        parse()
    assert time.monotonic() - start < within
    message = str(raised.value)
    assert len(message) <= 2000
    assert message.isprintable()
    return message


ABSURD: dict[str, tuple[dict[str, Any], str]] = {
    "depth without end": ({"depth": 10**9}, "depth must be at least 2 and at most 32"),
    "depth of 30000": ({"depth": 30000}, "depth must be"),
    "100000 scales": ({"channels": [8] * 100_000}, "at most 32 scales"),
    "a width without end": ({"channels": [8, 10**15]}, "of at most 1024"),
    "an integer of 400 digits": ({"depth": 10**400}, "the integer"),
    "taps without end": ({"taps": [1] * 100_000}, "taps must be different"),
    "the same tap twice": ({"taps": [1, 1]}, "taps must be different"),
    "a ratio near 0": ({"ratio": 1e-300}, "ratio must lie between 0 and 1"),
    "a width of 16.7": ({"channels": [16.7, 4]}, "channels must be whole numbers"),
    "a width in quotes": ({"channels": ["3", 4]}, "channels must be whole numbers"),
    "channels in one string": ({"channels": "34"}, "channels must be whole numbers"),
    "taps in one string": ({"taps": "14"}, "taps must be whole numbers"),
    "a ratio in quotes": ({"ratio": "0.75"}, "ratio must be a number"),
    "a depth of true": ({"depth": True}, "depth must be a whole number"),
    "a depth of 5.0": ({"depth": 5.0}, "depth must be a whole number"),
    "an exponent in quotes": ({"image_exponent": "2"}, "image_exponent must be a number"),
    "an exponent of null": ({"image_exponent": None}, "image_exponent must be a number"),
    "a weight without end": ({"texture_taps": [1], "texture_weight": 1e30}, "texture_weight must be a number"),
    "a weight in quotes": ({"periods": [8], "periodic_weight": "1"}, "periodic_weight must be a number"),
    "a period of 1e12": ({"periods": [10**12], "periodic_weight": 1}, "periods must be from 2 to 64"),
    "the same period twice": ({"periods": [8] * 10**5, "periodic_weight": 1}, "periods must be different"),
    "texture skips in parts": ({"texture_skips": 1.5}, "texture_skips must be a whole number"),
    "texture skips true": ({"texture_skips": True}, "texture_skips must be a whole number"),
    "texture skips beyond all scales": ({"texture_skips": 33}, "texture_skips must be from 0 to"),
    "texture in quotes": ({"texture_taps": "1"}, "texture_taps must be whole numbers"),
    "a term of a later version": ({"sharpness": 1.0}, "this version does not know 'sharpness'"),
    "a slope of text": ({"slope": "x" * 10**6}, "slope must be a number"),
    "a distance of a list": ({"distance": [[]]}, "distance must be a string"),
    "a distance of a long text": ({"distance": "x" * 10**5}, "distance must be squared or absolute"),
}


@pytest.mark.parametrize("name", ABSURD)
def test_a_number_out_of_bounds_or_of_another_type_is_refused_before_anything_is_built(name: str) -> None:
    change, message = ABSURD[name]
    assert message in refusal(lambda: parse_weights(weight_file(architecture(**change)), "x"))
    content = {**json.loads(manifest()), "weights": {"jpeg": entry(architecture={**plain_form(), **change})}}
    assert message in refusal(lambda: parse_manifest(json.dumps(content).encode(), "x"))


RECOMMENDED: dict[str, tuple[Any, str]] = {
    "a number alone": (1.5, "must hold weight and measured_on"),
    "nothing": (None, "must hold weight and measured_on"),
    "more than that": ({"weight": 1.0, "measured_on": "x", "command": "rm"}, "must hold weight and measured_on"),
    "a weight in quotes": ({"weight": "1", "measured_on": "x"}, "weight must be a number"),
    "a weight of 0": ({"weight": 0, "measured_on": "x"}, "must be from 1e-06 to 1e+06"),
    "a weight below 0": ({"weight": -1.0, "measured_on": "x"}, "must be from 1e-06 to 1e+06"),
    "a weight without end": ({"weight": 1e300, "measured_on": "x"}, "must be from 1e-06 to 1e+06"),
    "a line of the terminal": ({"weight": 1.0, "measured_on": "x\nsha256  0\x1b[2J"}, "printable characters"),
    "a long text": ({"weight": 1.0, "measured_on": "x" * 10**5}, "at most 300"),
    "a list for a text": ({"weight": 1.0, "measured_on": [["x"]]}, "measured_on must be a text"),
}


@pytest.mark.parametrize("name", RECOMMENDED)
def test_a_recommended_weight_out_of_bounds_is_refused(name: str) -> None:
    said, message = RECOMMENDED[name]
    data = weight_file(lambda header, info: info.update(weight_beside_l1=said))
    assert message in refusal(lambda: parse_weights(data, "x"))
    content = {**json.loads(manifest()), "weights": {"jpeg": entry(weight_beside_l1=said)}}
    assert message in refusal(lambda: parse_manifest(json.dumps(content).encode(), "x"))


def plain_form() -> dict[str, Any]:
    return {"channels": [3, 4], "ratio": 0.75, "depth": 5, "taps": [1, 4, 5], "slope": 0.2}


def entry(**change: Any) -> dict[str, Any]:
    sound = {"filename": "a.safetensors", "sha256": "0" * 64, "size": 1, "architecture": plain_form()}
    return {**sound, **change}


def manifest(**change: Any) -> bytes:
    return json.dumps({"schema": 1, "revision": None, "weights": {"jpeg": entry()}, **change}).encode()


def deep(levels: int) -> str:
    return "[" * levels + "]" * levels


METADATA = {
    "deep JSON": lambda header, info: deep(100_000),
    "deep JSON that Python still reads": lambda header, info: json.dumps({**info, "x": json.loads(deep(200))}),
    "infinity": lambda header, info: json.dumps({**info, "x": float("inf")}),
    "not a number": lambda header, info: json.dumps({**info, "x": float("nan")}),
    "1e999": lambda header, info: json.dumps(info)[:-1] + ', "x": 1e999}',
    "a key twice": lambda header, info: json.dumps(info)[:-1] + ', "task": "sr"}',
    "half a character": lambda header, info: json.dumps({**info, "license": "\ud800"}),
    "5000 digits": lambda header, info: json.dumps(info)[:-1] + f', "x": {"9" * 5000}}}',
    "a task of a list": lambda header, info: info.update(task=["jpeg"]),
    "a task of many letters": lambda header, info: info.update(task="x" * 10**5),
    "a task that is a line of the terminal": lambda header, info: info.update(task="jpeg\nsha256  0\x1b[2J"),
    "schema true": lambda header, info: info.update(schema=True),
    "no object": lambda header, info: "[]",
    "metadata of a number": lambda header, info: header.update(__metadata__={METADATA_KEY: 1, "a": {}}) or "{}",
    "a tensor of a list": lambda header, info: header.update({"scale0.conv1.bias": []}),
    "a tensor of another type": lambda header, info: header["scale0.conv1.bias"].update(dtype="F16" * 10**5),
    "a shape without end": lambda header, info: header["scale0.conv1.bias"].update(shape=[1] * 10**5),
    "a size without end": lambda header, info: header["scale0.conv1.bias"].update(shape=[2**52]),
    "100000 tensors": lambda header, info: header.update({f"tensor {i}": {} for i in range(100_000)}),
    "offsets out of the file": lambda header, info: header["scale0.conv1.bias"].update(data_offsets=[0, 2**52]),
    "offsets that overlap": lambda header, info: header.update({"scale0.conv1.bias": header["scale0.conv2.bias"]}),
}


@pytest.mark.parametrize("name", METADATA)
def test_hostile_metadata_is_a_short_refusal(name: str) -> None:
    refusal(lambda: parse_weights(weight_file(METADATA[name]), "x"))


def test_a_tensor_that_is_there_twice_is_refused() -> None:
    data = weight_file()
    length = int.from_bytes(data[:8], "little")
    text = data[8 : 8 + length].decode().rstrip()
    header = json.loads(text)
    name = "scale0.conv1.bias"
    twice = f'{text[:-1]}, "{name}": {json.dumps(header[name])}}}'
    message = refusal(lambda: parse_weights(with_header(twice, data[8 + length :]), "x"))
    assert f"the key '{name}' occurs twice" in message


# Sound safetensors that hold something else than the architecture says.
OTHER_TENSORS: dict[str, tuple[dict[str, torch.Tensor | None], str]] = {
    "one is missing": ({"scale0.conv1.bias": None}, "tensors missing: ['scale0.conv1.bias']; unexpected: none"),
    "one too many": ({"mean": torch.zeros(3)}, "tensors missing: none; unexpected: ['mean']"),
    "half precision": (
        {"scale1.conv5.bias": torch.zeros(1, dtype=torch.float16)},
        "scale1.conv5.bias must be 'F32' (float32) of shape [1], found 'F16' [1]",
    ),
    "another shape": (
        {"scale1.conv5.bias": torch.zeros(2)},
        "scale1.conv5.bias must be 'F32' (float32) of shape [1], found 'F32' [2]",
    ),
    "not finite": ({"scale1.conv5.bias": torch.tensor([torch.inf])}, "scale1.conv5.bias has values that are not"),
}


@pytest.mark.parametrize("name", OTHER_TENSORS)
def test_tensors_that_are_not_the_architectures_are_named(name: str) -> None:
    change, message = OTHER_TENSORS[name]
    sound = {key: torch.full(shape, 0.1) for key, shape in tensor_shapes(SMALL).items()}
    tensors = {key: tensor for key, tensor in {**sound, **change}.items() if tensor is not None}
    data = serialize_weights(tensors, SMALL, {"task": "jpeg"})
    assert message in refusal(lambda: parse_weights(data, "x"))


@pytest.mark.parametrize("kept", [0, 7, 8, 100])
def test_a_file_that_is_cut_short_says_so(kept: int) -> None:
    assert "the file is cut short" in refusal(lambda: parse_weights(weight_file()[:kept], "x"))


@pytest.mark.parametrize("value", [1e38, 1e5])
def test_finite_numbers_whose_features_are_not_are_refused(value: float) -> None:
    message = refusal(lambda: parse_weights(weight_file(value=value), "x"))
    assert "distances would not be finite" in message


def test_the_largest_numbers_that_load_give_finite_losses(tmp_path: Path) -> None:
    """The bound holds what it promises, for both distances and images far outside their range."""
    value = 1e12 ** (1 / 5) / 37  # a layer multiplies by 9 * 4 * value, and a bias adds value
    for distance in ("squared", "absolute"):
        more: Any = {"texture_taps": (1, 4), "texture_weight": 1e6, "periods": (8,), "periodic_weight": 1e6}
        form = Architecture(channels=(3, 4), distance=distance, taps=(0, 1, 5), **more)
        tensors = {name: torch.full(shape, value) for name, shape in tensor_shapes(form).items()}
        path = tmp_path / f"{distance}.safetensors"
        path.write_bytes(serialize_weights(tensors, form, {"task": "x"}))
        image = torch.full((1, 3, 64, 64), 255.0, requires_grad=True)
        loss = TaskLoss(path)(image, torch.zeros(1, 3, 64, 64))
        (gradient,) = torch.autograd.grad(loss, image)
        assert loss.isfinite()
        assert loss > 1e6
        assert gradient.isfinite().all()


@pytest.mark.parametrize(
    "content",
    [
        deep(100_000).encode(),
        manifest(schema=True),
        manifest(schema="x" * 10**6),
        manifest(revision="x" * 10**6),
        manifest(weights={"x" * 10**6: entry()}),
        manifest(weights={"jpeg\x1b[2J": entry()}),
        manifest(weights={"jpeg": entry(filename="x" * 300 + ".safetensors")}),
        manifest(weights={"jpeg": entry(size=10**30)}),
        manifest(weights={"jpeg": entry(size=2**40)}),
        manifest(weights={"jpeg": entry(sha256=["0"] * 10**5)}),
        manifest(x=float("inf")),
        manifest()[:-1] + b', "schema": 1}',
        b"\xff" * 10**6,
        b'"' + b"x" * 10**6,
        b"",
    ],
    ids=range(15),
)
def test_a_hostile_manifest_is_a_short_refusal(content: bytes) -> None:
    refusal(lambda: parse_manifest(content, "x"))


def test_a_manifest_that_names_another_size_is_refused(tmp_path: Path) -> None:
    JPEGLoss(False).save_pretrained(tmp_path)
    content = json.loads((tmp_path / MANIFEST).read_bytes())
    content["weights"]["jpeg"]["size"] += 1
    (tmp_path / MANIFEST).write_text(json.dumps(content))
    with pytest.raises(WeightsIntegrity, match="damaged or not the file"):
        JPEGLoss(tmp_path)


def test_many_tasks_make_a_short_message(tmp_path: Path) -> None:
    tasks = {f"task{number}": entry() for number in range(1000)}
    (tmp_path / MANIFEST).write_bytes(manifest(weights=tasks))
    assert "and 995 more" in refusal(lambda: JPEGLoss(tmp_path))
    with pytest.raises(ValueError, match="several tasks") as raised:
        TaskLoss(tmp_path)
    assert len(str(raised.value)) < 1000


# Paths


@pytest.mark.parametrize(
    "path",
    [
        "~nosuchuser/x.safetensors",
        "./" + "x" * 5000,
        "./x\0y",
        "/dev/null/x.safetensors",
        "./\ud800",
        "/" + "a/" * 3000,
    ],
    ids=["no such user", "5000 letters", "null", "below a file", "half a character", "3000 folders"],
)
def test_a_path_that_names_nothing_is_not_found(path: str) -> None:
    for source in (path, Path(path)):
        refusal(lambda source=source: JPEGLoss(source))  # type: ignore[misc]
        with pytest.raises(WeightsNotFound):
            JPEGLoss(source)


def test_no_home_is_not_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(path: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", nobody)  # what it does for a user that nobody knows, without HOME
    with pytest.raises(WeightsNotFound, match="Could not determine home"):
        JPEGLoss("~/x.safetensors")


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.safetensors"
    os.mkfifo(pipe)
    for path in (pipe, Path("/dev/zero"), Path("/dev/stdin")):
        assert "not a regular file" in refusal(lambda path=path: JPEGLoss(path))  # type: ignore[misc]
    os.mkfifo(tmp_path / MANIFEST)  # a manifest that cannot be read is no reason to go on without one
    (tmp_path / "x.safetensors").write_bytes(weight_file())
    assert "not a regular file" in refusal(lambda: JPEGLoss(tmp_path / "x.safetensors"))


def test_a_file_without_end_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    with path.open("wb") as file:
        file.truncate(2**40)
    assert "at most" in refusal(lambda: JPEGLoss(path))
    path.unlink()
    (tmp_path / MANIFEST).write_bytes(b" " * 2**21)
    assert "at most" in refusal(lambda: JPEGLoss(tmp_path))
