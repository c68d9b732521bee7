"""Paired bootstrap over images and seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
    tables = _tables([scores, baseline])
    if tables is None:
        return None
    difference = tables[0] - tables[1]
    return _interval(difference.mean(), resampled_means(difference))


def difference_at_equal(front: Sequence[tuple[Scores, Scores]], baseline: tuple[Scores, Scores]) -> Interval | None:
    """How far a loss's front lies from a baseline at the baseline's place on the axis.

    The points of the front, such as mixes of a loss with L1, are joined by straight lines; beyond its ends the last
    point counts. Draws as for :func:`paired_difference`.

    Args:
        front: for each point its scores on the axis (PSNR) and on the metric of interest.
        baseline: the same of the baseline.

    Returns:
        metric of the front at the baseline's PSNR, less the baseline's; None if they share no seed and image.

    Raises:
        ValueError: as :func:`paired_difference`.
    """
    tables = _tables([scores for point in (*front, baseline) for scores in point])
    if tables is None:
        return None

    def difference(means: NDArray[np.float64]) -> float:
        axis, metric = means[0::2], means[1::2]
        order = np.argsort(axis[:-1])
        return float(np.interp(axis[-1], axis[:-1][order], metric[:-1][order]) - metric[-1])

    draws = np.stack([resampled_means(table) for table in tables], axis=1)
    resampled = np.array([difference(draw) for draw in draws])
    return _interval(difference(np.array([table.mean() for table in tables])), resampled)


def resampled_means(table: NDArray[np.float64]) -> NDArray[np.float64]:
    """(RESAMPLES,) means of a (seeds, images) table whose rows and columns are drawn with replacement.

    Equal shapes draw equal rows and columns, so results for several tables can be combined draw by draw.
    """
    generator = np.random.default_rng(0)
    rows, columns = (generator.multinomial(n, np.full(n, 1 / n), RESAMPLES) / n for n in table.shape)
    means: NDArray[np.float64] = np.einsum("ri,ij,rj->r", rows, table, columns, optimize=True)
    return means


def _tables(all_scores: Sequence[Scores]) -> list[NDArray[np.float64]] | None:
    """(seeds, images) tables of what all of them have; None where that is nothing."""
    shared = set.intersection(*(set(scores) for scores in all_scores))
    if not shared:
        return None
    seeds, images = sorted({seed for seed, _ in shared}), sorted({image for _, image in shared})
    if len(shared) != len(seeds) * len(images):
        raise ValueError(
            f"{len(shared)} shared scores of {len(seeds)} seeds and {len(images)} images: every seed must have every "
            "image; evaluate the missing ones first"
        )
    return [np.array([[scores[seed, image] for image in images] for seed in seeds]) for scores in all_scores]


def _interval(mean: float, resampled: NDArray[np.float64]) -> Interval:
    low, high = np.percentile(resampled, (2.5, 97.5))
    return Interval(float(mean), float(low), float(high))
