from dataclasses import replace
from typing import Any

import pytest
import torch

from task_losses.architecture import differences
from task_losses.discriminator import FrozenDiscriminator
from task_losses.distance import distance_and_gradient
from task_losses.levels import Selection
from task_losses.weights import random_weights
from training.config import Config
from training.scaling import (
    CONTROLS,
    Examples,
    distances,
    examples_of,
    feature_scale,
    random_scale,
    scaled,
    texture_weight,
)

SMALL: dict[str, Any] = {"scales": 2, "longest_side": 48, "channels": (4,), "task": "denoise", "upscale": False}


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
    before = FrozenDiscriminator(layers, differences((1, 2, 3, 4, 5)))(image)
    after = FrozenDiscriminator(scaled(layers, 7.0), differences((1, 2, 3, 4, 5)))(image)
    for x, y in zip(before, after, strict=True):
        assert torch.allclose(7 * x, y, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("distance", ["squared", "absolute"])
@pytest.mark.parametrize("exponent", [1.0, 1.5, 2.0])
def test_features_get_the_share_that_is_asked_for(distance, exponent):
    """Measured on the scaled features: over all scales, beside the image at the finest."""
    for share in (0.5, 0.2):
        config = Config(**SMALL, taps=(0, 4), distance=distance, image_exponent=exponent, image_share=share)
        layers = random_layers(config, 0.3)
        factor = feature_scale(layers, config)
        found = list(distances([scaled(of_scale, factor) for of_scale in layers], config))
        of_image = sum(image for scale, image, _ in found if scale == config.scales - 1)
        of_features = sum(features for _, _, features in found)
        assert of_image / (of_image + of_features) == pytest.approx(share, rel=1e-4)


@pytest.mark.parametrize("distance", ["squared", "absolute"])
def test_without_the_image_features_weigh_as_much_as_it_would_at_every_scale(distance):
    config = Config(**SMALL, taps=(4,), distance=distance)
    layers = random_layers(config, 0.3)
    factor = feature_scale(layers, config)
    found = list(distances([scaled(of_scale, factor) for of_scale in layers], config))
    assert sum(image for _, image, _ in found) == pytest.approx(sum(features for _, _, features in found), rel=1e-4)


def test_the_scale_of_the_critic_does_not_matter():
    config = Config(**SMALL, taps=(0, 1))
    layers = random_layers(config, 0.3)
    bigger = [scaled(of_scale, 5.0) for of_scale in layers]
    assert feature_scale(bigger, config) == pytest.approx(feature_scale(layers, config) / 5, rel=1e-4)


def small_examples(config):
    layers = random_layers(config, 0.3)
    factor = feature_scale(layers, config)
    return [scaled(of_scale, factor) for of_scale in layers], list(examples_of(config))


def gradient_norms(layers, config, examples, texture):
    """Of its differences, and of its texture term."""
    pred, target = (image.double() for image in (examples[-1].distorted[:1], examples[-1].level))
    norms = []
    for with_texture in (0.0, 1.0):
        form = replace(config.architecture, texture_weight=texture * with_texture, periodic_weight=0.0)
        selection = Selection(form, tuple(range(config.scales)), "pyramid")
        parts = [part.double() for part in selection.discriminators(layers)]
        norms.append(distance_and_gradient(pred, target, selection.levels(pred.shape[2:], parts))[1])
    return norms[0].norm(), (norms[1] - norms[0]).norm()


@pytest.mark.parametrize(
    ("taps", "distance", "skips"), [((0, 4), "squared", 0), ((1, 4), "absolute", 0), ((0, 4), "squared", 1)]
)
@pytest.mark.parametrize("pull", [0.5, 2.0])
def test_the_texture_term_pulls_as_hard_as_is_asked_for(taps, distance, skips, pull):
    config = Config(**SMALL, taps=taps, distance=distance, texture_pull=pull, texture_skips=skips)
    layers, examples = small_examples(config)
    one = [Examples(level, distorted[:1]) for level, distorted in examples]
    rest, texture = gradient_norms(layers, config, one, texture_weight(layers, config, one))
    assert texture / rest == pytest.approx(pull, rel=1e-3)


@pytest.mark.parametrize("off", [{"texture_taps": ()}, {"texture_pull": 0.0}, {"texture_skips": 2}])
def test_without_texture_there_is_no_weight(off):
    config = Config(**SMALL, **off)
    layers, examples = small_examples(config)
    assert texture_weight(layers, config, examples) == 0


def test_random_scale_gives_random_features_the_share_of_trained_ones():
    config = Config(**{**SMALL, "scales": 4, "longest_side": 96, "channels": (16,)}, image_share=0.7)
    examples = list(examples_of(config))
    scale = random_scale(config, examples)
    shares = []
    for seed in range(CONTROLS, CONTROLS + 6):  # other draws than those that it was measured on
        torch.manual_seed(seed)
        drawn = random_weights(config.task, config.architecture)
        layers = [scaled(drawn.layers(k), scale) for k in range(config.scales)]
        image = features = 0.0
        for k, of_image, of_features in distances(layers, config, examples=examples):
            image += of_image if k == config.scales - 1 else 0
            features += of_features
        shares.append(image / (image + features))
    assert sum(shares) / len(shares) == pytest.approx(0.7, abs=0.05)
