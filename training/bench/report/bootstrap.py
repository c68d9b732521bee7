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


def front_difference(
    first: Front,
    second: Front,
    places: int = 17,
    *,
    axis_higher: bool = True,
    metric_higher: bool = False,
    give_way: bool = True,
) -> FrontDifference | None:
    """Difference of two trade-offs at equal PSNR, or whatever the axis is: ``first - second``.

    A front is what points, such as mixes of a loss with L1, reach at some place of the axis or beyond: a point that
    another beats on both gives way to it. What is left is joined by straight lines. Both fronts are read at ``places``
    even steps over the part of the axis that both cover, and the differences averaged. A front of one point is read at
    that point. Draws are those of :func:`paired_difference`; in a draw where the fronts do not meet their nearest ends
    are compared.

    Args:
        first, second: for each point its scores on the axis and on the metric of interest.
        axis_higher, metric_higher: whether higher scores are better.
        give_way: False for the settings of a dial, which are read as they are: what one setting reaches in one metric
            and another in the next, no setting has.

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
        parts = means[:, :split], means[:, split:]
        low = np.maximum(*(part[:, 0::2].min(axis=1) for part in parts))
        high = np.minimum(*(part[:, 0::2].max(axis=1) for part in parts))
        place = np.linspace(low, high, places, axis=1)
        ours, theirs = (_read(*_curve(part, axis_higher, metric_higher, give_way), place) for part in parts)
        difference = ours - theirs
        return low, high, difference.mean(axis=1)

    low, high, difference = (float(value[0]) for value in compare(np.array([[table.mean() for table in tables]])))
    # Fronts that meet only in an end that they have in common, such as L1, and agree there: that compares nothing.
    if low > high or (low == high and difference == 0):
        return FrontDifference(low, high, None)
    draws = np.stack([resampled_means(table) for table in tables], axis=1)
    return FrontDifference(low, high, _interval(difference, compare(draws)[2]))


def difference_at(
    first: Front,
    second: Front,
    place: Scores,
    shift: float = 0.0,
    *,
    relative: bool = False,
) -> Interval | None:
    """What one dial has more than another at one place of the axis, such as 0.1 dB under L1's PSNR.

    Settings are joined by lines and read as they are. In a draw in which one ends before the place, its end is read.

    Args:
        place, shift: the place is the mean of these scores, in each draw anew, plus ``shift``.
        relative: as a share of the second front's value.

    Returns:
        None if the points share no seed and image, or a front of several points does not reach the place.
    """
    tables = _tables([place, *(scores for point in (*first, *second) for scores in point)])
    if tables is None:
        return None
    split = 1 + 2 * len(first)

    def compare(means: Table) -> Table:
        at = means[:, :1] + shift
        ours, theirs = (
            _read(*_curve(part, give_way=False), at)[:, 0] for part in (means[:, 1:split], means[:, split:])
        )
        return (ours - theirs) / theirs if relative else ours - theirs

    centre = np.array([[table.mean() for table in tables]])
    for axis in (centre[0, 1:split:2], centre[0, split::2]):
        if len(axis) > 1 and not axis.min() <= centre[0, 0] + shift <= axis.max():
            return None
    return _interval(compare(centre)[0], compare(np.stack([resampled_means(table) for table in tables], axis=1)))


def _curve(
    means: Table, axis_higher: bool = True, metric_higher: bool = False, give_way: bool = True
) -> tuple[Table, Table]:
    """(draws, alternating axis and metric of the points) -> axis and metric, each (draws, points), along the axis.

    Where points give way, in the place of each stands the best by the metric of those that are as good or better on
    the axis.
    """
    axis, metric = means[:, 0::2], means[:, 1::2]
    order = np.argsort(axis if axis_higher else -axis, axis=1, kind="stable")
    axis, metric = np.take_along_axis(axis, order, 1), np.take_along_axis(metric, order, 1)
    for point in range(axis.shape[1] - 2, -1, -1) if give_way else ():
        beyond, here = metric[:, point + 1], metric[:, point]
        beaten = beyond >= here if metric_higher else beyond <= here
        for values in (axis, metric):
            values[:, point] = np.where(beaten, values[:, point + 1], values[:, point])
    return (axis, metric) if axis_higher else (axis[:, ::-1], metric[:, ::-1])


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
