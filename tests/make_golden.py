"""``python -m tests.make_golden``: writes tests/data/authors_layout.npz.

A file in the authors' layout with random weights and narrow layers, and what the plain form of their algorithm
(:mod:`training.bench.authors`) computes from it in float64. Keys: ``data``, the bytes; and for each case
``{case}_pred``, ``_target`` (float32, [0, 1]), ``_loss``, ``_per_image`` and ``_grad`` (of the loss by pred).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from legacy_writer import legacy_file

from training.bench.authors import AuthorsLoss

GOLDEN = Path(__file__).parent / "data" / "authors_layout.npz"
CHANNELS = (4,) * 4 + (8,) * 5  # nine, of which the loss uses the first eight, as in the authors' Ds_SISR.pth
CASES = {"a": (1, 3, 11, 11), "b": (2, 3, 16, 19), "c": (3, 3, 13, 12)}


def main() -> None:
    full = AuthorsLoss(CHANNELS, seed=2022)
    arrays: dict[str, Any] = {"data": np.frombuffer(legacy_file(list(full.discriminators)), dtype=np.uint8)}
    del full.discriminators[8:]
    full.double()
    generator = torch.Generator().manual_seed(7)
    for case, shape in CASES.items():
        pred, target = torch.rand(2, *shape, generator=generator)
        x = pred.double().requires_grad_()
        per_image = full.per_image(x, target.double())
        (gradient,) = torch.autograd.grad(per_image.mean(), x)
        values = {"pred": pred, "target": target, "loss": per_image.mean(), "per_image": per_image, "grad": gradient}
        arrays |= {f"{case}_{name}": value.detach().numpy() for name, value in values.items()}
    GOLDEN.parent.mkdir(exist_ok=True)
    np.savez_compressed(GOLDEN, **arrays)


if __name__ == "__main__":
    main()
