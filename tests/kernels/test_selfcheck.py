"""The check of the Triton update on the user's machine finds what is wrong there, and only that."""

import json

import pytest
import torch
import torch.nn.functional as F

from training.kernels import reference
from training.kernels.triton import selfcheck
from training.updates import choose, explicit_update

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
SMALL = selfcheck._CASES[:2]


def changed(change):
    """The reference with something done to its result."""
    return explicit_update(lambda *arguments: [change(r) for r in reference.critic_gradients_of_runs(*arguments)])


def scaled_gradient(index, factor):
    def change(result):
        parameters = [p * factor if i == index else p for i, p in enumerate(result.parameters)]
        return result._replace(parameters=parameters)

    return changed(change)


def followed_by(change):
    """The right update, and then something with what it left."""

    def update(requests):
        results = explicit_update(reference.critic_gradients_of_runs)(requests)
        for request in requests:
            change(request)
        return results

    return update


def test_a_right_update_passes():
    assert selfcheck.disagreement(explicit_update(reference.critic_gradients_of_runs), CPU, 16, SMALL) is None


@pytest.mark.parametrize(
    ("update", "reason"),
    [
        (scaled_gradient(4, 1.001), "the gradient of parameter 4 differs"),
        (scaled_gradient(12, float("nan")), "the gradient of parameter 12 differs"),
        (changed(lambda r: r._replace(penalty=r.penalty * 1.001)), "the penalty differs"),
        (changed(lambda r: r._replace(statistics=[(m, v * 1.01) for m, v in r.statistics])), "running_var of block"),
        (followed_by(lambda r: r.critic.blocks[2].norm.num_batches_tracked.add_(1)), "tracked of block 2 differs"),
        (followed_by(lambda r: r.optimizer.step()), "what Adam made of the parameters differs"),
    ],
)
def test_a_wrong_update_is_told(update, reason):
    assert reason in (selfcheck.disagreement(update, CPU, 16, SMALL) or "")


def test_an_update_that_fails_is_told():
    def update(requests):
        raise RuntimeError("Failed to find C compiler")

    assert "do not run here: RuntimeError: Failed to find C compiler" in (
        selfcheck.disagreement(update, CPU, 16, SMALL) or ""
    )


@pytest.mark.parametrize("width", [8, 24, 64])
def test_every_width_has_a_problem_that_a_right_update_passes(width):
    assert selfcheck.disagreement(explicit_update(reference.critic_gradients_of_runs), CPU, width, SMALL) is None


@pytest.mark.parametrize("width", [4, 24, 32, 64])
@pytest.mark.parametrize("shared", [True, False])
def test_rounding_moves_no_activation_of_the_small_problem_across_the_kink(shared, width):
    (parameters, real, fake), nearest = selfcheck.problem(SMALL[0][0], shared, width), []
    between = 0.4 * real + 0.6 * fake
    for x in [torch.cat([real, fake, between])] if shared else [real, fake, between]:
        for layer in range(4):
            weight, scale, shift = parameters[3 * layer : 3 * layer + 3]
            u = F.batch_norm(F.conv2d(x, weight), None, None, scale, shift, True)
            nearest.append(u.abs().min().item())
            x = F.leaky_relu(u, 0.2)
    assert min(nearest) > 2e-5


def test_without_a_cuda_device_it_says_so():
    assert selfcheck.check(CPU, (32,))


@pytest.fixture
def a_device(monkeypatch, tmp_path):
    """A machine with CUDA, as far as the check asks before it runs kernels, and the widths that it runs them for."""
    pytest.importorskip("triton", reason="the kernels' compiler, triton, is not installed")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a device")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    checked = []
    monkeypatch.setattr(selfcheck, "disagreement", lambda update, device, width: checked.append(width))
    return checked


def test_each_device_version_and_width_is_checked_once(a_device, monkeypatch):
    for _ in range(2):
        assert selfcheck.check(CUDA, (32, 24, 32)) is None
    assert a_device == [24, 32]
    assert selfcheck.check(CUDA, (16, 32)) is None
    assert a_device == [24, 32, 16]
    for change in (
        lambda: monkeypatch.setattr(torch, "__version__", "9.9.9"),
        lambda: monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "another"),
        lambda: monkeypatch.setattr("triton.__version__", "9.9.9"),
    ):
        a_device.clear()
        change()
        for _ in range(2):
            assert selfcheck.check(CUDA, (32,)) is None
        assert a_device == [32]


def test_a_failure_is_not_remembered(a_device, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(selfcheck, "disagreement", lambda *arguments: "the kernels are wrong here")
        assert selfcheck.check(CUDA, (32,)) == "the kernels are wrong here"
    assert selfcheck.check(CUDA, (32,)) is None
    assert a_device == [32]


@pytest.mark.usefixtures("a_device")
def test_wrong_kernels_and_critics_too_wide_for_them_leave_the_reference(monkeypatch):
    assert choose("triton", CUDA, (64,))[1].startswith("triton: checked")
    reason = "the kernels take at most 64 channels, the critic has 128"
    assert choose("auto", CUDA, (32, 128))[1] == f"reference: no triton kernels here: {reason}"
    with pytest.raises(ValueError, match=f"--kernels triton cannot run here: {reason}"):
        choose("triton", CUDA, (32, 128))
    monkeypatch.setattr(selfcheck, "disagreement", lambda *arguments: "the kernels are wrong here")
    assert choose("auto", CUDA, (32,))[1] == "reference: no triton kernels here: the kernels are wrong here"
    with pytest.raises(ValueError, match="--kernels triton cannot run here: the kernels are wrong here"):
        choose("triton", CUDA, (32,))


@pytest.mark.usefixtures("a_device")
def test_an_old_device_is_none(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert "7.5 has no tiles here" in str(selfcheck.check(CUDA, (32,)))


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
def test_this_device_passes():
    if not torch.cuda.is_available():
        pytest.skip("torch finds no CUDA device")
    assert selfcheck.check(CUDA, (24, 32, 64)) is None
