"""The Triton step is the reference, in every output; the reference is autograd's double backward elsewhere."""

import pytest
import torch

pytest.importorskip("triton", reason="the kernels' compiler, triton, is not installed")

from critic_cases import case, check, named

from training.bench.cost.launches import count, eager, generator
from training.kernels import reference
from training.kernels.triton.graph import CriticIteration
from training.kernels.triton.optional import interpreted
from training.kernels.triton.parameters import Layout
from training.kernels.triton.step import critic_gradients, critic_gradients_of_runs, launch_step, stack, unpack
from training.networks import Discriminator
from training.objectives import critic_loss

pytestmark = pytest.mark.usefixtures("without_overflow_checks")

# channels, images, height, width, shared statistics; small steps are in the other tests
CASES = [
    (channels, images, *size, shared)
    for channels, images, size in (
        (8, 3, (11, 11)),
        (16, 1, (25, 25)),
        (32, 2, (25, 25)),
        (32, 1, (26, 39)),
        (8, 2, (26, 39)),
        (16, 1, (63, 97)),
        (64, 1, (11, 11)),
        (64, 2, (13, 17)),
        (64, 1, (26, 39)),
        (8, 1, (17, 250)),
        (32, 3, (11, 12)),
    )
    for shared in (True, False)
]
QUICK = (24, 1, 11, 13, True)  # SRLoss's width: no power of 2, so that channels are masked
SHARED = pytest.mark.parametrize(
    "shared", [pytest.param(True, id="shared"), pytest.param(False, marks=pytest.mark.slow, id="apart")]
)


@pytest.mark.interpreter
@pytest.mark.parametrize(
    "setting",
    [
        pytest.param(each, marks=() if each is QUICK else pytest.mark.slow, id="-".join(map(str, each)))
        for each in (QUICK, *CASES)
    ],
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


DEGENERATE = pytest.mark.parametrize("kind", ["constant", "zero", "dead"])


def degenerate(kind, dtype=torch.float64):
    """Images without contrast and channels of variance 0; images of zeros; no gradient at any pixel."""
    parameters, real, fake, mix = case(8, 1, (11, 12), dtype)
    if kind == "constant":
        real, fake = torch.full_like(real, 0.25), torch.full_like(fake, 0.75)
        for convolution in parameters[:12:3]:
            convolution[:3] = 0
    elif kind == "zero":
        real, fake = torch.zeros_like(real), torch.zeros_like(fake)
    else:
        parameters[0] = torch.zeros_like(parameters[0])
    return parameters, real, fake, mix


@pytest.mark.interpreter
@DEGENERATE
def test_degenerate_maps(kind):
    parameters, real, fake, mix = degenerate(kind)
    result = critic_gradients(parameters, real, fake, mix, 10.0)
    right = reference.critic_gradients(parameters, real, fake, mix, 10.0)
    # What should be 0 is noise in both; its measure is the largest gradient. Maps without any contrast divide it by
    # sqrt(eps), block after block.
    check(result, right, 1e-10 if kind == "zero" else 1e-12, floor=max(g.abs().max().item() for g in right.parameters))


def same_bits(result, other):
    return all(torch.equal(a, b) for a, b in zip(named(result).values(), named(other).values(), strict=True))


@pytest.mark.interpreter
@SHARED
def test_runs_in_one_batch_are_the_separate_runs_bit_for_bit(shared):
    problems = [case(8, 1, (11, 11), seed=seed) for seed in range(2)]
    together = critic_gradients_of_runs(*map(list, zip(*problems, strict=True)), 10.0, shared)
    check(together[0], reference.critic_gradients(*problems[0], 10.0, shared), 1e-12)
    assert same_bits(together[1], critic_gradients(*problems[1], 10.0, shared))


@pytest.mark.interpreter
@pytest.mark.parametrize(
    ("precision", "least", "most"), [("ieee", 1e-9, 1e-4), ("tf32", 1e-5, 0.005), ("bf16", 1e-4, 0.03)]
)
def test_rounding_stays_within_its_bound(precision, least, most):
    """Emulated: operands of 24, 11 and 8 bits through 5 layers, 4 passes and masks that may flip. Euclidean norm."""
    result = critic_gradients(*case(8, 1, (11, 13), torch.float32), 0.1, True, precision)
    right = reference.critic_gradients(*case(8, 1, (11, 13)), 0.1)
    mine, theirs = (torch.cat([g.double().flatten() for g in r.parameters]) for r in (result, right))
    error = (mine - theirs).norm() / theirs.norm()
    assert least < error < most, f"{error:.1e}"


@pytest.mark.interpreter
@SHARED
def test_updates_are_those_of_autograd_and_few_launches(shared):
    """Parameters after two updates, running statistics, losses; and what an update launches."""
    counts = train_beside_autograd(2, shared, 1e-12)
    assert counts["conv3x3_kernel"] == 18
    assert sum(counts.values()) <= 50


@pytest.mark.interpreter
@pytest.mark.slow
@pytest.mark.parametrize("shared", [True, False], ids=["shared", "apart"])
def test_twenty_updates_are_those_of_autograd(shared):
    train_beside_autograd(20, shared, 1e-9)


def train_beside_autograd(updates, shared, bound):
    """Two equal critics, one by the kernels and one by autograd, stay equal; the counts of the last update's launches.

    Args:
        bound: of the losses' error.
    """
    critics = []
    for _ in range(2):
        torch.manual_seed(3)
        critics.append(Discriminator(8).double())
    mine, plain = critics
    fused, optimizer = (
        torch.optim.Adam(critic.parameters(), lr=1e-3, betas=(0.5, 0.999), fused=critic is mine) for critic in critics
    )
    iteration = CriticIteration([mine], [fused], 1, (11, 11), penalty_weight=10.0, shared_norm=shared)
    for seed in range(updates):
        _, real, fake, mix = case(8, 1, (11, 11), seed=seed)
        loss = critic_loss(plain, real, fake, mix, 10.0, shared)
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()
        counts = count(lambda real=real, fake=fake, mix=mix: iteration([real], [fake], [mix]))
        torch.testing.assert_close(
            iteration.losses[0], torch.stack([loss.distance, loss.penalty]).detach(), rtol=bound, atol=bound
        )
    for name, value in plain.state_dict().items():
        # Adam divides by the gradient's size: rounding in the last bias, whose gradient is 0, moves it freely.
        if name != "last.bias":
            torch.testing.assert_close(
                mine.state_dict()[name], value, rtol=1e-9, atol=1e-10, msg=lambda text, name=name: f"{name}: {text}"
            )
    return counts


def test_eager_step_takes_hundreds_of_launches():
    assert sum(eager().values()) > 400


@pytest.mark.interpreter
def test_fused_norms_would_not_make_a_generators_update_shorter():
    """What docs/kernels.md rests on where it says why training does not fuse them."""
    assert sum(generator(fused_norm=True).values()) > sum(generator().values())


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
    if interpreted():
        pytest.skip("the interpreter takes tensors on the CPU")
    with pytest.raises(ValueError, match="run on CUDA tensors, got tensors on cpu"):
        critic_gradients(*case(8, 1, (11, 11)), 10.0)


# About three times what plain torch shows on a CPU with operands rounded alike, the worst of eight draws of each size.
# Separate statistics divide by the deviation of a single image: rounding weighs up to ten times as much there.
_BOUNDS = {"shared": {"ieee": 1e-3, "tf32": 0.01, "bf16": 0.2}, "apart": {"ieee": 5e-3, "tf32": 0.08, "bf16": 0.4}}


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["ieee", "tf32", "bf16"])
@pytest.mark.parametrize(("channels", "images", "size"), [(8, 3, (11, 11)), (32, 1, (63, 97)), (64, 2, (17, 250))])
@pytest.mark.parametrize("shared", [True, False], ids=["shared", "apart"])
def test_step_on_a_device(channels, images, size, precision, shared):
    """Euclidean norm over all gradients: where rounding moves an activation across the kink, single numbers jump."""
    device = need_cuda()
    problem, exact = (case(channels, images, size, dtype) for dtype in (torch.float32, torch.float64))
    inputs = *on(device, *problem), 0.1, shared, precision
    result, right = critic_gradients(*inputs), reference.critic_gradients(*exact, 0.1, shared)
    gradients = [torch.cat([g.double().cpu().flatten() for g in r.parameters]) for r in (result, right)]
    bound = _BOUNDS["shared" if shared else "apart"][precision]
    assert (gradients[0] - gradients[1]).norm() / gradients[1].norm() < bound
    assert same_bits(result, critic_gradients(*inputs))


@pytest.mark.gpu
@pytest.mark.parametrize("shared", [True, False], ids=["shared", "apart"])
@pytest.mark.parametrize(("channels", "images", "size"), [(24, 2, (25, 34)), (32, 1, (63, 97))])
def test_runs_in_one_batch_on_a_device_are_the_separate_runs_bit_for_bit(channels, images, size, shared):
    problems = [on(need_cuda(), *case(channels, images, size, torch.float32, seed)) for seed in range(3)]
    together = critic_gradients_of_runs(*map(list, zip(*problems, strict=True)), 0.1, shared)
    for result, problem in zip(together, problems, strict=True):
        assert same_bits(result, critic_gradients(*problem, 0.1, shared))


@pytest.mark.gpu
@DEGENERATE
def test_degenerate_maps_on_a_device_give_finite_numbers(kind):
    """Which ones is rounding's choice where a map without contrast is divided by sqrt(eps), block after block."""
    result = critic_gradients(*on(need_cuda(), *degenerate(kind, torch.float32)), 10.0)
    assert all(value.isfinite().all() for value in named(result).values())
    if kind == "dead":
        assert result.penalty.item() == 1


def on(device, parameters, real, fake, mix):
    return [p.to(device) for p in parameters], real.to(device), fake.to(device), mix


def need_cuda():
    if not torch.cuda.is_available():
        pytest.skip("torch finds no CUDA device")
    return torch.device("cuda")
