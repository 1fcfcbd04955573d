"""Files that were made to harm a reader: one function per kind, each writes its files into a folder.

Every function gives the file that is read. Its name says what the file does to a library that trusts it.
"""

import io
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import tifffile
from PIL import Image

PIXELS = np.random.default_rng(0).integers(100, 4000, (48, 64), dtype=np.uint16)


def tiff_directories_in_a_circle(folder: Path) -> Path:
    return _tiff_chain(folder / "circle.tif", 300, ends=False)


def tiff_of_100_000_directories(folder: Path) -> Path:
    return _tiff_chain(folder / "chain.tif", 100_000, ends=True)


def _tiff_chain(path: Path, count: int, ends: bool) -> Path:
    """Write directories of one row of 4 pixels each, which share their pixels."""
    tags = [
        (256, 4, 4),
        (257, 4, 4),
        (258, 3, 8),
        (262, 3, 1),
        (273, 4, 8),
        (277, 3, 1),
        (278, 4, 4),
        (279, 4, 16),
    ]
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    size = 2 + len(entries) + 4
    start = 8 + 16
    parts = [struct.pack("<2sHI", b"II", 42, start), bytes(range(16))]
    for number in range(count):
        last = number == count - 1
        following = (0 if ends else start + size * 150) if last else start + size * (number + 1)
        parts.append(struct.pack("<H", len(tags)) + entries + struct.pack("<I", following))
    path.write_bytes(b"".join(parts))
    return path


def ome_tiff_of_400_million_planes(folder: Path) -> Path:
    return _ome(folder / "planes.tif", 'SizeT="400000000"', '<TiffData IFD="0" PlaneCount="400000000"/>')


def ome_tiff_whose_first_plane_is_number_400_million(folder: Path) -> Path:
    data = '<TiffData IFD="0" FirstT="399999999" PlaneCount="1"/>'
    return _ome(folder / "first_plane.tif", 'SizeT="400000000"', data)


def ome_tiff_that_names_a_file_elsewhere(folder: Path) -> Path:
    """Name a file beside the session's folder."""
    session = folder / "session"
    session.mkdir()
    tifffile.imwrite(folder / "secret.tif", PIXELS[::-1])
    data = "".join(
        f'<TiffData IFD="0" FirstT="{number}" PlaneCount="1"><UUID FileName="{name}">{name}</UUID></TiffData>'
        for number, name in enumerate(("elsewhere.tif", "../secret.tif"))
    )
    return _ome(session / "elsewhere.tif", 'SizeT="2"', data)


def _ome(path: Path, size_t: str, data: str) -> Path:
    description = (
        '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">'
        '<Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint16" SizeX="64" '
        f'SizeY="48" SizeZ="1" SizeC="1" {size_t}>{data}</Pixels></Image></OME>'
    )
    tifffile.imwrite(path, PIXELS, description=description, metadata=None)
    return path


def tiff_strip_that_grows_a_thousandfold(folder: Path) -> Path:
    strip = _packed_zeros(280)
    options = {"shape": (14_000, 20_000), "dtype": np.uint8, "compression": "zlib", "rowsperstrip": 14_000}
    tifffile.imwrite(folder / "blank.tif", iter([strip]), photometric="minisblack", **options)
    return folder / "blank.tif"


def _packed_zeros(megabytes: int) -> bytes:
    packer = zlib.compressobj(1)
    return b"".join(packer.compress(bytes(10**6)) for _ in range(megabytes)) + packer.flush()


def hdf5_graph_that_fans_out(folder: Path) -> Path:
    with _hspy(folder / "fan.hspy") as (file, experiment):
        below = file.create_group("end")
        for level in range(40):
            group = file.create_group(f"level{level}")
            group["left"], group["right"] = below, below
            below = group
        experiment["original_metadata/fan"] = below
    return folder / "fan.hspy"


def hdf5_graph_of_soft_links_that_fans_out(folder: Path) -> Path:
    with _hspy(folder / "soft.hspy") as (file, experiment):
        file.create_group("level0")
        for level in range(1, 40):
            group = file.create_group(f"level{level}")
            group["left"] = group["right"] = h5py.SoftLink(f"/level{level - 1}")
        experiment["original_metadata/fan"] = h5py.SoftLink("/level39")
    return folder / "soft.hspy"


def hdf5_group_that_holds_itself(folder: Path) -> Path:
    with _hspy(folder / "self.hspy") as (_, experiment):
        group = experiment["original_metadata"]
        group["again"] = group
    return folder / "self.hspy"


def hdf5_of_5_000_levels(folder: Path) -> Path:
    with _hspy(folder / "deep.hspy") as (_, experiment):
        group = experiment["original_metadata"]
        for _level in range(5000):
            group = group.create_group("a")
    return folder / "deep.hspy"


def hdf5_of_100_000_rows_of_variable_length(folder: Path) -> Path:
    with _hspy(folder / "rows.hspy") as (_, experiment):
        rows = experiment["original_metadata"].create_dataset("rows", (100_000,), h5py.vlen_dtype(np.uint8))
        rows[:1000] = [np.zeros(10, np.uint8)] * 1000
    return folder / "rows.hspy"


def hdf5_rows_that_share_one_long_row(folder: Path) -> Path:
    """Let 4,000 rows refer to the same 1 MB of zeros."""
    path = folder / "shared_rows.hspy"
    with _hspy(path) as (_, experiment):
        group = experiment["original_metadata"]
        rows = group.create_dataset("rows", (4000,), h5py.vlen_dtype(np.uint8))
        rows[0] = np.zeros(10**6, np.uint8)
        place = rows.id.get_offset()
    content = bytearray(path.read_bytes())
    content[place : place + 16 * 4000] = content[place : place + 16] * 4000
    path.write_bytes(content)
    return path


def hdf5_chunk_longer_than_its_data(folder: Path) -> Path:
    with h5py.File(folder / "chunk.emd", "w") as file:
        data = _berkeley(file).create_dataset(
            "data", PIXELS.shape, "u2", maxshape=(None, None), chunks=(15_000, 10_000), compression="gzip"
        )
        data.id.write_direct_chunk((0, 0), _packed_zeros(300))
    return folder / "chunk.emd"


def hdf5_data_in_another_file(folder: Path) -> Path:
    session = folder / "session"
    session.mkdir()
    with h5py.File(folder / "secret.emd", "w") as file:
        file["pixels"] = PIXELS
    with h5py.File(session / "virtual.emd", "w") as file:
        layout = h5py.VirtualLayout(PIXELS.shape, "u2")
        layout[:] = h5py.VirtualSource("../secret.emd", "pixels", PIXELS.shape)
        _berkeley(file).create_virtual_dataset("data", layout)
    return session / "virtual.emd"


def _berkeley(file: h5py.File) -> h5py.Group:
    file.attrs["version_major"], file.attrs["version_minor"] = 0, 2
    group = file.create_group("data/a")
    group.attrs["emd_group_type"] = 1
    for number, size in enumerate(PIXELS.shape, 1):
        axis = group.create_dataset(f"dim{number}", data=np.arange(size) * 0.1)
        axis.attrs["name"], axis.attrs["units"] = "yx"[number - 1], "[n_m]"
    return group


class _hspy:
    """Open a plain .hspy file, to which something is added."""

    def __init__(self, path: Path) -> None:
        self._file = h5py.File(path, "w")

    def __enter__(self) -> tuple[h5py.File, h5py.Group]:
        self._file.attrs["file_format"], self._file.attrs["file_format_version"] = "HyperSpy", "3.3"
        group = self._file.create_group("Experiments/a")
        group["data"] = PIXELS
        for number, size in enumerate(PIXELS.shape):
            axis = group.create_group(f"axis-{number}")
            axis.attrs.update(
                {"name": "yx"[number], "scale": 0.1, "units": "nm", "size": size, "offset": 0.0}
            )
            axis.attrs["navigate"] = False
        group.create_group("metadata/General").attrs["title"] = "a"
        group.create_group("original_metadata")
        return self._file, group

    def __exit__(self, *_: object) -> None:
        self._file.close()


def dm3_of_a_million_groups(folder: Path) -> Path:
    count = 1_000_000
    group = struct.pack(">BH", 20, 0) + struct.pack(">BBI", 0, 0, 0)
    header = struct.pack(">III", 3, len(group) * count, 1) + struct.pack(">BBI", 0, 0, count)
    (folder / "groups.dm3").write_bytes(header + group * count + bytes(8))
    return folder / "groups.dm3"


def dm3_of_5_000_levels(folder: Path) -> Path:
    group = struct.pack(">BH", 20, 0) + struct.pack(">BBI", 0, 0, 1)
    header = struct.pack(">III", 3, len(group) * 5000, 1) + struct.pack(">BBI", 0, 0, 1)
    (folder / "levels.dm3").write_bytes(header + group * 5000 + bytes(8))
    return folder / "levels.dm3"


def jpeg_of_5_000_scans(folder: Path) -> Path:
    """Repeat the last scan of a progressive picture."""
    stream = io.BytesIO()
    grey = np.random.default_rng(0).integers(0, 255, (2000, 2000)).astype(np.uint8)
    Image.fromarray(grey).resize((4000, 4000)).save(stream, "JPEG", progressive=True, quality=20)
    content = stream.getvalue()
    header = content.index(b"\xff\xda")
    first_end = content.index(b"\xff\xc4", header) if b"\xff\xc4" in content[header:] else len(content) - 2
    # A scan of no coefficient changes: each block costs time and hardly any byte.
    empty = b"\xff\xda\x00\x08\x01" + content[header + 5 : header + 6] + b"\x00\x00\x00\x01" + b"\x00" * 4
    (folder / "scans.jpg").write_bytes(content[:first_end] + empty * 5000 + content[first_end:])
    return folder / "scans.jpg"


def png_that_claims_a_billion_pixels(folder: Path) -> Path:
    stream = io.BytesIO()
    Image.fromarray((PIXELS // 16).astype(np.uint8)).save(stream, "PNG")
    content = bytearray(stream.getvalue())
    content[16:24] = struct.pack(">II", 40_000, 40_000)
    (folder / "claims.png").write_bytes(content)
    return folder / "claims.png"


def sparse_mrc_of_a_terabyte(folder: Path) -> Path:
    path = folder / "sparse.mrc"
    header = bytearray(1024)
    header[0:16] = struct.pack("<iiii", 60_000, 60_000, 100, 2)
    header[208:212] = b"MAP "
    path.write_bytes(header)
    os.truncate(path, 1024 + 60_000 * 60_000 * 100 * 4)
    return path


def emi_of_many_pairs(folder: Path) -> Path:
    """Let every opening mark find the same last closing mark."""
    (folder / "pairs.emi").write_bytes(b"<ObjectInfo>" * 20_000 + b"x" * 200_000 + b"</ObjectInfo>")
    (folder / "pairs_1.ser").write_bytes(b"II\x97\x01" + bytes(200))
    return folder / "pairs.emi"


def ser_that_is_a_link_out_of_the_session(folder: Path) -> Path:
    return _tia_pair(folder, lambda path: path.symlink_to(_secret(folder)))


def ser_that_is_a_pipe(folder: Path) -> Path:
    return _tia_pair(folder, os.mkfifo)


def ser_that_is_a_device(folder: Path) -> Path:
    return _tia_pair(folder, lambda path: path.symlink_to("/dev/zero"))


def emi_that_is_a_pipe(folder: Path) -> Path:
    (folder / "pipe_1.ser").write_bytes(b"II\x97\x01" + bytes(200))
    os.mkfifo(folder / "pipe.emi")
    return folder / "pipe_1.ser"


def emi_that_is_a_link_out_of_the_session(folder: Path) -> Path:
    session = folder / "session"
    session.mkdir()
    (session / "link_1.ser").write_bytes(b"II\x97\x01" + bytes(200))
    (session / "link.emi").symlink_to(_secret(folder))
    return session / "link_1.ser"


def tif_that_is_a_pipe(folder: Path) -> Path:
    os.mkfifo(folder / "pipe.tif")
    return folder / "pipe.tif"


def tif_that_is_a_device(folder: Path) -> Path:
    (folder / "device.tif").symlink_to("/dev/zero")
    return folder / "device.tif"


def _secret(folder: Path) -> Path:
    (folder / "secret").write_bytes(b"<ObjectInfo>secret</ObjectInfo>")
    return folder / "secret"


def _tia_pair(folder: Path, make_ser: Callable[[Path], object]) -> Path:
    session = folder / "session"
    session.mkdir()
    (session / "pair.emi").write_bytes(b"<ObjectInfo></ObjectInfo>")
    make_ser(session / "pair_1.ser")
    return session / "pair.emi"


CRAFTED: tuple[Callable[[Path], Path], ...] = (
    tiff_directories_in_a_circle,
    tiff_of_100_000_directories,
    ome_tiff_of_400_million_planes,
    ome_tiff_whose_first_plane_is_number_400_million,
    ome_tiff_that_names_a_file_elsewhere,
    tiff_strip_that_grows_a_thousandfold,
    hdf5_graph_that_fans_out,
    hdf5_graph_of_soft_links_that_fans_out,
    hdf5_group_that_holds_itself,
    hdf5_of_5_000_levels,
    hdf5_of_100_000_rows_of_variable_length,
    hdf5_rows_that_share_one_long_row,
    hdf5_chunk_longer_than_its_data,
    hdf5_data_in_another_file,
    dm3_of_a_million_groups,
    dm3_of_5_000_levels,
    jpeg_of_5_000_scans,
    png_that_claims_a_billion_pixels,
    sparse_mrc_of_a_terabyte,
    emi_of_many_pairs,
    ser_that_is_a_link_out_of_the_session,
    ser_that_is_a_pipe,
    ser_that_is_a_device,
    emi_that_is_a_pipe,
    emi_that_is_a_link_out_of_the_session,
    tif_that_is_a_pipe,
    tif_that_is_a_device,
)
