"""The objectives of phase 1, in float64, against values known by other means."""

import pytest
import torch
from torch import nn
from torch.func import functional_call

from task_losses import DenoiseLoss
from task_losses.discriminator import FrozenDiscriminator
from training.networks import Discriminator, Generator
from training.objectives import (
    Objective,
    critic_loss,
    generator_loss,
    hinge_loss,
    scores,
    spectral_norms,
    spectrally_normalised,
)


@pytest.fixture
def images():
    draws = torch.Generator().manual_seed(0)
    real, fake = (torch.rand(1, 3, 15, 13, dtype=torch.float64, generator=draws) for _ in range(2))
    return real, fake


def linear_critic(weight):
    critic = nn.Conv2d(3, 1, 1, bias=False).double()
    critic.weight = nn.Parameter(weight.view(1, 3, 1, 1))
    return critic


def test_loss_of_a_linear_critic_is_known(images):
    real, fake = images
    weight = torch.tensor([0.3, -1.2, 2.0], dtype=torch.float64)
    critic = linear_critic(weight)
    judged = critic_loss(critic, real, fake, mix=0.4, penalty_weight=0.1)
    assert judged.penalty.item() == pytest.approx((weight.norm().item() - 1) ** 2, rel=1e-12)
    assert judged.distance.item() == pytest.approx((critic(real).mean() - critic(fake).mean()).item())
    assert judged.total.item() == pytest.approx(0.1 * judged.penalty.item() - judged.distance.item())


def test_hinge_loss_is_known_inside_of_the_margin_and_outside():
    of_real, of_fake = torch.tensor([-2.0, 0.25, 1.0, 3.0]), torch.tensor([-3.0, -1.0, 0.5, 2.0])
    assert hinge_loss(of_real, of_fake).item() == pytest.approx((3 + 0.75) / 4 + (1.5 + 3) / 4)


def test_a_penalty_alone_judges_images_of_a_third_kind():
    assert Objective("wgan-gp").kinds == 3
    assert Objective("hinge").kinds == 2


def test_penalty_looks_between_the_images(images):
    real, fake = images
    seen = []

    def critic(x):
        seen.append(x.detach())
        return x.square()

    critic_loss(critic, real, fake, mix=0.25, penalty_weight=1)
    torch.testing.assert_close(seen[0], torch.cat([real, fake, 0.25 * real + 0.75 * fake]))


@pytest.mark.parametrize("shared_norm", [True, False])
def test_gradient_by_the_weights_is_right(images, shared_norm):
    """The penalty is differentiated through a gradient: compare with finite differences."""
    torch.manual_seed(0)
    critic = Discriminator(4).double()
    names = [name for name, _ in critic.named_parameters()]
    values = [(p.detach() * 5).requires_grad_() for p in critic.parameters()]

    def total(*weights):
        state = dict(zip(names, weights, strict=True))
        judge = lambda x: functional_call(critic, state, (x,))  # noqa: E731
        real, fake = images
        return critic_loss(judge, real, fake, mix=0.3, penalty_weight=0.7, shared_norm=shared_norm).total

    assert torch.autograd.gradcheck(total, values, fast_mode=True)


def test_shared_statistics_keep_a_change_of_contrast_visible(images):
    """What statistics of its own for each batch would hide: BatchNorm divides a mere change of scale away."""
    real, _ = images
    torch.manual_seed(0)
    critic = Discriminator(8).double()
    flat = 0.2 * real
    apart = [s.mean() for s in scores(critic, (real, flat), shared_norm=False)]
    together = [s.std() for s in scores(critic, (real, flat), shared_norm=True)]
    assert apart[0].item() == pytest.approx(apart[1].item(), abs=1e-3)
    assert together[1] < 0.5 * together[0]


def weights_of(kind):
    """Of a convolution, (outputs, inputs, 3, 3)."""
    draws = torch.Generator().manual_seed(0)
    if kind == "trained":
        critics = [c for c in DenoiseLoss().discriminators if isinstance(c, FrozenDiscriminator)]
        return [weight for critic in critics for weight, _ in critic.layers()]
    if kind == "fresh":
        return [p.detach() for width in (16, 64) for p in Discriminator(width).parameters() if p.dim() == 4]
    if kind == "rank one":
        rows, columns = (torch.randn(n, generator=draws) for n in (24, 24 * 9))
        return [torch.outer(rows, columns).view(24, 24, 3, 3)]
    values = torch.full((64,), 1 - 1e-5)  # the largest singular value is hard to tell from the others
    values[7] = 1
    basis, _ = torch.linalg.qr(torch.randn(64 * 9, 64, generator=draws, dtype=torch.float64))
    turn, _ = torch.linalg.qr(torch.randn(64, 64, generator=draws, dtype=torch.float64))
    return [(turn @ (values.double()[:, None] * basis.T)).float().view(64, 64, 3, 3)]


@pytest.mark.parametrize("kind", ["trained", "fresh", "rank one", "nearly equal"])
@pytest.mark.parametrize("scale", [1e-6, 1, 1e6])
def test_spectral_norms_are_the_largest_singular_values(kind, scale):
    weights = [scale * weight for weight in weights_of(kind)]
    for weight, found in zip(weights, spectral_norms(weights), strict=True):
        exact = torch.linalg.matrix_norm(weight.double().flatten(1), 2)
        assert found.item() == pytest.approx(exact.item(), rel=1e-5)


def test_gradients_go_through_the_spectral_norm():
    (weight,) = (w.double().requires_grad_() for w in weights_of("fresh")[1:2])
    direction = torch.randn(weight.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    ours = (spectrally_normalised({"w": weight})["w"] * direction).sum()
    exact = (weight / torch.linalg.matrix_norm(weight.flatten(1), 2) * direction).sum()
    (found,), (expected,) = (torch.autograd.grad(value, weight) for value in (ours, exact))
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def test_what_is_no_convolution_keeps_its_values():
    tensors = {"bias": torch.ones(4), "weight": 3 * torch.ones(1, 1, 3, 3)}
    found = spectrally_normalised(tensors)
    assert found["bias"] is tensors["bias"]
    torch.testing.assert_close(found["weight"], torch.full((1, 1, 3, 3), 1 / 3))


def test_objectives_that_do_not_exist_are_refused():
    with pytest.raises(ValueError, match="must be wgan-gp or hinge, got 'least-squares'"):
        Objective("least-squares")
    with pytest.raises(ValueError, match="for the objective hinge alone, got wgan-gp"):
        Objective(spectral_norm=True)


def test_generator_loss_adds_up(images):
    real, restored = images
    critic = linear_critic(torch.tensor([1.0, 2.0, -0.5], dtype=torch.float64))
    made = generator_loss(critic, real, restored, weight=10)
    assert made.adversarial.item() == pytest.approx(-critic(restored).mean().item())
    assert made.reconstruction.item() == pytest.approx((restored - real).square().mean().item())
    assert made.total.item() == pytest.approx(made.adversarial.item() + 10 * made.reconstruction.item())


def test_shapes_of_the_networks():
    image = torch.rand(2, 3, 20, 17)
    assert Discriminator(8)(image).shape == (2, 1, 10, 7)
    assert Generator(8)(image).shape == image.shape


def test_a_generator_of_zeros_passes_the_image_on():
    generator = Generator(4)
    nn.init.zeros_(generator.last.weight)
    nn.init.zeros_(generator.last.get_parameter("bias"))
    image = torch.rand(1, 3, 20, 17)
    torch.testing.assert_close(generator(image), image)
