"""Critics and images for the tests of its step, and how results are compared."""

import torch

from training.networks import Discriminator


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
    """All outputs of a step, by name; the last bias's gradient, which is exactly 0, is left out."""
    values = {"distance": result.distance, "penalty": result.penalty}
    values |= {f"gradient {i}": g for i, g in enumerate(result.parameters[:-1])}
    for block, (mean, variance) in enumerate(result.statistics):
        values |= {f"mean {block}": mean, f"variance {block}": variance}
    return values


def errors(result, right):
    """The largest error of each output, relative to its largest number; where all are 0, absolute."""
    found = {}
    for (name, a), b in zip(named(result).items(), named(right).values(), strict=True):
        assert a.shape == b.shape, name
        found[name] = ((a.double() - b.double()).abs().max() / (b.abs().max().item() or 1)).item()
    return found


def check(result, right, bound):
    wrong = {name: error for name, error in errors(result, right).items() if not error <= bound}
    assert not wrong, f"above {bound:.0e}: {wrong}"
    assert torch.equal(result.parameters[-1], torch.zeros_like(result.parameters[-1]))
