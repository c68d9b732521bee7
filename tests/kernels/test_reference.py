"""The explicit step against torch's double backward, in float64."""

import copy

import pytest
import torch

from training.kernels.reference import critic_gradients, critic_gradients_of_runs
from training.networks import Discriminator
from training.objectives import critic_loss
from training.updates import Request, autograd_update, explicit_update

MIX, WEIGHT = 0.37, 0.1
# Every size, width and batch; the large ones are narrow, to stay quick.
CASES = [
    pytest.param(*case, id=f"{case[1]}x{case[2]}-{case[0]}ch-batch{case[3]}")
    for case in [(64, 11, 11, 3), (8, 25, 25, 2), (16, 26, 39, 3), (32, 25, 25, 1), (8, 63, 97, 1), (16, 17, 250, 1)]
]
NORMS = pytest.mark.parametrize("shared_norm", [True, False], ids=["shared", "separate"])


def make(channels, height, width, batch, seed=0):
    """A critic with weights three times the initial ones, for a gradient norm near 1, and two images."""
    torch.manual_seed(seed)
    critic = Discriminator(channels).double()
    with torch.no_grad():
        for parameter in critic.parameters():
            parameter.mul_(3)
    real, fake = torch.rand(2, batch, 3, height, width, dtype=torch.float64)
    return critic, real, fake


def both(critic, real, fake, shared_norm):
    parameters = list(critic.parameters())
    judged = critic_loss(critic, real, fake, MIX, WEIGHT, shared_norm)
    expected = torch.autograd.grad(judged.total, parameters)
    return critic_gradients(parameters, real, fake, MIX, WEIGHT, shared_norm), judged, expected


def assert_equal(found, judged, expected, scale=0.0):
    """To 1e-12 of each gradient's largest value, or of ``scale`` where that is larger."""
    assert found.distance.item() == pytest.approx(judged.distance.item(), rel=1e-12, abs=1e-14)
    assert found.penalty.item() == pytest.approx(judged.penalty.item(), rel=1e-12)
    *gradients, by_bias = zip(found.parameters, expected, strict=True)
    for ours, theirs in gradients:
        assert ours.shape == theirs.shape
        assert (ours - theirs).abs().max() <= 1e-12 * max(theirs.abs().max().item(), scale)
    assert by_bias[0].item() == 0
    assert abs(by_bias[1].item()) < 1e-15


@NORMS
@pytest.mark.parametrize(("channels", "height", "width", "batch"), CASES)
def test_every_gradient_equals_autograds(channels, height, width, batch, shared_norm):
    assert_equal(*both(*make(channels, height, width, batch), shared_norm))


# Not constant images normalised by themselves: that divides rounding noise by sqrt(eps), four times over, and what
# comes out is noise in autograd's result too. Zeros stay zeros.
@pytest.mark.parametrize(
    ("images", "shared_norm"),
    [("constant", True), ("zeros", True), ("zeros", False), ("equal", True), ("equal", False)],
)
def test_images_without_contrast(images, shared_norm):
    critic, real, fake = make(8, 15, 13, 2)
    if images == "equal":
        fake = real.clone()
    else:
        real, fake = torch.full_like(real, 0.6), torch.full_like(fake, 0.3)
        if images == "zeros":
            real, fake = torch.zeros_like(real), torch.zeros_like(fake)
    found, judged, expected = both(critic, real, fake, shared_norm)
    # What should be zero is noise, in both; its measure is the gradient of the other parameters.
    assert_equal(found, judged, expected, scale=max(gradient.abs().max().item() for gradient in expected))


@NORMS
def test_channels_without_variance(shared_norm):
    critic, real, fake = make(8, 15, 13, 1)
    with torch.no_grad():
        for block in critic.blocks:
            block.conv.weight[3] = 0
            block.norm.weight[5] = 0
    found, judged, expected = both(critic, real, fake, shared_norm)
    assert_equal(found, judged, expected)
    assert all((variance[:, 3] == 0).all() for _, variance in found.statistics)


@NORMS
def test_where_the_gradient_vanishes_its_norm_has_none(shared_norm):
    critic, real, fake = make(8, 15, 13, 1)
    with torch.no_grad():
        critic.last.weight.zero_()
    found, judged, expected = both(critic, real, fake, shared_norm)
    assert found.penalty.item() == 1
    assert_equal(found, judged, expected)


@NORMS
def test_twenty_steps_are_the_same(shared_norm):
    """Trajectory, losses and running statistics, with Adam."""
    start, *_ = make(8, 17, 14, 1)
    critics = {name: copy.deepcopy(start) for name in ("autograd", "explicit")}
    updates = {"autograd": autograd_update, "explicit": explicit_update(critic_gradients_of_runs)}
    losses = {name: [] for name in critics}
    for name, critic in critics.items():
        draws = torch.Generator().manual_seed(0)
        optimizer = torch.optim.Adam(critic.parameters(), lr=5e-4, betas=(0.5, 0.999))
        for _ in range(20):
            real, fake = torch.rand(2, 1, 3, 17, 14, dtype=torch.float64, generator=draws)
            mix = torch.rand((), generator=draws).item()
            (judged,) = updates[name]([Request(critic, optimizer, real, fake, mix, WEIGHT, shared_norm)])
            losses[name] += [judged.distance.item(), judged.penalty.item()]
    assert losses["explicit"] == pytest.approx(losses["autograd"], rel=1e-9, abs=1e-11)
    expected = critics["autograd"].state_dict()
    for name, value in critics["explicit"].state_dict().items():
        assert value.dtype == expected[name].dtype
        torch.testing.assert_close(value, expected[name], rtol=1e-9, atol=1e-11)
    assert expected["blocks.0.norm.num_batches_tracked"] == (20 if shared_norm else 60)
    assert not torch.equal(expected["blocks.0.conv.weight"], start.blocks[0].conv.weight)


@NORMS
def test_statistics_of_each_group(shared_norm):
    critic, real, fake = make(8, 15, 13, 2)
    found = critic_gradients(list(critic.parameters()), real, fake, MIX, WEIGHT, shared_norm)
    batches = [real, fake, MIX * real + (1 - MIX) * fake]
    batches = [torch.cat(batches)] if shared_norm else batches
    mean, variance = found.statistics[0]
    raw = [critic.blocks[0].conv(batch) for batch in batches]
    torch.testing.assert_close(mean, torch.stack([z.mean((0, 2, 3)) for z in raw]))
    torch.testing.assert_close(variance, torch.stack([z.var((0, 2, 3), correction=0) for z in raw]))


def test_steps_of_several_runs_are_those_of_each():
    runs = [make(8, 15, 13, 1, seed) for seed in range(3)]
    mixes = [0.1, 0.5, 0.9]
    parameters = [list(critic.parameters()) for critic, _, _ in runs]
    together = critic_gradients_of_runs(parameters, [r for _, r, _ in runs], [f for _, _, f in runs], mixes, WEIGHT)
    for of_run, (_, real, fake), mix, found in zip(parameters, runs, mixes, together, strict=True):
        alone = critic_gradients(of_run, real, fake, mix, WEIGHT)
        for ours, theirs in zip(found.parameters, alone.parameters, strict=True):
            assert torch.equal(ours, theirs)


@pytest.mark.parametrize("shapes", [((1, 3, 15, 13), (1, 3, 13, 15)), ((1, 3, 10, 13),) * 2, ((1, 1, 15, 13),) * 2])
def test_images_that_do_not_fit_are_refused(shapes):
    critic, *_ = make(8, 15, 13, 1)
    real, fake = (torch.rand(shape, dtype=torch.float64) for shape in shapes)
    with pytest.raises(ValueError, match="at least 11"):
        critic_gradients(list(critic.parameters()), real, fake, MIX, WEIGHT)
