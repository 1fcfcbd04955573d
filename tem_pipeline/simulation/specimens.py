"""Places core–shell particles at random over a field.

`projection` draws placed particles, `imaging` simulates how a microscope records them.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from scipy.spatial import cKDTree

from tem_pipeline.simulation.parameters import Range, finite, positive, require, require_range

# A normal distribution is cut off at ± this many standard deviations, then widened to the requested standard
# deviation. With the default sizes that gives the 1.2–2.5 nm of Liu et al. (2021).
NORMAL_CUT = 2.475


@dataclass(frozen=True)
class Population:
    """The particles of a specimen; lengths in nm.

    Attributes
    ----------
    mean_nm, sd_nm : float
        Mean and standard deviation of the cores' diameters.
    distribution : {"normal", "lognormal"}
        A normal distribution is cut off symmetrically (`NORMAL_CUT`), and never reaches below a fifth of the
        mean.
    aspect : (float, float)
        Range of the ratio of minor to major axis of a core's projection.
    cores_per_shell : tuple of float
        Probability of 1, 2, 3, … cores in one shell.
    shell_nm, shell_sd_nm : float
        Mean and standard deviation of the silica's thickness between the outermost core and the shell's
        surface; 0 gives bare cores.
    bare_fraction : float
        Fraction of particles without a shell.
    off_centre : float
        Largest displacement of the cores from the shell's centre, as a fraction of the shell's thickness.
    coverage : (float, float)
        Range of the nominal fraction of the support that particles cover; drawn for each image.
    shell_overlap : float
        How far two shells may overlap in projection, as a fraction of the smaller radius.
    core_gap_nm : float or None
        Smallest gap between cores that don't touch. None lets cores of different shells overlap in
        projection.
    touching_fraction : float
        Fraction of cores that are grown together with other cores in their shell.
    cluster_size : (int, int)
        Smallest and largest number of cores that grow together.
    neck : (float, float)
        Range of the neck's width between two touching cores, as a fraction of the smaller diameter.
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
    """Particles in a field, in nm from its upper left corner. Some are entirely outside the field.

    Attributes
    ----------
    cores : DataFrame
        One row per core: shell (row of `shells`), y_nm, x_nm, major_nm, minor_nm (full axes of the projected
        ellipse), angle_rad (of the major axis, from x towards y), strength (quantile of the core's contrast
        factor, 0 to 1).
    shells : DataFrame
        One row per shell: y_nm, x_nm, radius_nm (0: no shell, bare cores).
    """

    cores: pd.DataFrame
    shells: pd.DataFrame


def draw_diameters(rng: np.random.Generator, count: int, population: Population) -> np.ndarray:
    """Draw diameters of cores.

    Parameters
    ----------
    rng : Generator
    count : int
        Number of cores.
    population : Population
        Its mean, standard deviation and distribution are used.

    Returns
    -------
    ndarray, (count,)
        In nm. Expected mean and standard deviation are the population's, except for a normal distribution
        with a standard deviation above a third of the mean: its lower tail is drawn again.
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
    """Give the distance of two circles' centres whose common chord is `neck` × the smaller diameter."""
    half = neck * min(first, second)
    return math.sqrt(first**2 - half**2) + math.sqrt(second**2 - half**2)


def _arrange(
    rng: np.random.Generator, radii: np.ndarray, population: Population, gap_nm: float, touching: bool
) -> np.ndarray:
    """Place the cores of one shell side by side, each close to an earlier core or grown together with it.

    Returns
    -------
    ndarray, (at most len(radii), 2)
        Centres (y, x) in nm, without the cores that found no room.
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
    """Make `count` particles, each a shell with its cores, centred on the origin."""
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
    # On its thin side the silica keeps (1 − off_centre) of the drawn thickness.
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
    """Find pairs of owners whose circles are closer than the gap or overlap too far."""
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
    """Place particles at random over a field and its surroundings.

    The field is a window of a larger periodic one. Particles are therefore equally dense everywhere, and the
    field's edge cuts them as often as chance does. If there isn't room for all, the smallest of the particles
    in conflict are left out.

    Parameters
    ----------
    rng : Generator
    field_nm : (float, float)
        Height and width.
    population : Population, optional
    minimum_gap_nm : float
        The gap is at least this, even if the population's `core_gap_nm` is smaller: gaps of less than a few
        pixels can't be seen.

    Returns
    -------
    Placement
    """
    population = population or Population()
    gap_nm = max(population.core_gap_nm or 0.0, minimum_gap_nm)
    # Wide enough for the largest particle outside each side, and for the tails of the size distribution.
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
        # Of two particles in conflict the smaller moves: a large one would find no other gap.
        pairs = [_conflicts(position[coated], radius[coated], coated, box, overlap=population.shell_overlap)]
        if population.core_gap_nm is not None:
            centres = (position[owner] + relative) % box
            centres[centres >= box] = 0.0  # a centre just below 0, rounded up to the box
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
