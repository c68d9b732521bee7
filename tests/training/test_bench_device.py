"""The command for minutes on a GPU: on a CPU it runs end to end, and nothing that a part does can stop it."""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import torch

from training.bench.cost import timing
from training.bench.cost.kernels import captured
from training.bench.cost.memory import captured_memory
from training.bench.device import files, kernels, prepared, stages, updates
from training.bench.device.__main__ import main
from training.bench.device.runner import run_parts
from training.bench.device.stages import BUDGET, PARTS, STAGES, Part
from training.builtin.codecs import jpeg
from training.config import Config
from training.distortions import uniform
from training.images import open_image, pyramid
from training.kernels.triton.optional import TRITON_INSTALLED

ROOT = Path(__file__).parents[2]
ONE_OF_EACH = [
    "kernels.selfcheck", "losses.eager", "values.errors", "recipes.jpeg", "suite.gpu", "updates.times", "sanitizer.step"
]  # fmt: skip


@pytest.fixture
def one_thread(monkeypatch):
    """Children that wait for each other's threads take many times as long."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def run_command(out, names, *flags):
    """Of the whole command on the CPU: how each part ended."""
    command = ["--out", str(out), "--device", "cpu", "--commit", "abc", "--budget", "1800", "--stages", *names, *flags]
    assert main(command) == 0
    summary = json.loads((out / "device.json").read_text())
    assert len(list(out.iterdir())) <= 8
    assert sum(path.stat().st_size for path in out.iterdir()) < 200_000
    for path in out.iterdir():
        content = json.loads(path.read_text())
        if path.name != "device.json":
            assert content["machine"]["commit"] == "abc"
            assert content["machine"]["torch"] == torch.__version__
    return {row["part"]: row for row in summary["rows"]}


def rows_of(out, stage):
    return json.loads((out / f"{stage}.json").read_text())["rows"]


def test_every_stage_runs_on_a_cpu(tmp_path, one_thread):
    rows = run_command(tmp_path, ONE_OF_EACH)
    assert {name: row["status"] for name, row in rows.items()} == {
        name: "skipped" if name == "sanitizer.step" else "passed" for name in ONE_OF_EACH
    }
    assert {row["loss"] for row in rows_of(tmp_path, "losses")} == {"JPEGLoss", "AlexNet"}
    assert all(row["ms"] > 0 for row in rows_of(tmp_path, "losses") + rows_of(tmp_path, "updates"))
    # Of SRLoss's absolute differences the derivative is a sign: one of 173,440 turned is an error of 4.2e-5.
    limits = {"SRLoss": 1e-4, "JPEGLoss": 1e-5, "DenoiseLoss": 1e-5}
    assert all(row["error_of_the_gradient"] < limits[row["loss"]] for row in rows_of(tmp_path, "values"))
    assert [row["complaint"] for row in rows_of(tmp_path, "kernels")] == [None, None]
    (trained,) = rows_of(tmp_path, "recipes")
    assert trained["steps"] == 4
    assert trained["difference"] < 0.5
    (tests,) = rows_of(tmp_path, "suite")
    assert tests["counts"] == {"skipped: torch finds no CUDA device": 4} or torch.cuda.is_available()
    step, reason = rows_of(tmp_path, "sanitizer")
    assert step["status"] == 0
    assert step["output"].startswith("wgan-gp: distance")
    assert reason["skipped"] == rows["sanitizer.step"]["output"].strip() == "needs a CUDA device"


@pytest.mark.slow
def test_every_other_part_runs_on_a_cpu(tmp_path, one_thread):
    others = [part.full_name for part in PARTS if part.full_name not in ONE_OF_EACH]
    rows = run_command(tmp_path, others)
    passed_over = {"losses.graph"} if TRITON_INSTALLED else {"losses.graph", "kernels.compile"}
    assert {name for name, row in rows.items() if row["status"] == "skipped"} == passed_over
    assert {row["status"] for row in rows.values()} == {"passed", "skipped"}


def test_a_machine_without_what_training_needs_passes_over_that_alone(tmp_path, monkeypatch, one_thread):
    for name in ("PIL", "skimage", "tqdm", "tensorboard", "matplotlib"):
        (tmp_path / f"{name}.py").write_text(f"raise ModuleNotFoundError('No module named {name}', name='{name}')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    rows = run_command(tmp_path / "out", ["values", "recipes.sr"])
    assert rows["values.errors"]["status"] == "passed"
    assert rows["recipes.sr"]["status"] == "skipped"
    assert "No module named" in rows["recipes.sr"]["output"]


def test_without_a_gpu_the_listing_names_every_part(capsys):
    assert main(["--dry-run"]) == 0
    printed = capsys.readouterr().out
    for part in PARTS:
        assert f"\n{part.full_name} " in printed
    assert main(["--dry-run", "--stages", "losses", "recipes.sr", "--budget", "100"]) == 0
    printed = capsys.readouterr().out
    assert [line.split()[0] for line in printed.splitlines()[1:-1]] == [
        part.full_name for part in PARTS if part.stage == "losses" or part.full_name == "recipes.sr"
    ]


@pytest.mark.parametrize("flags", [["--stages", "lossses", "--out", "x"], []])
def test_wrong_flags_are_refused(flags, capsys):
    with pytest.raises(SystemExit):
        main(flags)
    expected = "no such stage: lossses; there are kernels, losses" if flags else "--out is needed"
    assert expected in capsys.readouterr().err


def test_the_files_are_at_most_eight_and_the_parts_fit_their_stages():
    assert BUDGET == 570
    assert len(STAGES) + 1 <= 8
    for stage in STAGES:
        source = (ROOT / "training" / "bench" / "device" / f"{stage}.py").read_text()
        for part in PARTS:
            assert part.stage != stage or f'"{part.name}": ' in source.split("PARTS = ")[1]


# Parts that are made up, each a few lines of Python.
WRITES = "write_content(Path(FILE), {'rows': [{'part': PART}]}); print('done')"
KINDS = {
    "good": (WRITES, "passed", "done"),
    "fails": (f"{WRITES}; raise ValueError('of its own')", "failed", "ValueError: of its own"),
    "crashes": ("import os; os.abort()", "failed", "status -6"),
    "silent": ("pass", "failed", "left no results"),
    "garbage": ("open(FILE, 'wb').write(bytes(range(256))); print('\\udcff' * 9, flush=True)", "failed", ""),
    "noise": (f"{WRITES}; import sys; sys.stdout.buffer.write(bytes(range(256)) * 4000)", "passed", ""),
    "torn": (f"{WRITES}; Path(FILE).with_name(f'.{{Path(FILE).name}}.1').touch(); exit(1)", "failed", "status 1"),
    "skips": ("print('no reason'); raise SystemExit(77)", "skipped", "no reason"),
    "hangs": (
        "import subprocess, sys, time; "
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']); "
        "print(child.pid, flush=True); time.sleep(60)",
        "out of time",
        "",
    ),
}


def made_up(kinds, share=10):
    return [Part(f"stage{index}", kind, share, "", "") for index, kind in enumerate(kinds)]


def scripts(out):
    def command(part, seconds):
        file = str(out / f"{part.stage}.json")
        code = KINDS[part.name][0].replace("FILE", repr(file)).replace("PART", repr(part.name))
        imports = "from pathlib import Path; from training.bench.device.files import write_content"
        return [sys.executable, "-c", f"{imports}; {code}"]

    return command


def test_whatever_a_part_does_is_recorded_and_passed_over(tmp_path):
    kinds = [kind for kind in KINDS if kind != "hangs"]
    rows = run_parts([*made_up(kinds), *made_up(["good"])], scripts(tmp_path), tmp_path, ROOT, 600, {})
    for kind, row in zip([*kinds, "good"], rows, strict=True):
        assert row["status"] == KINDS[kind][1], row
        assert KINDS[kind][2] in row["output"]
        assert len(row["output"]) < files.LONGEST_TEXT + 100
    assert not list(tmp_path.glob(".*"))
    assert json.loads((tmp_path / "device.json").read_text())["rows"][1]["output"] == rows[1]["output"]


def alive(pid):
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs /proc")
def test_a_part_that_hangs_is_ended_with_its_children_and_the_budget_is_kept(tmp_path):
    begun = time.monotonic()
    parts = made_up(["good", "hangs", "good"])
    rows = run_parts(parts, scripts(tmp_path), tmp_path, ROOT, 24, {})
    assert time.monotonic() - begun < 24
    assert [row["status"] for row in rows] == ["passed", "out of time", "passed"]
    assert rows[1]["limit"] > 8.1  # what the first has left is divided among those behind it
    assert rows[2]["limit"] >= 7.5  # the second took nothing of the third's
    assert not alive(int(rows[1]["output"]))


def test_no_part_begins_without_time(tmp_path):
    rows = run_parts(made_up(["good", "good"]), scripts(tmp_path), tmp_path, ROOT, 2, {})
    assert [row["status"] for row in rows] == ["out of time"] * 2
    assert list(tmp_path.iterdir()) == [tmp_path / "device.json"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs /proc")
def test_a_killed_runner_leaves_what_was_finished(tmp_path, number):
    code = (
        "import sys; from pathlib import Path; sys.path.insert(0, 'tests/training'); import test_bench_device as t; "
        "from training.bench.device.runner import ended_by_signals, run_parts\n"
        f"out = Path({str(tmp_path)!r})\n"
        "with ended_by_signals(): run_parts(t.made_up(['good', 'hangs', 'good']), t.scripts(out), out, t.ROOT, 300, {})"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env=environment, stdout=subprocess.PIPE) as runner:
        assert runner.stdout is not None
        assert runner.stdout.readline().startswith(b"stage0.good: passed")
        children = wait_for_children(runner.pid)
        runner.send_signal(number)
        assert runner.wait(30) in (128 + number, -number)
    rows = json.loads((tmp_path / "device.json").read_text())["rows"]
    assert [row["status"] for row in rows] == ["passed", "running", "waiting"]
    assert json.loads((tmp_path / "stage0.json").read_text())["rows"] == [{"part": "good"}]
    if number == signal.SIGTERM:
        assert not any(map(alive, children))
    else:  # nobody could tell them
        for child in children:
            os.kill(child, signal.SIGKILL)


def wait_for_children(pid):
    """The running part, and the child that it has started."""
    for _ in range(200):
        found = [pid]
        for each in found:
            found += map(int, Path(f"/proc/{each}/task/{each}/children").read_text().split())
        if len(found) == 3:
            return found[1:]
        time.sleep(0.05)
    raise AssertionError("the part has started no child")


def test_files_hold_what_json_does_not(tmp_path):
    rows = [{"part": "a", "x": float("nan"), "y": [1.23456789, Path("p")], "text": "x" * 9000}, {"part": "b"}]
    files.write_content(tmp_path / "file.json", {"machine": {"gpu": None}, "rows": rows})
    content = files.read_content(tmp_path / "file.json")
    assert content is not None
    assert content["machine"] == {"gpu": None}
    first, second = content["rows"]
    assert (first["x"], first["y"], second) == ("nan", [1.23457, "p"], {"part": "b"})
    assert len(first["text"]) == files.LONGEST_TEXT + len("[...]")
    assert [path.name for path in tmp_path.iterdir()] == ["file.json"]
    for text in ("", "[]", "{}", '{"rows": 1}', '{"rows": ['):
        (tmp_path / "file.json").write_text(text)
        assert files.read_content(tmp_path / "file.json") is None


def test_the_sizes_are_levels_of_the_recipe():
    config = Config()
    image, _ = open_image(config.image)
    levels = pyramid(image, config.scales, config.ratio, config.longest_side)[1:]
    sizes = [(level.shape[2], level.shape[3]) for level in levels]
    assert (sizes[0], sizes[4], sizes[-1]) == updates.SIZES


def test_what_is_prepared_is_what_the_codec_and_the_files_give(tmp_path, monkeypatch):
    prepared.prepare(tmp_path)
    config = Config()
    monkeypatch.setenv("TASK_LOSSES_PREPARED", "")
    flags = prepared.flags(tmp_path, "jpeg")
    assert flags[-2:] == ["--distortion", "training.bench.device.prepared:codec"]
    assert "CC0" in flags[3]
    image, source = open_image(flags[1], flags[3])
    right, _ = open_image(config.image)
    assert torch.equal(image, right)
    assert source.licence == flags[3]
    assert torch.equal(prepared.unseen(tmp_path), prepared.unseen(None))
    for level in pyramid(right, config.scales, config.ratio, config.longest_side)[1::3]:
        for seed in range(3):
            draws, same = (torch.Generator().manual_seed(seed) for _ in range(2))
            quality = round(uniform(*config.jpeg_quality, same))
            assert torch.equal(prepared.codec(level, draws), jpeg(level, quality))


@pytest.mark.skipif(not TRITON_INSTALLED, reason="the kernels' compiler, triton, is not installed")
@pytest.mark.parametrize("index", [0, pytest.param(5, marks=pytest.mark.slow)])
def test_a_kernel_is_compiled_into_the_cache_without_a_device(tmp_path, index):
    """In a process of its own: the driver that stands in for the missing one is the whole process's."""
    code = (
        "from training.bench.device.kernels import cache_entries, calls, compile_call\n"
        "from training.kernels.triton.variants import launches_on\n"
        "if __name__ == '__main__':\n"
        f"    call = calls(launches_on(90))[{index}]\n"
        "    print(cache_entries(), compile_call(call, 90) > 0, cache_entries())"
    )
    environment = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    environment.pop("TRITON_INTERPRET", None)
    for before in (0, 1):  # the second finds what the first has left
        ended = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
        assert ended.stdout.split() == [str(before), "True", "1"], ended.stderr
    assert list(tmp_path.glob("*/*.cubin"))


@pytest.mark.skipif(not TRITON_INSTALLED, reason="the kernels' compiler, triton, is not installed")
def test_launches_that_differ_in_nothing_the_compiler_sees_are_compiled_once():
    from training.kernels.triton.variants import launches_on

    launches = launches_on(90)
    found = kernels.calls(launches)
    assert 0 < len(found) < len(launches)
    assert kernels.calls(launches * 2) == found
    moved = launches[0]._replace(
        arguments={
            name: torch.empty(9, dtype=value.dtype, device="meta")[1:] if isinstance(value, torch.Tensor) else value
            for name, value in launches[0].arguments.items()
        }
    )
    assert len(kernels.calls([launches[0], moved])) == 2  # another alignment is another kernel


def test_times_and_counts_are_of_the_step():
    cpu, done = torch.device("cpu"), []
    slow, quick = (lambda: time.sleep(0.03)), (lambda: done.append(1))
    readings = timing.milliseconds({"slow": slow, "quick": quick}, cpu, rounds=3)
    assert len(done) > 3 * len(readings["quick"])  # a burst, since one is too short for the clock
    assert all(30 <= reading < 300 for reading in readings["slow"])
    assert max(readings["quick"]) < 1
    x = torch.ones(3)
    assert timing.launches(lambda: torch.add(x, x) * 2, cpu) == {"aten::add": 1, "aten::mul": 1}
    before = torch.backends.cuda.matmul.allow_tf32
    with timing.tf32(not before):
        assert torch.backends.cudnn.allow_tf32 == torch.backends.cuda.matmul.allow_tf32 == (not before)
    assert torch.backends.cuda.matmul.allow_tf32 == before


def test_results_name_no_folder_of_the_machine(tmp_path):
    places = [str(ROOT), torch.__path__[0], tempfile.gettempdir(), str(Path.home())]
    files.write_content(tmp_path / "a.json", {"rows": [{"output": "\n".join(f"in {place}/x.py" for place in places)}]})
    written = (tmp_path / "a.json").read_text()
    assert written.count("x.py") == len(places)
    assert not [place for place in places if place in written]
    for path in (ROOT / "training" / "bench" / "results" / "device").glob("*/*.json"):
        assert not re.findall(r"(?<![\w.])/(?:tmp|home|root|opt|usr|mnt|work)/", path.read_text()), path


@pytest.fixture
def capturing():
    """A device on which graphs can be captured."""
    if not torch.cuda.is_available():
        pytest.skip("torch finds no CUDA device")
    if "PYTORCH_NO_CUDA_MEMORY_CACHING" in os.environ:
        pytest.skip("without its caching allocator torch captures no graph")
    return torch.device("cuda", 0)


@pytest.mark.gpu
def test_the_memory_of_a_graph_is_counted(capturing):
    from training.kernels.triton.graph import record

    device = capturing
    megabyte = torch.ones(1 << 18, device=device)  # of 4 bytes

    def work() -> None:
        (megabyte.repeat(32) + 1).sum()

    work()
    replay, held = captured_memory(lambda: record(work, device), device)
    assert 64 * 1.04 < held.peak < 70
    assert held.pool >= held.peak
    replay()


@pytest.mark.gpu
def test_what_a_captured_step_reads_lives_as_long_as_it(capturing):
    """Nothing else holds it: freed and given back to the device, a replay would read what is not there."""
    device = capturing

    def made():
        read, written = torch.ones(1 << 24, device=device), torch.zeros(1 << 24, device=device)
        return captured(lambda: written.add_(read), device)

    before = torch.cuda.memory_allocated(device)
    way = made()
    torch.cuda.empty_cache()
    assert torch.cuda.memory_allocated(device) - before >= 2 * 4 << 24
    way.update()
    torch.cuda.synchronize(device)


def test_a_stage_that_is_named_twice_runs_once():
    assert stages.chosen(["losses", "losses.eager"]) == stages.chosen(["losses"])
