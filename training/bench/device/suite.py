"""``pytest -m gpu`` as a result: every test's outcome is written as it comes, so a time-out keeps those before it."""

from __future__ import annotations

import importlib.util
import os
from collections import Counter
from typing import Any

from training.bench.device.work import Skipped, Work
from training.provenance import ROOT

_FAILURES = 30  # that are written with their text
_PROCESSES = 12  # at once, each with a context of its own on the device


class Reporter:
    """A pytest plugin: counts outcomes, and writes what failed."""

    def __init__(self, work: Work) -> None:
        self.work = work
        self.row = work.add(counts={})
        self.failures = 0

    def pytest_collectreport(self, report: Any) -> None:
        if report.failed:  # a test file that cannot be imported
            self._note("error", report)

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.when == "call" or not report.passed:
            self._note(report.outcome, report)

    def _note(self, outcome: str, report: Any) -> None:
        reason = ""
        if outcome == "skipped":  # why decides what it says
            text = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longreprtext
            reason = f": {text.removeprefix('Skipped: ')}"
        self.row["counts"] = dict(Counter(self.row["counts"]) + Counter([outcome + reason]))
        self.work.save()
        if outcome in ("failed", "error"):
            self.failures += 1
            if self.failures <= _FAILURES:
                self.work.add(test=report.nodeid, outcome=outcome, text=report.longreprtext)


def gpu(work: Work) -> None:
    """Tests of kernels first: they decide whether anything else here can be believed."""
    if importlib.util.find_spec("pytest") is None:
        raise Skipped("needs pytest")
    import pytest

    os.chdir(ROOT)
    reporter = Reporter(work)
    places = ["tests/kernels/test_selfcheck.py"] if work.small else ["tests/kernels", "tests"]
    flags = ["-m", "gpu", "-p", "no:cacheprovider", "--durations", "5"]
    if not work.small and importlib.util.find_spec("xdist"):  # most of a test's time the compiler takes, on the host
        flags += ["-n", str(min(_PROCESSES, len(os.sched_getaffinity(0))))]
    status = pytest.main([*flags, *places], plugins=[reporter])
    reporter.row["status"] = int(status)
    work.save()
    if status:
        work.errors += 1


PARTS = {"gpu": gpu}
