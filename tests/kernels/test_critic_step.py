"""The Triton step is the reference, in every output; the reference is autograd's double backward elsewhere."""

import pytest
import torch

pytest.importorskip("triton", reason="the kernels' compiler, triton, is not installed")

from critic_cases import case, check, errors, named

from training.kernels import reference
from training.kernels.graph import CriticIteration
from training.kernels.launches import count
from training.kernels.parameters import Layout
from training.kernels.step import critic_gradients, critic_gradients_of_runs, launch_step, stack, unpack
from training.networks import Discriminator
from training.objectives import critic_loss

# channels, images, height, width, shared statistics
QUICK = [(8, 1, 11, 11, True), (16, 2, 11, 14, False), (64, 1, 11, 11, True)]
FULL = [
    (channels, images, *size, shared)
    for channels, images, size in (
        (8, 3, (11, 11)),
        (16, 1, (25, 25)),
        (32, 2, (25, 25)),
        (32, 1, (26, 39)),
        (8, 2, (26, 39)),
        (16, 1, (63, 97)),
        (64, 2, (13, 17)),
        (64, 1, (26, 39)),
        (8, 1, (17, 250)),
        (32, 3, (11, 12)),
    )
    for shared in (True, False)
]


@pytest.mark.interpreter
@pytest.mark.parametrize(
    "setting", [*QUICK, *(pytest.param(f, marks=pytest.mark.slow) for f in FULL)], ids=lambda s: "-".join(map(str, s))
)
def test_step_is_the_reference(setting):
    channels, images, *size, shared = setting
    problem = case(channels, images, size)
    check(critic_gradients(*problem, 10.0, shared), reference.critic_gradients(*problem, 10.0, shared), 1e-12)


@pytest.mark.interpreter
@pytest.mark.parametrize("arch", [80, 90])
@pytest.mark.slow
def test_step_with_the_tiles_of_a_gpu(arch):
    parameters, real, fake, mix = case(16, 1, (13, 30))
    layout, flat = Layout.of(parameters), torch.cat([p.flatten() for p in parameters])[None]
    settings = flat.new_tensor([[mix, 10.0]])
    launched = launch_step(flat, layout, stack([real]), stack([fake]), settings, True, arch=arch)
    check(unpack(launched, layout, 0), reference.critic_gradients(parameters, real, fake, mix, 10.0), 1e-12)


@pytest.mark.interpreter
@pytest.mark.parametrize(
    "images",
    [
        pytest.param("constant", id="constant images, channels of variance 0"),
        pytest.param("zero", id="zeros", marks=pytest.mark.slow),
        pytest.param("dead", id="weights of 0, no gradient at any pixel", marks=pytest.mark.slow),
    ],
)
def test_degenerate_images(images):
    parameters, real, fake, mix = case(8, 1, (11, 12))
    if images == "dead":
        parameters[0] = torch.zeros_like(parameters[0])
    else:
        real, fake = (torch.full_like(x, value) for x, value in ((real, 0.25), (fake, 0.25)))
        if images == "zero":
            real, fake = torch.zeros_like(real), torch.zeros_like(fake)
    result = critic_gradients(parameters, real, fake, mix, 10.0)
    right = reference.critic_gradients(parameters, real, fake, mix, 10.0)
    # What is 0 in exact arithmetic is rounding noise in both: the bound is on the size of what made it.
    for (name, a), b in zip(named(result).items(), named(right).values(), strict=True):
        assert torch.isfinite(a).all(), name
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-9, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.interpreter
@pytest.mark.parametrize(
    "shared", [pytest.param(True, id="shared"), pytest.param(False, marks=pytest.mark.slow, id="apart")]
)
def test_runs_in_one_batch_are_the_separate_runs_bit_for_bit(shared):
    problems = [case(8, 1, (11, 11), seed=seed) for seed in range(2)]
    together = critic_gradients_of_runs(*map(list, zip(*problems, strict=True)), 10.0, shared)
    for problem, result in zip(problems, together, strict=True):
        alone = critic_gradients(*problem, 10.0, shared)
        assert all(torch.equal(a, b) for a, b in zip(named(result).values(), named(alone).values(), strict=True))


@pytest.mark.interpreter
@pytest.mark.parametrize(("precision", "bound"), [("tf32", 0.02), ("bf16", 0.15)])
@pytest.mark.slow
def test_reduced_precision_stays_within_its_bound(precision, bound):
    """Rounded operands (2^-11 and 2^-8 each) through 5 layers, 4 passes and masks that may flip: Euclidean norm."""
    problem = case(16, 1, (13, 13), torch.float32)
    result = critic_gradients(*problem, 0.1, True, precision)
    exact = case(16, 1, (13, 13))
    right = reference.critic_gradients(*exact, 0.1)
    gradients = [torch.cat([g.double().flatten() for g in r.parameters]) for r in (result, right)]
    error = (gradients[0] - gradients[1]).norm() / gradients[1].norm()
    full = critic_gradients(*problem, 0.1)
    assert max(errors(full, right).values()) < 1e-3
    assert 1e-5 < error < bound


@pytest.mark.interpreter
@pytest.mark.parametrize(
    "shared", [pytest.param(True, id="shared"), pytest.param(False, marks=pytest.mark.slow, id="apart")]
)
def test_updates_are_those_of_autograd_and_few_launches(shared):
    """Parameters after two updates, running statistics, losses; and what an update launches."""
    critics = []
    for _ in range(2):
        torch.manual_seed(3)
        critics.append(Discriminator(8).double())
    mine, plain = critics
    settings = {"lr": 1e-3, "betas": (0.5, 0.999)}
    iteration = CriticIteration([mine], 1, (11, 11), penalty_weight=10.0, shared_norm=shared, **settings)
    optimizer = torch.optim.Adam(plain.parameters(), **settings)
    for seed in range(2):
        _, real, fake, mix = case(8, 1, (11, 11), seed=seed)
        loss = critic_loss(plain, real, fake, mix, 10.0, shared)
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()
        counts = count(lambda real=real, fake=fake, mix=mix: iteration([real], [fake], [mix]))
        torch.testing.assert_close(
            iteration.losses[0], torch.stack([loss.distance, loss.penalty]).detach(), rtol=1e-12, atol=1e-12
        )
    for name, value in plain.state_dict().items():
        # Adam divides by the gradient's size: rounding in the last bias, whose gradient is 0, moves it freely.
        if name != "last.bias":
            torch.testing.assert_close(
                mine.state_dict()[name], value, rtol=1e-9, atol=1e-10, msg=lambda text, name=name: f"{name}: {text}"
            )
    assert counts["conv3x3_kernel"] == 18
    assert sum(counts.values()) <= 50


def test_eager_step_takes_hundreds_of_launches():
    from training.kernels.launches import eager

    assert sum(eager().values()) > 400


@pytest.mark.interpreter
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p, r, f: (p[:-1], r, f), "expected the parameters of a Discriminator"),
        (lambda p, r, f: (p, r[:, :, :10], f[:, :, :10]), "at least 11"),
        (lambda p, r, f: (p, r, f[:, :, :11]), "one shape"),
        (lambda p, r, f: (p, r.float(), f), "torch.float64, got one"),
        (lambda p, r, f: ([t.half() for t in p], r.half(), f.half()), "float32 parameters, got torch.float16"),
        (lambda p, r, f: (list(Discriminator(80).double().parameters()), r, f), "at most 64 channels, got 80"),
    ],
)
def test_what_does_not_fit_is_refused(change, message):
    parameters, real, fake, mix = case(8, 1, (12, 12))
    with pytest.raises(ValueError, match=message):
        critic_gradients(*change(parameters, real, fake), mix, 10.0)


def test_runs_must_be_alike():
    first, second = case(8, 1, (11, 11)), case(16, 1, (11, 11))
    with pytest.raises(ValueError, match="run 0 has Layout"):
        critic_gradients_of_runs(*map(list, zip(first, second, strict=True)), 10.0)
    with pytest.raises(ValueError, match="as many"):
        critic_gradients_of_runs([first[0]], [first[1]] * 2, [first[2]], [0.5], 10.0)


def test_a_plain_process_says_that_the_tensors_are_in_the_wrong_place():
    import os

    if os.environ.get("TRITON_INTERPRET") == "1":
        pytest.skip("the interpreter takes tensors on the CPU")
    with pytest.raises(ValueError, match="run on CUDA tensors, got tensors on cpu"):
        critic_gradients(*case(8, 1, (11, 11)), 10.0)
