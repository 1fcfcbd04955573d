"""Splits annotated images by source micrograph, so that no micrograph is in two parts of the split.

Sources are named in dataset.yaml. For images without a named source, overlapping crops are found by comparing
pixels. Crops of one micrograph that do not overlap cannot be found, so their source must be named.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, permutations
from math import ceil, prod

import numpy as np
from scipy import fft
from scipy.ndimage import gaussian_filter
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from tem_pipeline.errors import UserError

PARTS = ("training", "validation", "test")
FRACTIONS = (0.64, 0.16, 0.20)
"""Share of the images in each part."""

MIN_SIGNIFICANCE = 9.0
"""Crops overlap if their correlation exceeds this many standard deviations between unrelated images.

Among the 20 crops of the reference set, overlapping pairs reach 15 to 40 and all other pairs at most 6.0 (the
largest value over all shifts).
"""

_MIN_BLOCK_SIGNIFICANCE = 2.5
_MIN_OVERLAP = 0.03  # of the smaller image's area
_STARTS = 300  # for up to 7 sources, brute force found no better split than this many starts
_PEAKS = 4  # burnt-in text may correlate better than the crops do


@dataclass(frozen=True)
class Overlap:
    """Two images that show a common area.

    Attributes
    ----------
    first, second : int
        Positions of the images, first < second.
    shift_px : (int, int)
        Row and column of the first image at the second image's top left corner, to about 2 px for images of
        512 px.
    correlation : float
        Normalised correlation of the band-passed images over the common area.
    significance : float
        The correlation in units of its standard deviation between unrelated images.
    """

    first: int
    second: int
    shift_px: tuple[int, int]
    correlation: float
    significance: float


def find_overlaps(images: Sequence[np.ndarray], known_apart: np.ndarray | None = None) -> list[Overlap]:
    """Find the pairs of images that show a common area, at any shift and exposure.

    Images are band-passed (2 to 8 px for images of 512 px), which removes exposure, illumination and most of
    the noise, and then correlated over all shifts. The correlation is divided by its standard deviation
    between unrelated images with the same autocorrelations (Bartlett), so that unrelated images of similar
    particles or lattices do not match. It must come from the whole common area, so that equal scale bars or
    texts do not match. Turned, mirrored or rescaled copies are not found.

    Parameters
    ----------
    images : sequence of ndarray, (height, width)
        Any sizes, same scale.
    known_apart : ndarray of bool, (n, n), optional
        Pairs that need no comparison.

    Returns
    -------
    list of Overlap

    References
    ----------
    M. S. Bartlett, "Some aspects of the time-correlation problem in regard to tests of significance",
    J. R. Stat. Soc. 98 (1935) 536, for the variance of a correlation of two autocorrelated series.
    """
    pairs = [
        pair for pair in combinations(range(len(images)), 2) if known_apart is None or not known_apart[pair]
    ]
    if not pairs:
        return []
    needed = sorted({i for pair in pairs for i in pair})
    binning = _binning([images[i].shape for i in needed])
    small = {i: _band_passed(images[i], binning) for i in needed}
    largest = [max(image.shape[axis] for image in small.values()) for axis in (0, 1)]
    padded = tuple(fft.next_fast_len(2 * size, real=True) for size in largest)
    spectra = {i: fft.rfft2(s, padded) for i, s in small.items()}
    # Sums of the products of autocorrelations: how many pixels count as one independent pixel.
    powers = np.stack([_power(spectra[i], padded[1]).ravel() / small[i].size for i in needed])
    dependences = powers @ powers.T / prod(padded)
    del powers
    place = {image: row for row, image in enumerate(needed)}
    conjugate = {i: np.conj(spectrum) for i, spectrum in spectra.items()}
    product = np.empty_like(spectra[needed[0]])
    weights: dict[tuple[tuple[int, ...], tuple[int, ...]], np.ndarray] = {}
    overlaps = []
    for i, j in pairs:
        dependence = float(dependences[place[i], place[j]])
        if dependence <= 0:  # one of them is blank
            continue
        dependence = max(1.0, dependence)
        shapes = (small[i].shape, small[j].shape)
        if shapes not in weights:
            weights[shapes] = 1 / np.sqrt(_common_areas(*shapes, padded))
        np.multiply(spectra[i], conjugate[j], out=product)
        significance = fft.irfft2(product, padded, overwrite_x=True)
        significance *= weights[shapes]
        significance /= np.float32(np.sqrt(dependence))
        for shift in _peaks(significance):
            found = _verify(small[i], small[j], shift, dependence)
            if found:
                row, column = (2 * binning * s for s in shift)
                overlaps.append(Overlap(i, j, (row, column), *found))
                break
    return overlaps


def source_groups(
    names: Sequence[str],
    images: Sequence[np.ndarray],
    sources: Sequence[str | None] | None = None,
    sets: Sequence[str] | None = None,
) -> list[str]:
    """Name the source micrograph of every image.

    Parameters
    ----------
    names : sequence of str
        Names of the images, all different.
    images : sequence of ndarray, (height, width)
    sources : sequence of str or None, optional
        The sources named in dataset.yaml. Equal names are one source. Two images of the same set with
        different named sources stay apart, even if they overlap.
    sets : sequence of str, optional
        The annotated set of every image; by default all are from one set.

    Returns
    -------
    list of str
        The named source, or else the first name among the images that overlap, directly or through others.
    """
    count = len(names)
    sources = list(sources) if sources is not None else [None] * count
    sets = list(sets) if sets is not None else [""] * count
    given = np.array([source is not None for source in sources], dtype=bool)
    set_numbers = np.unique(sets, return_inverse=True)[1] if count else np.zeros(0, dtype=int)
    known = given[:, None] & given[None, :] & (set_numbers[:, None] == set_numbers[None, :])
    links = [(o.first, o.second) for o in find_overlaps(images, known)]
    first_of: dict[str, int] = {}
    for index, source in enumerate(sources):
        if source is not None:
            links.append((first_of.setdefault(source, index), index))
    rows, columns = np.array(links, dtype=int).reshape(-1, 2).T
    graph = coo_array((np.ones(len(links)), (rows, columns)), shape=(count, count))
    component = connected_components(graph, directed=False)[1]
    taken = {source for source in sources if source is not None}
    label: dict[int, str] = {}
    for index in sorted(range(count), key=lambda i: (not given[i], i)):
        source = sources[index]
        if source is None:
            source = names[index]
            while source in taken:
                source += " (image)"
        if component[index] not in label:
            label[component[index]] = source
            taken.add(source)
    return [label[c] for c in component]


def split_sources(groups: Sequence[str], seed: int = 0) -> np.ndarray:
    """Assign images to training, validation and test, whole sources only.

    Parameters
    ----------
    groups : sequence of str
        The source micrograph of every image.
    seed : int
        The same seed gives the same split, in any order of the images.

    Returns
    -------
    ndarray of str, (n,)
        "training", "validation" or "test" for every image. The numbers of images are as close to
        `FRACTIONS` as whole sources allow. Every part has at least one source.

    Raises
    ------
    UserError
        If there are fewer sources than parts.
    """
    names, sizes = np.unique(np.asarray(groups, dtype=str), return_counts=True)
    if len(names) < len(PARTS):
        raise UserError(
            f"{len(names)} source micrograph(s) cannot be split into {', '.join(PARTS)}: annotate at least "
            f"{len(PARTS)}; if images of different micrographs were taken for one, name their sources "
            "under groups in dataset.yaml"
        )
    part_of_source = _assign(sizes, np.random.default_rng(seed))
    part_of = dict(zip(names.tolist(), part_of_source.tolist(), strict=True))
    return np.array([PARTS[part_of[str(group)]] for group in groups], dtype=f"<U{max(map(len, PARTS))}")


def _binning(shapes: Sequence[tuple[int, ...]]) -> int:
    """Choose a binning that keeps the smallest image at about 512 px and the largest below 2048 px."""
    smallest = min(min(shape) for shape in shapes)
    largest = max(max(shape) for shape in shapes)
    return max(1, round(smallest / 512), ceil(largest / 2048))


def _band_passed(image: np.ndarray, binning: int) -> np.ndarray:
    """Band-pass and halve the binned image; mean 0 and variance 1, or all 0 if the image is blank."""
    image = np.asarray(image, dtype=np.float32)
    if binning > 1:
        rows, columns = (max(1, n // binning) for n in image.shape)
        image = image[: rows * binning, : columns * binning]
        image = image.reshape(rows, image.shape[0] // rows, columns, -1).mean(axis=(1, 3))
    image = image - image.mean()
    band = (gaussian_filter(image, 2) - gaussian_filter(image, 8))[::2, ::2]
    if band.std() <= 1e-6 * max(1.0, float(np.abs(image).max())):
        return np.zeros_like(band)
    # Clip at two robust standard deviations, so that burnt-in text and hot pixels don't outweigh particles.
    band -= np.median(band)
    limit = 2 * (1.4826 * float(np.median(np.abs(band))) or float(band.std()))
    band = np.clip(band, -limit, limit)
    band -= band.mean()
    return band / band.std()


def _power(spectrum: np.ndarray, columns: int) -> np.ndarray:
    """Power of a real image's half spectrum, scaled so that a dot product sums over the whole spectrum."""
    power = np.abs(spectrum) ** 2
    power[:, 1 : (columns + 1) // 2] *= np.sqrt(np.float32(2))
    return power


def _common_areas(first: tuple[int, ...], second: tuple[int, ...], padded: tuple[int, ...]) -> np.ndarray:
    """Number of common pixels at each cyclic shift of the second image; infinite if there are too few."""
    rows, columns = (
        np.clip(np.minimum(a, b + shift) - np.maximum(0, shift), 0, None)
        for a, b, p in zip(first, second, padded, strict=True)
        for shift in [_signed(np.arange(p), a, p)]
    )
    area = np.outer(rows, columns).astype(np.float32)
    area[area < _MIN_OVERLAP * min(prod(first), prod(second))] = np.inf
    return area


def _signed(shift: np.ndarray, size: int, period: int) -> np.ndarray:
    """Cyclic shifts as signed ones: from 0 up to the first image's size, negative above."""
    return np.where(shift < size, shift, shift - period)


def _peaks(significance: np.ndarray) -> Iterator[tuple[int, int]]:
    """Yield the shifts of the highest peaks above the threshold, highest first."""
    rows, columns = significance.shape
    for _ in range(_PEAKS):
        row, column = divmod(int(significance.argmax()), columns)
        if significance[row, column] < MIN_SIGNIFICANCE:
            return
        yield row if row < rows / 2 else row - rows, column if column < columns / 2 else column - columns
        around = np.arange(-8, 9)
        significance[np.ix_((row + around) % rows, (column + around) % columns)] = 0


def _verify(
    first: np.ndarray, second: np.ndarray, shift: tuple[int, int], dependence: float
) -> tuple[float, float] | None:
    """Correlation and significance over the common area; None if most of its nine blocks do not correlate."""
    windows = []
    for image, other, sign in ((first, second, 1), (second, first, -1)):
        start = [max(0, sign * s) for s in shift]
        stop = [min(n, m + sign * s) for n, m, s in zip(image.shape, other.shape, shift, strict=True)]
        windows.append(image[start[0] : stop[0], start[1] : stop[1]])
    a, b = windows
    correlation = _correlation(a, b)
    significance = correlation * np.sqrt(a.size / dependence)
    across = int(np.clip(round(3 * np.sqrt(a.shape[0] / a.shape[1])), 1, 9))
    blocks = [
        _correlation(one, other) * np.sqrt(one.size / dependence)
        for rows_a, rows_b in zip(np.array_split(a, across), np.array_split(b, across), strict=True)
        for one, other in zip(
            np.array_split(rows_a, round(9 / across), axis=1),
            np.array_split(rows_b, round(9 / across), axis=1),
            strict=True,
        )
        if one.size
    ]
    if significance < MIN_SIGNIFICANCE or np.median(blocks) < _MIN_BLOCK_SIGNIFICANCE:
        return None
    return correlation, float(significance)


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a - a.mean(), b - b.mean()
    scale = float(np.sqrt(np.vdot(a, a) * np.vdot(b, b)))
    return float(np.vdot(a, b)) / scale if scale > 0 else 0.0


def _assign(sizes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Assign sources to parts: the best of several random starts, each improved by moves and exchanges."""
    target = np.array(FRACTIONS) * sizes.sum()
    # No split is closer to the fractions than one by single images. Whole sources mostly allow that, too.
    single = np.floor(target)
    single[np.argsort(single - target)[: round(target.sum() - single.sum())]] += 1
    nearest = float(np.sum((single - target) ** 2))
    best, best_error = np.zeros(len(sizes), dtype=int), np.inf
    for _ in range(_STARTS):
        part = np.empty(len(sizes), dtype=int)
        counts = np.zeros(len(PARTS))
        for place, source in enumerate(rng.permutation(len(sizes))):
            # The first sources go to one part each, so that no part stays empty.
            part[source] = place if place < len(PARTS) else np.argmax(target - counts)
            counts[part[source]] += sizes[source]
        while _improve(part, sizes, target):
            pass
        error = float(np.sum((np.bincount(part, sizes, len(PARTS)) - target) ** 2))
        if error < best_error - 1e-9:
            best, best_error = part, error
        if best_error <= nearest + 1e-9:
            break
    return best


def _improve(part: np.ndarray, sizes: np.ndarray, target: np.ndarray) -> bool:
    """Make the most useful move or exchange between two parts; return False if there is none."""
    surplus = np.bincount(part, sizes, len(target)) - target
    best_gain, best = 1e-9, None
    for p, q in permutations(range(len(PARTS)), 2):
        mine, theirs = np.flatnonzero(part == p), np.flatnonzero(part == q)
        # A size of 0 means that no source comes back, which is allowed if p keeps another source.
        back = np.append(sizes[theirs], 0) if len(mine) > 1 else sizes[theirs]
        moved = np.subtract.outer(sizes[mine], back)
        gain = 2 * moved * (surplus[p] - surplus[q] - moved)
        source, other = divmod(int(gain.argmax()), len(back))
        if gain[source, other] > best_gain:
            best_gain, best = gain[source, other], (mine[source], p, theirs, other, q)
    if best is None:
        return False
    source, p, theirs, other, q = best
    part[source] = q
    if other < len(theirs):
        part[theirs[other]] = p
    return True
