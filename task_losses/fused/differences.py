"""How two maps are compared, in a kernel: sizes of the differences, and derivatives, of one program's pixels."""

from __future__ import annotations

import task_losses.terms
from task_losses.fused.optional import constexpr, jit, tl

SMOOTHING = constexpr(task_losses.terms.SMOOTHING)
SMALL = constexpr(0.03)  # below, expm1 and log1p are replaced by their series, which needs no exact logarithm
TERMS = constexpr(9)  # of the series: 0.03^9 is 2e-14


@jit
def size_of(difference, EXPONENT: tl.constexpr):
    """|d|^p, and for p between 1 and 2 the smoothed form of FrozenDiscriminator."""
    if EXPONENT == 2.0:
        return difference * difference
    elif EXPONENT == 1.0:
        return tl.abs(difference)
    else:
        # s^p ((1 + z)^q - 1), z = (d / s)^2, q = p / 2
        relative = difference / SMOOTHING
        relative = relative * relative
        series = relative * 0.0
        for term in tl.static_range(TERMS, 0, -1):
            series = ((EXPONENT / 2 - term + 1) / term) * relative * (1.0 + series)
        power = tl.exp((EXPONENT / 2) * tl.log(1.0 + relative)) - 1.0
        return tl.where(relative < SMALL, series, power) * (SMOOTHING**EXPONENT)


@jit
def derivative_of(difference, EXPONENT: tl.constexpr):
    """The derivative of :func:`size_of`."""
    if EXPONENT == 2.0:
        return 2.0 * difference
    elif EXPONENT == 1.0:
        return tl.where(difference > 0, 1.0, tl.where(difference < 0, -1.0, 0.0))
    else:
        smoothed = difference * difference + SMOOTHING * SMOOTHING
        return EXPONENT * difference * tl.exp((EXPONENT / 2 - 1.0) * tl.log(smoothed))
