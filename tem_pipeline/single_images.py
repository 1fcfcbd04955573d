"""Segments and measures images outside any session, and writes what a person wants to see beside them."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Event

import numpy as np
import pandas as pd
from skimage.transform import resize

from tem_pipeline import progress
from tem_pipeline.errors import UserError
from tem_pipeline.images_in_flight import IMAGES_IN_FLIGHT, LARGEST_IN_FLIGHT_PX, in_order
from tem_pipeline.micrographs.calibration import calibrate, resample_to_square
from tem_pipeline.micrographs.ingestion import file_sha256, pixel_sha256
from tem_pipeline.micrographs.reading import Micrograph, group_acquisitions, read_micrographs
from tem_pipeline.micrographs.sessions import session_files
from tem_pipeline.particles.checks import check_particle_table
from tem_pipeline.particles.measurement import measure_particles
from tem_pipeline.particles.table import join_tables, with_origin
from tem_pipeline.reports.overlays import overlay_png
from tem_pipeline.segmentation.inference import Segmentation, segment_micrograph
from tem_pipeline.segmentation.masks import judge_image, load_before_threads, stoppable
from tem_pipeline.segmentation.models import ModelCard, SegmentationModel
from tem_pipeline.settings import Settings
from tem_pipeline.storage import encode_tiff, write_bytes, write_table
from tem_pipeline.tables import PARTICLE_SCHEMA, conform


@dataclass(frozen=True)
class _Named:
    """An image with the name its results get."""

    name: str
    file: Path
    micrograph: Micrograph


@dataclass(frozen=True)
class _Segmented:
    """What was found on an image, as it was brought to square pixels."""

    image: np.ndarray
    pixel_size_nm: float | None
    calibration: str
    masks: Segmentation


def segment_files(
    inputs: Sequence[Path],
    out: Path,
    model: SegmentationModel,
    settings: Settings,
    pixel_size_nm: float | None = None,
    mode: str = "auto",
) -> list[str]:
    """Segment images and folders of images.

    Writes NAME_labels.tif, NAME_shells.tif where the model knows shells, NAME_overlay.png, and one
    particle_table.parquet.

    Parameters
    ----------
    inputs : sequence of path
        Image files, or folders in which every image is taken.
    out : path
        Made if need be.
    model : SegmentationModel
    settings : Settings
    pixel_size_nm : float, optional
        Fills in only where a file has no pixel size of its own.
    mode : {"auto", "bright_field", "haadf"}

    Returns
    -------
    list of str
        One line for every input that could not be read; the others are done.
    """
    failures: list[str] = []
    tables: list[pd.DataFrame] = []
    files = _expand(inputs, failures)
    in_flight, ended = _in_flight(files), Event()
    shared = stoppable(model, ended)
    if in_flight > 1:
        load_before_threads()

    def segment(each: tuple[float, _Named]) -> _Segmented:
        return _segment_one(each[1].micrograph, shared, settings, pixel_size_nm, mode)

    with progress.bar("segmenting") as advance:
        # While one image is measured and drawn by one core, the network has the others.
        named_images = _name_images(files, failures)
        for (done, named), segmented in in_order(segment, named_images, in_flight, ended):
            tables.append(_write_and_measure(named, segmented, out, model.card))
            advance(done, named.name)
            del named, segmented  # large ones: not while the next one is segmented
    particles = join_tables(tables)
    check_particle_table(particles)
    write_table(out / "particle_table.parquet", conform(particles, PARTICLE_SCHEMA))
    return failures


def _in_flight(files: Sequence[Path]) -> int:
    """Say how many images may be in memory at a time, by the files' sizes: their pixels aren't known yet."""
    largest_bytes = max((file.stat().st_size for file in files), default=0)
    # Up to four bytes a pixel: only smaller dtypes let a larger image through, which then takes less itself.
    return IMAGES_IN_FLIGHT if len(files) > 1 and largest_bytes <= 4 * LARGEST_IN_FLIGHT_PX else 1


def _expand(inputs: Sequence[Path], failures: list[str]) -> list[Path]:
    files: list[Path] = []
    for path in inputs:
        if path.is_dir():
            found = session_files(path)
            if not found:
                failures.append(f"{path}: holds no image")
            files += found
        elif path.is_file():
            files.append(path)
        else:
            failures.append(f"{path}: there is no such file or folder")
    return files


def _name_images(files: list[Path], failures: list[str]) -> Iterator[tuple[float, _Named]]:
    """Read the files one by one and name their images; stems that collide get the suffix, then a number."""
    acquisitions = group_acquisitions(files)
    stems = Counter(group[0].stem for group in acquisitions)
    used: set[str] = set()
    for index, group in enumerate(acquisitions):
        file = group[0]
        try:
            micrographs = read_micrographs(file)
        except UserError as error:
            failures.append(str(error))
            continue
        base = file.stem if stems[file.stem] == 1 else f"{file.stem}_{file.suffix.lstrip('.')}"
        for number, micrograph in enumerate(micrographs):
            name = wanted = base if len(micrographs) == 1 else f"{base}_{number}"
            repeat = 1
            while name in used:
                repeat += 1
                name = f"{wanted}_{repeat}"
            used.add(name)
            yield (
                (index + (number + 1) / len(micrographs)) / len(acquisitions),
                _Named(name, file, micrograph),
            )


def _segment_one(
    micrograph: Micrograph,
    model: SegmentationModel,
    settings: Settings,
    pixel_size_nm: float | None,
    mode: str,
) -> _Segmented:
    calibration = calibrate(micrograph.pixel_size_nm, pixel_size_nm)
    image, size_nm = micrograph.image, None
    if calibration.pixel_size_nm is not None:
        image, square = resample_to_square(image, calibration.pixel_size_nm)
        size_nm = square if isinstance(square, float) else float(square[1])
    masks = segment_micrograph(
        image,
        model,
        mode if mode != "auto" else micrograph.detector or "auto",
        pixel_size_nm=size_nm,
        flips=settings.test_time_flips,
        tile_px=settings.tile_px,
        overlap_px=settings.tile_overlap_px,
        minimum_diameter_px=settings.minimum_diameter_px,
        minimum_diameter_nm=settings.minimum_diameter_nm,
    )
    return _Segmented(image, size_nm, calibration.state, masks)


def _write_and_measure(named: _Named, segmented: _Segmented, out: Path, card: ModelCard) -> pd.DataFrame:
    micrograph, image, size_nm, masks = (
        named.micrograph,
        segmented.image,
        segmented.pixel_size_nm,
        segmented.masks,
    )
    size_of_input_nm = size_nm if image.shape == micrograph.image.shape else None
    for kind, labels in (("labels", masks.labels), ("shells", masks.shell_labels)):
        if labels is not None:
            as_input = _as_large_as(labels, micrograph.image.shape)
            write_bytes(out / f"{named.name}_{kind}.tif", encode_tiff(as_input, size_of_input_nm))
    overlay = overlay_png(
        image, masks.labels, masks.shell_labels, pixel_size_nm=size_nm, max_px=2048, maximum_bytes=None
    )
    write_bytes(out / f"{named.name}_overlay.png", overlay)
    measured = measure_particles(
        masks.labels,
        image,
        masks.core_probability,
        size_nm,
        shell_labels=masks.shell_labels,
        split_labels=masks.split_labels.tolist(),
    )
    origin = {
        "session_id": "segment",
        "session_name": "segment",
        "sample_id": named.file.parent.name or "segment",
        "image_id": named.name,
        "field_id": named.name,
        "file": named.file.name,
        "file_sha256": file_sha256(named.file),
        "pixel_sha256": pixel_sha256(micrograph.image),
        "mode": masks.mode,
        "pixel_size_nm": size_nm,
        "calibration": segmented.calibration,
        "calibration_uncertainty": None,
        "model_name": card.name,
        "model_version": card.version,
        "model_sha256": card.weights_sha256,
        "loss": card.loss,
        "code_version": card.code_version,
        "image_quality": judge_image(masks, image, size_nm).image_quality,
        "metal": None,
    }
    return with_origin(measured, origin)


def _as_large_as(labels: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Bring a label image back to the input's size where its pixels were not square."""
    if labels.shape == shape:
        return labels
    return resize(labels, shape, order=0, preserve_range=True, anti_aliasing=False).astype(labels.dtype)
