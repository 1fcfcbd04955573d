"""Simulates micrographs of core–shell catalysts with exact truth, from placing particles to camera counts.

Particles are placed (`place_particles`), drawn as labels (`rasterise`) or as projected thickness
(`project_thickness`), and imaged (`form_image`); the last functions write sessions and annotated sets.
Reading such files back is left to `micrographs.reading`, measuring them to `particles`.
"""

import math
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import mrcfile
import numpy as np
import pandas as pd
import scipy.fft
import yaml
from scipy.ndimage import gaussian_filter
from scipy.spatial import cKDTree

from tem_pipeline.errors import UserError
from tem_pipeline.micrographs.intensity import MODES
from tem_pipeline.storage import encode_tiff, write_bytes, write_table

Mode = Literal["bright_field", "haadf"]
FileFormat = Literal["tif", "mrc", "emd", "hspy"]
Range = tuple[float, float]
# y, x, major and minor axis in px, angle of the major axis from x towards y in rad; one value an ellipse.
Ellipses = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]

FILE_FORMATS = ("tif", "mrc", "emd", "hspy")

# Electrons of 200 kV: wavelength (nm) and interaction constant (rad V⁻¹ nm⁻¹); Kirkland, Advanced Computing
# in Electron Microscopy, ch. 2 and 5.
WAVELENGTH_NM = 2.508e-3
INTERACTION = 7.29e-3
# Mean inner potentials (V) of platinum, silica and amorphous carbon: round values from those published.
CORE_POTENTIAL_V, SHELL_POTENTIAL_V, FILM_POTENTIAL_V = 25.0, 10.0, 9.0
# HAADF signal per nm of thickness, Σ n Z^1.7 with n in atoms per nm³: Pt (Z 78, 66.2 nm⁻³), SiO2 (22.0
# formula units nm⁻³), amorphous carbon (Z 6, 100 nm⁻³); relative to platinum.
CORE_HAADF, SHELL_HAADF, FILM_HAADF = (
    signal / (66.2 * 78**1.7) for signal in (66.2 * 78**1.7, 22.0 * (14**1.7 + 2 * 8**1.7), 100 * 6**1.7)
)
# A normal distribution is cut off at ± this many standard deviations, then widened to the standard deviation
# asked for; with the default sizes that gives the 1.2–2.5 nm of Liu et al. (2021).
NORMAL_CUT = 2.475


@dataclass(frozen=True)
class Population:
    """What the specimen holds; lengths in nm.

    Attributes
    ----------
    mean_nm, sd_nm : float
        Mean and standard deviation of the cores' diameters.
    distribution : {"normal", "lognormal"}
        Normal is cut off symmetrically (`NORMAL_CUT`) and never below a fifth of the mean.
    aspect : (float, float)
        Range of minor over major axis of a core's projection.
    cores_per_shell : tuple of float
        Probability of 1, 2, 3, … cores in one shell.
    shell_nm, shell_sd_nm : float
        Thickness of the silica between the outermost core and the shell's surface; 0 gives bare cores.
    bare_fraction : float
        Share of particles without a shell.
    off_centre : float
        Largest displacement of the cores from the shell's centre, as a share of the shell's thickness.
    coverage : (float, float)
        Range, from image to image, of the nominal share of the support that particles cover.
    shell_overlap : float
        How far two shells may overlap in projection, as a share of the smaller one's radius.
    core_gap_nm : float or None
        Smallest gap between cores that don't touch; None lets those of different shells overlap in
        projection.
    touching_fraction : float
        Share of cores that grow together with others in one shell.
    cluster_size : (int, int)
        Smallest and largest number of cores that grow together.
    neck : (float, float)
        Range of the neck's width between two touching cores, as a share of the smaller one's diameter.
    """

    mean_nm: float = 1.85
    sd_nm: float = 0.25
    distribution: Literal["normal", "lognormal"] = "normal"
    aspect: Range = (0.85, 1.0)
    cores_per_shell: tuple[float, ...] = (0.75, 0.18, 0.07)
    shell_nm: float = 2.2
    shell_sd_nm: float = 0.35
    bare_fraction: float = 0.0
    off_centre: float = 0.35
    coverage: Range = (0.25, 0.45)
    shell_overlap: float = 0.3
    core_gap_nm: float | None = 0.4
    touching_fraction: float = 0.003
    cluster_size: tuple[int, int] = (2, 2)
    neck: Range = (0.2, 0.6)

    def __post_init__(self) -> None:
        _require(_positive(self.mean_nm), f"mean diameter {self.mean_nm} nm: give a positive number")
        _require(
            _finite(self.sd_nm) and 0 <= self.sd_nm <= self.mean_nm,
            f"standard deviation {self.sd_nm} nm: give a number from 0 to the mean diameter",
        )
        _require(
            self.distribution in ("normal", "lognormal"),
            f"distribution {self.distribution!r} is unknown: use normal or lognormal",
        )
        for name in ("shell_nm", "shell_sd_nm", "off_centre", "shell_overlap"):
            value = getattr(self, name)
            _require(_finite(value) and value >= 0, f"{name} {value}: give a number from 0 upwards")
        for name in ("bare_fraction", "touching_fraction"):
            value = getattr(self, name)
            _require(_finite(value) and 0 <= value <= 1, f"{name} {value}: give a number from 0 to 1")
        _require(self.off_centre <= 1, f"off_centre {self.off_centre}: more than 1 leads out of the shell")
        _require_range("aspect", self.aspect, 0.2, 1)
        _require_range("coverage", self.coverage, 0, 2)
        _require_range("neck", self.neck, 0, 0.99)
        _require_range("cluster_size", self.cluster_size, 2, 100)
        _require(
            len(self.cores_per_shell) > 0
            and min(self.cores_per_shell) >= 0
            and sum(self.cores_per_shell) > 0,
            f"cores_per_shell {self.cores_per_shell}: give the probability of 1, 2, 3, … cores",
        )
        _require(
            self.core_gap_nm is None or (_finite(self.core_gap_nm) and self.core_gap_nm >= 0),
            f"core_gap_nm {self.core_gap_nm}: give a number from 0 upwards, or none",
        )


@dataclass(frozen=True)
class Imaging:
    """How the microscope sees the specimen. Ranges are drawn from anew for every image; (x, x) fixes a value.

    Attributes
    ----------
    mode : {"bright_field", "haadf"}
    dose : float
        Electrons per pixel, mean over the image: in bright field of the beam, in HAADF of what 1 nm of metal
        on twice the mean support scatters onto the detector. Operators set the brightness for the camera, so
        it is per pixel, not per nm².
    core_attenuation, shell_attenuation, film_attenuation : (float, float) or float
        Effective mass-thickness coefficients μ of exp(−μ t), nm⁻¹, with a small objective aperture.
    orientation : (float, float)
        Range of each core's own factor on its contrast: diffraction contrast by orientation.
    film_nm : (float, float)
        Thickness of the amorphous support.
    grain_nm : (float, float)
        Standard deviation of the support's thickness at a correlation length of `grain_length_nm`.
    grain_length_nm : float
    relief_nm : (float, float)
        Standard deviation of the support's slow undulation, correlation length `relief_length_nm`.
    relief_length_nm : float
    defocus_nm : (float, float)
        Underfocus; Fresnel fringes and the support's phase contrast come from it. Bright field only.
    resolution_nm : (float, float)
        Standard deviation of the envelope (bright field) or of the probe (HAADF).
    uneven : (float, float)
        Peak-to-peak unevenness of the illumination, as a natural logarithm.
    camera_blur_px : (float, float)
        Standard deviation of the camera's point spread.
    gain : float
        Counts per electron; less where the camera would saturate.
    readout : float
        Standard deviation of the readout noise, counts.
    """

    mode: Mode = "bright_field"
    dose: float = 800.0
    core_attenuation: Range = (0.14, 0.19)
    shell_attenuation: Range = (0.015, 0.028)
    film_attenuation: float = 0.012
    orientation: Range = (0.85, 1.15)
    film_nm: Range = (4.0, 8.0)
    grain_nm: Range = (0.2, 0.5)
    grain_length_nm: float = 0.22
    relief_nm: Range = (0.6, 2.0)
    relief_length_nm: float = 8.0
    defocus_nm: Range = (20.0, 60.0)
    resolution_nm: Range = (0.05, 0.09)
    uneven: Range = (0.2, 0.6)
    camera_blur_px: Range = (0.4, 0.7)
    gain: float = 8.0
    readout: float = 6.0

    def __post_init__(self) -> None:
        _require(self.mode in MODES, f"mode {self.mode!r} is unknown: use one of {', '.join(MODES)}")
        _require(
            _positive(self.dose) and self.dose <= 1e9,
            f"dose {self.dose}: give electrons per pixel, above 0 and at most 1e9",
        )
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, tuple):
                _require_range(field.name, value, -1e4 if field.name == "defocus_nm" else 0, 1e4)
            elif field.name != "mode":
                _require(_finite(value) and value >= 0, f"{field.name} {value}: give a number from 0 upwards")


@dataclass(frozen=True)
class Placement:
    """Particles in the field, in nm from its upper left corner; some lie wholly outside.

    Attributes
    ----------
    cores : DataFrame
        One row a core: shell (row of `shells`), y_nm, x_nm, major_nm, minor_nm (full axes of the projected
        ellipse), angle_rad (of the major axis, from x towards y), strength (its factor on the contrast, a
        quantile between 0 and 1).
    shells : DataFrame
        One row a shell: y_nm, x_nm, radius_nm (0: no shell, bare cores).
    """

    cores: pd.DataFrame
    shells: pd.DataFrame


@dataclass(frozen=True)
class SimulatedMicrograph:
    """An image with its exact truth.

    Attributes
    ----------
    image : ndarray, (height, width), uint16
    cores, shells : ndarray, (height, width), uint16
        Labels, 0 is background. Shells include their cores.
    particles : DataFrame
        One row a core, see `rasterise`.
    pixel_size_nm : float
    mode : str
    """

    image: np.ndarray
    cores: np.ndarray
    shells: np.ndarray
    particles: pd.DataFrame
    pixel_size_nm: float
    mode: str


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise UserError(message)


def _finite(value: object) -> bool:
    return isinstance(value, int | float | np.number) and math.isfinite(value)


def _positive(value: object) -> bool:
    return _finite(value) and value > 0  # type: ignore[operator]


def _require_range(name: str, value: tuple[float, float], low: float, high: float) -> None:
    valid = len(value) == 2 and all(map(_finite, value)) and low <= value[0] <= value[1] <= high
    _require(valid, f"{name} {value}: give two numbers, the smaller first, from {low:g} to {high:g}")


# Placing ------------------------------------------------------------


def draw_diameters(rng: np.random.Generator, count: int, population: Population) -> np.ndarray:
    """Draw diameters of cores.

    Returns
    -------
    ndarray, (count,)
        In nm. Their expected mean and standard deviation are the population's (but for a normal distribution
        with sd above a third of the mean, whose lower tail is drawn anew).
    """
    mean, sd = population.mean_nm, population.sd_nm
    if population.distribution == "lognormal":
        variance = math.log1p((sd / mean) ** 2)
        return rng.lognormal(math.log(mean) - variance / 2, math.sqrt(variance), count)
    density = math.exp(-(NORMAL_CUT**2) / 2) / math.sqrt(2 * math.pi)
    remaining_sd = math.sqrt(1 - 2 * NORMAL_CUT * density / math.erf(NORMAL_CUT / math.sqrt(2)))
    drawn = np.full(count, np.nan)
    while (missing := np.flatnonzero(np.isnan(drawn))).size:
        normal = rng.standard_normal(missing.size)
        diameters = mean + sd / remaining_sd * normal
        valid = (np.abs(normal) <= NORMAL_CUT) & (diameters > mean / 5)
        drawn[missing[valid]] = diameters[valid]
    return drawn


def _neck_distance(first: float, second: float, neck: float) -> float:
    """Distance of two circles' centres whose common chord is `neck` times the smaller one's diameter."""
    half = neck * min(first, second)
    return math.sqrt(first**2 - half**2) + math.sqrt(second**2 - half**2)


def _arrange(
    rng: np.random.Generator, radii: np.ndarray, population: Population, gap_nm: float, touching: bool
) -> np.ndarray:
    """Put the cores of one shell side by side, each near or grown together with an earlier one.

    Returns
    -------
    ndarray, (at most len(radii), 2)
        Centres (y, x) in nm; cores for which no room was found are left out.
    """
    centres = [np.zeros(2)]
    for index in range(1, len(radii)):
        radius = radii[index]
        for _ in range(30):
            partner = int(rng.integers(len(centres)))
            if touching:
                distance = _neck_distance(radii[partner], radius, rng.uniform(*population.neck))
            else:
                distance = radii[partner] + radius + gap_nm * rng.uniform(1.0, 2.0)
            angle = rng.uniform(0, 2 * math.pi)
            candidate = centres[partner] + distance * np.array([math.sin(angle), math.cos(angle)])
            others = [
                float(np.hypot(*(candidate - centre))) - radius - radii[other]
                for other, centre in enumerate(centres)
                if not (touching and other == partner)
            ]
            if min(others, default=math.inf) >= gap_nm:
                centres.append(candidate)
                break
        else:
            break
    return np.array(centres)


def _assemble(
    rng: np.random.Generator, count: int, population: Population, gap_nm: float
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Make `count` particles, each of a shell and its cores, around the origin."""
    probabilities = np.array(population.cores_per_shell) / sum(population.cores_per_shell)
    mean_cores = float(probabilities @ np.arange(1, len(probabilities) + 1))
    mean_cluster = sum(population.cluster_size) / 2
    share = population.touching_fraction
    cluster_share = share * mean_cores / (mean_cluster * (1 - share) + share * mean_cores)

    touching = rng.random(count) < cluster_share
    numbers = rng.choice(np.arange(1, len(probabilities) + 1), count, p=probabilities)
    numbers[touching] = rng.integers(
        population.cluster_size[0], population.cluster_size[1] + 1, touching.sum()
    )
    diameters = draw_diameters(rng, int(numbers.sum()), population)
    aspects = np.where(np.repeat(touching, numbers), 1.0, rng.uniform(*population.aspect, diameters.size))
    major, minor = diameters / np.sqrt(aspects), diameters * np.sqrt(aspects)
    thickness = np.clip(
        rng.normal(population.shell_nm, population.shell_sd_nm, count), 0.4 * population.shell_nm, None
    )
    thickness[rng.random(count) < population.bare_fraction] = 0
    shift = population.off_centre * np.sqrt(rng.random(count))
    shift_angle = rng.uniform(0, 2 * math.pi, count)

    starts = np.cumsum(numbers) - numbers
    centres = np.zeros((diameters.size, 2))
    enclosing = major[starts] / 2
    kept = np.ones(diameters.size, bool)
    for index in np.flatnonzero(numbers > 1):
        part = slice(starts[index], starts[index] + numbers[index])
        radii = major[part] / 2
        arranged = _arrange(rng, radii, population, gap_nm, bool(touching[index]))
        radii = radii[: len(arranged)]
        reach = radii[:, None]
        arranged = arranged - ((arranged - reach).min(0) + (arranged + reach).max(0)) / 2
        centres[starts[index] : starts[index] + len(arranged)] = arranged
        kept[starts[index] + len(arranged) : part.stop] = False
        enclosing[index] = (np.hypot(*arranged.T) + radii).max()
    # The silica on the thin side keeps (1 − off_centre) of the drawn thickness.
    offset = (shift * thickness)[:, None] * np.column_stack([np.sin(shift_angle), np.cos(shift_angle)])
    shell = np.repeat(np.arange(count), numbers)
    centres += offset[shell]
    cores = pd.DataFrame(
        {
            "shell": shell,
            "y_nm": centres[:, 0],
            "x_nm": centres[:, 1],
            "major_nm": major,
            "minor_nm": minor,
            "angle_rad": rng.uniform(0, math.pi, diameters.size),
            "strength": rng.random(diameters.size),
        }
    )[kept].reset_index(drop=True)
    shells = pd.DataFrame(
        {"radius_nm": np.where(thickness > 0, enclosing + thickness, 0.0), "reach_nm": enclosing + thickness}
    )
    return cores, shells


def _conflicts(
    centres: np.ndarray,
    reach: np.ndarray,
    owner: np.ndarray,
    box: np.ndarray,
    *,
    gap_nm: float = 0.0,
    overlap: float = 0.0,
) -> np.ndarray:
    """Find pairs of owners whose circles leave less than a gap, or overlap by too much of the smaller."""
    if len(centres) < 2:
        return np.zeros((0, 2), int)
    widest = 2 * float(reach.max()) + gap_nm
    pairs = cKDTree(centres, boxsize=box).query_pairs(widest, output_type="ndarray")
    pairs = pairs[owner[pairs[:, 0]] != owner[pairs[:, 1]]]
    first, second = pairs.T
    apart = np.abs(centres[first] - centres[second])
    distance = np.hypot(*np.minimum(apart, box - apart).T)
    least = reach[first] + reach[second] + gap_nm - overlap * np.minimum(reach[first], reach[second])
    return owner[pairs[distance < least]]


def place_particles(
    rng: np.random.Generator,
    field_nm: tuple[float, float],
    population: Population | None = None,
    *,
    minimum_gap_nm: float = 0.0,
) -> Placement:
    """Scatter particles at random over a field and its surroundings.

    The field is a window of a larger periodic one, so that the scatter is the same everywhere and particles
    are cut by the field's edge as often as chance has it. Where there isn't room for all, the smallest of
    those that found none are left out.

    Parameters
    ----------
    rng : Generator
    field_nm : (float, float)
        Height and width.
    population : Population, optional
    minimum_gap_nm : float
        Widens the population's `core_gap_nm`: gaps under a few pixels can't be seen.

    Returns
    -------
    Placement
    """
    population = population or Population()
    gap_nm = max(population.core_gap_nm or 0.0, minimum_gap_nm)
    # Large enough for the largest particle beyond every side, and for the tails of the sizes.
    most_cores = max(3, len(population.cores_per_shell), population.cluster_size[1])
    margin = most_cores / 2 * (population.mean_nm + 3 * population.sd_nm) + 2 * population.shell_nm
    box = np.array(field_nm, float) + 2 * margin
    footprint = math.pi / 4 * (population.mean_nm + 2 * population.shell_nm) ** 2
    count = int(rng.poisson(rng.uniform(*population.coverage) * box.prod() / footprint))
    _require(
        count <= 200_000,
        f"the field of {field_nm[0]:.3g} × {field_nm[1]:.3g} nm would hold {count} particles of "
        f"{population.mean_nm:g} nm; choose a smaller field or larger particles",
    )
    cores, shells = _assemble(rng, count, population, gap_nm)
    owner = cores["shell"].to_numpy()
    relative = cores[["y_nm", "x_nm"]].to_numpy()
    core_reach = cores["major_nm"].to_numpy() / 2
    radius = shells["radius_nm"].to_numpy()
    coated = np.flatnonzero(radius > 0)
    size_rank = np.argsort(np.argsort(-shells["reach_nm"].to_numpy(), kind="stable"))

    def losers_at(position: np.ndarray) -> np.ndarray:
        # Of two that get in each other's way the smaller gives way: a large one finds no other gap.
        pairs = [_conflicts(position[coated], radius[coated], coated, box, overlap=population.shell_overlap)]
        if population.core_gap_nm is not None:
            centres = (position[owner] + relative) % box
            centres[centres >= box] = 0.0  # what rounding made of a centre just below 0
            pairs.append(_conflicts(centres, core_reach, owner, box, gap_nm=gap_nm))
        first, second = np.concatenate(pairs).T
        return np.unique(np.where(size_rank[first] > size_rank[second], first, second))

    position = rng.random((count, 2)) * box
    losers = losers_at(position)
    for _ in range(200):
        if not losers.size:
            break
        position[losers] = rng.random((losers.size, 2)) * box
        losers = losers_at(position)

    placed = np.ones(count, bool)
    placed[losers] = False
    position -= margin
    shells = pd.DataFrame({"y_nm": position[:, 0], "x_nm": position[:, 1], "radius_nm": radius})
    cores[["y_nm", "x_nm"]] += position[owner]
    cores["shell"] = (np.cumsum(placed) - 1)[owner]
    return Placement(cores[placed[owner]].reset_index(drop=True), shells[placed].reset_index(drop=True))


# Drawing ------------------------------------------------------------


def _window(centre: float, reach: float, size: int) -> tuple[int, int]:
    return max(math.ceil(centre - reach), 0), min(math.floor(centre + reach) + 1, size)


def _stamps(
    ellipses: Ellipses, shape: tuple[int, int]
) -> Iterator[tuple[int, tuple[slice, slice], np.ndarray, np.ndarray]]:
    """Yield each ellipse within the image: index, box, squared distance in radii and in px."""
    y_px, x_px, major_px, minor_px, angle_rad = ellipses
    cosine, sine = np.cos(angle_rad), np.sin(angle_rad)
    reach_y = np.hypot(major_px * sine, minor_px * cosine) / 2
    reach_x = np.hypot(major_px * cosine, minor_px * sine) / 2
    for index in range(len(y_px)):
        top, bottom = _window(y_px[index], reach_y[index], shape[0])
        left, right = _window(x_px[index], reach_x[index], shape[1])
        if top >= bottom or left >= right:
            continue
        y = (np.arange(top, bottom) - y_px[index])[:, None]
        x = (np.arange(left, right) - x_px[index])[None, :]
        along = (x * cosine[index] + y * sine[index]) * (2 / major_px[index])
        across = (y * cosine[index] - x * sine[index]) * (2 / minor_px[index])
        yield index, (slice(top, bottom), slice(left, right)), along**2 + across**2, y**2 + x**2


def _draw_labels(ellipses: Ellipses, shape: tuple[int, int]) -> np.ndarray:
    """Label ellipses 1 … n by the pixel-centre rule; a shared pixel belongs to the nearer centre."""
    labels = np.zeros(shape, np.int32)
    nearest = np.full(shape, np.inf, np.float32)
    for index, box, radius2, distance2 in _stamps(ellipses, shape):
        inside = (radius2 <= 1) & (distance2 < nearest[box])
        labels[box][inside] = index + 1
        nearest[box][inside] = distance2[inside]
    return labels


def _core_ellipses(cores: pd.DataFrame, pixel_size_nm: float, margin_px: int = 0) -> Ellipses:
    scaled = cores[["y_nm", "x_nm", "major_nm", "minor_nm"]].to_numpy() / pixel_size_nm
    # Pixel (0, 0) is centred half a pixel inside the field's corner.
    y_px, x_px = scaled[:, 0] - 0.5 + margin_px, scaled[:, 1] - 0.5 + margin_px
    return y_px, x_px, scaled[:, 2], scaled[:, 3], cores["angle_rad"].to_numpy()


def _shell_ellipses(shells: pd.DataFrame, pixel_size_nm: float, margin_px: int = 0) -> Ellipses:
    scaled = shells[["y_nm", "x_nm", "radius_nm"]].to_numpy() / pixel_size_nm
    diameter = 2 * scaled[:, 2]
    y_px, x_px = scaled[:, 0] - 0.5 + margin_px, scaled[:, 1] - 0.5 + margin_px
    return y_px, x_px, diameter, diameter, np.zeros(len(shells))


def _in_frame_numbers(labels: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Give visible areas by old label, and a look-up table from old labels to 1 … n of those visible."""
    area = np.bincount(labels.ravel(), minlength=count + 1)
    area[0] = 0
    lookup = np.where(area > 0, np.cumsum(area > 0), 0)
    return area, lookup


def _compact(labels: np.ndarray) -> np.ndarray:
    return labels.astype(np.uint16 if labels.max(initial=0) < 2**16 else np.uint32)


def _border_labels(labels: np.ndarray) -> np.ndarray:
    return np.unique(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]))


def _adjacent_labels(labels: np.ndarray) -> np.ndarray:
    """Labels with a pixel whose eight neighbours include another label."""
    touching = [np.zeros(0, labels.dtype)]
    for first, second in (
        (labels[:, :-1], labels[:, 1:]),
        (labels[:-1], labels[1:]),
        (labels[:-1, :-1], labels[1:, 1:]),
        (labels[:-1, 1:], labels[1:, :-1]),
    ):
        meet = (first != second) & (first > 0) & (second > 0)
        touching += [first[meet], second[meet]]
    return np.unique(np.concatenate(touching))


def _mean_shell_thickness(cores: pd.DataFrame, shells: pd.DataFrame) -> np.ndarray:
    """Mean, over radii from each core's centre, of the silica between core and shell surface, in nm."""
    directions = np.linspace(0, 2 * math.pi, 180, endpoint=False)[None]
    shell = shells.iloc[cores["shell"].to_numpy()]
    dy = (cores["y_nm"].to_numpy() - shell["y_nm"].to_numpy())[:, None]
    dx = (cores["x_nm"].to_numpy() - shell["x_nm"].to_numpy())[:, None]
    radius = shell["radius_nm"].to_numpy()[:, None]
    along = dy * np.sin(directions) + dx * np.cos(directions)
    to_shell = -along + np.sqrt(np.maximum(radius**2 - dy**2 - dx**2 + along**2, 0))
    turned = directions - cores["angle_rad"].to_numpy()[:, None]
    half_major = cores["major_nm"].to_numpy()[:, None] / 2
    half_minor = cores["minor_nm"].to_numpy()[:, None] / 2
    to_surface = 1 / np.hypot(np.cos(turned) / half_major, np.sin(turned) / half_minor)
    return np.where(radius[:, 0] > 0, (to_shell - to_surface).mean(1), np.nan)


def rasterise(
    placement: Placement, shape: tuple[int, int], pixel_size_nm: float
) -> tuple[np.ndarray, np.ndarray, pd.DataFrame]:
    """Draw the label images and the table of true particles.

    A pixel belongs to a particle when its centre lies inside, so that areas are right on average; one that
    two particles share belongs to the nearer centre, and a core's pixels always to its own shell.

    Returns
    -------
    cores, shells : ndarray, (height, width), uint16 (uint32 above 65,535 labels)
        Labels 1 … n; shells include their cores.
    particles : DataFrame
        One row a core with at least one pixel in the image:

        label, shell_label (0: bare), y_px, x_px (true centre; pixel centres are whole numbers), diameter_nm
        (true equivalent circular diameter of the whole projection), major_nm, minor_nm, angle_rad, area_px
        and visible_diameter_nm (of its label), touches_edge (label reaches the outermost pixels),
        touches_other (label lies against another core's);
        shell_outer_diameter_nm, shell_thickness_nm (mean over radii from the core's centre, from the core's
        surface to the shell's), core_offset_nm (distance of the centres), cores_in_shell (visible or not),
        shell_visible_diameter_nm, shell_touches_edge, shell_touches_other: missing for bare cores.
    """
    cores, shells = placement.cores, placement.shells
    core_labels = _draw_labels(_core_ellipses(cores, pixel_size_nm), shape)
    coated = np.flatnonzero(shells["radius_nm"].to_numpy() > 0)
    shell_number = np.zeros(len(shells) + 1, np.int32)
    shell_number[coated] = np.arange(1, len(coated) + 1)
    shell_labels = _draw_labels(_shell_ellipses(shells.iloc[coated], pixel_size_nm), shape)
    own_shell = np.concatenate([[0], shell_number[cores["shell"].to_numpy()]])
    covered = own_shell[core_labels]
    shell_labels = np.where(covered > 0, covered, shell_labels)

    core_area, core_lookup = _in_frame_numbers(core_labels, len(cores))
    shell_area, shell_lookup = _in_frame_numbers(shell_labels, len(coated))
    visible = np.flatnonzero(core_area[1:] > 0)
    table = cores.iloc[visible].reset_index(drop=True)
    shell = shells.iloc[table["shell"].to_numpy()].reset_index(drop=True)
    old_shell = own_shell[visible + 1]
    bare = old_shell == 0
    core_image = _compact(core_lookup[core_labels])
    shell_image = _compact(shell_lookup[shell_labels])

    label = core_lookup[visible + 1]
    shell_label = np.where(bare, 0, shell_lookup[old_shell])
    offset = np.hypot(table["y_nm"] - shell["y_nm"], table["x_nm"] - shell["x_nm"])
    numbers = np.bincount(cores["shell"].to_numpy(), minlength=len(shells))[table["shell"].to_numpy()]

    def of_shell(values: np.ndarray | pd.Series) -> np.ndarray:
        return np.where(bare, np.nan, np.asarray(values, float))

    def flag_of_shell(labels: np.ndarray) -> pd.array:  # type: ignore[valid-type]
        flags = pd.array(np.isin(shell_label, labels), dtype="boolean")
        flags[bare] = pd.NA
        return flags

    def diameter_of(area: np.ndarray) -> np.ndarray:
        return 2 * np.sqrt(area / math.pi) * pixel_size_nm

    particles = pd.DataFrame(
        {
            "label": label.astype(np.int64),
            "shell_label": shell_label.astype(np.int64),
            "y_px": table["y_nm"] / pixel_size_nm - 0.5,
            "x_px": table["x_nm"] / pixel_size_nm - 0.5,
            "diameter_nm": np.sqrt(table["major_nm"] * table["minor_nm"]),
            "major_nm": table["major_nm"],
            "minor_nm": table["minor_nm"],
            "angle_rad": table["angle_rad"],
            "area_px": core_area[visible + 1].astype(np.int64),
            "visible_diameter_nm": diameter_of(core_area[visible + 1]),
            "touches_edge": np.isin(label, _border_labels(core_image)),
            "touches_other": np.isin(label, _adjacent_labels(core_image)),
            "shell_outer_diameter_nm": of_shell(2 * shell["radius_nm"]),
            "shell_thickness_nm": of_shell(_mean_shell_thickness(table, shells)),
            "core_offset_nm": of_shell(offset),
            "cores_in_shell": pd.array(np.where(bare, 0, numbers), dtype="Int64"),
            "shell_visible_diameter_nm": of_shell(diameter_of(shell_area[old_shell])),
            "shell_touches_edge": flag_of_shell(_border_labels(shell_image)),
            "shell_touches_other": flag_of_shell(_adjacent_labels(shell_image)),
        }
    )
    particles.loc[bare, "cores_in_shell"] = pd.NA
    return core_image, shell_image, particles


def project_thickness(
    placement: Placement,
    shape: tuple[int, int],
    pixel_size_nm: float,
    *,
    margin_px: int = 0,
    orientation: Range = (0.85, 1.15),
) -> tuple[np.ndarray, np.ndarray]:
    """Project cores and shells along the beam.

    Parameters
    ----------
    placement : Placement
    shape : (int, int)
    pixel_size_nm : float
    margin_px : int
        Surroundings to draw beyond each side of the image.
    orientation : (float, float)
        Each core's thickness is multiplied by its own factor from this range: its diffraction contrast.

    Returns
    -------
    core_nm, shell_nm : ndarray, (height + 2 margin, width + 2 margin), float32
        Thickness of metal (times its factor) and of silica. A core is an ellipsoid as deep as its
        projection's equivalent diameter; cores of one shell are a union; overlapping particles add up.
    """
    canvas = (shape[0] + 2 * margin_px, shape[1] + 2 * margin_px)
    core_nm, shell_nm = np.zeros(canvas, np.float32), np.zeros(canvas, np.float32)
    radius = placement.shells["radius_nm"].to_numpy()
    coated = np.flatnonzero(radius > 0)
    for index, box, radius2, _ in _stamps(
        _shell_ellipses(placement.shells.iloc[coated], pixel_size_nm, margin_px), canvas
    ):
        shell_nm[box] += 2 * radius[coated[index]] * np.sqrt(np.maximum(1 - radius2, 0))

    cores = placement.cores
    depth = np.sqrt(cores["major_nm"] * cores["minor_nm"]).to_numpy()
    factor = orientation[0] + (orientation[1] - orientation[0]) * cores["strength"].to_numpy()
    shell = cores["shell"].to_numpy()
    owner = np.full(canvas, -1, np.int32)
    own_nm = np.zeros(canvas, np.float32)  # metal of the particle drawn last at each pixel
    for index, box, radius2, _ in _stamps(_core_ellipses(cores, pixel_size_nm, margin_px), canvas):
        chord = (depth[index] * np.sqrt(np.maximum(1 - radius2, 0))).astype(np.float32)
        before = np.where(owner[box] == shell[index], own_nm[box], 0)
        added = np.maximum(chord - before, 0)
        core_nm[box] += added * factor[index]
        if radius[shell[index]] > 0:
            shell_nm[box] -= added
        drawn = chord > 0
        owner[box][drawn] = shell[index]
        own_nm[box][drawn] = np.maximum(chord, before)[drawn]
    return core_nm, np.maximum(shell_nm, 0, out=shell_nm)


# Imaging ------------------------------------------------------------


def _frequencies_squared(shape: tuple[int, int], pixel_size_nm: float, real: bool) -> np.ndarray:
    y = scipy.fft.fftfreq(shape[0], pixel_size_nm)[:, None]
    x = (scipy.fft.rfftfreq if real else scipy.fft.fftfreq)(shape[1], pixel_size_nm)[None]
    return (y**2 + x**2).astype(np.float32)


def _film(
    rng: np.random.Generator, shape: tuple[int, int], pixel_size_nm: float, imaging: Imaging
) -> np.ndarray:
    """Thickness of the support, nm: fine grain and slow relief, both with a Gaussian autocorrelation."""
    q2 = _frequencies_squared(shape, pixel_size_nm, real=True)
    power = np.zeros_like(q2)
    for sd, length in (
        (rng.uniform(*imaging.grain_nm), imaging.grain_length_nm),
        (rng.uniform(*imaging.relief_nm), imaging.relief_length_nm),
    ):
        # Spectral density of an isotropic field with autocorrelation exp(−r²/(2 l²)).
        power += sd**2 * 2 * math.pi * length**2 * np.exp(-2 * math.pi**2 * length**2 * q2)
    noise = scipy.fft.rfft2(rng.standard_normal(shape, dtype=np.float32))
    noise *= np.sqrt(power) / pixel_size_nm
    film = scipy.fft.irfft2(noise, s=shape) + rng.uniform(*imaging.film_nm)
    return np.maximum(film, 0)


def _illumination(rng: np.random.Generator, shape: tuple[int, int], uneven: float) -> np.ndarray:
    """A smooth beam: random tilt and centre, peak to peak `uneven` in its logarithm, mean 1."""
    y, x = np.linspace(-1, 1, shape[0])[:, None], np.linspace(-1, 1, shape[1])[None]
    tilt, bowl = rng.uniform(0, 2 * math.pi), rng.uniform(-0.5, 0.5, 2)
    slope = math.sin(tilt) * y + math.cos(tilt) * x
    field = slope - 0.6 * ((y - bowl[0]) ** 2 + (x - bowl[1]) ** 2)
    beam = np.exp(uneven * (field - field.min()) / np.ptp(field))
    return beam / beam.mean()


def form_image(
    rng: np.random.Generator,
    core_nm: np.ndarray,
    shell_nm: np.ndarray,
    pixel_size_nm: float,
    imaging: Imaging | None = None,
    *,
    margin_px: int = 0,
) -> np.ndarray:
    """Image a specimen of given projected thicknesses.

    Bright field: the transmission function exp(−μ t / 2 + i σ V t) of metal, silica and support passes the
    objective lens, exp(−i π λ Δf q²) with a Gaussian envelope; the squared modulus shows mass-thickness
    contrast, Fresnel fringes and the support's granularity. HAADF: Σ n Z^1.7 t blurred by the probe. Both:
    uneven illumination, electron counting, the camera's point spread, readout noise.

    Parameters
    ----------
    rng : Generator
    core_nm, shell_nm : ndarray, (height, width), float32
        As `project_thickness` gives them.
    pixel_size_nm : float
    imaging : Imaging, optional
    margin_px : int
        Surroundings on each side, cut off in the end: the lens equation is periodic.

    Returns
    -------
    ndarray, (height − 2 margin, width − 2 margin), uint16

    References
    ----------
    E. J. Kirkland, Advanced Computing in Electron Microscopy, ch. 3 (transfer function), ch. 5 (transmission
    function); S. J. Pennycook, Ultramicroscopy 30 (1989) 58 (Z contrast).
    """
    imaging = imaging or Imaging()
    shape = (core_nm.shape[0], core_nm.shape[1])
    film_nm = _film(rng, shape, pixel_size_nm, imaging)
    resolution = rng.uniform(*imaging.resolution_nm)
    if imaging.mode == "bright_field":
        absorption = (
            rng.uniform(*imaging.core_attenuation) * core_nm
            + rng.uniform(*imaging.shell_attenuation) * shell_nm
            + imaging.film_attenuation * film_nm
        )
        phase = INTERACTION * (
            CORE_POTENTIAL_V * core_nm + SHELL_POTENTIAL_V * shell_nm + FILM_POTENTIAL_V * film_nm
        )
        wave = np.exp(-absorption / 2 + 1j * phase).astype(np.complex64)
        q2 = _frequencies_squared(shape, pixel_size_nm, real=False)
        # Under focus is a negative defocus in exp(−i π λ Δf q²).
        lens = 1j * math.pi * WAVELENGTH_NM * rng.uniform(*imaging.defocus_nm) * q2
        wave = scipy.fft.ifft2(
            scipy.fft.fft2(wave) * np.exp(lens - 2 * math.pi**2 * resolution**2 * q2).astype(np.complex64)
        )
        intensity = np.abs(wave) ** 2
    else:
        scattered = CORE_HAADF * core_nm + SHELL_HAADF * shell_nm + FILM_HAADF * film_nm
        reference = CORE_HAADF + 2 * FILM_HAADF * sum(imaging.film_nm) / 2
        intensity = gaussian_filter(scattered, resolution / pixel_size_nm, mode="wrap") / reference
    if margin_px:
        intensity = intensity[margin_px:-margin_px, margin_px:-margin_px]
    beam = _illumination(rng, (intensity.shape[0], intensity.shape[1]), rng.uniform(*imaging.uneven))
    electrons = rng.poisson(imaging.dose * beam * intensity).astype(np.float32)
    gain = min(imaging.gain, 60_000 / max(float(electrons.max()), 1.0))
    counts = gain * gaussian_filter(electrons, rng.uniform(*imaging.camera_blur_px))
    counts += rng.normal(100, imaging.readout, counts.shape)
    return np.clip(np.rint(counts), 0, 65535).astype(np.uint16)


def simulate_micrograph(
    rng: np.random.Generator,
    *,
    shape: tuple[int, int] = (512, 512),
    pixel_size_nm: float = 0.1,
    population: Population | None = None,
    imaging: Imaging | None = None,
) -> SimulatedMicrograph:
    """Simulate one micrograph with its truth.

    Parameters
    ----------
    rng : Generator
    shape : (int, int)
        Height and width in px, 16 … 8,192.
    pixel_size_nm : float
    population : Population, optional
        What the specimen holds.
    imaging : Imaging, optional
        How the microscope sees it.

    Raises
    ------
    UserError
        When cores would be under 2 px wide on average or wider than the image, or a value makes no sense.
    """
    population, imaging = population or Population(), imaging or Imaging()
    _check_image(shape, pixel_size_nm, population)
    field_nm = (shape[0] * pixel_size_nm, shape[1] * pixel_size_nm)
    placement = place_particles(rng, field_nm, population, minimum_gap_nm=3 * pixel_size_nm)
    cores, shells, particles = rasterise(placement, shape, pixel_size_nm)
    # Fringes and envelopes reach about 1.5 nm; beyond that the periodic surroundings don't matter.
    margin = min(math.ceil(1.5 / pixel_size_nm) + 8, 200)
    core_nm, shell_nm = project_thickness(
        placement, shape, pixel_size_nm, margin_px=margin, orientation=imaging.orientation
    )
    image = form_image(rng, core_nm, shell_nm, pixel_size_nm, imaging, margin_px=margin)
    return SimulatedMicrograph(image, cores, shells, particles, pixel_size_nm, imaging.mode)


def _check_image(shape: tuple[int, int], pixel_size_nm: float, population: Population) -> None:
    _require(
        all(isinstance(side, int | np.integer) and 16 <= side <= 8192 for side in shape),
        f"image of {' × '.join(map(str, shape))} px: give sides from 16 to 8192",
    )
    _require(
        _finite(pixel_size_nm) and 1e-3 <= pixel_size_nm <= 1e6,
        f"pixel size {pixel_size_nm} nm: give a number from 0.001 to 1000000",
    )
    mean_px = population.mean_nm / pixel_size_nm
    _require(
        2 <= mean_px <= min(shape),
        f"cores of {population.mean_nm:g} nm are {mean_px:.3g} px wide at {pixel_size_nm:g} nm a pixel: "
        "choose a pixel size and image at which they are at least 2 px wide and fit in",
    )


# Writing ------------------------------------------------------------


def _micrographs(
    images: int,
    size: int,
    pixel_size_nm: float,
    seed: int,
    population: Population,
    imaging: Imaging,
) -> Iterator[tuple[str, SimulatedMicrograph]]:
    digits = max(3, len(str(images - 1)))
    for index, child in enumerate(np.random.SeedSequence(seed).spawn(images)):
        rng = np.random.default_rng(child)
        simulated = simulate_micrograph(
            rng, shape=(size, size), pixel_size_nm=pixel_size_nm, population=population, imaging=imaging
        )
        yield f"image_{index:0{digits}d}", simulated


def _check_series(images: int, size: int, pixel_size_nm: float, seed: int, population: Population) -> None:
    _require(isinstance(images, int) and 1 <= images <= 100_000, f"{images} images: give 1 to 100000")
    _require(isinstance(seed, int) and seed >= 0, f"seed {seed}: give a whole number from 0 upwards")
    _check_image((size, size), pixel_size_nm, population)


def _chosen(
    population: Population | None,
    imaging: Imaging | None,
    mode: Mode | None,
    dose: float | None,
    mean_nm: float | None,
    sd_nm: float | None,
) -> tuple[Population, Imaging]:
    population, imaging = population or Population(), imaging or Imaging()
    if mean_nm is not None:
        _require(_positive(mean_nm), f"mean diameter {mean_nm} nm: give a positive number")
        if sd_nm is None:
            sd_nm = population.sd_nm * mean_nm / population.mean_nm
        population = replace(population, mean_nm=mean_nm, sd_nm=sd_nm)
    elif sd_nm is not None:
        population = replace(population, sd_nm=sd_nm)
    if mode is not None:
        imaging = replace(imaging, mode=mode)
    if dose is not None:
        imaging = replace(imaging, dose=dose)
    return population, imaging


@contextmanager
def _complete_folder(out: Path, refuse_inside: Path | None) -> Iterator[Path]:
    """Yield a folder beside `out` that takes its name when the block ends without an error."""
    out = Path(os.path.abspath(out))
    if refuse_inside is not None:
        real, forbidden = Path(os.path.realpath(out)), Path(os.path.realpath(refuse_inside))
        _require(
            not real.is_relative_to(forbidden),
            f"{out}: simulated files don't belong inside {forbidden}; name a folder elsewhere",
        )
    part = out.parent / f".{out.name[:80]}.{uuid.uuid4().hex}.part"
    try:
        if out.exists() or out.is_symlink():
            _require(
                out.is_dir() and not any(out.iterdir()), f"{out}: exists and isn't empty; name a new folder"
            )
        part.mkdir(parents=True)
        yield part
        part.replace(out)
    except OSError as error:
        raise UserError(
            f"{out}: can't be written ({error.strerror or error}); name another folder"
        ) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _as_signal(simulated: SimulatedMicrograph, name: str) -> dict[str, Any]:
    """The dictionary that RosettaSciIO's writers take."""
    axes = [
        {
            "name": axis,
            "size": size,
            "scale": simulated.pixel_size_nm,
            "offset": 0.0,
            "units": "nm",
            "index_in_array": index,
            "navigate": False,
            "is_binned": False,
            "_type": "UniformDataAxis",
        }
        for index, (axis, size) in enumerate(zip("yx", simulated.image.shape, strict=True))
    ]
    return {
        "data": simulated.image,
        "axes": axes,
        "metadata": {"General": {"title": name}, "Signal": {"signal_type": ""}},
        "original_metadata": {},
        "learning_results": {},
        "tmp_parameters": {},
        "models": {},
        "attributes": {"_lazy": False, "ragged": False},
        "package_info": {"package": "", "package_version": ""},
    }


def write_micrograph(target: Path, simulated: SimulatedMicrograph) -> None:
    """Write an image with its pixel size; the suffix gives the format: .tif, .mrc, .emd (Berkeley) or .hspy.

    A .tif carries its scale twice, as ImageJ and as DigitalMicrograph write it: RosettaSciIO takes the unit
    nm only from the second.

    Raises
    ------
    UserError
        For another suffix.
    """
    if target.suffix == ".mrc":
        with mrcfile.new(target) as mrc:
            mrc.set_data(simulated.image)
            mrc.voxel_size = simulated.pixel_size_nm * 10  # MRC counts in ångström
        return
    if target.suffix == ".tif":
        from rsciio.tiff import file_writer
    elif target.suffix == ".emd":
        from rsciio.emd import file_writer
    elif target.suffix == ".hspy":
        from rsciio.hspy import file_writer
    else:
        raise UserError(f"{target.name}: no such format; use one of {', '.join(FILE_FORMATS)}")
    file_writer(str(target), _as_signal(simulated, target.stem))


def simulate_session(
    out: Path,
    *,
    images: int = 6,
    size: int = 512,
    pixel_size_nm: float = 0.1,
    seed: int = 0,
    file_format: FileFormat = "tif",
    mode: Mode | None = None,
    dose: float | None = None,
    mean_nm: float | None = None,
    sd_nm: float | None = None,
    population: Population | None = None,
    imaging: Imaging | None = None,
    sample_id: str | None = None,
    refuse_inside: Path | None = None,
) -> Path:
    """Write a simulated session with its truth: whole, or not at all.

    OUT/session/ holds the calibrated files and session.yaml, OUT/truth/cores/ and OUT/truth/shells/ the label
    images NAME.tif, OUT/truth/particles.parquet the particles of all images (see `rasterise`; `image` holds
    NAME). The same arguments give the same pixels.

    Parameters
    ----------
    out : Path
        A folder that doesn't exist yet, or an empty one.
    images, size : int
        Number of images and their side in px.
    pixel_size_nm : float
    seed : int
        Each image has its own stream, so the first images of a longer session are those of a shorter one.
    file_format : {"tif", "mrc", "emd", "hspy"}
    mode, dose, mean_nm, sd_nm : optional
        Override these fields of `imaging` and `population`; with `mean_nm` alone the relative width stays.
    population : Population, optional
    imaging : Imaging, optional
    sample_id : str, optional
        "simulated" unless given.
    refuse_inside : Path, optional
        A folder that nothing simulated may be written into.

    Returns
    -------
    Path
        `out`.

    Raises
    ------
    UserError
        When `out` holds something already, lies inside `refuse_inside` or can't be written, or a value makes
        no sense.
    """
    _require(
        file_format in FILE_FORMATS,
        f"format {file_format!r} is unknown: use one of {', '.join(FILE_FORMATS)}",
    )
    population, imaging = _chosen(population, imaging, mode, dose, mean_nm, sd_nm)
    _check_series(images, size, pixel_size_nm, seed, population)
    with _complete_folder(out, refuse_inside) as part:
        for folder in ("session", "truth/cores", "truth/shells"):
            (part / folder).mkdir(parents=True)
        tables = []
        for name, simulated in _micrographs(images, size, pixel_size_nm, seed, population, imaging):
            write_micrograph(part / "session" / f"{name}.{file_format}", simulated)
            write_bytes(part / "truth/cores" / f"{name}.tif", encode_tiff(simulated.cores, pixel_size_nm))
            write_bytes(part / "truth/shells" / f"{name}.tif", encode_tiff(simulated.shells, pixel_size_nm))
            table = simulated.particles
            table.insert(0, "image", name)
            tables.append(table)
        write_table(part / "truth" / "particles.parquet", pd.concat(tables, ignore_index=True))
        session = {
            "sample_id": sample_id or "simulated",
            "microscope": "simulated",
            "voltage_kv": 200,
            "mode": imaging.mode,
            "metal": "Pt",
            "notes": f"simulated, seed {seed}, {imaging.dose:g} electrons a pixel",
        }
        (part / "session" / "session.yaml").write_text(
            yaml.safe_dump(session, sort_keys=False), encoding="utf-8"
        )
    return Path(out)


def simulate_annotated_set(
    out: Path,
    *,
    images: int = 6,
    size: int = 512,
    pixel_size_nm: float = 0.1,
    seed: int = 0,
    mode: Mode | None = None,
    dose: float | None = None,
    mean_nm: float | None = None,
    sd_nm: float | None = None,
    population: Population | None = None,
    imaging: Imaging | None = None,
    refuse_inside: Path | None = None,
) -> Path:
    """Write the images that `simulate_session` would write as an annotated set: whole, or not at all.

    OUT/images/NAME.tif, OUT/masks/NAME.tif (cores, instances), OUT/shells/NAME.tif (whole particles), and
    OUT/dataset.yaml with mode, pixel size and `groups`: each image is a micrograph of its own.

    Parameters and errors are those of `simulate_session`.
    """
    population, imaging = _chosen(population, imaging, mode, dose, mean_nm, sd_nm)
    _check_series(images, size, pixel_size_nm, seed, population)
    with _complete_folder(out, refuse_inside) as part:
        for folder in ("images", "masks", "shells"):
            (part / folder).mkdir()
        names = []
        for name, simulated in _micrographs(images, size, pixel_size_nm, seed, population, imaging):
            write_micrograph(part / "images" / f"{name}.tif", simulated)
            write_bytes(part / "masks" / f"{name}.tif", encode_tiff(simulated.cores, pixel_size_nm))
            write_bytes(part / "shells" / f"{name}.tif", encode_tiff(simulated.shells, pixel_size_nm))
            names.append(name)
        dataset = {
            "mode": imaging.mode,
            "pixel_size_nm": pixel_size_nm,
            "groups": {name: f"seed_{seed}_{name}" for name in names},
        }
        (part / "dataset.yaml").write_text(yaml.safe_dump(dataset, sort_keys=False), encoding="utf-8")
    return Path(out)
