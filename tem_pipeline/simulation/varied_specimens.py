"""Draws very different specimens at random: particles of many kinds, and the supports that carry them.

`varied_micrographs` images them.
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter, zoom

from tem_pipeline.simulation.specimens import Placement, Population

KINDS = {"session": 0.22, "core_shell": 0.14, "bare": 0.24, "supported": 0.40}
"""Kinds of specimen and how often each is drawn: micrographs of a simulated session at any magnification and
dose; core–shell particles of any build; bare particles on a film; particles on a rough or porous support."""

EDGE = 0.5
"""A bare particle is visible where it has at least this fraction of its greatest thickness: people draw
outlines at half contrast."""


def log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    """Draw a number that is uniform in its logarithm."""
    return float(np.exp(rng.uniform(math.log(low), math.log(high))))


def draw_population(rng: np.random.Generator, kind: str, mean_nm: float, uneven: bool) -> Population:
    """Draw a population of particles.

    Parameters
    ----------
    rng : Generator
    kind : str
        One of `KINDS`.
    mean_nm : float
        Mean diameter of the cores in nm.
    uneven : bool
        Whether the support is rough, porous or plate-like; it then has more particles.

    Returns
    -------
    Population
    """
    coated = kind == "core_shell"
    several = rng.random() < 0.4
    # Sintered catalysts have large particles next to small ones.
    broad = not coated and rng.random() < 0.25
    return Population(
        mean_nm=mean_nm,
        sd_nm=mean_nm * (rng.uniform(0.5, 0.9) if broad else rng.uniform(0.03, 0.5)),
        distribution="lognormal" if broad or rng.random() < 0.6 else "normal",
        aspect=(rng.uniform(0.35, 0.75), 1.0) if rng.random() < 0.3 else (rng.uniform(0.75, 0.95), 1.0),
        cores_per_shell=(0.4, 0.2, 0.15, 0.1, 0.08, 0.07) if coated and several else (0.9, 0.1),
        shell_nm=mean_nm * log_uniform(rng, 0.15, 2.5) if coated else 0.0,
        shell_sd_nm=mean_nm * rng.uniform(0, 0.2) if coated else 0.0,
        bare_fraction=rng.uniform(0, 0.4) if coated and rng.random() < 0.3 else 0.0,
        off_centre=rng.uniform(0, 0.8),
        coverage=(0.02, 0.25 if uneven else 0.15) if kind == "supported" else (0.05, rng.uniform(0.1, 0.6)),
        shell_overlap=rng.uniform(0, 0.8),
        core_gap_nm=None if rng.random() < 0.35 else mean_nm * rng.uniform(0.05, 0.3),
        touching_fraction=rng.uniform(0, 0.25) if rng.random() < 0.6 else 0.0,
        cluster_size=(2, int(rng.integers(2, 5))),
        neck=(0.2, 0.75),
    )


# Particles ----------------------------------------------------------


@dataclass(frozen=True)
class DrawnParticles:
    """Particles on a canvas, all arrays (canvas, canvas).

    core_nm, shell_nm : thickness of metal and of silica
    class_map : 0 background, 1 shell, 2 core
    cores : number of the uppermost core, starting at 1; 0 where there is none
    rims : pixels where a core is thinner than `EDGE` of its greatest thickness
    """

    core_nm: np.ndarray
    shell_nm: np.ndarray
    class_map: np.ndarray
    cores: np.ndarray
    rims: np.ndarray


def draw_particles(
    rng: np.random.Generator,
    placement: Placement,
    canvas: int,
    pixel_size_nm: float,
    flat: bool,
    thinnest: float,
) -> DrawnParticles:
    """Draw the particles of a placement.

    Parameters
    ----------
    rng : Generator
    placement : Placement
    canvas : int
        Side of the canvas in px.
    pixel_size_nm : float
    flat : bool
        Few cores are spheres, so few have rims that fade out.
    thinnest : float
        Smallest ratio of a core's thickness to the thickness expected from its diameter. The ratio is drawn
        uniformly in its logarithm, up to 1.
    """
    core_nm = np.zeros((canvas, canvas), np.float32)
    shell_nm = np.zeros_like(core_nm)
    class_map = np.zeros((canvas, canvas), np.uint8)
    numbers = np.zeros((canvas, canvas), np.int32)
    rims = np.zeros((canvas, canvas), bool)
    for y_nm, x_nm, radius_nm in placement.shells[["y_nm", "x_nm", "radius_nm"]].to_numpy():
        reach = radius_nm / pixel_size_nm
        box, y, x = _box(y_nm / pixel_size_nm - 0.5, x_nm / pixel_size_nm - 0.5, reach, canvas)
        if radius_nm == 0 or not y.size or not x.size:
            continue
        chord = np.sqrt(np.maximum(1 - (y**2 + x**2) / reach**2, 0))
        shell_nm[box] += 2 * radius_nm * chord
        class_map[box][chord > 0] = 1
    overlap_adds = rng.random() < 0.5
    faceted, irregular = rng.random(2) * (rng.random(2) < (0.45, 0.35))
    fringes = rng.uniform(0.05, 0.3) if rng.random() < 0.25 else 0.0
    orientation = (rng.uniform(0.45, 1), rng.uniform(1, 1.3))
    columns = ["y_nm", "x_nm", "major_nm", "minor_nm", "angle_rad"]
    for number, core in enumerate(placement.cores[columns].to_numpy(), start=1):
        y_nm, x_nm, major_nm, minor_nm, angle = core
        half = np.array([major_nm, minor_nm]) / 2 / pixel_size_nm
        box, y, x = _box(y_nm / pixel_size_nm - 0.5, x_nm / pixel_size_nm - 0.5, 1.25 * half[0], canvas)
        if not y.size or not x.size:
            continue
        along = (x * math.cos(angle) + y * math.sin(angle)) / half[0]
        across = (y * math.cos(angle) - x * math.sin(angle)) / half[1]
        radius, relief = _outline(rng, along, across, faceted, irregular, flat)
        inside = radius <= 1
        thickness = np.where(inside, math.sqrt(major_nm * minor_nm) * rng.uniform(0.75, 1.1) * relief, 0)
        thickness *= rng.uniform(*orientation)
        if thinnest < 1:
            thickness *= log_uniform(rng, thinnest, 1)
        if fringes:
            period, turn = rng.uniform(3, 8), rng.uniform(0, math.pi)
            wave = np.cos(2 * math.pi * (x * math.cos(turn) + y * math.sin(turn)) / period)
            thickness *= 1 + fringes * wave
        before = core_nm[box]
        core_nm[box] = before + thickness if overlap_adds else np.maximum(before, thickness)
        shell_nm[box] = np.maximum(shell_nm[box] - thickness, 0)
        rims[box][inside] = (relief < EDGE)[inside] & ((class_map[box] != 2) | rims[box])[inside]
        class_map[box][inside] = 2
        numbers[box][inside] = number
    return DrawnParticles(core_nm, shell_nm, class_map, numbers, rims)


def _box(
    y_px: float, x_px: float, reach_px: float, canvas: int
) -> tuple[tuple[slice, slice], np.ndarray, np.ndarray]:
    """Give the window around a point inside the canvas, and the distances of its pixels from the point."""
    ranges = []
    for centre in (y_px, x_px):
        low, high = max(0, math.ceil(centre - reach_px)), min(canvas, math.floor(centre + reach_px) + 1)
        ranges.append((low, max(low, high)))
    (top, bottom), (left, right) = ranges
    y = np.arange(top, bottom, dtype=np.float32)[:, None] - y_px
    x = np.arange(left, right, dtype=np.float32)[None, :] - x_px
    return (slice(top, bottom), slice(left, right)), y, x


def _outline(
    rng: np.random.Generator,
    along: np.ndarray,
    across: np.ndarray,
    faceted: float,
    irregular: float,
    flat: bool,
) -> tuple[np.ndarray, np.ndarray]:
    """Give each pixel's distance from the centre, 1 on the outline, and its relative thickness."""
    radius = np.hypot(along, across)
    draw = rng.random()
    if draw < faceted:
        sides = int(rng.integers(4, 9))
        normals = 2 * math.pi * (np.arange(sides) + rng.uniform(-0.25, 0.25, sides) + rng.random()) / sides
        reach = rng.uniform(0.82, 1.0, sides)
        radius = np.max(
            [(along * math.cos(n) + across * math.sin(n)) / r for n, r in zip(normals, reach, strict=True)],
            axis=0,
        )
        return radius, np.clip((1 - radius) * (rng.uniform(2.5, 8) if flat else rng.uniform(1.3, 4)), 0, 1)
    if draw < faceted + irregular:
        turn = np.arctan2(across, along)
        swing = np.zeros_like(radius)
        for order in (2, 3, 4, 5):
            swing += rng.uniform(0, 0.3 / order) * np.cos(order * turn + rng.uniform(0, 2 * math.pi))
        radius = radius / np.clip(1 + swing, 0.6, 1.24)
    return radius, np.maximum(1 - radius**2, 0) ** rng.choice(
        (0.5, 0.25, 0.25, 0.12, 0.12) if flat else (0.5, 0.5, 0.25, 0.12)
    )


# Supports -----------------------------------------------------------


def _field(rng: np.random.Generator, canvas: int, length_px: float) -> np.ndarray:
    """Draw a Gaussian random field with mean 0, standard deviation 1 and the given correlation length."""
    step = max(1, int(length_px / 4))
    small = -(-canvas // step) + 4
    field = gaussian_filter(rng.standard_normal((small, small), dtype=np.float32), length_px / step)
    field = (field - field.mean()) / max(float(field.std()), 1e-6)
    return zoom(field, step, order=1)[:canvas, :canvas] if step > 1 else field[:canvas, :canvas]


def draw_support(rng: np.random.Generator, canvas: int, diameter_px: float) -> np.ndarray:
    """Draw the thickness of a support.

    Parameters
    ----------
    rng : Generator
    canvas : int
        Height and width in px.
    diameter_px : float
        Mean diameter of the particles in px; the support's grain scales with it.

    Returns
    -------
    ndarray, (canvas, canvas), float32
        Relative thickness: 0 in vacuum, about 1 elsewhere.
    """
    shares = {"spheres": 0.35, "fractal": 0.35, "plates": 0.15, "film": 0.15}
    kinds = rng.choice(list(shares), size=rng.integers(1, 3), replace=False, p=list(shares.values()))
    support = np.zeros((canvas, canvas), np.float32)
    for kind in kinds:
        if kind == "spheres":
            layer = _spheres(rng, canvas, diameter_px)
        elif kind == "fractal":
            layer = _fractal(rng, canvas, diameter_px)
        elif kind == "plates":
            layer = _plates(rng, canvas, diameter_px)
        else:
            layer = 1 + 0.3 * _field(rng, canvas, rng.uniform(0.1, 0.5) * canvas)
        support += layer * rng.uniform(0.3, 1)
    if rng.random() < 0.5:
        edge = _field(rng, canvas, log_uniform(rng, 0.12, 0.5) * canvas)
        edge += rng.uniform(0, 0.3) * _field(rng, canvas, rng.uniform(4, 30))
        support *= np.clip((edge + rng.uniform(-0.2, 1.3)) * rng.uniform(2, 20), 0, 1)
    support = np.maximum(support, 0)
    covered = support[support > 0.05 * max(float(support.max()), 1e-6)]
    return support / max(float(np.median(covered)) if covered.size else 1.0, 1e-6)


def _spheres(rng: np.random.Generator, canvas: int, diameter_px: float) -> np.ndarray:
    radius_px = float(np.clip(diameter_px * log_uniform(rng, 0.8, 10), 5, canvas / 2))
    layer = np.zeros((canvas, canvas), np.float32)
    count = int(np.clip(rng.uniform(0.3, 2.5) * canvas**2 / (math.pi * radius_px**2), 2, 250))
    centre = rng.uniform(0, canvas, 2)
    for _ in range(count):
        # An aggregate grows sphere by sphere; sometimes a new one begins.
        angle = rng.uniform(0, 2 * math.pi)
        centre = centre + radius_px * rng.uniform(0.8, 1.6) * np.array([math.sin(angle), math.cos(angle)])
        if rng.random() < 0.08 or centre.min() < -radius_px or centre.max() > canvas + radius_px:
            centre = rng.uniform(0, canvas, 2)
        reach = radius_px * rng.uniform(0.5, 1.3)
        box, y, x = _box(centre[0], centre[1], reach, canvas)
        if y.size and x.size:
            layer[box] += (reach / radius_px) * np.sqrt(np.maximum(1 - (y**2 + x**2) / reach**2, 0))
    return gaussian_filter(layer, rng.uniform(0.5, 0.08 * radius_px + 0.6))


def _fractal(rng: np.random.Generator, canvas: int, diameter_px: float) -> np.ndarray:
    # The grain goes down to half a particle's width: its peaks are not particles.
    longest, shortest = canvas / 3, max(log_uniform(rng, 0.35, 1.5) * diameter_px, 4.0)
    roughness = rng.uniform(0.4, 0.9)
    layer, weight, length = np.zeros((canvas, canvas), np.float32), 1.0, longest
    while length > shortest:
        layer += weight * _field(rng, canvas, length)
        length, weight = length / 2, weight * roughness
    return np.maximum(layer + rng.uniform(-0.3, 1.5), 0) ** rng.uniform(0.7, 1.5)


def _plates(rng: np.random.Generator, canvas: int, diameter_px: float) -> np.ndarray:
    layer = np.zeros((canvas, canvas), np.float32)
    y, x = np.mgrid[:canvas, :canvas].astype(np.float32)
    for _ in range(int(rng.integers(3, 25))):
        centre, angle = rng.uniform(0, canvas, 2), rng.uniform(0, math.pi)
        length = log_uniform(rng, 3 * diameter_px, 12 * diameter_px + 60)
        width = length * rng.uniform(0.1, 1)
        along = (x - centre[1]) * math.cos(angle) + (y - centre[0]) * math.sin(angle)
        across = (y - centre[0]) * math.cos(angle) - (x - centre[1]) * math.sin(angle)
        inside = np.minimum(length / 2 - np.abs(along), width / 2 - np.abs(across))
        layer += rng.uniform(0.2, 1) * np.clip(inside / rng.uniform(1, 6), 0, 1)
    return layer


def keep_on_support(
    rng: np.random.Generator, placement: Placement, support: np.ndarray, pixel_size_nm: float
) -> Placement:
    """Remove nearly all particles that are not on the support.

    Parameters
    ----------
    rng : Generator
    placement : Placement
        Cores and shells in nm.
    support : ndarray, (height, width)
        Relative thickness, as `draw_support` returns it.
    pixel_size_nm : float
        Side of a pixel of the support in nm.

    Returns
    -------
    Placement
        With fewer cores. All shells stay.
    """
    cores = placement.cores
    place = (cores[["y_nm", "x_nm"]].to_numpy() / pixel_size_nm).astype(int).clip(0, len(support) - 1)
    kept = (support[place[:, 0], place[:, 1]] > 0.15) | (rng.random(len(cores)) < 0.03)
    return Placement(cores[kept].reset_index(drop=True), placement.shells)
