"""Checks of options."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Integral, Real

from task_losses.texts import shown

# Of what multiplies or divides a loss: in float32, value and gradient stay finite.
LARGEST = 1e12
LARGEST_WEIGHT = 1e6  # of a term
TEXTS = (str, bytes, bytearray)  # sequences that nobody means as a list


def check_number(name: str, value: object, most: float = math.inf) -> float:
    """The number as a float; numbers of numpy's types are numbers too.

    Args:
        most: what it may be, either way.
    """
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number, got {shown(value)} ({type(value).__name__}){_hint(value)}")
    try:
        number = float(value)
    except OverflowError:  # an integer or a fraction beyond all floats
        number = math.inf
    if not math.isfinite(number):
        raise ValueError(f"{name} must be finite, got {shown(value)}")
    if abs(number) > most:
        raise ValueError(f"{name} must be from {-most:g} to {most:g}, got {shown(value)}")
    return number


def _hint(value: object) -> str:
    """What to write instead of something that is nearly a number."""
    if isinstance(value, str):
        try:
            number = float(value)
        except ValueError:
            return ""
        return f"; write {number!r} without quotes (YAML reads 1e-1 as text, 1.0e-1 as a number)"
    if hasattr(value, "tolist"):  # an array or a tensor
        return "; pass a plain number or list: value.tolist()"
    return ""


def check_texture(value: float | None, weight: float) -> float:
    """The dial of the texture term; None is what is recommended.

    Args:
        weight: of that term; 0 where the weights have none.
    """
    if value is None:
        return 1.0 if weight else 0.0
    number = _check_factor("texture", value, LARGEST_WEIGHT / max(weight, 1.0))
    if number and not weight:
        raise ValueError(
            f"texture={value!r}, but these weights have no texture term: leave it out, or export the run again"
        )
    return number


def check_fidelity(value: float, there: bool) -> float:
    """The factor of the image's own term.

    Args:
        there: whether the weights compare the image itself.
    """
    number = _check_factor("fidelity", value, LARGEST_WEIGHT)
    if number != 1 and not there:
        raise ValueError(f"fidelity={value!r}, but these weights do not compare the image itself: leave it out")
    return number


def _check_factor(name: str, value: float, most: float) -> float:
    number = check_number(name, value)
    if not 0 <= number <= most:
        raise ValueError(f"{name} must be 0 or more, at most {most:g}, got {shown(value)}")
    return number


def check_choice(name: str, value: str, choices: Sequence[str]) -> str:
    if not isinstance(value, str) or value not in choices:  # an array would compare its elements
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}; got {shown(value)}")
    return value


def check_data_range(value: float | Sequence[float]) -> tuple[float, float]:
    if isinstance(value, Sequence) and not isinstance(value, TEXTS):
        if len(value) != 2:
            raise ValueError(f"data_range must be a number or a pair (low, high), got {shown(value)}")
        low, high = (check_number("data_range", bound, LARGEST) for bound in value)
    else:
        low, high = 0.0, check_number("data_range", value, LARGEST)
    if not low < high:
        raise ValueError(
            f"data_range must be positive, or a pair with low < high, got {shown(value)}; "
            "use 1.0 for images in [0, 1], 255 for [0, 255], (-1, 1) for [-1, 1]"
        )
    if high - low < 1 / LARGEST:
        raise ValueError(f"data_range must be {1 / LARGEST:g} wide or more, got {shown(value)}")
    return low, high


def check_scales(value: Sequence[int] | None, count: int) -> tuple[int, ...]:
    """The chosen scales in ascending order."""
    if value is None:
        return tuple(range(count))
    if isinstance(value, TEXTS) or not isinstance(value, Sequence):
        hint = "" if isinstance(value, TEXTS) else _hint(value)
        raise TypeError(f"scales must be a list of integers or None, got {shown(value)} ({type(value).__name__}){hint}")
    if any(isinstance(scale, bool) or not isinstance(scale, Integral) for scale in value):
        raise TypeError(f"scales must be integers, got {shown(list(value))}")
    value = [int(scale) for scale in value]  # numpy's integers among them
    if not value or len(set(value)) < len(value) or not set(value) <= set(range(count)):
        raise ValueError(
            f"scales must be different numbers from 0 (coarsest) to {count - 1} (finest), at least one; "
            f"got {shown(value)}"
        )
    return tuple(sorted(value))
