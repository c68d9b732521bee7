"""Critics and images for the tests of its step, and how results are compared."""

import pytest
import torch

from training.networks import Discriminator
from training.objectives import Objective

WGAN_GP = Objective("wgan-gp", penalty_weight=10.0)
SPECTRAL = Objective("hinge", spectral_norm=True)  # as the released critics of noise and JPEG
WGAN_GP_APART = Objective("wgan-gp", penalty_weight=10.0, shared_norm=False)
SPECTRAL_APART = Objective("hinge", spectral_norm=True, shared_norm=False)
HINGE = Objective("hinge")
LIGHT = Objective("wgan-gp")  # with the weight that training takes, which rounding shows less in
LIGHT_APART = Objective("wgan-gp", shared_norm=False)
NAMES = {
    LIGHT: "wgan-gp-light",
    LIGHT_APART: "wgan-gp-light-apart",
    WGAN_GP: "wgan-gp",
    SPECTRAL: "spectral",
    WGAN_GP_APART: "wgan-gp-apart",
    SPECTRAL_APART: "spectral-apart",
    HINGE: "hinge",
}


def objectives(*chosen, slow=()):
    """To parametrise a test with ``objective``; those that are slow run with ``-m slow`` alone."""
    return pytest.mark.parametrize(
        "objective",
        [pytest.param(one, marks=pytest.mark.slow if one in slow else (), id=NAMES[one]) for one in (*chosen, *slow)],
    )


def case(channels, images, size, dtype=torch.float64, seed=0):
    """Parameters, real, fake and mix. The fake is darker, so that no gradient is a mere difference of equals."""
    draws = torch.Generator().manual_seed(seed)

    def normal(shape):
        return torch.randn(shape, generator=draws, dtype=torch.float64)

    parameters = [
        (normal(p.shape) / p[0].numel() ** 0.5 if p.dim() == 4 else normal(p.shape) * 0.3 + ("norm.weight" in name))
        for name, p in Discriminator(channels).named_parameters()
    ]
    real, fake = (torch.rand(images, 3, *size, generator=draws, dtype=torch.float64) for _ in range(2))
    mix = torch.rand((), generator=draws).item()
    return [p.to(dtype) for p in parameters], real.to(dtype), (0.5 * fake.square()).to(dtype), mix


def named(result):
    """All outputs of a step, by name."""
    values = {"distance": result.distance, "penalty": result.penalty}
    values |= {f"gradient {i}": g for i, g in enumerate(result.parameters)}
    for block, (mean, variance) in enumerate(result.statistics):
        values |= {f"mean {block}": mean, f"variance {block}": variance}
    return values


def errors(result, right, floor=0.0):
    """The largest error of each output, relative to its largest number; where all are 0, absolute.

    A block's shift is measured together with its scale: its gradient is what two nearly equal means leave of each
    other, -1 and 1 times the same in sum.

    Args:
        floor: no gradient counts as smaller.
    """
    found, mine, theirs = {}, named(result), named(right)
    for name, b in theirs.items():
        assert mine[name].shape == b.shape, name
        size = b.abs().max().item()
        kind, index = name.split()[0], int(name.split()[-1]) if " " in name else 0
        if kind == "gradient" and size:  # what is exactly 0 has no other measure
            size = max(size, floor)
        if kind == "variance":  # of a constant map it is noise
            size = max(size, theirs[f"mean {index}"].abs().max().item() ** 2)
        if kind == "gradient" and index % 3 == 2 and index < len(right.parameters) - 1:
            size = max(size, theirs[f"gradient {index - 1}"].abs().max().item())
        found[name] = ((mine[name].double() - b.double()).abs().max() / (size or 1)).item()
    return found


def check(result, right, bound, floor=0.0):
    wrong = {name: error for name, error in errors(result, right, floor).items() if not error <= bound}
    assert not wrong, f"above {bound:.0e}: {wrong}"
