"""Tells touching particles from concave ones by the width of the neck between them, and cuts clusters apart.

Numbering connected particles is left to `instances`.
"""

from collections.abc import Iterator

import numpy as np
import skimage
from scipy import ndimage

from tem_pipeline.segmentation.instances import row_strips

# A neck up to this share of the smaller lobe's diameter is a contact of two particles.
NECK_RATIO = 0.7

# Along thinner walls and rods, what a pixel does to the width already looks like a neck; twice that where
# the mask isn't refined.
SMALLEST_LOBE_PX = 8.0

# Necks of small particles are narrower than a pixel can tell, so the mask is refined before it is measured:
# each pixel into 3 × 3, smoothed by half a pixel, cut at one half.
_REFINEMENT = 3
_SMOOTHING_PX = 0.5
# Where the widest inscribed circle is larger, a pixel's error of the neck no longer matters.
_REFINED_UP_TO_PX = 48
# Boxes above these numbers of refined pixels are measured at the image's own, or left whole.
_LARGEST_REFINED = 2**22
_LARGEST_BOX = 2**22

# What the refined distance map makes of known discs from 12 to 40 px across: inscribed diameters come out
# 1.0 px short, necks 0.5 px wide (pixels don't reach into the tip of a notch).
_LOBE_CORRECTION_PX = 1.0
_NECK_CORRECTION_PX = 0.5

# Holes up to this share of the inscribed circle are flaws of the mask, not gaps between particles.
_FLAW = 0.1

_STRIP_PX = 2**20


def split_touching(labels: np.ndarray, minimum_diameter_px: float = 5.0) -> tuple[np.ndarray, np.ndarray]:
    """Cut clusters of touching particles apart; concave single particles stay whole.

    The distance map of each particle that isn't convex is flooded from its maxima (watershed). Two lobes that
    meet are two particles when the neck between them, twice the distance map's largest value on the line
    where they meet, is at most `NECK_RATIO` of the smaller lobe's largest inscribed diameter, and each is
    `minimum_diameter_px` across; else they are one. Lobes are joined over the widest necks first, so the rule
    is that of h-maxima (Soille, *Morphological Image Analysis*, 2003, ch. 6), with h not a constant
    but a share of the lobe. Up to lobes of about 12 px the neck is within the error of a pixel.

    Parameters
    ----------
    labels : ndarray of int, (height, width)
        0 background, 1 … n connected particles, as of `instances.label_instances`.
    minimum_diameter_px : float
        Lobes of a smaller inscribed diameter, or of one under `SMALLEST_LOBE_PX`, are no particles of their
        own.

    Returns
    -------
    labels : ndarray, (height, width), uint16 or uint32
        0 background, 1 … n in the order of the particles they came from. `labels` itself is left as it is.
    split : ndarray of int64, (k,)
        Numbers of the particles that came out of a cluster.

        Time is linear in pixels; beside the result the memory is that of one cluster. Clusters whose
        bounding box has more than 4 million pixels are left whole: networks and films.
    """
    result = labels.astype(np.uint32)
    boxes = ndimage.find_objects(labels) if labels.size else []
    following = len(boxes)
    origin = list(range(following + 1))
    convex = _are_convex(labels, following)
    for number, box in enumerate(boxes, start=1):
        if box is None or convex[number]:
            continue
        mask = labels[box] == number
        framed = [(part.start == 0, part.stop == side) for part, side in zip(box, labels.shape, strict=True)]
        lobes = _lobes(mask, framed, minimum_diameter_px)
        if lobes is None:
            continue
        later = lobes > 1
        result[box][later] = lobes[later] + (following - 1)
        following += int(lobes.max()) - 1
        origin += [number] * (following + 1 - len(origin))
    source = np.array(origin, dtype=np.int64)
    order = np.argsort(source, kind="stable")
    renumbered = np.empty_like(source)
    renumbered[order] = np.arange(len(source))
    pieces = np.bincount(source, minlength=1)
    split = np.sort(renumbered[pieces[source] > 1])
    kind = np.uint16 if following < 2**16 else np.uint32
    for strip in row_strips(result):
        strip[:] = renumbered[strip]
    return result.astype(kind), split


def _are_convex(labels: np.ndarray, count: int) -> np.ndarray:
    """Tell whether rows, columns and diagonals meet a particle once, as they do a digitised convex one.

    A connected particle lies on every line between its outermost ones, so it is entered once a line or more.

    Returns
    -------
    ndarray of bool, (count + 1,)
    """
    height, width = labels.shape
    entries = np.zeros((4, count + 1), dtype=np.int64)
    low = np.full((4, count + 1), height + width, dtype=np.int64)
    high = np.full((4, count + 1), -height - width, dtype=np.int64)
    rows = max(1, _STRIP_PX // max(1, width))
    for top in range(0, height if count else 0, rows):
        strip = labels[top : top + rows]
        framed = np.zeros((len(strip) + 1, width + 2), dtype=labels.dtype)
        framed[1:, 1:-1] = strip
        if top:
            framed[0, 1:-1] = labels[top - 1]
        here = framed[1:, 1:-1]
        for k, before in enumerate((framed[1:, :-2], framed[:-1, 1:-1], framed[:-1, :-2], framed[:-1, 2:])):
            entered = np.flatnonzero((here != before) & (here > 0))
            entries[k] += np.bincount(strip.ravel()[entered], minlength=count + 1)
        # The outermost lines go through first and last pixels of rows.
        for outer, beyond in ((here, framed[1:, :-2]), (here, framed[1:, 2:])):
            y, x = np.nonzero((outer != beyond) & (outer > 0))
            number = strip[y, x]
            y += top
            for k, line in enumerate((y, x, x - y, x + y)):
                np.minimum.at(low[k], number, line)
                np.maximum.at(high[k], number, line)
    return np.all(entries <= high - low + 1, axis=0)


def _lobes(
    mask: np.ndarray, framed: list[tuple[bool, bool]], minimum_diameter_px: float
) -> np.ndarray | None:
    """Number the particles of one connected region 1 … k; None where it is a single one."""
    if mask.size > _LARGEST_BOX:
        return None
    # The frame is no rim: a region that it cuts goes on as wide as it is there.
    beyond = min(mask.shape) // 2
    margin = [(beyond * low, beyond * high) for low, high in framed]
    filled = np.pad(np.pad(ndimage.binary_fill_holes(mask), margin, mode="edge"), 1)
    radius = float(ndimage.distance_transform_edt(filled).max())
    filled = np.pad(np.pad(_without_flaws(mask, radius), margin, mode="edge"), 1)
    refine = 2 * radius < _REFINED_UP_TO_PX and mask.size * _REFINEMENT**2 <= _LARGEST_REFINED
    scale = _REFINEMENT if refine else 1
    fine = filled.repeat(scale, axis=0).repeat(scale, axis=1)
    smooth = ndimage.gaussian_filter(fine.astype(np.float32), _SMOOTHING_PX * scale) > 0.5
    distance = ndimage.distance_transform_edt(smooth).astype(np.float32) / scale
    basins = skimage.segmentation.watershed(-distance, mask=fine)
    smallest_px = max(minimum_diameter_px, SMALLEST_LOBE_PX * (1 if refine else 2))
    owner = _join(distance - 0.5 / scale, basins, smallest_px)
    top, left = (scale * (1 + low) + scale // 2 for low, _ in margin)
    seen = basins[top::scale, left::scale][: mask.shape[0], : mask.shape[1]]
    lobes = np.where(mask, owner[seen], 0)
    # A lobe may lie beyond the frame altogether.
    _, numbers = np.unique(lobes[mask], return_inverse=True)
    lobes[mask] = numbers + 1
    return lobes if lobes.max() > 1 else None


def _without_flaws(mask: np.ndarray, radius: float) -> np.ndarray:
    """Fill the holes that are small against the inscribed circle."""
    holes, count = ndimage.label(ndimage.binary_fill_holes(mask) & ~mask)
    small = np.bincount(holes.ravel(), minlength=count + 1) <= _FLAW * np.pi * radius**2
    return mask | (small[holes] & (holes > 0))


def _join(distance: np.ndarray, basins: np.ndarray, smallest_px: float) -> np.ndarray:
    """Join basins that belong to one particle, over the widest necks first.

    Returns
    -------
    ndarray of int
        The particle, 1 … k, of each basin; 0 of the background.
    """
    count = int(basins.max())
    peak = np.zeros(count + 1, dtype=distance.dtype)
    np.maximum.at(peak, basins.ravel(), distance.ravel())
    parent = list(range(count + 1))

    def root(basin: int) -> int:
        while parent[basin] != basin:
            parent[basin] = parent[parent[basin]]
            basin = parent[basin]
        return basin

    for first, second, saddle in _saddles(distance, basins):
        one, other = root(first), root(second)
        if one == other:
            continue
        smaller, larger = (one, other) if peak[one] <= peak[other] else (other, one)
        lobe_px = 2 * peak[smaller] + _LOBE_CORRECTION_PX
        neck_px = 2 * saddle - _NECK_CORRECTION_PX
        if neck_px > NECK_RATIO * lobe_px or lobe_px < smallest_px:
            parent[smaller] = larger
    roots = np.array([root(basin) for basin in range(count + 1)])
    kept = np.unique(roots)
    return np.searchsorted(kept, roots)


def _saddles(distance: np.ndarray, basins: np.ndarray) -> Iterator[tuple[int, int, float]]:
    """Yield pairs of neighbouring basins with the largest distance on the line between, largest first."""
    found: list[np.ndarray] = []
    for here, there in (
        (np.s_[:, :-1], np.s_[:, 1:]),
        (np.s_[:-1], np.s_[1:]),
    ):
        a, b = basins[here], basins[there]
        meet = (a != b) & (a > 0) & (b > 0)
        low, high = np.minimum(a[meet], b[meet]), np.maximum(a[meet], b[meet])
        found.append(np.column_stack((low, high, np.minimum(distance[here][meet], distance[there][meet]))))
    pairs = np.concatenate(found)
    pairs = pairs[np.argsort(-pairs[:, 2], kind="stable")]
    _, first = np.unique(pairs[:, :2], axis=0, return_index=True)
    for low, high, saddle in pairs[np.sort(first)]:
        yield int(low), int(high), float(saddle)
