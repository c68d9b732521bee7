"""The critic's step in Triton: WGAN-GP losses and gradients without autograd, several runs in the same launches.

Four passes over the critic, each a chain of convolutions with a small fold between them: forward, input gradient of
``between``'s scores, tangent along the penalty's direction, and one adjoint pass that carries the losses of real and
fake together with what the penalty adds. docs/kernels.md has the mathematics, reference.py the same in plain torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from training.kernels.reference import CriticGradients
from training.kernels.triton.configs import MOST_CHANNELS, architecture, conv_tiles, numerics, supported, wgrad_tiles
from training.kernels.triton.conv3x3 import Epilogue, conv3x3
from training.kernels.triton.optional import interpreted
from training.kernels.triton.parameters import Layout, pack
from training.kernels.triton.penalty import between, penalty
from training.kernels.triton.prologue import Batch, Prologue
from training.kernels.triton.sums import Running, SecondOrder, fold_losses, fold_statistics, fold_sums, fold_weights
from training.kernels.triton.wgrad import wgrad


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
    penalty_weight: float,
    shared_norm: bool = True,
    precision: str = "ieee",
) -> CriticGradients:
    """As :func:`training.kernels.reference.critic_gradients`, on a CUDA device.

    Args:
        precision: see :func:`training.kernels.triton.configs.numerics`.

    Raises:
        ValueError: what came does not fit the kernels or each other.
    """
    return critic_gradients_of_runs([parameters], [real], [fake], [mix], penalty_weight, shared_norm, precision)[0]


@torch.no_grad()
def critic_gradients_of_runs(
    parameters: Sequence[Sequence[Tensor]],
    real: Sequence[Tensor],
    fake: Sequence[Tensor],
    mix: Sequence[float],
    penalty_weight: float,
    shared_norm: bool = True,
    precision: str = "ieee",
) -> list[CriticGradients]:
    """Steps of several critics of one width on images of one size, in the launches of one; equal to separate steps.

    Args:
        parameters, real, fake, mix: of each run, as :func:`critic_gradients` takes them.
    """
    layout = check(parameters, real, fake, mix)
    flat = torch.cat([p.reshape(-1) for of_run in parameters for p in of_run]).view(len(parameters), -1)
    settings = flat.new_tensor([[m, penalty_weight] for m in mix])
    with torch.cuda.device_of(flat):
        launched = launch_step(flat, layout, stack(real), stack(fake), settings, shared_norm, precision)
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
    shared_norm: bool,
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
    numbers = numerics(precision, flat.dtype)
    batch = Batch(*real.shape[:2])
    arch = architecture(flat.device) if arch is None else arch
    tiles = conv_tiles(layout.channels, numbers.dot, arch)
    blocks, last = range(layout.depth - 1), layout.depth - 1
    height, width = real.shape[3:]
    packed = pack(flat, layout)

    def weight(layer: int, back: int) -> Tensor:
        begin = layout.offset(layer)
        return packed[:, back, begin : begin + layout.size(layer)]

    def scales(layer: int) -> int:
        return layout.offset(layer) + layout.size(layer)

    def pixels(layer: int) -> int:
        """Of a block's output, in one image."""
        return (height - 2 * layer - 2) * (width - 2 * layer - 2)

    # Images that share statistics with ``between``: the penalty reaches these, and only these.
    groups, reached = (batch.runs, 3 * batch.per_kind) if shared_norm else (3 * batch.runs, batch.per_kind)
    members = 3 * batch.per_kind // groups

    images = between(real, fake, settings)
    forward = [Prologue("raw", tuple(images.shape), images)]
    for layer in blocks:
        z, sums = conv3x3(forward[-1], weight(layer, 0), Epilogue("statistics"), batch, 0, groups, numbers, tiles)
        norm = fold_statistics(sums, flat, scales(layer), None if running is None else running[layer])
        forward.append(Prologue("activation", tuple(z.shape), z, norm=norm))
    scores, score_sums = conv3x3(
        forward[-1], weight(last, 0), Epilogue("statistics"), batch, 0, 3 * batch.runs, numbers, tiles,
        bias=flat[:, -1:],
    )  # fmt: skip
    maps = [p.raw for p in forward[1:] if p.raw is not None]
    norms = [p.norm for p in forward[1:] if p.norm is not None]
    near_maps, near_norms = [z[-reached:] for z in maps], [norm[-batch.runs :] for norm in norms]

    # Of every layer: the gradient of the scores of ``between`` by its output.
    gradient = [Prologue("penalty", (reached, *scores.shape[1:]))]
    gradient_sums: list[Tensor] = []
    for layer in reversed(blocks):
        z, norm = near_maps[layer], near_norms[layer]
        q, sums = conv3x3(
            gradient[0], weight(layer + 1, 1), Epilogue("masked", z, norm), batch, 2, batch.runs, numbers, tiles
        )
        line, total = fold_sums(sums, norm, members * pixels(layer))
        gradient.insert(0, Prologue("gradient", tuple(q.shape), q, z, norm, line))
        gradient_sums.insert(0, total)
    by_pixel, _ = conv3x3(
        gradient[0].last(batch.per_kind), weight(0, 1), Epilogue("plain"), batch, 2, batch.runs, numbers, tiles
    )
    direction, penalty_sums = penalty(by_pixel, settings, batch, reached)

    # Of every layer: the derivative of its input along the direction.
    tangent = [Prologue("raw", tuple(direction.shape), direction)]
    tangent_sums: list[Tensor] = []
    for layer in blocks:
        z, norm = near_maps[layer], near_norms[layer]
        t, sums = conv3x3(
            tangent[-1], weight(layer, 0), Epilogue("sums", z, norm, gradient[layer].raw), batch, 0, batch.runs,
            numbers, tiles,
        )  # fmt: skip
        line, total = fold_sums(sums, norm, members * pixels(layer))
        tangent.append(Prologue("tangent", tuple(t.shape), t, z, norm, line))
        tangent_sums.append(total)
    # At the pixels only ``between`` moves.
    gradient_at_input, direction_at_input = gradient[0].last(batch.per_kind), tangent[0].last(batch.per_kind)

    gradients = torch.empty_like(flat)
    rows = wgrad_tiles(layout.channels, numbers.dot, arch)
    partial = flat.new_empty(batch.runs, rows.programs, layout.total)
    adjoint = Prologue("distance", tuple(scores.shape))
    for layer in reversed(range(layout.depth)):
        terms = (tangent[layer], gradient[layer]) if layer else (direction_at_input, gradient_at_input)
        wgrad((forward[layer], adjoint), terms, partial, layout.offset(layer), batch, numbers, rows)
        if layer == 0:
            break
        z, norm = maps[layer - 1], norms[layer - 1]
        q, sums = conv3x3(adjoint, weight(layer, 1), Epilogue("masked", z, norm), batch, 2, groups, numbers, tiles)
        second = SecondOrder(gradient_sums[layer - 1], tangent_sums[layer - 1], gradients, scales(layer - 1))
        line, _ = fold_sums(sums, norm, members * pixels(layer - 1), second)
        adjoint = Prologue("adjoint", tuple(q.shape), q, z, norm, line, tangent[layer].raw, gradient[layer - 1].raw)
    fold_weights(partial, gradients, layout)
    losses = fold_losses(score_sums, penalty_sums, batch.images * height * width)
    return Launched(losses, gradients, norms)
