"""Which back end computes the critic's step."""

import sys

import pytest
import torch

from training import train
from training.config import KERNELS, Config
from training.objectives import Objective
from training.updates import choose, updates_of

CPU = torch.device("cpu")


@pytest.mark.parametrize("name", ["reference", "autograd"])
def test_what_was_asked_for_is_used(name):
    assert choose(name, CPU, (8,), Objective())[1].split(":")[0] == name


def test_triton_without_a_gpu_is_an_error_that_says_what_is_missing():
    with pytest.raises(ValueError, match=r"triton cannot run here: .* need a CUDA device.*--kernels auto"):
        choose("triton", CPU, (32,), Objective())


TINY = ["--task", "denoise", "--scales", "1", "--longest-side", "17", "--channels", "4", "--steps", "1"]


def test_a_training_says_which_and_why_in_one_line(tmp_path, capsys):
    assert train.main([*TINY, "--device", "cpu", "--out", str(tmp_path / "run")]) == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("kernels: ")]
    assert lines == ["kernels: reference: no native kernels here: " + lines[0].partition("here: ")[2]]
    assert "multiples of 8 channels" in lines[0]


def test_a_training_that_cannot_have_its_kernels_ends_before_it_begins(tmp_path, capsys):
    assert train.main([*TINY, "--device", "cpu", "--kernels", "triton", "--out", str(tmp_path / "run")]) == 2
    assert "error: --kernels triton cannot run here: " in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_without_triton_a_cuda_training_uses_the_reference(monkeypatch):
    monkeypatch.setitem(sys.modules, "training.kernels.triton.selfcheck", None)  # makes its import fail
    _, line = choose("auto", torch.device("cuda"), (32,), Objective())
    assert line.startswith("reference: no triton kernels here: ")
    assert "pip install triton" in line
    with pytest.raises(ValueError, match="pip install triton"):
        choose("triton", torch.device("cuda"), (32,), Objective())


def test_compiled_operations_are_for_the_cpu():
    with pytest.raises(ValueError, match="for the CPU, the training is on cuda"):
        choose("native", torch.device("cuda"), (32,), Objective())


def test_each_objective_has_each_back_end():
    for objective in ("wgan-gp", "hinge"):
        for name in ("native", "reference", "autograd"):
            update, line = updates_of(Config(objective=objective, kernels=name), CPU)
            assert line.startswith(name)
            assert callable(update)


def test_settings_of_another_objective_are_refused():
    with pytest.raises(ValueError, match="leave out --spectral-norm, or use --objective hinge"):
        Config(spectral_norm=True)
    with pytest.raises(ValueError, match="objective must be wgan-gp or hinge, got 'least-squares'"):
        Config(objective="least-squares")


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match=f"one of {', '.join(KERNELS)}, got 'fast'"):
        Config(kernels="fast")
