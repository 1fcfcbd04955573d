"""Small particle tables with their provenance, as a session would have them."""

import numpy as np
import pandas as pd

from tem_pipeline.particles.measurement import measure_particles


def discs(diameters: list[float], pitch: int = 40) -> np.ndarray:
    """A row of discs, numbered from 1; the first does not touch the frame."""
    labels = np.zeros((pitch, pitch * len(diameters)), np.uint16)
    y, x = np.indices(labels.shape)
    for i, diameter in enumerate(diameters):
        labels[np.hypot(y - pitch / 2 - 0.3, x - pitch * (i + 0.5) - 0.2) <= diameter / 2] = i + 1
    return labels


def particle_table(
    labels: np.ndarray,
    image_id: str = "image_0",
    pixel_size_nm: float | None = 0.1,
    image_quality: str = "good",
    session_id: str = "20261122",
    field_id: str | None = None,
    shell_labels: np.ndarray | None = None,
) -> pd.DataFrame:
    table = measure_particles(
        labels,
        np.full(labels.shape, 100.0),
        np.full(labels.shape, 0.9),
        pixel_size_nm,
        shell_labels=shell_labels,
    )
    provenance = {
        "particle_id": [f"{session_id}/{image_id}/{label}" for label in table.label],
        "session_id": session_id,
        "session_name": session_id,
        "sample_id": "Pt-3",
        "image_id": image_id,
        "field_id": field_id or image_id,
        "file": f"{image_id}.dm4",
        "file_sha256": "0" * 64,
        "pixel_sha256": "1" * 64,
        "mode": "bright_field",
        "pixel_size_nm": np.nan if pixel_size_nm is None else pixel_size_nm,
        "calibration": "missing" if pixel_size_nm is None else "metadata",
        "calibration_uncertainty": 0.02,
        "model_name": "tem_segmentation",
        "model_version": "3",
        "loss": "dice",
        "code_version": "0.1.0",
        "image_quality": image_quality,
        "metal": None,
    }
    return table.assign(**provenance)


def manifest_row(
    image_id: str,
    labels: np.ndarray,
    pixel_size_nm: float | None = 0.1,
    status: str = "ok",
    field_id: str | None = None,
) -> dict:
    return {
        "image_id": image_id,
        "field_id": field_id or image_id,
        "status": status,
        "calibration": "missing" if pixel_size_nm is None else "metadata",
        "height_px": labels.shape[0],
        "width_px": labels.shape[1],
        "pixel_size_y_nm": pixel_size_nm,
        "pixel_size_x_nm": pixel_size_nm,
    }
