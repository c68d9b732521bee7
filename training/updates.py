"""Kernels of the training: one operation per file, with its plain form in torch, its Triton kernels and its launcher.

Triton is optional: every module here imports without it. This file chooses what makes the critic's updates.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

from training.config import Config
from training.kernels import reference
from training.kernels.cpu import native
from training.kernels.reference import CriticGradients
from training.networks import Discriminator
from training.objectives import critic_loss, hinge_loss, scores, spectrally_normalised

GradientsOfRuns = Callable[..., list[CriticGradients]]


class Request(NamedTuple):
    """A critic's wish for an update.

    Attributes:
        optimizer: of the critic's parameters, see :func:`training.adam.adam`.
        real, fake, mix, penalty_weight, shared_norm: as :func:`training.objectives.critic_loss` takes them.
    """

    critic: Discriminator
    optimizer: torch.optim.Adam
    real: Tensor
    fake: Tensor
    mix: float
    penalty_weight: float
    shared_norm: bool


class Judged(NamedTuple):
    """The losses before an update, each a scalar: see :class:`training.objectives.CriticLoss`."""

    distance: Tensor
    penalty: Tensor


# Leaves the gradients in the critics' ``.grad``, moves their running statistics, makes their optimizers' steps, returns
# their losses.
Update = Callable[[Sequence[Request]], list[Judged]]


def updates_of(config: Config, device: torch.device) -> tuple[Update, str]:
    """What makes the critic's updates of a run, and a line as :func:`choose` returns it.

    Raises:
        ValueError: the machine, or the objective, cannot do what ``config.kernels`` asks for.
    """
    if config.objective == "wgan-gp":
        return choose(config.kernels, device, config.architecture.channels)
    if config.kernels not in ("auto", "autograd"):
        raise ValueError(
            f"--kernels {config.kernels} is for --objective wgan-gp, whose second derivative it writes out; the hinge "
            "loss has none: use --kernels auto or autograd"
        )
    return hinge_update(config.spectral_norm), "autograd: the hinge loss has no second derivative to write out"


def choose(name: str, device: torch.device, channels: Sequence[int]) -> tuple[Update, str]:
    """What makes the critic's updates by WGAN-GP.

    Args:
        name: one of :data:`training.config.KERNELS`.
        device: of the critics.
        channels: widths of the critics.

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
        update = _triton(device, channels) if fast == "triton" else _native(device, channels)
    except _Unusable as reason:
        if name != "auto":
            raise ValueError(
                f"--kernels {name} cannot run here: {reason}; use --kernels auto, or reference for plain torch"
            ) from reason
        return explicit_update(reference.critic_gradients_of_runs), f"reference: no {fast} kernels here: {reason}"
    return update, f"{fast}: checked against the reference on this machine"


def autograd_update(requests: Sequence[Request]) -> list[Judged]:
    """By :func:`training.objectives.critic_loss` and a double backward."""
    results = []
    for run in requests:
        total, distance, penalty = critic_loss(
            run.critic, run.real, run.fake, run.mix, run.penalty_weight, run.shared_norm
        )
        parameters = list(run.critic.parameters())
        for parameter, gradient in zip(parameters, torch.autograd.grad(total, parameters), strict=True):
            parameter.grad = gradient
        run.optimizer.step()
        results.append(Judged(distance.detach(), penalty.detach()))
    return results


def hinge_update(spectral_norm: bool) -> Update:
    """By :func:`training.objectives.hinge_loss`, which has no penalty: 0 is returned for it.

    Args:
        spectral_norm: the critic acts with its weights as :func:`training.objectives.spectrally_normalised` returns
            them, and the gradient goes through the norm. BatchNorm undoes the scale of all convolutions but the last,
            up to its eps.
    """

    def update(requests: Sequence[Request]) -> list[Judged]:
        results = []
        for run in requests:
            parameters: dict[str, Tensor] = dict(run.critic.named_parameters())
            weights = spectrally_normalised(parameters) if spectral_norm else parameters
            critic = partial(functional_call, run.critic, weights)
            of_real, of_fake = scores(critic, (run.real, run.fake), run.shared_norm)
            gradients = torch.autograd.grad(hinge_loss(of_real, of_fake), list(parameters.values()))
            for parameter, gradient in zip(parameters.values(), gradients, strict=True):
                parameter.grad = gradient
            run.optimizer.step()
            distance = of_real.mean() - of_fake.mean()
            results.append(Judged(distance.detach(), distance.new_zeros(())))
        return results

    return update


def explicit_update(gradients_of_runs: GradientsOfRuns) -> Update:
    """By a function like :func:`training.kernels.reference.critic_gradients_of_runs`."""

    def update(runs: Sequence[Request]) -> list[Judged]:
        every = gradients_of_runs(
            [list(run.critic.parameters()) for run in runs],
            [run.real for run in runs],
            [run.fake for run in runs],
            [run.mix for run in runs],
            runs[0].penalty_weight,
            runs[0].shared_norm,
        )
        for run, gradients in zip(runs, every, strict=True):
            _apply(run, gradients)
            run.optimizer.step()
        return [Judged(gradients.distance, gradients.penalty) for gradients in every]

    return lambda requests: by_groups(requests, update)


def by_groups(requests: Sequence[Request], update: Update) -> list[Judged]:
    """Updates in groups that can share launches, by a function that takes one group."""
    results: dict[int, Judged] = {}
    for group in _alike(requests):
        results |= zip(group, update([requests[index] for index in group]), strict=True)
    return [results[index] for index in range(len(requests))]


class _Unusable(Exception):
    """Why a back end cannot be used here."""


def _triton(device: torch.device, channels: Sequence[int]) -> Update:
    if device.type != "cuda":
        raise _Unusable(f"Triton's kernels need a CUDA device, the training is on {device.type}")
    try:
        selfcheck = importlib.import_module("training.kernels.triton.selfcheck")
        graph = importlib.import_module("training.kernels.triton.graph")
    except ImportError as error:
        raise _Unusable(f"{error}; Triton comes with torch's CUDA builds, or from `pip install triton`") from error
    complaint = selfcheck.check(device, channels)
    if complaint is not None:
        raise _Unusable(complaint)
    update: Update = graph.Iterations()
    return update


def _native(device: torch.device, channels: Sequence[int]) -> Update:
    if device.type != "cpu":
        raise _Unusable(f"the compiled operations are for the CPU, the training is on {device.type}")
    try:
        for width in set(channels):
            native.operations(width)
    except native.Unavailable as error:
        raise _Unusable(str(error)) from error
    return explicit_update(native.critic_gradients_of_runs)


def _alike(requests: Sequence[Request]) -> list[list[int]]:
    """Indices of requests, those together that can share launches."""
    groups: dict[tuple[object, ...], list[int]] = {}
    for index, request in enumerate(requests):
        width = request.critic.last.in_channels
        key = width, request.real.shape, request.real.device, request.penalty_weight, request.shared_norm
        groups.setdefault(key, []).append(index)
    return list(groups.values())


def _apply(run: Request, gradients: CriticGradients) -> None:
    for parameter, gradient in zip(run.critic.parameters(), gradients.parameters, strict=True):
        parameter.grad = gradient
    norms = [module for module in run.critic.modules() if isinstance(module, nn.BatchNorm2d)]
    images, _, height, width = run.real.shape
    members = 3 * images if run.shared_norm else images
    counts = [members * (height - 2 * depth) * (width - 2 * depth) for depth in range(1, len(norms) + 1)]
    reference.update_running_statistics(norms, gradients.statistics, counts)
