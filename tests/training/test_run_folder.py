"""A run's folder: begun again, locked, damaged, full; nothing is lost, and each error is one line."""

import csv
import errno
import io
import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest
import torch

from training import export, train
from training.checkpoint import read_checkpoint, write_checkpoint
from training.lock import alone
from training.run_folder import RunFolder
from training.scale import Scale

ROOT = Path(__file__).parents[2]
SMALL = ["--task", "denoise", "--scales", "2", "--longest-side", "24", "--channels", "4", "--steps", "6"]
# One way to compute it, here and in other processes: what runs are compared with must not depend on other tests.
FLAGS = [*SMALL, "--checkpoint-every", "4", "--threads", "1", "--kernels", "autograd"]


def run(out, *flags):
    return train.main(["--out", str(out), *FLAGS, *flags])


def weights(out):
    return RunFolder(out).load_checkpoint()["finished"]


def assert_same_weights(first, second):
    for a, b in zip(weights(first), weights(second), strict=True):
        assert all(torch.equal(a[name], b[name]) for name in a)


def stop(monkeypatch, out, after, error=KeyboardInterrupt, *flags):
    """A run that ends with an error after some steps."""
    count, honest = 0, Scale.request

    def dying(self, *arguments):
        nonlocal count
        count += 1
        if count > after:
            raise error
        return honest(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Scale, "request", dying)
        return run(out, *flags)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "whole"
    assert run(path) == 0
    return path


@pytest.mark.parametrize("resume", [[], ["--resume"]], ids=["given again", "resumed"])
@pytest.mark.parametrize(
    ("error", "code"), [(KeyboardInterrupt, 130), (OSError("no power"), 2), (FloatingPointError("nan"), 2)]
)
def test_a_run_that_stopped_before_its_first_checkpoint_begins_again(tmp_path, monkeypatch, whole, resume, error, code):
    assert stop(monkeypatch, tmp_path / "run", 2, error) == code
    assert not (tmp_path / "run" / "checkpoint.pt").exists()
    assert run(tmp_path / "run", *resume) == 0
    assert_same_weights(whole, tmp_path / "run")
    rows = list(csv.DictReader((tmp_path / "run" / "losses.csv").open()))
    assert [int(row["step"]) for row in rows] == list(range(12))
    assert len(list((tmp_path / "run").glob("events.out.tfevents.*"))) == 1


def test_what_begins_again_may_have_other_settings_and_what_is_resumed_may_not(tmp_path, monkeypatch, capsys):
    stop(monkeypatch, tmp_path, 2)
    assert run(tmp_path, "--resume", "--lr", "0.1") == 2
    assert "'lr': 0.1" in capsys.readouterr().err
    assert run(tmp_path, "--lr", "0.1") == 0


def test_a_command_that_is_interrupted_before_a_folder_is_made_promises_nothing(tmp_path, monkeypatch, capsys):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    for name in ("prepare", "examined"):
        with monkeypatch.context() as patch:
            patch.setattr(train, name, interrupted)
            assert run(tmp_path / "new") == 130
        assert capsys.readouterr().err.endswith("\nstopped\n")
        assert not (tmp_path / "new").exists()


def test_release_begins_again_what_was_stopped_early(tmp_path, monkeypatch):
    from training import release

    flags = ["--out", str(tmp_path), "--tasks", "denoise", *FLAGS[2:]]
    stop(monkeypatch, tmp_path / "denoise", 2)
    assert release.main(flags) == 0


def test_somebody_elses_files_are_no_run(tmp_path, capsys):
    (tmp_path / "losses.csv").write_text("mine\n")
    (tmp_path / "scale1.png").write_text("mine too\n")
    assert run(tmp_path) == 2
    assert "choose another folder" in capsys.readouterr().err
    (tmp_path / "losses.csv").unlink()
    assert run(tmp_path) == 0


def slowly(out, *flags):
    """A run in a process of its own that waits after its first checkpoint."""
    code = (
        "import sys, time; from training import train; from training.run_folder import RunFolder\n"
        "honest = RunFolder.save_checkpoint\n"
        "RunFolder.save_checkpoint = lambda self, *a: (honest(self, *a), print('saved', flush=True), time.sleep(600))\n"
        "train.main(sys.argv[1:])"
    )
    command = [sys.executable, "-c", code, "--out", str(out), *FLAGS, *flags]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=ROOT, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "saved\n"
    return process


def test_one_process_at_a_time_and_a_dead_one_keeps_nobody_out(tmp_path, whole, capsys):
    owner = slowly(tmp_path)
    try:
        log = (tmp_path / "losses.csv").read_bytes()
        for flags in (["--resume"], []):
            assert run(tmp_path, *flags) == 2
        said = capsys.readouterr().err
        assert f"{tmp_path} is in use by process {owner.pid} on " in said
        assert (tmp_path / "losses.csv").read_bytes() == log
        assert run(tmp_path, "--resume", "--dry-run") == 0
    finally:
        owner.send_signal(signal.SIGKILL)
        owner.wait()
        owner.stdout.close()
    for name in ("checkpoint.pt", "config.json", "losses.csv"):
        (tmp_path / f".{name}.0123abcd.partial").write_bytes(b"half")  # as a kill inside of a write leaves it
    assert run(tmp_path, "--resume") == 0
    assert_same_weights(whole, tmp_path)
    assert not list(tmp_path.glob(".*.partial"))


def test_a_lock_is_for_one_at_a_time(tmp_path):
    with ExitStack() as stack:
        stack.enter_context(alone(tmp_path / "lock"))
        with pytest.raises(BlockingIOError, match=f"in use by process {os.getpid()} on "):
            stack.enter_context(alone(tmp_path / "lock"))
    with alone(tmp_path / "lock"), alone(tmp_path / "other"):
        pass


def test_a_file_system_without_locks_is_no_obstacle(tmp_path, monkeypatch):
    def unknown(*arguments):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("training.lock._take", unknown)
    with alone(tmp_path / "lock"):
        pass


def test_every_error_lets_the_next_process_in(tmp_path, monkeypatch):
    assert stop(monkeypatch, tmp_path, 5, FloatingPointError("nan")) == 2
    with alone(tmp_path / "run.lock"):
        pass
    assert run(tmp_path, "--resume", "--lr", "7") == 2
    with alone(tmp_path / "run.lock"):
        pass


def saved(content):
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def changed(whole, **values):
    """A checkpoint of a finished run with something else in it, as bytes."""
    return saved({**read_checkpoint(whole / "checkpoint.pt"), **values})


def without(name, whole):
    return saved({key: value for key, value in read_checkpoint(whole / "checkpoint.pt").items() if key != name})


def of_file(change, whole):
    return change((whole / "checkpoint.pt").read_bytes())


def settings(whole, **values):
    return json.dumps({**json.loads(read_checkpoint(whole / "checkpoint.pt")["config"]), **values})


def flipped(data):
    """One byte of a tensor's numbers is another; the archive is whole."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        place = max(archive.infolist(), key=lambda each: each.file_size)
    start = place.header_offset + 200 + place.file_size // 2
    return data[:start] + bytes([data[start] ^ 255]) + data[start + 1 :]


def older_format_before(archive):
    """What torch reads is the front, what zipfile checks is the end."""
    file = io.BytesIO()
    content = torch.load(io.BytesIO(archive), weights_only=True)
    torch.save(content, file, _use_new_zipfile_serialization=False)
    return file.getvalue() + archive


def of(whole, name, change):
    content = read_checkpoint(whole / "checkpoint.pt")
    return changed(whole, **{name: change(content[name])})


def moments(optimizers):
    inner = optimizers["discriminator"]
    state = {index: {**each, "exp_avg": torch.zeros(1)} for index, each in inner["state"].items()}
    return {"discriminator": {**inner, "state": state}}


TWO = torch.zeros(2)
NAMES = ("config", "origin", "material", "finished", "examples", "coarser", "scale", "step", "draws", "state")
FILES = {  # what has become of the file's bytes
    "empty": lambda data: b"",
    "text": lambda data: b"not a checkpoint\n" * 9,
    "zeroed": lambda data: bytes(len(data)),
    "half": lambda data: data[: len(data) // 2],
    "end missing": lambda data: data[:-1],
    "zeroed behind its head": lambda data: data[:1000] + bytes(len(data) - 1000),
    "zeroed in its middle": lambda data: data[:9000] + bytes(4000) + data[13000:],
    "a byte": flipped,
    "the older format before an archive": older_format_before,
    "another pickle": lambda data: b"\x80\x04cos\nsystem\n",
    "a list": lambda data: saved([1, 2]),
    "a number": lambda data: saved(1),
    "an empty dict": lambda data: saved({}),
}
CONTENTS = {  # a whole file with something else inside, made from a run
    "scale 99": lambda run: changed(run, scale=99),
    "scale -1": lambda run: changed(run, scale=-1),
    "scale 1": lambda run: changed(run, scale=1),
    "scale as text": lambda run: changed(run, scale="2"),
    "step 99": lambda run: changed(run, scale=1, step=99),
    "newer settings": lambda run: changed(run, config=settings(run, colour="blue")),
    "settings of a wrong type": lambda run: changed(run, config=settings(run, steps="6")),
    "other settings": lambda run: changed(run, config=settings(run, channels=[5])),
    "more scales": lambda run: changed(run, config=settings(run, scales=3)),
    "settings that are no JSON": lambda run: changed(run, config="{"),
    "an origin without seconds": lambda run: changed(run, origin="{}"),
    "draws of no generator": lambda run: changed(run, draws=torch.zeros(3)),
    "a last layer of another shape": lambda run: of(run, "finished", lambda x: [x[0], x[1] | {"last.bias": TWO}]),
    "a critic without layers": lambda run: of(run, "finished", lambda x: [x[0], {"last.bias": torch.zeros(1)}]),
    "one critic": lambda run: of(run, "finished", lambda x: x[:1]),
    "one level": lambda run: of(run, "material", lambda x: x | {"levels": x["levels"][:1]}),
    "grey levels": lambda run: of(run, "material", lambda x: x | {"levels": [y[:, :1] for y in x["levels"]]}),
    "an image without a hash": lambda run: of(run, "material", lambda x: x | {"image": "{}"}),
    "few examples": lambda run: of(run, "examples", lambda x: [y[:2] for y in x]),
    "no networks": lambda run: changed(run, state=None),
    "small moments": lambda run: of(run, "state", lambda x: x | {"optimizers": moments(x["optimizers"])}),
}  # fmt: skip
DAMAGES: dict[str, Callable[[Path], bytes]] = {
    **{name: partial(of_file, change) for name, change in FILES.items()},
    **CONTENTS,
    **{f"no {name}": partial(without, name) for name in NAMES},
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_one_clear_error_and_stays_as_it_is(tmp_path, whole, capsys, damage):
    path = tmp_path / "checkpoint.pt"
    data = DAMAGES[damage](whole)
    path.write_bytes(data)
    for main, words in ((train.main, ["--resume", "--out", str(tmp_path)]), (export.main, [str(tmp_path)])):
        assert main(words) == 2
        said = capsys.readouterr().err.splitlines()
        assert len(said) == 1
        assert said[0].startswith(f"error: {path} is damaged or of another version: ")
    assert path.read_bytes() == data


def test_a_damaged_log_costs_rows_and_no_weight(tmp_path, monkeypatch, whole, capsys):
    stop(monkeypatch, tmp_path, 5)
    log = tmp_path / "losses.csv"
    lines = log.read_text().splitlines()
    log.write_bytes(("\n".join(lines[:3]) + "\n2,0,0.\x00\x00\n\x00\n3,").encode())
    capsys.readouterr()
    assert run(tmp_path, "--resume") == 0
    assert "has lost 2 of 4 rows" in capsys.readouterr().err
    assert_same_weights(whole, tmp_path)
    log.unlink()
    assert run(tmp_path, "--resume") == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_is_named_and_the_checkpoint_before_stays(tmp_path, monkeypatch, whole, capsys):
    stop(monkeypatch, tmp_path, 5)
    before = (tmp_path / "checkpoint.pt").read_bytes()
    partial, honest = tmp_path / ".checkpoint.pt.0123abcd.partial", RunFolder.save_checkpoint

    def on_a_full_disk(self, *arguments):
        partial.symlink_to("/dev/full")
        honest(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "save_checkpoint", on_a_full_disk)
        patch.setattr("secrets.token_hex", lambda size: "0123abcd")
        assert run(tmp_path, "--resume") == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said == f"error: [Errno 28] No space left on device: '{tmp_path / 'checkpoint.pt'}'"
    assert (tmp_path / "checkpoint.pt").read_bytes() == before
    assert not partial.is_symlink()
    assert run(tmp_path, "--resume") == 0
    assert_same_weights(whole, tmp_path)


def test_a_checkpoint_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    events = []
    sync, replace = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda descriptor: events.append("sync") or sync(descriptor))
    monkeypatch.setattr(Path, "replace", lambda self, target: events.append("rename") or replace(self, target))
    write_checkpoint(tmp_path / "checkpoint.pt", {"x": torch.zeros(3)})
    assert events == ["sync", "rename", "sync"]


def test_kills_at_any_moment_end_in_the_same_weights(tmp_path, whole):
    """Also before the first checkpoint; the command that goes on is always the same."""
    command = [sys.executable, "-m", "training.train", "--out", str(tmp_path), *FLAGS]
    for _ in range(3):
        resume = ["--resume"] if (tmp_path / "config.json").exists() else []
        process = subprocess.Popen([*command, *resume], cwd=ROOT, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while not (tmp_path / "losses.csv").exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert run(tmp_path, *(["--resume"] if (tmp_path / "config.json").exists() else [])) == 0
    assert_same_weights(whole, tmp_path)


def test_a_notebooks_back_end_that_is_not_here_keeps_no_picture_from_being_drawn(tmp_path):
    environment = {**os.environ, "MPLBACKEND": "module://matplotlib_inline.backend_inline"}
    missing = "import sys; sys.modules['matplotlib_inline'] = None; import importlib.metadata as m; "
    missing += "m.entry_points = lambda **group: m.EntryPoints(); "
    code = f"from matplotlib.figure import Figure; Figure().savefig({str(tmp_path / 'losses.png')!r})"
    without, within = (
        subprocess.run([sys.executable, "-c", missing + start + code], cwd=ROOT, env=environment, capture_output=True)
        for start in ("", "import training; ")
    )
    assert b"is not a valid value for backend" in without.stderr, "this matplotlib has it: the test shows nothing"
    assert within.returncode == 0, within.stderr
    assert (tmp_path / "losses.png").stat().st_size > 0


def test_a_picture_that_cannot_be_drawn_is_no_reason_to_lose_a_training(tmp_path, whole, capsys):
    (tmp_path / "losses.png").mkdir()
    (tmp_path / "scale1.png").mkdir()
    assert run(tmp_path) == 0
    said = capsys.readouterr().err
    assert f"warning: {tmp_path / 'losses.png'} was not written: IsADirectoryError" in said
    assert f"warning: {tmp_path / 'scale1.png'} was not written: IsADirectoryError" in said
    assert_same_weights(whole, tmp_path)


def test_events_that_cannot_be_written_any_more_cost_a_line_and_no_training(tmp_path, monkeypatch, whole, capsys):
    honest = RunFolder.create

    def create(self, config):
        honest(self, config)
        (events,) = self.path.glob("events.out.tfevents.*")
        events.unlink()
        events.mkdir()

    monkeypatch.setattr(RunFolder, "create", create)
    assert run(tmp_path) == 0
    said = capsys.readouterr().err
    assert said.count("was not written: IsADirectoryError") == 1
    assert "Traceback" not in said
    assert_same_weights(whole, tmp_path)
    assert (tmp_path / "losses.csv").read_bytes() == (whole / "losses.csv").read_bytes()


ROOM = """
import resource, sys
from pathlib import Path
import torch
from training.config import Config
from training.run_folder import RunFolder

def limit(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

for room in map(int, sys.argv[2:]):
    folder = RunFolder(Path(sys.argv[1]) / str(room))
    try:
        limit(room if room < 300 else resource.RLIM_INFINITY)  # with 300 there is room to begin
        folder.create(Config(task="denoise"))
        limit(room)
        for step in range(100):
            folder.log(step, 0, {"critic_distance": torch.ones(())})
    except OSError as error:
        print(error)
    folder.close()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows limits no file's size")
def test_the_file_for_which_there_is_no_room_is_named_in_one_line(tmp_path):
    """Also one that is open already, and would fail once more when it is closed."""
    files = {"0": "run.lock", "100": "config.json", "300": "losses.csv"}
    child = [sys.executable, "-c", ROOM, str(tmp_path), *files]
    done = subprocess.run(child, cwd=ROOT, capture_output=True, text=True, check=True)
    reason = f"[Errno {errno.EFBIG}] {os.strerror(errno.EFBIG)}"
    assert done.stdout.splitlines() == [f"{reason}: '{tmp_path / room / name}'" for room, name in files.items()]
    assert [line for line in done.stderr.splitlines() if not line.startswith("warning: ")] == []


def test_pictures_of_scales_say_what_they_show(whole):
    from PIL import Image

    with Image.open(whole / "scale0.png") as shown:
        strip = shown.convert("L").crop((0, 0, shown.width, 14))
        third = shown.width // 3
        for left in (0, third, 2 * third):
            assert min(strip.crop((left, 0, left + third - 4, 14)).tobytes()) < 50, "no label above this picture"


def test_curves_have_a_panel_for_each_loss_and_none_that_is_empty(tmp_path, whole):
    header = next(csv.reader((whole / "losses.csv").open()))
    assert header == ["step", "scale", "critic_distance"]  # hinge: no penalty
