"""Simulates micrographs of very different specimens and microscopes, to train a model that fits many.

`micrographs` simulates one kind of specimen with exact truth. Here the specimen (`varied_specimens`), the
microscope and what operators do to the saved picture are drawn at random, as widely as they vary in electron
microscopy of supported and core–shell metal particles. Both use the physics of `imaging`.
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
from tem_pipeline.simulation.micrographs import simulate_micrograph
from tem_pipeline.simulation.parameters import Range
from tem_pipeline.simulation.specimens import Population, place_particles
from tem_pipeline.simulation.varied_specimens import (
    KINDS,
    draw_particles,
    draw_population,
    draw_support,
    keep_on_support,
    log_uniform,
)

SMALLEST_PX, LARGEST_PX = 6.0, 130.0
UNSEEN, SEEN = 0.6, 1.3
"""Limits of `_visibility`: a particle is invisible below the first and clearly visible above the second."""
HIDDEN = 254
"""Class of core pixels that nobody can see."""
AMBIGUOUS = 255
"""Class of pixels that people label differently, as background or core. A loss must leave them out."""


@dataclass(frozen=True)
class VariedMicrograph:
    """A micrograph with the class of every pixel.

    image : (size, size) uint8 or uint16, as saved by a camera or an operator
    class_map : (size, size) uint8: 0 background, 1 shell, 2 core. Bare and supported particles that nobody
        can see are `HIDDEN`; particles that are hard to see and thin rims are `AMBIGUOUS`.
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
    """Draw a specimen and a microscope at random, and simulate the image.

    Parameters
    ----------
    rng : Generator
    size : int
        Side of the image in px.
    diameters_px : (float, float), optional
        Range of the cores' mean diameter, drawn uniformly in its logarithm. By default 6 to 130; on supports
        6 to 45; in sessions 8 to 60.
    uneven : bool
        Make bare and supported particles harder to see: faint ones next to strong ones, of very different
        thickness, with more noise, a rougher support and more particles on it.

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


def _session_image(
    rng: np.random.Generator, size: int, diameters_px: Range
) -> tuple[np.ndarray, np.ndarray, Mode]:
    mode: Mode = "bright_field" if rng.random() < 0.6 else "haadf"
    mean_nm = log_uniform(rng, 1.2, 6)
    population = Population(
        mean_nm=mean_nm,
        sd_nm=mean_nm * rng.uniform(0.05, 0.35),
        shell_nm=rng.uniform(0.8, 1.6) * 2.2,
        touching_fraction=rng.uniform(0, 0.05),
        coverage=(0.15, 0.6),
    )
    pixel_size_nm = mean_nm / log_uniform(rng, *diameters_px)
    imaging = Imaging(mode=mode, dose=log_uniform(rng, 150, 4000))
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
    diameter_px = log_uniform(rng, *diameters_px)
    mean_nm = log_uniform(rng, 1.5, 10)
    pixel_size_nm = mean_nm / diameter_px
    # Surroundings on each side: the lens equation is periodic, and fringes extend over several fringe widths.
    margin = 24
    canvas = size + 2 * margin
    field_nm = canvas * pixel_size_nm
    placement = place_particles(rng, (field_nm, field_nm), draw_population(rng, kind, mean_nm, uneven))
    support = draw_support(rng, canvas, diameter_px) if supported else None
    if support is not None:
        placement = keep_on_support(rng, placement, support, pixel_size_nm)
    thinnest = log_uniform(rng, 0.05, 0.6) if uneven else 1.0
    drawn = draw_particles(rng, placement, canvas, pixel_size_nm, bare, thinnest)
    image = _image(rng, drawn.core_nm, drawn.shell_nm, support, mean_nm, pixel_size_nm, mode, margin, uneven)
    inner = slice(margin, -margin), slice(margin, -margin)
    class_map, cores = drawn.class_map[inner], drawn.cores[inner]
    if bare:
        visibility = _visibility(image.astype(np.float32), cores)[cores]
        class_map[drawn.rims[inner] | (visibility < SEEN)] = AMBIGUOUS
        class_map[visibility < UNSEEN] = HIDDEN
    return image, class_map, mode


def _visibility(image: np.ndarray, cores: np.ndarray) -> np.ndarray:
    """Give each core's contrast over noise and relief, by core number; infinite for absent numbers.

    A core's contrast is the difference between its mean and its surroundings. Noise and relief are the
    variation of the core-free surroundings, averaged over an area as large as the core.
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
        # Not the root mean square: a step at the support's edge hides nothing next to it.
        noise = 1.25 * _mean_where(np.abs(smooth), empty, 8 * width)
        contrast = np.abs(ndimage.mean(residual, cores, chosen))
        visibility[chosen] = contrast / np.maximum(ndimage.mean(noise, cores, chosen), 1e-6)
    return visibility


def _mean_where(values: np.ndarray, weights: np.ndarray, side_px: float) -> np.ndarray:
    """Give the weighted average over squares around each pixel."""
    total = ndimage.uniform_filter(weights, int(side_px))
    return ndimage.uniform_filter(values * weights, int(side_px)) / np.maximum(total, 1e-3)


@dataclass(frozen=True)
class _Conditions:
    """What decides how well particles of mean size are visible.

    shell_contrast : contrast of a shell relative to a core
    support_ratio : thickness of the support relative to a core, in units of contrast; 0 without a support
    contrast_to_noise : of a core of mean size
    vacuum : whether there is no film behind the specimen
    """

    mean_nm: float
    pixel_size_nm: float
    shell_contrast: float
    support_ratio: float
    contrast_to_noise: float
    vacuum: bool
    blur_px: float
    grain_px: float

    @property
    def film_nm(self) -> Range:
        return (0.0, 0.0) if self.vacuum else (3.0, 10.0)


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
    """Simulate the image so that particles of mean size are visible, from barely to very well."""
    conditions = _draw_conditions(rng, support, mean_nm, pixel_size_nm, uneven)
    simulate = _bright_field if mode == "bright_field" else _haadf
    core_nm, shell_nm, imaging = simulate(rng, core_nm, shell_nm, support, conditions)
    return form_image(rng, core_nm, shell_nm, pixel_size_nm, imaging, margin_px=margin)


def _draw_conditions(
    rng: np.random.Generator, support: np.ndarray | None, mean_nm: float, pixel_size_nm: float, uneven: bool
) -> _Conditions:
    """Draw conditions; `uneven` gives more noise and a rougher support."""
    diameter_px = mean_nm / pixel_size_nm
    shell_contrast = log_uniform(rng, 0.04, 0.35)
    ratio = 0.0
    if support is not None:
        # Structures of the support that are as large as the particles must be weaker than the particles.
        structure = support - gaussian_filter(support, diameter_px)
        above = log_uniform(rng, 0.7, 5) if uneven else rng.uniform(0.9, 6)
        limit = 1 / (above * max(float(structure.std()), 1e-3))
        ratio = min(log_uniform(rng, 0.4, 10), limit)
    strength = log_uniform(rng, *((0.2, 8) if uneven else (0.6, 12)))
    contrast_to_noise = max(strength, rng.uniform(5 if uneven else 10, 20) / diameter_px)
    vacuum = support is not None and rng.random() < 0.6
    # In real images rims are softer at higher magnification: rough, tilted, partly out of focus.
    blur_px = log_uniform(rng, 0.35, max(1.6, 0.07 * diameter_px))
    grain_px = log_uniform(rng, 1.0, 5.0)
    return _Conditions(
        mean_nm, pixel_size_nm, shell_contrast, ratio, contrast_to_noise, vacuum, blur_px, grain_px
    )


def _bright_field(
    rng: np.random.Generator,
    core_nm: np.ndarray,
    shell_nm: np.ndarray,
    support: np.ndarray | None,
    conditions: _Conditions,
) -> tuple[np.ndarray, np.ndarray, Imaging]:
    """Give the thicknesses with the support as silica, and the imaging."""
    mean_nm, pixel_size_nm = conditions.mean_nm, conditions.pixel_size_nm
    contrast = log_uniform(rng, 0.1, 0.85)
    attenuation = -math.log1p(-contrast) / mean_nm
    if support is not None:
        shell_attenuation = rng.uniform(0.02, 0.08)
        shell_nm = support * np.float32(conditions.support_ratio * attenuation * mean_nm / shell_attenuation)
    else:
        shell_attenuation = attenuation * conditions.shell_contrast
    background = math.exp(-conditions.support_ratio * attenuation * mean_nm)
    dose = conditions.contrast_to_noise**2 / (contrast**2 * background)
    imaging = Imaging(
        mode="bright_field",
        dose=float(np.clip(dose, 8, 3e4)),
        core_attenuation=(attenuation, attenuation),
        shell_attenuation=(shell_attenuation, shell_attenuation),
        orientation=(1.0, 1.0),
        film_nm=conditions.film_nm,
        grain_nm=(0, 0) if conditions.vacuum else (0.05, 0.1 + 0.4 * contrast),
        grain_length_nm=conditions.grain_px * pixel_size_nm,
        relief_nm=(0, 0) if conditions.vacuum else (0.2, 2.0),
        relief_length_nm=rng.uniform(20, 150) * pixel_size_nm,
        # The width of a fringe is about the square root of wavelength times defocus.
        defocus_nm=_fixed(min((log_uniform(rng, 0.6, 5) * pixel_size_nm) ** 2 / WAVELENGTH_NM, 5e3)),
        resolution_nm=_fixed(conditions.blur_px * pixel_size_nm),
        uneven=(0.0, 0.6),
        camera_blur_px=(0.3, 1.0),
        gain=rng.uniform(1, 8),
        readout=rng.uniform(0, 6),
    )
    return core_nm, shell_nm, imaging


def _haadf(
    rng: np.random.Generator,
    core_nm: np.ndarray,
    shell_nm: np.ndarray,
    support: np.ndarray | None,
    conditions: _Conditions,
) -> tuple[np.ndarray, np.ndarray, Imaging]:
    """Give the thicknesses with the support as silica, and the imaging."""
    mean_nm, pixel_size_nm, ratio = conditions.mean_nm, conditions.pixel_size_nm, conditions.support_ratio
    film_nm = conditions.film_nm
    metal = log_uniform(rng, 0.2, 1)
    core_nm = core_nm * np.float32(metal)
    signal = metal * mean_nm * CORE_HAADF
    if support is not None:
        shell_nm = support * np.float32(ratio * signal / SHELL_HAADF)
    else:
        shell_nm = shell_nm * np.float32(conditions.shell_contrast * signal / (mean_nm * SHELL_HAADF))
    background = ratio * signal + FILM_HAADF * sum(film_nm) / 2 + 0.05 * signal
    reference = CORE_HAADF + FILM_HAADF * sum(film_nm)
    dose = conditions.contrast_to_noise**2 * (background + signal) * reference / signal**2
    imaging = Imaging(
        mode="haadf",
        dose=float(np.clip(dose, 1, 1e5)),
        film_nm=film_nm,
        grain_nm=(0, 0) if conditions.vacuum else (0.2, 1.0),
        grain_length_nm=conditions.grain_px * pixel_size_nm,
        relief_nm=(0, 0) if conditions.vacuum else (0.5, 3.0),
        relief_length_nm=rng.uniform(20, 150) * pixel_size_nm,
        resolution_nm=_fixed(conditions.blur_px * pixel_size_nm),
        uneven=(0.0, 0.3),
        camera_blur_px=(0.0, 0.7),
        gain=rng.uniform(1, 30),
        readout=rng.uniform(0, 6),
    )
    return core_nm, shell_nm, imaging


def _fixed(value: float) -> Range:
    return value, value


# Changes by operators and programs ----------------------------------


def _operator(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Scale to 0 … 1 with clipping and a tone curve; sometimes add traces of resizing and scan lines."""
    if rng.random() < 0.3:  # saved at another size, so the noise is coarser
        factor = rng.uniform(0.5, 0.9)
        coarse = zoom(image, factor, order=1, grid_mode=True, mode="nearest")
        image = zoom(coarse, np.array(image.shape) / coarse.shape, order=3, grid_mode=True, mode="nearest")
    if rng.random() < 0.2:  # scan lines
        image = image + rng.normal(0, 0.15 * image.std(), (len(image), 1)).astype(np.float32)
    darkest, brightest = (0.0, 100.0)
    if rng.random() < 0.5:
        darkest, brightest = rng.uniform(0, 1), 100 - log_uniform(rng, 0.02, 2)
    low, high = np.percentile(image, (darkest, brightest))
    image = np.clip((image - low) / max(high - low, 1e-6), 0, 1)
    if rng.random() < 0.5:
        image = image ** log_uniform(rng, 0.6, 1.6)
    return image


def _distractors(
    rng: np.random.Generator, image: np.ndarray, class_map: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Add scale bar and text, frame edges and smudges; pixels that they cover are background."""
    size = len(image)
    if rng.random() < 0.25:  # smudges have no edges
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
        if rng.random() < 0.3:  # in a black box
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
