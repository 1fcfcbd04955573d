"""Segments and measures images outside any session; writes their label images, overlays and table."""

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from tem_pipeline import progress
from tem_pipeline.errors import UserError
from tem_pipeline.images_in_flight import IMAGES_IN_FLIGHT, LARGEST_IN_FLIGHT_PX
from tem_pipeline.micrographs.hashes import file_sha256, pixel_sha256
from tem_pipeline.micrographs.modes import Mode
from tem_pipeline.micrographs.preparation import PreparedImage, prepare_image
from tem_pipeline.micrographs.reading import ONLY_MAPS, Micrograph, MicrographError, group_acquisitions
from tem_pipeline.micrographs.reading_process import read_micrographs
from tem_pipeline.micrographs.sessions import SessionDescription, session_files
from tem_pipeline.particles.checks import check_particle_table
from tem_pipeline.particles.table import join_tables, measure_image
from tem_pipeline.reports.overlays import overlay_png
from tem_pipeline.segmentation.masks import SegmentedImage, SquareImage, mask_row, segment_images
from tem_pipeline.segmentation.models import SegmentationModel
from tem_pipeline.settings import Settings
from tem_pipeline.storage import encode_tiff, write_bytes, write_table
from tem_pipeline.tables import PARTICLE_SCHEMA, conform
from tem_pipeline.text import counted, encodable, printable

LONGEST_STEM_BYTES = 200
"""File systems allow 255 bytes, and results add their own ends to a name."""


@dataclass(frozen=True, eq=False)
class _NamedImage:
    """An image with the name of its results, its manifest row, and its shape in the file."""

    name: str
    row: dict[str, Any]
    prepared: SquareImage
    bar_rows: int


def segment_files(
    inputs: Sequence[Path],
    out: Path,
    model: SegmentationModel,
    settings: Settings,
    pixel_size_nm: float | None = None,
    mode: Literal[Mode, "auto"] = "auto",
    tell: Callable[[str], None] = lambda line: None,
) -> list[str]:
    """Segment images and folders of images.

    Writes for each image NAME_labels.tif, NAME_overlay.png and, if the model knows shells, NAME_shells.tif;
    for all images one particle_table.parquet and one particle_table.csv.

    An image has the same rows as in a session without session.yaml, except for the names. But every image
    of a file is measured: each frame and each detector, though no elemental maps, and duplicates too.

    Parameters
    ----------
    inputs : sequence of path
        Image files, or folders whose images are all taken.
    out : path
        Created if it does not exist.
    model : SegmentationModel
    settings : Settings
    pixel_size_nm : float, optional
        In nm; only for files that have no pixel size of their own.
    mode : {"auto", "bright_field", "haadf"}
    tell : callable
        Receives one line per image, and at the end the totals and the tables' paths.

    Returns
    -------
    list of str
        One line for each input that cannot be read, segmented or written. All other inputs are done.
    """
    failures: list[str] = []
    tables: list[pd.DataFrame] = []
    files = _expand(inputs, failures)
    decided_mode = None if mode == "auto" else mode

    def failed(each: tuple[float, _NamedImage], error: Exception) -> None:
        failures.append(f"{printable(each[1].row['file'])}: {_reason(error)}")

    named_images = _name_images(files, pixel_size_nm, decided_mode, failures)
    with progress.bar("segmenting") as advance:
        for (done, named), found in segment_images(
            named_images, lambda each: each[1].prepared, model, settings, _in_flight(files), failed
        ):
            try:
                tables.append(_finish(named, found, model, out))
            except Exception as error:
                failed((done, named), error)
            else:
                tell(_line(named.name, tables[-1], found))
            advance(done, named.name)
            del named, found  # Free their memory before the next image is taken.
    particles = join_tables(tables)
    check_particle_table(particles)
    table = conform(particles, PARTICLE_SCHEMA)
    write_table(out / "particle_table.parquet", table)
    write_bytes(out / "particle_table.csv", table.to_pandas().to_csv(index=False).encode())
    failed_too = f", {counted(len(failures), 'input')} failed" if failures else ""
    tell(f"{counted(len(tables), 'image')} segmented, {counted(len(particles), 'particle')}{failed_too}")
    tell(f"{out / 'particle_table.parquet'}\n{out / 'particle_table.csv'}")
    return failures


def _finish(named: _NamedImage, found: SegmentedImage, model: SegmentationModel, out: Path) -> pd.DataFrame:
    """Measure an image, check its particles and write its pictures; give its particles."""
    masks, mask = found.masks, mask_row(found, model.card)
    particles = measure_image(
        named.row, mask, found.image, masks.labels, masks.core_probability, masks.shell_labels
    )
    check_particle_table(join_tables([particles]))
    _write_images(named, found, out)
    return particles


def _line(name: str, particles: pd.DataFrame, found: SegmentedImage) -> str:
    """Tell the number of particles, the mean diameter of the whole ones, and the verdict on the image."""
    unit = "px" if found.pixel_size_nm is None else "nm"
    whole = particles[~particles["touches_edge"].astype(bool)]
    diameters = whole[f"equivalent_diameter_{unit}"].astype(float)
    spread = f" ± {diameters.std():.3g}" if len(whole) > 1 else ""
    size = f"mean diameter {diameters.mean():.4g}{spread} {unit} (n = {len(whole)})"
    size = size if len(whole) else "none whole"
    quality, number = found.quality, counted(len(particles), "particle")
    reason = f" ({quality.image_quality_reason})" if quality.image_quality_reason else ""
    return f"{printable(name)}: {number}, {size}, {quality.image_quality}{reason}"


def _reason(error: Exception) -> str:
    """Give an error in one line; the kind of an unexpected one says more than its text."""
    return str(error) if isinstance(error, UserError) else printable(f"{type(error).__name__}: {error}")


def _in_flight(files: Sequence[Path]) -> int:
    """Decide from file sizes how many images are in work at the same time; shapes are not known yet."""
    # A file may have vanished since it was listed; reading it says so.
    largest_bytes = max((os.path.getsize(file) for file in files if os.path.isfile(file)), default=0)
    # Assumes four bytes per pixel. An image of a smaller type may be larger, but takes less memory itself.
    return IMAGES_IN_FLIGHT if len(files) > 1 and largest_bytes <= 4 * LARGEST_IN_FLIGHT_PX else 1


def _expand(inputs: Sequence[Path], failures: list[str]) -> list[Path]:
    files: list[Path] = []
    for path in inputs:
        if os.path.isdir(path):
            try:
                found = session_files(path)
            except UserError as error:
                failures.append(str(error))
                continue
            if not found:
                failures.append(f"{path}: holds no image")
            files += found
        elif os.path.isfile(path):
            files.append(path)
        else:
            failures.append(f"{printable(path)}: there is no such file or folder")
    return files


def _name_images(
    files: list[Path], pixel_size_nm: float | None, mode: Mode | None, failures: list[str]
) -> Iterator[tuple[float, _NamedImage]]:
    """Read, prepare and name images one by one; yield each with the share of files done by then."""
    files = [file for group in group_acquisitions(files) for file in group]
    stems = Counter(file.stem for file in files)
    used: set[str] = set()
    for index, file in enumerate(files):
        try:
            micrographs = _micrographs_to_measure(file)
        except UserError as error:
            failures.append(str(error))
            continue
        base = _plain_stem(file.stem)
        if stems[file.stem] > 1:
            base += f"_{file.suffix.lstrip('.')}"
        for number, micrograph in enumerate(micrographs):
            name = wanted = base if len(micrographs) == 1 else f"{base}_{number}"
            repeat = 1
            while name in used:
                repeat += 1
                name = f"{wanted}_{repeat}"
            used.add(name)
            try:
                prepared = prepare_image(micrograph, pixel_size_nm=pixel_size_nm, mode=mode)
            except UserError as error:
                failures.append(f"{printable(file.name)}: {error}")
                continue
            done = (index + (number + 1) / len(micrographs)) / len(files)
            yield done, _named(name, file, micrograph, prepared)


def _plain_stem(stem: str) -> str:
    """Give a stem that tables and file systems can hold, with room for the ends of the results' names."""
    plain = printable(encodable(stem))
    if len(plain.encode()) <= LONGEST_STEM_BYTES:
        return plain
    digest = hashlib.sha256(plain.encode()).hexdigest()[:8]
    return f"{plain.encode()[: LONGEST_STEM_BYTES - 9].decode(errors='ignore')}-{digest}"


def _micrographs_to_measure(file: Path) -> list[Micrograph]:
    """Read a file without its elemental maps and display copies, which a session doesn't measure either."""
    micrographs = [m for m in read_micrographs(file) if m.kind == "micrograph"]
    if not micrographs:
        raise MicrographError(file, ONLY_MAPS)
    return micrographs


def _named(name: str, file: Path, micrograph: Micrograph, prepared: PreparedImage) -> _NamedImage:
    """Describe an image as the manifest of a session without session.yaml would."""
    size_nm = None if prepared.pixel_size_nm is None else float(prepared.pixel_size_nm[1])
    uncertainty = SessionDescription().calibration_uncertainty
    row = {
        "session_id": "segment",
        "session_name": "segment",
        "sample_id": encodable(file.parent.resolve().name) or "segment",
        "image_id": name,
        "field_id": name,
        "file": encodable(file.name),
        "file_sha256": file_sha256(file),
        "pixel_sha256": pixel_sha256(micrograph.image),
        "pixel_size_x_nm": size_nm,
        "calibration": prepared.calibration.state,
        "calibration_uncertainty": None if size_nm is None else uncertainty,
        "metal": None,
    }
    square = SquareImage(prepared.image, size_nm, prepared.mode, prepared.mode_source != "unsure")
    height = micrograph.image.shape[0]
    file_height = micrograph.file_shape[0] if micrograph.file_shape else height
    # Rows of the bar are as high as the others; of oblong pixels they are resampled.
    bar_rows = round((file_height - height) * prepared.image.shape[0] / height)
    return _NamedImage(name, row, square, bar_rows)


def _write_images(named: _NamedImage, found: SegmentedImage, out: Path) -> None:
    """Write the label images and the overlay in the frame of the table: the measured image's pixels.

    That is the frame of the file unless its pixels are oblong; then it has square ones. An information bar
    below the picture is background.
    """
    masks, size_nm = found.masks, found.pixel_size_nm
    for kind, labels in (("labels", masks.labels), ("shells", masks.shell_labels)):
        if labels is not None:
            with_bar = np.pad(labels, ((0, named.bar_rows), (0, 0)))
            write_bytes(out / f"{named.name}_{kind}.tif", encode_tiff(with_bar, size_nm))
    overlay = overlay_png(
        found.image, masks.labels, masks.shell_labels, pixel_size_nm=size_nm, max_px=2048, maximum_bytes=None
    )
    write_bytes(out / f"{named.name}_overlay.png", overlay)
