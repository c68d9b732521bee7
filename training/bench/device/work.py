"""What every part's process has in common: its command line, its time, its rows."""

from __future__ import annotations

import importlib.metadata
import os
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from training.bench.device.files import read_content, write_content
from training.provenance import machine


class Skipped(Exception):
    """Why a part does nothing here, in a line."""


class Work:
    """A part at work.

    Attributes:
        part: its name.
        device: to measure on. On the CPU sizes are small: the numbers say nothing, the code is the same.
        prepared: a folder of :func:`training.bench.device.prepared.prepare`, if there is one.
    """

    def __init__(
        self, part: str, file: Path, device: torch.device, end: float, commit: str | None, prepared: Path | None
    ) -> None:
        self.part, self.file, self.device, self.prepared = part, file, device, prepared
        self._end = end
        self.errors = 0
        about = machine() | {"triton": _version("triton"), "cuda": torch.version.cuda, "cores": os.cpu_count()}
        about |= {"commit": commit} if commit else {}
        self._content = read_content(file) or {"rows": []}
        self._content["machine"] = about

    @property
    def small(self) -> bool:
        return self.device.type == "cpu"

    def left(self) -> float:
        """Seconds until the part is ended; by the clock, since loading torch has taken some of them."""
        return self._end - time.time()

    def add(self, **row: Any) -> dict[str, Any]:
        """Writes a row of results, at once.

        Returns:
            the row; what is changed in it :meth:`save` writes.
        """
        whole = {"part": self.part, **row}
        self._content["rows"].append(whole)
        self.save()
        return whole

    def save(self) -> None:
        write_content(self.file, self._content)

    @contextmanager
    def noted(self, **row: Any) -> Iterator[dict[str, Any]]:
        """A row whose making may fail: then it is written with the error, and the part goes on, but has failed."""
        try:
            yield row
        except (Skipped, ModuleNotFoundError):
            raise
        except Exception as error:
            self.failed(error, **row)
        else:
            self.add(**row)

    def failed(self, error: Exception, **row: Any) -> None:
        """Writes a row that could not be made, and why."""
        self.errors += 1
        traceback.print_exception(error)
        self.add(**row, error=f"{type(error).__name__}: {error}")

    def need_cuda(self) -> None:
        """Passes the part over where there is no device."""
        if self.device.type != "cuda":
            raise Skipped("needs a CUDA device")


Parts = Mapping[str, Callable[[Work], None]]


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
