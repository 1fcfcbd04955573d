"""Networks to test with: their answer for a tile follows from a formula."""

import numpy as np

from tem_pipeline.segmentation.models import ModelCard

CARD = ModelCard(
    name="tem_segmentation",
    version="7",
    loss="dice",
    network="ds_unet",
    base_width=16,
    classes=("background", "core"),
    weights="abc",
    training_images=("aa",),
)


def threshold(tile: np.ndarray) -> np.ndarray:
    """Predict each pixel from that pixel alone, so that only the tiling can make a seam."""
    core = 1 / (1 + np.exp(-4 * (-tile - 1)))
    return np.stack([1 - core, core], axis=-1).astype(np.float32)
