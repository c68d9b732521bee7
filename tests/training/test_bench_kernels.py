"""What can be checked of the ways to update a critic, and of the roofline, without a GPU."""

import pytest
import torch

from training.bench.cost import kernels, launches, roofline
from training.kernels.triton.optional import TRITON_INSTALLED
from training.networks import Discriminator
from training.objectives import critic_loss


def problem():
    torch.manual_seed(0)
    critic = Discriminator(8).double()
    real, fake = torch.rand(2, 1, 3, 14, 17, dtype=torch.float64)
    return critic, real, fake


def test_the_functional_form_has_the_gradients_of_training():
    critic, real, fake = problem()
    parameters = list(critic.parameters())
    total = critic_loss(critic, real, fake, kernels.MIX, kernels.PENALTY_WEIGHT).total
    expected = torch.autograd.grad(total, parameters)
    results = kernels.functional_gradients([p.detach() for p in parameters], real, fake)
    torch.testing.assert_close(results, expected, rtol=1e-10, atol=1e-12)


def test_updates_by_either_form_agree():
    critic, real, fake = problem()
    other = problem()[0]
    plain = kernels.autograd_update(critic, real, fake)
    compiled = kernels.compiled_update(other, real, fake, backend="eager")
    for _ in range(2):
        plain(), compiled()
    # The last bias has the gradient 0 but for rounding, of which Adam makes full steps.
    for a, b in zip(list(critic.parameters())[:-1], list(other.parameters())[:-1], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10)


def test_more_sizes_than_dynamo_keeps_variants_of_are_compiled():
    with torch._dynamo.config.patch(recompile_limit=1):
        for side in (11, 12, 13):
            kernels.ways(8, (side, side), torch.device("cpu"))["torch.compile"]().update()


def test_every_way_of_a_cpu_updates_its_critic():
    made = kernels.ways(8, (13, 17), torch.device("cpu"))
    assert list(made) == ["autograd", "hinge, autograd", "torch.compile"]
    for make in made.values():
        way = make()
        assert way.held is None
        way.update()


def convolution_flop(channels, height, width):
    """Of the critic's forward pass on one image: two operations for each of 9 taps, by input and output channel."""
    depths = zip([3, *[channels] * 4], [*[channels] * 4, 1], range(1, 6), strict=True)
    return sum(2 * 9 * i * o * (height - 2 * d) * (width - 2 * d) for i, o, d in depths)


def test_arithmetic_is_that_of_the_passes():
    """Forward, input gradient, tangent and adjoint of three images, and two weight gradients: 18 forwards of one.

    The adjoint pass of the losses does not reach the input, so it saves the first layer.
    """
    work = roofline.eager_work(16, (20, 30))
    assert 15 < work.flop / convolution_flop(16, 20, 30) < 18


def test_bytes_grow_with_the_pixels_and_launches_do_not():
    small, large = roofline.eager_work(8, (40, 40)), roofline.eager_work(8, (80, 80))
    assert small.launches == large.launches
    assert 3.5 < large.bytes / small.bytes < 5


def test_launches_are_those_that_are_counted_when_an_update_runs():
    """On the CPU, where Adam's counts of steps are one operation more: on a device they stay on the host."""
    assert roofline.eager_work(8, (14, 17)).launches == sum(launches.eager().values()) - 1
    assert roofline.generator_work(8, (14, 17)).launches == sum(launches.generator().values()) - 1


def test_the_kernels_launch_and_move_less():
    pytest.importorskip("triton", reason="the kernels' compiler, triton, is not installed")
    eager, fused = roofline.eager_work(32, (120, 160)), roofline.fused_work(32, (120, 160), "tf32")
    assert fused.launches <= 50 < 400 < eager.launches
    assert fused.bytes < eager.bytes / 3
    assert fused.flop == pytest.approx(eager.flop, rel=0.1)
    assert roofline.fused_work(32, (120, 160), "bf16").bytes < 0.8 * fused.bytes


def test_the_roof_is_the_slowest_of_three():
    device = roofline.Device("slow", 100.0, {"fp32": 10.0})
    assert roofline.Work(1, 1000, 10).seconds(device, "fp32", 1e-6) == (10.0, "memory")
    assert roofline.Work(1, 10, 1000).seconds(device, "fp32", 1e-6) == (100.0, "arithmetic")
    assert roofline.Work(3, 10, 1).seconds(device, "fp32", 1.0) == (3.0, "launches")


def test_prints_estimates_and_says_so(capsys):
    assert roofline.main(["--sizes", "20x30", "--channels", "8", "--generator"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("Estimates, no measurements")
    assert "| 20x30 | autograd |" in printed
    assert "| 20x30 | generator, autograd |" in printed
    if TRITON_INSTALLED:
        assert all(f"| 20x30 | kernels in a CUDA graph, {name} |" in printed for name in roofline.PRECISIONS)


def test_refuses_sizes_that_are_none(capsys):
    assert roofline.main(["--sizes", "250"]) == 2
    assert "--sizes 250: expected HxW, each 11 or more" in capsys.readouterr().err
