"""Makes many training crops from few annotated images, and stores them as Parquet shards.

For each crop, image and mask are warped by the same affine map, then the image's intensities are changed. The
transform is stored with the crop. `splitting` decides which images are for training.
"""

import io
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import islice

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from scipy.ndimage import affine_transform, gaussian_filter, spline_filter

from tem_pipeline.annotation.datasets import AnnotatedImage
from tem_pipeline.annotation.pixels import (
    INTENSITY_LIMIT,
    decode_class_map,
    decode_image,
    encode_class_map,
    encode_image,
)
from tem_pipeline.errors import UserError
from tem_pipeline.storage import AnyPath, write_content
from tem_pipeline.tables import SHARD_SCHEMA, conform

MAX_SCALE = 1.33
FOREGROUND_SHARE = 0.5
"""Share of the crops that are placed on a particle; the others are placed at random."""

_ROWS_AT_ONCE = 32
_BORDER = "mirror"  # fills the part of a crop that is outside the image


@dataclass(frozen=True)
class Transform:
    """The steps that made a crop from an image, in this order.

    Attributes
    ----------
    shift_y_px, shift_x_px : float
        From the image's centre to the crop's centre, in pixels of the image.
    flip : bool
        Mirrored left to right, before turning.
    angle_deg : float
        Turned counter-clockwise, as seen with the first row on top.
    scale : float
        Enlarged by this factor.
    blur_px, noise_sd : float
        Standard deviations of Gaussian blur and of white noise; 0 for none.
    gamma : float
        Exponent of a tone curve between the crop's darkest and brightest value; 1 for none.
    gain, offset : float
        Intensities are multiplied by `gain`, then `offset` is added.
    """

    shift_y_px: float
    shift_x_px: float
    flip: bool
    angle_deg: float
    scale: float
    blur_px: float
    gamma: float
    gain: float
    offset: float
    noise_sd: float


@dataclass(frozen=True, eq=False)
class AugmentedRow:
    """One crop.

    Attributes
    ----------
    row : int
        Number of the crop. Seed and number decide all its random values.
    image : ndarray, (crop_px, crop_px), float32
    class_map : ndarray, (crop_px, crop_px), uint8
    source_image, source_sha256, group : str
        Name, pixel hash and source micrograph of the annotated image.
    transform : Transform
    """

    row: int
    image: np.ndarray = field(repr=False)
    class_map: np.ndarray = field(repr=False)
    source_image: str
    source_sha256: str
    group: str
    transform: Transform


def augment_images(
    images: Sequence[AnnotatedImage],
    count: int,
    crop_px: int,
    seed: int = 0,
    threads: int = 1,
) -> Iterator[AugmentedRow]:
    """Make crops of annotated images by flipping, turning, scaling, shifting and changing intensities.

    All images give the same number of rows, to within one. Rows of one image follow each other. Every row has
    its own random stream, from `seed` and its number. Crops stay inside the image if it is large enough for
    the turned crop; otherwise the image is continued by mirroring.

    Parameters
    ----------
    images : sequence of AnnotatedImage
        The training images of the split.
    count : int
        Number of rows.
    crop_px : int
        Side of the crops.
    seed : int
    threads : int
        Number of rows made at the same time. It changes neither the rows nor their order.

    Yields
    ------
    AugmentedRow

    Raises
    ------
    UserError
        If there are no images.
    """
    if not images and count:
        raise UserError("there is no training image to augment: annotate more images")
    if count < 0 or crop_px < 1:
        raise ValueError(f"count and crop_px must be positive, not {count} and {crop_px}")
    ordered = sorted(images, key=lambda image: image.name)
    # A random order, because the first images give one row more.
    order = np.random.default_rng(np.random.SeedSequence(seed)).permutation(len(ordered))
    first = 0
    with ThreadPoolExecutor(threads) as pool:
        for place, index in enumerate(order):
            annotated = ordered[index]
            rows_here = count // len(ordered) + (place < count % len(ordered))
            if not rows_here:
                continue
            make = partial(_augmented_row, annotated, _prepare(annotated), crop_px, seed)
            numbers = iter(range(first, first + rows_here))
            while some := list(islice(numbers, _ROWS_AT_ONCE)):
                yield from pool.map(make, some)
            first += rows_here


def _augmented_row(
    annotated: AnnotatedImage, source: "_Source", crop_px: int, seed: int, row: int
) -> AugmentedRow:
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(row,)))
    transform = _draw_transform(rng, source, crop_px)
    image, class_map = _warp(source, transform, crop_px)
    return AugmentedRow(
        row=row,
        image=_change_intensities(image, transform, rng),
        class_map=class_map,
        source_image=annotated.name,
        source_sha256=annotated.pixel_sha256,
        group=annotated.group,
        transform=transform,
    )


def write_shards(
    rows: Iterable[AugmentedRow], folder: AnyPath, rows_per_shard: int = 256, threads: int = 1
) -> list[AnyPath]:
    """Write rows as Parquet shards, each in one step.

    A shard's name contains a hash of its content, so it is never overwritten by other rows. The caller then
    writes the table that lists the shards.

    Parameters
    ----------
    rows : iterable of AugmentedRow
        Consumed one shard at a time.
    folder : path
        Local or remote.
    rows_per_shard : int
    threads : int
        Number of rows encoded at the same time.

    Returns
    -------
    list of path
        The shards, in the order of their rows.
    """
    rows = iter(rows)
    shards: list[AnyPath] = []
    with ThreadPoolExecutor(threads) as pool:
        while batch := list(islice(rows, rows_per_shard)):
            table = conform(list(pool.map(_encode_row, batch)), SHARD_SCHEMA)
            stream = io.BytesIO()
            # PNG is compressed already.
            pq.write_table(table, stream, compression="none")
            shards.append(folder / write_content(folder, "augmented", ".parquet", stream.getvalue()))
    return shards


def read_shards(shards: Sequence[AnyPath], threads: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Read the crops of shards.

    Parameters
    ----------
    shards : sequence of path
        From `write_shards`. All crops have the same size.
    threads : int
        Number of crops decoded at the same time.

    Returns
    -------
    images : ndarray, (n, crop_px, crop_px), float32
    class_maps : ndarray, (n, crop_px, crop_px), uint8

    Raises
    ------
    UserError
        If there are no rows, or a shard is missing or damaged.
    """
    images = class_maps = np.empty(0)
    position = 0
    try:
        # Allocated once: with the paper profile the crops take over half a gigabyte.
        total = sum(_count_rows(shard) for shard in shards)
        with ThreadPoolExecutor(threads) as pool:
            for shard in shards:
                with shard.open("rb") as file:
                    table = pq.ParquetFile(file).read(columns=["image", "mask"])
                pngs = (column.to_pylist() for column in (table["image"], table["mask"]))
                for image, class_map in pool.map(_decode_row, *pngs):
                    if position == 0:
                        images = np.empty((total, *image.shape), dtype=np.float32)
                        class_maps = np.empty((total, *image.shape), dtype=np.uint8)
                    images[position], class_maps[position] = image, class_map
                    position += 1
    except (OSError, pa.ArrowException, ValueError, KeyError) as error:
        raise UserError(
            f"an augmented shard is missing or damaged ({error}): materialise the augmented data set again"
        ) from error
    if position == 0:
        raise UserError("the augmented data set has no rows: materialise it again")
    return images, class_maps


def _decode_row(image_png: bytes, mask_png: bytes) -> tuple[np.ndarray, np.ndarray]:
    return decode_image(image_png), decode_class_map(mask_png)


def _count_rows(shard: AnyPath) -> int:
    with shard.open("rb") as file:
        return pq.ParquetFile(file).metadata.num_rows


@dataclass(frozen=True, eq=False)
class _Source:
    """An annotated image made ready for many warps."""

    coefficients: np.ndarray
    class_map: np.ndarray
    shares: list[np.ndarray]  # of each class but the background, uint8 0 or 1
    foreground: np.ndarray


def _prepare(annotated: AnnotatedImage) -> _Source:
    # Cubic splines keep the noise; linear interpolation would smooth it, more or less depending on the angle.
    # The coefficients are computed once for all crops of an image.
    coefficients = spline_filter(annotated.image, order=3, output=np.dtype(np.float32), mode=_BORDER)
    return _Source(
        coefficients=np.asarray(coefficients),
        class_map=annotated.class_map,
        shares=[
            (annotated.class_map == index).astype(np.uint8) for index in range(1, len(annotated.classes))
        ],
        foreground=np.flatnonzero(annotated.class_map),
    )


def _draw_transform(rng: np.random.Generator, source: _Source, crop_px: int) -> Transform:
    shape = np.array(source.class_map.shape)
    angle = rng.uniform(0, 360)
    scale = float(np.exp(rng.uniform(-np.log(MAX_SCALE), np.log(MAX_SCALE))))
    flip = bool(rng.random() < 0.5)
    on_particle = rng.random() < FOREGROUND_SHARE and len(source.foreground) > 0
    centre = rng.uniform(0, shape - 1)
    if on_particle:
        pixel = source.foreground[rng.integers(len(source.foreground))]
        aside = rng.uniform(-crop_px / 4, crop_px / 4, 2) / scale
        centre = np.array(np.unravel_index(pixel, source.class_map.shape)) + aside
    turned = np.deg2rad(angle)
    reach = (crop_px - 1) / 2 / scale * (abs(np.sin(turned)) + abs(np.cos(turned)))
    # A turned crop that doesn't fit is centred on the image.
    low = np.minimum(reach, (shape - 1) / 2)
    centre = np.clip(centre, low, shape - 1 - low)
    shift = centre - (shape - 1) / 2
    return Transform(
        shift_y_px=float(shift[0]),
        shift_x_px=float(shift[1]),
        flip=flip,
        angle_deg=float(angle),
        scale=scale,
        blur_px=float(rng.uniform(0.3, 0.8)) if rng.random() < 0.15 else 0.0,
        gamma=float(np.exp(rng.uniform(-0.15, 0.15))),
        gain=float(np.exp(rng.uniform(-0.15, 0.15))),
        offset=float(rng.uniform(-0.15, 0.15)),
        noise_sd=float(rng.uniform(0.05, 0.2)) if rng.random() < 0.3 else 0.0,
    )


def _warp(source: _Source, transform: Transform, crop_px: int) -> tuple[np.ndarray, np.ndarray]:
    """Cut the crop from image and mask with the same affine map."""
    turned = np.deg2rad(transform.angle_deg)
    # Row numbers increase downwards, so this matrix turns the picture counter-clockwise as seen.
    matrix = np.array([[np.cos(turned), np.sin(turned)], [-np.sin(turned), np.cos(turned)]]) / transform.scale
    if transform.flip:
        matrix[1] *= -1
    centre = (np.array(source.class_map.shape) - 1) / 2 + (transform.shift_y_px, transform.shift_x_px)
    offset = centre - matrix @ np.full(2, (crop_px - 1) / 2)
    geometry = {
        "matrix": matrix,
        "offset": offset,
        "output_shape": (crop_px, crop_px),
        "mode": _BORDER,
        "output": np.float32,
    }
    image = affine_transform(source.coefficients, order=3, prefilter=False, **geometry)
    # Each class is interpolated separately and the largest share wins. This moves boundaries by less than a
    # pixel and without bias; nearest-neighbour interpolation would make staircases.
    shares = [affine_transform(share, order=1, **geometry) for share in source.shares]
    background = 1 - np.sum(shares, axis=0)
    return image, np.argmax([background, *shares], axis=0).astype(np.uint8)


def _change_intensities(image: np.ndarray, transform: Transform, rng: np.random.Generator) -> np.ndarray:
    if transform.blur_px:
        image = gaussian_filter(image, transform.blur_px)
    low, high = float(image.min()), float(image.max())
    if high > low:
        image = low + (high - low) * ((image - low) / (high - low)) ** np.float32(transform.gamma)
    image = image * np.float32(transform.gain) + np.float32(transform.offset)
    if transform.noise_sd:
        image = image + np.float32(transform.noise_sd) * rng.standard_normal(image.shape, dtype=np.float32)
    return np.clip(image, -INTENSITY_LIMIT, INTENSITY_LIMIT).astype(np.float32, copy=False)


def _encode_row(row: AugmentedRow) -> dict:
    return {
        "row": row.row,
        "source_image": row.source_image,
        "source_sha256": row.source_sha256,
        "group": row.group,
        "part": "training",
        "transform": asdict(row.transform),
        "image": encode_image(row.image),
        "mask": encode_class_map(row.class_map),
    }
