"""The command line: what it prints, how it reads pictures, and its exit codes."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from task_losses import JPEGLoss, TaskLoss
from task_losses.__main__ import main
from task_losses.architecture import Architecture
from task_losses.heat_map import write_heat_map
from task_losses.losses import LOSSES
from task_losses.weights import random_weights, serialize_weights, tensor_shapes

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

    def test_dial(self, pair: tuple[str, str], capsys: Captured) -> None:
        for texture, fidelity in ((0.0, 1.0), (3.0, 0.5)):
            flags = ["--texture", str(texture), "--fidelity", str(fidelity)]
            assert main(["score", *pair, "--task", "jpeg", *flags]) == 0
            found = float(capsys.readouterr().out.split()[0])
            loss = JPEGLoss(texture=texture, fidelity=fidelity)
            assert found == pytest.approx(expected(pair, loss), rel=1e-5)

    def test_resolution_option(self, pair: tuple[str, str], weights: Path, capsys: Captured) -> None:
        assert main(["score", *pair, "--weights", str(weights), "--resolution", "full"]) == 0
        found = float(capsys.readouterr().out.splitlines()[0])
        assert found == pytest.approx(expected(pair, TaskLoss(weights, resolution="full")), rel=1e-5)

    def test_weights_in_a_folder_that_looks_like_a_repository(
        self, pair: tuple[str, str], weights: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (weights.parent / "runs" / "mine").mkdir(parents=True)
        weights.rename(weights.parent / "runs" / "mine" / "jpeg.safetensors")
        monkeypatch.chdir(weights.parent)
        for command in (["score", *pair], ["info"], ["verify"]):
            assert main([*command, "--weights", "runs/mine"]) == 0, capsys.readouterr().err


class TestMap:
    @pytest.fixture
    def values(self) -> torch.Tensor:
        """A few large values among many small ones, as maps have them."""
        values = torch.linspace(0.001, 0.1, 300 * 40).reshape(1, 1, 40, 300)
        values[..., 20, 150] = 100
        return values

    def test_it_is_brightest_where_the_pictures_differ(
        self, pair: tuple[str, str], weights: Path, tmp_path: Path
    ) -> None:
        out = tmp_path / "map.png"
        assert main(["score", *pair, "--weights", str(weights), "--map", str(out)]) == 0
        picture = np.array(Image.open(out)).astype(int).sum(axis=2)[:24, :32]
        row, column = np.unravel_index(picture.argmax(), picture.shape)
        assert (abs(row - 16) <= 3, abs(column - 21) <= 3) == (True, True)

    def test_a_few_large_values_leave_the_others_visible(self, tmp_path: Path, values: torch.Tensor) -> None:
        write_heat_map(values, torch.zeros(1, 3, 40, 300), tmp_path / "map.png")
        picture = np.array(Image.open(tmp_path / "map.png"))[:40]
        assert (picture.max(axis=2) > 60).mean() > 0.8
        brightness = picture[:, 0].astype(int).sum(axis=1)
        assert (np.diff(brightness) >= 0).all()  # the larger, the brighter
        assert picture[20, 150].tolist() == [255, 255, 255]

    def test_the_reference_shows_through_where_little_differs(self, tmp_path: Path) -> None:
        reference = torch.zeros(1, 3, 40, 300)
        reference[..., 150:] = 1
        write_heat_map(torch.zeros(1, 1, 40, 300), reference, tmp_path / "map.png")
        picture = np.array(Image.open(tmp_path / "map.png"))[:40].astype(int)
        assert picture[:, 150:].min() > picture[:, :150].max() + 100
        assert (picture[..., 0] == picture[..., 1]).all()

    def test_a_legend_shows_the_scale_and_writes_its_top(self, tmp_path: Path, values: torch.Tensor) -> None:
        write_heat_map(values, torch.zeros(1, 3, 40, 300), tmp_path / "map.png")
        legend = np.array(Image.open(tmp_path / "map.png"))[40:].astype(int)
        assert (np.diff(legend[2].sum(axis=1)[10:]) >= -3).all()
        assert legend[2, -1].tolist() == [255, 255, 255]
        words = legend[14:].max(axis=2)
        assert (words > 200).any(axis=0)[:40].any()
        assert (words > 200).any(axis=0)[-100:].any()
        write_heat_map(1e6 * values, torch.zeros(1, 3, 40, 300), tmp_path / "other.png")
        other = np.array(Image.open(tmp_path / "other.png"))
        assert (other[:40] == np.array(Image.open(tmp_path / "map.png"))[:40]).all()
        assert (other[54:].max(axis=2) != words).any(), "the scale's top is another number"

    def test_of_equal_pictures_it_is_the_reference_alone(self, pair: tuple[str, str], weights: Path) -> None:
        out = weights.parent / "map.png"
        assert main(["score", pair[0], pair[0], "--weights", str(weights), "--map", str(out)]) == 0
        picture = np.array(Image.open(out))[:24, :32]
        assert (picture[..., 0] == picture[..., 1]).all()


class TestFolders:
    @pytest.fixture
    def folders(self, tmp_path: Path, pixels: np.ndarray) -> tuple[str, str]:
        """Three pictures and their restored versions; "b" is worst, "a" is equal. One in each has no partner."""
        for name in ("references", "restored"):
            (tmp_path / name).mkdir()
        for index, name in enumerate(("a", "c", "b")):
            other = pixels.copy()
            other[: 4 * index] ^= 255
            Image.fromarray(pixels).save(tmp_path / "references" / f"{name}.png")
            Image.fromarray(other).save(tmp_path / "restored" / f"{name}.bmp")
        Image.fromarray(pixels).save(tmp_path / "references" / "only.png")
        Image.fromarray(pixels).save(tmp_path / "restored" / "alone.png")
        return str(tmp_path / "references"), str(tmp_path / "restored")

    def losses(self, folders: tuple[str, str], weights: Path) -> dict[str, float]:
        pairs = {name: (f"{folders[0]}/{name}.png", f"{folders[1]}/{name}.bmp") for name in "abc"}
        return {name: expected(pair, TaskLoss(weights)) for name, pair in pairs.items()}

    def test_the_mean_and_a_table_worst_first(self, folders: tuple[str, str], weights: Path, capsys: Captured) -> None:
        assert main(["score", *folders, "--weights", str(weights)]) == 0
        captured = capsys.readouterr()
        rows = [line.split() for line in captured.out.splitlines()]
        losses = self.losses(folders, weights)
        assert float(rows[0][0]) == pytest.approx(sum(losses.values()) / 3, rel=1e-5)
        assert [row[1] for row in rows[1:]] == ["b", "c", "a"]
        assert [float(row[0]) for row in rows[1:]] == pytest.approx([losses[name] for name in "bca"], rel=1e-5)
        assert "alone, only" in captured.err

    def test_csv_and_json_hold_every_number(self, folders: tuple[str, str], weights: Path, capsys: Captured) -> None:
        out = weights.parent / "out.csv"
        assert main(["score", *folders, "--weights", str(weights), "--csv", str(out), "--json"]) == 0
        content = json.loads(capsys.readouterr().out)
        with out.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        assert [row["name"] for row in rows] == [entry["name"] for entry in content["pictures"]] == ["b", "c", "a"]
        assert [float(row["loss"]) for row in rows] == [entry["loss"] for entry in content["pictures"]]
        assert float(rows[0]["scale 2"]) == content["pictures"][0]["per_scale"]["2"]
        assert content["mean"] == pytest.approx(sum(self.losses(folders, weights).values()) / 3, rel=1e-5)
        assert content["left_out"] == ["alone", "only"]

    def test_maps_go_into_a_folder(self, folders: tuple[str, str], weights: Path) -> None:
        maps = weights.parent / "maps"
        assert main(["score", *folders, "--weights", str(weights), "--map", str(maps)]) == 0
        assert sorted(path.name for path in maps.iterdir()) == ["a.png", "b.png", "c.png"]

    def test_a_broken_picture_costs_its_own_score(
        self, folders: tuple[str, str], weights: Path, capsys: Captured
    ) -> None:
        Path(folders[1], "c.bmp").write_bytes(b"damaged")
        assert main(["score", *folders, "--weights", str(weights)]) == 2
        captured = capsys.readouterr()
        assert [line.split()[1] for line in captured.out.splitlines()[1:]] == ["b", "a"]
        assert "c.bmp is no picture" in captured.err

    @pytest.mark.skipif(os.name == "nt", reason="Windows has no such names")
    def test_names_of_files_forge_no_lines_and_send_no_escapes(
        self, folders: tuple[str, str], weights: Path, capsys: Captured
    ) -> None:
        bad = ("0.0001\n0  b", "\x1b[2J", "\x1b]0;title\x07")
        for at, suffix in enumerate((".png", ".bmp")):
            for name in bad[:2]:
                Image.new("RGB", (16, 16)).save(Path(folders[at], name + suffix))
        Path(folders[0], f"{bad[2]}.png").write_bytes(b"")
        Path(folders[1], f"{bad[1]}.bmp").write_bytes(b"damaged")
        assert main(["score", *folders, "--weights", str(weights)]) == 2
        captured = capsys.readouterr()
        lines = [*captured.out.splitlines(), *captured.err.splitlines()]
        assert all(line.isprintable() for line in lines)
        assert len(lines) == 1 + 4 + 2

    def test_one_name_twice_and_no_name_in_common(
        self, folders: tuple[str, str], weights: Path, capsys: Captured
    ) -> None:
        use = ["--weights", str(weights)]
        (weights.parent / "others").mkdir()
        Image.new("RGB", (16, 16)).save(weights.parent / "others" / "x.png")
        assert main(["score", folders[0], str(weights.parent / "others"), *use]) == 2
        assert "paired by name" in capsys.readouterr().err
        Image.new("RGB", (16, 16)).save(Path(folders[0], "a.jpg"))
        assert main(["score", *folders, *use]) == 2
        assert "have one name" in capsys.readouterr().err
        assert main(["score", folders[0], f"{folders[1]}/a.bmp", *use]) == 2
        assert "two pictures or two folders" in capsys.readouterr().err


class TestConsole:
    def test_a_reader_that_goes_away_is_no_error(self) -> None:
        process = subprocess.Popen(
            [sys.executable, "-m", "task_losses", "info", "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()  # before the first word, as `| true` does
        assert (process.stderr.read(), process.wait()) == (b"", 141)

    @pytest.mark.parametrize("command", ["info", "verify"])
    @pytest.mark.parametrize("there", [True, False])
    def test_a_narrow_code_page_takes_every_name(
        self, weights: Path, command: str, there: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        named = weights.with_name("Größe-\u6f22.safetensors")
        if there:
            weights.rename(named)
        page = io.TextIOWrapper(io.BytesIO(), encoding="cp1252")
        for stream in ("stdout", "stderr"):
            monkeypatch.setattr(sys, stream, page)
        assert main([command, "--weights", str(named)]) == (0 if there else 1)
        page.flush()
        assert "Größe-\\u6f22".encode("cp1252") in page.buffer.getvalue()

    @pytest.mark.skipif(sys.platform == "win32", reason="a terminal of its own needs pty")
    def test_a_terminal_sees_how_far_a_large_picture_is(
        self, weights: Path, tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import pty

        monkeypatch.setattr("task_losses.scores.LARGE", 1000)
        Image.new("RGB", (60, 40)).save(tmp_path / "large.png")
        master, slave = pty.openpty()
        with os.fdopen(slave, "w") as terminal:
            monkeypatch.setattr(sys, "stderr", terminal)
            assert main(["score", *[str(tmp_path / "large.png")] * 2, "--weights", str(weights)]) == 0
            terminal.write("$")
            terminal.flush()
            said = ""
            while not said.endswith("$"):  # a terminal hands on what it has got so far
                said += os.read(master, 100_000).decode()
            said = said.removesuffix("$")
        os.close(master)
        shares = [int(value) for value in re.findall(r": (\d+) %", said)]
        assert shares == sorted(shares)
        assert shares[0] == 0
        assert shares[-1] > 90
        assert said.endswith("\r\x1b[K"), "the line vanishes"
        assert capsys.readouterr().out.startswith("0\n")


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

    def test_a_name_that_is_neither_here_nor_a_repository(self, pair: tuple[str, str], capsys: Captured) -> None:
        self.check(["score", *pair, "--weights", "rain"], capsys, "no such file or folder here")

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

    def test_text_tells_the_command_and_the_use_and_not_every_setting(self, tmp_path: Path, capsys: Captured) -> None:
        drawn, path = random_weights("jpeg"), tmp_path / "own.safetensors"
        said = {"task": "own", "command": "python -m training.train --task own", "config": {"steps": 200, "lr": 1.0}}
        path.write_bytes(serialize_weights(drawn.tensors, drawn.architecture, said))
        assert main(["info", "--weights", str(path)]) == 0
        out = capsys.readouterr().out
        assert re.search("command +python -m training.train --task own", out)
        assert re.search("smallest side for all scales +79", out)
        assert "weight_for" in out
        assert "config" not in out
        assert "steps" not in out
        assert main(["info", "--weights", str(path), "--json"]) == 0
        assert json.loads(capsys.readouterr().out)[0]["config"]["steps"] == 200

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
        weight = JPEGLoss().weights_info["weight_beside_l1"]["weight"]
        assert re.search(rf"weight beside l1, weight +{re.escape(str(weight))}\n", out)
        assert re.search("weight beside l1, measured on +the training image", out)
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
