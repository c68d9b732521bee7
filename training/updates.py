"""Updates of the critics: what one is asked for, what can make it, and the choice among these.

``autograd`` differentiates the objective as it stands; the others have it written out: ``reference`` in plain torch,
``native`` in C on the CPU, ``triton`` in kernels for CUDA devices, as one CUDA graph. All give the same result.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

from training.adam import descend
from training.config import Config
from training.kernels import reference
from training.kernels.cpu import native
from training.kernels.cpu.compiler import Unavailable
from training.kernels.reference import CriticGradients
from training.networks import Discriminator
from training.objectives import Objective, critic_loss, hinge_loss, scores, spectrally_normalised

GradientsOfRuns = Callable[..., list[CriticGradients]]


class Request(NamedTuple):
    """A critic's wish for an update.

    Attributes:
        optimizer: of the critic's parameters, see :func:`training.adam.adam`.
        real, fake: (N, 3, H, W), of one shape.
        mix: where between fake (0) and real (1) a gradient penalty is taken.
    """

    critic: Discriminator
    optimizer: torch.optim.Adam
    real: Tensor
    fake: Tensor
    mix: float
    objective: Objective


class Judged(NamedTuple):
    """The losses before an update, each a scalar: see :class:`training.kernels.reference.CriticGradients`."""

    distance: Tensor
    penalty: Tensor


# Leaves the gradients in the critics' ``.grad``, moves their running statistics, makes their optimizers' steps, returns
# their losses.
Update = Callable[[Sequence[Request]], list[Judged]]


def updates_of(config: Config, device: torch.device) -> tuple[Update, str]:
    """What makes the critic's updates of a run, and a line as :func:`choose` returns it.

    Raises:
        ValueError: the machine cannot do what ``config.kernels`` asks for.
    """
    return choose(config.kernels, device, config.architecture.channels, config.critic_objective)


def choose(name: str, device: torch.device, channels: Sequence[int], objective: Objective) -> tuple[Update, str]:
    """What makes the critic's updates.

    Args:
        name: one of :data:`training.config.KERNELS`.
        device: of the critics.
        channels: widths of the critics.
        objective: of the critics.

    Returns:
        It, and a line that says which it is and why; its first word is the name.

    Raises:
        ValueError: the machine cannot do what the name asks for.
    """
    if name == "autograd":
        return autograd_update, "autograd: as asked for"
    if name == "reference":
        return explicit_update(reference.critic_gradients_of_runs), "reference: as asked for"
    fast = name if name != "auto" else "triton" if device.type == "cuda" else "native"
    try:
        update = _triton(device, channels, objective) if fast == "triton" else _native(device, channels)
    except _Unusable as reason:
        if name != "auto":
            raise ValueError(
                f"--kernels {name} cannot run here: {reason}; use --kernels auto, or reference for plain torch"
            ) from reason
        return explicit_update(reference.critic_gradients_of_runs), f"reference: no {fast} kernels here: {reason}"
    return update, f"{fast}: checked against the reference on this machine"


def autograd_update(requests: Sequence[Request]) -> list[Judged]:
    """By the objectives as :mod:`training.objectives` states them, and autograd."""
    results = []
    for run in requests:
        total, judged = (_wgan_gp if run.objective.kind == "wgan-gp" else _hinge)(run)
        parameters = list(run.critic.parameters())
        descend(run.optimizer, parameters, torch.autograd.grad(total, parameters))
        results.append(judged)
    return results


def _wgan_gp(run: Request) -> tuple[Tensor, Judged]:
    total, distance, penalty = critic_loss(
        run.critic, run.real, run.fake, run.mix, run.objective.penalty_weight, run.objective.shared_norm
    )
    return total, Judged(distance.detach(), penalty.detach())


def _hinge(run: Request) -> tuple[Tensor, Judged]:
    weights: dict[str, Tensor] = dict(run.critic.named_parameters())
    if run.objective.spectral_norm:
        weights = spectrally_normalised(weights)
    critic = partial(functional_call, run.critic, weights)
    of_real, of_fake = scores(critic, (run.real, run.fake), run.objective.shared_norm)
    distance = (of_real.mean() - of_fake.mean()).detach()
    return hinge_loss(of_real, of_fake), Judged(distance, torch.zeros_like(distance))


def explicit_update(gradients_of_runs: GradientsOfRuns) -> Update:
    """By a function like :func:`training.kernels.reference.critic_gradients_of_runs`."""

    def update(runs: Sequence[Request]) -> list[Judged]:
        every = gradients_of_runs(
            [list(run.critic.parameters()) for run in runs],
            [run.real for run in runs],
            [run.fake for run in runs],
            [run.mix for run in runs],
            runs[0].objective,
        )
        for run, gradients in zip(runs, every, strict=True):
            _apply(run, gradients)
        return [Judged(gradients.distance, gradients.penalty) for gradients in every]

    return partial(_by_groups, update)


class CapturedUpdate:
    """An :data:`Update` in Triton, with a CUDA graph for each set of critics that is updated together.

    A set that a call does not ask for has ended its scale: its graph goes.

    Args:
        captured: as graphs, where the device lets it; without, every kernel is launched by itself.
    """

    def __init__(self, captured: bool = True) -> None:
        self._graph = importlib.import_module("training.kernels.triton.graph")
        self.captured = captured
        self.kept: dict[Hashable, Any] = {}

    def __call__(self, requests: Sequence[Request]) -> list[Judged]:
        former, self.kept = self.kept, {}

        def update(runs: Sequence[Request]) -> list[Judged]:
            key = tuple((run.critic, run.optimizer, run.real.shape, run.objective) for run in runs)
            iteration = self.kept[key] = former.get(key) or self._iteration(runs)
            losses = iteration([run.real for run in runs], [run.fake for run in runs], [run.mix for run in runs])
            return [Judged(distance, penalty) for distance, penalty in losses]

        return _by_groups(update, requests)

    def _iteration(self, runs: Sequence[Request]) -> Any:
        images, _, height, width = runs[0].real.shape
        iteration = self._graph.CriticIteration(
            [run.critic for run in runs],
            [run.optimizer for run in runs],
            images,
            (height, width),
            runs[0].objective,
        )
        self.captured = self.captured and iteration.try_capture()
        return iteration


def _by_groups(update: Update, requests: Sequence[Request]) -> list[Judged]:
    """Updates in groups that can share launches, by a function that takes one group."""
    groups: dict[Hashable, list[int]] = {}
    for index, request in enumerate(requests):
        alike = request.critic.last.in_channels, request.real.shape, request.real.device, request.objective
        groups.setdefault(alike, []).append(index)
    results: dict[int, Judged] = {}
    for group in groups.values():
        results |= zip(group, update([requests[index] for index in group]), strict=True)
    return [results[index] for index in range(len(requests))]


class _Unusable(Exception):
    """Why a back end cannot be used here."""


def _triton(device: torch.device, channels: Sequence[int], objective: Objective) -> Update:
    if device.type != "cuda":
        raise _Unusable(f"Triton's kernels need a CUDA device, the training is on {device.type}")
    try:
        selfcheck = importlib.import_module("training.kernels.triton.selfcheck")
        update = CapturedUpdate()
    except ImportError as error:
        raise _Unusable(f"{error}; Triton comes with torch's CUDA builds, or from `pip install triton`") from error
    complaint = selfcheck.check(device, channels, objective)
    if complaint is not None:
        raise _Unusable(complaint)
    return update


def _native(device: torch.device, channels: Sequence[int]) -> Update:
    if device.type != "cpu":
        raise _Unusable(f"the compiled operations are for the CPU, the training is on {device.type}")
    try:
        for width in set(channels):
            native.operations(width)
    except Unavailable as error:
        raise _Unusable(str(error)) from error
    return explicit_update(native.critic_gradients_of_runs)


def _apply(run: Request, gradients: CriticGradients) -> None:
    descend(run.optimizer, run.critic.parameters(), gradients.parameters)
    norms = [module for module in run.critic.modules() if isinstance(module, nn.BatchNorm2d)]
    images, _, height, width = run.real.shape
    members = run.objective.kinds * images if run.objective.shared_norm else images
    counts = [members * (height - 2 * depth) * (width - 2 * depth) for depth in range(1, len(norms) + 1)]
    reference.update_running_statistics(norms, gradients.statistics, counts)
