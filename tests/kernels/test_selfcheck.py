"""The check of the Triton update on the user's machine finds what is wrong there, and only that."""

import json
from dataclasses import replace
from functools import partial

import pytest
import torch
import torch.nn.functional as F

from training.kernels import reference
from training.kernels.triton import selfcheck
from training.kernels.triton.selfcheck import by_reference
from training.objectives import Objective, spectrally_normalised
from training.updates import choose

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
SMALL = selfcheck._CASES[:1]
WGAN_GP, SPECTRAL = Objective("wgan-gp"), Objective("hinge", spectral_norm=True)
OBJECTIVES = pytest.mark.parametrize(
    "objective",
    [replace(each, shared_norm=shared) for each in (WGAN_GP, SPECTRAL) for shared in (True, False)],
    ids=["wgan-gp", "wgan-gp-apart", "spectral", "spectral-apart"],
)


def changed(change):
    """The right update with something done to what it computed."""
    return partial(by_reference, gradients=lambda *arguments: change(reference.critic_gradients(*arguments)))


def scaled_gradient(index, factor):
    def change(result):
        parameters = [p * factor if i == index else p for i, p in enumerate(result.parameters)]
        return result._replace(parameters=parameters)

    return changed(change)


def followed_by(change):
    """The right update, and then something with what it left."""

    def update(critic, optimizer, *arguments):
        losses = by_reference(critic, optimizer, *arguments)
        change(critic, optimizer)
        return losses

    return update


def without_spectral_norm(*arguments):
    *rest, objective = arguments
    return by_reference(*rest, replace(objective, spectral_norm=False))


@torch.no_grad()
def gradient_beside_the_norm(parameters, real, fake, mix, objective):
    """As if the norms were constants."""
    acting = list(spectrally_normalised(dict(enumerate(parameters))).values())
    result = reference.critic_gradients(acting, real, fake, mix, replace(objective, spectral_norm=False))
    return result._replace(
        parameters=[g * (a / p).mean() for g, a, p in zip(result.parameters, acting, parameters, strict=True)]
    )


@OBJECTIVES
def test_a_right_update_passes(objective):
    assert selfcheck.disagreement(by_reference, CPU, 16, objective, SMALL) is None


@pytest.mark.parametrize("objective", [WGAN_GP, SPECTRAL], ids=["wgan-gp", "spectral"])
@pytest.mark.parametrize(
    ("update", "reason"),
    [
        (scaled_gradient(4, 1.001), "the gradient of parameter 4 differs"),
        (scaled_gradient(12, float("nan")), "the gradient of parameter 12 differs"),
        (changed(lambda r: r._replace(penalty=r.penalty * 1.001 + 0.001)), "the penalty differs"),
        (changed(lambda r: r._replace(distance=r.distance * 1.001)), "the distance differs"),
        (changed(lambda r: r._replace(statistics=[(m, v * 1.01) for m, v in r.statistics])), "running_var of block"),
        (followed_by(lambda critic, _: critic.blocks[2].norm.num_batches_tracked.add_(1)), "tracked of block 2"),
        (followed_by(lambda _, optimizer: optimizer.step()), "what Adam made of the parameters differs"),
    ],
)
def test_a_wrong_update_is_told(update, reason, objective):
    assert reason in (selfcheck.disagreement(update, CPU, 16, objective, SMALL) or "")


@pytest.mark.parametrize(
    "update",
    [
        without_spectral_norm,
        partial(by_reference, gradients=gradient_beside_the_norm),
        scaled_gradient(13, 1.001),  # the last bias's, which the hinge loss alone has
    ],
)
def test_what_is_wrong_with_a_hinge_step_alone_is_told(update):
    assert "differs from the reference" in (selfcheck.disagreement(update, CPU, 16, SPECTRAL, SMALL) or "")


def test_an_update_that_fails_is_told():
    def update(*arguments):
        raise RuntimeError("Failed to find C compiler")

    assert "do not run here: RuntimeError: Failed to find C compiler" in (
        selfcheck.disagreement(update, CPU, 16, WGAN_GP, SMALL) or ""
    )


@pytest.mark.parametrize("objective", [WGAN_GP, SPECTRAL], ids=["wgan-gp", "spectral"])
@pytest.mark.parametrize("width", [8, 24, 64])
def test_every_width_has_a_problem_that_a_right_update_passes(width, objective):
    assert selfcheck.disagreement(by_reference, CPU, width, objective, SMALL) is None


@OBJECTIVES
@pytest.mark.parametrize("width", [4, 24, 32, 64])
def test_rounding_moves_nothing_of_the_small_problem_across_a_kink(objective, width):
    (parameters, real, fake), nearest = selfcheck.problem(SMALL[0][0], width, objective), []
    if objective.spectral_norm:
        parameters = list(spectrally_normalised(dict(enumerate(parameters))).values())
    kinds, active = [real, fake, 0.4 * real + 0.6 * fake][: objective.kinds], []
    for x in [torch.cat(kinds)] if objective.shared_norm else kinds:
        for layer in range(4):
            weight, scale, shift = parameters[3 * layer : 3 * layer + 3]
            u = F.batch_norm(F.conv2d(x, weight), None, None, scale, shift, True)
            nearest.append(u.abs().min().item())
            x = F.leaky_relu(u, 0.2)
        if objective.kind == "hinge":
            scores = F.conv2d(x, *parameters[-2:])
            nearest.append((scores.abs() - 1).abs().min().item())
            active.append((scores.abs() < 1).double().mean().item())
    assert min(nearest) > 2e-5
    assert all(0 < share < 1 for share in active)  # the loss has both patches that count and such that do not


def test_without_a_cuda_device_it_says_so():
    assert selfcheck.check(CPU, (32,), WGAN_GP)


@pytest.fixture
def a_device(monkeypatch, tmp_path):
    """A machine with CUDA, as far as the check asks before it runs kernels, and the widths that it runs them for."""
    pytest.importorskip("triton", reason="the kernels' compiler, triton, is not installed")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a device")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    checked = []
    monkeypatch.setattr(
        selfcheck, "disagreement", lambda update, device, width, objective: checked.append((width, objective.kind))
    )
    return checked


def test_each_device_version_width_and_objective_is_checked_once(a_device, monkeypatch):
    for weight in (0.1, 10.0):
        assert selfcheck.check(CUDA, (32, 24, 32), Objective("wgan-gp", weight)) is None
    assert a_device == [(24, "wgan-gp"), (32, "wgan-gp")]
    a_device.clear()
    assert selfcheck.check(CUDA, (16, 32), WGAN_GP) is None
    assert a_device == [(16, "wgan-gp")]
    for change in (
        lambda: monkeypatch.setattr(torch, "__version__", "9.9.9"),
        lambda: monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "another"),
        lambda: monkeypatch.setattr("triton.__version__", "9.9.9"),
    ):
        a_device.clear()
        change()
        for _ in range(2):
            assert selfcheck.check(CUDA, (32,), WGAN_GP) is None
        assert a_device == [(32, "wgan-gp")]
    others = [SPECTRAL, replace(SPECTRAL, shared_norm=False), Objective("hinge"), replace(WGAN_GP, shared_norm=False)]
    for objective in others:
        a_device.clear()
        for _ in range(2):
            assert selfcheck.check(CUDA, (32,), objective) is None
        assert a_device == [(32, objective.kind)]


def test_a_failure_is_not_remembered(a_device, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(selfcheck, "disagreement", lambda *arguments: "the kernels are wrong here")
        assert selfcheck.check(CUDA, (32,), SPECTRAL) == "the kernels are wrong here"
    assert selfcheck.check(CUDA, (32,), SPECTRAL) is None
    assert a_device == [(32, "hinge")]


@pytest.mark.usefixtures("a_device")
@pytest.mark.parametrize("objective", [WGAN_GP, SPECTRAL], ids=["wgan-gp", "spectral"])
def test_wrong_kernels_and_critics_too_wide_for_them_leave_the_reference(monkeypatch, objective):
    assert choose("triton", CUDA, (64,), objective)[1].startswith("triton: checked")
    reason = "the kernels take at most 64 channels, the critic has 128"
    assert choose("auto", CUDA, (32, 128), objective)[1] == f"reference: no triton kernels here: {reason}"
    with pytest.raises(ValueError, match=f"--kernels triton cannot run here: {reason}"):
        choose("triton", CUDA, (32, 128), objective)
    monkeypatch.setattr(selfcheck, "disagreement", lambda *arguments: "the kernels are wrong here")
    assert choose("auto", CUDA, (32,), objective)[1] == "reference: no triton kernels here: the kernels are wrong here"
    with pytest.raises(ValueError, match="--kernels triton cannot run here: the kernels are wrong here"):
        choose("triton", CUDA, (32,), objective)


@pytest.mark.usefixtures("a_device")
def test_an_old_device_is_none(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert "7.5 has no tiles here" in str(selfcheck.check(CUDA, (32,), WGAN_GP))


def test_passes_are_remembered_and_a_damaged_cache_is_empty(tmp_path):
    path = tmp_path / "folder" / "passed.json"
    assert selfcheck._read(path) == []
    selfcheck._remember(path, ["one"])
    selfcheck._remember(path, [*selfcheck._read(path), "two"])
    assert selfcheck._read(path) == ["one", "two"]
    for text in ("{", json.dumps({"one": 1}), json.dumps([1, "one"])):
        path.write_text(text)
        assert "two" not in selfcheck._read(path)


@pytest.mark.gpu
@OBJECTIVES
def test_this_device_passes(objective):
    if not torch.cuda.is_available():
        pytest.skip("torch finds no CUDA device")
    assert selfcheck.check(CUDA, (24, 32, 64), objective) is None
