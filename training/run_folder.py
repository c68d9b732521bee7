"""The folder of a training run: settings, checkpoint, losses, pictures."""

from __future__ import annotations

import csv
import importlib.util
import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from task_losses.files import naming, remove_partials, replacing, write_file
from training.checkpoint import read_checkpoint, write_checkpoint
from training.config import Config
from training.events import EventFile
from training.images import labelled
from training.lock import alone

FLUSH_EVERY = 25
# What a run's folder goes without where a package is not installed; the training itself needs none of them.
OPTIONAL = {"tensorboard": "event files", "matplotlib": "losses.png", "PIL": "pictures of the scales"}


def lacking() -> list[str]:
    """Of the packages in :data:`OPTIONAL`, those that are not installed."""
    return [package for package in OPTIONAL if importlib.util.find_spec(package) is None]


def loss_names(config: Config) -> tuple[str, ...]:
    """Of a run's columns in ``losses.csv``, see :meth:`training.scale.Scale.losses`."""
    penalty = ("gradient_penalty",) if config.objective == "wgan-gp" else ()
    generator = ("adversarial", "reconstruction") if config.generator else ()
    return ("critic_distance", *penalty, *generator)


def _columns(config: Config) -> tuple[str, ...]:
    return ("step", "scale", *loss_names(config))


class RunFolder:
    """Writes what a run leaves behind, and reads its checkpoint.

    ``config.json``, ``checkpoint.pt``, ``losses.csv`` (one row a step), TensorBoard's event files, ``losses.png``,
    and for each scale ``scale{k}.png``: the level, what it was made from, and the adversary's attempt. Without the
    packages in :data:`OPTIONAL` some of these are missing, and a line says so. While a process writes here it holds the
    lock on ``run.lock``.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._waiting: list[tuple[int, int, dict[str, Tensor]]] = []
        self._held = ExitStack()  # the lock, while the folder is open
        self._open = False

    @property
    def checkpoint_path(self) -> Path:
        return self.path / "checkpoint.pt"

    @property
    def begun(self) -> bool:
        """Whether a run was begun here that has a checkpoint, or has not come that far."""
        return self.checkpoint_path.exists() or self._config_path.exists()

    @property
    def _config_path(self) -> Path:
        return self.path / "config.json"

    def create(self, config: Config) -> None:
        """Makes the folder, or begins again what has no checkpoint yet.

        Raises:
            FileExistsError: it holds a run that would be lost.
            BlockingIOError: another process writes there.
        """
        if not self._open and self.path.is_dir():
            self._refuse_to_overwrite()  # before the lock, which leaves a file
        self.path.mkdir(parents=True, exist_ok=True)
        self.lock()
        self._refuse_to_overwrite()
        if self._config_path.exists():
            for pattern in ("events.out.tfevents.*", "scale*.png", "losses.*"):  # of what got no checkpoint
                for left in self.path.glob(pattern):
                    left.unlink()
        write_file(self._config_path, (config.to_json() + "\n").encode())
        self._open_logs(config, kept=[])

    def _refuse_to_overwrite(self) -> None:
        if self.checkpoint_path.exists() or (self._csv_path.exists() and not self._config_path.exists()):
            raise FileExistsError(
                f"{self.path} holds a run already: continue it with --resume, or choose another folder with --out"
            )

    def lock(self) -> None:
        """Keeps other processes out until :meth:`close`, and removes what killed ones left.

        Raises:
            BlockingIOError: another process writes there.
        """
        if not self._open:
            self._held.enter_context(alone(self.path / "run.lock"))
            self._open = True
            for path in (self.checkpoint_path, self._config_path, self._csv_path):
                remove_partials(path)

    def load_checkpoint(self) -> dict[str, Any]:
        """The newest checkpoint, checked.

        Raises:
            FileNotFoundError: there is none.
            ValueError: it is damaged.
        """
        if not self.checkpoint_path.exists():
            raise FileNotFoundError(f"{self.path} holds no checkpoint to resume; start the run without --resume")
        return read_checkpoint(self.checkpoint_path)

    def load_config(self) -> Config:
        """The settings of a run that has no checkpoint yet.

        Raises:
            ValueError: the file is damaged.
            OSError: it cannot be read.
        """
        try:
            return Config.from_dict(json.loads(self._config_path.read_bytes()))
        except (ValueError, AttributeError, RecursionError) as error:
            raise ValueError(
                f"{self._config_path} is damaged: {error}; delete it and give the settings again"
            ) from error

    def save_checkpoint(self, content: dict[str, Any], config: Config) -> None:
        """Replaces the checkpoint at once: a kill leaves either the old one or the new one."""
        self.flush()
        write_checkpoint(self.checkpoint_path, {**content, "config": json.dumps(asdict(config))})

    def resume_logs(self, config: Config, steps: int) -> None:
        """Continues the logs after the first ``steps`` steps; later rows are of work that was lost.

        Raises:
            BlockingIOError: another process writes there.
        """
        self.lock()
        kept = self._rows_before(config, steps)
        if len(kept) < steps:
            print(
                f"{self._csv_path} has lost {steps - len(kept)} of {steps} rows; the weights lack none", file=sys.stderr
            )
        self._open_logs(config, kept)

    def _rows_before(self, config: Config, steps: int) -> list[dict[str, str]]:
        """Rows that a kill or a power cut has left whole."""
        try:
            lines = self._csv_path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
        except FileNotFoundError:
            return []
        kept = []
        for row in csv.DictReader(line for line in lines if line.endswith("\n") and "\0" not in line):
            try:
                values = {name: float(row[name]) for name in _columns(config)}
            except (KeyError, TypeError, ValueError):
                continue
            if values["step"] < steps:
                kept.append({name: row[name] for name in _columns(config)})
        return kept

    @property
    def _csv_path(self) -> Path:
        return self.path / "losses.csv"

    def _open_logs(self, config: Config, kept: list[dict[str, str]]) -> None:
        with replacing(self._csv_path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
            rows = csv.DictWriter(file, _columns(config))
            rows.writeheader()
            rows.writerows(kept)
        self._names = _columns(config)
        self._lacking = lacking()
        if self._lacking:
            left_out = ", ".join(OPTIONAL[package] for package in self._lacking)
            print(f"{self.path} goes without {left_out}: {', '.join(self._lacking)} not installed", file=sys.stderr)
        self._events: EventFile | None = None
        if "tensorboard" not in self._lacking:
            with _extra(self.path / "the event file"):
                self._events = EventFile(self.path, len(kept))

    def log(self, step: int, scale: int, losses: dict[str, Tensor]) -> None:
        """Notes a step's losses, scalars. They stay on the device until the next flush, so a GPU need not wait."""
        self._waiting.append((step, scale, {name: loss.detach() for name, loss in losses.items()}))
        if len(self._waiting) >= FLUSH_EVERY:
            self.flush()

    def flush(self) -> None:
        """Writes the noted losses.

        Raises:
            FloatingPointError: one of them is not finite.
        """
        if not self._waiting:
            return
        values = torch.stack([torch.stack(list(losses.values())) for _, _, losses in self._waiting]).tolist()
        noted = [
            (step, scale, dict(zip(losses, row, strict=True)))
            for (step, scale, losses), row in zip(self._waiting, values, strict=True)
        ]
        self._waiting.clear()
        # Opened each time: a file that stays open on a full disk fails again when it is closed.
        with naming(self._csv_path), self._csv_path.open("a", newline="", encoding="utf-8") as file:
            rows = csv.DictWriter(file, self._names)
            rows.writerows({"step": step, "scale": scale, **named} for step, scale, named in noted)
        events, self._events = self._events, None
        if events is not None:
            with _extra(events.path):
                events.add((step, {f"scale{scale}/{k}": x for k, x in named.items()}) for step, scale, named in noted)
                self._events = events  # none where it failed: nothing can follow on half a record
        if not all(math.isfinite(value) for row in values for value in row):
            raise FloatingPointError(f"the losses stopped being finite, see {self._csv_path}; try a lower --lr")

    def save_preview(self, scale: int, pictures: Mapping[str, Tensor]) -> None:
        """Draws ``scale{k}.png``.

        Args:
            pictures: by what is written above each, (1, 3, H, W) in [0, 1] of one size.
        """
        if "PIL" not in self._lacking:
            with _extra(self.path / f"scale{scale}.png") as path:
                labelled(pictures).save(path)

    def save_curves(self) -> None:
        """Draws ``losses.png`` from ``losses.csv``."""
        self.flush()
        if "matplotlib" not in self._lacking:
            with _extra(self.path / "losses.png") as path:
                self._draw_curves(path)

    def _draw_curves(self, path: Path) -> None:
        from matplotlib.figure import Figure

        with self._csv_path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        names = [name for name in rows[0] if name not in ("step", "scale")]
        figure = Figure(figsize=(9, 2.2 * len(names)), layout="constrained")
        starts = [int(b["step"]) for a, b in pairwise(rows) if a["scale"] != b["scale"]]
        for axis, name in zip(figure.subplots(len(names), sharex=True, squeeze=False)[:, 0], names, strict=True):
            axis.plot([int(row["step"]) for row in rows], [float(row[name]) for row in rows], linewidth=0.8)
            axis.set_ylabel(name.replace("_", " "))
            for start in starts:
                axis.axvline(start, color="grey", linewidth=0.5)
        axis.set_xlabel("step (grey lines: the next finer scale begins)")
        figure.savefig(path, dpi=100)

    def ending(self, action: Callable[[], None]) -> None:
        """Has something done when the folder is closed."""
        self._held.callback(action)

    def close(self) -> None:
        """Writes what waits, and lets other processes in; also where the folder was never opened, or is closed."""
        held, self._held, self._open = self._held, ExitStack(), False
        with held:
            self.flush()


@contextmanager
def _extra(path: Path) -> Iterator[Path]:
    """Where a picture goes, or what else nobody needs: one that cannot be written is no reason to lose a training."""
    try:
        yield path
    except Exception as error:
        print(f"warning: {path} was not written: {type(error).__name__}: {error}", file=sys.stderr)
