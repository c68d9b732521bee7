"""What a kernel makes of a map while it reads it: raw values in memory, normalised and activated ones in registers.

Only raw outputs of convolutions are stored. Everything between two convolutions (BatchNorm, LeakyReLU, their
derivatives) is an affine combination of stored maps with coefficients per channel, so the next kernel applies it to
what it loads:

    kind          value                                                   x = z - mean
    raw           raw
    activation    lrelu(scale * (raw - mean) + shift)                     a block's output from its raw output
    tangent       mask(z) * (scale * raw + b * x + c)                     its derivative along a direction
    gradient      scale * raw + b * x + c                                 gradient by z, from that by the norm's output
    adjoint       the same + d * tangent + f * gradient                   the same, with the penalty's second order
    penalty       1 on ``between``, 0 elsewhere                           seed of the penalty's input gradient
    distance      -1/n on ``real``, 1/n on ``fake``, 0 on ``between``     seed of WGAN-GP, n scores per kind and run
    hinge         -1/n on ``real`` if raw < 1, 1/n on ``fake`` if raw > -1, else 0   seed of the hinge loss

Images are ordered by kind (real, fake and, for a penalty, between), then by run, then by number. N images of one kind
and one run are a lot; lot ``i`` belongs to run ``i % runs`` and is normalised with group ``i % groups``: with shared
statistics there is one group per run, otherwise one per lot.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from task_losses.architecture import SLOPE
from training.kernels.triton.optional import jit, tl

NORM_ROWS = 5  # mean, rstd, scale, shift, variance: one normalisation group's table, (groups, 5, C)
LINE_ROWS = 4  # b, c, d, f: (groups, 4, C)


@dataclass(frozen=True)
class Batch:
    """The images of a launch: ``runs`` networks at once, ``images`` of each kind for each."""

    runs: int
    images: int

    @property
    def per_kind(self) -> int:
        return self.runs * self.images


@dataclass(frozen=True)
class Prologue:
    """A map as a convolution sees it.

    Attributes:
        kind: see the module's table.
        shape: (B, H, W, C), B a multiple of the batch's images of one kind.
        raw, z: maps of that shape.
        norm: (groups, 5, C); line: (groups, 4, C).
        tangent, gradient: (B', H, W, C) of the last B' images; d and f concern only these.
    """

    kind: str
    shape: tuple[int, ...]
    raw: Tensor | None = None
    z: Tensor | None = None
    norm: Tensor | None = None
    line: Tensor | None = None
    tangent: Tensor | None = None
    gradient: Tensor | None = None

    def last(self, count: int) -> Prologue:
        """Of the last ``count`` images only."""
        cut = {name: getattr(self, name)[-count:] for name in ("raw", "z") if getattr(self, name) is not None}
        return replace(self, shape=(count, *self.shape[1:]), **cut)

    @property
    def groups(self) -> int:
        return 1 if self.norm is None else len(self.norm)

    @property
    def first_tangent(self) -> int:
        return self.shape[0] - (0 if self.tangent is None else len(self.tangent))

    def pointers(self, unused: Tensor) -> tuple[Tensor, ...]:
        """Arguments of the kernels; ``unused`` stands where this kind reads nothing."""
        tensors = (self.raw, self.z, self.tangent, self.gradient, self.norm, self.line)
        return tuple(unused if t is None else t for t in tensors)

    def values(self, batch: Batch, dtype: torch.dtype) -> Tensor:
        """The reference: what a kernel must see, as a tensor of ``shape``."""
        kinds = self.shape[0] // batch.per_kind
        signs = [0, 0, 1][-kinds:] if self.kind == "penalty" else [-1, 1, 0][:kinds]
        sign = torch.tensor(signs, dtype=dtype).repeat_interleave(batch.per_kind).view(-1, 1, 1, 1)
        if self.kind == "penalty":
            return sign.expand(self.shape)
        seed = sign / (batch.images * self.shape[1] * self.shape[2])
        if self.raw is None:
            return seed.expand(self.shape)
        raw = self.raw.to(dtype)
        if self.kind == "hinge":
            return torch.where(raw * sign > -1, seed, 0)
        if self.norm is None:
            return raw
        group = torch.arange(len(raw)) // batch.images % self.groups
        mean, _, scale, shift, _ = self.norm[group, :, None, None].unbind(1)
        if self.kind == "activation":
            return torch.nn.functional.leaky_relu((raw - mean) * scale + shift, SLOPE)
        assert self.z is not None
        assert self.line is not None
        b, c, d, f = self.line[group, :, None, None].unbind(1)
        x = self.z.to(dtype) - mean
        value = raw * scale + x * b + c
        if self.kind == "tangent":
            return torch.where(x * scale + shift > 0, value, value * SLOPE)
        if self.tangent is not None and self.gradient is not None:
            cut = slice(self.first_tangent, None)
            value[cut] += d[cut] * self.tangent.to(dtype) + f[cut] * self.gradient.to(dtype)
        return value


@jit
def load_row(table_ptr, row, channel, valid, CHANNELS: tl.constexpr):
    """A row of coefficients, shaped to go with (pixels, channels)."""
    return tl.load(table_ptr + row * CHANNELS + channel, mask=valid, other=0.0)[None, :]


@jit
def load_coefficients(norm_ptr, line_ptr, group, channel, valid, CHANNELS: tl.constexpr, KIND: tl.constexpr):
    """mean, scale, shift, b, c, d, f of a group; what the kind does not need stays 0 and is never used."""
    mean = 0.0
    scale = 0.0
    shift = 0.0
    b = 0.0
    c = 0.0
    d = 0.0
    f = 0.0
    SEED: tl.constexpr = (KIND == "penalty") or ((KIND == "distance") or (KIND == "hinge"))
    if KIND != "raw" and not SEED:
        mean = load_row(norm_ptr, group * 5, channel, valid, CHANNELS)
        scale = load_row(norm_ptr, group * 5 + 2, channel, valid, CHANNELS)
        shift = load_row(norm_ptr, group * 5 + 3, channel, valid, CHANNELS)
        if KIND != "activation":
            b = load_row(line_ptr, group * 4, channel, valid, CHANNELS)
            c = load_row(line_ptr, group * 4 + 1, channel, valid, CHANNELS)
    if KIND == "adjoint":
        d = load_row(line_ptr, group * 4 + 2, channel, valid, CHANNELS)
        f = load_row(line_ptr, group * 4 + 3, channel, valid, CHANNELS)
    return mean, scale, shift, b, c, d, f


@jit
def seed_value(image, total, per_kind, scores, KIND: tl.constexpr, SUMS: tl.constexpr):
    """The seed of an image; 0 for a kind that is none. ``scores``: number of scores of one kind and run."""
    seed = tl.zeros((), SUMS)
    if KIND == "penalty":  # perhaps of the last images alone
        seed = tl.where(image >= total - per_kind, 1.0, 0.0).to(SUMS)
    if KIND == "distance" or KIND == "hinge":
        kind = image // per_kind
        seed = tl.where(kind == 0, -1.0, tl.where(kind == 1, 1.0, 0.0)).to(SUMS) / scores.to(SUMS)
    return seed


@jit
def load_values(
    raw_ptr, z_ptr, tangent_ptr, gradient_ptr, offset, mask, reached, seed,
    mean, scale, shift, b, c, d, f, KIND: tl.constexpr, SLOPE: tl.constexpr, SUMS: tl.constexpr,
):  # fmt: skip
    """Values at a block of offsets, 0 where masked.

    Args:
        raw_ptr, z_ptr, tangent_ptr, gradient_ptr: where the image begins in each map.
        reached: mask of what is loaded from the last two.
    """
    if KIND == "penalty" or KIND == "distance":
        value = tl.where(mask, seed, 0.0)
    else:
        value = tl.load(raw_ptr + offset, mask=mask, other=0.0).to(SUMS)
        if KIND == "hinge":
            value = tl.where(tl.where(seed < 0, -value, value) > -1, seed, 0.0)
        elif KIND != "raw":
            if KIND == "activation":
                u = (value - mean) * scale + shift
                value = tl.where(u > 0, u, u * SLOPE)
            else:
                x = tl.load(z_ptr + offset, mask=mask, other=0.0).to(SUMS) - mean
                value = value * scale + x * b + c
                if KIND == "tangent":
                    value = tl.where(x * scale + shift > 0, value, value * SLOPE)
                if KIND == "adjoint":
                    value += d * tl.load(tangent_ptr + offset, mask=reached, other=0.0).to(SUMS)
                    value += f * tl.load(gradient_ptr + offset, mask=reached, other=0.0).to(SUMS)
        if KIND != "raw":
            value = tl.where(mask, value, 0.0)
    return value
