"""Contrast, fringes and noise of simulated images."""

import math
from dataclasses import replace

import numpy as np
import pytest

from tem_pipeline.simulation.imaging import Imaging, form_image
from tem_pipeline.simulation.projection import project_thickness
from tem_pipeline_tests.simulation.placements import one_particle, rng

EVEN = Imaging(
    dose=1e6,
    film_nm=(5, 5),
    grain_nm=(0, 0),
    relief_nm=(0, 0),
    uneven=(0, 0),
    defocus_nm=(0, 0),
    resolution_nm=(0, 0),
    camera_blur_px=(0, 0),
    core_attenuation=(0.15, 0.15),
    shell_attenuation=(0.02, 0.02),
    readout=0,
)


def test_in_focus_bright_field_follows_the_mass_thickness_law() -> None:
    core_nm, shell_nm = project_thickness(one_particle(2.0, 3.0), (128, 128), 0.1)
    image = form_image(rng(), core_nm, shell_nm, 0.1, EVEN).astype(float) - 100
    expected = np.exp(-0.15 * core_nm - 0.02 * shell_nm)
    expected *= image[:10].mean() / expected[:10].mean()
    assert np.abs(image / expected - 1).max() < 0.02


def test_haadf_follows_atomic_number_and_thickness() -> None:
    flat = np.zeros((64, 64), np.float32)
    imaging = replace(EVEN, mode="haadf", dose=1000)
    film, core, silica = (
        form_image(rng(), flat + metal, flat + glass, 0.1, imaging).astype(float).mean() - 100
        for metal, glass in ((0, 0), (1, 0), (0, 1))
    )
    # 22.0 (14^1.7 + 2·8^1.7) over 66.2·78^1.7
    assert (silica - film) / (core - film) == pytest.approx(0.0317, rel=0.02)


def test_underfocus_gives_a_bright_outer_fringe_and_overfocus_a_dark_one() -> None:
    core_nm, shell_nm = project_thickness(one_particle(4.0, 0.0), (256, 256), 0.04)
    y, x = np.indices(core_nm.shape)
    radius_nm = np.hypot(y + 0.5 - 125, x + 0.5 - 125) * 0.04
    outside = (radius_nm > 2.05) & (radius_nm < 2.35)
    far = radius_nm > 4

    def fringe(defocus_nm: float) -> float:
        imaging = replace(EVEN, defocus_nm=(defocus_nm, defocus_nm), resolution_nm=(0.06, 0.06))
        image = form_image(rng(), core_nm, shell_nm, 0.04, imaging).astype(float) - 100
        return float(image[outside].mean() / np.median(image[far]))

    assert fringe(50) > 1.02
    assert fringe(-50) < 0.98


def test_noise_falls_with_the_root_of_the_dose() -> None:
    flat = np.zeros((200, 200), np.float32)

    def noise(dose: float) -> float:
        image = form_image(rng(), flat, flat, 0.1, replace(EVEN, dose=dose)).astype(float) - 100
        return float(image.std() / image.mean())

    assert noise(25) == pytest.approx(1 / math.sqrt(25 * math.exp(-0.012 * 5)), rel=0.05)
    assert noise(25) / noise(400) == pytest.approx(4, rel=0.05)
