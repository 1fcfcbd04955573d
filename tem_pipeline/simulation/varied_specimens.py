"""Simulates micrographs of very different specimens and microscopes, for training a model that fits many.

Where `simulation` draws one kind of specimen with exact truth, this draws at random what is on the support,
what the support is, how it was imaged and what was done to the picture afterwards, as widely as the electron
microscopy of supported and core–shell metal particles knows it. The physics of an image is `simulation`'s.
"""

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage
from scipy.ndimage import gaussian_filter, zoom

from tem_pipeline.simulation.imaging import (
    CORE_HAADF,
    FILM_HAADF,
    SHELL_HAADF,
    WAVELENGTH_NM,
    Imaging,
    Mode,
    form_image,
)
from tem_pipeline.simulation.parameters import Range
from tem_pipeline.simulation.sessions import simulate_micrograph
from tem_pipeline.simulation.specimens import Placement, Population, place_particles

KINDS = {"session": 0.22, "core_shell": 0.14, "bare": 0.24, "supported": 0.40}
"""Kinds of specimen and their shares: the session that `simulation` draws, at any magnification and dose;
core–shell particles of any build; bare particles on a film; particles on a rough or porous support."""

SMALLEST_PX, LARGEST_PX = 6.0, 130.0
UNSEEN, SEEN = 0.6, 1.3
"""Contrast over noise and relief of its size, below which nobody sees a particle and from which on all do."""
EDGE = 0.5
"""Share of its greatest thickness from which on a bare particle is seen: pictures end at half contrast."""
HIDDEN = 254
"""In a class map: core, and nobody could see it."""
AMBIGUOUS = 255
"""In a class map: background to one person and core to another. To be left out of a loss."""


@dataclass(frozen=True)
class VariedMicrograph:
    """A micrograph with the class of every pixel.

    image : (size, size) uint8 or uint16, as a camera or an operator would have saved it
    class_map : (size, size) uint8, 0 background, 1 shell, 2 core, `HIDDEN` or `AMBIGUOUS`: of bare
        and supported particles those that nobody could see, and those that are hard to see and thin rims.
    mode : bright_field or haadf
    kind : a key of `KINDS`
    """

    image: np.ndarray
    class_map: np.ndarray
    mode: Mode
    kind: str


def simulate_varied_micrograph(
    rng: np.random.Generator, size: int = 384, diameters_px: Range | None = None, uneven: bool = False
) -> VariedMicrograph:
    """Draw a specimen and a microscope at random, and image the one with the other.

    Parameters
    ----------
    rng : Generator
    size : int
        Side of the image in px.
    diameters_px : (float, float), optional
        Mean diameters of the cores are drawn between these, evenly in their logarithm; by default from 6 to
        130, on supports to 45, and in sessions from 8 to 60.
    uneven : bool
        Bare and supported particles: faint ones beside strong ones, of very different thickness, more noise,
        more of the support's relief and more particles on it.

    Returns
    -------
    VariedMicrograph
    """
    kind = str(rng.choice(list(KINDS), p=list(KINDS.values())))
    if kind == "session":
        image, class_map, mode = _session_image(rng, size, diameters_px or (8, 60))
    else:
        widest = 45 if kind == "supported" else LARGEST_PX
        drawn_px = diameters_px or (SMALLEST_PX, widest)
        image, class_map, mode = _specimen_image(rng, size, kind, drawn_px, uneven)
    image = _operator(rng, image.astype(np.float32))
    image, class_map = _distractors(rng, image, class_map)
    if rng.random() < 0.5:
        image = np.rint(image * 255).astype(np.uint8)
    else:
        image = np.rint(image * 65535).astype(np.uint16)
    return VariedMicrograph(image, class_map, mode, kind)


def _log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(math.log(low), math.log(high))))


def _session_image(
    rng: np.random.Generator, size: int, diameters_px: Range
) -> tuple[np.ndarray, np.ndarray, Mode]:
    mode: Mode = "bright_field" if rng.random() < 0.6 else "haadf"
    mean_nm = _log_uniform(rng, 1.2, 6)
    population = Population(
        mean_nm=mean_nm,
        sd_nm=mean_nm * rng.uniform(0.05, 0.35),
        shell_nm=rng.uniform(0.8, 1.6) * 2.2,
        touching_fraction=rng.uniform(0, 0.05),
        coverage=(0.15, 0.6),
    )
    pixel_size_nm = mean_nm / _log_uniform(rng, *diameters_px)
    imaging = Imaging(mode=mode, dose=_log_uniform(rng, 150, 4000))
    drawn = simulate_micrograph(
        rng, shape=(size, size), pixel_size_nm=pixel_size_nm, population=population, imaging=imaging
    )
    class_map = (drawn.shells > 0).astype(np.uint8)
    class_map[drawn.cores > 0] = 2
    return drawn.image, class_map, mode


def _specimen_image(
    rng: np.random.Generator, size: int, kind: str, diameters_px: Range, uneven: bool
) -> tuple[np.ndarray, np.ndarray, Mode]:
    supported, bare = kind == "supported", kind != "core_shell"
    uneven = uneven and bare
    mode: Mode = "bright_field" if rng.random() < (0.35 if supported else 0.55) else "haadf"
    diameter_px = _log_uniform(rng, *diameters_px)
    mean_nm = _log_uniform(rng, 1.5, 10)
    pixel_size_nm = mean_nm / diameter_px
    # Surroundings on each side: the lens equation is periodic, and fringes reach a few of their widths.
    margin = 24
    canvas = size + 2 * margin
    field_nm = canvas * pixel_size_nm
    placement = place_particles(rng, (field_nm, field_nm), _population(rng, kind, mean_nm, uneven))
    support = _support(rng, canvas, diameter_px) if supported else None
    if support is not None:
        placement = _on_support(rng, placement, support, pixel_size_nm)
    thinnest = _log_uniform(rng, 0.05, 0.6) if uneven else 1.0
    drawn = _draw(rng, placement, canvas, pixel_size_nm, bare, thinnest)
    image = _image(rng, drawn.core_nm, drawn.shell_nm, support, mean_nm, pixel_size_nm, mode, margin, uneven)
    inner = slice(margin, -margin), slice(margin, -margin)
    class_map, cores = drawn.class_map[inner], drawn.cores[inner]
    if bare:
        visibility = _visibility(image.astype(np.float32), cores)[cores]
        class_map[drawn.rims[inner] | (visibility < SEEN)] = AMBIGUOUS
        class_map[visibility < UNSEEN] = HIDDEN
    return image, class_map, mode


def _population(rng: np.random.Generator, kind: str, mean_nm: float, uneven: bool) -> Population:
    coated = kind == "core_shell"
    several = rng.random() < 0.4
    # Sintered catalysts have large particles beside small ones.
    broad = not coated and rng.random() < 0.25
    return Population(
        mean_nm=mean_nm,
        sd_nm=mean_nm * (rng.uniform(0.5, 0.9) if broad else rng.uniform(0.03, 0.5)),
        distribution="lognormal" if broad or rng.random() < 0.6 else "normal",
        aspect=(rng.uniform(0.35, 0.75), 1.0) if rng.random() < 0.3 else (rng.uniform(0.75, 0.95), 1.0),
        cores_per_shell=(0.4, 0.2, 0.15, 0.1, 0.08, 0.07) if coated and several else (0.9, 0.1),
        shell_nm=mean_nm * _log_uniform(rng, 0.15, 2.5) if coated else 0.0,
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
class _Drawn:
    """Particles on a canvas, all arrays (canvas, canvas).

    core_nm, shell_nm : thickness of metal and of silica
    class_map : 0 background, 1 shell, 2 core
    cores : the number of the core that lies uppermost, from 1 on, or 0
    rims : where a core is thinner than `EDGE` of what it is at most
    """

    core_nm: np.ndarray
    shell_nm: np.ndarray
    class_map: np.ndarray
    cores: np.ndarray
    rims: np.ndarray


def _draw(
    rng: np.random.Generator,
    placement: Placement,
    canvas: int,
    pixel_size_nm: float,
    flat: bool,
    thinnest: float,
) -> _Drawn:
    """Draw the particles.

    `flat`: few of the cores are spheres, whose rims fade; `thinnest`: the least thickness of a core against
    what its diameter makes one expect, drawn evenly in its logarithm.
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
            thickness *= _log_uniform(rng, thinnest, 1)
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
    return _Drawn(core_nm, shell_nm, class_map, numbers, rims)


def _visibility(image: np.ndarray, cores: np.ndarray) -> np.ndarray:
    """Give each core's contrast over noise and relief, by its number; infinite for 0 and those not in sight.

    A core's contrast is its mean above its surroundings; noise and relief are what the surroundings without
    cores vary by where they are smoothed as much as a core of that size is.
    """
    numbers, areas = np.unique(cores[cores > 0], return_counts=True)
    visibility = np.full(int(numbers.max(initial=0)) + 1, np.inf)
    empty = (cores == 0).astype(np.float32)
    widths = 2.0 ** np.rint(np.log2(np.sqrt(4 * areas / math.pi)).clip(2))
    for width in np.unique(widths):
        chosen = numbers[widths == width]
        around = _mean_where(image, empty, 4 * width)
        residual = image - around
        smooth = _mean_where(residual, empty, width)
        # Not the root of the mean square: a step at the support's edge hides nothing beside it.
        noise = 1.25 * _mean_where(np.abs(smooth), empty, 8 * width)
        contrast = np.abs(ndimage.mean(residual, cores, chosen))
        visibility[chosen] = contrast / np.maximum(ndimage.mean(noise, cores, chosen), 1e-6)
    return visibility


def _mean_where(values: np.ndarray, weights: np.ndarray, side_px: float) -> np.ndarray:
    """Average over squares, of the pixels that have weight."""
    total = ndimage.uniform_filter(weights, int(side_px))
    return ndimage.uniform_filter(values * weights, int(side_px)) / np.maximum(total, 1e-3)


def _box(
    y_px: float, x_px: float, reach_px: float, canvas: int
) -> tuple[tuple[slice, slice], np.ndarray, np.ndarray]:
    """Give the window around a point within the canvas, and its pixels' distances from the point."""
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
    """Give each pixel's distance from the centre, 1 on the outline, and the relative thickness there."""
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
    """A Gaussian random field of mean 0 and standard deviation 1 with the given correlation length."""
    step = max(1, int(length_px / 4))
    small = -(-canvas // step) + 4
    field = gaussian_filter(rng.standard_normal((small, small), dtype=np.float32), length_px / step)
    field = (field - field.mean()) / max(float(field.std()), 1e-6)
    return zoom(field, step, order=1)[:canvas, :canvas] if step > 1 else field[:canvas, :canvas]


def _support(rng: np.random.Generator, canvas: int, diameter_px: float) -> np.ndarray:
    """Draw a support's relative thickness, (canvas, canvas): 0 in vacuum, about 1 elsewhere."""
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
        edge = _field(rng, canvas, _log_uniform(rng, 0.12, 0.5) * canvas)
        edge += rng.uniform(0, 0.3) * _field(rng, canvas, rng.uniform(4, 30))
        support *= np.clip((edge + rng.uniform(-0.2, 1.3)) * rng.uniform(2, 20), 0, 1)
    support = np.maximum(support, 0)
    covered = support[support > 0.05 * max(float(support.max()), 1e-6)]
    return support / max(float(np.median(covered)) if covered.size else 1.0, 1e-6)


def _spheres(rng: np.random.Generator, canvas: int, diameter_px: float) -> np.ndarray:
    radius_px = float(np.clip(diameter_px * _log_uniform(rng, 0.8, 10), 5, canvas / 2))
    layer = np.zeros((canvas, canvas), np.float32)
    count = int(np.clip(rng.uniform(0.3, 2.5) * canvas**2 / (math.pi * radius_px**2), 2, 250))
    centre = rng.uniform(0, canvas, 2)
    for _ in range(count):
        # An aggregate grows from where it is; now and then another begins.
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
    # Grain down to half a particle's width: its peaks are no particles.
    longest, shortest = canvas / 3, max(_log_uniform(rng, 0.35, 1.5) * diameter_px, 4.0)
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
        length = _log_uniform(rng, 3 * diameter_px, 12 * diameter_px + 60)
        width = length * rng.uniform(0.1, 1)
        along = (x - centre[1]) * math.cos(angle) + (y - centre[0]) * math.sin(angle)
        across = (y - centre[0]) * math.cos(angle) - (x - centre[1]) * math.sin(angle)
        inside = np.minimum(length / 2 - np.abs(along), width / 2 - np.abs(across))
        layer += rng.uniform(0.2, 1) * np.clip(inside / rng.uniform(1, 6), 0, 1)
    return layer


def _on_support(
    rng: np.random.Generator, placement: Placement, support: np.ndarray, pixel_size_nm: float
) -> Placement:
    """Leave out nearly all particles that would hang in the vacuum."""
    cores = placement.cores
    place = (cores[["y_nm", "x_nm"]].to_numpy() / pixel_size_nm).astype(int).clip(0, len(support) - 1)
    kept = (support[place[:, 0], place[:, 1]] > 0.15) | (rng.random(len(cores)) < 0.03)
    return Placement(cores[kept].reset_index(drop=True), placement.shells)


# Imaging ------------------------------------------------------------


def _image(
    rng: np.random.Generator,
    core_nm: np.ndarray,
    shell_nm: np.ndarray,
    support: np.ndarray | None,
    mean_nm: float,
    pixel_size_nm: float,
    mode: Mode,
    margin: int,
    uneven: bool,
) -> np.ndarray:
    """Image the specimen so that particles of mean size can be seen, from barely to very well.

    `uneven`: more noise, and more of the support's own structure.
    """
    diameter_px = mean_nm / pixel_size_nm
    shell_contrast = _log_uniform(rng, 0.04, 0.35)
    ratio = 0.0
    if support is not None:
        # The support's own structure of the particles' size stays below the particles.
        structure = support - gaussian_filter(support, diameter_px)
        above = _log_uniform(rng, 0.7, 5) if uneven else rng.uniform(0.9, 6)
        limit = 1 / (above * max(float(structure.std()), 1e-3))
        ratio = min(_log_uniform(rng, 0.4, 10), limit)
    strength = _log_uniform(rng, *((0.2, 8) if uneven else (0.6, 12)))
    contrast_to_noise = max(strength, rng.uniform(5 if uneven else 10, 20) / diameter_px)
    vacuum = support is not None and rng.random() < 0.6
    film_nm = (0.0, 0.0) if vacuum else (3.0, 10.0)
    # Real rims are the softer the more they are magnified: rough, tilted, not in focus throughout.
    blur_px = _log_uniform(rng, 0.35, max(1.6, 0.07 * diameter_px))
    grain_px = _log_uniform(rng, 1.0, 5.0)
    if mode == "bright_field":
        contrast = _log_uniform(rng, 0.1, 0.85)
        attenuation = -math.log1p(-contrast) / mean_nm
        if support is not None:
            shell_attenuation = rng.uniform(0.02, 0.08)
            shell_nm = support * np.float32(ratio * attenuation * mean_nm / shell_attenuation)
        else:
            shell_attenuation = attenuation * shell_contrast
        background = math.exp(-ratio * attenuation * mean_nm)
        dose = contrast_to_noise**2 / (contrast**2 * background)
        imaging = Imaging(
            mode=mode,
            dose=float(np.clip(dose, 8, 3e4)),
            core_attenuation=(attenuation, attenuation),
            shell_attenuation=(shell_attenuation, shell_attenuation),
            orientation=(1.0, 1.0),
            film_nm=film_nm,
            grain_nm=(0, 0) if vacuum else (0.05, 0.1 + 0.4 * contrast),
            grain_length_nm=grain_px * pixel_size_nm,
            relief_nm=(0, 0) if vacuum else (0.2, 2.0),
            relief_length_nm=rng.uniform(20, 150) * pixel_size_nm,
            # A fringe is about the square root of wavelength times defocus wide.
            defocus_nm=_fixed(min((_log_uniform(rng, 0.6, 5) * pixel_size_nm) ** 2 / WAVELENGTH_NM, 5e3)),
            resolution_nm=_fixed(blur_px * pixel_size_nm),
            uneven=(0.0, 0.6),
            camera_blur_px=(0.3, 1.0),
            gain=rng.uniform(1, 8),
            readout=rng.uniform(0, 6),
        )
    else:
        metal = _log_uniform(rng, 0.2, 1)
        core_nm = core_nm * np.float32(metal)
        signal = metal * mean_nm * CORE_HAADF
        if support is not None:
            shell_nm = support * np.float32(ratio * signal / SHELL_HAADF)
        else:
            shell_nm = shell_nm * np.float32(shell_contrast * signal / (mean_nm * SHELL_HAADF))
        background = ratio * signal + FILM_HAADF * sum(film_nm) / 2 + 0.05 * signal
        reference = CORE_HAADF + FILM_HAADF * sum(film_nm)
        dose = contrast_to_noise**2 * (background + signal) * reference / signal**2
        imaging = Imaging(
            mode=mode,
            dose=float(np.clip(dose, 1, 1e5)),
            film_nm=film_nm,
            grain_nm=(0, 0) if vacuum else (0.2, 1.0),
            grain_length_nm=grain_px * pixel_size_nm,
            relief_nm=(0, 0) if vacuum else (0.5, 3.0),
            relief_length_nm=rng.uniform(20, 150) * pixel_size_nm,
            resolution_nm=_fixed(blur_px * pixel_size_nm),
            uneven=(0.0, 0.3),
            camera_blur_px=(0.0, 0.7),
            gain=rng.uniform(1, 30),
            readout=rng.uniform(0, 6),
        )
    return form_image(rng, core_nm, shell_nm, pixel_size_nm, imaging, margin_px=margin)


def _fixed(value: float) -> Range:
    return value, value


# What operators and programs do to pictures --------------------------


def _operator(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Stretch to 0 … 1, clipping some of both ends, with a tone curve and what saving does."""
    if rng.random() < 0.3:  # saved at another size: noise becomes coarse
        factor = rng.uniform(0.5, 0.9)
        coarse = zoom(image, factor, order=1, grid_mode=True, mode="nearest")
        image = zoom(coarse, np.array(image.shape) / coarse.shape, order=3, grid_mode=True, mode="nearest")
    if rng.random() < 0.2:  # scan lines
        image = image + rng.normal(0, 0.15 * image.std(), (len(image), 1)).astype(np.float32)
    darkest, brightest = (0.0, 100.0)
    if rng.random() < 0.5:
        darkest, brightest = rng.uniform(0, 1), 100 - _log_uniform(rng, 0.02, 2)
    low, high = np.percentile(image, (darkest, brightest))
    image = np.clip((image - low) / max(high - low, 1e-6), 0, 1)
    if rng.random() < 0.5:
        image = image ** _log_uniform(rng, 0.6, 1.6)
    return image


def _distractors(
    rng: np.random.Generator, image: np.ndarray, class_map: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Add what is no specimen: scale bar and text, frame edges, smudges; what they cover is background."""
    size = len(image)
    if rng.random() < 0.25:  # a smudge has no edge
        y, x = np.mgrid[:size, :size].astype(np.float32)
        for _ in range(int(rng.integers(1, 4))):
            (row, column), width = rng.uniform(0, size, 2), rng.uniform(0.1, 0.3) * size
            bump = np.exp(-((y - row) ** 2 + (x - column) ** 2) / (2 * width**2))
            image = np.clip(image + rng.uniform(-0.3, 0.3) * bump, 0, 1)
    if rng.random() < 0.12:
        edge = int(rng.integers(2, size // 8))
        side = int(rng.integers(4))
        image, class_map = np.rot90(image, side).copy(), np.rot90(class_map, side).copy()
        image[:edge] = rng.choice((0.0, 1.0))
        class_map[:edge] = 0
        image, class_map = np.rot90(image, -side).copy(), np.rot90(class_map, -side).copy()
    if rng.random() < 0.25:
        drawn = Image.new("L", (size, size), 0)
        pen = ImageDraw.Draw(drawn)
        left, top = rng.uniform(0.02, 0.6) * size, rng.choice((0.03, 0.85)) * size
        length, height = rng.uniform(0.1, 0.35) * size, rng.uniform(0.006, 0.03) * size
        pen.rectangle((left, top, left + length, top + height), fill=255)
        text = f"{rng.choice((1, 2, 5, 10, 20, 50, 100, 200))} nm"
        font = ImageFont.load_default(rng.uniform(0.03, 0.07) * size)
        pen.text((left, top + 2 * height), text, fill=255, font=font)
        covered = np.asarray(drawn) > 127
        if rng.random() < 0.3:  # on a box of its own
            rows, columns = np.nonzero(covered)
            box = (
                slice(max(0, rows.min() - 4), rows.max() + 5),
                slice(max(0, columns.min() - 4), columns.max() + 5),
            )
            image = image.copy()
            image[box] = 0.0
            class_map = class_map.copy()
            class_map[box] = 0
            image[covered] = 1.0
        else:
            image = np.where(covered, rng.choice((0.0, 1.0)), image)
            class_map = np.where(covered, 0, class_map).astype(np.uint8)
    return image.astype(np.float32), class_map
