"""Paired bootstrap over images and seeds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Scores = Mapping[tuple[int, str], float]  # (seed, image) -> score
RESAMPLES = 4000


@dataclass(frozen=True)
class Interval:
    """A mean with its 95 % bootstrap interval."""

    mean: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        return self.low > 0 or self.high < 0


def paired_difference(scores: Scores, baseline: Scores) -> Interval | None:
    """Mean of ``scores - baseline`` over the seeds and images that both have; None if they share none.

    Seeds and images are resampled independently with replacement, and each draw takes the same seeds and images
    for both sides: what makes an image hard, or a seed lucky, cancels. With one seed only images are resampled.

    Raises:
        ValueError: some of the shared seeds lack some of the shared images.
    """
    shared = sorted(set(scores) & set(baseline))
    if not shared:
        return None
    seeds, images = sorted({seed for seed, _ in shared}), sorted({image for _, image in shared})
    if len(shared) != len(seeds) * len(images):
        raise ValueError(
            f"{len(shared)} shared scores of {len(seeds)} seeds and {len(images)} images: every seed must have every "
            "image; evaluate the missing ones first"
        )
    table = np.array([[scores[seed, image] - baseline[seed, image] for image in images] for seed in seeds])
    low, high = np.percentile(resampled_means(table), (2.5, 97.5))
    return Interval(float(table.mean()), float(low), float(high))


def resampled_means(table: NDArray[np.float64]) -> NDArray[np.float64]:
    """(RESAMPLES,) means of a (seeds, images) table whose rows and columns are drawn with replacement.

    Equal shapes draw equal rows and columns, so results for several tables can be combined draw by draw.
    """
    generator = np.random.default_rng(0)
    rows, columns = (generator.multinomial(n, np.full(n, 1 / n), RESAMPLES) / n for n in table.shape)
    means: NDArray[np.float64] = np.einsum("ri,ij,rj->r", rows, table, columns, optimize=True)
    return means
