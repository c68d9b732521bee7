"""The critic's step in Triton: losses and gradients without autograd, several runs in the same launches.

Passes over the critic, each a chain of convolutions with a small fold between them. The hinge loss takes two: forward,
and the adjoint pass with every weight's gradient. WGAN-GP's penalty takes two more between these: the input gradient of
``between``'s scores, and the tangent along the penalty's direction; what they leave joins the adjoint pass of the
losses. docs/critic_step.md has the mathematics, reference.py the same in plain torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from training.kernels.reference import CriticGradients
from training.kernels.triton.configs import (
    MOST_CHANNELS,
    Numerics,
    architecture,
    conv_tiles,
    numerics,
    supported,
    wgrad_tiles,
)
from training.kernels.triton.conv3x3 import Epilogue, conv3x3
from training.kernels.triton.optional import interpreted
from training.kernels.triton.parameters import Layout, pack
from training.kernels.triton.penalty import arrange, penalty
from training.kernels.triton.prologue import Batch, Prologue
from training.kernels.triton.spectral import through_norms, units
from training.kernels.triton.sums import Running, SecondOrder, fold_losses, fold_statistics, fold_sums, fold_weights
from training.kernels.triton.wgrad import Pair, wgrad
from training.objectives import Objective


class Launched(NamedTuple):
    """What the launches of a step leave on the device.

    Attributes:
        losses: (runs, 2): distance and penalty.
        gradients: (runs, total), in the order of :class:`training.kernels.triton.parameters.Layout`.
        norms: of each block, (groups, 5, C), see :func:`training.kernels.triton.sums.fold_statistics`.
    """

    losses: Tensor
    gradients: Tensor
    norms: list[Tensor]


def critic_gradients(
    parameters: Sequence[Tensor],
    real: Tensor,
    fake: Tensor,
    mix: float,
    objective: Objective,
    precision: str = "ieee",
) -> CriticGradients:
    """As :func:`training.kernels.reference.critic_gradients`, on a CUDA device.

    Args:
        precision: see :func:`training.kernels.triton.configs.numerics`.

    Raises:
        ValueError: what came does not fit the kernels or each other.
    """
    return critic_gradients_of_runs([parameters], [real], [fake], [mix], objective, precision)[0]


@torch.no_grad()
def critic_gradients_of_runs(
    parameters: Sequence[Sequence[Tensor]],
    real: Sequence[Tensor],
    fake: Sequence[Tensor],
    mix: Sequence[float],
    objective: Objective,
    precision: str = "ieee",
) -> list[CriticGradients]:
    """Steps of several critics of one width on images of one size, in the launches of one; equal to separate steps.

    Args:
        parameters, real, fake, mix: of each run, as :func:`critic_gradients` takes them.
    """
    layout = check(parameters, real, fake, mix)
    flat = torch.cat([p.reshape(-1) for of_run in parameters for p in of_run]).view(len(parameters), -1)
    settings = flat.new_tensor([[m, objective.penalty_weight] for m in mix])
    with torch.cuda.device_of(flat):
        launched = launch_step(flat, layout, stack(real), stack(fake), settings, objective, precision)
    return [unpack(launched, layout, run) for run in range(len(parameters))]


def check(
    parameters: Sequence[Sequence[Tensor]], real: Sequence[Tensor], fake: Sequence[Tensor], mix: Sequence[float]
) -> Layout:
    """The layout that all runs share.

    Raises:
        ValueError: what came does not fit the kernels or each other.
    """
    if not len(parameters) == len(real) == len(fake) == len(mix) > 0:
        raise ValueError(
            "expected as many lists of parameters as real images, fakes and mixes, and at least one, "
            f"got {len(parameters)}, {len(real)}, {len(fake)} and {len(mix)}"
        )
    layout = Layout.of(parameters[0])
    for run, of_run in enumerate(parameters):
        if Layout.of(of_run) != layout:
            raise ValueError(
                f"runs in one batch must have critics of one shape: run 0 has {layout}, run {run} {Layout.of(of_run)}; "
                "train it apart"
            )
    if layout.channels > MOST_CHANNELS:
        raise ValueError(
            f"the kernels take at most {MOST_CHANNELS} channels, got {layout.channels}; use --kernels reference"
        )
    least = 2 * layout.depth + 1
    for image in (*real, *fake):
        if image.shape != real[0].shape or image.dim() != 4 or image.shape[1] != 3 or min(image.shape[2:]) < least:
            raise ValueError(
                f"expected real and fake of one shape (N, 3, H, W) with H and W at least {least}, "
                f"got {tuple(image.shape)} beside {tuple(real[0].shape)}"
            )
    first = parameters[0][0]
    for tensor in (*(p for of_run in parameters for p in of_run), *real, *fake):
        if tensor.device != first.device or tensor.dtype != first.dtype:
            raise ValueError(
                f"expected all tensors on {first.device} in {first.dtype}, got one on {tensor.device} in "
                f"{tensor.dtype}; move it with .to(device, dtype)"
            )
    if first.is_cuda and first.dtype != torch.float32:
        raise ValueError(f"on a device the kernels take float32, got {first.dtype}; convert with .float()")
    arch = architecture(first.device)
    if not supported(arch):
        raise ValueError(
            f"no tiles for compute capability {arch / 10}; 8.0 or later is needed; use --kernels reference"
        )
    if first.device.type != "cuda" and not interpreted():
        raise ValueError(
            f"the Triton kernels run on CUDA tensors, got tensors on {first.device}; use --kernels reference, or set "
            "TRITON_INTERPRET=1 before the start to run them in Triton's interpreter, which is slow"
        )
    return layout


def stack(images: Sequence[Tensor]) -> Tensor:
    """Images of all runs: (runs, N, 3, H, W); of one run a view."""
    return (images[0][None] if len(images) == 1 else torch.stack(list(images))).contiguous()


def unpack(launched: Launched, layout: Layout, run: int) -> CriticGradients:
    """The result of one run, as views."""
    runs = len(launched.losses)
    statistics = [(norm[run::runs, 0], norm[run::runs, 4]) for norm in launched.norms]
    distance, gp = launched.losses[run]
    return CriticGradients(distance, gp, layout.split(launched.gradients[run]), statistics)


def launch_step(
    flat: Tensor,
    layout: Layout,
    real: Tensor,
    fake: Tensor,
    settings: Tensor,
    objective: Objective,
    precision: str = "ieee",
    running: Sequence[Running] | None = None,
    arch: int | None = None,
) -> Launched:
    """All launches of a step, without a host sync.

    Args:
        flat: (runs, total) parameters.
        real, fake: (runs, N, 3, H, W), contiguous.
        settings: (runs, 2): mix and penalty weight.
        running: of each block, updated in place; None leaves them alone.
        arch: whose tiles to use; by default those of the device.
    """
    batch = Batch(*real.shape[:2])
    spectral = units(flat, layout) if objective.spectral_norm else None
    critic = Critic(
        flat,
        pack(flat, layout, None if spectral is None else spectral.norms),
        layout,
        batch,
        objective.kinds,
        batch.runs if objective.shared_norm else objective.kinds * batch.runs,
        numerics(precision, flat.dtype),
        architecture(flat.device) if arch is None else arch,
    )
    forward = critic_forward(critic, arrange(real, fake, settings, objective.kinds), running)
    if objective.kind == "hinge":
        passed, seed = None, Prologue("hinge", tuple(forward.scores.shape), forward.scores)
    else:
        passed, seed = penalty_passes(critic, forward, settings), Prologue("distance", tuple(forward.scores.shape))

    gradients = torch.empty_like(flat)
    partial = adjoint_pass(critic, forward, seed, passed, gradients)
    if spectral is None:
        fold_weights(partial, gradients, layout)
    else:
        by_unit = torch.empty_like(flat)
        fold_weights(partial, by_unit, layout)
        through_norms(by_unit, flat, spectral, gradients, layout)
    pixels = batch.images * real[0, 0, 0].numel()
    losses = fold_losses(forward.score_sums, gradients, None if passed is None else passed.sums, pixels)
    return Launched(losses, gradients, forward.norms)


@dataclass(frozen=True)
class Critic:
    """Critics of one shape, one for each run, on a batch of images: what all passes over them share.

    Attributes:
        flat: (runs, total) parameters.
        packed: the weights that act, see :func:`training.kernels.triton.parameters.pack`.
        kinds: of images.
        groups: number of sets of images that are normalised together.
        arch: whose tiles to use.
    """

    flat: Tensor
    packed: Tensor
    layout: Layout
    batch: Batch
    kinds: int
    groups: int
    numbers: Numerics
    arch: int

    @property
    def blocks(self) -> range:
        return range(self.layout.depth - 1)

    @property
    def members(self) -> int:
        """Images of a group."""
        return self.kinds * self.batch.per_kind // self.groups

    @property
    def reached(self) -> int:
        """Number of images that share statistics with the last kind, all the last ones."""
        return self.members * self.batch.runs

    def convolve(
        self,
        x: Prologue,
        layer: int,
        epilogue: Epilogue,
        groups: int,
        bias: Tensor | None = None,
        back: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """A layer's convolution; results as those of :func:`conv3x3`."""
        begin = self.layout.offset(layer)
        weight = self.packed[:, int(back), begin : begin + self.layout.size(layer)]
        tiles = conv_tiles(self.layout.channels, self.numbers.dot, self.arch)
        padding = 2 if back else 0
        return conv3x3(x, weight, epilogue, self.batch, padding, groups, self.numbers, tiles, bias=bias)

    def input_gradient(self, gradient: Prologue, layer: int, epilogue: Epilogue, groups: int) -> tuple[Tensor, Tensor]:
        """From the gradient by a layer's output, that by its input."""
        return self.convolve(gradient, layer, epilogue, groups, back=True)

    def scales(self, block: int) -> int:
        """Where a block's scale begins in a row of parameters."""
        return self.layout.offset(block) + self.layout.size(block)


class Forward(NamedTuple):
    """What the forward pass leaves.

    Attributes:
        inputs: of each layer, as it reads them.
        maps, norms: of each block, its raw output and its table (see fold_statistics).
        scores: (B, h, w, 1); and their partial sums.
    """

    inputs: list[Prologue]
    maps: list[Tensor]
    norms: list[Tensor]
    scores: Tensor
    score_sums: Tensor


def critic_forward(critic: Critic, images: Tensor, running: Sequence[Running] | None) -> Forward:
    """Scores of images (B, H, W, 3); moves the running statistics."""
    inputs, maps, norms = [Prologue("raw", tuple(images.shape), images)], list[Tensor](), list[Tensor]()
    for block in critic.blocks:
        z, sums = critic.convolve(inputs[-1], block, Epilogue("statistics"), critic.groups)
        norm = fold_statistics(sums, critic.flat, critic.scales(block), None if running is None else running[block])
        inputs.append(Prologue("activation", tuple(z.shape), z, norm=norm))
        maps.append(z)
        norms.append(norm)
    scores, sums = critic.convolve(
        inputs[-1], critic.layout.depth - 1, Epilogue("scores"), critic.kinds * critic.batch.runs, critic.flat[:, -1:]
    )
    return Forward(inputs, maps, norms, scores, sums)


class PenaltyPasses(NamedTuple):
    """What the gradient penalty leaves for the adjoint pass.

    Attributes:
        pairs: of each layer, the penalty's term of its weight's gradient.
        tangents, gradients: of each block, the raw maps of both passes.
        second: of each block, the sums of both passes.
        sums: of the penalty itself, see :func:`training.kernels.triton.penalty.penalty`.
    """

    pairs: list[Pair]
    tangents: list[Tensor]
    gradients: list[Tensor]
    second: list[SecondOrder]
    sums: Tensor


def penalty_passes(critic: Critic, forward: Forward, settings: Tensor) -> PenaltyPasses:
    """The input gradient of the scores of ``between``, and the tangent along the penalty's derivative by it."""
    runs, reached, at_input = critic.batch.runs, critic.reached, critic.batch.per_kind
    near = [(z[-reached:], norm[-runs:]) for z, norm in zip(forward.maps, forward.norms, strict=True)]

    # Of every layer, from the last one: the gradient of the scores by its output.
    gradients = [Prologue("penalty", (reached, *forward.scores.shape[1:]))]
    gradient_maps, gradient_sums = list[Tensor](), list[Tensor]()
    for block in reversed(critic.blocks):
        z, norm = near[block]
        q, sums = critic.input_gradient(gradients[0], block + 1, Epilogue("masked", z, norm), runs)
        line, total = fold_sums(sums, norm, _count(critic, z))
        gradients.insert(0, Prologue("gradient", tuple(q.shape), q, z, norm, line))
        gradient_maps.insert(0, q)
        gradient_sums.insert(0, total)
    # At the pixels only ``between`` moves.
    by_pixel, _ = critic.input_gradient(gradients[0].last(at_input), 0, Epilogue("plain"), runs)
    direction, penalty_sums = penalty(by_pixel, settings, critic.batch, reached)

    # Of every layer: the derivative of its input along the direction.
    tangents = [Prologue("raw", tuple(direction.shape), direction)]
    tangent_maps, second = list[Tensor](), list[SecondOrder]()
    for block in critic.blocks:
        z, norm = near[block]
        t, sums = critic.convolve(tangents[-1], block, Epilogue("sums", z, norm, gradient_maps[block]), runs)
        line, total = fold_sums(sums, norm, _count(critic, z))
        tangents.append(Prologue("tangent", tuple(t.shape), t, z, norm, line))
        tangent_maps.append(t)
        second.append(SecondOrder(gradient_sums[block], total))
    pairs = list(zip(tangents, gradients, strict=True))
    pairs[0] = tangents[0].last(at_input), gradients[0].last(at_input)
    return PenaltyPasses(pairs, tangent_maps, gradient_maps, second, penalty_sums)


def adjoint_pass(
    critic: Critic, forward: Forward, seed: Prologue, passed: PenaltyPasses | None, gradients: Tensor
) -> Tensor:
    """Takes the gradient of the losses back through the critic, with what a penalty adds.

    Args:
        seed: the gradient by the scores.
        gradients: (runs, total), gets the gradients by the blocks' scales and shifts.

    Returns:
        Partial sums of the gradients by the weights that act, (runs, programs, total).
    """
    layout, tiles = critic.layout, wgrad_tiles(critic.layout.channels, critic.numbers.dot, critic.arch)
    partial = critic.flat.new_empty(critic.batch.runs, tiles.programs, layout.total)
    adjoint = seed
    for layer in reversed(range(layout.depth)):
        term = None if passed is None else passed.pairs[layer]
        wgrad(
            (forward.inputs[layer], adjoint), term, partial, layout.offset(layer), critic.batch, critic.numbers, tiles
        )
        if layer > 0:
            adjoint = _through_block(critic, forward, adjoint, layer - 1, passed, gradients)
    return partial


def _through_block(
    critic: Critic, forward: Forward, adjoint: Prologue, block: int, passed: PenaltyPasses | None, gradients: Tensor
) -> Prologue:
    """From the gradient by the next layer's output, that by a block's raw output."""
    z, norm, into = forward.maps[block], forward.norms[block], gradients[:, critic.scales(block) :]
    q, sums = critic.input_gradient(adjoint, block + 1, Epilogue("masked", z, norm), critic.groups)
    if passed is None:
        line, _ = fold_sums(sums, norm, _count(critic, z), into)
        return Prologue("gradient", tuple(q.shape), q, z, norm, line)
    line, _ = fold_sums(sums, norm, _count(critic, z), into, passed.second[block])
    return Prologue("adjoint", tuple(q.shape), q, z, norm, line, passed.tangents[block], passed.gradients[block])


def _count(critic: Critic, z: Tensor) -> int:
    """Numbers of a channel of a map that are normalised together."""
    return critic.members * z.shape[1] * z.shape[2]
