"""Runs parts one after another, each in a process with a time limit; what happens to one is a result, not an end."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from training.bench.device.files import LONGEST_TEXT, read_content, remove_unfinished, write_content
from training.bench.device.stages import Part

SKIPPED = 77  # status of a process that says why it does nothing, as automake has it
SHORTEST = 3.0  # seconds; torch alone takes as long to load
SUMMARY = "device.json"

Command = Callable[[Part, float], Sequence[str]]  # the part and its seconds -> what to run


class Ended(NamedTuple):
    """How a process ended.

    Attributes:
        status: None where the time limit ended it.
        output: the end of what it printed, errors included.
    """

    status: int | None
    output: str


def run_limited(command: Sequence[str], seconds: float, cwd: Path, environment: dict[str, str] | None = None) -> Ended:
    """Runs a command, and ends it with all its children when its time is over."""
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            command, cwd=cwd, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
        try:
            status = process.wait(seconds)
        except subprocess.TimeoutExpired:
            status = None
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            with contextlib.suppress(subprocess.TimeoutExpired):  # a driver may hold on to it
                process.wait(5)
        output.seek(max(0, output.seek(0, os.SEEK_END) - LONGEST_TEXT))
        return Ended(status, output.read().decode("utf-8", errors="replace"))


def run_parts(
    parts: Sequence[Part], command: Command, out: Path, root: Path, budget: float, about: dict[str, Any]
) -> list[dict[str, Any]]:
    """Runs parts within a budget.

    A part may take its share of the time that is left, by the shares of those that are left: what a quick one leaves
    goes to those behind it, and a slow one takes nothing from them.

    Args:
        out: folder of the files; each stage's is ``STAGE.json``, and ``device.json`` says how each part ended.
        root: folder of the code.
        budget: seconds for all parts.
        about: what ``device.json`` says of the run.

    Returns:
        of each part: name, status (``passed``, ``skipped``, ``failed``, ``out of time``), seconds, limit and output.
    """
    begun = time.monotonic()
    rows: list[dict[str, Any]] = [{"part": part.full_name, "status": "waiting"} for part in parts]

    def save() -> None:
        write_content(out / SUMMARY, {**about, "budget": budget, "seconds": time.monotonic() - begun, "rows": rows})

    for index, part in enumerate(parts):
        left = budget - (time.monotonic() - begun)
        limit = left * part.share / sum(later.share for later in parts[index:])
        if limit < SHORTEST:
            rows[index] |= {
                "status": "out of time",
                "seconds": 0.0,
                "limit": limit,
                "output": "no time was left",
            }
            save()
            continue
        rows[index] |= {"status": "running", "limit": limit}
        save()
        started = time.monotonic()
        file = out / f"{part.stage}.json"
        try:
            ended = run_limited(command(part, limit), limit, root)
            status, output = _judged(part, ended, file)
        except OSError as error:
            status, output = "failed", f"cannot be started: {error}"
        remove_unfinished(file)
        rows[index] |= {"status": status, "seconds": time.monotonic() - started, "output": output}
        save()
        print(f"{part.full_name}: {status}, {rows[index]['seconds']:.0f} of {limit:.0f} s", flush=True)
    save()
    return rows


def _judged(part: Part, ended: Ended, file: Path) -> tuple[str, str]:
    if ended.status is None:
        return "out of time", ended.output
    if ended.status == SKIPPED:
        return "skipped", ended.output
    if ended.status:
        return "failed", f"status {ended.status}\n{ended.output}"
    content = read_content(file)
    if content is None:
        return "failed", f"left no results in {file.name}\n{ended.output}"
    if not any(row.get("part") == part.name for row in content["rows"] if isinstance(row, dict)):
        return "failed", f"left no row of its own in {file.name}\n{ended.output}"
    return "passed", ended.output[-400:]


@contextlib.contextmanager
def ended_by_signals() -> Iterator[None]:
    """A polite kill ends the running part too."""

    def stop(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
