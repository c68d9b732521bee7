"""What the dial of the texture term is claimed to do, as lines that the results of a study decide.

A study of the dial holds ``ours`` and the control ``random`` at several settings (``ours~1``), L1, and rivals with
their mixes. A line holds as in :mod:`training.bench.report.verdicts`: yes, by the mean only, no, or open.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import product

from training.bench.markdown import table
from training.bench.report.bootstrap import Front, Interval, difference_at, front_difference
from training.bench.report.rows import Row, Rows, front, settings
from training.bench.report.tables import difference, shared_part, shared_seeds, shown
from training.bench.report.verdicts import BY_MEAN, CERTAIN, FAILED, NO_ROW, OPEN, Claim, Line
from training.bench.study.metrics import METRICS

PRICE = 0.1  # dB under L1's PSNR
RECOMMENDED = 1.0
GAIN = {"sr": 0.12, "denoise": 0.30, "jpeg": 0.14}  # share of L1's ST-LPIPS that the price has to buy
FREE_GAIN = 0.05  # and what has to be had for nothing
GRIDS, GRID = ("pattern", "dots"), 1.1  # times L1's
VISIBLE, ON_IMAGES = 9.7, 0.5  # JOD between L1's image and ours, enlarged; share of the images
RIVALS = ("vgg", "msssim-l1")
NOT_REACHED = "not reached"
CONTROL, OURS = "random", "ours"


def render_dial(task: str, rows: Rows, visible: Mapping[str, float] | None = None) -> str:
    """A table of the claims about one task's dial, with what was measured.

    Args:
        visible: image -> JOD between what L1's network and ours make of it, of ``training.bench.report.visible``.
    """
    return table(["against", "claim", "measured", "seeds", "holds"], list(_lines(task, rows, visible)))


def _lines(task: str, rows: Rows, visible: Mapping[str, float] | None) -> Iterator[Line]:
    if not settings(rows, OURS) or "l1" not in rows:
        yield f"`{OURS}`", "everything", NO_ROW, "0", OPEN
        return
    yield from _at_the_price(rows, "l1", GAIN[task], Claim("cvvdp", 0.01))
    for rival in RIVALS:
        yield from _at_the_price(rows, rival, 0.0, Claim("cvvdp"))
    yield from _at_equal(rows, "vgg", "stlpips", ("psnr", "ssim", "cvvdp"), alone=True)
    for axis, metrics in (("psnr", ("cvvdp", "stlpips", "ssim")), ("stlpips", ("cvvdp", "psnr", "ssim"))):
        yield from _at_equal(rows, CONTROL, axis, metrics)
    yield _for_nothing(rows)
    yield from _grid(rows)
    for other in sorted({row.family for row in rows.values() if row.family.startswith(f"{OURS}:")}):
        yield from _at_equal(rows, other, "psnr", ("stlpips", "cvvdp"))
    yield _seen(visible)


def _points(rows: Rows, loss: str) -> list[Row]:
    """A loss's settings of the dial, or its mixes with L1, or the loss alone."""
    return settings(rows, loss) or front(rows, loss)


def _scores(of: Sequence[Row], axis: str, metric: str) -> Front:
    return [(row.scores.get(axis, {}), row.scores.get(metric, {})) for row in of]


def _at_the_price(rows: Rows, baseline: str, gain: float, second: Claim) -> Iterator[Line]:
    """Where ours costs ``PRICE`` against L1: ST-LPIPS under the baseline's by a share, and a claim on another metric.

    A rival that does not reach that place is met where it stands.
    """
    where = f"`{baseline}`, {PRICE:g} dB under L1"
    ours, theirs, l1 = _points(rows, OURS), _points(rows, baseline), rows["l1"]
    if not theirs:
        yield where, "everything", NO_ROW, "0", OPEN
        return

    def read(metric: str, *, relative: bool = False) -> Interval | None:
        first, second = _scores(ours, "psnr", metric), _scores(theirs, "psnr", metric)
        return difference_at(first, second, l1.scores["psnr"], -PRICE, relative=relative)

    share, found = read("stlpips", relative=True), read(second.metric)
    if baseline != "l1" and (len(theirs) == 1 or share is None):
        yield from _at_equal(rows, baseline, "psnr", ("stlpips", "cvvdp"), alone=True)
        return
    read_rows = [*ours, *theirs, l1]
    claim = f"ST-LPIPS lower by {100 * gain:.0f} % at least" if gain else "ST-LPIPS lower"
    yield where, claim, percent(share), shared_seeds(read_rows, "psnr", "stlpips"), _below(share, -gain)
    text = shown(second.metric, found) or NOT_REACHED
    yield where, str(second), text, shared_seeds(read_rows, "psnr", second.metric), second.holds(found)


def percent(share: Interval | None) -> str:
    if share is None:
        return NOT_REACHED
    text = f"{100 * share.mean:+.1f} % [{100 * share.low:+.1f}, {100 * share.high:+.1f}]"
    return f"**{text}**" if share.excludes_zero else text


def _below(found: Interval | None, bound: float) -> str:
    if found is None:
        return OPEN
    if found.high < bound:
        return CERTAIN
    return BY_MEAN if found.mean < bound else FAILED


def _at_equal(rows: Rows, baseline: str, axis: str, metrics: tuple[str, ...], *, alone: bool = False) -> Iterator[Line]:
    """One dial against another, where both reach the axis; or, of a baseline ``alone``, where it stands."""
    where = f"`{baseline}`, at {'its' if alone else 'equal'} {METRICS[axis].title}"
    ours = _points(rows, OURS)
    theirs = [row for row in (rows.get(baseline),) if row] if alone else _points(rows, baseline)
    if not theirs:
        yield where, "everything", NO_ROW, "0", OPEN
        return
    for metric in metrics:
        seeds = shared_seeds([*ours, *theirs], axis, metric)
        first, second = _scores(ours, axis, metric), _scores(theirs, axis, metric)
        compared = front_difference(first, second, axis_higher=METRICS[axis].higher_is_better, give_way=False)
        found = compared.interval if compared else None
        reach = shared_part(compared, axis) if compared else NO_ROW
        claim = Claim(metric)
        yield where, str(claim), f"{shown(metric, found)} at {reach}" if found else reach, seeds, claim.holds(found)


def _for_nothing(rows: Rows) -> Line:
    """The best setting, or mix with L1, that costs no PSNR by its mean."""
    claim = f"PSNR not lower, and ST-LPIPS lower by {100 * FREE_GAIN:.0f} % at least"
    l1, best = rows["l1"], None
    for row in (row for row in rows.values() if row.family == OURS):
        price = difference(row, l1, "psnr")
        share = difference_at(
            _scores([row], "psnr", "stlpips"), _scores([l1], "psnr", "stlpips"), l1.scores["psnr"], relative=True
        )
        if price is not None and share is not None and price.mean >= 0 and (best is None or share.mean < best[2].mean):
            best = row, price, share
    if best is None:
        return "`l1`", claim, "no setting costs no PSNR", shared_seeds([l1]), FAILED
    row, price, share = best
    verdict = _below(share, -FREE_GAIN)
    if verdict == CERTAIN and price.low < 0:
        verdict = BY_MEAN
    text = f"`{row.label}`: PSNR {shown('psnr', price)}, ST-LPIPS {percent(share)}"
    return "`l1`", claim, text, shared_seeds([row, l1], "psnr", "stlpips"), verdict


def _grid(rows: Rows) -> Iterator[Line]:
    """The power of a grid, and of dots, at each setting up to the recommended one."""
    l1, of_dial = rows["l1"], [row for row in settings(rows, OURS) if (row.dial or 0.0) <= RECOMMENDED]
    for row, metric in product(of_dial, GRIDS):
        pairs = [(dict.fromkeys(of, 0.0), of) for of in (of_row.scores.get(metric, {}) for of_row in (row, l1))]
        share = difference_at(pairs[:1], pairs[1:], pairs[1][0], relative=True)
        claim = f"`{row.label}`: {METRICS[metric].title} at most {GRID:g} times"
        text = NO_ROW if share is None else f"{1 + share.mean:.2f} [{1 + share.low:.2f}, {1 + share.high:.2f}]"
        yield "`l1`", claim, text, shared_seeds([row, l1], metric), _below(share, GRID - 1)


def _seen(visible: Mapping[str, float] | None) -> Line:
    claim = (
        f"CVVDP between both images, enlarged 4 times, at most {VISIBLE:g} JOD on {100 * ON_IMAGES:.0f} % of the images"
    )
    where = f"`l1`, `{OURS}~{RECOMMENDED:g}`"
    if not visible:
        return where, claim, NO_ROW, "0", OPEN
    values = sorted(visible.values())
    share = sum(value <= VISIBLE for value in values) / len(values)
    text = f"{100 * share:.0f} %; median {values[len(values) // 2]:.2f}, from {values[0]:.2f} to {values[-1]:.2f} JOD"
    return where, claim, text, "1", CERTAIN if share >= ON_IMAGES else FAILED
