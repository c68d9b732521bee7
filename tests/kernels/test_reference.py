"""The explicit step against autograd, in float64."""

import copy

import pytest
import torch
from torch.func import functional_call

from training.kernels.reference import critic_gradients, critic_gradients_of_runs
from training.networks import Discriminator
from training.objectives import CriticLoss, Objective, critic_loss, hinge_loss, scores
from training.updates import Request, autograd_update, explicit_update

MIX = 0.37
# Every size, width and batch; the large ones are narrow, to stay quick.
CASES = [
    pytest.param(*case, id=f"{case[1]}x{case[2]}-{case[0]}ch-batch{case[3]}")
    for case in [(64, 11, 11, 3), (8, 25, 25, 2), (16, 26, 39, 3), (32, 25, 25, 1), (8, 63, 97, 1), (16, 17, 250, 1)]
]
WGAN_GP = [Objective(shared_norm=shared) for shared in (True, False)]
HINGE = [Objective("hinge", spectral_norm=True, shared_norm=shared) for shared in (True, False)]


def shown(objective):
    norm = "-spectral" if objective.spectral_norm else ""
    return f"{objective.kind}{norm}-{'shared' if objective.shared_norm else 'separate'}"


PENALISED = pytest.mark.parametrize("objective", WGAN_GP, ids=shown)
OBJECTIVES = pytest.mark.parametrize("objective", [*WGAN_GP, *HINGE, Objective("hinge")], ids=shown)


def make(channels, height, width, batch, seed=0):
    """A critic with weights three times the initial ones, for a gradient norm near 1, and two images."""
    torch.manual_seed(seed)
    critic = Discriminator(channels).double()
    with torch.no_grad():
        for parameter in critic.parameters():
            parameter.mul_(3)
    real, fake = torch.rand(2, batch, 3, height, width, dtype=torch.float64)
    return critic, real, fake


def stated(critic, real, fake, objective):
    """The losses by their definition, spectral norms by singular value decomposition."""
    if objective.kind == "wgan-gp":
        return critic_loss(critic, real, fake, MIX, objective.penalty_weight, objective.shared_norm)
    weights = dict(critic.named_parameters())
    if objective.spectral_norm:
        weights = {k: w / torch.linalg.matrix_norm(w.flatten(1), 2) if w.dim() == 4 else w for k, w in weights.items()}
    of_real, of_fake = scores(lambda x: functional_call(critic, weights, x), (real, fake), objective.shared_norm)
    return CriticLoss(hinge_loss(of_real, of_fake), of_real.mean() - of_fake.mean(), torch.zeros(()))


def both(critic, real, fake, objective):
    parameters = list(critic.parameters())
    judged = stated(critic, real, fake, objective)
    expected = torch.autograd.grad(judged.total, parameters)
    return critic_gradients(parameters, real, fake, MIX, objective), judged, expected


def assert_equal(found, judged, expected, scale=0.0):
    """To 1e-12 of each gradient's largest value, or of ``scale`` where that is larger."""
    assert found.distance.item() == pytest.approx(judged.distance.item(), rel=1e-12, abs=1e-14)
    assert found.penalty.item() == pytest.approx(judged.penalty.item(), rel=1e-12)
    *gradients, by_bias = zip(found.parameters, expected, strict=True)
    for ours, theirs in gradients:
        assert ours.shape == theirs.shape
        assert (ours - theirs).abs().max() <= 1e-12 * max(theirs.abs().max().item(), scale)
    assert by_bias[0].item() == pytest.approx(by_bias[1].item(), abs=1e-15)


@OBJECTIVES
@pytest.mark.parametrize(("channels", "height", "width", "batch"), CASES)
def test_every_gradient_equals_autograds(channels, height, width, batch, objective):
    assert_equal(*both(*make(channels, height, width, batch), objective))


@pytest.mark.parametrize("objective", HINGE, ids=shown)
def test_patches_beyond_the_margin_have_no_say(objective):
    critic, real, fake = make(16, 25, 31, 2)
    with torch.no_grad():
        critic.blocks[3].norm.weight.mul_(4)
    found, judged, expected = both(critic, real, fake, objective)
    assert_equal(found, judged, expected)
    silent = 1 - shares_with_a_say(critic, real, fake, objective)
    assert all(0.1 < share < 0.9 for share in silent)
    # The last bias counts them: each patch with a say adds 1/n, negative for real ones.
    assert found.parameters[-1].item() == pytest.approx((silent[0] - silent[1]).item(), abs=1e-12)


def shares_with_a_say(critic, real, fake, objective):
    """Shares of the real and of the fake patches that have a say."""
    weights = {
        k: w / torch.linalg.matrix_norm(w.flatten(1), 2) if w.dim() == 4 else w for k, w in critic.named_parameters()
    }
    of_real, of_fake = scores(lambda x: functional_call(critic, weights, x), (real, fake), objective.shared_norm)
    return torch.stack([(of_real < 1).double().mean(), (of_fake > -1).double().mean()])


# Not constant images normalised by themselves: that divides rounding noise by sqrt(eps), four times over, and what
# comes out is noise in autograd's result too. Zeros stay zeros.
@pytest.mark.parametrize(
    ("images", "objective"),
    [
        (images, objective)
        for objective in (*WGAN_GP, *HINGE)
        for images in ("constant", "zeros", "equal")
        if images != "constant" or objective.shared_norm
    ],
    ids=lambda value: value if isinstance(value, str) else shown(value),
)
def test_images_without_contrast(images, objective):
    critic, real, fake = make(8, 15, 13, 2)
    if images == "equal":
        fake = real.clone()
    else:
        real, fake = torch.full_like(real, 0.6), torch.full_like(fake, 0.3)
        if images == "zeros":
            real, fake = torch.zeros_like(real), torch.zeros_like(fake)
    found, judged, expected = both(critic, real, fake, objective)
    # What should be zero is noise, in both; its measure is the gradient of the other parameters.
    assert_equal(found, judged, expected, scale=max(gradient.abs().max().item() for gradient in expected))


@OBJECTIVES
def test_channels_without_variance(objective):
    critic, real, fake = make(8, 15, 13, 1)
    with torch.no_grad():
        for block in critic.blocks:
            block.conv.weight[3] = 0
            block.norm.weight[5] = 0
    found, judged, expected = both(critic, real, fake, objective)
    assert_equal(found, judged, expected)
    assert all((variance[:, 3] == 0).all() for _, variance in found.statistics)


@PENALISED
def test_where_the_gradient_vanishes_its_norm_has_none(objective):
    critic, real, fake = make(8, 15, 13, 1)
    with torch.no_grad():
        critic.last.weight.zero_()
    found, judged, expected = both(critic, real, fake, objective)
    assert found.penalty.item() == 1
    assert_equal(found, judged, expected)


@OBJECTIVES
def test_twenty_steps_are_the_same(objective):
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
            (judged,) = updates[name]([Request(critic, optimizer, real, fake, mix, objective)])
            losses[name] += [judged.distance.item(), judged.penalty.item()]
    assert losses["explicit"] == pytest.approx(losses["autograd"], rel=1e-9, abs=1e-11)
    expected = critics["autograd"].state_dict()
    for name, value in critics["explicit"].state_dict().items():
        assert value.dtype == expected[name].dtype
        torch.testing.assert_close(value, expected[name], rtol=1e-9, atol=1e-11)
    assert expected["blocks.0.norm.num_batches_tracked"] == 20 * (1 if objective.shared_norm else objective.kinds)
    assert not torch.equal(expected["blocks.0.conv.weight"], start.blocks[0].conv.weight)


@OBJECTIVES
def test_statistics_of_each_group(objective):
    critic, real, fake = make(8, 15, 13, 2)
    found = critic_gradients(list(critic.parameters()), real, fake, MIX, objective)
    batches = [real, fake, MIX * real + (1 - MIX) * fake][: objective.kinds]
    batches = [torch.cat(batches)] if objective.shared_norm else batches
    mean, variance = found.statistics[0]
    raw = [critic.blocks[0].conv(batch) for batch in batches]
    if objective.spectral_norm:
        raw = [z / torch.linalg.matrix_norm(critic.blocks[0].conv.weight.flatten(1), 2) for z in raw]
    torch.testing.assert_close(mean, torch.stack([z.mean((0, 2, 3)) for z in raw]))
    torch.testing.assert_close(variance, torch.stack([z.var((0, 2, 3), correction=0) for z in raw]))


@OBJECTIVES
def test_steps_of_several_runs_are_those_of_each(objective):
    runs = [make(8, 15, 13, 1, seed) for seed in range(3)]
    mixes = [0.1, 0.5, 0.9]
    parameters = [list(critic.parameters()) for critic, _, _ in runs]
    real, fake = [r for _, r, _ in runs], [f for _, _, f in runs]
    together = critic_gradients_of_runs(parameters, real, fake, mixes, objective)
    for of_run, (_, real, fake), mix, found in zip(parameters, runs, mixes, together, strict=True):
        alone = critic_gradients(of_run, real, fake, mix, objective)
        for ours, theirs in zip(found.parameters, alone.parameters, strict=True):
            assert torch.equal(ours, theirs)


@pytest.mark.parametrize("shapes", [((1, 3, 15, 13), (1, 3, 13, 15)), ((1, 3, 10, 13),) * 2, ((1, 1, 15, 13),) * 2])
def test_images_that_do_not_fit_are_refused(shapes):
    critic, *_ = make(8, 15, 13, 1)
    real, fake = (torch.rand(shape, dtype=torch.float64) for shape in shapes)
    with pytest.raises(ValueError, match="at least 11"):
        critic_gradients(list(critic.parameters()), real, fake, MIX, Objective())
