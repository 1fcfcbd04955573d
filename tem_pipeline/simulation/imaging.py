"""Simulates the image of a specimen of known thickness, in bright field or HAADF, up to camera counts."""

import math
from dataclasses import dataclass, fields

import numpy as np
import scipy.fft
from scipy.ndimage import gaussian_filter

from tem_pipeline.micrographs.modes import MODES, Mode
from tem_pipeline.simulation.parameters import Range, finite, positive, require, require_range

# Electrons of 200 kV: wavelength (nm) and interaction constant (rad V⁻¹ nm⁻¹); Kirkland, Advanced Computing
# in Electron Microscopy, ch. 2 and 5.
WAVELENGTH_NM = 2.508e-3
INTERACTION = 7.29e-3
# Mean inner potentials (V) of platinum, silica and amorphous carbon: published values, rounded.
CORE_POTENTIAL_V, SHELL_POTENTIAL_V, FILM_POTENTIAL_V = 25.0, 10.0, 9.0
# HAADF signal per nm of thickness, Σ n Z^1.7 with n in atoms per nm³: Pt (Z 78, 66.2 nm⁻³), SiO2 (22.0
# formula units nm⁻³), amorphous carbon (Z 6, 100 nm⁻³); relative to platinum.
CORE_HAADF, SHELL_HAADF, FILM_HAADF = (
    signal / (66.2 * 78**1.7) for signal in (66.2 * 78**1.7, 22.0 * (14**1.7 + 2 * 8**1.7), 100 * 6**1.7)
)


@dataclass(frozen=True)
class Imaging:
    """How the microscope records the specimen. Each image draws a value from each range; (x, x) fixes it.

    Attributes
    ----------
    mode : {"bright_field", "haadf"}
    dose : float
        Electrons per pixel, averaged over the image. In bright field: electrons of the beam. In HAADF:
        electrons that 1 nm of metal on twice the mean support scatters onto the detector. It is per pixel,
        not per nm², because operators set the brightness for the camera.
    core_attenuation, shell_attenuation, film_attenuation : (float, float) or float
        Effective mass-thickness coefficients μ in exp(−μ t), nm⁻¹, for a small objective aperture.
    orientation : (float, float)
        Range of the factor on each core's contrast: diffraction contrast depends on its orientation.
    film_nm : (float, float)
        Thickness of the amorphous support.
    grain_nm : (float, float)
        Standard deviation of the support's thickness at a correlation length of `grain_length_nm`.
    grain_length_nm : float
    relief_nm : (float, float)
        Standard deviation of the support's slow undulation, correlation length `relief_length_nm`.
    relief_length_nm : float
    defocus_nm : (float, float)
        Underfocus. It causes Fresnel fringes and the support's phase contrast. Bright field only.
    resolution_nm : (float, float)
        Standard deviation of the envelope (bright field) or of the probe (HAADF).
    uneven : (float, float)
        Peak-to-peak unevenness of the illumination, as a natural logarithm.
    camera_blur_px : (float, float)
        Standard deviation of the camera's point spread.
    gain : float
        Counts per electron; lowered if the camera would saturate.
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
        require(self.mode in MODES, f"mode {self.mode!r} is unknown: use one of {', '.join(MODES)}")
        require(
            positive(self.dose) and self.dose <= 1e9,
            f"dose {self.dose}: give electrons per pixel, above 0 and at most 1e9",
        )
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, tuple):
                require_range(field.name, value, -1e4 if field.name == "defocus_nm" else 0, 1e4)
            elif field.name != "mode":
                require(finite(value) and value >= 0, f"{field.name} {value}: give a number from 0 upwards")


def _frequencies_squared(shape: tuple[int, int], pixel_size_nm: float, real: bool) -> np.ndarray:
    y = scipy.fft.fftfreq(shape[0], pixel_size_nm)[:, None]
    x = (scipy.fft.rfftfreq if real else scipy.fft.fftfreq)(shape[1], pixel_size_nm)[None]
    return (y**2 + x**2).astype(np.float32)


def _film(
    rng: np.random.Generator, shape: tuple[int, int], pixel_size_nm: float, imaging: Imaging
) -> np.ndarray:
    """Draw the support's thickness in nm: fine grain and slow relief, both with Gaussian autocorrelation."""
    q2 = _frequencies_squared(shape, pixel_size_nm, real=True)
    power = np.zeros_like(q2)
    for sd, length in (
        (rng.uniform(*imaging.grain_nm), imaging.grain_length_nm),
        (rng.uniform(*imaging.relief_nm), imaging.relief_length_nm),
    ):
        # Spectral density of an isotropic field whose autocorrelation is exp(−r²/(2 l²)).
        power += sd**2 * 2 * math.pi * length**2 * np.exp(-2 * math.pi**2 * length**2 * q2)
    noise = scipy.fft.rfft2(rng.standard_normal(shape, dtype=np.float32))
    noise *= np.sqrt(power) / pixel_size_nm
    film = scipy.fft.irfft2(noise, s=shape) + rng.uniform(*imaging.film_nm)
    return np.maximum(film, 0)


def _illumination(rng: np.random.Generator, shape: tuple[int, int], uneven: float) -> np.ndarray:
    """Draw a smooth beam with random tilt and centre, mean 1 and `uneven` peak to peak in its logarithm."""
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
    """Simulate the image of a specimen of given projected thickness.

    Bright field: the transmission function exp(−μ t / 2 + i σ V t) of metal, silica and support passes the
    objective lens, exp(−i π λ Δf q²) with a Gaussian envelope; the squared modulus shows mass-thickness
    contrast, Fresnel fringes and the support's granularity. HAADF: Σ n Z^1.7 t blurred by the probe. Both:
    uneven illumination, electron counting, the camera's point spread, readout noise.

    Parameters
    ----------
    rng : Generator
    core_nm, shell_nm : ndarray, (height, width), float32
        From `project_thickness`.
    pixel_size_nm : float
    imaging : Imaging, optional
    margin_px : int
        Width of the surroundings on each side, cut off at the end. They are needed because the lens equation
        is periodic.

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
