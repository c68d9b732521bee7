"""TensorBoard's event file of a run.

torch's ``SummaryWriter`` writes in a thread. Where the disk is full, that thread prints a traceback, which nobody can
catch, and the next scalar stops the training. Here whoever adds scalars gets the error.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from task_losses.files import naming


class EventFile:
    """Scalars for TensorBoard. The file is opened for each addition, and no longer.

    Args:
        folder: of the run.
        first_step: TensorBoard leaves out what earlier files of the folder say of this step and of later ones.

    Raises:
        ImportError: TensorBoard is not installed.
        OSError: the file cannot be written.
    """

    def __init__(self, folder: Path, first_step: int) -> None:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog  # slow to import

        now = time.time_ns()
        self.path = folder / f"events.out.tfevents.{now // 10**9:010d}.{now % 10**9:09d}"  # read in this order
        start = SessionLog(status=SessionLog.START)
        self._append([Event(file_version="brain.Event:2"), Event(step=first_step, session_log=start)])

    def add(self, steps: Iterable[tuple[int, Mapping[str, float]]]) -> None:
        """Notes values.

        Args:
            steps: the number of each, and its values by name.

        Raises:
            OSError: the file cannot be written. Its end may be half a record, after which none is read.
        """
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        self._append(
            Event(
                step=step,
                summary=Summary(value=[Summary.Value(tag=name, simple_value=x) for name, x in values.items()]),
            )
            for step, values in steps
        )

    def _append(self, events: Iterable[Any]) -> None:
        from tensorboard.summary.writer.record_writer import RecordWriter

        with naming(self.path), self.path.open("ab") as file:
            records = RecordWriter(file)
            for event in events:
                event.wall_time = time.time()
                records.write(event.SerializeToString())
