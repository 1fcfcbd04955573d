"""Digitised shapes of known size: a pixel belongs to a shape when its centre does."""

import numpy as np

# Centres relative to a pixel's centre. On and beside the lattice's points of symmetry, (0, 0) and (½, ½), a
# disc's rim meets many pixel centres at once (a 5 px disc may cover 16 pixels: 9.7 % short in diameter,
# however measured); such discs have ceilings of their own.
OFFSETS = [
    (0.1, 0.4),
    (0.25, 0.25),
    (0.3, 0.2),
    (0.37, 0.21),
    (1 / 3, 1 / 3),
    (0.3, 0.4),
    (0.2, 0.7),
    (0.25, 0.5),
    (0.4, 0.4),
    (0.1, 0.1),
    (0.2, 0.2),
    (0.25, 0.0),
]


def _frame(extent: float, offset: tuple[float, float], angle: float) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates along and across an axis at `angle` from the row axis, counter-clockwise."""
    half = int(np.ceil(extent / 2)) + 3
    y, x = np.mgrid[-half : half + 1, -half : half + 1]
    y, x = y - offset[0], x - offset[1]
    return y * np.cos(angle) + x * np.sin(angle), -y * np.sin(angle) + x * np.cos(angle)


def ellipse(
    major: float, minor: float, angle: float = 0.0, offset: tuple[float, float] = (0.0, 0.0)
) -> np.ndarray:
    along, across = _frame(major, offset, angle)
    return ((2 * along / major) ** 2 + (2 * across / minor) ** 2 <= 1).astype(np.uint16)


def disc(diameter: float, offset: tuple[float, float] = (0.0, 0.0)) -> np.ndarray:
    return ellipse(diameter, diameter, 0.0, offset)


def ring(outer: float, inner: float, offset: tuple[float, float] = (0.0, 0.0)) -> np.ndarray:
    along, across = _frame(outer, offset, 0.0)
    radius = 2 * np.hypot(along, across)
    return ((radius <= outer) & (radius > inner)).astype(np.uint16)


def rectangle(
    length: float, width: float, angle: float = 0.0, offset: tuple[float, float] = (0.0, 0.0)
) -> np.ndarray:
    along, across = _frame(float(np.hypot(length, width)), offset, angle)
    return ((np.abs(2 * along) <= length) & (np.abs(2 * across) <= width)).astype(np.uint16)


def block(height: int, width: int) -> np.ndarray:
    labels = np.zeros((height + 6, width + 6), np.uint16)
    labels[3:-3, 3:-3] = 1
    return labels
