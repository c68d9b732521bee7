"""JPEG compression and decompression on the device, in one launch: what a codec does to an image, without the file.

Every step is libjpeg's own integer arithmetic, so that the result is the codec's: the tables of Annex K of ITU-T T.81
scaled by libjpeg's rule, the accurate integer DCT (Loeffler, Ligtenberg and Moschytz 1989, 13 bits), chroma at full
resolution, edges replicated to whole blocks. Entropy coding loses nothing and is left out.
"""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import Tensor

from training.kernels.optional_triton import TRITON_INSTALLED, interpreted, jit, tl
from training.kernels.variants import Variant

LUMINANCE = """
    16 11 10 16 24 40 51 61   12 12 14 19 26 58 60 55   14 13 16 24 40 57 69 56   14 17 22 29 51 87 80 62
    18 22 37 56 68 109 103 77   24 35 55 64 81 104 113 92   49 64 78 87 103 121 120 101   72 92 95 98 112 100 103 99
"""
CHROMINANCE = """
    17 18 24 47 99 99 99 99   18 21 26 66 99 99 99 99   24 26 56 99 99 99 99 99   47 66 99 99 99 99 99 99
    99 99 99 99 99 99 99 99   99 99 99 99 99 99 99 99   99 99 99 99 99 99 99 99   99 99 99 99 99 99 99 99
"""
BITS = 13  # of the DCT's constants
EXTRA = 2  # more bits are kept between its two passes
# 16-bit weights of red, green and blue, each row adding up to 1, 0 and 0.
TO_YCC = ((19595, 38470, 7471), (-11059, -21709, 32768), (32768, -27439, -5329))
RED_OF_CR, GREEN_OF_CB, GREEN_OF_CR, BLUE_OF_CB = 91881, -22554, -46802, 116130
TILE = 32  # columns of a program; it has 16 rows
WARPS = 8  # 4 would spill


def jpeg(image: Tensor, quality: int | Tensor, impl: str = "auto") -> Tensor:
    """What a JPEG codec makes of images, with chroma at full resolution (4:4:4).

    Args:
        image: (N, 3, H, W) in [0, 1], floating point; clipped and rounded to 8 bits first.
        quality: libjpeg's scale, 1 to 100, for all images, or integers (N,) on the image's device.
        impl: "triton" for the kernel, "reference" for torch's operations, "auto" for the kernel on CUDA where triton is
            installed.

    Returns:
        (N, 3, H, W) in [0, 1], multiples of 1 / 255.

    Raises:
        ValueError: shape, quality or ``impl`` are none of these, or "triton" where it cannot run.
    """
    if image.ndim != 4 or image.shape[1] != 3 or not image.is_floating_point():
        raise ValueError(f"image is {tuple(image.shape)} {image.dtype}: expected (N, 3, H, W), floating point")
    if isinstance(quality, int) and not 1 <= quality <= 100:
        raise ValueError(f"quality is {quality}: expected 1 to 100")
    if isinstance(quality, Tensor) and (quality.shape != image.shape[:1] or quality.is_floating_point()):
        raise ValueError(
            f"quality is {tuple(quality.shape)} {quality.dtype}: expected integers ({image.shape[0]},), one per image"
        )
    if impl not in ("auto", "triton", "reference"):
        raise ValueError(f"impl is {impl!r}: expected auto, triton or reference")
    possible = TRITON_INSTALLED and (image.is_cuda or interpreted())
    if impl == "triton" and not possible:
        raise ValueError(
            f"impl is 'triton', image is on {image.device} and triton is {'' if TRITON_INSTALLED else 'not '}installed:"
            " the kernel needs both a CUDA tensor and triton; use impl='auto'"
        )
    if isinstance(quality, int):
        quality = torch.full(image.shape[:1], quality, device=image.device)
    tables = quantisation_tables(quality)
    return jpeg_reference(image, tables) if impl == "reference" or not possible else _launch(image, tables)


def quantisation_tables(quality: Tensor) -> Tensor:
    """The divisors of luminance and chrominance, (N, 2, 8, 8) int32, for qualities (N,), clipped to 1 to 100."""
    values = [[int(value) for value in table.split()] for table in (LUMINANCE, CHROMINANCE)]
    base = torch.tensor(values, device=quality.device).view(2, 8, 8)
    quality = quality.clamp(1, 100)
    percent = torch.where(quality < 50, 5000 // quality, 200 - 2 * quality)[:, None, None, None]
    return ((base * percent + 50) // 100).clamp(1, 255).int()


@functools.cache
def dct_matrix() -> tuple[tuple[int, ...], ...]:
    """The DCT of 8 values as libjpeg's integers, scaled by 2^BITS; its transpose is the inverse."""

    def fixed(value: float) -> int:
        return round(value * (1 << BITS))

    columns = []
    for place in range(8):
        x = [int(i == place) for i in range(8)]
        even, odd = [x[i] + x[7 - i] for i in range(4)], [x[i] - x[7 - i] for i in range(4)]
        outer, inner = even[0] - even[3], even[1] - even[2]
        rotated = (outer + inner) * fixed(0.541196100)
        out = [0] * 8
        out[0], out[4] = (
            (even[0] + even[3] + even[1] + even[2]) << BITS,
            (even[0] + even[3] - even[1] - even[2]) << BITS,
        )
        out[2], out[6] = rotated + outer * fixed(0.765366865), rotated - inner * fixed(1.847759065)
        shared = sum(odd) * fixed(1.175875602)
        a, b = -(odd[0] + odd[3]) * fixed(0.899976223), -(odd[1] + odd[2]) * fixed(2.562915447)
        c = shared - (odd[1] + odd[3]) * fixed(1.961570560)
        d = shared - (odd[0] + odd[2]) * fixed(0.390180644)
        out[1], out[3] = odd[0] * fixed(1.501321110) + a + d, odd[1] * fixed(3.072711026) + b + c
        out[5], out[7] = odd[2] * fixed(2.053119869) + b + d, odd[3] * fixed(0.298631336) + a + c
        columns.append(out)
    return tuple(zip(*columns, strict=True))


def jpeg_reference(image: Tensor, tables: Tensor) -> Tensor:
    """:func:`jpeg` in torch's operations; float64 holds all its integers exactly."""
    height, width = image.shape[2:]
    pixels = (image.float().clamp(0, 1) * 255 + 0.5).floor().double()
    pixels = F.pad(pixels, (0, -width % 8, 0, -height % 8), mode="replicate")
    forward = torch.tensor(dct_matrix(), dtype=torch.float64, device=image.device)

    def shifted(value: Tensor, bits: int) -> Tensor:
        return torch.floor((value + (1 << (bits - 1))) / (1 << bits))

    red, green, blue = pixels.unbind(1)
    decoded = []
    for component, weights in enumerate(TO_YCC):
        # Chroma is centred on 128 and rounds its halves down, as 2^15 - 1 is added instead of 2^15.
        mixed = weights[0] * red + weights[1] * green + weights[2] * blue
        levels = shifted(mixed, 16) if component == 0 else torch.floor((mixed + 2**15 - 1) / 2**16) + 128
        blocks = levels.unfold(1, 8, 8).unfold(2, 8, 8) - 128  # (N, H / 8, W / 8, 8, 8)
        rows = shifted(blocks @ forward.T, BITS - EXTRA)
        coefficients = shifted(forward @ rows, BITS + EXTRA)  # 8 times an orthonormal DCT's
        divisors = tables[:, min(component, 1), None, None].double()
        steps = torch.floor((coefficients.abs() + 4 * divisors) / (8 * divisors)) * coefficients.sign()
        columns = shifted(forward.T @ (steps * divisors), BITS - EXTRA)
        restored: Tensor = (shifted(columns @ forward, BITS + EXTRA + 3) + 128).clamp(0, 255)
        decoded.append(restored.transpose(2, 3).flatten(3, 4).flatten(1, 2))
    luma, cb, cr = decoded[0], decoded[1] - 128, decoded[2] - 128
    red, blue = luma + shifted(RED_OF_CR * cr, 16), luma + shifted(BLUE_OF_CB * cb, 16)
    green = luma + shifted(GREEN_OF_CB * cb + GREEN_OF_CR * cr, 16)
    result: Tensor = torch.stack([red, green, blue], 1).clamp(0, 255)[:, :, :height, :width] / 255
    return result.to(image.dtype)


@functools.cache
def _matrix(device: torch.device) -> Tensor:
    """Two DCTs side by side, (16, 16) float32: as small as a tensor core's tile may be."""
    block = torch.tensor(dct_matrix(), dtype=torch.float32)
    both: Tensor = torch.block_diag(block, block)
    return both.to(device)


def _launch(image: Tensor, tables: Tensor) -> Tensor:
    images, _, height, width = image.shape
    pixels = image.float().contiguous()
    result = torch.empty_like(pixels)
    grid = (-(-width // TILE), -(-height // 16), images)
    with torch.cuda.device_of(pixels):
        jpeg_kernel[grid](
            pixels, result, _matrix(image.device), tables.contiguous(), height, width,
            *TO_YCC[0], *TO_YCC[1], *TO_YCC[2],
            RED_OF_CR, GREEN_OF_CB, GREEN_OF_CR, BLUE_OF_CB, BITS, EXTRA, TILE, num_warps=WARPS, num_stages=1,
        )  # fmt: skip
    return result.to(image.dtype)


@jit
def _shifted(value, BITS: tl.constexpr):
    return (value + (1 << (BITS - 1))) >> BITS


@jit
def _columns(matrix, value):
    return tl.dot(matrix, value.to(tl.float32), input_precision="ieee").to(tl.int32)


@jit
def _rows(value, matrix, TILE: tl.constexpr):
    """Each run of 16 values of a row, times a matrix."""
    runs = tl.reshape(value, (TILE, 16)).to(tl.float32)
    return tl.reshape(tl.dot(runs, matrix, input_precision="ieee").to(tl.int32), (16, TILE))


@jit
def _round_trip(levels, matrix, transposed, divisor, BITS: tl.constexpr, EXTRA: tl.constexpr, TILE: tl.constexpr):
    """One component, (16, TILE) of -128 to 127, through the DCT, quantisation and back.

    float32 sums are exact below 2^24. The first pass stays below; later values are halved into 7 low bits and the rest.
    """
    rows = _shifted(_rows(levels, transposed, TILE), BITS - EXTRA)
    wide = _columns(matrix, rows >> 7) * 128 + _columns(matrix, rows & 127)
    coefficients = _shifted(wide, BITS + EXTRA)
    steps = (tl.abs(coefficients) + 4 * divisor) // (8 * divisor)
    restored = tl.where(coefficients < 0, -steps, steps) * divisor
    wide = _columns(transposed, restored >> 7) * 128 + _columns(transposed, restored & 127)
    columns = _shifted(wide, BITS - EXTRA)
    wide = _rows(columns >> 7, matrix, TILE) * 128 + _rows(columns & 127, matrix, TILE)
    return tl.minimum(tl.maximum(_shifted(wide, BITS + EXTRA + 3), -128), 127)


@jit
def _byte(pointer, offsets):
    value = tl.load(pointer + offsets)
    return tl.floor(tl.minimum(tl.maximum(value, 0.0), 1.0) * 255.0 + 0.5).to(tl.int32)


@jit
def _put(pointer, offsets, value, mask):
    level = tl.minimum(tl.maximum(value, 0), 255).to(tl.float32)
    tl.store(pointer + offsets, tl.div_rn(level, 255.0), mask=mask)


@jit
def jpeg_kernel(
    image, result, matrix, tables, height, width,
    Y_R: tl.constexpr, Y_G: tl.constexpr, Y_B: tl.constexpr,
    CB_R: tl.constexpr, CB_G: tl.constexpr, CB_B: tl.constexpr,
    CR_R: tl.constexpr, CR_G: tl.constexpr, CR_B: tl.constexpr,
    RED_OF_CR: tl.constexpr, GREEN_OF_CB: tl.constexpr, GREEN_OF_CR: tl.constexpr, BLUE_OF_CB: tl.constexpr,
    BITS: tl.constexpr, EXTRA: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """16 rows and TILE columns of one image: (N, 3, H, W) float32 in [0, 1], read once, written once."""
    index = tl.program_id(2)
    y = (tl.program_id(1) * 16 + tl.arange(0, 16))[:, None]
    x = (tl.program_id(0) * TILE + tl.arange(0, TILE))[None, :]
    mask = (y < height) & (x < width)
    plane = height * width
    offsets = tl.minimum(y, height - 1) * width + tl.minimum(x, width - 1)  # libjpeg repeats the edge
    image += index.to(tl.int64) * 3 * plane
    result += index.to(tl.int64) * 3 * plane
    red, green, blue = _byte(image, offsets), _byte(image + plane, offsets), _byte(image + 2 * plane, offsets)

    e = tl.arange(0, 16)
    dct = tl.load(matrix + e[:, None] * 16 + e[None, :])
    inverse = tl.trans(dct)
    place = tables + index * 128 + (y % 8) * 8 + x % 8
    divisor = tl.load(place)
    luma = _shifted(Y_R * red + Y_G * green + Y_B * blue, 16) - 128
    luma = _round_trip(luma, dct, inverse, divisor, BITS, EXTRA, TILE) + 128
    divisor = tl.load(place + 64)
    cb = (CB_R * red + CB_G * green + CB_B * blue + 32767) >> 16
    cb = _round_trip(cb, dct, inverse, divisor, BITS, EXTRA, TILE)
    cr = (CR_R * red + CR_G * green + CR_B * blue + 32767) >> 16
    cr = _round_trip(cr, dct, inverse, divisor, BITS, EXTRA, TILE)

    _put(result, offsets, luma + _shifted(RED_OF_CR * cr, 16), mask)
    _put(result + plane, offsets, luma + _shifted(GREEN_OF_CB * cb + GREEN_OF_CR * cr, 16), mask)
    _put(result + 2 * plane, offsets, luma + _shifted(BLUE_OF_CB * cb, 16), mask)


def variants() -> list[Variant]:
    """What the launcher asks for."""
    weights = {
        f"{component}_{colour}": TO_YCC[i][j]
        for i, component in enumerate(("Y", "CB", "CR"))
        for j, colour in enumerate("RGB")
    }
    back = {
        "RED_OF_CR": RED_OF_CR,
        "GREEN_OF_CB": GREEN_OF_CB,
        "GREEN_OF_CR": GREEN_OF_CR,
        "BLUE_OF_CB": BLUE_OF_CB,
    }
    types = {"image": "*fp32", "result": "*fp32", "matrix": "*fp32", "tables": "*i32", "height": "i32", "width": "i32"}
    constants = weights | back | {"BITS": BITS, "EXTRA": EXTRA, "TILE": TILE}
    return [Variant("jpeg", jpeg_kernel, types, constants, warps=WARPS, stages=1, representative=True)]
