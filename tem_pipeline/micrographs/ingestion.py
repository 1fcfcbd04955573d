"""Makes a session's manifest, one row per image, and prepares the images that are measured.

Images come one at a time. The caller writes them and the manifest.
"""

import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tem_pipeline.errors import UserError
from tem_pipeline.micrographs.calibration import calibrate
from tem_pipeline.micrographs.hashes import file_sha256, pixel_sha256
from tem_pipeline.micrographs.preparation import prepare_image
from tem_pipeline.micrographs.reading import (
    ONLY_MAPS,
    Micrograph,
    MicrographError,
    group_acquisitions,
)
from tem_pipeline.micrographs.reading_process import begun_reading, read_micrographs
from tem_pipeline.micrographs.sessions import SessionDescription
from tem_pipeline.tables import MANIFEST_SCHEMA, conform
from tem_pipeline.text import encodable, printable

MANIFEST_COLUMNS = tuple(MANIFEST_SCHEMA.names)


@dataclass(frozen=True, eq=False)
class IngestedImage:
    """A row of the manifest, and the image if it is to be kept.

    Attributes
    ----------
    row : dict
        The `MANIFEST_COLUMNS`. ``image_file`` is None until the caller has written the image.
    image : ndarray, (height, width), uint8, uint16 or float32, or None
        Square pixels, native byte order, C-contiguous. None unless the row's status is "ok".
    """

    row: dict[str, Any]
    image: np.ndarray | None = field(default=None, repr=False)


def ingest_files(
    folder: str | Path,
    files: Iterable[Path],
    description: SessionDescription,
    session_key: str,
) -> Iterator[IngestedImage]:
    """Read the files of a session and decide for each image whether it is measured.

    Parameters
    ----------
    folder : path
        The session's folder; its name is the session's name.
    files : iterable of Path
        Below `folder`, from `sessions.session_files`. Of two equal images the later one is the duplicate.
    description : SessionDescription
    session_key : str
        From `sessions.session_key`.

    Yields
    ------
    IngestedImage
        One per image, and one per file without an image. Only the images of one acquisition are in memory at
        a time. A file that cannot be read gets a row, and the session goes on.

    Notes
    -----
    An acquisition (one file, or an `.emi` with its `.ser`) is one field and is measured on one detector: the
    one of the session's mode, else the first HAADF or bright-field one, else the first. Elemental maps are
    never measured. The first frame of a stack is measured; if ``description.stack`` is "fields", every frame
    is a field. An acquisition that shares an image with an earlier one belongs to the earlier one's field.
    """
    root = Path(folder)
    name = encodable(os.path.basename(os.path.abspath(root)))
    session = {
        "session_id": session_key,
        "session_name": name,
        "sample_id": description.sample_id or name,
        "operator": description.operator,
        "microscope": description.microscope,
        "voltage_kv": description.voltage_kv,
        "metal": description.metal,
    }
    files = list(files)
    names = _ImageNames(root, files)
    seen: dict[str, tuple[str, str]] = {}
    for group in group_acquisitions(files):
        members: list[_Member] = []
        for file in group:
            row = dict.fromkeys(MANIFEST_COLUMNS) | session
            row["file"] = encodable(file.relative_to(root).as_posix())
            try:
                with begun_reading(file, measurable_only=False) as reading:
                    row["file_sha256"] = file_sha256(file)
                    micrographs = reading()
            except MicrographError as error:
                yield IngestedImage(row | {"status": "refused", "reason": error.reason})
                continue
            several = len({m.signal for m in micrographs}) > 1
            for micrograph in micrographs:
                image_id = names.of(file, micrograph, several)
                members.append(_Member(micrograph, row | {"image_id": image_id}, names.base(file)))
        for acquisition in _split(members, description.stack):
            yield from _ingest_field(acquisition, description, seen)


@dataclass(eq=False)
class _Member:
    """An image of an acquisition with the columns known so far."""

    micrograph: Micrograph
    row: dict[str, Any]
    field_base: str


def _split(members: list[_Member], stack: str) -> list[list[_Member]]:
    """Group the images of an acquisition by field."""
    fields: dict[tuple[str, int], list[_Member]] = {}
    for member in members:
        m = member.micrograph
        frame = m.frame if stack == "fields" else 0
        field_id = member.field_base + (
            f"_f{frame}" if frame or (stack == "fields" and m.n_frames > 1) else ""
        )
        members_of_field = fields.setdefault((m.acquisition, frame), [])
        member.row["field_id"] = members_of_field[0].row["field_id"] if members_of_field else field_id
        members_of_field.append(member)
    return list(fields.values())


def _ingest_field(
    members: list[_Member], description: SessionDescription, seen: dict[str, tuple[str, str]]
) -> Iterator[IngestedImage]:
    for member in members:
        _describe(member, description)
    usable = [member for member in members if not member.micrograph.fault]
    candidates = [member for member in usable if not member.micrograph.is_elemental_map]
    known = next((seen[m.row["pixel_sha256"]] for m in candidates if m.row["pixel_sha256"] in seen), None)
    chosen = None if known else _choose(candidates, description.mode)
    for member in members:
        m, row = member.micrograph, member.row
        image = None
        if m.fault:
            row |= {"status": "refused", "reason": m.fault}
        elif m.is_elemental_map:
            row |= {"status": "detector", "reason": f"an elemental map ({m.title}) is not measured"}
        elif row["pixel_sha256"] in seen:
            row |= {"status": "duplicate", "reason": f"it has the pixels of {seen[row['pixel_sha256']][0]}"}
        elif member is chosen:
            image = _prepare(member, description)
        else:
            measured = (
                f"the field is measured on {known[0] if known else chosen.row['image_id'] if chosen else '-'}"
            )
            row |= {"status": "frame" if m.frame else "detector", "reason": measured}
        if known:
            row["field_id"] = known[1]
        yield IngestedImage(row, image)
    for member in candidates:
        seen.setdefault(member.row["pixel_sha256"], (member.row["image_id"], member.row["field_id"]))


def _describe(member: _Member, description: SessionDescription) -> None:
    m, row = member.micrograph, member.row
    found = calibrate(m.pixel_size_nm, description.pixel_size_nm, m.calibration_note)
    size_y_nm, size_x_nm = found.pixel_size_nm or (None, None)
    row |= {
        "signal": m.signal,
        "frame": m.frame,
        "height_px": m.image.shape[0],
        "width_px": m.image.shape[1],
        "pixel_size_y_nm": size_y_nm,
        "pixel_size_x_nm": size_x_nm,
        "calibration": found.state,
        "calibration_note": found.note or None,
        "calibration_uncertainty": description.calibration_uncertainty if found.pixel_size_nm else None,
        "mode": m.detector,
        "mode_source": "detector" if m.detector else None,
    }
    if not m.fault:
        row["pixel_sha256"] = pixel_sha256(m.image)


def _choose(candidates: Sequence[_Member], mode: str | None) -> _Member | None:
    """Choose the image on which a field is measured, see `ingest_files`."""

    def rank(member: _Member) -> tuple[int, bool, bool]:
        m = member.micrograph
        if mode is None:
            detector = 0 if m.detector else 1
        else:
            detector = 0 if m.detector == mode else 1 if m.detector is None else 2
        return detector, m.is_display_copy, m.pixel_size_nm is None

    return min(candidates, key=rank, default=None)  # the first one if several rank equally


def _prepare(member: _Member, description: SessionDescription) -> np.ndarray | None:
    """Prepare the image that is measured, and complete its row."""
    row = member.row
    try:
        prepared = prepare_image(
            member.micrograph, pixel_size_nm=description.pixel_size_nm, mode=description.mode
        )
    except UserError as error:
        row |= {"status": "refused", "reason": printable(error)}
        return None
    row["height_px"], row["width_px"] = prepared.image.shape
    row["pixel_size_y_nm"], row["pixel_size_x_nm"] = prepared.pixel_size_nm or (None, None)
    row |= {"mode": prepared.mode, "mode_source": prepared.mode_source}
    row |= {"status": "ok", "reason": prepared.note or None}
    return prepared.image


class _ImageNames:
    """Names of images and fields: the file's stem, with a hash of its path if the stem is not unique.

    A name depends on its own file and on whether another file has the same stem, but not on their order.
    """

    def __init__(self, root: Path, files: Sequence[Path]) -> None:
        self._root = root
        self._stems = Counter(
            _slug(file.stem).casefold() for group in group_acquisitions(files) for file in group
        )
        self._used: set[str] = set()

    def base(self, file: Path) -> str:
        slug = _slug(file.stem)
        if slug == file.stem and self._stems[slug.casefold()] == 1:
            return slug
        return f"{slug}-{self._digest(file)}"

    def of(self, file: Path, micrograph: Micrograph, several_signals: bool) -> str:
        name = self.base(file)
        if several_signals:
            name += f"_s{micrograph.signal}"
        if micrograph.n_frames > 1:
            name += f"_f{micrograph.frame}"
        if name.casefold() in self._used:
            name += f"-{self._digest(file, micrograph.signal, micrograph.frame)}"
        self._used.add(name.casefold())
        return name

    def _digest(self, file: Path, *parts: int) -> str:
        place = "\0".join([file.relative_to(self._root).as_posix(), *map(str, parts)])
        return hashlib.sha256(place.encode("utf-8", "surrogateescape")).hexdigest()[:8]


def _slug(stem: str) -> str:
    slug = re.sub(r"[^A-Za-z0-9._-]+", "-", stem)
    slug = re.sub(r"\.{2,}", ".", slug).strip("._-")[:80].rstrip("._-")
    return slug or "image"


def manifest_table(rows: Iterable[dict[str, Any]]) -> pa.Table:
    """Make the manifest from its rows.

    Parameters
    ----------
    rows : iterable of dict
        From `ingest_files`, with ``image_file`` filled in by the caller.

    Returns
    -------
    pyarrow.Table
        With `MANIFEST_SCHEMA`, even if there are no rows.
    """
    return conform(list(rows), MANIFEST_SCHEMA)


def describe_file(
    path: str | Path, session_pixel_size_nm: float | Sequence[float] | None = None
) -> dict[str, Any]:
    """Describe the images of a file for `tem-pipeline info`.

    Parameters
    ----------
    path : path
    session_pixel_size_nm : float or (float, float), optional
        Pixel size from session.yaml or the command line, for files without one.

    Returns
    -------
    dict
        ``file``; ``images``, each with ``shape`` [height, width], ``pixel_size_nm`` [y, x] or None,
        ``calibration`` (metadata, session or missing), ``kind`` (micrograph, elemental map or display copy),
        ``title``, ``frame`` (from 0) and ``note`` (what to know, or ""); ``refused``, None or the reason why
        nothing in the file can be measured. Images that cannot be measured, such as a constant one, are
        described too.
    """
    description: dict[str, Any] = {"file": printable(path), "images": [], "refused": None}
    try:
        micrographs = read_micrographs(path, measurable_only=False)
    except MicrographError as error:
        return description | {"refused": error.reason}
    for micrograph in micrographs:
        found = calibrate(micrograph.pixel_size_nm, session_pixel_size_nm, micrograph.calibration_note)
        notes = [found.note]
        if micrograph.file_shape:
            notes.append(f"an information bar below row {micrograph.image.shape[0]} is cut off")
        description["images"].append(
            {
                "shape": list(micrograph.file_shape or micrograph.image.shape),
                "pixel_size_nm": list(found.pixel_size_nm) if found.pixel_size_nm else None,
                "calibration": found.state,
                "kind": micrograph.kind,
                "title": micrograph.title,
                "frame": micrograph.frame,
                "note": "; ".join(note for note in notes if note),
            }
        )
    if all(micrograph.fault for micrograph in micrographs):
        description["refused"] = micrographs[0].fault
    elif all(micrograph.fault or micrograph.is_elemental_map for micrograph in micrographs):
        description["refused"] = ONLY_MAPS
    return description
