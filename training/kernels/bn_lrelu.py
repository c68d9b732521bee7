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
from training.networks import Block, Network

TILE = 2048  # values of a block, pixels by channels
PROGRAMS = 512  # at most, a power of 2; each sums or maps a run of blocks
COLUMNS = 8  # partial sums that one program folds side by side
WARPS = 4


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
        x: (N, C, H, W), float32, float64, bfloat16 or float16. The kernels work on channels_last, and copy x where it
            is not.
        weight, bias: (C,), float32, or float64 where x is.
        running_mean, running_var: (C,), updated in place as torch.nn.BatchNorm2d does, with the unbiased variance.
        impl: "triton" for the kernels, "reference" for torch's own operations, "auto" for the kernels on CUDA where
            triton is installed.

    Returns:
        Like x; channels_last where the kernels run.

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


def fuse(network: Network) -> None:
    """Makes a network's blocks use :func:`fused_norm`; parameters and state stay as they are."""
    for block in network.blocks:
        assert isinstance(block, Block)
        block.norm_lrelu = fused_norm


def _runs_kernels(x: Tensor) -> bool:
    return TRITON_INSTALLED and (x.is_cuda or interpreted())


def _accumulator(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _rows(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def _like(x: Tensor) -> Tensor:
    return torch.empty_like(x, memory_format=torch.channels_last)


# --- the operations ---------------------------------------------------------------------------------------------------


_INPUTS = "Tensor x, Tensor weight, Tensor bias"
_BACKWARD_INPUTS = f"Tensor grad, {_INPUTS}, Tensor mean, Tensor var"
_COTANGENTS = "Tensor of_dx, Tensor of_dw, Tensor of_db"
_CONSTANTS = "float eps, float slope"
_RESULTS = "-> (Tensor, Tensor, Tensor)"


# Schemas are written out, as older versions of torch cannot read them from annotations that are strings.
@torch.library.custom_op("task_losses::bn_lrelu", mutates_args=(), schema=f"({_INPUTS}, {_CONSTANTS}) {_RESULTS}")
def _forward(x: Tensor, weight: Tensor, bias: Tensor, eps: float, slope: float) -> tuple[Tensor, Tensor, Tensor]:
    """y like x; mean and biased variance, (C,), in the accumulator's type."""
    function = _forward_kernels if _runs_kernels(x) else forward_formula
    with torch.cuda.device_of(x):
        return function(_rows(x), weight, bias, eps, slope)


@torch.library.custom_op(
    "task_losses::bn_lrelu_backward", mutates_args=(), schema=f"({_BACKWARD_INPUTS}, {_CONSTANTS}) {_RESULTS}"
)
def _backward(
    grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, var: Tensor, eps: float, slope: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients by x, weight and bias, the last two in the accumulator's type."""
    function = _backward_kernels if _runs_kernels(x) else backward_formula
    with torch.cuda.device_of(x):
        return function(_rows(grad), _rows(x), weight, bias, mean, var, eps, slope)


@torch.library.custom_op(
    "task_losses::bn_lrelu_double_backward",
    mutates_args=(),
    schema=f"({_COTANGENTS}, {_BACKWARD_INPUTS}, Tensor dw, Tensor db, {_CONSTANTS}) {_RESULTS}",
)
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
    function = _double_backward_kernels if _runs_kernels(x) else double_backward_formula
    of_dx, grad, x = _rows(of_dx), _rows(grad), _rows(x)
    with torch.cuda.device_of(x):
        return function(of_dx, of_dw, of_db, grad, x, weight, bias, mean, var, dw, db, eps, slope)


@_forward.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor, eps: float, slope: float) -> tuple[Tensor, Tensor, Tensor]:
    statistic = x.new_empty(x.shape[1], dtype=_accumulator(x))
    return _like(x), statistic, torch.empty_like(statistic)


@_backward.register_fake
def _(grad: Tensor, x: Tensor, weight: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    sums = x.new_empty(x.shape[1], dtype=_accumulator(x))
    return _like(x), sums, torch.empty_like(sums)


@_double_backward.register_fake
def _(
    of_dx: Tensor, of_dw: Tensor, of_db: Tensor, grad: Tensor, x: Tensor, *rest: Any
) -> tuple[Tensor, Tensor, Tensor]:
    return _like(x), _like(x), x.new_empty(x.shape[1], dtype=_accumulator(x))


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
def _rows_of(index, rows, C: tl.constexpr, BLOCK: tl.constexpr, WIDTH: tl.constexpr):
    """Offsets (BLOCK, WIDTH) of a block of pixels, and which of them exist."""
    row = index * BLOCK + tl.arange(0, BLOCK)[:, None]
    channel = tl.arange(0, WIDTH)[None, :]
    return row.to(tl.int64) * C + channel, (row < rows) & (channel < C)


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
    x, partials, rows, blocks, run,
    C: tl.constexpr, BLOCK: tl.constexpr, WIDTH: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Count, mean and squared deviations of each program's run of blocks, (programs, 3, C)."""
    program = tl.program_id(0)
    count, mean, squares = tl.zeros((WIDTH,), ACC), tl.zeros((WIDTH,), ACC), tl.zeros((WIDTH,), ACC)
    for index in range(program * run, tl.minimum(program * run + run, blocks)):
        offsets, mask = _rows_of(index, rows, C, BLOCK, WIDTH)
        values = tl.load(x + offsets, mask=mask, other=0.0).to(ACC)
        n = tl.minimum(BLOCK, rows - index * BLOCK).to(ACC)
        block_mean = tl.sum(values, 0) / n
        deviation = tl.where(mask, values - block_mean[None, :], 0.0)
        shift = block_mean - mean
        squares += tl.sum(deviation * deviation, 0) + shift * shift * (count * n / (count + n))
        mean += shift * (n / (count + n))
        count += n
    c = tl.arange(0, WIDTH)
    place = partials + program * 3 * C + c
    tl.store(place, count, mask=c < C)
    tl.store(place + C, mean, mask=c < C)
    tl.store(place + 2 * C, squares, mask=c < C)


@jit
def bn_lrelu_fold_statistics_kernel(
    partials, mean, var, programs, rows,
    C: tl.constexpr, PROGRAMS: tl.constexpr, COLUMNS: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Mean and biased variance from what every program has left."""
    c = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    i = tl.arange(0, PROGRAMS)[:, None]
    place, mask = partials + i * 3 * C + c[None, :], (i < programs) & (c < C)[None, :]
    count = tl.load(place, mask=mask, other=0.0)
    means = tl.load(place + C, mask=mask, other=0.0)
    mu = tl.sum(count * means, 0) / rows.to(ACC)
    shift = means - mu[None, :]
    squares = tl.load(place + 2 * C, mask=mask, other=0.0) + count * shift * shift
    tl.store(mean + c, mu, mask=c < C)
    tl.store(var + c, tl.sum(squares, 0) / rows.to(ACC), mask=c < C)


@jit
def bn_lrelu_fold_sums_kernel(
    partials, sums, programs, columns, PROGRAMS: tl.constexpr, COLUMNS: tl.constexpr
):  # fmt: skip
    """Sums over programs of each of the columns that they have left."""
    c = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    i = tl.arange(0, PROGRAMS)[:, None]
    values = tl.load(partials + i * columns + c[None, :], mask=(i < programs) & (c < columns)[None, :], other=0.0)
    tl.store(sums + c, tl.sum(values, 0), mask=c < columns)


@jit
def bn_lrelu_forward_kernel(
    x, weight, bias, mean, var, y, rows, blocks, run,
    C: tl.constexpr, EPS: tl.constexpr, SLOPE: tl.constexpr,
    BLOCK: tl.constexpr, WIDTH: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    mu, b = _vector(mean, C, WIDTH, ACC), _vector(bias, C, WIDTH, ACC)
    scale = _vector(weight, C, WIDTH, ACC) / tl.sqrt(_vector(var, C, WIDTH, ACC) + EPS)
    for index in range(program * run, tl.minimum(program * run + run, blocks)):
        offsets, mask = _rows_of(index, rows, C, BLOCK, WIDTH)
        u = (tl.load(x + offsets, mask=mask, other=0.0).to(ACC) - mu[None, :]) * scale[None, :] + b[None, :]
        tl.store(y + offsets, tl.where(u > 0, u, u * SLOPE).to(y.dtype.element_ty), mask=mask)


@jit
def bn_lrelu_backward_sums_kernel(
    grad, x, weight, bias, mean, var, partials, rows, blocks, run,
    C: tl.constexpr, EPS: tl.constexpr, SLOPE: tl.constexpr,
    BLOCK: tl.constexpr, WIDTH: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Sums of g and g h over each program's run of blocks, (programs, 2, C)."""
    program = tl.program_id(0)
    mu, w, b = _vector(mean, C, WIDTH, ACC), _vector(weight, C, WIDTH, ACC), _vector(bias, C, WIDTH, ACC)
    r = 1.0 / tl.sqrt(_vector(var, C, WIDTH, ACC) + EPS)
    sum_g, sum_gh = tl.zeros((WIDTH,), ACC), tl.zeros((WIDTH,), ACC)
    for index in range(program * run, tl.minimum(program * run + run, blocks)):
        offsets, mask = _rows_of(index, rows, C, BLOCK, WIDTH)
        h, g, _ = _normalise(grad, x, offsets, mask, mu, r, w, b, SLOPE, ACC)
        sum_g += tl.sum(g, 0)
        sum_gh += tl.sum(g * h, 0)
    c = tl.arange(0, WIDTH)
    place = partials + program * 2 * C + c
    tl.store(place, sum_g, mask=c < C)
    tl.store(place + C, sum_gh, mask=c < C)


@jit
def bn_lrelu_backward_kernel(
    grad, x, weight, bias, mean, var, sums, dx, dw, db, rows, blocks, run,
    C: tl.constexpr, EPS: tl.constexpr, SLOPE: tl.constexpr,
    BLOCK: tl.constexpr, WIDTH: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    sum_g, sum_gh = _vector(sums, C, WIDTH, ACC), _vector(sums + C, C, WIDTH, ACC)
    if program == 0:
        c = tl.arange(0, WIDTH)
        tl.store(db + c, sum_g, mask=c < C)
        tl.store(dw + c, sum_gh, mask=c < C)
    mu, w, b = _vector(mean, C, WIDTH, ACC), _vector(weight, C, WIDTH, ACC), _vector(bias, C, WIDTH, ACC)
    r = 1.0 / tl.sqrt(_vector(var, C, WIDTH, ACC) + EPS)
    mean_g, mean_gh = sum_g / rows.to(ACC), sum_gh / rows.to(ACC)
    for index in range(program * run, tl.minimum(program * run + run, blocks)):
        offsets, mask = _rows_of(index, rows, C, BLOCK, WIDTH)
        h, g, _ = _normalise(grad, x, offsets, mask, mu, r, w, b, SLOPE, ACC)
        value = (w * r)[None, :] * (g - mean_g[None, :] - h * mean_gh[None, :])
        tl.store(dx + offsets, value.to(dx.dtype.element_ty), mask=mask)


@jit
def bn_lrelu_double_backward_sums_kernel(
    of_dx, grad, x, weight, bias, mean, var, partials, rows, blocks, run,
    C: tl.constexpr, EPS: tl.constexpr, SLOPE: tl.constexpr,
    BLOCK: tl.constexpr, WIDTH: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Sums of V, V h and V g over each program's run of blocks, (programs, 3, C)."""
    program = tl.program_id(0)
    mu, w, b = _vector(mean, C, WIDTH, ACC), _vector(weight, C, WIDTH, ACC), _vector(bias, C, WIDTH, ACC)
    r = 1.0 / tl.sqrt(_vector(var, C, WIDTH, ACC) + EPS)
    sum_v, sum_vh, sum_vg = tl.zeros((WIDTH,), ACC), tl.zeros((WIDTH,), ACC), tl.zeros((WIDTH,), ACC)
    for index in range(program * run, tl.minimum(program * run + run, blocks)):
        offsets, mask = _rows_of(index, rows, C, BLOCK, WIDTH)
        h, g, _ = _normalise(grad, x, offsets, mask, mu, r, w, b, SLOPE, ACC)
        v = tl.load(of_dx + offsets, mask=mask, other=0.0).to(ACC)
        sum_v += tl.sum(v, 0)
        sum_vh += tl.sum(v * h, 0)
        sum_vg += tl.sum(v * g, 0)
    c = tl.arange(0, WIDTH)
    place = partials + program * 3 * C + c
    tl.store(place, sum_v, mask=c < C)
    tl.store(place + C, sum_vh, mask=c < C)
    tl.store(place + 2 * C, sum_vg, mask=c < C)


@jit
def bn_lrelu_double_backward_kernel(
    of_dx, of_dw, of_db, grad, x, weight, bias, mean, var, dw, db, sums, of_grad, of_x, of_w, rows, blocks, run,
    C: tl.constexpr, EPS: tl.constexpr, SLOPE: tl.constexpr,
    BLOCK: tl.constexpr, WIDTH: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    n = rows.to(ACC)
    sum_v, sum_vh = _vector(sums, C, WIDTH, ACC), _vector(sums + C, C, WIDTH, ACC)
    mu, w, b = _vector(mean, C, WIDTH, ACC), _vector(weight, C, WIDTH, ACC), _vector(bias, C, WIDTH, ACC)
    a, c = _vector(of_dw, C, WIDTH, ACC), _vector(of_db, C, WIDTH, ACC)
    sum_gh, sum_g = _vector(dw, C, WIDTH, ACC), _vector(db, C, WIDTH, ACC)
    r = 1.0 / tl.sqrt(_vector(var, C, WIDTH, ACC) + EPS)
    q = _vector(sums + 2 * C, C, WIDTH, ACC) - (sum_g * sum_v + sum_gh * sum_vh) / n
    if program == 0:
        channel = tl.arange(0, WIDTH)
        tl.store(of_w + channel, r * q, mask=channel < C)
    of_g, of_v = a - w * r / n * sum_vh, w * r / n * sum_gh  # e = of_g g - of_v V
    mean_v, mean_vh = sum_v / n, sum_vh / n
    mean_e = (of_g * sum_g - of_v * sum_v) / n
    along_h = (of_g * sum_gh - of_v * sum_vh + w * r * q) / n
    for index in range(program * run, tl.minimum(program * run + run, blocks)):
        offsets, mask = _rows_of(index, rows, C, BLOCK, WIDTH)
        h, g, positive = _normalise(grad, x, offsets, mask, mu, r, w, b, SLOPE, ACC)
        v = tl.load(of_dx + offsets, mask=mask, other=0.0).to(ACC)
        value = (w * r)[None, :] * (v - mean_v[None, :] - h * mean_vh[None, :]) + a[None, :] * h + c[None, :]
        tl.store(of_grad + offsets, tl.where(positive, value, value * SLOPE).to(of_grad.dtype.element_ty), mask=mask)
        e = of_g[None, :] * g - of_v[None, :] * v
        value = r[None, :] * (e - mean_e[None, :] - h * along_h[None, :])
        tl.store(of_x + offsets, value.to(of_x.dtype.element_ty), mask=mask)


# --- the launchers ----------------------------------------------------------------------------------------------------


class _Launch:
    """How one tensor is divided among programs: by its shape alone, so that results repeat."""

    def __init__(self, x: Tensor, eps: float, slope: float) -> None:
        tile = _tile(x.shape[1], x.dtype == torch.float64)
        rows = x.numel() // x.shape[1]
        blocks = -(-rows // tile["BLOCK"])
        run = -(-blocks // PROGRAMS)
        self.x, self.rows, self.programs = x, rows, -(-blocks // run)
        self.grid = (self.programs,)
        self.division = {"rows": rows, "blocks": blocks, "run": run, "num_warps": WARPS} | tile
        self.formula = {"EPS": eps, "SLOPE": slope}

    def partials(self, sums: int) -> Tensor:
        return self.x.new_empty(self.programs, sums, self.x.shape[1], dtype=_accumulator(self.x))

    def folded(self, partials: Tensor) -> Tensor:
        """(sums, C) from (programs, sums, C)."""
        sums = torch.empty_like(partials[0])
        grid = (-(-sums.numel() // COLUMNS),)
        bn_lrelu_fold_sums_kernel[grid](partials, sums, self.programs, sums.numel(), PROGRAMS, COLUMNS)
        return sums


def _tile(channels: int, double: bool) -> dict[str, Any]:
    width = 1 << (channels - 1).bit_length()
    block = max(1, TILE // width)
    return {"C": channels, "BLOCK": block, "WIDTH": width, "ACC": tl.float64 if double else tl.float32}


def _forward_kernels(
    x: Tensor, weight: Tensor, bias: Tensor, eps: float, slope: float
) -> tuple[Tensor, Tensor, Tensor]:
    launch = _Launch(x, eps, slope)
    partials = launch.partials(3)
    y, mean, var = torch.empty_like(x), torch.empty_like(partials[0, 0]), torch.empty_like(partials[0, 0])
    channels, accumulator = x.shape[1], launch.division["ACC"]
    bn_lrelu_statistics_kernel[launch.grid](x, partials, **launch.division)
    bn_lrelu_fold_statistics_kernel[(-(-channels // COLUMNS),)](
        partials, mean, var, launch.programs, launch.rows, channels, PROGRAMS, COLUMNS, accumulator
    )
    inputs = (x, weight.contiguous(), bias.contiguous(), mean, var)
    bn_lrelu_forward_kernel[launch.grid](*inputs, y, **launch.division, **launch.formula)
    return y, mean, var


def _backward_kernels(
    grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, var: Tensor, eps: float, slope: float
) -> tuple[Tensor, Tensor, Tensor]:
    launch = _Launch(x, eps, slope)
    partials = launch.partials(2)
    dx, dw, db = torch.empty_like(x), torch.empty_like(partials[0, 0]), torch.empty_like(partials[0, 0])
    inputs = (grad, x, *(vector.contiguous() for vector in (weight, bias, mean, var)))
    constants = launch.division | launch.formula
    bn_lrelu_backward_sums_kernel[launch.grid](*inputs, partials, **constants)
    bn_lrelu_backward_kernel[launch.grid](*inputs, launch.folded(partials), dx, dw, db, **constants)
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
    partials = launch.partials(3)
    of_grad, of_x, of_w = torch.empty_like(x), torch.empty_like(x), torch.empty_like(partials[0, 0])
    of_dw, of_db, weight, bias, mean, var, dw, db = (
        vector.contiguous() for vector in (of_dw, of_db, weight, bias, mean, var, dw, db)
    )
    inputs, constants = (grad, x, weight, bias, mean, var), launch.division | launch.formula
    bn_lrelu_double_backward_sums_kernel[launch.grid](of_dx, *inputs, partials, **constants)
    bn_lrelu_double_backward_kernel[launch.grid](
        of_dx, of_dw, of_db, *inputs, dw, db, launch.folded(partials), of_grad, of_x, of_w, **constants
    )
    return of_grad, of_x, of_w


def variants() -> list[Variant]:
    """What the launchers ask for: the networks' widths, float32 and bfloat16 maps."""
    kernels = (
        bn_lrelu_statistics_kernel,
        bn_lrelu_fold_statistics_kernel,
        bn_lrelu_fold_sums_kernel,
        bn_lrelu_forward_kernel,
        bn_lrelu_backward_sums_kernel,
        bn_lrelu_backward_kernel,
        bn_lrelu_double_backward_sums_kernel,
        bn_lrelu_double_backward_kernel,
    )
    maps = {"x", "y", "grad", "dx", "of_dx", "of_grad", "of_x"}
    numbers = {"rows", "blocks", "run", "programs", "columns"}
    result = []
    for channels, storage in ((8, "fp32"), (32, "fp32"), (32, "bf16"), (64, "fp32")):
        constants = _tile(channels, double=False) | {
            "EPS": 1e-5,
            "SLOPE": 0.2,
            "PROGRAMS": PROGRAMS,
            "COLUMNS": COLUMNS,
        }
        for kernel in kernels:
            takes_maps = bool(maps.intersection(kernel.arg_names))
            if not takes_maps and (channels, storage) != (32, "fp32"):
                continue  # folding depends on neither
            runtime = [name for name in kernel.arg_names if name not in constants]
            name = kernel.__name__.removesuffix("_kernel")
            result.append(
                Variant(
                    name=f"{name} c{channels} {storage}" if takes_maps else name,
                    kernel=kernel,
                    signature={
                        name: f"*{storage}" if name in maps else "i32" if name in numbers else "*fp32"
                        for name in runtime
                    },
                    constexprs={name: constants[name] for name in kernel.arg_names if name in constants},
                    warps=WARPS,
                    representative=kernel is bn_lrelu_double_backward_kernel and (channels, storage) == (32, "fp32"),
                )
            )
    return result
