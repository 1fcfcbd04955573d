"""Refuses parameters of a simulation that make no sense, each in one line that names it."""

import math

import numpy as np

from tem_pipeline.errors import UserError

Range = tuple[float, float]
"""Smallest and largest value; what is drawn anew for every image is drawn between them."""


def require(condition: bool, message: str) -> None:
    """Raise a `UserError` of that message unless the condition holds."""
    if not condition:
        raise UserError(message)


def finite(value: object) -> bool:
    """Tell whether this is a number, and a finite one."""
    return isinstance(value, int | float | np.number) and math.isfinite(value)


def positive(value: object) -> bool:
    """Tell whether this is a finite number above 0."""
    return finite(value) and value > 0  # type: ignore[operator]


def require_range(name: str, value: tuple[float, float], low: float, high: float) -> None:
    """Refuse what is no range between two limits."""
    valid = len(value) == 2 and all(map(finite, value)) and low <= value[0] <= value[1] <= high
    require(valid, f"{name} {value}: give two numbers, the smaller first, from {low:g} to {high:g}")
