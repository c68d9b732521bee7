import pytest
import torch

from task_losses.discriminator import FrozenDiscriminator
from training.config import Config
from training.scaling import feature_scale, scaled

SMALL = {"scales": 2, "longest_side": 48, "channels": (4,), "task": "denoise", "upscale": False}


def random_layers(config, magnitude):
    generator = torch.Generator().manual_seed(0)
    shapes = [config.architecture.layer_shapes(scale) for scale in range(config.scales)]
    return [
        [
            (magnitude * torch.randn(o, i, 3, 3, generator=generator), torch.randn(o, generator=generator))
            for i, o in of_scale
        ]
        for of_scale in shapes
    ]


def test_scaled_layers_scale_every_output():
    layers = random_layers(Config(**SMALL), 0.3)[0]
    image = torch.rand(1, 3, 16, 16)
    before = FrozenDiscriminator(layers, (1, 2, 3, 4, 5))(image)
    after = FrozenDiscriminator(scaled(layers, 7.0), (1, 2, 3, 4, 5))(image)
    for x, y in zip(before, after, strict=True):
        assert torch.allclose(7 * x, y, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("distance", ["squared", "absolute"])
def test_features_get_the_share_that_is_asked_for(distance):
    """Whatever the critic's magnitude was: shares of 1/2 and 1/5 differ by the factor 4 in the features' distance."""
    factors = []
    for share in (0.5, 0.2):
        config = Config(**SMALL, taps=(0, 4), distance=distance, image_share=share)
        factors.append(feature_scale(random_layers(config, 0.3), config))
    assert factors[1] / factors[0] == pytest.approx(2 if distance == "squared" else 4)
    again = Config(**SMALL, taps=(4,), distance=distance)  # no image among the taps: as if it had one half
    assert feature_scale(random_layers(again, 0.3), again) == pytest.approx(factors[0])


def test_the_scale_of_the_critic_does_not_matter():
    config = Config(**SMALL, taps=(0, 1))
    layers = random_layers(config, 0.3)
    bigger = [scaled(of_scale, 5.0) for of_scale in layers]
    assert feature_scale(bigger, config) == pytest.approx(feature_scale(layers, config) / 5, rel=1e-4)
