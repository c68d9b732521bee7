"""The losses inside real training frameworks: the rows of the table in docs/frameworks.md.

Each test trains with the very lines of that page. Frameworks that are packages are of the versions in
requirements.txt; the others are read from checkouts, whose parent folder TASK_LOSSES_FRAMEWORKS names.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch
from packaging.requirements import Requirement
from page import PAGE, block
from steps import Steps
from torch import nn

from task_losses import JPEGLoss

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
LINES = (HERE / "requirements.txt").read_text(encoding="utf-8").splitlines()
PINNED = [Requirement(line.partition("#")[0]) for line in LINES if "==" in line.partition("#")[0]]
VERSIONS = {pin.name: next(iter(pin.specifier)).version for pin in PINNED}
# Folder in TASK_LOSSES_FRAMEWORKS -> the commit that the table names. The workflow checks the same out.
SOURCES = {
    "BasicSR": "8d56e3a045f9fb3e1d8872f92ee4a4f07f886b0a",
    "traiNNer-redux": "686293190aca3e432a42b6155dbc94ea51c4bf9f",
    "neosr": "31c7022620c682cf0961c8634d60787179145c5b",
    "KAIR": "fc1732f4a4514e42ce15e5b3a1e18c828af47a1e",
}

Test = Callable[[Path], None]
ROWS: dict[str, tuple[str, str, Test]] = {}


def row(name: str, lines: str, what: str) -> Callable[[Test], Test]:
    """A row of the table: the lines that matter, and what the test does; its name is a pin's or a source's."""

    def add(test: Test) -> Test:
        ROWS[name] = (lines, what, test)
        return test

    return add


def need(name: str) -> None:
    """Skips without a package, and fails with another version than the table says."""
    try:
        found = metadata.version(name)
    except metadata.PackageNotFoundError:
        pytest.skip(f"{name} is not installed; pip install --no-build-isolation -r tests/frameworks/requirements.txt")
    assert found == VERSIONS[name], f"the table says {name} {VERSIONS[name]}, here is {found}: pin what you test"


def checkout(name: str, folders: list[str], to: Path) -> Path:
    """Copies folders of a checkout; skips without one, and fails at another commit than the table says."""
    parent = os.environ.get("TASK_LOSSES_FRAMEWORKS")
    if not parent or not (Path(parent) / name).is_dir():
        pytest.skip(f"TASK_LOSSES_FRAMEWORKS names no folder with a checkout of {name} at {SOURCES[name]}")
    source = Path(parent) / name
    found = subprocess.run(["git", "-C", source, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == SOURCES[name], f"the table says {name} at {SOURCES[name]}"
    for folder in folders:
        shutil.copytree(source / folder, to / folder)
    return to


def run(folder: Path, script: str, *arguments: str) -> dict[str, Any]:
    """The last line that a script prints, from a process of its own: these frameworks read sys.argv when imported."""
    path = os.pathsep.join(map(str, (folder, HERE, ROOT)))
    command = [sys.executable, str(HERE / script), *arguments]
    environment = os.environ | {"PYTHONPATH": path}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def close(found: float, expected: float) -> bool:
    return found == pytest.approx(expected, rel=1e-5)


def recipe(section: str) -> dict[str, Any]:
    """Runs the Python of a section, which must train two steps; returns its names."""
    names: dict[str, Any] = {"__name__": section}
    with Steps() as steps:
        exec(compile(block(section, "python"), section, "exec"), names)
    assert steps.count == 2
    return names


def expect_basicsr(done: dict[str, Any]) -> None:
    assert done["steps"] == 2
    assert done["saved"] == ["net_g_2.pth", "net_g_latest.pth"]
    assert close(*done["perceptual"])
    assert close(*done["pixel"])
    assert (done["style"], done["truthy"], done["state"]) == (None, True, 0)
    assert "L1Loss is registered already, by torch.nn" in done["clash"]
    assert done["pickles"] == "SRPerceptualLoss"
    kinds = ("Denoise", "JPEG", "SR", "Task")
    assert done["names"] == sorted(f"{kind}{form}Loss" for kind in kinds for form in ("", "Perceptual"))


@row(
    "BasicSR",
    "`import task_losses.integrations.basicsr` in `basicsr/losses/task_loss.py`; `type: SRPerceptualLoss`",
    "two steps of its `train_pipeline`",
)
def _(folder: Path) -> None:
    checkout("BasicSR", ["basicsr"], folder)
    # As its setup.py does.
    (folder / "basicsr" / "version.py").write_text("__version__ = '1.4.2'\n__gitsha__ = 'unknown'\n", encoding="utf-8")
    (folder / "basicsr" / "losses" / "task_loss.py").write_text(
        "import task_losses.integrations.basicsr\n", encoding="utf-8"
    )
    done = run(folder, "in_basicsr.py", "dropped")
    assert Path(done["file"]).is_relative_to(folder)
    expect_basicsr(done)


@row(
    "basicsr-fixed",
    "`import task_losses.integrations.basicsr` in your `train.py`; `type: SRPerceptualLoss`",
    "two steps of its `train_pipeline`",
)
def _(folder: Path) -> None:
    need("basicsr-fixed")
    expect_basicsr(run(folder, "in_basicsr.py", "imported"))


@row(
    "traiNNer-redux",
    "`import task_losses.integrations.trainner` in `traiNNer/losses/task_loss.py`; `type: srloss`",
    "two steps of its model, weights 0.5 and -0.5, whole and per scale",
)
def _(folder: Path) -> None:
    checkout("traiNNer-redux", ["traiNNer"], folder)
    line = block("traiNNer-redux", "python")
    (folder / "traiNNer" / "losses" / "task_loss.py").write_text(line, encoding="utf-8")
    for weight, form in (("0.5", "scales"), ("-0.5", "scales"), ("-0.5", "whole")):
        done = run(folder, "in_trainner.py", weight, form)
        assert done["steps"] == 2
        assert done["names"] == ["denoiseloss", "jpegloss", "srloss", "taskloss"]
        for logged, expected in ((found["logged"], found["expected"]) for found in done["rows"]):
            assert set(logged) >= set(expected)
            assert len(expected) == (8 if form == "scales" else 1)
            assert all(close(logged[name], expected[name]) for name in expected)
            assert close(logged["l_g_total"], logged["l_g_charbonnier"] + sum(expected.values()))


@row(
    "neosr",
    '`import task_losses.integrations.neosr` in `neosr/losses/task_loss.py`; `type = "sr_loss"`',
    "two steps of its model, on the CPU by a subclass",
)
def _(folder: Path) -> None:
    checkout("neosr", ["neosr"], folder)
    (folder / "neosr" / "losses" / "task_loss.py").write_text(block("neosr", "python"), encoding="utf-8")
    done = run(folder, "in_neosr.py")
    assert done["steps"] == 2
    assert done["truthy"] is True
    assert done["names"] == ["denoise_loss", "jpeg_loss", "sr_loss", "task_loss"]
    assert all(close(*pair) for pair in done["rows"])


@row("KAIR", "two lines in `define_loss`", "two steps of its model")
def _(folder: Path) -> None:
    checkout("KAIR", ["models", "utils"], folder)
    done = run(folder, "in_kair.py")
    assert done["steps"] == 2
    assert all(close(*pair) for pair in done["rows"])


@row("lightning", "`self.loss = JPEGLoss()`", "`Trainer.fit`; strict checkpoints with and without the loss; EMA")
def _(folder: Path) -> None:
    need("lightning")
    import lightning
    from lightning.pytorch.callbacks import EMAWeightAveraging

    names = recipe("Lightning")
    trainer, kind = names["trainer"], names["Restorer"]
    assert {f"val/scale{scale}" for scale in range(8)} <= set(trainer.callback_metrics)
    assert "train/loss" in trainer.callback_metrics
    file = folder / "with.ckpt"
    trainer.save_checkpoint(file)
    assert not [name for name in torch.load(file, weights_only=True)["state_dict"] if "loss" in name]
    kind.load_from_checkpoint(file, network=nn.Conv2d(3, 3, 3, padding=1), strict=True)

    class Older(kind):  # type: ignore[misc, valid-type]
        def __init__(self, network: nn.Module, lr: float = 1e-4) -> None:
            super().__init__(network, lr)
            self.loss = nn.L1Loss()

    Older.load_from_checkpoint(file, network=nn.Conv2d(3, 3, 3, padding=1), strict=True)

    averaged = lightning.Trainer(
        max_steps=2, accelerator="cpu", logger=False, callbacks=[EMAWeightAveraging()], default_root_dir=folder
    )
    with Steps() as steps:
        averaged.fit(kind(nn.Conv2d(3, 3, 3, padding=1)), names["images"])
    assert steps.count == 2

    class Careless(lightning.LightningModule):  # type: ignore[misc, unused-ignore]
        def __init__(self, loss: nn.Module, ignore: list[str]) -> None:
            super().__init__()
            self.save_hyperparameters(ignore=ignore)

    assert "loss" in Careless(JPEGLoss(), []).hparams
    assert "loss" not in Careless(JPEGLoss(), ["loss"]).hparams


@row(
    "torchmetrics",
    "`TaskLossMetric(SRLoss())` of `task_losses.integrations.torchmetrics`",
    "a mean over batches; test_metric.py: two steps, two processes, collections, bootstrap, plot",
)
def _(folder: Path) -> None:
    need("torchmetrics")
    names: dict[str, Any] = {}
    exec(compile(block("torchmetrics", "python"), "torchmetrics", "exec"), names)
    values = names["metrics"].compute()
    assert set(values) == {"sr", "denoise"}
    assert all(value.isfinite() and value > 0 for value in values.values())


@row("accelerate", "`loss.to(accelerator.device)`, not into `prepare()`", "two steps of bf16 mixed precision")
def _(folder: Path) -> None:
    need("accelerate")
    value = recipe("Accelerate")["value"]
    assert value.dtype == torch.float32


@row("diffusers", "`SRLoss(data_range=(-1, 1))`", "two steps of `AutoencoderKL`")
def _(folder: Path) -> None:
    need("diffusers")
    recipe("diffusers")


@row("monai", "`loss_function=DenoiseLoss()`", "two steps of `SupervisedTrainer`; `MetaTensor`")
def _(folder: Path) -> None:
    need("monai")
    recipe("MONAI")
    from monai.data import MetaTensor

    same_for(MetaTensor)


@row("deepinv", '`SupLoss(metric=DenoiseLoss(reduction="none"))`', "two steps of `Trainer`")
def _(folder: Path) -> None:
    need("deepinv")
    names = recipe("deepinv")
    (loss,) = names["trainer"].losses
    pred, target = torch.rand(2, 2, 3, 64, 64).unbind()
    assert torch.equal(loss(x=target, x_net=pred), names["DenoiseLoss"](reduction="none")(pred, target))


@row("pytorch-ignite", "`create_supervised_trainer(network, optimizer, JPEGLoss())`", "two steps")
def _(folder: Path) -> None:
    need("pytorch-ignite")
    recipe("ignite")


@row("fastai", "`loss_func=SRLoss()`", "two steps of `Learner.fit`; `TensorImage`")
def _(folder: Path) -> None:
    need("fastai")
    torch.manual_seed(0)
    before = nn.Conv2d(3, 3, 3, padding=1)
    torch.manual_seed(0)
    names: dict[str, Any] = {}
    exec(compile(block("fastai", "python"), "fastai", "exec"), names)  # its optimizers are not torch's: no Steps
    assert len(names["learner"].recorder.losses) == 2
    for old, new in zip(before.parameters(), names["network"].parameters(), strict=True):
        assert new.isfinite().all()
        assert not torch.equal(old, new.cpu())
    from fastai.torch_core import TensorImage

    same_for(TensorImage)


def same_for(kind: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """A framework's kind of tensor has the value and gradient of a plain one."""
    loss = JPEGLoss()
    pred, target = torch.rand(2, 2, 3, 64, 64).unbind()
    plain, other = pred.clone().requires_grad_(), pred.clone().requires_grad_()
    value = loss(plain, target)
    value.backward()
    found = loss(kind(other), kind(target))
    found.backward()
    assert found.detach().item() == value.item()
    assert other.grad is not None
    assert torch.equal(torch.as_tensor(other.grad), torch.as_tensor(plain.grad))


@pytest.mark.frameworks
@pytest.mark.parametrize("name", ROWS)
def test_it_trains_in(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ROWS[name][2](tmp_path)


def test_the_lines_for_several_processes_train(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the only process of a torchrun; tests/distributed has several."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torchrun = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": "0", "WORLD_SIZE": "1"}
    for name, value in torchrun.items():
        monkeypatch.setenv(name, value)
    recipe("Several processes")


def table() -> str:
    version = {**VERSIONS, **{name: f"source at {commit[:7]}" for name, commit in SOURCES.items()}}
    rows = [f"| {name} | {lines} | {version[name]}: {what} |" for name, (lines, what, _) in ROWS.items()]
    return "\n".join(["| framework | lines | tested how |", "|---|---|---|", *rows])


def test_the_page_has_this_table() -> None:
    assert table() in PAGE.read_text(encoding="utf-8"), f"docs/frameworks.md must hold:\n{table()}"
