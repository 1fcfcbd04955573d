"""The frame of an image: which labelled objects it cuts."""

import numpy as np


def labels_on_frame(labels: np.ndarray) -> np.ndarray:
    """Give the labels that have a pixel on the frame, the outermost rows and columns.

    Parameters
    ----------
    labels : ndarray of int, (height, width)
        Label image, 0 background.

    Returns
    -------
    ndarray of int64, (n,)
        Sorted, without the background.
    """
    on_frame = np.unique(np.concatenate((labels[0], labels[-1], labels[:, 0], labels[:, -1])))
    return on_frame[on_frame > 0].astype(np.int64)
