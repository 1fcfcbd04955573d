"""Finds the horizontal runs of every particle and reduces them to area, position and second moments.

A run is a row's stretch of neighbouring pixels with the same label. A particle has a few runs per row, so
everything that follows costs far less than the pixels would.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

_STRIP_PX = 2**21


class Runs(NamedTuple):
    """Runs of labelled pixels: columns start … stop − 1 of a row."""

    row: np.ndarray
    start: np.ndarray
    stop: np.ndarray
    label: np.ndarray


class RunsByParticle(NamedTuple):
    """Runs sorted by label, each particle's in raster order.

    Attributes
    ----------
    runs : Runs
    order : ndarray, (n_runs,)
        Index of each run among the unsorted ones.
    first : ndarray, (n_particles,)
        Index of each particle's first run.
    particle : ndarray, (n_runs,)
        Index of each run's particle.
    """

    runs: Runs
    order: np.ndarray
    first: np.ndarray
    particle: np.ndarray


def strips(shape: tuple[int, ...]) -> Iterator[tuple[int, int]]:
    """Cut an image into strips of whole rows, which bounds the memory; give first row and row after the last.

    Parameters
    ----------
    shape : (int, int)
    """
    rows = max(1, _STRIP_PX // max(1, shape[1]))
    for top in range(0, shape[0], rows):
        yield top, min(top + rows, shape[0])


def reduce_groups(operation: np.ufunc, values: np.ndarray, first: np.ndarray) -> np.ndarray:
    """Reduce groups of consecutive values.

    Parameters
    ----------
    operation : ufunc
        Such as `np.add`.
    values : ndarray, (n,)
    first : ndarray of int, (n_groups,)
        Index at which each group begins.

    Returns
    -------
    ndarray, (n_groups,)
    """
    return operation.reduceat(values, first) if len(first) else values[:0]


def find_runs(labels: np.ndarray) -> Runs:
    """Find the runs of a label image in raster order.

    Parameters
    ----------
    labels : ndarray of int, (height, width)
        0 is background.
    """
    found: list[Runs] = []
    width = labels.shape[1]
    for top, bottom in strips(labels.shape) if width else ():
        block = np.zeros((bottom - top, width + 2), dtype=labels.dtype)
        block[:, 1:-1] = labels[top:bottom]
        row, column = np.nonzero(block[:, 1:] != block[:, :-1])
        left, right = block[row, column], block[row, column + 1]
        starts, stops = right != 0, left != 0
        found.append(Runs(row[starts] + top, column[starts], column[stops], right[starts]))
    if not found:
        empty = np.zeros(0, dtype=np.int64)
        return Runs(empty, empty, empty, labels.ravel()[:0])
    return Runs(*(np.concatenate(columns) for columns in zip(*found, strict=True)))


def group_by_particle(raster: Runs) -> RunsByParticle:
    """Sort runs by label."""
    _, index = np.unique(raster.label, return_inverse=True)
    order = np.argsort(index, kind="stable")
    particle = index[order]
    first = np.flatnonzero(np.diff(particle, prepend=-1))
    return RunsByParticle(Runs(*(column[order] for column in raster)), order, first, particle)


def positions_and_moments(grouped: RunsByParticle) -> dict[str, np.ndarray]:
    """Compute label, area, centroid, eccentricity, orientation and bounding box of every particle.

    Returns
    -------
    dict of ndarray, (n_particles,)
        By their names in `tables.PARTICLE_SCHEMA`, in ascending order of the label.
    """
    runs, first = grouped.runs, grouped.first
    top = reduce_groups(np.minimum, runs.row, first)
    bottom = reduce_groups(np.maximum, runs.row, first) + 1
    left = reduce_groups(np.minimum, runs.start, first)
    right = reduce_groups(np.maximum, runs.stop, first)
    return {
        "label": runs.label[first].astype(np.int64),
        **_moments(runs, first, (top + bottom) // 2, (left + right) // 2),
        "bbox_top_px": top,
        "bbox_left_px": left,
        "bbox_bottom_px": bottom,
        "bbox_right_px": right,
    }


def _moments(
    runs: Runs, first: np.ndarray, reference_y: np.ndarray, reference_x: np.ndarray
) -> dict[str, np.ndarray]:
    """Compute area, centroid, eccentricity and orientation.

    All sums are exact integers, taken about the middle of the bounding box so that they stay small.
    """
    counts = np.diff(np.append(first, len(runs.row)))
    y = runs.row - np.repeat(reference_y, counts)
    a = runs.start - np.repeat(reference_x, counts)
    b = runs.stop - np.repeat(reference_x, counts)
    n = b - a
    sum_x = n * (a + b - 1) // 2
    # The sum of the squares of a … b − 1 is a difference of two square pyramidal numbers.
    sum_xx = ((b - 1) * b * (2 * b - 1) - (a - 1) * a * (2 * a - 1)) // 6
    area = reduce_groups(np.add, n, first)
    mean_y = reduce_groups(np.add, n * y, first) / area
    mean_x = reduce_groups(np.add, sum_x, first) / area
    yy = np.maximum(reduce_groups(np.add, n * y * y, first) / area - mean_y**2, 0)
    xx = np.maximum(reduce_groups(np.add, sum_xx, first) / area - mean_x**2, 0)
    xy = reduce_groups(np.add, sum_x * y, first) / area - mean_y * mean_x

    half_sum, half_difference = (yy + xx) / 2, np.hypot((yy - xx) / 2, xy)
    major = half_sum + half_difference
    minor = np.maximum(half_sum - half_difference, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        eccentricity = np.where(major > 0, np.sqrt(1 - minor / major), 0.0)
    orientation = np.where(
        yy == xx, np.where(xy > 0, np.pi / 4, -np.pi / 4), 0.5 * np.arctan2(2 * xy, yy - xx)
    )
    return {
        "area_px": area,
        "centroid_y_px": mean_y + reference_y,
        "centroid_x_px": mean_x + reference_x,
        "eccentricity": eccentricity,
        "orientation_rad": orientation,
    }
