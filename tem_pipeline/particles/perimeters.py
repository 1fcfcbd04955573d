"""Perimeters of all particles of a label image by Crofton's formula in four directions."""

import numpy as np

from tem_pipeline.particles.runs import strips

# Weights of the 16 configurations of a 2 × 2 neighbourhood in Crofton's formula with four directions.
# The bits of a configuration: 1 here, 2 above, 4 to the left, 8 above left.
_S = np.sqrt(2)
_WEIGHTS = (np.pi / 4) * np.array(
    [0, 1 + 1 / _S, 1 / _S, _S, 0, 1 + 1 / _S, 0, 1 / _S, 1, 2, 1 / _S, 1 / _S, 1, 2, 0, 0]
)


def crofton_perimeters(labels: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Sum the weights of the 2 × 2 neighbourhoods of each particle, in one pass over the image.

    Uniform neighbourhoods have the weight 0 and are skipped.

    Parameters
    ----------
    labels : ndarray of int, (height, width)
    values : ndarray of int, (n,)
        All labels in ascending order.

    Returns
    -------
    ndarray of float64, (n,)
        In px; equal to `skimage.measure.perimeter_crofton` of each particle on its own.
    """
    height, width = labels.shape
    total = np.zeros(len(values))
    if not len(values):
        return total
    for top, bottom in strips((height + 1, width)):
        block = np.zeros((bottom - top + 1, width + 2), dtype=labels.dtype)
        source = labels[max(top - 1, 0) : min(bottom, height)]
        offset = 1 if top == 0 else 0
        block[offset : offset + len(source), 1:-1] = source
        here, above, left, above_left = block[1:, 1:], block[:-1, 1:], block[1:, :-1], block[:-1, :-1]
        mixed = (here != above) | (here != left) | (here != above_left)
        corners = [corner[mixed] for corner in (here, above, left, above_left)]
        for k, corner in enumerate(corners):
            # A label that several corners hold is counted once.
            owned = corner != 0
            for earlier in corners[:k]:
                owned &= earlier != corner
            configuration = np.zeros(len(corner), dtype=np.uint8)
            for bit, other in enumerate(corners):
                configuration |= (other == corner) << np.uint8(bit)
            total += np.bincount(
                np.searchsorted(values, corner[owned]),
                weights=_WEIGHTS[configuration[owned]],
                minlength=len(values),
            )
    return total
