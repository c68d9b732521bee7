"""Paired bootstrap over images and seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

Scores = Mapping[tuple[int, str], float]  # (seed, image) -> score
Front = Sequence[tuple[Scores, Scores]]  # points: scores on the axis, scores on the metric of interest
Table = NDArray[np.float64]
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


@dataclass(frozen=True)
class FrontDifference:
    """How far one front lies from another at equal places on the axis that they share.

    Attributes:
        low, high: the part of the axis that both cover; ``low > high``: they do not meet, and lie so far apart.
        interval: the mean difference over that part; None where they do not meet, or only in a common end.
    """

    low: float
    high: float
    interval: Interval | None


def front_difference(first: Front, second: Front, places: int = 17) -> FrontDifference | None:
    """Difference of two trade-offs at equal PSNR, or whatever the axis is: ``first - second``.

    The points of a front, such as mixes of a loss with L1, are joined by straight lines. Both fronts are read at
    ``places`` even steps over the part of the axis that both cover, and the differences averaged. A front of one point
    is read at that point. Draws are those of :func:`paired_difference`; in a draw where the fronts do not meet their
    nearest ends are compared.

    Args:
        first, second: for each point its scores on the axis and on the metric of interest.

    Returns:
        None if the points share no seed and image.

    Raises:
        ValueError: as :func:`paired_difference`.
    """
    tables = _tables([scores for point in (*first, *second) for scores in point])
    if tables is None:
        return None
    split = 2 * len(first)

    def compare(means: Table) -> tuple[Table, Table, Table]:
        """(draws, columns of ``tables``) -> (draws,) each: the shared part's ends, and the mean difference there."""
        (axis, metric), (other_axis, other_metric) = _curve(means[:, :split]), _curve(means[:, split:])
        low, high = np.maximum(axis[:, 0], other_axis[:, 0]), np.minimum(axis[:, -1], other_axis[:, -1])
        place = np.linspace(low, high, places, axis=1)
        difference = _read(axis, metric, place) - _read(other_axis, other_metric, place)
        return low, high, difference.mean(axis=1)

    low, high, difference = (float(value[0]) for value in compare(np.array([[table.mean() for table in tables]])))
    # Fronts of several points that meet in one only meet in the end that they have in common: that compares nothing.
    if low > high or (low == high and min(len(first), len(second)) > 1):
        return FrontDifference(low, high, None)
    draws = np.stack([resampled_means(table) for table in tables], axis=1)
    return FrontDifference(low, high, _interval(difference, compare(draws)[2]))


def _curve(means: Table) -> tuple[Table, Table]:
    """(draws, alternating axis and metric of the points) -> axis and metric, each (draws, points), along the axis."""
    axis, metric = means[:, 0::2], means[:, 1::2]
    order = np.argsort(axis, axis=1, kind="stable")
    return np.take_along_axis(axis, order, 1), np.take_along_axis(metric, order, 1)


def _read(axis: Table, metric: Table, place: Table) -> Table:
    """``np.interp`` of each row: (draws, points) read at (draws, places)."""
    if axis.shape[1] == 1:
        return np.broadcast_to(metric, place.shape)
    right = (place[:, :, None] > axis[:, None, :]).sum(axis=2).clip(1, axis.shape[1] - 1)
    x0, x1, y0, y1 = (np.take_along_axis(values, at, 1) for values in (axis, metric) for at in (right - 1, right))
    share = np.divide(place - x0, x1 - x0, out=np.zeros_like(place), where=x1 > x0).clip(0, 1)
    values: Table = y0 + share * (y1 - y0)
    return values


def resampled_means(table: Table) -> Table:
    """(RESAMPLES,) means of a (seeds, images) table whose rows and columns are drawn with replacement.

    Equal shapes draw equal rows and columns, so results for several tables can be combined draw by draw.
    """
    rows, columns = _draws(table.shape)
    means: Table = np.einsum("ri,ij,rj->r", rows, table, columns, optimize=True)
    return means


@cache
def _draws(shape: tuple[int, ...]) -> tuple[Table, ...]:
    """(RESAMPLES, n) for each side n of a table: how often each of its rows, or columns, is drawn, over n."""
    generator = np.random.default_rng(0)
    return tuple(generator.multinomial(n, np.full(n, 1 / n), RESAMPLES) / n for n in shape)


def _tables(all_scores: Sequence[Scores]) -> list[Table] | None:
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


def _interval(mean: float, resampled: Table) -> Interval:
    low, high = np.percentile(resampled, (2.5, 97.5))
    return Interval(float(mean), float(low), float(high))
