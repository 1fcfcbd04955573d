"""Writes small files of several formats, and checks how a file is refused."""

from pathlib import Path

import h5py
import mrcfile
import numpy as np
import pytest

from tem_pipeline.errors import UserError
from tem_pipeline.micrographs.reading import MicrographError, read_micrographs


def refusal(path: Path, **options: bool) -> str:
    with pytest.raises(MicrographError) as caught:
        read_micrographs(path, **options)
    message = str(caught.value)
    assert isinstance(caught.value, UserError)
    assert message.startswith(path.name)
    assert message.isprintable()
    assert len(message) < 500
    return message


def signal_of(data: np.ndarray, scale: float = 0.1, units: str = "nm", title: str = "HAADF") -> dict:
    """Make the signal that RosettaSciIO's writers take."""
    names = [None, "y", "x"][-data.ndim :]
    axes = [
        {"name": name, "size": size, "scale": scale, "offset": 0.0, "units": units, "navigate": False}
        for name, size in zip(names, data.shape, strict=True)
    ]
    return {
        "data": data,
        "axes": [axis | {"_type": "UniformDataAxis", "index_in_array": i} for i, axis in enumerate(axes)],
        "metadata": {"General": {"title": title}, "Signal": {"signal_type": ""}},
        "original_metadata": {},
        "attributes": {"_lazy": False},
        "learning_results": {},
        "tmp_parameters": {},
        "package_info": {"package": "test", "package_version": "1"},
        "models": {},
    }


def write_berkeley(path: Path, images: dict[str, np.ndarray], unit: str = "[n_m]", dims: float = 0.1) -> None:
    with h5py.File(path, "w") as file:
        file.attrs["version_major"], file.attrs["version_minor"] = 0, 2
        for name, data in images.items():
            group = file.create_group(f"data/{name}")
            group.attrs["emd_group_type"] = 1
            group["data"] = data.T
            for i, size in enumerate(data.T.shape):
                dim = group.create_dataset(f"dim{i + 1}", data=np.arange(size) * dims)
                dim.attrs["name"], dim.attrs["units"] = "xyzt"[i], unit


def write_mrc(path: Path, data: np.ndarray, voxel_a: float) -> None:
    with mrcfile.new(path, data, overwrite=True) as mrc:
        mrc.voxel_size = voxel_a
