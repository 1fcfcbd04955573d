"""The result of every reader, and how a reader refuses a file.

A reader is a function that takes a path and returns one signal per data set of the file. `judging` decides
which of them are micrographs.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

from tem_pipeline.text import one_line

Signal = dict[str, Any]
"""One data set in RosettaSciIO's form: "data", "axes", "metadata", "original_metadata". A reader may add

- "acquisition": the same for all images of one acquisition;
- "rows": number of rows, from the top, that belong to the picture; below them is an information bar;
- "white_is_zero": the number that shows as black, if 0 shows as white; None if the format sets none;
- "palette": (n, 3) red, green and blue of each value;
- "is_reduced": whether it is a smaller copy of another image in the file."""

Part = TypeVar("Part")

# A header may claim any size. Real images compress a hundredfold at most. Smaller claims than the allowed
# bytes do no harm, even if the image is blank and compresses better.
_MAX_EXPANSION = 100
_ALWAYS_ALLOWED_BYTES = 2**28


class Refused(Exception):
    """Why a file or one of its data sets is not a micrograph. The caller adds the file's name."""


def read_parts(parts: Iterable[Part], read: Callable[[Part], Iterable[Signal]]) -> list[Signal]:
    """Read the parts of a file one by one, so that the good ones are read even if others are bad.

    Parameters
    ----------
    parts : iterable
    read : callable
        Gives the signals of a part.

    Returns
    -------
    list of Signal
        From all parts that can be read.

    Raises
    ------
    Exception
        The first error, if no part can be read.
    """
    signals: list[Signal] = []
    errors: list[Exception] = []
    for part in parts:
        try:
            signals.extend(read(part))
        except Exception as error:
            errors.append(error)
    if errors and not signals:
        raise errors[0]
    return signals


def check_claimed_size(path: Path, claimed_bytes: int) -> None:
    """Refuse a file whose header claims far more pixels than the file can hold.

    Parameters
    ----------
    path : Path
    claimed_bytes : int
        Size of all pixels, uncompressed.

    Raises
    ------
    Refused
        Raised before memory is allocated.
    """
    stored_bytes = path.stat().st_size
    if claimed_bytes > max(_ALWAYS_ALLOWED_BYTES, _MAX_EXPANSION * stored_bytes):
        raise Refused(
            f"it claims {claimed_bytes / 1e9:.3g} GB of pixels in {stored_bytes / 1e6:.3g} MB: "
            "the file is damaged, copy or export it again"
        )


def reason_of(error: BaseException, path: Path) -> str:
    """Explain an error in one line, for a person who does not know the libraries.

    Parameters
    ----------
    error : exception
        `Refused`, or any exception from a library.
    path : Path
        The file that was read.

    Returns
    -------
    str
    """
    if isinstance(error, Refused):
        return str(error)
    if isinstance(error, MemoryError):
        return (
            "it claims more pixels than fit into memory: the file is damaged, or too large for this machine"
        )
    if isinstance(error, PermissionError):
        return "no permission to read it: give this account read permission"
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    detail = one_line(str(error).replace(str(path), path.name))
    cause = f"{type(error).__name__}: {detail[:120]}" if detail else type(error).__name__
    kind = path.suffix.lower().lstrip(".")
    return f"it is damaged, cut short or no {kind} file ({cause}): copy or export it again"
