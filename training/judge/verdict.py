"""Differences with their intervals, and one sentence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean

from training.bench.markdown import table
from training.bench.report.bootstrap import Interval, Scores, front_difference, paired_difference
from training.bench.study.metrics import METRICS
from training.judge.contest import INPUT, L1, MSE, NEAREST, OWN, RANDOM

AXIS = "psnr"
EQUAL = 0.05  # dB of PSNR that count as equal
NOTHING = "nothing: the degraded crops"
BETTER, WORSE, ALIKE, TRADE = "better", "worse", "alike", "better and worse"

Results = Mapping[tuple[str, float | None], Mapping[str, Scores]]  # (name, pull) -> metric -> scores


@dataclass(frozen=True)
class Comparison:
    """The loss against one other.

    Attributes:
        differences: metric -> loss less the other, as the scores are.
        at_equal: whether these were read where both have the same PSNR, so that PSNR itself is not among them.
    """

    against: str
    differences: dict[str, Interval]
    at_equal: bool

    @property
    def won(self) -> list[str]:
        """Metrics by which the loss is certainly better: their interval excludes zero."""
        return [metric for metric, found in self.differences.items() if _advantage(metric, found).low > 0]

    @property
    def lost(self) -> list[str]:
        """Metrics by which it is certainly worse. PSNR may be worse by ``EQUAL``."""
        allowed = {AXIS: EQUAL}
        return [
            metric
            for metric, found in self.differences.items()
            if _advantage(metric, found).high < -allowed.get(metric, 0.0)
        ]

    @property
    def outcome(self) -> str:
        return (TRADE if self.lost else BETTER) if self.won else (WORSE if self.lost else ALIKE)


def _advantage(metric: str, found: Interval) -> Interval:
    return found if METRICS[metric].higher_is_better else Interval(-found.mean, -found.high, -found.low)


def compare(results: Results, against: str) -> Comparison:
    """At equal PSNR where both reach the same, over what each makes of its pulls; otherwise at the first pull.

    L1 and MSE stand alone, so that they are met at the first pull.
    """
    pulls = sorted(pull for name, pull in results if name == OWN and pull is not None)
    metrics = list(results[OWN, pulls[0]])
    if (against, pulls[0]) in results:
        fronts = [
            [(results[key][AXIS], results[key]) for key in ((L1, None), *((name, pull) for pull in pulls))]
            for name in (OWN, against)
        ]
        found: dict[str, Interval] = {}
        for metric in metrics:
            if metric == AXIS:
                continue
            first, second = ([(axis, scores[metric]) for axis, scores in front] for front in fronts)
            difference = front_difference(first, second, metric_higher=METRICS[metric].higher_is_better)
            if difference is not None and difference.interval is not None:
                found[metric] = difference.interval
        if len(found) == len(metrics) - 1:
            return Comparison(against, found, at_equal=True)
    other = results[(against, pulls[0]) if (against, pulls[0]) in results else (against, None)]
    paired = {metric: paired_difference(results[OWN, pulls[0]][metric], other[metric]) for metric in metrics}
    return Comparison(against, {name: x for name, x in paired.items() if x is not None}, at_equal=False)


def names(nearest: str | None) -> dict[str, str]:
    """What the rivals are called in sentences, in the order in which they are met."""
    others = {L1: "L1", MSE: "MSE", RANDOM: "random weights of its shape"}
    return others if nearest is None else {**others, NEAREST: nearest}


def sentence(
    recognised: Interval,
    restored: Interval,
    untouched: Comparison,
    comparisons: Sequence[Comparison],
    nearest: str | None,
) -> str:
    """The verdict. A loss has to know its distortion, and to be better than all of the others for certain.

    Args:
        recognised: share of pairs in which the true picture scores higher, chance is one half.
        restored: dB of PSNR that the network gains which was trained with L1.
        untouched: the loss against the degraded crops as they are. Where neither it nor L1 makes anything of them
            better, nothing was tried.
        nearest: name of the released loss that it met.
    """
    called = names(nearest)
    outcomes = {comparison.against: comparison.outcome for comparison in comparisons}
    if recognised.low <= 0.5:
        return (
            f"Not worth using: on photographs that it never saw it recognises its distortion in {recognised.mean:.0%} "
            "of pairs, which is not certainly more than chance."
        )
    if restored.low <= 0 and not untouched.won:
        return (
            "No verdict: it recognises its distortion, but the small networks undo nothing of it for certain: with L1 "
            f"PSNR changes by {shown(AXIS, restored)} dB, and with the loss no metric gets better for certain. "
            "So there is nothing to compare; try a stronger distortion, more photographs (--images) or "
            "more --start-steps."
        )
    behind = [name for name, outcome in outcomes.items() if outcome == WORSE]
    traded = [comparison for comparison in comparisons if comparison.outcome == TRADE]
    level = [name for name, outcome in outcomes.items() if outcome == ALIKE]
    ahead = [called[name] for name, outcome in outcomes.items() if outcome == BETTER]
    if not behind and not level and not traded:
        return f"Worth using: it recognises its distortion, and is better than {_listed(ahead)}."
    if not behind and not level:
        won, lost = (
            [METRICS[m].title for m in dict.fromkeys(metric for c in traded for metric in getattr(c, side))]
            for side in ("won", "lost")
        )
        return (
            f"Worth using where {_listed(won)} {_verb(won)} more than {_listed(lost)}: against "
            f"{_listed([called[c.against] for c in traded])} it gains the one and pays with the other."
        )
    though = f", though it is better than {_listed(ahead)}" if ahead else ""
    if set(behind + level) == {NEAREST}:
        word = "better" if behind else "as good, as far as this can tell"
        return f"Worth using where {nearest} cannot be: {nearest}, which is there already, is {word}{though}."
    if behind:
        return f"Not worth using: {_listed([called[name] for name in behind])} did better{though}."
    return (
        f"No case for using it: it recognises its distortion, but is not certainly better than "
        f"{_listed([called[name] for name in level])}{though}."
    )


def _verb(words: Sequence[str]) -> str:
    return "counts" if len(words) == 1 else "count"


def _listed(words: Sequence[str]) -> str:
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last


def shown(metric: str, found: Interval | None) -> str:
    if found is None:
        return ""
    digits = METRICS[metric].digits
    return f"{found.mean:+.{digits}f} ({found.low:+.{digits}f} to {found.high:+.{digits}f})"


def rendered(results: Results, comparisons: Sequence[Comparison], nearest: str | None) -> str:
    """A table of means, and one of differences."""
    metrics = list(next(iter(results.values())))
    called = {**names(nearest), OWN: "this loss", INPUT: NOTHING}
    titles = [
        METRICS[metric].title + ("" if METRICS[metric].higher_is_better else ", lower is better") for metric in metrics
    ]
    means = [
        [
            called[name] + ("" if pull is None else f", {pull:g} times L1's pull"),
            *(f"{mean(of_metric[metric].values()):.{METRICS[metric].digits}f}" for metric in metrics),
        ]
        for (name, pull), of_metric in results.items()
    ]
    differences = [
        [
            called[c.against] + (", at equal PSNR" if c.at_equal else ""),
            *(shown(metric, c.differences.get(metric)) for metric in metrics),
            c.outcome,
        ]
        for c in comparisons
    ]
    first = table(["trained with", *titles], means)
    return f"{first}\n\n{table(['this loss less', *titles, 'it is'], differences)}"
