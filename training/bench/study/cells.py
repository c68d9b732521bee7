"""Cells of the study: one task, one loss, one regime, one seed, each with a result file that is made once."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from task_losses.files import write_file
from task_losses.pyramid import resize
from training.bench.study.data import Picture, test_pair
from training.bench.study.metrics import Score, load_metrics, measure
from training.bench.study.peers import WITHOUT_TRAINING, Peer, Sources, find_peer
from training.bench.study.restoration import Recipe, fine_tune, save_network, short_hash, start_network

CURVE_METRICS = ("psnr", "stlpips")
CURVE_IMAGES, CURVE_CROP = 6, 128


@dataclass(frozen=True)
class Cell:
    """Attributes: ratio: None for the loss alone, else its gradient's norm relative to L1's, see ``fine_tune``."""

    task: str
    loss: str
    ratio: float | None
    seed: int


@dataclass(frozen=True)
class Test:
    """What restored networks are measured on: the given levels of each task, central crops (0: whole images)."""

    pictures: Sequence[Picture]
    levels: Mapping[str, Sequence[int]]
    crop: int
    metrics: Sequence[str]


@dataclass(frozen=True)
class Study:
    """Everything that the cells have in common."""

    recipe: Recipe
    training: Sequence[Picture]
    test: Test
    sources: Sources
    folder: Path

    def run(self, cell: Cell) -> dict[str, Any]:
        """The content of the cell's result file, which is made, or completed, first if need be.

        Raises:
            ImportError: the loss needs a package that is not installed.
            FloatingPointError: the training diverged.
        """
        path, config = self.locate(cell)
        result = json.loads(path.read_text()) if path.is_file() else self._train(cell, path, config)
        if self._evaluate(result, path):
            write_json(result, path)
        return result

    def locate(self, cell: Cell) -> tuple[Path, dict[str, Any]]:
        """The cell's result file and the configuration whose hash its name ends in."""
        peer = self._peer(cell)
        config = {
            **asdict(cell),
            "loss": peer.label,
            "identity": peer.identity,
            "recipe": self.recipe.settings,
            "start": self.recipe.start_key(cell.task, self.training),
        }
        regime = "alone" if cell.ratio is None else f"mix{cell.ratio:g}"
        name = f"{cell.task}-{peer.label}-{regime}-s{cell.seed}-{short_hash(config)}"
        return self.folder / "cells" / f"{re.sub(r'[^A-Za-z0-9.@_-]+', '_', name)}.json", config

    def _peer(self, cell: Cell) -> Peer:
        if cell.loss in WITHOUT_TRAINING:
            return Peer(cell.loss, cell.loss, lambda seed: torch.nn.functional.l1_loss)
        return find_peer(cell.loss, cell.task, self.sources)

    def _train(self, cell: Cell, path: Path, config: dict[str, Any]) -> dict[str, Any]:
        path.parent.mkdir(parents=True, exist_ok=True)
        result = {"config": config, "torch": torch.__version__, "evaluations": {}}
        if cell.loss == "input":
            return result
        peer = self._peer(cell)
        loss = peer.build(cell.seed)  # before the start network, which may take long: a missing package shows now
        network, _ = start_network(cell.task, self.recipe, self.training, self.folder / "starts")
        if cell.loss != "start":
            training = fine_tune(
                network,
                loss,
                cell.task,
                self.recipe,
                self.training,
                seed=cell.seed,
                ratio=cell.ratio,
                measure=partial(self._curve_point, task=cell.task),
            )
            result.update(asdict(training))
        save_network(network, path.with_suffix(".safetensors"))
        return result

    def _curve_point(self, network: nn.Module, task: str) -> dict[str, float]:
        scores = load_metrics([name for name in CURVE_METRICS if name in self.test.metrics])
        level = self.test.levels[task][0]
        points = [
            measure(restore(network, degraded), reference, scores)
            for degraded, reference in (
                test_pair(task, picture, crop=CURVE_CROP, level=level)
                for picture in self.test.pictures[:: max(1, len(self.test.pictures) // CURVE_IMAGES)]
            )
        ]
        return {name: sum(point[name] for point in points) / len(points) for name in scores}

    def _evaluate(self, result: dict[str, Any], path: Path) -> bool:
        """Adds the measurements that are missing; tells whether there were any."""
        task = result["config"]["task"]
        scores = load_metrics(self.test.metrics)
        missing = list(self._missing(result, scores))
        if not missing:  # so that a result file without its network can be part of a study
            return False
        network = None if result["config"]["loss"] == "input" else self._trained(task, path)
        for level, picture, names, found in missing:
            degraded, reference = test_pair(task, picture, crop=self.test.crop, level=level)
            if network is not None:
                restored = restore(network, degraded)
            else:
                size = (reference.shape[-2], reference.shape[-1])
                restored = resize(degraded, size)
            found.update(measure(restored, reference, {name: scores[name] for name in names}))
        return True

    def _missing(
        self, result: dict[str, Any], scores: dict[str, Score]
    ) -> Iterator[tuple[int, Picture, list[str], dict[str, float]]]:
        """Level, picture, metrics to compute, and where to put them."""
        by_level = result["evaluations"].setdefault(evaluation_name(self.test.crop), {})
        for level in self.test.levels[result["config"]["task"]]:
            by_picture = by_level.setdefault(str(level), {})
            for picture in self.test.pictures:
                found = by_picture.setdefault(picture.key, {})
                names = [name for name in scores if name not in found]
                if names:
                    yield level, picture, names, found

    def _trained(self, task: str, path: Path) -> nn.Module:
        network, _ = start_network(task, self.recipe, self.training, self.folder / "starts")
        network.load_state_dict(load_file(path.with_suffix(".safetensors")))
        return network


@torch.no_grad()
def restore(network: nn.Module, degraded: Tensor) -> Tensor:
    network.eval()
    restored: Tensor = network(degraded.contiguous(memory_format=torch.channels_last))
    return restored.contiguous()


def evaluation_name(crop: int) -> str:
    return f"crop{crop}" if crop else "whole"


def write_json(content: Any, path: Path) -> None:
    write_file(path, json.dumps(content, indent=1).encode())
