import pytest
import torch

from training.config import Config
from training.distortions import make_adversary, make_distortion
from training.images import open_image
from training.wiener import wiener_restored


@pytest.fixture(scope="module")
def image():
    return open_image("skimage:astronaut")[0][..., 200:264, 200:280]


def error(restored, image):
    return (restored - image).square().mean().item()


def test_a_linear_distortion_is_undone(image):
    mixed = torch.einsum("ij,njhw->nihw", torch.tensor([[0.6, 0.2, 0.2], [0.1, 0.8, 0.1], [0.0, 0.3, 0.7]]), image)
    assert error(wiener_restored(0.5 * mixed + 0.2, image, 1), image) < 1e-5 < error(mixed, image)


@pytest.mark.parametrize("side", [1, 3, 5])
def test_noise_is_averaged_away_the_more_the_wider_the_window(image, side):
    noisy = image + 0.2 * torch.randn(image.shape, generator=torch.Generator().manual_seed(0))
    restored = [error(wiener_restored(noisy, image, s), image) for s in (side, side + 2)]
    assert restored[1] < restored[0] < error(noisy, image)


def test_the_estimate_is_the_least_squares_one(image):
    """The remaining error is orthogonal to everything that the filter sees."""
    noisy = image + 0.1 * torch.randn(image.shape, generator=torch.Generator().manual_seed(0))
    left = (wiener_restored(noisy, image, 3) - image)[..., 1:-1, 1:-1]
    for dy, dx in ((0, 0), (0, 1), (2, 2)):
        seen = noisy[..., dy : dy + left.shape[2], dx : dx + left.shape[3]]
        assert abs((left * (seen - seen.mean())).mean() / (left.std() * seen.std())) < 0.02


def test_flat_images_have_a_solution():
    flat = torch.full((1, 3, 16, 16), 0.5)
    assert torch.allclose(wiener_restored(flat, flat, 5), flat, atol=1e-3)
    assert wiener_restored(torch.zeros(1, 3, 16, 16), flat, 5).isfinite().all()


@pytest.mark.parametrize("side", [0, 3])
def test_the_adversary_restores_what_was_distorted_if_the_recipe_says_so(image, side):
    config = Config(task="denoise", wiener=side)
    distorted = make_distortion(config)(image, torch.Generator().manual_seed(0))
    expected = wiener_restored(distorted, image, 3) if side else distorted
    assert torch.equal(make_adversary(config)(image, image, torch.Generator().manual_seed(0)), expected)
    assert not torch.equal(wiener_restored(distorted, image, 3), distorted)


@pytest.mark.parametrize("side", [-1, 4])
def test_an_impossible_window_is_refused(side):
    with pytest.raises(ValueError, match="wiener must be an odd number of pixels"):
        Config(wiener=side)
