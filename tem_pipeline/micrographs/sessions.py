"""Session folders: the files that count, what session.yaml says, the session's key and its fingerprint.

Nothing here looks into microscope files: that is `reading`'s and `ingestion`'s part.
"""

import hashlib
import os
import re
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from tem_pipeline.descriptions import read_description
from tem_pipeline.errors import UserError
from tem_pipeline.micrographs.calibration import MAX_PIXEL_SIZE_NM, MIN_PIXEL_SIZE_NM
from tem_pipeline.micrographs.modes import Mode
from tem_pipeline.micrographs.reading import SUPPORTED_SUFFIXES
from tem_pipeline.text import printable

SESSION_YAML = "session.yaml"
MAX_KEY_LENGTH = 100

FOREIGN_IMAGE_SUFFIXES = frozenset(
    [
        ".bmp",
        ".gif",
        ".webp",
        ".jp2",
        ".heic",
        ".psd",
        ".pdf",
        ".dm2",
        ".img",
        ".mrcs",
        ".st",
        ".rec",
        ".ali",
        ".eer",
        ".tvips",
        ".mib",
        ".blo",
        ".h5",
        ".hdf5",
        ".nxs",
        ".prz",
        ".bcf",
        ".raw",
        ".npy",
        ".tpx3",
        ".czi",
    ]
)
"""Images that nobody here reads: a session that holds some must say so, instead of passing over them."""

_PLAIN_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")

Line = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$")]
PixelSize = Annotated[float, Field(ge=MIN_PIXEL_SIZE_NM, le=MAX_PIXEL_SIZE_NM)]


class SessionDescription(BaseModel):
    """What a person says about a session in session.yaml; everything is optional.

    Attributes
    ----------
    sample_id : str or None
        Default: the session's name.
    operator, microscope, notes : str or None
    voltage_kv : float or None
        Acceleration voltage, kV.
    mode : {"bright_field", "haadf"} or None
    pixel_size_nm : float or (float, float) or None
        For files that have none: one number, or height and width (y, x), nm.
    calibration_uncertainty : float
        Relative standard uncertainty of the pixel size.
    metal : str or None
        Symbol of the particles' metal.
    stack : {"frames", "fields"}
        Whether the images of a stack show one field ("frames") or each another one.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, coerce_numbers_to_str=True)

    sample_id: Line | None = None
    operator: Line | None = None
    microscope: Line | None = None
    voltage_kv: float | None = Field(default=None, gt=0, le=3000)
    mode: Mode | None = None
    pixel_size_nm: PixelSize | tuple[PixelSize, PixelSize] | None = None
    calibration_uncertainty: float = Field(default=0.02, ge=0, lt=1)
    metal: Line | None = None
    stack: Literal["frames", "fields"] = "frames"
    notes: Annotated[str, Field(max_length=20_000)] | None = None

    @field_validator("sample_id", "operator", "microscope", "metal")
    @classmethod
    def _strip(cls, value: str | None) -> str | None:
        return value.strip() or None if value else None


def read_session_description(folder: str | Path) -> SessionDescription:
    """Read and check the session.yaml of a session folder.

    Parameters
    ----------
    folder : path

    Returns
    -------
    SessionDescription
        The defaults where the folder has no session.yaml.

    Raises
    ------
    UserError
        One line, whatever stands in that file: wrong keys, wrong types, too much, not YAML.
    """
    path = Path(folder) / SESSION_YAML
    name = printable(path)
    if not os.path.lexists(path):
        return SessionDescription()
    try:
        if not path.is_file() or not _lies_in(path, Path(folder)):
            raise UserError("it is no plain file of this folder: write it here or remove it")
        return read_description(path, SessionDescription)
    except UserError as error:
        raise UserError(f"{name}: {error}") from error


def session_key(name: str) -> str:
    """Give the key under which a session stands in folders, tables and partitions.

    Parameters
    ----------
    name : str
        The session folder's name; anything, as Python gives it (undecodable bytes included).

    Returns
    -------
    str
        The name itself if it is plain: ``[A-Za-z0-9][A-Za-z0-9._-]*``, at most 100 characters, no ``..``.
        Otherwise what is plain of it and 12 hexadecimal digits of the name's SHA-256: two names share such a
        key with a probability of 4e-15. A key is its own key.
    """
    if len(name) <= MAX_KEY_LENGTH and ".." not in name and _PLAIN_KEY.fullmatch(name):
        return name
    ascii_name = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    slug = re.sub(r"[^A-Za-z0-9._-]+", "-", ascii_name)
    slug = re.sub(r"\.{2,}", ".", slug).strip("._-")[:60].rstrip("._-") or "session"
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()
    return f"{slug}-{digest[:12]}"


def session_files(folder: str | Path) -> list[Path]:
    """List the image files of a session, those in folders below included.

    Parameters
    ----------
    folder : path

    Returns
    -------
    list of Path
        Sorted by their place below the folder. Those that `reading` knows, and those that look like images
        but that nobody here reads (`FOREIGN_IMAGE_SUFFIXES`). Not: hidden files and folders; ``*.part``,
        ``*.tmp``, ``*downloading``; session.yaml; texts and tables beside the images; symbolic links to
        folders, to nothing, or to a file outside; pipes and devices.

    Raises
    ------
    UserError
        If a folder cannot be listed: that is never an empty session.
    """
    root = Path(folder)
    wanted = SUPPORTED_SUFFIXES | FOREIGN_IMAGE_SUFFIXES
    found: list[Path] = []
    pending = [root]
    try:
        while pending:
            with os.scandir(pending.pop()) as entries:
                for entry in entries:
                    if entry.name.startswith(".") or is_unfinished(entry.name):
                        continue
                    path = Path(entry.path)
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(path)
                    # os.path.isfile() is False for a link in a circle, where entry.is_file() raises.
                    elif path.suffix.lower() in wanted and os.path.isfile(path):
                        if entry.is_symlink() and not _lies_in(path, root):
                            continue
                        found.append(path)
    except OSError as error:
        raise UserError(
            f"{printable(error.filename or root)}: the folder cannot be listed ({error.strerror})"
        ) from error
    return sorted(found, key=lambda path: path.relative_to(root).parts)


def is_unfinished(name: str) -> bool:
    """Tell whether a copy that goes on has written this name: ``*.part``, ``*.tmp``, ``*downloading``."""
    return name.lower().endswith((".part", ".tmp", "downloading"))


def _lies_in(path: Path, folder: Path) -> bool:
    return path.resolve().is_relative_to(folder.resolve())


def file_digest(path: Path) -> tuple[int, str]:
    """Give the size in bytes and the SHA-256 of a file's content.

    Raises
    ------
    UserError
        If it cannot be read.
    """
    try:
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
            return file.tell(), content
    except OSError as error:
        raise UserError(f"{printable(path)}: it cannot be read ({error.strerror})") from error


def session_fingerprint(folder: str | Path, digest: Callable[[Path], tuple[int, str]] = file_digest) -> str:
    """Give a fingerprint of a session's content.

    Parameters
    ----------
    folder : path
    digest : callable, optional
        Gives size and SHA-256 of a file.

    Returns
    -------
    str
        64 hexadecimal digits: SHA-256 over session.yaml and the `session_files`, in their order: place below
        the folder, size, SHA-256 of the content. Times, owners and the folder's own name don't enter, so a
        copy has the same fingerprint; texts that nobody reads don't either.

    Raises
    ------
    UserError
        If a folder cannot be listed or a file cannot be read.
    """
    root = Path(folder)
    paths = session_files(root)
    if (root / SESSION_YAML).is_file() and _lies_in(root / SESSION_YAML, root):
        paths.insert(0, root / SESSION_YAML)
    total = hashlib.sha256()
    for path in paths:
        size, content = digest(path)
        total.update(
            f"{path.relative_to(root).as_posix()}\0{size}\0{content}\n".encode("utf-8", "surrogateescape")
        )
    return total.hexdigest()
