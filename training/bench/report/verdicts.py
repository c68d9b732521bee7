"""What the losses are claimed to do, as lines that the results decide.

A claim says that one row, the candidate, is better than another by some metric, or worse by less than a margin. It
holds for certain where the whole 95 % interval says so (yes), by the mean where only the mean does (mean only), else
not (no). A claim that cannot be judged, since a row was not measured or two fronts do not meet, is open.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from training.bench.markdown import table
from training.bench.report.bootstrap import Interval
from training.bench.report.rows import Rows, front, mixed_losses
from training.bench.report.tables import (
    difference,
    difference_on_fronts,
    heading,
    shared_part,
    shared_seeds,
    shown,
)
from training.bench.study.conditions import MAIN_METRICS, Conditions
from training.bench.study.metrics import METRICS

CERTAIN, BY_MEAN, FAILED, OPEN = "yes", "mean only", "no", "open"


@dataclass(frozen=True)
class Claim:
    """The candidate is better by a metric, or worse by less than ``margin``, in the metric's units."""

    metric: str
    margin: float = 0.0

    def __str__(self) -> str:
        metric = METRICS[self.metric]
        worse = "lower" if metric.higher_is_better else "higher"
        better = "higher" if metric.higher_is_better else "lower"
        return f"{metric.title} {f'at most {self.margin:g} {worse}' if self.margin else better}"

    def holds(self, found: Interval | None) -> str:
        """Verdict on a difference, candidate less baseline."""
        if found is None:
            return OPEN
        advantage = found if METRICS[self.metric].higher_is_better else Interval(-found.mean, -found.high, -found.low)
        if advantage.low > -self.margin:
            return CERTAIN
        return BY_MEAN if advantage.mean > -self.margin else FAILED


ALL_METRICS = tuple(map(Claim, MAIN_METRICS))
CONTROL = (Claim("stlpips"), Claim("psnr", 0.1), Claim("cvvdp", 0.01))
AT_EQUAL = {"psnr": (Claim("stlpips"), Claim("cvvdp")), "stlpips": (Claim("psnr"), Claim("cvvdp"))}
CONTROL_AT_EQUAL = {**AT_EQUAL, "psnr": (Claim("stlpips"), Claim("cvvdp", 0.01))}
PLAIN = (Claim("stlpips"), Claim("psnr", 0.15), Claim("cvvdp", 0.02))
PLAIN_SSIM = {"sr": (Claim("ssim"),), "jpeg": (Claim("ssim"),), "denoise": ()}
FIDELITY = (Claim("cvvdp"), Claim("flip"), Claim("psnr"), Claim("ssim"))
FEATURE_LOSSES = ("vgg", "stlpips-alex", "stlpips-vgg")

NO_ROW = "no results"
# As training.bench.cost.speed names them.
OUR_COSTS = {"ours": "JPEGLoss", "ours, DenoiseLoss": "DenoiseLoss", "ours, SRLoss": "SRLoss"}

Line = tuple[str, str, str, str, str]  # against, claim, measured, seeds, verdict


def render_verdicts(
    rows_of_tasks: Mapping[str, Rows], conditions: Conditions, ours: Mapping[str, str], speed: Path | None = None
) -> str:
    """For each task the claims with their measured differences and verdicts, and after them those about cost.

    Args:
        ours: task -> label of the candidate row.
        speed: figures of ``training.bench.cost.speed --json``.
    """
    parts = []
    for task, rows in rows_of_tasks.items():
        if task in ours:
            lines = list(_lines(task, rows, ours))
            name = f"## {heading(task, conditions)}: `{ours[task]}`"
            parts += [name, table(["against", "claim", "measured", "seeds", "holds"], lines)]
    if speed is not None:
        parts += ["## cost", render_cost(speed)]
    return "\n\n".join(parts) + "\n"


def render_cost(speed: Path) -> str:
    """The claims about cost alone; ``speed`` as for :func:`render_verdicts`."""
    return table(["claim", "measured", "holds"], _cost(json.loads(speed.read_text())))


def _lines(task: str, rows: Rows, ours: Mapping[str, str]) -> Iterator[Line]:
    candidate = ours[task]

    def alone(baseline: str, claims: tuple[Claim, ...]) -> list[Line]:
        return list(_at_working_point(rows, candidate, baseline, claims))

    def on_fronts(baseline: str, claims_of: Mapping[str, tuple[Claim, ...]] = AT_EQUAL) -> list[Line]:
        of_axes = (_on_fronts(rows, candidate, baseline, axis, claims) for axis, claims in claims_of.items())
        return [line for lines in of_axes for line in lines]

    if candidate not in rows:
        yield f"`{candidate}`", "everything", NO_ROW, "0", OPEN
        return
    baselines = ["authors@full", "random", "l1", *FEATURE_LOSSES, *wrong_losses(task, ours)]
    for baseline in baselines:
        if baseline not in rows:
            yield f"`{baseline}`", "everything", NO_ROW, "0", OPEN
        elif baseline == "authors@full":
            lines = alone(baseline, ALL_METRICS)
            yield from (*lines, _most_metrics(lines))
        elif baseline == "random":
            yield from (*alone(baseline, CONTROL), *on_fronts(baseline, CONTROL_AT_EQUAL))
        elif baseline == "l1":
            yield from alone(baseline, (*PLAIN, *PLAIN_SSIM[task]))
        elif baseline in FEATURE_LOSSES:
            yield from (*alone(baseline, FIDELITY), *on_fronts(baseline))
        else:
            yield from (*alone(baseline, ALL_METRICS), *on_fronts(baseline))


def wrong_losses(task: str, ours: Mapping[str, str]) -> list[str]:
    """Labels, in a task, of the losses of the other tasks: ``ours:sr`` or, for one of another name, that name."""
    others = {other: label for other, label in ours.items() if other != task}
    return sorted(
        re.sub(r"^[^@ ]+", rf"\g<0>:{other}", label) if label == ours[task] else label
        for other, label in others.items()
    )


def _at_working_point(rows: Rows, ours: str, baseline: str, claims: tuple[Claim, ...]) -> Iterator[Line]:
    """Each loss as it stands."""
    row, other = rows[ours], rows[baseline]
    for claim in claims:
        found = difference(row, other, claim.metric)
        yield (
            f"`{baseline}`",
            str(claim),
            shown(claim.metric, found),
            shared_seeds([row, other], claim.metric),
            claim.holds(found),
        )


def _on_fronts(rows: Rows, ours: str, baseline: str, axis: str, claims: tuple[Claim, ...]) -> Iterator[Line]:
    """Mixes with L1 of both losses, where both reach the same ``axis``; of a loss without mixes, that loss alone."""
    first, second = rows[ours].loss, rows[baseline].loss
    where = f"`{baseline}`, at equal {METRICS[axis].title}"
    if first not in mixed_losses(rows):
        yield where, ", ".join(map(str, claims)), f"no mixes of `{first}`", "0", OPEN
        return
    seeds = shared_seeds([*front(rows, first), *front(rows, second)])
    for claim in claims:
        compared = difference_on_fronts(rows, first, second, claim.metric, axis)
        found = compared.interval if compared else None
        reach = shared_part(compared, axis) if compared else NO_ROW
        text = f"{shown(claim.metric, found)} at {reach}" if found else reach
        yield where, str(claim), text, seeds, claim.holds(found)


def _most_metrics(lines: list[Line]) -> Line:
    """At least four of the five, FLIP and ColorVideoVDP among them, at least two for certain."""
    verdicts = {claim.metric: line[-1] for claim, line in zip(ALL_METRICS, lines, strict=True)}
    better = [name for name, verdict in verdicts.items() if verdict in (CERTAIN, BY_MEAN)]
    certain = [name for name, verdict in verdicts.items() if verdict == CERTAIN]
    holds = len(better) >= 4 and len(certain) >= 2 and {"flip", "cvvdp"} <= set(better)
    verdict = OPEN if OPEN in verdicts.values() else CERTAIN if holds else FAILED
    claim = "better on 4 of the 5 metrics, CVVDP and FLIP among them, 2 for certain"
    return lines[0][0], claim, f"{len(better)}, {len(certain)} for certain", lines[0][3], verdict


def _cost(speed: dict[str, dict[str, dict[str, dict[str, float]]]]) -> Iterator[tuple[str, str, str]]:
    """One run of ``training.bench.cost.speed``: nothing is resampled, so the figure itself decides."""
    times, memory = speed["time"], speed["memory_mb"]
    patches = next(shape for shape in times if not shape.startswith("1x"))
    for loss, name in OUR_COSTS.items():
        for shape, peer, least in (
            ("1x3x256x256", "authors' algorithm", 10.0),
            ("1x3x256x256", "VGG16, 4 blocks", 4.0),
            (patches, "VGG16, 4 blocks", 3.0),
        ):
            ratio = times[shape][peer]["times_ours"] / times[shape][loss]["times_ours"]
            claim = f"{peer}: at least {least:g} times the time of a step of {name}, {shape}"
            yield claim, f"{ratio:.2f}", CERTAIN if ratio >= least else FAILED
        share = memory[loss] / memory["VGG16, 4 blocks"]  # type: ignore[operator]
        claim = f"memory of a step of {name} at most half of VGG16's"
        yield claim, f"{share:.2f}", CERTAIN if share <= 0.5 else FAILED
