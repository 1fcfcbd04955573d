"""The folders below the data and models roots, and writing files in one step."""

import errno
import hashlib
import io
import os
import re
import tempfile
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tifffile
from filelock import FileLock, Timeout
from upath import UPath

from tem_pipeline.errors import UserError
from tem_pipeline.settings import PRETRAINED_MODEL, Settings, resolve_root

if TYPE_CHECKING:  # pandas takes 0.2 s to load, and every command loads this module.
    import pandas as pd

SESSION_KEY = re.compile(r"(?!.*\.\.)[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
TABLE_FILE = "part-0.parquet"
FIGURE_FOLDERS = ("loss_comparison", "structure_activity")
"""Folders below reports/ that hold figures; a session of such a name has another folder."""
_FINGERPRINT = b"session_fingerprint"
_NO_ROOM_OR_RIGHT = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM)

AnyPath = UPath | Path


@dataclass(frozen=True)
class Layout:
    """The folders of one installation. All paths come from here."""

    data_root: UPath
    models_root: UPath
    pretrained: UPath = field(default_factory=lambda: resolve_root(PRETRAINED_MODEL))
    """The model that ships with the code. It does not follow the models root."""

    @property
    def incoming(self) -> UPath:
        """Session folders as the microscopes wrote them. We never write here."""
        return self.data_root / "incoming"

    @property
    def annotated(self) -> UPath:
        """Annotated sets."""
        return self.data_root / "annotated"

    @property
    def lake(self) -> UPath:
        """Images, masks and Parquet tables."""
        return self.data_root / "lake"

    @property
    def reports(self) -> UPath:
        """HTML pages and figures."""
        return self.data_root / "reports"

    @property
    def state(self) -> UPath:
        """Observations of incoming/. They can be deleted without harm."""
        return self.data_root / ".state"

    @property
    def champion(self) -> UPath:
        """Folder of the model that processes sessions."""
        return self.models_root / "champion"

    @property
    def mlflow(self) -> UPath:
        """MLflow's embedded store."""
        return self.models_root / "mlflow"

    def partition(self, asset: str, session: str | None = None) -> UPath:
        """Give the folder of an asset, or of its partition of a session.

        Raises
        ------
        UserError
            For a session key that could lead out of the asset's folder.
        """
        if session is None:
            return self.lake / asset
        return self.lake / asset / f"session={_safe(session)}"

    def table(self, asset: str, session: str | None = None) -> UPath:
        """Give the Parquet file of an asset or partition. Other files there are found through it."""
        return self.partition(asset, session) / TABLE_FILE

    def recorded_folder(self, folder: AnyPath) -> str:
        """Give what a manifest records of a session's folder; below incoming/ its place in the data root.

        The data root may be moved, or have several paths through links.
        """
        if not is_local(folder):
            return str(folder)
        path = Path(os.path.realpath(str(folder)))
        inside = path.parent == Path(os.path.realpath(str(self.incoming)))
        return f"incoming/{path.name}" if inside else str(path)

    def outside_folder(self, recorded: str | None) -> str | None:
        """Give the recorded folder of a session, or None if it is below incoming/.

        Older manifests recorded whole paths. Where such a path is gone, a folder of its name below incoming/
        is that session: the data root was moved.
        """
        if not recorded or not os.path.isabs(recorded):
            return None
        folder = Path(recorded)
        moved = not folder.exists() and folder.parent.name == "incoming"
        if moved and (self.incoming / folder.name).is_dir():
            return None
        place = self.recorded_folder(folder)
        return place if os.path.isabs(place) else None

    def report(self, session: str) -> UPath:
        """Give the HTML page of a session's report.

        Raises
        ------
        UserError
            For a session key that could lead out of the reports' folder.
        """
        # Keys can't hold an equals sign, and some file systems don't tell a from A.
        prefix = "session=" if session.lower() in FIGURE_FOLDERS else ""
        return self.reports / f"{prefix}{_safe(session)}" / "index.html"


def _safe(session: str) -> str:
    if not SESSION_KEY.fullmatch(session):
        raise UserError(f"session key {session!r} is not safe: use letters, digits, '.', '_' and '-'")
    return session


def sessions_with_tables(layout: Layout, *assets: str) -> set[str]:
    """Give the keys of the sessions that have a table of each of these assets."""
    found: list[set[str]] = []
    for asset in assets:
        folder = layout.partition(asset)
        keys = {
            path.name.removeprefix("session=")
            for path in (folder.iterdir() if folder.is_dir() else ())
            if path.name.startswith("session=") and (path / TABLE_FILE).exists()
        }
        found.append({key for key in keys if SESSION_KEY.fullmatch(key)})
    return set.intersection(*found)


def layout_of(settings: Settings) -> Layout:
    """Give the folders that the settings name."""
    roots = (settings.data_root, settings.models_root, settings.pretrained_model)
    return Layout(*map(resolve_root, roots))


def is_local(path: AnyPath) -> bool:
    """Tell whether a path is in the local file system."""
    return getattr(path, "protocol", "") in ("", "file")


@contextmanager
def atomic_path(target: AnyPath) -> Iterator[Path]:
    """Yield a path to write to. The file appears at `target` when the block ends without an error.

    A local file is renamed within its folder, any other is uploaded in one step.

    Raises
    ------
    UserError
        When the disk is full or read-only; the message names the target. The old file is kept.
    """
    part: Path | None = None
    try:
        if is_local(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            part = Path(str(target.parent)) / f".{target.name[:80]}.{uuid.uuid4().hex}.part"
            yield part
            with part.open("rb") as written:
                os.fsync(written.fileno())
            part.replace(str(target))
        else:
            part = Path(tempfile.gettempdir()) / f"{uuid.uuid4().hex}{target.suffix}"
            yield part
            target.fs.put_file(str(part), target.path)  # type: ignore[attr-defined]
    except OSError as error:
        if error.errno in _NO_ROOM_OR_RIGHT:
            raise UserError(
                f"{target}: can't be written ({os.strerror(error.errno)}); "
                "make room or give write permission, then run again"
            ) from error
        raise
    finally:
        if part is not None:
            part.unlink(missing_ok=True)


def write_bytes(target: AnyPath, content: bytes) -> None:
    """Write a file in one step."""
    with atomic_path(target) as part:
        part.write_bytes(content)


def write_table(target: AnyPath, table: "pa.Table | pd.DataFrame") -> None:
    """Write a Parquet file in one step."""
    if not isinstance(table, pa.Table):
        table = pa.Table.from_pandas(table, preserve_index=False)
    with atomic_path(target) as part:
        pq.write_table(table, part, compression="zstd")


def read_table(source: AnyPath, columns: list[str] | None = None) -> "pd.DataFrame":
    """Read one Parquet file, without taking columns from the names of its folders.

    Raises
    ------
    UserError
        When the table does not exist.
    """
    if not source.exists():
        raise UserError(f"{source}: this table does not exist yet; materialise its asset first")
    with source.open("rb") as file:
        return pq.ParquetFile(file).read(columns=columns).to_pandas()


def mark_fingerprint(table: pa.Table, fingerprint: str | None) -> pa.Table:
    """Write the fingerprint of the session's folder into the metadata of a table made from it."""
    marked = dict(table.schema.metadata or {})
    marked.pop(_FINGERPRINT, None)
    if fingerprint:
        marked[_FINGERPRINT] = fingerprint.encode()
    return table.replace_schema_metadata(marked)


def table_fingerprint(source: AnyPath) -> str | None:
    """Read the fingerprint of the session's folder that a table was made from.

    Returns
    -------
    str or None
        None if the table does not exist, is not readable or has no fingerprint.
    """
    metadata = table_metadata(source)
    return metadata[_FINGERPRINT].decode() if _FINGERPRINT in metadata else None


def table_metadata(source: AnyPath) -> dict[bytes, bytes]:
    """Read the metadata of a table's schema; empty if the table does not exist or is not readable."""
    try:
        with source.open("rb") as file:
            return pq.read_schema(file).metadata or {}
    except (FileNotFoundError, pa.ArrowException):
        return {}


def encode_tiff(image: np.ndarray, pixel_size_nm: float | None = None) -> bytes:
    """Encode an image as TIFF with its scale, as ImageJ and napari read it.

    Parameters
    ----------
    image : ndarray, (height, width)
        uint8, uint16 and float32 are written as ImageJ writes them; other types (label images of more than
        65,535 particles) as plain TIFF with the same resolution.
    pixel_size_nm : float, optional
        Side of a square pixel; None if the image is not calibrated.
    """
    stream = io.BytesIO()
    imagej = image.dtype in (np.uint8, np.uint16, np.float32)
    options: dict = {"imagej": True} if imagej else {"compression": "zlib"}
    if pixel_size_nm:
        options["resolution"] = (1 / pixel_size_nm, 1 / pixel_size_nm)
        if imagej:
            options["metadata"] = {"unit": "nm"}
        else:
            options["resolution"] = (1e7 / pixel_size_nm, 1e7 / pixel_size_nm)
            options["resolutionunit"] = "CENTIMETER"
    tifffile.imwrite(stream, image, **options)
    return stream.getvalue()


def read_tiff(source: AnyPath) -> np.ndarray:
    """Read an image that `encode_tiff` encoded, from a local disk or an object store."""
    with source.open("rb") as file:
        return tifffile.imread(file)


def write_content(folder: AnyPath, stem: str, suffix: str, content: bytes) -> str:
    """Write a file with a hash of its content in its name.

    Parameters
    ----------
    folder : path
        Local or remote.
    stem, suffix : str
        Parts of the name before and after the hash; the suffix begins with a point.
    content : bytes

    Returns
    -------
    str
        The file's name. An existing file of this name has the same content and is not rewritten.
    """
    name = f"{stem}-{hashlib.sha256(content).hexdigest()[:16]}{suffix}"
    target = folder / name
    if not target.exists():
        write_bytes(target, content)
    return name


def collect_unreferenced(
    folder: AnyPath, referenced: Iterable[str], older_than_s: float = 86_400, pattern: str = "*"
) -> int:
    """Delete files that no table references.

    Parameters
    ----------
    folder : path
        Nothing is deleted if it does not exist.
    referenced : iterable of str
        Names of the files that the current table references.
    older_than_s : float
        Younger files are kept, because readers of the previous table may still need them.

    Returns
    -------
    int
        Number of deleted files.
    """
    if not folder.exists():
        return 0
    keep = set(referenced) | {TABLE_FILE}
    old = time.time() - older_than_s
    unreferenced = [
        file for file in folder.glob(pattern) if file.name not in keep and file.stat().st_mtime < old
    ]
    for file in unreferenced:
        file.unlink(missing_ok=True)
    return len(unreferenced)


@contextmanager
def session_lock(layout: Layout, session: str, timeout_s: float = 3600) -> Iterator[None]:
    """Hold the lock of a session while its tables are written. The system frees it if the process dies.

    Parameters
    ----------
    layout : Layout
    session : str
        Key of the session.
    timeout_s : float
        Seconds to wait for another process that holds the lock.

    Raises
    ------
    UserError
        When another process holds the lock for longer than `timeout_s`, or its folder is not writable.
    """
    with _lock(layout, _safe(session), f"session {session} is being processed", timeout_s):
        yield


@contextmanager
def training_lock(layout: Layout, timeout_s: float = 3600) -> Iterator[None]:
    """Hold the lock of the training tables. The system frees it if the process dies.

    Raises
    ------
    UserError
        When another training holds the lock for longer than `timeout_s`, or its folder is not writable.
    """
    # No session's key starts with a point.
    with _lock(layout, ".training", "the training tables are being written", timeout_s):
        yield


@contextmanager
def _lock(layout: Layout, name: str, held: str, timeout_s: float) -> Iterator[None]:
    local = is_local(layout.data_root)
    root = Path(str(layout.data_root)) if local else Path(tempfile.gettempdir(), "tem_pipeline")
    path = root / ".locks" / f"{name}.lock"
    lock = FileLock(str(path), timeout=timeout_s)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout as error:
        raise UserError(f"{held} by somebody else; try again later") from error
    except OSError as error:
        raise UserError(
            f"{path}: can't be written ({error.strerror}); make room or give write permission to {root}"
        ) from error
    try:
        yield
    finally:
        lock.release()


def is_free(lock: AbstractContextManager[None]) -> bool:
    """Tell whether nobody holds a lock that was made with a timeout of 0."""
    try:
        with lock:
            return True
    except UserError:
        return False
