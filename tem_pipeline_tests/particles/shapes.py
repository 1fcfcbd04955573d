"""Label images to measure: digitised shapes of known size, and particles of every form.

A pixel belongs to a shape if its centre does.
"""

import numpy as np
import pandas as pd
from scipy import ndimage

from tem_pipeline.particles.measurement import measure_particles

# Centres relative to a pixel's centre. At and near the lattice's points of symmetry, (0, 0) and (½, ½), a
# disc's rim passes many pixel centres at once. A 5 px disc may then cover only 16 pixels, so that any
# measurement of its diameter is 9.7 % short. Such discs have limits of their own.
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


def particle_sheet(size: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Ellipses 8 to 36 px across on a jittered grid, 10,000 on 4096², some touching: cores, whole particles.

    Shells are 3 px thick; every fifth particle has none.
    """
    rng = np.random.default_rng(seed)
    pitch = 4096 / 100
    y, x = (np.mgrid[pitch / 2 : size : pitch, pitch / 2 : size : pitch]).reshape(2, -1)
    n = len(y)
    y, x = y + rng.uniform(-10, 10, n), x + rng.uniform(-10, 10, n)
    diameter = np.clip(rng.normal(22, 5, n), 8, 36)
    aspect, angle = rng.uniform(0.65, 1, n), rng.uniform(0, np.pi, n)
    kind = np.uint16 if n < 2**16 else np.uint32
    cores, shells = np.zeros((size, size), kind), np.zeros((size, size), kind)
    for sheet, thickness in ((cores, 0), (shells, 3)):
        for i in range(n):
            if thickness and i % 5 == 0:
                continue
            major = diameter[i] / np.sqrt(aspect[i]) + 2 * thickness
            minor = diameter[i] * np.sqrt(aspect[i]) + 2 * thickness
            half = int(major / 2) + 1
            top, left = max(0, int(y[i]) - half), max(0, int(x[i]) - half)
            box = np.s_[top : int(y[i]) + half + 2, left : int(x[i]) + half + 2]
            row, column = np.ogrid[top : top + sheet[box].shape[0], left : left + sheet[box].shape[1]]
            row, column = row - y[i], column - x[i]
            along = row * np.cos(angle[i]) + column * np.sin(angle[i])
            across = column * np.cos(angle[i]) - row * np.sin(angle[i])
            sheet[box][(2 * along / major) ** 2 + (2 * across / minor) ** 2 <= 1] = i + 1
    # A core's own shell is in front of its neighbours'; bare cores are in front of all.
    shells = np.where(cores > 0, np.where(cores % 5 == 1, 0, cores), shells)
    return cores, shells


def blobs(
    seed: int, shape: tuple[int, int] = (150, 130), sigma: float = 2.5, level: float = 0.6
) -> np.ndarray:
    """Particles of every form, with holes, at the frame, down to single pixels."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), sigma)
    labels, _ = ndimage.label(noise > level * noise.std())
    return labels


def one(labels: np.ndarray, **options) -> pd.Series:
    """Measure a label image of one particle; give its row."""
    table = measure_particles(labels, **options)
    assert len(table) == 1
    return table.iloc[0]
