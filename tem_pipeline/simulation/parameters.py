"""Checks the parameters of a simulation. Each refusal is one line that names the parameter."""

import math

import numpy as np

from tem_pipeline.errors import UserError

Range = tuple[float, float]
"""Smallest and largest value; each image draws a value between them."""


def require(condition: bool, message: str) -> None:
    """Raise a `UserError` with the message unless the condition holds."""
    if not condition:
        raise UserError(message)


def finite(value: object) -> bool:
    """Return whether this is a finite number."""
    return isinstance(value, int | float | np.number) and math.isfinite(value)


def positive(value: object) -> bool:
    """Return whether this is a finite number above 0."""
    return finite(value) and value > 0  # type: ignore[operator]


def require_range(name: str, value: tuple[float, float], low: float, high: float) -> None:
    """Refuse anything but a range within two limits."""
    valid = len(value) == 2 and all(map(finite, value)) and low <= value[0] <= value[1] <= high
    require(valid, f"{name} {value}: give two numbers, the smaller first, from {low:g} to {high:g}")
