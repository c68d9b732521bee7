"""What can be checked of counts, roofline and the ways to update a critic without a GPU."""

import json
from collections import Counter
from pathlib import Path

import pytest
import torch

from task_losses.losses import LOSSES, JPEGLoss
from training.bench.cost import counts, kernels, large, loss_launches, roofline
from training.kernels.triton.optional import TRITON_INSTALLED
from training.networks import Discriminator
from training.objectives import critic_loss
from training.updates import Request, autograd_update


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


def test_limits_of_large_images_follow_the_pixels():
    found = {512: 90.0, 1024: 400.0}
    assert large.expected(found, 2048) == 1600
    assert large.expected({}, 512) == 0
    assert large.largest(found, 1.6) == 2048
    row = large.render({"ours": found}).splitlines()[-1]
    assert "400" in row
    assert large.free("cpu") > 100


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
    work = eager(16, (20, 30))
    assert 15 < work.flop / convolution_flop(16, 20, 30) < 18


def eager(channels, size):
    return counts.autograd(counts.WGAN_GP, channels, size)


def test_bytes_grow_with_the_pixels_and_launches_do_not():
    small, large = eager(8, (40, 40)), eager(8, (80, 80))
    assert small.launches == large.launches
    assert 3.5 < large.bytes / small.bytes < 5


@pytest.mark.parametrize("objective", [counts.WGAN_GP, counts.HINGE], ids=["wgan-gp", "hinge"])
def test_launches_are_those_that_are_counted_when_an_update_runs(objective):
    """On the CPU, where Adam's counts of steps are one operation more: on a device they stay on the host."""
    critic, real, fake = problem()
    request = Request(critic, torch.optim.Adam(critic.parameters(), foreach=True), real, fake, 0.5, objective)
    autograd_update([request])
    run = counts.count(lambda: autograd_update([request]), "cpu")
    assert counts.autograd(objective, 8, (14, 17)).launches.total() == run.launches.total() - 1


def test_each_operation_is_counted_once_and_views_are_none():
    x = torch.empty(3, 5, device="meta")
    counted = counts.count(lambda: (x.t() @ x).relu_())
    assert counted.launches == {"aten.mm.default": 1, "aten.relu_.default": 1}
    assert counted.bytes == 4 * (15 + 15 + 25 + 25)
    assert counted.flop == 2 * 5 * 3 * 5


def test_the_kernels_launch_and_move_less():
    pytest.importorskip("triton", reason="the kernels' compiler, triton, is not installed")
    plain, fused = eager(32, (120, 160)), counts.fused(counts.WGAN_GP, 32, (120, 160), "tf32")
    assert fused.launches.total() <= 50 < 400 < plain.launches.total()
    assert fused.launches["conv3x3_kernel"] == 18
    assert fused.bytes < plain.bytes / 3
    assert fused.flop == pytest.approx(plain.flop, rel=0.1)
    assert counts.fused(counts.WGAN_GP, 32, (120, 160), "bf16").bytes < 0.8 * fused.bytes


def test_prints_the_launches_of_every_way_to_make_an_update(capsys):
    assert counts.main(["--channels", "8", "--names"]) == 0
    printed = capsys.readouterr().out
    for name in counts.WAYS:
        assert (f"| {name} | " in printed) == (TRITON_INSTALLED or "Triton" not in name)
    assert " aten.convolution.default" in printed


def test_the_roof_is_the_slowest_of_three():
    device = roofline.Device("slow", 100.0, {"fp32": 10.0})

    def least(launches, *work, launch=1e-6):
        return roofline.least_time(counts.Counts(Counter(any=launches), *work), device, "fp32", launch)

    assert least(1, 1000, 10) == (10.0, "memory")
    assert least(1, 10, 1000) == (100.0, "arithmetic")
    assert least(3, 10, 1, launch=1.0) == (3.0, "launches")


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


@pytest.fixture(scope="module")
def committed_launches():
    path = Path(loss_launches.__file__).parents[1] / "results" / "launches.json"
    return json.loads(path.read_text(encoding="utf-8"))["counts"]


@pytest.mark.parametrize("kind", LOSSES.values(), ids=lambda kind: kind.__name__)
def test_a_loss_launches_no_more_than_it_did(kind, committed_launches):
    for (title, texture), most in zip(loss_launches.DIALS.items(), (128, 92), strict=True):
        for shape in loss_launches.SHAPES:
            counted = loss_launches.plain(kind(texture=texture), shape).launches.total()
            committed = committed_launches[f"{kind.__name__}{title}, plain"]["x".join(map(str, shape))]["launches"]
            assert counted <= committed
            assert counted <= most or shape != (8, 3, 96, 96)


def test_joined_levels_launch_a_quarter_and_compute_less_than_twice(committed_launches):
    shape = (8, 3, 96, 96)
    joined, alone = loss_launches.plain(JPEGLoss(), shape), loss_launches.one_by_one(JPEGLoss(), shape)
    assert joined.launches.total() < alone.launches.total() / 3.5
    assert 1.5 < joined.flop / alone.flop < 2
    assert (
        alone.launches.total()
        <= committed_launches["JPEGLoss, plain, one level after the other"]["8x3x96x96"]["launches"]
    )


def test_prints_the_launches_of_every_loss(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(loss_launches, "SHAPES", ((1, 3, 64, 64),))
    assert loss_launches.main(["--names", "--json", str(tmp_path / "launches.json")]) == 0
    printed = capsys.readouterr().out
    found = json.loads((tmp_path / "launches.json").read_text())["counts"]
    for row, of in found.items():
        assert f"| {row} | {of['1x3x64x64']['launches']} |" in printed
    assert {"VGG16, 4 blocks", "AlexNet", "JPEGLoss, plain"} < set(found)
    assert " aten.convolution.default" in printed
