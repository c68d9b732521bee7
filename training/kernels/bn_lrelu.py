"""BatchNorm in training mode and LeakyReLU in one operation, twice differentiable, for networks trained with autograd.

With r the reciprocal standard deviation, n the values per channel, h = (x - mean) r, m = 1 or the slope, and
P(v) = v - mean(v) - h mean(v h):

    forward          y = m (w h + b)
    backward         g = m dy;  db = sum g;  dw = sum g h;  dx = w r P(g)
    double backward  of cotangents (V, a, c) of (dx, dw, db), with q = sum V g - (db sum V + dw sum V h) / n,
                     k = w r / n and e = (a - k sum V h) g - k dw V:
                     of dy: m (w r P(V) + a h + c);  of w: r q;  of x: r P(e) - w r^2 q h / n;  of b: 0

Sums are taken block by block, then over blocks in a fixed order: results repeat bit for bit. Statistics are combined
from the blocks' means and squared deviations (Chan, Golub and LeVeque 1979), which does not cancel where the mean is
large. Each custom operation below runs these formulas in plain torch on the CPU, and as kernels on CUDA.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.kernels.optional_triton import TRITON_INSTALLED, interpreted, jit, tl
from training.kernels.variants import Variant

TILE = 4096  # values of a block: pixels of one image by channels
PROGRAMS = 256  # at most; each sums or maps a run of blocks
CHUNK = 32  # partial sums that are combined at once; more would spill registers


def bn_lrelu(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    *,
    momentum: float = 0.1,
    eps: float = 1e-5,
    slope: float = 0.2,
    impl: str = "auto",
) -> Tensor:
    """LeakyReLU(BatchNorm(x)) with the statistics of x, twice differentiable by x, weight and bias.

    Args:
        x: (N, C, H, W), contiguous or channels_last; other layouts are copied. float32, float64, bfloat16 or float16.
        weight, bias: (C,), float32, or float64 where x is.
        running_mean, running_var: (C,), updated in place as torch.nn.BatchNorm2d does, with the unbiased variance.
        impl: "triton" for the kernels, "reference" for torch's own operations, "auto" for the kernels on CUDA where
            triton is installed.

    Returns:
        Like x.

    Raises:
        ValueError: shapes do not fit, one value per channel, or "triton" where it cannot run.
    """
    if x.ndim != 4 or any(t.shape != (x.shape[1],) for t in (weight, bias)):
        shapes = [tuple(t.shape) for t in (x, weight, bias)]
        raise ValueError(f"x, weight and bias have shapes {shapes}: expected (N, C, H, W), (C,) and (C,)")
    if x.numel() <= x.shape[1]:
        raise ValueError(
            f"x of shape {tuple(x.shape)} has no two values per channel: it cannot be normalised by itself"
        )
    if impl not in ("auto", "triton", "reference"):
        raise ValueError(f"impl is {impl!r}: expected auto, triton or reference")
    if impl == "triton" and not _runs_kernels(x):
        raise ValueError(
            f"impl is 'triton', x is on {x.device} and triton is {'' if TRITON_INSTALLED else 'not '}installed: the "
            "kernels need both a CUDA tensor and triton; use impl='auto'"
        )
    if impl == "reference" or not _runs_kernels(x):
        normalised = F.batch_norm(x, running_mean, running_var, weight, bias, True, momentum, eps)
        activated: Tensor = F.leaky_relu(normalised, slope)
        return activated
    y: Tensor
    y, mean, var = _forward(x, weight, bias, eps, slope)
    if running_mean is not None and running_var is not None:
        count = x.numel() // x.shape[1]
        with torch.no_grad():
            running_mean.lerp_(mean.to(running_mean.dtype), momentum)
            running_var.lerp_((var * (count / (count - 1))).to(running_var.dtype), momentum)
    return y


def fused_norm(norm: nn.BatchNorm2d, x: Tensor, slope: float) -> Tensor:
    """LeakyReLU(norm(x)), fused where that is possible: in training, on CUDA, with triton.

    Raises:
        ValueError: see :func:`bn_lrelu`.
    """
    if not norm.training or norm.momentum is None or not norm.track_running_stats or not norm.affine:
        return F.leaky_relu(norm(x), slope)
    assert norm.num_batches_tracked is not None
    norm.num_batches_tracked.add_(1)
    return bn_lrelu(
        x,
        norm.weight,
        norm.bias,
        norm.running_mean,
        norm.running_var,
        momentum=norm.momentum,
        eps=norm.eps,
        slope=slope,
    )


def _runs_kernels(x: Tensor) -> bool:
    return TRITON_INSTALLED and (x.is_cuda or interpreted())


def _accumulator(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _laid_out(x: Tensor, like: Tensor | None = None) -> Tensor:
    """x in one of the two layouts that kernels know, that of another tensor where one is given."""
    like = x if like is None else like
    if like.is_contiguous() or not like.is_contiguous(memory_format=torch.channels_last):
        return x.contiguous()
    return x.contiguous(memory_format=torch.channels_last)


# --- the operations ---------------------------------------------------------------------------------------------------


@torch.library.custom_op("task_losses::bn_lrelu", mutates_args=())
def _forward(x: Tensor, weight: Tensor, bias: Tensor, eps: float, slope: float) -> tuple[Tensor, Tensor, Tensor]:
    """y like x; mean and biased variance, (C,), in the accumulator's type."""
    x = _laid_out(x)
    return (_forward_kernels if _runs_kernels(x) else forward_formula)(x, weight, bias, eps, slope)


@torch.library.custom_op("task_losses::bn_lrelu_backward", mutates_args=())
def _backward(
    grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, var: Tensor, eps: float, slope: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients by x, weight and bias, the last two in the accumulator's type."""
    x = _laid_out(x)
    function = _backward_kernels if _runs_kernels(x) else backward_formula
    return function(_laid_out(grad, x), x, weight, bias, mean, var, eps, slope)


@torch.library.custom_op("task_losses::bn_lrelu_double_backward", mutates_args=())
def _double_backward(
    of_dx: Tensor,
    of_dw: Tensor,
    of_db: Tensor,
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    mean: Tensor,
    var: Tensor,
    dw: Tensor,
    db: Tensor,
    eps: float,
    slope: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of the backward operation's results by its grad, x and weight."""
    x = _laid_out(x)
    function = _double_backward_kernels if _runs_kernels(x) else double_backward_formula
    of_dx, grad = _laid_out(of_dx, x), _laid_out(grad, x)
    return function(of_dx, of_dw, of_db, grad, x, weight, bias, mean, var, dw, db, eps, slope)


@_forward.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor, eps: float, slope: float) -> tuple[Tensor, Tensor, Tensor]:
    statistic = x.new_empty(x.shape[1], dtype=_accumulator(x))
    return torch.empty_like(_laid_out(x)), statistic, torch.empty_like(statistic)


@_backward.register_fake
def _(grad: Tensor, x: Tensor, weight: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    sums = x.new_empty(x.shape[1], dtype=_accumulator(x))
    return torch.empty_like(_laid_out(x)), sums, torch.empty_like(sums)


@_double_backward.register_fake
def _(
    of_dx: Tensor, of_dw: Tensor, of_db: Tensor, grad: Tensor, x: Tensor, *rest: Any
) -> tuple[Tensor, Tensor, Tensor]:
    x = _laid_out(x)
    return torch.empty_like(x), torch.empty_like(x), x.new_empty(x.shape[1], dtype=_accumulator(x))


def _keep_for_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    x, weight, bias, ctx.eps, ctx.slope = inputs
    _, mean, var = output
    ctx.mark_non_differentiable(mean, var)
    ctx.save_for_backward(x, weight, bias, mean, var)


def _apply_backward(ctx: Any, grad: Tensor, *of_statistics: Any) -> tuple[Tensor | None, ...]:
    x, weight, bias, mean, var = ctx.saved_tensors
    dx, dw, db = _backward(grad, x, weight, bias, mean, var, ctx.eps, ctx.slope)
    return dx, dw.to(weight.dtype), db.to(bias.dtype), None, None


def _keep_for_double_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    *tensors, ctx.eps, ctx.slope = inputs
    _, dw, db = output
    ctx.save_for_backward(*tensors, dw, db)


def _apply_double_backward(ctx: Any, of_dx: Tensor, of_dw: Tensor, of_db: Tensor) -> tuple[Tensor | None, ...]:
    *tensors, dw, db = ctx.saved_tensors
    weight = tensors[2]
    of_grad, of_x, of_w = _double_backward(of_dx, of_dw, of_db, *tensors, dw.detach(), db.detach(), ctx.eps, ctx.slope)
    return of_grad, of_x, of_w.to(weight.dtype), None, None, None, None, None


_forward.register_autograd(_apply_backward, setup_context=_keep_for_backward)
_backward.register_autograd(_apply_double_backward, setup_context=_keep_for_double_backward)


# --- the formulas in plain torch --------------------------------------------------------------------------------------


def forward_formula(x: Tensor, weight: Tensor, bias: Tensor, eps: float, slope: float) -> tuple[Tensor, Tensor, Tensor]:
    """See the operation of the same name."""
    values = x.to(_accumulator(x))
    var, mean = torch.var_mean(values, (0, 2, 3), correction=0)
    y = F.leaky_relu(
        F.batch_norm(values, mean, var, weight.to(mean.dtype), bias.to(mean.dtype), False, 0.0, eps), slope
    )
    return y.to(x.dtype), mean, var


@dataclass(frozen=True)
class _Normalised:
    """What both backward formulas share; of every (C,) tensor the (C, 1, 1) view is kept."""

    h: Tensor
    g: Tensor
    m: Tensor
    scale: Tensor  # w r
    r: Tensor

    @classmethod
    def of(
        cls, grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, var: Tensor, eps: float, slope: float
    ) -> _Normalised:
        r = (var + eps).rsqrt()[:, None, None]
        h = (x - mean[:, None, None]) * r
        positive = h * weight[:, None, None] + bias[:, None, None] > 0
        m = torch.where(positive, 1.0, torch.tensor(slope, dtype=r.dtype))
        return cls(h, m * grad, m, weight[:, None, None] * r, r)

    def project(self, v: Tensor) -> Tensor:
        """P(v) of the module's text."""
        return v - v.mean((0, 2, 3), keepdim=True) - self.h * (v * self.h).mean((0, 2, 3), keepdim=True)


def backward_formula(
    grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, var: Tensor, eps: float, slope: float
) -> tuple[Tensor, Tensor, Tensor]:
    """See the operation of the same name."""
    t = _Normalised.of(grad, x, weight, bias, mean, var, eps, slope)
    return (t.scale * t.project(t.g)).to(x.dtype), (t.g * t.h).sum((0, 2, 3)), t.g.sum((0, 2, 3))


def double_backward_formula(
    of_dx: Tensor,
    of_dw: Tensor,
    of_db: Tensor,
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    mean: Tensor,
    var: Tensor,
    dw: Tensor,
    db: Tensor,
    eps: float,
    slope: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """See the operation of the same name."""
    t = _Normalised.of(grad, x, weight, bias, mean, var, eps, slope)
    v, n = of_dx.to(t.h.dtype), x.numel() // x.shape[1]
    a, c, dw, db = (vector[:, None, None] for vector in (of_dw, of_db, dw, db))
    sum_v, sum_vh, sum_vg = ((v * other).sum((0, 2, 3))[:, None, None] for other in (1.0, t.h, t.g))
    q = sum_vg - (db * sum_v + dw * sum_vh) / n
    k = t.scale / n
    e = (a - k * sum_vh) * t.g - k * dw * v
    of_grad = t.m * (t.scale * t.project(v) + a * t.h + c)
    of_x = t.r * t.project(e) - t.scale * t.r * q * t.h / n
    return of_grad.to(x.dtype), of_x.to(x.dtype), (t.r * q).flatten()


# --- the kernels ------------------------------------------------------------------------------------------------------


@jit
def _place(index, pixels, C: tl.constexpr, BLOCK: tl.constexpr, WIDTH: tl.constexpr, LAST: tl.constexpr):
    """Offsets (BLOCK, WIDTH) of a block of one image's pixels, which of them exist, and how many pixels do."""
    per_image = tl.cdiv(pixels, BLOCK)
    first = (index % per_image) * BLOCK
    p = first + tl.arange(0, BLOCK)[:, None]
    c = tl.arange(0, WIDTH)[None, :]
    offsets = p * C + c if LAST else c * pixels + p
    image = (index // per_image).to(tl.int64) * pixels * C
    return image + offsets, (p < pixels) & (c < C), tl.minimum(BLOCK, pixels - first)


@jit
def _sum_partials(
    partials, count, which, STEP: tl.constexpr, WIDTH: tl.constexpr, CHUNK: tl.constexpr, ACC: tl.constexpr
):
    """Sum over programs of one of the STEP vectors that each has left."""
    c = tl.arange(0, WIDTH)[None, :]
    total = tl.zeros((WIDTH,), ACC)
    for first in range(0, count, CHUNK):
        i = first + tl.arange(0, CHUNK)[:, None]
        total += tl.sum(
            tl.load(partials + (i * STEP + which) * WIDTH + c, mask=(i < count) & (c < WIDTH), other=0.0), 0
        )
    return total


@jit
def _combine_statistics(partials, count, n, WIDTH: tl.constexpr, CHUNK: tl.constexpr, ACC: tl.constexpr):
    """Mean and biased variance from every program's (count, mean, squared deviations)."""
    c = tl.arange(0, WIDTH)[None, :]
    mean = tl.zeros((WIDTH,), ACC)
    for first in range(0, count, CHUNK):
        i = first + tl.arange(0, CHUNK)[:, None]
        mask = (i < count) & (c < WIDTH)
        size = tl.load(partials + i * 3 * WIDTH + c, mask=mask, other=0.0)
        mean += tl.sum(size * tl.load(partials + (i * 3 + 1) * WIDTH + c, mask=mask, other=0.0), 0)
    mean = mean / n
    squares = tl.zeros((WIDTH,), ACC)
    for first in range(0, count, CHUNK):
        i = first + tl.arange(0, CHUNK)[:, None]
        mask = (i < count) & (c < WIDTH)
        size = tl.load(partials + i * 3 * WIDTH + c, mask=mask, other=0.0)
        shift = tl.load(partials + (i * 3 + 1) * WIDTH + c, mask=mask, other=0.0) - mean[None, :]
        within = tl.load(partials + (i * 3 + 2) * WIDTH + c, mask=mask, other=0.0)
        squares += tl.sum(within + size * shift * shift, 0)
    return mean, squares / n


@jit
def _vector(pointer, C: tl.constexpr, WIDTH: tl.constexpr, ACC: tl.constexpr):
    c = tl.arange(0, WIDTH)
    return tl.load(pointer + c, mask=c < C, other=0.0).to(ACC)


@jit
def _normalise(grad, x, offsets, mask, mean, r, w, b, SLOPE: tl.constexpr, ACC: tl.constexpr):
    """h, g and where m is 1, of one block; mean, r, w and b are (WIDTH,)."""
    h = (tl.load(x + offsets, mask=mask, other=0.0).to(ACC) - mean[None, :]) * r[None, :]
    positive = h * w[None, :] + b[None, :] > 0
    g = tl.load(grad + offsets, mask=mask, other=0.0).to(ACC)
    return h, tl.where(positive, g, g * SLOPE), positive


@jit
def bn_lrelu_statistics_kernel(
    x, partials, pixels, blocks, run,
    C: tl.constexpr, BLOCK: tl.constexpr, WIDTH: tl.constexpr, LAST: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Count, mean and squared deviations of each program's run of blocks."""
    program = tl.program_id(0)
    count, mean, squares = tl.zeros((WIDTH,), ACC), tl.zeros((WIDTH,), ACC), tl.zeros((WIDTH,), ACC)
    for index in range(program * run, tl.minimum(program * run + run, blocks)):
        offsets, mask, rows = _place(index, pixels, C, BLOCK, WIDTH, LAST)
        values = tl.load(x + offsets, mask=mask, other=0.0).to(ACC)
        n = rows.to(ACC)
        block_mean = tl.sum(values, 0) / n
        deviation = tl.where(mask, values - block_mean[None, :], 0.0)
        shift = block_mean - mean
        squares += tl.sum(deviation * deviation, 0) + shift * shift * (count * n / (count + n))
        mean += shift * (n / (count + n))
        count += n
    place = partials + program * 3 * WIDTH + tl.arange(0, WIDTH)
    tl.store(place, count)
    tl.store(place + WIDTH, mean)
    tl.store(place + 2 * WIDTH, squares)


@jit
def bn_lrelu_forward_kernel(
    x, weight, bias, partials, y, mean_out, var_out, pixels, blocks, run, programs, n,
    C: tl.constexpr, EPS: tl.constexpr, SLOPE: tl.constexpr,
    BLOCK: tl.constexpr, WIDTH: tl.constexpr, LAST: tl.constexpr, CHUNK: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    mean, var = _combine_statistics(partials, programs, n.to(ACC), WIDTH, CHUNK, ACC)
    if program == 0:
        c = tl.arange(0, WIDTH)
        tl.store(mean_out + c, mean, mask=c < C)
        tl.store(var_out + c, var, mask=c < C)
    scale = _vector(weight, C, WIDTH, ACC) / tl.sqrt(var + EPS)
    b = _vector(bias, C, WIDTH, ACC)
    for index in range(program * run, tl.minimum(program * run + run, blocks)):
        offsets, mask, _ = _place(index, pixels, C, BLOCK, WIDTH, LAST)
        values = tl.load(x + offsets, mask=mask, other=0.0).to(ACC)
        u = (values - mean[None, :]) * scale[None, :] + b[None, :]
        tl.store(y + offsets, tl.where(u > 0, u, u * SLOPE).to(y.dtype.element_ty), mask=mask)


@jit
def bn_lrelu_backward_sums_kernel(
    grad, x, weight, bias, mean, var, partials, pixels, blocks, run,
    C: tl.constexpr, EPS: tl.constexpr, SLOPE: tl.constexpr,
    BLOCK: tl.constexpr, WIDTH: tl.constexpr, LAST: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Sums of g and g h over each program's run of blocks."""
    program = tl.program_id(0)
    mu, w, b = _vector(mean, C, WIDTH, ACC), _vector(weight, C, WIDTH, ACC), _vector(bias, C, WIDTH, ACC)
    r = 1.0 / tl.sqrt(_vector(var, C, WIDTH, ACC) + EPS)
    sum_g, sum_gh = tl.zeros((WIDTH,), ACC), tl.zeros((WIDTH,), ACC)
    for index in range(program * run, tl.minimum(program * run + run, blocks)):
        offsets, mask, _ = _place(index, pixels, C, BLOCK, WIDTH, LAST)
        h, g, _ = _normalise(grad, x, offsets, mask, mu, r, w, b, SLOPE, ACC)
        sum_g += tl.sum(g, 0)
        sum_gh += tl.sum(g * h, 0)
    place = partials + program * 2 * WIDTH + tl.arange(0, WIDTH)
    tl.store(place, sum_g)
    tl.store(place + WIDTH, sum_gh)


@jit
def bn_lrelu_backward_kernel(
    grad, x, weight, bias, mean, var, partials, dx, dw, db, pixels, blocks, run, programs, n,
    C: tl.constexpr, EPS: tl.constexpr, SLOPE: tl.constexpr,
    BLOCK: tl.constexpr, WIDTH: tl.constexpr, LAST: tl.constexpr, CHUNK: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    sum_g = _sum_partials(partials, programs, 0, 2, WIDTH, CHUNK, ACC)
    sum_gh = _sum_partials(partials, programs, 1, 2, WIDTH, CHUNK, ACC)
    if program == 0:
        c = tl.arange(0, WIDTH)
        tl.store(db + c, sum_g, mask=c < C)
        tl.store(dw + c, sum_gh, mask=c < C)
    mu, w, b = _vector(mean, C, WIDTH, ACC), _vector(weight, C, WIDTH, ACC), _vector(bias, C, WIDTH, ACC)
    r = 1.0 / tl.sqrt(_vector(var, C, WIDTH, ACC) + EPS)
    mean_g, mean_gh = sum_g / n.to(ACC), sum_gh / n.to(ACC)
    for index in range(program * run, tl.minimum(program * run + run, blocks)):
        offsets, mask, _ = _place(index, pixels, C, BLOCK, WIDTH, LAST)
        h, g, _ = _normalise(grad, x, offsets, mask, mu, r, w, b, SLOPE, ACC)
        value = (w * r)[None, :] * (g - mean_g[None, :] - h * mean_gh[None, :])
        tl.store(dx + offsets, value.to(dx.dtype.element_ty), mask=mask)


@jit
def bn_lrelu_double_backward_sums_kernel(
    of_dx, grad, x, weight, bias, mean, var, partials, pixels, blocks, run,
    C: tl.constexpr, EPS: tl.constexpr, SLOPE: tl.constexpr,
    BLOCK: tl.constexpr, WIDTH: tl.constexpr, LAST: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Sums of V, V h and V g over each program's run of blocks."""
    program = tl.program_id(0)
    mu, w, b = _vector(mean, C, WIDTH, ACC), _vector(weight, C, WIDTH, ACC), _vector(bias, C, WIDTH, ACC)
    r = 1.0 / tl.sqrt(_vector(var, C, WIDTH, ACC) + EPS)
    sum_v, sum_vh, sum_vg = tl.zeros((WIDTH,), ACC), tl.zeros((WIDTH,), ACC), tl.zeros((WIDTH,), ACC)
    for index in range(program * run, tl.minimum(program * run + run, blocks)):
        offsets, mask, _ = _place(index, pixels, C, BLOCK, WIDTH, LAST)
        h, g, _ = _normalise(grad, x, offsets, mask, mu, r, w, b, SLOPE, ACC)
        v = tl.load(of_dx + offsets, mask=mask, other=0.0).to(ACC)
        sum_v += tl.sum(v, 0)
        sum_vh += tl.sum(v * h, 0)
        sum_vg += tl.sum(v * g, 0)
    place = partials + program * 3 * WIDTH + tl.arange(0, WIDTH)
    tl.store(place, sum_v)
    tl.store(place + WIDTH, sum_vh)
    tl.store(place + 2 * WIDTH, sum_vg)


@jit
def bn_lrelu_double_backward_kernel(
    of_dx, of_dw, of_db, grad, x, weight, bias, mean, var, dw, db, partials, of_grad, of_x, of_w,
    pixels, blocks, run, programs, n,
    C: tl.constexpr, EPS: tl.constexpr, SLOPE: tl.constexpr,
    BLOCK: tl.constexpr, WIDTH: tl.constexpr, LAST: tl.constexpr, CHUNK: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    n = n.to(ACC)
    sum_v = _sum_partials(partials, programs, 0, 3, WIDTH, CHUNK, ACC)
    sum_vh = _sum_partials(partials, programs, 1, 3, WIDTH, CHUNK, ACC)
    sum_vg = _sum_partials(partials, programs, 2, 3, WIDTH, CHUNK, ACC)
    mu, w, b = _vector(mean, C, WIDTH, ACC), _vector(weight, C, WIDTH, ACC), _vector(bias, C, WIDTH, ACC)
    a, c = _vector(of_dw, C, WIDTH, ACC), _vector(of_db, C, WIDTH, ACC)
    sum_gh, sum_g = _vector(dw, C, WIDTH, ACC), _vector(db, C, WIDTH, ACC)
    r = 1.0 / tl.sqrt(_vector(var, C, WIDTH, ACC) + EPS)
    q = sum_vg - (sum_g * sum_v + sum_gh * sum_vh) / n
    if program == 0:
        channel = tl.arange(0, WIDTH)
        tl.store(of_w + channel, r * q, mask=channel < C)
    k = w * r / n
    of_g, of_v = a - k * sum_vh, k * sum_gh  # e = of_g g - of_v V
    mean_v, mean_vh = sum_v / n, sum_vh / n
    mean_e = (of_g * sum_g - of_v * sum_v) / n
    along_h = (of_g * sum_gh - of_v * sum_vh) / n + w * r * q / n
    for index in range(program * run, tl.minimum(program * run + run, blocks)):
        offsets, mask, _ = _place(index, pixels, C, BLOCK, WIDTH, LAST)
        h, g, positive = _normalise(grad, x, offsets, mask, mu, r, w, b, SLOPE, ACC)
        v = tl.load(of_dx + offsets, mask=mask, other=0.0).to(ACC)
        value = (w * r)[None, :] * (v - mean_v[None, :] - h * mean_vh[None, :]) + a[None, :] * h + c[None, :]
        tl.store(of_grad + offsets, tl.where(positive, value, value * SLOPE).to(of_grad.dtype.element_ty), mask=mask)
        e = of_g[None, :] * g - of_v[None, :] * v
        value = r[None, :] * (e - mean_e[None, :] - h * along_h[None, :])
        tl.store(of_x + offsets, value.to(of_x.dtype.element_ty), mask=mask)


# --- the launchers ----------------------------------------------------------------------------------------------------


class _Launch:
    """How one tensor is divided among programs: by its shape and layout alone, so that results repeat."""

    def __init__(self, x: Tensor, eps: float, slope: float) -> None:
        images, channels, height, width = x.shape
        constants = _constants(channels, x.is_contiguous(), x.dtype == torch.float64)
        pixels = height * width
        blocks = images * -(-pixels // constants["BLOCK"])
        run = -(-blocks // PROGRAMS)
        self.programs = -(-blocks // run)
        self.partials = x.new_empty(self.programs, 3, constants["WIDTH"], dtype=_accumulator(x))
        self.sums = {"pixels": pixels, "blocks": blocks, "run": run, "num_warps": WARPS} | constants
        self.formula = {"EPS": eps, "SLOPE": slope}
        self.maps = self.sums | {"programs": self.programs, "n": images * pixels, "CHUNK": CHUNK} | self.formula


WARPS = 4


def _constants(channels: int, contiguous: bool, double: bool) -> dict[str, Any]:
    width = max(1, 1 << (channels - 1).bit_length())
    return {
        "C": channels,
        "BLOCK": max(1, TILE // width),
        "WIDTH": width,
        "LAST": not contiguous,
        "ACC": tl.float64 if double else tl.float32,
    }


def _forward_kernels(
    x: Tensor, weight: Tensor, bias: Tensor, eps: float, slope: float
) -> tuple[Tensor, Tensor, Tensor]:
    launch = _Launch(x, eps, slope)
    y, mean = torch.empty_like(x), x.new_empty(x.shape[1], dtype=_accumulator(x))
    var = torch.empty_like(mean)
    grid = (launch.programs,)
    bn_lrelu_statistics_kernel[grid](x, launch.partials, **launch.sums)
    bn_lrelu_forward_kernel[grid](
        x, weight.contiguous(), bias.contiguous(), launch.partials, y, mean, var, **launch.maps
    )
    return y, mean, var


def _backward_kernels(
    grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, var: Tensor, eps: float, slope: float
) -> tuple[Tensor, Tensor, Tensor]:
    launch = _Launch(x, eps, slope)
    dx, dw, db = torch.empty_like(x), torch.empty_like(mean), torch.empty_like(mean)
    grid, inputs = (launch.programs,), (grad, x, *(v.contiguous() for v in (weight, bias, mean, var)))
    bn_lrelu_backward_sums_kernel[grid](*inputs, launch.partials, **launch.sums, **launch.formula)
    bn_lrelu_backward_kernel[grid](*inputs, launch.partials, dx, dw, db, **launch.maps)
    return dx, dw, db


def _double_backward_kernels(
    of_dx: Tensor,
    of_dw: Tensor,
    of_db: Tensor,
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    mean: Tensor,
    var: Tensor,
    dw: Tensor,
    db: Tensor,
    eps: float,
    slope: float,
) -> tuple[Tensor, Tensor, Tensor]:
    launch = _Launch(x, eps, slope)
    of_grad, of_x, of_w = torch.empty_like(x), torch.empty_like(x), torch.empty_like(mean)
    grid, inputs = (launch.programs,), (grad, x, *(v.contiguous() for v in (weight, bias, mean, var)))
    bn_lrelu_double_backward_sums_kernel[grid](of_dx, *inputs, launch.partials, **launch.sums, **launch.formula)
    bn_lrelu_double_backward_kernel[grid](
        of_dx,
        of_dw.contiguous(),
        of_db.contiguous(),
        *inputs,
        dw.contiguous(),
        db.contiguous(),
        launch.partials,
        of_grad,
        of_x,
        of_w,
        **launch.maps,
    )
    return of_grad, of_x, of_w


def variants() -> list[Variant]:
    """What the launchers ask for: the networks' widths, both layouts, float32 and bfloat16 maps."""
    kernels = {
        "statistics": bn_lrelu_statistics_kernel,
        "forward": bn_lrelu_forward_kernel,
        "backward sums": bn_lrelu_backward_sums_kernel,
        "backward": bn_lrelu_backward_kernel,
        "double backward sums": bn_lrelu_double_backward_sums_kernel,
        "double backward": bn_lrelu_double_backward_kernel,
    }
    maps = {"x", "y", "grad", "dx", "of_dx", "of_grad", "of_x"}
    numbers = {"pixels", "blocks", "run", "programs", "n"}
    result = []
    for channels, last, storage in (
        (8, True, "fp32"),
        (32, True, "fp32"),
        (64, True, "fp32"),
        (32, False, "fp32"),
        (32, True, "bf16"),
    ):
        constants = _constants(channels, not last, double=False) | {"CHUNK": CHUNK, "EPS": 1e-5, "SLOPE": 0.2}
        for name, kernel in kernels.items():
            runtime = [p for p in kernel.arg_names if p not in constants]
            types = {p: f"*{storage}" if p in maps else "i32" if p in numbers else "*fp32" for p in runtime}
            result.append(
                Variant(
                    name=f"bn_lrelu {name} c{channels} {'nhwc' if last else 'nchw'} {storage}",
                    kernel=kernel,
                    signature=types,
                    constexprs={p: v for p, v in constants.items() if p in kernel.arg_names},
                    warps=WARPS,
                    representative=name == "double backward" and channels == 32 and last and storage == "fp32",
                )
            )
    return result
