"""Scatters core–shell particles over a field and draws them: as labels, and as thickness along the beam.

Particles are placed by `place_particles`, drawn as labels by `rasterise` and as projected thickness by
`project_thickness`; how a microscope sees them is left to `imaging`.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from scipy.spatial import cKDTree

from tem_pipeline.simulation.parameters import Range, finite, positive, require, require_range

# y, x, major and minor axis in px, angle of the major axis from x towards y in rad; one value an ellipse.
Ellipses = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]

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
        require(positive(self.mean_nm), f"mean diameter {self.mean_nm} nm: give a positive number")
        require(
            finite(self.sd_nm) and 0 <= self.sd_nm <= self.mean_nm,
            f"standard deviation {self.sd_nm} nm: give a number from 0 to the mean diameter",
        )
        require(
            self.distribution in ("normal", "lognormal"),
            f"distribution {self.distribution!r} is unknown: use normal or lognormal",
        )
        for name in ("shell_nm", "shell_sd_nm", "off_centre", "shell_overlap"):
            value = getattr(self, name)
            require(finite(value) and value >= 0, f"{name} {value}: give a number from 0 upwards")
        for name in ("bare_fraction", "touching_fraction"):
            value = getattr(self, name)
            require(finite(value) and 0 <= value <= 1, f"{name} {value}: give a number from 0 to 1")
        require(self.off_centre <= 1, f"off_centre {self.off_centre}: more than 1 leads out of the shell")
        require_range("aspect", self.aspect, 0.2, 1)
        require_range("coverage", self.coverage, 0, 2)
        require_range("neck", self.neck, 0, 0.99)
        require_range("cluster_size", self.cluster_size, 2, 100)
        require(
            len(self.cores_per_shell) > 0
            and min(self.cores_per_shell) >= 0
            and sum(self.cores_per_shell) > 0,
            f"cores_per_shell {self.cores_per_shell}: give the probability of 1, 2, 3, … cores",
        )
        require(
            self.core_gap_nm is None or (finite(self.core_gap_nm) and self.core_gap_nm >= 0),
            f"core_gap_nm {self.core_gap_nm}: give a number from 0 upwards, or none",
        )


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
    require(
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
