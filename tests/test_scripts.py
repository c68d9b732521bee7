"""The scripts of examples/ and the notebook run."""

import runpy
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(name, monkeypatch, *flags):
    monkeypatch.syspath_prepend(str(EXAMPLES))  # as `python examples/NAME` does
    monkeypatch.setattr(sys, "argv", [name, *flags])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")


def test_pixels_that_follow_the_loss_come_nearer_to_the_reference(tmp_path, monkeypatch, capsys):
    run("optimise_pixels.py", monkeypatch, "--steps", "5", "--out", str(tmp_path / "pixels.png"))
    *steps, last = capsys.readouterr().out.splitlines()
    values = [float(step.split("SRLoss ")[1].split(",")[0]) for step in steps]
    assert values == sorted(values, reverse=True)
    assert len(values) == 6
    assert (tmp_path / "pixels.png").stat().st_size > 1000
    assert "pixels.png" in last


def test_the_training_in_plain_pytorch_measures_a_weight_and_trains_with_it(monkeypatch, capsys):
    run("train_pytorch.py", monkeypatch, "--steps", "3")
    first, weight, last = capsys.readouterr().out.splitlines()
    assert first.strip().startswith("L1: PSNR")
    assert float(weight.split(": ")[1]) > 0
    assert last.strip().startswith("L1 and DenoiseLoss: PSNR")


@pytest.mark.frameworks
def test_the_training_in_lightning_logs_each_scale(monkeypatch, capsys):
    pytest.importorskip("lightning", reason="lightning is not installed")
    run("train_lightning.py", monkeypatch, "--steps", "2")
    names = {line.split(":")[0] for line in capsys.readouterr().out.splitlines() if ": " in line}
    assert {"train/loss", "val/psnr", "val/scale0", "val/scale7"} <= names


def test_each_script_is_named_with_its_command():
    text = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    for path in [*EXAMPLES.glob("*.py"), *EXAMPLES.glob("*.ipynb")]:
        assert f"]({path.name})" in text


def test_the_notebook_is_kept_without_outputs():
    nbformat = pytest.importorskip("nbformat", reason="the extra docs-test has it")
    for path in EXAMPLES.glob("*.ipynb"):
        cells = nbformat.read(path, as_version=4).cells
        assert all(not cell.outputs and cell.execution_count is None for cell in cells if cell.cell_type == "code")


@pytest.mark.notebook
@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.ipynb")), ids=lambda path: path.name)
def test_the_notebook_runs_from_top_to_bottom(path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(EXAMPLES.parent))  # this checkout, for the kernel too
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")  # on a busy machine threads that spin would take hours
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    notebook = nbformat.read(path, as_version=4)
    nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(EXAMPLES)}}).execute()
    assert all(cell.execution_count for cell in notebook.cells if cell.cell_type == "code")
