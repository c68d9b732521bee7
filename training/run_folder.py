"""The folder of a training run: settings, checkpoint, losses, pictures."""

from __future__ import annotations

import csv
import importlib.util
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from task_losses.files import replacing
from training.config import Config
from training.images import picture

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


class RunFolder:
    """Writes what a run leaves behind, and reads its checkpoint.

    ``config.json``, ``checkpoint.pt``, ``losses.csv`` (one row a step), TensorBoard's event files, ``losses.png``,
    and for each scale ``scale{k}.png``: the level, what it was made from, and the adversary's attempt. Without the
    packages in :data:`OPTIONAL` some of these are missing, and a line says so.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._waiting: list[tuple[int, int, dict[str, Tensor]]] = []

    @property
    def checkpoint_path(self) -> Path:
        return self.path / "checkpoint.pt"

    def create(self, config: Config) -> None:
        """Makes the folder.

        Raises:
            FileExistsError: it holds a run already.
        """
        if self.checkpoint_path.exists() or (self.path / "losses.csv").exists():
            raise FileExistsError(
                f"{self.path} holds a run already: continue it with --resume, or choose another folder with --out"
            )
        self.path.mkdir(parents=True, exist_ok=True)
        (self.path / "config.json").write_text(config.to_json() + "\n", encoding="utf-8")
        self._open_logs(config, kept=[])

    def load_checkpoint(self) -> dict[str, Any]:
        """The newest checkpoint.

        Raises:
            FileNotFoundError: there is none.
        """
        if not self.checkpoint_path.exists():
            raise FileNotFoundError(f"{self.path} holds no checkpoint to resume; start the run without --resume")
        checkpoint: dict[str, Any] = torch.load(self.checkpoint_path, weights_only=True, map_location="cpu")
        return checkpoint

    def save_checkpoint(self, content: dict[str, Any], config: Config) -> None:
        """Replaces the checkpoint at once: a kill leaves either the old one or the new one."""
        self.flush()
        with replacing(self.checkpoint_path) as partial:
            torch.save({**content, "config": json.dumps(asdict(config))}, partial)

    def resume_logs(self, config: Config, steps: int) -> None:
        """Continues the logs after the first ``steps`` steps; later rows are of work that was lost."""
        with (self.path / "losses.csv").open(newline="", encoding="utf-8") as file:
            kept = [row for row in csv.DictReader(file) if int(row["step"]) < steps]
        self._open_logs(config, kept)

    def _open_logs(self, config: Config, kept: list[dict[str, str]]) -> None:
        self._csv = (self.path / "losses.csv").open("w", newline="", encoding="utf-8")
        self._rows = csv.DictWriter(self._csv, ("step", "scale", *loss_names(config)))
        self._rows.writeheader()
        self._rows.writerows(kept)
        self._csv.flush()
        self._lacking = lacking()
        if self._lacking:
            left_out = ", ".join(OPTIONAL[package] for package in self._lacking)
            print(f"{self.path} goes without {left_out}: {', '.join(self._lacking)} not installed", file=sys.stderr)
        self._events: Any = None
        if "tensorboard" not in self._lacking:
            from torch.utils.tensorboard import SummaryWriter

            self._events = SummaryWriter(str(self.path), purge_step=len(kept) or None)

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
        for (step, scale, losses), row in zip(self._waiting, values, strict=True):
            named = dict(zip(losses, row, strict=True))
            self._rows.writerow({"step": step, "scale": scale, **named})
            for name, value in named.items() if self._events else ():
                self._events.add_scalar(f"scale{scale}/{name}", value, step)
        self._waiting.clear()
        self._csv.flush()
        if not all(math.isfinite(value) for row in values for value in row):
            raise FloatingPointError(
                f"the losses stopped being finite, see {self.path / 'losses.csv'}; try a lower --lr"
            )

    def save_preview(self, scale: int, pictures: Sequence[Tensor]) -> None:
        if "PIL" not in self._lacking:
            picture(torch.cat(list(pictures), dim=3)).save(self.path / f"scale{scale}.png")

    def save_curves(self) -> None:
        """Draws ``losses.png`` from ``losses.csv``."""
        if "matplotlib" in self._lacking:
            return
        from matplotlib.figure import Figure

        self.flush()
        with (self.path / "losses.csv").open(newline="", encoding="utf-8") as file:
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
        figure.savefig(self.path / "losses.png", dpi=100)

    def close(self) -> None:
        self.flush()
        self._csv.close()
        if self._events:
            self._events.close()
