"""Times measurement, splitting of touching particles, and statistics for 10,000 particles."""

from functools import lru_cache

import numpy as np
import pandas as pd
from skimage.measure import regionprops_table

from benchmarks.measurements import Measurement, compared, repeated
from tem_pipeline.particles.distributions import size_distributions
from tem_pipeline.particles.measurement import measure_particles
from tem_pipeline.segmentation.instances import label_instances
from tem_pipeline.segmentation.touching import split_touching
from tem_pipeline_tests.particles.shapes import particle_sheet

PIXEL_SIZE_NM = 0.1
PROPERTIES = (
    *("label", "area", "bbox", "centroid", "equivalent_diameter_area", "perimeter_crofton"),
    *("feret_diameter_max", "solidity", "eccentricity", "orientation", "intensity_mean", "intensity_min"),
)
"""The columns of the particle table that scikit-image can compute."""


@lru_cache(maxsize=1)
def sheet() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Give cores, whole particles, image and core probability of 10,000 particles on 4096 × 4096 px."""
    cores, shells = particle_sheet(4096)
    rng = np.random.default_rng(0)
    image = (rng.normal(1000, 100, cores.shape) - 300 * (cores > 0)).astype(np.uint16)
    probability = np.where(cores > 0, 230, 20).astype(np.uint8)
    return cores, shells, image, probability


def measuring_ten_thousand_particles() -> list[Measurement]:
    """Measuring 10,000 particles on 4096 × 4096 px."""
    cores, shells, image, probability = sheet()
    with_shells = compared(
        "all columns, core–shell included",
        lambda: measure_particles(cores, image, probability, PIXEL_SIZE_NM, shell_labels=shells),
        "regionprops_table, the columns that it has",
        lambda: regionprops_table(cores, image, properties=PROPERTIES),
        5,
        at_least=5,
    )
    bare = repeated(
        "all columns, of particles without shells",
        lambda: measure_particles(cores, image, probability, PIXEL_SIZE_NM),
        5,
    )
    return [with_shells, bare]


def splitting_touching_particles() -> list[Measurement]:
    """Cutting touching particles apart."""
    cores = sheet()[0]
    measured = []
    for size in (1024, 2048, 4096):
        labels = label_instances(cores[:size, :size] > 0, 20)
        particles, split = split_touching(labels)
        what = f"{size} × {size} px, {int(particles.max())} particles, {len(split)} of them cut apart"
        measured.append(repeated(what, lambda labels=labels: split_touching(labels), 5))
    first, last = measured[0], measured[-1]
    growth = last.value / first.value / 16
    return [*measured, Measurement("time per pixel at 4096² over that at 1024²", growth, "×")]


def statistics_of_ten_thousand_particles() -> list[Measurement]:
    """Statistics, intervals and fits of 10,000 particles in 20 fields."""
    cores, shells, _, _ = sheet()
    table = measure_particles(cores, pixel_size_nm=PIXEL_SIZE_NM, shell_labels=shells)
    images = [f"image_{i:02d}" for i in range(20)]
    of_particle = np.repeat(images, len(table) // 20)
    table = table.iloc[: len(of_particle)].assign(image_id=of_particle, field_id=of_particle)
    manifest = pd.DataFrame(
        {
            "image_id": images,
            "field_id": images,
            "status": "ok",
            "calibration": "metadata",
            "height_px": 916,
            "width_px": 916,
            "pixel_size_y_nm": PIXEL_SIZE_NM,
            "pixel_size_x_nm": PIXEL_SIZE_NM,
            "calibration_uncertainty": 0.02,
            "metal": "Pt",
        }
    )
    quality = pd.DataFrame({"image_id": images, "image_quality": "good", "model_diameter_error": 0.01})
    return [
        repeated(
            "size_distributions of a session, 7 measurands",
            lambda: size_distributions(table, manifest, quality, "session", "sample"),
            5,
            limit=2,
        )
    ]
