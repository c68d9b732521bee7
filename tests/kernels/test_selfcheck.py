"""The check of the Triton update on the user's machine finds what is wrong there, and only that."""

import json

import pytest
import torch
import torch.nn.functional as F

from training.kernels import explicit_update, reference, selfcheck

CPU = torch.device("cpu")
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
    assert selfcheck.disagreement(explicit_update(reference.critic_gradients_of_runs), CPU, SMALL) is None


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
    assert reason in (selfcheck.disagreement(update, CPU, SMALL) or "")


def test_an_update_that_fails_is_told():
    def update(requests):
        raise RuntimeError("Failed to find C compiler")

    assert "do not run here: RuntimeError: Failed to find C compiler" in (
        selfcheck.disagreement(update, CPU, SMALL) or ""
    )


@pytest.mark.parametrize("shared", [True, False])
def test_rounding_moves_no_activation_of_the_small_problem_across_the_kink(shared):
    (parameters, real, fake), nearest = selfcheck.problem(SMALL[0][0]), []
    between = 0.4 * real + 0.6 * fake
    for x in [torch.cat([real, fake, between])] if shared else [real, fake, between]:
        for layer in range(4):
            weight, scale, shift = parameters[3 * layer : 3 * layer + 3]
            u = F.batch_norm(F.conv2d(x, weight), None, None, scale, shift, True)
            nearest.append(u.abs().min().item())
            x = F.leaky_relu(u, 0.2)
    assert min(nearest) > 2e-5


def test_without_a_cuda_device_it_says_so():
    assert selfcheck.check(CPU)


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
    assert selfcheck.check(torch.device("cuda")) is None
