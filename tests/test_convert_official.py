"""The authors' files are read without running anything in them, and only if they hold what is expected."""

from __future__ import annotations

import io
import pickle
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from legacy_writer import legacy_file, legacy_parts
from safetensors.torch import load
from torch import nn

from task_losses import TaskLoss
from training.bench.authors import AuthorsLoss
from training.convert_official import LICENSE_FILE, StructureError, convert, fold, main, read_discriminators
from training.legacy_pickle import LegacyFormatError, Node, read_legacy

PARTS = ("magic", "protocol", "system", "object", "keys")


# Networks are Any: tests reach for layers by names that torch's types do not know.
def discriminators(count: int = 2, channels: int = 2) -> list[Any]:
    return list(AuthorsLoss((channels,) * count).discriminators)


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    """A file that a successful attack would create."""
    return tmp_path / "attacked"


class Attack:
    """Pickles as a call; unpickling it runs the call."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, (f"open({str(self.marker)!r}, 'w').close()",)


def by_reduce(marker: Path) -> bytes:
    return pickle.dumps(Attack(marker), protocol=2)


def by_stack_global(marker: Path) -> bytes:
    return pickle.dumps(Attack(marker), protocol=4)


def by_text_protocol(marker: Path) -> bytes:
    return pickle.dumps(Attack(marker), protocol=0)


def by_inst(marker: Path) -> bytes:
    return b"(S" + repr(f"open({str(marker)!r}, 'w').close()").encode() + b"\nibuiltins\nexec\n."


def by_obj(marker: Path) -> bytes:
    return b"(cbuiltins\nexec\nS" + repr(f"open({str(marker)!r}, 'w').close()").encode() + b"\no."


def by_hidden_value(marker: Path) -> bytes:
    """The call is made, and its result thrown away for an innocent one."""
    return b"\x80\x02" + by_reduce(marker)[2:-1] + b"0K\x00."


ATTACKS = [by_reduce, by_stack_global, by_text_protocol, by_inst, by_obj, by_hidden_value]


@pytest.mark.parametrize("attack", ATTACKS)
def test_the_attacks_work_on_an_unpickler(attack: Callable[[Path], bytes], marker: Path) -> None:
    pickle.loads(attack(marker))
    assert marker.exists()


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("position", range(5), ids=PARTS)
def test_attack_is_refused_in_every_position(attack: Callable[[Path], bytes], position: int, marker: Path) -> None:
    parts = legacy_parts(discriminators())
    parts[position] = attack(marker)
    with pytest.raises(LegacyFormatError, match=r"refused|expected"):
        read_discriminators(b"".join(parts))
    assert not marker.exists()


def test_attack_inside_a_good_object_is_refused(marker: Path) -> None:
    """As the value of an attribute of a discriminator, after everything else has been read."""
    parts = legacy_parts(discriminators())
    body, stop = parts[3][:-1], parts[3][-1:]
    assert stop == pickle.STOP
    parts[3] = body + by_reduce(marker)[2:-1] + pickle.POP + stop
    with pytest.raises(LegacyFormatError, match="exec"):
        read_discriminators(b"".join(parts))
    assert not marker.exists()


@pytest.mark.parametrize(
    "name", ["os.system", "builtins.getattr", "torch.load", "torch._utils._rebuild_tensor", "torch.DoubleStorage"]
)
def test_names_beyond_the_list_are_refused(name: str) -> None:
    module, _, attribute = name.rpartition(".")
    parts = legacy_parts(discriminators())
    parts[3] = b"\x80\x02c" + f"{module}\n{attribute}\n".encode() + b"."
    with pytest.raises(LegacyFormatError, match=name.replace(".", r"\.")):
        read_discriminators(b"".join(parts))


def test_known_names_cannot_be_used_in_other_ways() -> None:
    """A class may be instantiated, not called; a function called, not with anything; state goes to instances only."""
    conv = b"ctorch.nn.modules.conv\nConv2d\n"
    for program, refusal in [
        (conv + b")R", "refused to call"),
        (conv + b"K\x01\x85\x81", "refused to make"),
        (b"ctorch\nFloatStorage\n)\x81", "refused to make"),
        (b"ccollections\nOrderedDict\n(K\x01tR", "refused to call"),
        (conv + b"}b", "expected a Node"),
        (b"]}b", "expected a Node"),
        (b"K\x01Q", "persistent id"),
        (b"(X\x06\x00\x00\x00moduleK\x01K\x01K\x01tQ", "persistent id"),
    ]:
        parts = legacy_parts(discriminators())
        parts[3] = b"\x80\x02" + program + b"."
        with pytest.raises(LegacyFormatError, match=refusal):
            read_discriminators(b"".join(parts))


def test_an_endlessly_nested_object_gives_a_short_error() -> None:
    """Each list holds the one before twice: spelled out, 2**60 items."""
    program = b"]q\x00" + b"".join(b"](h%sh%se" % (bytes([i]), bytes([i])) + b"q" + bytes([i + 1]) for i in range(60))
    parts = legacy_parts(discriminators())
    parts[3] = b"\x80\x02ccollections\nOrderedDict\n" + program + b"\x85R."
    with pytest.raises(LegacyFormatError) as caught:
        read_discriminators(b"".join(parts))
    assert len(str(caught.value)) < 1000


def _nested(networks: list[Any]) -> None:
    """An attribute that holds itself by way of 60 lists, each of which holds the one before twice."""
    nested: list[Any] = []
    first = nested
    for _ in range(60):
        nested = [nested, nested]
    first.append(nested)
    networks[0].head.conv.stride = nested


def _deep(networks: list[Any]) -> None:
    """What compares equal as far as one looks, and is deep."""
    nested: tuple[Any, ...] = ()
    for _ in range(300):
        nested = (nested,)
    networks[0].head.conv.stride = (1, nested)


def _tensor_for_a_number(networks: list[Any]) -> None:
    networks[0].head.conv.stride = torch.ones(3)


def _tensor_inside(networks: list[Any]) -> None:
    networks[0].head.conv.stride = (torch.ones(3), 1)


def _tensor_for_hooks(networks: list[Any]) -> None:
    networks[0].head.further_hooks = torch.ones(3)


@pytest.mark.parametrize("change", [_nested, _deep, _tensor_for_a_number, _tensor_inside, _tensor_for_hooks])
def test_an_attribute_that_holds_anything_gives_a_short_error(change: Callable[[list[Any]], None]) -> None:
    networks = discriminators()
    change(networks)
    data = legacy_file(networks)
    start = time.monotonic()
    with pytest.raises(StructureError, match=r"must be|carries") as caught:
        read_discriminators(data)
    assert time.monotonic() - start < 2
    assert len(str(caught.value)) < 1000


TUPLES = b"(t" + b"\x85" * 3000  # inside each other
TENSOR = b"ctorch._utils\n_rebuild_tensor_v2\n(" + (
    b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x01NtQ"
)


@pytest.mark.parametrize(
    "program",
    [
        TUPLES,
        TUPLES + b"Q",
        TUPLES + b"R",
        TUPLES + b"\x81",
        TUPLES + b"\x86Q",
        TUPLES + b"}b",
        b"}" + TUPLES + b"K\x00s",
        b"ccollections\nOrderedDict\n" + TUPLES + b"R",
        TENSOR + b"K\x00" + b"(" + b"K\x01" * 8000 + b"t" + b"(" + b"K\x01" * 8000 + b"t\x89}tR",
        TENSOR + b"K\x00" + TUPLES + TUPLES + b"\x89}tR",
        TENSOR + b"K\x00" + b"(K\x00" + b"\x8a\x10" + b"\x7f" * 16 + b"t(K\x00K\x01t\x89}tR",
        b"\x8d" + b"\xff" * 8,
        b"\x8a\xff" + b"\x7f" * 255,
        b"I" + b"9" * 5000 + b"\n",
    ],
    ids=range(14),
)
@pytest.mark.parametrize("part", [3, 4])
def test_what_is_deep_long_or_large_ends_soon_and_short(part: int, program: bytes) -> None:
    parts = legacy_parts(discriminators())
    parts[part] = b"\x80\x02" + (b"]" + program + b"a" + program + b"a" if part == 4 else program) + b"."
    start = time.monotonic()
    with pytest.raises((LegacyFormatError, StructureError)) as caught:
        read_discriminators(b"".join(parts))
    assert time.monotonic() - start < 2
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("size", [10**12, -1])
def test_storage_that_cannot_be_in_the_file_is_refused(size: int) -> None:
    number = b"\x8a\x08" + struct.pack("<q", size)
    program = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpu" + number + b"NtQ"
    parts = legacy_parts(discriminators())
    parts[3] = b"\x80\x02" + program + b"."
    with pytest.raises(LegacyFormatError, match="does not fit"):
        read_discriminators(b"".join(parts))


@pytest.mark.parametrize(
    ("offset", "size", "stride", "fits"),
    [
        (0, b"K\x02K\x02\x86", b"K\x02K\x01\x86", True),
        (0, b"K\x02K\x02\x86", b"K\x01K\x02\x86", False),  # transposed
        (0, b"K\xffK\xff\x86", b"K\x00K\x00\x86", False),  # large out of nothing
        (1, b"K\x04\x85", b"K\x01\x85", False),  # beyond the end
        (0, b"K\x02X\x01\x00\x00\x00a\x86", b"K\x01K\x01\x86", False),
    ],
    ids=["good", "transposed", "expanded", "beyond", "text"],
)
def test_only_contiguous_tensors_inside_their_storage(offset: int, size: bytes, stride: bytes, fits: bool) -> None:
    storage = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x04NtQ"
    arguments = b"(" + storage + b"K" + bytes([offset]) + size + stride + b"\x89}t"
    parts = legacy_parts([])
    parts[3] = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n" + arguments + b"R."
    parts[4] = pickle.dumps(["0"], protocol=2)
    data = b"".join(parts) + struct.pack("<q4f", 4, 1, 2, 3, 4)
    if fits:
        assert torch.equal(read_legacy(data, classes=()), torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    else:
        with pytest.raises(LegacyFormatError, match=r"refused to make a tensor|not a contiguous part"):
            read_legacy(data, classes=())


@pytest.mark.parametrize("damage", ["cut", "cut in the object", "longer", "empty", "text", "zip", "other storage keys"])
def test_damaged_and_foreign_files_are_refused(damage: str) -> None:
    parts = legacy_parts(discriminators())
    good = b"".join(parts)
    if damage == "zip":
        stream = io.BytesIO()
        torch.save([torch.zeros(3)], stream)
        bad = stream.getvalue()
    else:
        bad = {
            "cut": good[:-1],
            "cut in the object": good[:500],
            "longer": good + b"\x00",
            "empty": b"",
            "text": b"<!DOCTYPE html><title>Not found</title>",
            "other storage keys": b"".join([*parts[:4], pickle.dumps(["1"], protocol=2), parts[5]]),
        }[damage]
    with pytest.raises(LegacyFormatError):
        read_discriminators(bad)


def test_reader_gives_the_numbers_that_were_written() -> None:
    tensors = {"weights": torch.randn(2, 3), "steps": torch.tensor(7), "nothing": torch.zeros(0)}
    content = read_legacy(b"".join(legacy_parts([tensors, (1, -2, 3.5, None, True, "text", 1 << 40)])), classes=())
    assert content[1] == (1, -2, 3.5, None, True, "text", 1 << 40)
    for name, tensor in tensors.items():
        assert content[0][name].dtype == tensor.dtype
        assert torch.equal(content[0][name], tensor)


def test_folding_equals_convolution_then_normalisation() -> None:
    block = discriminators(1, channels=3)[0].head.double()
    state = {name: {k: v.float() for k, v in getattr(block.norm, name).items()} for name in ("_parameters", "_buffers")}
    weight, bias = fold((block.conv.weight, block.conv.bias), Node("norm", {**state, "eps": block.norm.eps}))
    image = torch.rand(1, 3, 9, 9, dtype=torch.float64)
    folded = torch.nn.functional.conv2d(image, weight.double(), bias.double())
    torch.testing.assert_close(folded, block.norm(block.conv(image)), rtol=1e-6, atol=1e-6)


def _training(networks: list[Any]) -> None:
    networks[0].body.block2.norm.training = True


def _stride(networks: list[Any]) -> None:
    networks[1].head.conv.stride = (2, 2)


def _eps(networks: list[Any]) -> None:
    networks[0].head.norm.eps = 1e-3


def _slope(networks: list[Any]) -> None:
    networks[0].head.activation.negative_slope = 0.1


def _missing_block(networks: list[Any]) -> None:
    del networks[0].body.block3


def _missing_bias(networks: list[Any]) -> None:
    networks[0].tail.bias = None


def _shape(networks: list[Any]) -> None:
    networks[0].body.block1.conv.weight = nn.Parameter(torch.zeros(2, 2, 5, 5))


def _width(networks: list[Any]) -> None:
    networks[1].tail = nn.Conv2d(2, 3, 3).eval()


def _hook(networks: list[Any]) -> None:
    networks[0].head._forward_hooks["0"] = "anything"


def _other_class(networks: list[Any]) -> None:
    networks[0].head.conv = nn.LeakyReLU(0.2).eval()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_training, "training of .*BatchNorm2d must be False, found True"),
        (_stride, r"discriminator 1, head: stride .* must be \(1, 1\), found \(2, 2\)"),
        (_eps, "eps of .* must be 1e-05, found 0.001"),
        (_slope, "negative_slope of .* must be 0.2, found 0.1"),
        (_missing_block, "expected the submodules .*block3.*found .*block2"),
        (_missing_bias, "no float32 tensor 'bias'"),
        (_shape, "no 3x3 layer"),
        (_width, "expected convolutions .*found"),
        (_hook, "carries _forward_hooks"),
        (_other_class, "expected torch.nn.modules.conv.Conv2d, found torch.nn.modules.activation.LeakyReLU"),
    ],
)
def test_other_networks_are_refused(change: Callable[[list[Any]], None], message: str) -> None:
    networks = discriminators()
    change(networks)
    with pytest.raises(StructureError, match=message):
        convert(legacy_file(networks), task="jpeg", scales=2)


def test_not_finite_weights_are_refused() -> None:
    networks = discriminators()
    with torch.no_grad():
        networks[0].tail.weight[0, 0, 0, 0] = float("nan")
    with pytest.raises(RuntimeError, match=r"scale0\.conv5\.weight has values that are not finite"):
        convert(legacy_file(networks), task="jpeg", scales=2)


def test_option_chooses_how_many_from_the_coarsest(tmp_path: Path) -> None:
    networks: list[Any] = list(AuthorsLoss((2, 2, 3)).discriminators)
    out = tmp_path / "two.safetensors"
    out.write_bytes(convert(legacy_file(networks), task="denoise", scales=2))
    loss = TaskLoss(out)
    assert loss.architecture.channels == (2, 2)
    assert loss.weights_info["discriminators"] == {"taken": 2, "available": 3}
    torch.testing.assert_close(load(out.read_bytes())["scale1.conv5.weight"], networks[1].tail.weight.data)
    with pytest.raises(ValueError, match="3 discriminators; --scales must be 1 to that, got 4"):
        convert(legacy_file(networks), task="denoise", scales=4)


def test_conversion_is_reproducible_and_records_its_source() -> None:
    data = legacy_file(discriminators())
    assert convert(data, "sr", 2) == convert(data, "sr", 2)
    with pytest.raises(ValueError, match="none of the released files; say what it is for with --task"):
        convert(data, scales=2)


def test_command_writes_a_file_that_loads_and_carries_the_licence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = tmp_path / "Ds.pth", tmp_path / "out.safetensors"
    source.write_bytes(legacy_file(discriminators()))
    assert main([str(source), str(out), "--task", "jpeg", "--scales", "2"]) == 0
    loss = TaskLoss(out, resolution="full")
    assert str(loss.weights_sha256) in capsys.readouterr().out
    assert loss.weights_info["license"] == "BSD-3-Clause"
    assert loss.weights_info["license_text"] == LICENSE_FILE.read_text(encoding="utf-8")
    assert "repo" not in loss.weights_info["imported_from"]  # only released files are said to come from there


def test_command_reports_errors_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.safetensors"
    assert main([str(tmp_path / "missing.pth"), str(out)]) == 1
    assert "missing.pth" in capsys.readouterr().err
    (tmp_path / "bad.pth").write_bytes(b"bad")
    assert main([str(tmp_path / "bad.pth"), str(out), "--task", "sr"]) == 1
    assert "not a legacy torch file" in capsys.readouterr().err
    assert not out.exists()
