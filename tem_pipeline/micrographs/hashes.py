"""Hashes of files and of pixels, by which equal files and equal images are recognised."""

import hashlib
from pathlib import Path

import numpy as np

from tem_pipeline.errors import UserError
from tem_pipeline.text import printable


def file_digest(path: Path) -> tuple[int, str]:
    """Give the size in bytes and the SHA-256 of a file's content.

    If it `is_mostly_holes`, only the size is hashed: its content would take hours, and it is refused.

    Raises
    ------
    UserError
        If the file cannot be read.
    """
    try:
        if is_mostly_holes(path):
            size = path.stat().st_size
            return size, hashlib.sha256(f"mostly holes of {size} bytes".encode()).hexdigest()
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
            return file.tell(), content
    except OSError as error:
        raise UserError(f"{printable(path)}: it cannot be read ({error.strerror})") from error


def file_sha256(path: Path) -> str | None:
    """Give the SHA-256 of a file's content, or None if the file cannot be read or `is_mostly_holes`."""
    try:
        return None if is_mostly_holes(path) else file_digest(path)[1]
    except (OSError, UserError):
        return None


def is_mostly_holes(path: Path) -> bool:
    """Tell whether hardly anything of a large file is on the disk, as when copying it was interrupted.

    Some file systems store zeros as holes, so a thousandth is asked for, no more.
    Others don't know what they store: they say 0, which tells nothing.
    """
    status = path.stat()
    stored_bytes = 512 * getattr(status, "st_blocks", 0)
    return status.st_size > 2**30 and 0 < stored_bytes < status.st_size / 1000


def pixel_sha256(image: np.ndarray) -> str:
    """Hash the shape and values of an image.

    The same values in another integer or float type give the same hash, as an export may change the type.

    Parameters
    ----------
    image : ndarray, (height, width)
    """
    digest = hashlib.sha256(np.array(image.shape, dtype="<i8").tobytes())
    rows = max(1, 2**20 // image.shape[1])
    with np.errstate(over="ignore"):
        for start in range(0, len(image), rows):
            digest.update(image[start : start + rows].astype("<f4").tobytes())
    return digest.hexdigest()
