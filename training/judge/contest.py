"""Small networks, from one start, trained on with the loss that is judged and with what it has to beat."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn
from tqdm import tqdm

from task_losses import TaskLoss
from training.bench.study.cells import restore, write_json
from training.bench.study.data import Picture, random_patches
from training.bench.study.metrics import load_metrics, measure
from training.bench.study.restoration import (
    SEED_OFFSET,
    START_SEED,
    WEIGHING_SEED,
    Batches,
    Loss,
    Recipe,
    mixed_with_l1,
    save_network,
    short_hash,
    train,
    train_start,
)
from training.bench.study.restorers import make_restorer

# Minutes on two cores, for all of them. Eight pyramid levels need patches of 79 pixels.
RECIPE = Recipe(width=24, depth=4, start_steps=1200, steps=150)
SEEDS = 2
PULLS = (1.0, 3.0)  # how hard a loss pulls beside L1
OWN, RANDOM, NEAREST, L1, MSE, INPUT = "own", "random", "nearest", "l1", "mse", "input"
PROBES = 4  # batches on which pulls are measured


@dataclass(frozen=True)
class Rival:
    """A loss in the contest.

    Attributes:
        pull: beside L1, see :func:`training.bench.study.restoration.mixed_with_l1`; None where it stands alone.
        identity: tells it from others of the same name, such as the loss of another file.
        build: makes it for a seed.
    """

    name: str
    pull: float | None
    identity: str
    build: Callable[[int], Loss]

    @property
    def label(self) -> str:
        return self.name if self.pull is None else f"{self.name} x{self.pull:g}"


@dataclass(frozen=True)
class Arena:
    """What all networks have in common.

    Attributes:
        pairs: degraded and reference in six channels, see :func:`training.judge.photographs.training_pairs`.
        tests: by name, degraded and reference.
        identity: tells the degradation from others.
        folder: where finished networks are kept, so that a run that was stopped goes on.
    """

    recipe: Recipe
    pairs: Sequence[Picture]
    tests: dict[str, tuple[Tensor, Tensor]]
    metrics: Sequence[str]
    identity: str
    folder: Path

    def run(self, rival: Rival, seed: int) -> dict[str, Any]:
        """``weight`` beside L1, or None, and ``scores``: metric -> crop -> score; made first if need be.

        Raises:
            FloatingPointError: the training diverged.
        """
        path = self.network_path(rival, seed)
        found = json.loads(path.with_suffix(".json").read_text()) if path.with_suffix(".json").is_file() else {}
        missing = [name for name in self.metrics if name not in found.get("scores", {})]
        if path.is_file() and not missing:
            return found
        network = self._start()
        if path.is_file():
            network.load_state_dict(load_file(path))
        else:
            found = {"weight": self._train(network, rival, seed), "scores": {}}
        found["scores"] |= self._measured(network, missing or self.metrics)
        write_json(found, path.with_suffix(".json"))
        save_network(network, path)  # last: a network that is there is measured
        return found

    def restored(self, rival: Rival, seed: int, name: str) -> Tensor:
        """A test crop by a network that :meth:`run` has made, (1, 3, H, W)."""
        network = self._start()
        network.load_state_dict(load_file(self.network_path(rival, seed)))
        return restore(network, self.tests[name][0])

    def network_path(self, rival: Rival, seed: int) -> Path:
        content = {
            "start": self._start_key,
            "recipe": asdict(self.recipe),
            "loss": rival.identity,
            "pull": rival.pull,
            "tests": list(self.tests),
        }
        name = rival.label.replace(" ", "-")
        return self.folder / "networks" / f"{name}-s{seed}-{short_hash(content)}.safetensors"

    @property
    def _start_key(self) -> str:
        return short_hash(
            {"degradation": self.identity, "start": self.recipe.start_key("own", []), "of": [p.key for p in self.pairs]}
        )

    def _start(self) -> nn.Module:
        network = make_restorer("own", self.recipe.width, self.recipe.depth, START_SEED)
        path = self.folder / "networks" / f"start-{self._start_key}.safetensors"
        train_start(network, self._batches(START_SEED, self.recipe.start_steps), self.recipe, path, "a small network")
        return network

    def _batches(self, seed: int, count: int) -> Batches:
        def made() -> Iterator[tuple[Tensor, Tensor]]:
            generator = torch.Generator().manual_seed(seed)
            for _ in range(count):
                patches = random_patches(self.pairs, self.recipe.patch, self.recipe.batch, generator)
                degraded, reference = patches.chunk(2, dim=1)
                yield degraded.contiguous(), reference.contiguous()

        return made()

    def _train(self, network: nn.Module, rival: Rival, seed: int) -> float | None:
        loss, weight = rival.build(seed), None
        if rival.pull is not None:
            loss, weight = mixed_with_l1(loss, rival.pull, network, self._batches(WEIGHING_SEED, PROBES))
        bar = tqdm(
            self._batches(SEED_OFFSET + seed, self.recipe.steps),
            total=self.recipe.steps,
            desc=f"{rival.label}, seed {seed}",
            mininterval=5,
            disable=None,
            leave=False,
        )
        for _ in train(network, loss, bar, self.recipe.steps, self.recipe.lr):
            pass
        return weight

    def untouched(self) -> dict[str, dict[str, float]]:
        """Scores of the degraded crops themselves: metric -> crop -> score."""
        return self._measured(nn.Identity(), self.metrics)

    def _measured(self, network: nn.Module, names: Sequence[str]) -> dict[str, dict[str, float]]:
        scores = load_metrics(names)
        of_crops = {
            name: measure(restore(network, degraded), reference, scores)
            for name, (degraded, reference) in self.tests.items()
        }
        return {metric: {name: found[metric] for name, found in of_crops.items()} for metric in scores}


def control(own: TaskLoss, seed: int) -> TaskLoss:
    """Random weights of the shape and share of a loss."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return TaskLoss(pretrained=False, like=own)


def _always(loss: TaskLoss, seed: int) -> TaskLoss:
    return loss


def rivals(own: TaskLoss, nearest: TaskLoss | None) -> list[Rival]:
    """L1, MSE, and with each of ``PULLS`` the loss, random weights of its shape, and a released loss."""

    found = [Rival(L1, None, L1, lambda seed: F.l1_loss), Rival(MSE, None, MSE, lambda seed: F.mse_loss)]
    for pull in PULLS:
        found.append(Rival(OWN, pull, str(own.weights_sha256), partial(_always, own)))
        found.append(Rival(RANDOM, pull, f"random like {own.weights_sha256}", partial(control, own)))
        if nearest is not None:
            found.append(Rival(NEAREST, pull, str(nearest.weights_sha256), partial(_always, nearest)))
    return found
