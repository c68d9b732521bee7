"""Paired bootstrap: intervals of differences, alone and between fronts."""

from __future__ import annotations

import numpy as np
import pytest

from training.bench.report.bootstrap import difference_at, front_difference, paired_difference


def scores_of(table: np.ndarray) -> dict[tuple[int, str], float]:
    return {(seed, str(image)): value for seed, row in enumerate(table) for image, value in enumerate(row)}


def test_what_makes_an_image_hard_cancels_in_a_paired_difference() -> None:
    baseline = np.random.default_rng(0).normal(25, 5, (3, 20))
    interval = paired_difference(scores_of(baseline + 0.1), scores_of(baseline))
    assert interval is not None
    assert (interval.mean, interval.low, interval.high) == pytest.approx((0.1, 0.1, 0.1))
    assert interval.excludes_zero


def test_the_interval_of_one_seed_is_that_of_the_mean_over_images() -> None:
    differences = np.random.default_rng(0).normal(0.3, 1, (1, 400))
    interval = paired_difference(scores_of(differences), scores_of(np.zeros_like(differences)))
    assert interval is not None
    expected = 1.96 * differences.std() / 20
    assert interval.high - interval.mean == pytest.approx(expected, rel=0.1)
    assert interval.mean - interval.low == pytest.approx(expected, rel=0.1)


def test_seeds_that_disagree_widen_the_interval() -> None:
    differences = np.array([[1.0], [-0.8]]).repeat(50, axis=1)
    interval = paired_difference(scores_of(differences), scores_of(np.zeros_like(differences)))
    assert interval is not None
    assert (interval.low, interval.high) == pytest.approx((-0.8, 1.0))
    assert not interval.excludes_zero


def test_only_shared_seeds_and_images_count() -> None:
    table = np.ones((2, 5))
    assert paired_difference({}, scores_of(table)) is None
    one_seed = paired_difference(scores_of(3 * table[:1]), scores_of(table))
    assert one_seed is not None
    assert one_seed.mean == 2
    incomplete = scores_of(table)
    del incomplete[1, "3"]
    with pytest.raises(ValueError, match="every seed must have every image"):
        paired_difference(incomplete, scores_of(table))


HARD = np.random.default_rng(0).normal(0, 3, (2, 30))  # moves the images' PSNR, not the differences


def points(*pairs: tuple[float, float]) -> list[tuple[dict[tuple[int, str], float], dict[tuple[int, str], float]]]:
    """A front through (PSNR, metric)."""
    return [(scores_of(HARD + psnr), scores_of(np.full_like(HARD, value))) for psnr, value in pairs]


def test_a_front_is_read_at_the_psnr_of_the_baseline() -> None:
    found = front_difference(points((30, 0.4), (28, 0.2)), points((29, 0.35)))
    assert found is not None
    assert found.interval is not None
    assert (found.interval.mean, found.interval.low, found.interval.high) == pytest.approx((-0.05, -0.05, -0.05))


def test_two_fronts_are_compared_over_what_both_reach() -> None:
    first, second = points((28, 0.2), (30, 0.4)), points((31, 0.6), (29, 0.4))
    found = front_difference(first, second)
    assert found is not None
    assert found.interval is not None
    overall = HARD.mean()
    assert (found.low - overall, found.high - overall) == pytest.approx((29, 30))
    assert (found.interval.mean, found.interval.low, found.interval.high) == pytest.approx((-0.1, -0.1, -0.1))
    back = front_difference(second, first)
    assert back is not None
    assert back.interval is not None
    assert back.interval.mean == pytest.approx(0.1)


def test_fronts_that_do_not_meet_are_not_compared() -> None:
    apart = front_difference(points((28, 0.2), (30, 0.4)), points((31, 0.3)))
    assert apart is not None
    assert apart.interval is None
    assert apart.low - apart.high == pytest.approx(1)
    l1 = points((30, 0.4))[0]
    touching = front_difference([*points((28, 0.2)), l1], [*points((31, 0.5)), l1])
    assert touching is not None
    assert touching.interval is None, "a common end compares nothing"


def test_a_point_that_another_beats_on_both_gives_way_to_it() -> None:
    """Such as L1, where a mix has the higher PSNR and the better metric."""
    better, mix, l1 = (29, 0.2), (30, 0.3), (29.5, 0.5)
    for psnr, expected in ((29, 0.2), (29.25, 0.225), (29.5, 0.25), (29.75, 0.275), (30, 0.3)):
        found = front_difference(points(better, mix, l1), points((psnr, 0.0)))
        assert found is not None
        assert found.interval is not None
        assert found.interval.mean == pytest.approx(expected), psnr
    # Where lower is better on the axis, and higher on the metric, it is the point on the other side that counts.
    found = front_difference(points((0.2, 7), (0.3, 6)), points((0.25, 0)), axis_higher=False, metric_higher=True)
    assert found is not None
    assert found.interval is not None
    assert found.interval.mean == pytest.approx(7)
    # What is reached at a higher PSNR is reached below it too.
    below = front_difference(points(l1, mix), points((29.6, 0.0)))
    assert below is not None
    assert below.interval is not None
    assert below.interval.mean == pytest.approx(0.3)
    at_l1 = front_difference(points((28, 0.2), l1), points(mix, l1))
    assert at_l1 is not None
    assert at_l1.interval is not None
    assert at_l1.interval.mean == pytest.approx(0.5 - 0.3), "at L1's own PSNR the mix is still better"


def test_images_that_disagree_widen_the_interval_between_fronts() -> None:
    level = np.zeros((2, 40))
    noisy = np.random.default_rng(1).normal(0.1, 1, (1, 40)).repeat(2, axis=0)
    first, second = ([(scores_of(level + x), scores_of(y)) for x in (1, 2)] for y in (noisy, level))
    found = front_difference(first, second)
    assert found is not None
    assert found.interval is not None
    assert found.interval.high - found.interval.low == pytest.approx(2 * 1.96 * noisy.std() / 40**0.5, rel=0.1)


def test_a_bent_front_is_followed_from_point_to_point() -> None:
    bent = points((30, 0.8), (28, 0.2), (29, 0.3))
    for psnr, expected in ((28.5, 0.25), (29, 0.3), (29.5, 0.55), (28, 0.2), (30, 0.8)):
        found = front_difference(bent, points((psnr, 0.0)))
        assert found is not None
        assert found.interval is not None
        assert (found.interval.mean, found.interval.low) == pytest.approx((expected, expected))


def test_a_dial_is_read_at_a_place_as_it_is() -> None:
    """Setting 30 dB has the better metric too, and yet at 29 dB another setting is read."""
    l1 = points((30, 0.5))
    dial = points((30, 0.1), (28, 0.3))
    found = difference_at(dial, l1, l1[0][0], -1.0)
    assert found is not None
    assert (found.mean, found.low, found.high) == pytest.approx((-0.3, -0.3, -0.3))
    share = difference_at(dial, l1, l1[0][0], -1.0, relative=True)
    assert share is not None
    assert share.mean == pytest.approx(-0.6)


def test_a_place_that_a_dial_does_not_reach_is_not_read() -> None:
    l1, dial = points((30, 0.5)), points((30, 0.4), (29, 0.2))
    assert difference_at(dial, l1, l1[0][0], -1.1) is None
    assert difference_at(l1, dial, l1[0][0], -1.1) is None
    assert difference_at(dial, l1, l1[0][0], -0.9) is not None
