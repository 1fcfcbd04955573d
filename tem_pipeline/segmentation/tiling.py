"""Predicts images of any size with a network: in overlapping tiles, blended, with bounded memory."""

import math
from collections.abc import Callable, Iterator

import numpy as np

from tem_pipeline.segmentation.models import NETWORK_STRIDE_PX

# Larger tiles with less overlap compute fewer pixels twice; memory limits them (docs/history/performance.md).
TILE_PX = 736
TILE_OVERLAP_PX = 32


def predict_strips(
    predict_tile: Callable[[np.ndarray], np.ndarray],
    image: np.ndarray,
    tile_px: int = TILE_PX,
    overlap_px: int = TILE_OVERLAP_PX,
) -> Iterator[tuple[int, np.ndarray]]:
    """Predict class probabilities strip by strip, from overlapping tiles blended linearly.

    Memory is bounded by one strip of tiles; it does not depend on the image's height.

    Parameters
    ----------
    predict_tile : callable
        Maps (height, width) to (height, width, classes), for sides that are multiples of 16.
    image : ndarray, (height, width)
        Standardised micrograph of any size.
    tile_px, overlap_px : int
        Largest side of a tile and smallest overlap of neighbours, multiples of 16. The overlap is at most
        half the tile. Tiles are as small as their number allows.

    Yields
    ------
    first_row : int
    probabilities : ndarray, (rows, width, classes), float32
        Finished rows, from top to bottom.
    """
    height, width = image.shape
    overlap_px = min(overlap_px, tile_px // 2)
    tops, tile_height = _tile_starts(height, tile_px, overlap_px)
    lefts, tile_width = _tile_starts(width, tile_px, overlap_px)
    padded_width = max(width, lefts[-1] + tile_width)
    window_y = _blending_window(tile_height, overlap_px)
    window_x = _blending_window(tile_width, overlap_px)
    total = weight = None
    for index, top in enumerate(tops):
        for left in lefts:
            tile = image[top : top + tile_height, left : left + tile_width]
            missing = (tile_height - tile.shape[0], tile_width - tile.shape[1])
            if any(missing):
                # "symmetric" also works for images smaller than the padding.
                tile = np.pad(tile, ((0, missing[0]), (0, missing[1])), mode="symmetric")
            probability = predict_tile(tile)
            if total is None or weight is None:
                total = np.zeros((tile_height, padded_width, probability.shape[-1]), np.float32)
                weight = np.zeros((tile_height, padded_width, 1), np.float32)
            window = (window_y[:, None] * window_x)[..., None]
            total[:, left : left + tile_width] += probability * window
            weight[:, left : left + tile_width] += window
        assert total is not None
        assert weight is not None
        bottom = tops[index + 1] if index + 1 < len(tops) else height
        done = min(bottom, height) - top
        yield top, total[:done, :width] / weight[:done, :width]
        kept = tile_height - done
        total[:kept] = total[done:].copy()
        total[kept:] = 0
        weight[:kept] = weight[done:].copy()
        weight[kept:] = 0


def _tile_starts(length: int, tile_px: int, overlap_px: int) -> tuple[list[int], int]:
    """Give the first pixels of the tiles along one axis, and their side: few tiles first, then small ones."""
    padded = -(-length // NETWORK_STRIDE_PX) * NETWORK_STRIDE_PX
    if padded <= tile_px:
        return [0], padded
    number = -(-(padded - overlap_px) // (tile_px - overlap_px))
    shared = (padded + (number - 1) * overlap_px) / number
    side = math.ceil(shared / NETWORK_STRIDE_PX) * NETWORK_STRIDE_PX
    return [min(index * (side - overlap_px), padded - side) for index in range(number)], side


def _blending_window(tile_px: int, overlap_px: int) -> np.ndarray:
    """Weights that rise over the overlap, stay at 1 and fall; never 0, as corner pixels are covered once."""
    ramp = (np.arange(tile_px) + 0.5) / max(overlap_px, 1)
    return np.minimum(1, np.minimum(ramp, ramp[::-1])).astype(np.float32)
