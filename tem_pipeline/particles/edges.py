"""Edge correction: which particles the frame cuts, and the weights of the whole ones."""

import numpy as np


def touches_edge(
    top: np.ndarray, left: np.ndarray, bottom: np.ndarray, right: np.ndarray, shape: tuple[int, int]
) -> np.ndarray:
    """Tell which particles have a pixel on the frame of their image.

    Parameters
    ----------
    top, left, bottom, right : ndarray of int, (n,)
        Bounding boxes in px, half-open: rows top … bottom − 1, columns left … right − 1.
    shape : (int, int)
        Height and width of the image in px.

    Returns
    -------
    ndarray of bool, (n,)
    """
    height, width = shape
    return (top <= 0) | (left <= 0) | (bottom >= height) | (right >= width)


def edge_weights(
    height_px: np.ndarray, width_px: np.ndarray, touching: np.ndarray, shape: tuple[int, int]
) -> np.ndarray:
    """Weight whole particles by the inverse probability of not being cut by the frame.

    A particle of extents w × h is whole in a field W × H with the probability p = (W − w)(H − h) / (W·H), so
    small particles are counted too often. The weight is 1/p (Miles–Lantuéjoul correction: Miles, "On the
    elimination of edge effects in planar sampling", 1974; Lantuéjoul 1978).

    Parameters
    ----------
    height_px, width_px : ndarray, (n,)
        The particles' own extents.
    touching : ndarray of bool, (n,)
        Particles on the frame. They are never counted, so their weight is NaN (null in the table).
    shape : (int, int)
        Height and width of the field in px.

    Returns
    -------
    ndarray of float64, (n,)
        At least 1 for whole particles.
    """
    height, width = shape
    weights = np.full(len(touching), np.nan)
    whole = ~np.asarray(touching, dtype=bool)
    weights[whole] = (height * width) / (
        (height - np.asarray(height_px, dtype=float)[whole])
        * (width - np.asarray(width_px, dtype=float)[whole])
    )
    return weights
