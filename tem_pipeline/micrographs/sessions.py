"""Session folders: their image files, their session.yaml, their key and their fingerprint.

`reading` and `ingestion` read the image files.
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
from tem_pipeline.micrographs.hashes import file_digest
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
"""Image formats that have no reader. Their files are listed, so that the manifest shows them as refused."""

_NOTE_SUFFIXES = frozenset(
    (
        ".yaml",
        ".yml",
        ".txt",
        ".md",
        ".csv",
        ".tsv",
        ".log",
        ".json",
        ".xml",
        ".ini",
        ".html",
        ".docx",
        ".xlsx",
    )
)
_PLAIN_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")

Line = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$")]
PixelSize = Annotated[float, Field(ge=MIN_PIXEL_SIZE_NM, le=MAX_PIXEL_SIZE_NM)]


class SessionDescription(BaseModel):
    """Contents of session.yaml; everything is optional.

    Attributes
    ----------
    sample_id : str or None
        Default: the session's name.
    operator, microscope, notes : str or None
    voltage_kv : float or None
        Acceleration voltage, kV.
    mode : {"bright_field", "haadf"} or None
    pixel_size_nm : float or (float, float) or None
        For files without a pixel size: one number, or height and width (y, x), nm.
    calibration_uncertainty : float
        Relative standard uncertainty of the pixel size.
    metal : str or None
        Chemical symbol of the particles' metal.
    stack : {"frames", "fields"}
        "frames" if the images of a stack show the same field, "fields" if each shows another one.
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
        The defaults if the folder has no session.yaml.

    Raises
    ------
    UserError
        One line, for any content: wrong keys, wrong types, too large, not YAML.
    """
    path = Path(folder) / SESSION_YAML
    name = printable(path)
    if not os.path.lexists(path):
        return SessionDescription()
    try:
        if not path.is_file() or not _is_inside(path, Path(folder)):
            raise UserError("it is not a regular file in this folder: write it here or remove it")
        return read_description(path, SessionDescription)
    except UserError as error:
        raise UserError(f"{name}: {error}") from error


def session_key(name: str) -> str:
    """Give the key of a session, its name in folders, tables and partitions.

    Parameters
    ----------
    name : str
        The session folder's name as Python gives it. Any name is allowed, also with undecodable bytes.

    Returns
    -------
    str
        The name itself if it is plain: ``[A-Za-z0-9][A-Za-z0-9._-]*``, at most 100 characters, no ``..``.
        Otherwise the plain characters of the name and 12 hexadecimal digits of its SHA-256. Two names have
        the same digits with a probability of 4e-15. The key of a key is the key itself.
    """
    if len(name) <= MAX_KEY_LENGTH and ".." not in name and _PLAIN_KEY.fullmatch(name):
        return name
    ascii_name = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    slug = re.sub(r"[^A-Za-z0-9._-]+", "-", ascii_name)
    slug = re.sub(r"\.{2,}", ".", slug).strip("._-")[:60].rstrip("._-") or "session"
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()
    return f"{slug}-{digest[:12]}"


def session_files(folder: str | Path) -> list[Path]:
    """List the image files of a session, including those in its subfolders.

    Parameters
    ----------
    folder : path

    Returns
    -------
    list of Path
        Sorted by their path below the folder. Includes the formats that `reading` knows and images without
        a reader (`FOREIGN_IMAGE_SUFFIXES`). Leaves out hidden files and folders; ``*.part``, ``*.tmp``,
        ``*downloading``; session.yaml; texts and tables; symbolic links to folders, to missing files or to
        files outside the session; pipes and devices.

    Raises
    ------
    UserError
        If a folder cannot be listed. It must not pass for an empty session.
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
                    # For circular links os.path.isfile() gives False; entry.is_file() would raise.
                    elif path.suffix.lower() in wanted and os.path.isfile(path):
                        if entry.is_symlink() and not _is_inside(path, root):
                            continue
                        found.append(path)
    except OSError as error:
        raise UserError(
            f"{printable(error.filename or root)}: the folder cannot be listed ({error.strerror})"
        ) from error
    return sorted(found, key=lambda path: path.relative_to(root).parts)


def is_note(path: Path) -> bool:
    """Tell whether a file is no image but a text, a table or a desktop's file that is kept beside images."""
    return path.suffix.lower() in _NOTE_SUFFIXES or path.name.startswith(".") or path.name == "Thumbs.db"


def is_unfinished(name: str) -> bool:
    """Tell whether a file is still being copied: ``*.part``, ``*.tmp``, ``*downloading``."""
    return name.lower().endswith((".part", ".tmp", "downloading"))


def _is_inside(path: Path, folder: Path) -> bool:
    return path.resolve().is_relative_to(folder.resolve())


def session_fingerprint(folder: str | Path, digest: Callable[[Path], tuple[int, str]] = file_digest) -> str:
    """Give a fingerprint of a session's content.

    Parameters
    ----------
    folder : path
    digest : callable, optional
        Gives the size and SHA-256 of a file.

    Returns
    -------
    str
        64 hexadecimal digits: the SHA-256 over session.yaml and the `session_files` in their order. Each file
        enters with its path below the folder, its size and the SHA-256 of its content. Times, owners and the
        folder's name do not enter, so a copy has the same fingerprint. Files that are never read do not
        enter either.

    Raises
    ------
    UserError
        If a folder cannot be listed or a file cannot be read.
    """
    root = Path(folder)
    paths = session_files(root)
    if (root / SESSION_YAML).is_file() and _is_inside(root / SESSION_YAML, root):
        paths.insert(0, root / SESSION_YAML)
    total = hashlib.sha256()
    for path in paths:
        size, content = digest(path)
        total.update(
            f"{path.relative_to(root).as_posix()}\0{size}\0{content}\n".encode("utf-8", "surrogateescape")
        )
    return total.hexdigest()
