"""The command line: what it prints, how it reads pictures, and its exit codes."""

from __future__ import annotations

import hashlib
import json
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from task_losses import JPEGLoss, TaskLoss
from task_losses.__main__ import main
from task_losses.architecture import Architecture
from task_losses.losses import LOSSES
from task_losses.pictures import PictureError, read_picture, write_heat_map
from task_losses.weights import serialize_weights, tensor_shapes

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A small weight file of random numbers for the task jpeg."""
    architecture = Architecture(channels=(3, 4, 5))
    generator = torch.Generator().manual_seed(3)
    shapes = tensor_shapes(architecture)
    tensors = {name: torch.randn(shape, generator=generator) / 3 for name, shape in shapes.items()}
    path = tmp_path / "small.safetensors"
    path.write_bytes(serialize_weights(tensors, architecture, {"task": "jpeg", "license": "MIT", "license_text": "…"}))
    return path


@pytest.fixture
def pixels() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (24, 32, 3), dtype=np.uint8)


@pytest.fixture
def pair(tmp_path: Path, pixels: np.ndarray) -> tuple[str, str]:
    """A reference, 32 wide and 24 high, and a copy that differs around one pixel."""
    other = pixels.copy()
    other[15:18, 20:23] ^= 255
    paths = tmp_path / "reference.png", tmp_path / "image.png"
    for path, content in zip(paths, (pixels, other), strict=True):
        Image.fromarray(content).save(path)
    return str(paths[0]), str(paths[1])


def expected(pair: tuple[str, str], loss: TaskLoss) -> float:
    reference, image = (torch.from_numpy(np.array(Image.open(p))).permute(2, 0, 1)[None].float() / 255 for p in pair)
    return float(loss(image, reference))


class TestScore:
    def test_prints_the_loss_and_its_scales(self, pair: tuple[str, str], weights: Path, capsys: Captured) -> None:
        assert main(["score", *pair, "--weights", str(weights)]) == 0
        first, *scales = capsys.readouterr().out.splitlines()
        assert float(first) == pytest.approx(expected(pair, TaskLoss(weights)), rel=1e-5)
        assert [line.split()[1] for line in scales] == ["0", "1", "2"]
        assert sum(float(line.split()[2]) for line in scales) == pytest.approx(float(first), rel=1e-4)
        assert "coarsest" in scales[0]
        assert "finest" in scales[2]

    def test_released_weights_by_task(self, pair: tuple[str, str], capsys: Captured) -> None:
        assert main(["score", *pair, "--task", "jpeg", "--json"]) == 0
        content = json.loads(capsys.readouterr().out)
        assert content["loss"] == pytest.approx(expected(pair, JPEGLoss()), rel=1e-5)
        assert content["task"] == "jpeg"
        assert content["sha256"] == JPEGLoss().weights_sha256

    def test_json_says_what_was_computed(self, pair: tuple[str, str], weights: Path, capsys: Captured) -> None:
        assert main(["score", *pair, "--weights", str(weights), "--json"]) == 0
        content = json.loads(capsys.readouterr().out)
        assert content["size"] == [24, 32]
        assert sum(content["per_scale"].values()) == pytest.approx(content["loss"], rel=1e-5)
        assert content["sha256"] == hashlib.sha256(weights.read_bytes()).hexdigest()

    def test_scales_that_drop_out_are_named(self, pair: tuple[str, str], weights: Path, capsys: Captured) -> None:
        for path in pair:
            Image.open(path).crop((10, 8, 24, 22)).save(path)
        assert main(["score", *pair, "--weights", str(weights)]) == 0
        assert "scales [0] left out" in capsys.readouterr().out

    def test_resolution_option(self, pair: tuple[str, str], weights: Path, capsys: Captured) -> None:
        assert main(["score", *pair, "--weights", str(weights), "--resolution", "full"]) == 0
        found = float(capsys.readouterr().out.splitlines()[0])
        assert found == pytest.approx(expected(pair, TaskLoss(weights, resolution="full")), rel=1e-5)

    def test_map_is_brightest_where_the_pictures_differ(
        self, pair: tuple[str, str], weights: Path, tmp_path: Path
    ) -> None:
        out = tmp_path / "map.png"
        assert main(["score", *pair, "--weights", str(weights), "--map", str(out)]) == 0
        picture = np.array(Image.open(out)).astype(int).sum(axis=2)
        assert picture.shape == (24, 32)
        row, column = np.unravel_index(picture.argmax(), picture.shape)
        assert (abs(row - 16) <= 2, abs(column - 21) <= 2) == (True, True)

    def test_equal_pictures_score_zero_with_a_black_map(
        self, pair: tuple[str, str], weights: Path, tmp_path: Path, capsys: Captured
    ) -> None:
        out = tmp_path / "map.png"
        assert main(["score", pair[0], pair[0], "--weights", str(weights), "--map", str(out)]) == 0
        assert float(capsys.readouterr().out.splitlines()[0]) == 0
        assert np.array(Image.open(out)).max() == 0


class TestWrongUse:
    def check(self, arguments: list[str], capsys: Captured, *words: str, code: int = 2) -> None:
        assert main(arguments) == code
        captured = capsys.readouterr()
        assert captured.out == ""
        for word in words:
            assert word in captured.err

    def test_no_command(self, capsys: Captured) -> None:
        with pytest.raises(SystemExit) as caught:
            main([])
        assert caught.value.code == 2

    def test_unknown_task(self, pair: tuple[str, str]) -> None:
        with pytest.raises(SystemExit) as caught:
            main(["score", *pair, "--task", "colour"])
        assert caught.value.code == 2

    def test_neither_task_nor_weights(self, pair: tuple[str, str], capsys: Captured) -> None:
        self.check(["score", *pair], capsys, "--task", "--weights")

    def test_sizes_differ(self, pair: tuple[str, str], weights: Path, capsys: Captured) -> None:
        Image.open(pair[1]).crop((0, 0, 30, 24)).save(pair[1])
        self.check(["score", *pair, "--weights", str(weights)], capsys, "32 x 24", "30 x 24", "crop")

    def test_pictures_too_small(self, pair: tuple[str, str], weights: Path, capsys: Captured) -> None:
        for path in pair:
            Image.open(path).crop((0, 0, 10, 10)).save(path)
        self.check(["score", *pair, "--weights", str(weights)], capsys, "10 x 10", "too small")

    def test_no_such_picture(self, pair: tuple[str, str], weights: Path, capsys: Captured) -> None:
        self.check(["score", pair[0], "no.png", "--weights", str(weights)], capsys, "no.png", "No such file")

    def test_map_cannot_be_written(
        self, pair: tuple[str, str], weights: Path, tmp_path: Path, capsys: Captured
    ) -> None:
        arguments = ["score", *pair, "--weights", str(weights), "--map"]
        self.check([*arguments, str(tmp_path / "map.unknown")], capsys, "map.unknown", "suffix")
        self.check([*arguments, str(tmp_path / "missing" / "map.png")], capsys, "missing", "writable")

    def test_weights_missing(self, pair: tuple[str, str], capsys: Captured) -> None:
        self.check(["score", *pair, "--weights", "no.safetensors"], capsys, "no.safetensors", code=1)

    def test_weights_damaged(self, weights: Path, capsys: Captured) -> None:
        weights.write_bytes(weights.read_bytes()[:-10])
        self.check(["info", "--weights", str(weights)], capsys, "not a weight file", code=1)

    def test_weights_of_another_task(self, pair: tuple[str, str], weights: Path, capsys: Captured) -> None:
        self.check(["score", *pair, "--weights", str(weights), "--task", "sr"], capsys, "'jpeg'", "'sr'", code=1)

    def test_pillow_missing(
        self, pair: tuple[str, str], weights: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "PIL", None)  # what the import system itself does for "not there"
        self.check(["score", *pair, "--weights", str(weights)], capsys, "Pillow", "pip install 'task-losses[cli]'")


class TestInfo:
    def test_says_what_the_file_says_and_what_it_costs(self, weights: Path, capsys: Captured) -> None:
        assert main(["info", "--weights", str(weights), "--json"]) == 0
        (content,) = json.loads(capsys.readouterr().out)
        assert content["sha256"] == hashlib.sha256(weights.read_bytes()).hexdigest()
        assert content["license"] == "MIT"
        assert content["channels"] == [3, 4, 5]
        # Input to width, three times width to width, width to one output; nine products each.
        per_scale = [9 * (3 * c + 3 * c * c + c) for c in (3, 4, 5)]
        assert content["multiply_adds_per_pixel"]["full"] == sum(per_scale)
        in_pyramid = per_scale[0] * 0.75**4 + per_scale[1] * 0.75**2 + per_scale[2]
        assert content["multiply_adds_per_pixel"]["pyramid"] == round(in_pyramid)

    def test_a_file_speaks_for_itself_alone(self, tmp_path: Path, capsys: Captured) -> None:
        """It may claim any identity, forge lines, and send escapes to the terminal."""
        path = tmp_path / "forged.safetensors"
        architecture = Architecture(channels=(3,))
        tensors = {name: torch.zeros(shape) for name, shape in tensor_shapes(architecture).items()}
        claims = {
            "sha256": "f" * 64,
            "source": "embedded",
            "channels": [99],
            "license": "MIT\nsha256  " + "e" * 64,
            "image": {"name": "\x1b[2J\x1b]0;title\x07", "a\nsha256": "\u202eevil\u2028", "deep": {"x" * 9999: ["\r"]}},
            "\x1b[1A": 1,
        }
        path.write_bytes(serialize_weights(tensors, architecture, {"task": "jpeg", **claims}))
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        assert main(["info", "--weights", str(path), "--json"]) == 0
        (content,) = json.loads(capsys.readouterr().out)
        assert (content["sha256"], content["source"], content["channels"]) == (sha256, str(path), [3])
        assert main(["info", "--weights", str(path)]) == 0
        out = capsys.readouterr().out
        lines = out.splitlines()
        assert all(line.isprintable() and len(line) < 2500 for line in lines)
        assert out.count("\n") == len(lines) < 20
        ours, claimed = (
            lines[: lines.index("the file says of itself:")],
            lines[lines.index("the file says of itself:") + 1 :],
        )
        assert [line.split()[1] for line in ours if line.startswith("sha256")] == [sha256]
        assert [line.split()[1] for line in ours if line.startswith("source")] == [str(path)]
        assert all(line.startswith("  ") for line in claimed)

    def test_errors_are_one_printable_line(self, tmp_path: Path, capsys: Captured) -> None:
        assert main(["info", "--weights", str(tmp_path / "a\n\x1b[2J.safetensors")]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert line.isprintable()

    def test_text_leaves_the_licence_text_out(self, weights: Path, capsys: Captured) -> None:
        assert main(["info", "--weights", str(weights)]) == 0
        out = capsys.readouterr().out
        assert "MIT" in out
        assert "license text" not in out

    def test_text_tells_how_released_weights_were_made(self, capsys: Captured) -> None:
        assert main(["info", "--task", "jpeg"]) == 0
        out = capsys.readouterr().out
        assert "python training/train.py --task jpeg" in out
        assert "CC0" in out
        assert "training cost, seconds" in out
        assert "penalty weight" not in out  # --json has all settings

    def test_all_released_weights(self, capsys: Captured) -> None:
        assert main(["info", "--json"]) == 0
        assert [content["task"] for content in json.loads(capsys.readouterr().out)] == list(LOSSES)

    def test_runs_as_a_module(self, weights: Path) -> None:
        command = [sys.executable, "-m", "task_losses", "info", "--weights", str(weights)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        assert str(weights) in done.stdout


class TestVerify:
    def test_the_copies_in_the_package(self, capsys: Captured) -> None:
        assert main(["verify"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert [line.split()[:2] for line in lines if "package" in line] == [["ok", f"{task},"] for task in LOSSES]
        assert all(str(LOSSES[line.split()[1][:-1]]().weights_sha256) in line for line in lines)

    def test_a_file(self, weights: Path, capsys: Captured) -> None:
        assert main(["verify", "--weights", str(weights)]) == 0
        assert hashlib.sha256(weights.read_bytes()).hexdigest() in capsys.readouterr().out

    @pytest.mark.parametrize("damage", ["cut", "gone", "of another task"])
    def test_wrong_files_fail(self, weights: Path, damage: str, capsys: Captured) -> None:
        if damage == "cut":
            weights.write_bytes(weights.read_bytes()[:-1])
        elif damage == "gone":
            weights.unlink()
        task = ["--task", "sr"] if damage == "of another task" else []
        assert main(["verify", "--weights", str(weights), *task]) == 1
        assert capsys.readouterr().out.startswith(f"FAILED  {weights}: ")


class TestDownload:
    def test_revision_needs_a_repository(self, capsys: Captured) -> None:
        assert main(["download", "--revision", "main"]) == 2
        assert "--revision belongs to a repository" in capsys.readouterr().err

    def test_no_repository(self, capsys: Captured) -> None:
        assert main(["download", "nothing"]) == 2
        assert "owner/repo" in capsys.readouterr().err


class TestReadPicture:
    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        return tmp_path / "picture.png"

    def test_colour(self, path: Path, pixels: np.ndarray) -> None:
        Image.fromarray(pixels).save(path)
        picture = read_picture(path)
        assert picture.dtype == torch.float32
        np.testing.assert_array_equal(picture[0].permute(1, 2, 0).numpy(), pixels.astype(np.float32) / 255)

    @pytest.mark.parametrize("mode", ["1", "L", "P"])
    def test_grey_and_palette_become_the_colours_they_show(self, path: Path, pixels: np.ndarray, mode: str) -> None:
        image = Image.fromarray(pixels).convert(mode)
        image.save(path)
        shown = np.array(image.convert("RGB")).astype(np.float32) / 255
        np.testing.assert_array_equal(read_picture(path)[0].permute(1, 2, 0).numpy(), shown)

    @pytest.mark.parametrize("suffix", ["png", "tif"])
    def test_16_bit_grey_keeps_its_precision(self, tmp_path: Path, suffix: str) -> None:
        path = tmp_path / f"deep.{suffix}"
        grey = np.arange(0, 65536, 128, dtype=np.uint16)[: 16 * 32].reshape(16, 32)
        Image.fromarray(grey).save(path)
        expected = np.repeat(grey[None, None].astype(np.float32) / 65535, 3, axis=1)
        np.testing.assert_array_equal(read_picture(path).numpy(), expected)

    def test_16_bit_colour_is_refused(self, path: Path) -> None:
        path.write_bytes(_deep_png())
        assert Image.open(path).mode == "RGB"  # Pillow would take it for 8 bits
        with pytest.raises(PictureError, match="16 bits per colour channel"):
            read_picture(path)

    @pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
    def test_opaque_alpha_is_dropped(self, path: Path, pixels: np.ndarray, mode: str) -> None:
        if mode == "P":
            image = Image.fromarray(pixels).convert("P")
            image.save(path, transparency=bytes([255] * 256))
        else:
            image = Image.fromarray(pixels).convert(mode)
            image.save(path)
        shown = np.array(image.convert("RGB")).astype(np.float32) / 255
        np.testing.assert_array_equal(read_picture(path)[0].permute(1, 2, 0).numpy(), shown)

    @pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
    def test_transparency_is_refused(self, path: Path, pixels: np.ndarray, mode: str) -> None:
        if mode == "P":
            Image.fromarray(pixels).convert("P").save(path, transparency=bytes([0] * 256))
        else:
            image = Image.fromarray(pixels).convert(mode)
            image.putalpha(254)
            image.save(path)
        with pytest.raises(PictureError, match=r"transparent.*flatten"):
            read_picture(path)

    @pytest.mark.parametrize("mode", ["CMYK", "F", "LAB"])
    def test_other_modes_are_refused(self, tmp_path: Path, mode: str) -> None:
        path = tmp_path / "picture.tif"
        Image.new(mode, (16, 16)).save(path)
        with pytest.raises(PictureError, match=f"mode '{mode}'.*convert it"):
            read_picture(path)

    def test_turned_upright(self, tmp_path: Path, pixels: np.ndarray) -> None:
        exif = Image.Exif()
        exif[0x0112] = 6  # to be shown turned by a quarter
        Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
        found = read_picture(tmp_path / "turned.png")[0].permute(1, 2, 0).numpy()
        np.testing.assert_array_equal(found, np.rot90(pixels, -1).astype(np.float32) / 255)

    def test_several_frames_are_refused(self, tmp_path: Path, pixels: np.ndarray) -> None:
        path = tmp_path / "moving.gif"
        frames = [Image.fromarray(pixels), Image.fromarray(255 - pixels)]
        frames[0].save(path, save_all=True, append_images=frames[1:])
        with pytest.raises(PictureError, match="2 frames"):
            read_picture(path)

    @pytest.mark.parametrize("content", [b"", b"no picture", b"\x89PNG\r\n\x1a\n"])
    def test_no_picture_is_refused(self, path: Path, content: bytes) -> None:
        path.write_bytes(content)
        with pytest.raises(PictureError, match=r"picture\.png"):
            read_picture(path)

    def test_cut_picture_is_refused(self, path: Path, pixels: np.ndarray) -> None:
        Image.fromarray(pixels).save(path)
        path.write_bytes(path.read_bytes()[:-800])
        with pytest.raises(PictureError, match=r"cannot read .*picture\.png"):
            read_picture(path)

    def test_a_few_bytes_that_claim_many_pixels_are_refused(self, path: Path, pixels: np.ndarray) -> None:
        Image.fromarray(pixels).save(path)
        content = bytearray(path.read_bytes())
        content[16:24] = struct.pack(">II", 9000, 9000)  # under Pillow's own limit
        content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
        path.write_bytes(content)
        with pytest.raises(PictureError, match="9000 x 9000 pixels, at most 67 megapixels"):
            read_picture(path)

    @pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes with names")
    def test_pipe_is_refused(self, path: Path) -> None:
        os.mkfifo(path)
        with pytest.raises(PictureError, match="not a regular file"):
            read_picture(path)

    def test_folder_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(PictureError, match="cannot read"):
            read_picture(tmp_path)


def test_heat_map_runs_from_black_to_white(tmp_path: Path) -> None:
    values = torch.linspace(0, 4, 31).expand(12, 31)[None, None]
    write_heat_map(values, tmp_path / "map.png")
    row = np.array(Image.open(tmp_path / "map.png"))[3].astype(int)
    assert row[0].tolist() == [0, 0, 0]
    assert row[10].tolist() == [255, 0, 0]
    assert row[20].tolist() == [255, 255, 0]
    assert row[30].tolist() == [255, 255, 255]
    assert (np.diff(row.sum(axis=1)) > 0).all()


def _deep_png() -> bytes:
    """A PNG of 12 x 12 pixels with 16 bits per colour, which Pillow cannot write."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    rows = b"".join(b"\x00" + bytes(range(72)) for _ in range(12))
    header = struct.pack(">IIBBBBB", 12, 12, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
