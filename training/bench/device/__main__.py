"""Everything that only a GPU can tell, within minutes: each stage writes its file at once, a failure is recorded.

    python -m training.bench.device --dry-run                       # what would run, and what it needs
    python -m training.bench.device --out runs/device               # at most eight files; also on a CPU, small
    python -m training.bench.device --prepare runs/prepared         # for a machine without scikit-image and Pillow:
    python -m training.bench.device --out runs/device --prepared runs/prepared

The commit is that of the checkout; without one give it with --commit. Nothing is downloaded.
"""

from __future__ import annotations

import argparse
import platform
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

if not __package__:  # run by its path
    sys.path[0] = str(Path(__file__).resolve().parents[3])

from training.bench.device.runner import SUMMARY, ended_by_signals, run_parts
from training.bench.device.stages import BUDGET, PARTS, STAGES, Part, chosen

ROOT = Path(__file__).parents[3]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m training.bench.device", description=(__doc__ or "").split("\n\n")[0]
    )
    parser.add_argument("--out", type=Path, help="folder of the results")
    parser.add_argument("--commit", help="of the code, for the record [as git says, or unknown]")
    parser.add_argument("--budget", type=float, default=BUDGET, help="seconds for everything [%(default)s]")
    of_all = f"of {', '.join(STAGES)}; or a part, like losses.eager [all]"
    parser.add_argument("--stages", nargs="+", default=[], metavar="STAGE", help=of_all)
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="[cuda where there is one]")
    parser.add_argument("--prepared", type=Path, help="a folder that --prepare has made")
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--prepare", type=Path, metavar="FOLDER", help="write the images of the recipes there and stop")
    action.add_argument("--dry-run", action="store_true", help="list what would run and stop")
    arguments = parser.parse_args(argv)
    try:
        parts = chosen(arguments.stages)
    except ValueError as error:
        parser.error(str(error))
    if arguments.dry_run:
        print(listing(parts, arguments.budget))
        return 0
    if arguments.prepare:
        from training.bench.device.prepared import prepare

        prepare(arguments.prepare)
        return 0
    if arguments.out is None:
        parser.error("--out is needed: the folder of the results")
    out = arguments.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    for stale in [SUMMARY, *(f"{part.stage}.json" for part in PARTS)]:
        (out / stale).unlink(missing_ok=True)
    options = ["--device", arguments.device]
    options += ["--commit", arguments.commit] if arguments.commit else []
    options += ["--prepared", str(arguments.prepared.resolve())] if arguments.prepared else []

    def command(part: Part, seconds: float) -> Sequence[str]:
        one = "training.bench.device.part"
        given = ["--file", str(out / f"{part.stage}.json"), "--end", f"{time.time() + seconds:.1f}"]
        return [sys.executable, "-m", one, part.full_name, *given, *options]

    about = {
        "begun": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "commit": arguments.commit or "as in the stages' files",
        "python": platform.python_version(),
        "device": arguments.device,
    }
    with ended_by_signals():
        rows = run_parts(parts, command, out, ROOT, arguments.budget, about)
    counts = Counter(row["status"] for row in rows)
    print(f"{out}: " + ", ".join(f"{count} {status}" for status, count in counts.items()))
    return 0


def listing(parts: Sequence[Part], budget: float) -> str:
    """A line for each part: what it may take, needs, and does without a GPU."""
    whole = sum(part.share for part in parts)
    lines = [f"{'part':<20}{'seconds':>8}  {'needs':<66}on a CPU"]
    for part in parts:
        seconds = budget * part.share / whole
        lines.append(f"{part.full_name:<20}{seconds:>8.0f}  {part.needs or '-':<66}{part.on_cpu or 'passed over'}")
    return "\n".join([*lines, "Seconds are the least that a part may take: what others leave comes on top."])


if __name__ == "__main__":
    sys.exit(main())
