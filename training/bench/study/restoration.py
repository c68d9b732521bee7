"""Training the restoration networks: with L1 from scratch, then with the loss that is to be measured."""

from __future__ import annotations

import copy
import hashlib
import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm import tqdm

from task_losses.files import replacing
from task_losses.weighting import gradient_norm
from training.bench.cost.memory import peak_memory
from training.bench.study.data import Picture, training_batches
from training.bench.study.restorers import NETWORKS, make_restorer

Loss = Callable[[Tensor, Tensor], Tensor]  # (pred, target), both (N, 3, H, W) -> scalar
Batches = Iterable[tuple[Tensor, Tensor]]  # (degraded, reference)
START_SEED = 0
WEIGHING_SEED = 1  # patches on which gradient norms are compared
SEED_OFFSET = 1000  # so that no fine-tuning sees the patches of the start in their order


def setting(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class Recipe:
    """Settings that all cells of a study share."""

    width: int = setting(32, "channels of the restoration networks")
    depth: int = setting(8, "their residual blocks (sr); half as many for denoise and jpeg")
    patch: int = setting(96, "side of the training patches in pixels of the reference; 8 pyramid levels need 79")
    batch: int = setting(4, "patches per step")
    start_steps: int = setting(3000, "L1 steps of the network that every loss starts from")
    start_lr: float = setting(1e-3, "their learning rate, falling to 0 along a cosine")
    steps: int = setting(300, "steps with the loss that is measured")
    lr: float = setting(3e-4, "their learning rate, falling to 0 along a cosine")
    network: str = setting("residual", f"architecture of the restoration networks: {', '.join(NETWORKS)}")

    def __post_init__(self) -> None:
        if self.network not in NETWORKS:
            raise ValueError(f"network must be {' or '.join(NETWORKS)}, got {self.network!r}")

    @property
    def settings(self) -> dict[str, Any]:
        """For a result file: those of before there were several networks stay as they are."""
        content = asdict(self)
        if self.network == "residual":
            del content["network"]
        return content

    def start_key(self, task: str, pictures: Sequence[Picture]) -> str:
        used = ("width", "depth", "patch", "batch", "start_steps", "start_lr")
        settings = {name: value for name, value in self.settings.items() if name in (*used, "network")}
        return short_hash({**settings, "task": task, "images": [picture.key for picture in pictures]})


QUICK = Recipe(width=16, depth=4, start_steps=1000, steps=40)


def short_hash(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]


def start_network(task: str, recipe: Recipe, pictures: Sequence[Picture], folder: Path) -> tuple[nn.Module, str]:
    """The L1-trained network that every loss of a task starts from, trained on first use and then read.

    Returns:
        the network, and the key that names it in the configurations of cells.
    """
    key = recipe.start_key(task, pictures)
    network = make_restorer(task, recipe.width, recipe.depth, START_SEED, recipe.network)
    batches = training_batches(
        task, pictures, patch=recipe.patch, batch=recipe.batch, steps=recipe.start_steps, seed=START_SEED
    )
    train_start(network, batches, recipe, folder / f"{task}-{key}.safetensors", task)
    return network, key


def train_start(network: nn.Module, batches: Batches, recipe: Recipe, path: Path, name: str) -> None:
    """Trains a network with L1, or reads what was trained before from the file; ``name`` is for the progress bar."""
    if path.is_file():
        network.load_state_dict(load_file(path))
        return
    bar = tqdm(batches, total=recipe.start_steps, desc=f"{name}: start with L1", mininterval=5, disable=None)
    losses = [step.loss for step in train(network, F.l1_loss, bar, recipe.start_steps, recipe.start_lr)]
    path.parent.mkdir(parents=True, exist_ok=True)
    window = max(1, len(losses) // 20)
    curve = [sum(losses[i : i + window]) / len(losses[i : i + window]) for i in range(0, len(losses), window)]
    path.with_suffix(".json").write_text(json.dumps({"recipe": recipe.settings, "l1_curve": curve}, indent=1))
    save_network(network, path)  # last: a file that exists is complete


def read_network(path: Path, task: str, settings: Mapping[str, Any]) -> nn.Module:
    """A network that :func:`save_network` saved.

    Args:
        settings: :attr:`Recipe.settings` of its study, as result files hold them.
    """
    recipe = Recipe(**settings)
    network = make_restorer(task, recipe.width, recipe.depth, START_SEED, recipe.network)
    network.load_state_dict(load_file(path))
    return network


def save_network(network: nn.Module, path: Path) -> None:
    with replacing(path) as partial:
        save_file({name: tensor.contiguous() for name, tensor in network.state_dict().items()}, partial)


@dataclass(frozen=True)
class Step:
    """What one training step says: the loss, and seconds of the whole step and of the loss's own two passes."""

    loss: float
    seconds: float
    loss_seconds: float


def train(network: nn.Module, loss: Loss, batches: Batches, steps: int, lr: float) -> Iterator[Step]:
    """Adam with a learning rate that falls to zero along a cosine; yields after each step."""
    optimizer = torch.optim.Adam(network.parameters(), lr=lr)
    network.train()
    for index, (degraded, reference) in enumerate(batches):
        optimizer.param_groups[0]["lr"] = lr * 0.5 * (1 + math.cos(math.pi * index / steps))
        begun = time.perf_counter()
        restored = network(degraded.contiguous(memory_format=torch.channels_last))
        # The loss's gradient by the image is taken apart from the network's, so that its cost can be told.
        value, gradient, loss_seconds = loss_and_gradient(loss, restored.detach(), reference)
        optimizer.zero_grad(set_to_none=True)
        restored.backward(gradient)
        optimizer.step()
        if not math.isfinite(value):
            raise FloatingPointError(f"the loss became {value} at step {index}; a smaller learning rate may help")
        yield Step(value, time.perf_counter() - begun, loss_seconds)


def loss_and_gradient(loss: Loss, restored: Tensor, reference: Tensor) -> tuple[float, Tensor, float]:
    """Value, gradient by ``restored``, and the seconds that both took."""
    begun = time.perf_counter()
    image = restored.detach().requires_grad_()
    value = loss(image, reference)
    (gradient,) = torch.autograd.grad(value, image)
    return value.item(), gradient, time.perf_counter() - begun


def mixed_with_l1(loss: Loss, ratio: float, network: nn.Module, batches: Batches) -> tuple[Loss, float]:
    """L1 + weight x loss, the weight such that the loss's gradient has ``ratio`` times the norm of L1's.

    Norms are of the gradient by the restored image, averaged over the batches at the starting network, so that one
    ratio means the same for losses of any magnitude.

    Returns:
        the mixed loss and the weight.
    """
    norms = {"l1": 0.0, "loss": 0.0}
    for degraded, reference in batches:
        with torch.no_grad():
            restored = network(degraded)
        norms["l1"] += gradient_norm(F.l1_loss, restored, reference)
        norms["loss"] += gradient_norm(loss, restored, reference)
    weight = ratio * norms["l1"] / norms["loss"]
    return lambda pred, target: F.l1_loss(pred, target) + weight * loss(pred, target), weight


@dataclass(frozen=True)
class Training:
    """What a fine-tuning leaves besides the network.

    Attributes:
        weight: the loss's factor beside L1; None where the loss stood alone.
        seconds: median of a whole step.
        loss_seconds: median of the loss's forward and backward pass.
        loss_memory_mb: peak memory of these passes beyond what stood before; None where it cannot be measured.
        memory_mb: the same of a whole step: the network with its gradients and Adam's moments, activations, the loss.
        curve: measurements on the way, each with its ``step``.
    """

    weight: float | None
    seconds: float
    loss_seconds: float
    loss_memory_mb: float | None
    memory_mb: float | None
    curve: list[dict[str, float]]


def fine_tune(
    network: nn.Module,
    loss: Loss,
    task: str,
    recipe: Recipe,
    pictures: Sequence[Picture],
    *,
    seed: int,
    ratio: float | None,
    measure: Callable[[nn.Module], dict[str, float]],
    points: int = 6,
) -> Training:
    """Trains ``network`` in place with a loss.

    Args:
        seed: decides the patches and their order, equal for every loss.
        ratio: None for the loss alone; else it joins L1, see :func:`mixed_with_l1`.
        measure: gives the points of the curve; called ``points`` times on the way and once before.
    """
    settings: dict[str, Any] = {"patch": recipe.patch, "batch": recipe.batch}
    weight = None
    probe = list(training_batches(task, pictures, steps=4, seed=WEIGHING_SEED, **settings))
    with torch.no_grad():
        restored = network(probe[0][0])
    memory = peak_memory(lambda: loss_and_gradient(loss, restored, probe[0][1]))
    if ratio is not None:
        loss, weight = mixed_with_l1(loss, ratio, network, probe)
    step_memory = peak_memory(lambda: list(train(copy.deepcopy(network), loss, probe[:1], 1, recipe.lr)))
    batches = training_batches(task, pictures, steps=recipe.steps, seed=SEED_OFFSET + seed, **settings)
    every = max(1, recipe.steps // points)
    curve = [{"step": 0, **measure(network)}]
    seconds, loss_seconds = [], []
    for index, step in enumerate(train(network, loss, batches, recipe.steps, recipe.lr), start=1):
        seconds.append(step.seconds)
        loss_seconds.append(step.loss_seconds)
        if index % every == 0:
            curve.append({"step": index, **measure(network)})
            network.train()
    return Training(weight, median(seconds), median(loss_seconds), memory, step_memory, curve)
