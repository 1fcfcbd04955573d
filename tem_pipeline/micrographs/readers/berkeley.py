"""Reads Berkeley EMD files (NCEM, ncempy, py4DSTEM, HyperSpy).

The entries dim1, dim2 … (or dim0, dim1 …) of a data set describe its axes in the order of the stored array.
RosettaSciIO reverses them, which is right for HyperSpy's files only. Here names and units decide which axis
is which.
"""

import os
from typing import Any

import numpy as np

from tem_pipeline.micrographs.calibration import unit_kind
from tem_pipeline.micrographs.readers.signals import Refused, Signal, read_parts

_DATA_SETS = ("data", "counted_datacube", "datacube", "realslice", "diffractionslice")
_HYPERSPY_ROOT = "signals"
_NAMES = {"x": ("x", "rx", "width", "column"), "y": ("y", "ry", "height", "row")}
_UNEVEN = 0.01
"""Relative scatter of an axis' steps above which it has no single pixel size."""


def read_berkeley(file: Any) -> list[Signal]:
    """Read every data set of a Berkeley EMD file.

    Parameters
    ----------
    file : h5py.File

    Returns
    -------
    list of Signal
        Images as (height, width), series as (frame, height, width); anything else as it is stored. Data sets
        whose axes can't be told apart are left out if others can be read.

    Raises
    ------
    Refused
        If the file holds no data set, or the axes of none can be told.
    """
    import h5py

    places: list[str] = []

    def note(name: str, item: Any) -> None:
        is_data = isinstance(item, h5py.Dataset) and os.path.basename(name).startswith(_DATA_SETS)
        if is_data and item.parent.attrs.get("emd_group_type"):
            places.append(name)

    file.visititems(note)
    if not places:
        raise Refused("it holds no data set with axes, as the EMD format has them: export it again")
    return read_parts(places, lambda name: [_read_data_set(file, name)])


def _read_data_set(file: Any, place: str) -> Signal:
    dataset = file[place]
    axes = _axes(dataset)
    order = list(range(dataset.ndim))
    if dataset.ndim in (2, 3):
        order = _order(axes, is_hyperspy=place.split("/")[0] == _HYPERSPY_ROOT)
    data = dataset[()]
    return {
        "data": np.transpose(data, order) if order else data,
        "axes": [axes[index] for index in order],
        "metadata": {"General": {"title": os.path.basename(os.path.dirname(place))}},
        "original_metadata": {},
    }


def _axes(dataset: Any) -> list[Signal]:
    """Give the axes in the order of the stored array."""
    group = dataset.parent
    first = 0 if "dim0" in group else 1
    return [
        _axis(group.get(f"dim{first + index}"), size, navigate=index < dataset.ndim - 2)
        for index, size in enumerate(dataset.shape)
    ]


def _axis(dim: Any, size: int, navigate: bool) -> Signal:
    axis: Signal = {"name": "", "units": None, "scale": 1.0, "size": size, "navigate": navigate}
    if dim is None:
        return axis
    axis["name"], axis["units"] = _text(dim.attrs.get("name")), _text(dim.attrs.get("units"))
    if dim.ndim == 1 and dim.dtype.kind in "iuf" and dim.size > 1:
        # The whole axis is written, or its first two points.
        steps = np.diff(dim[()].astype(np.float64))
        mean = float(steps.mean())
        axis["scale"] = mean if np.abs(steps - mean).max() <= _UNEVEN * abs(mean) else 0.0
    else:
        axis["units"] = None
    return axis


def _text(value: Any) -> str:
    if isinstance(value, np.ndarray):
        value = value.flat[0] if value.size else ""
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    return "" if value is None else str(value)


def _order(axes: list[Signal], *, is_hyperspy: bool) -> list[int]:
    """Tell which stored axes are the frames (of three), the rows and the columns, in this order."""
    places = list(range(len(axes)))
    found = {which: [i for i in places if _is_named(axes[i], which)] for which in "yx"}
    if [len(found[which]) for which in "yx"] == [1, 1]:
        rows_and_columns = [found["y"][0], found["x"][0]]
    elif is_hyperspy:
        rows_and_columns = places[::-1][-2:]
    elif len(axes) == 2:
        # Turned or not, its particles have the same sizes.
        rows_and_columns = places
    else:
        rows_and_columns = [i for i in places if unit_kind(axes[i]["units"]) == "length"]
    others = [i for i in places if i not in rows_and_columns]
    if len(rows_and_columns) != 2:
        raise Refused(
            "it can't be told which of the three axes of its data set are rows and columns: "
            "name them x and y and write it again"
        )
    for other in others:
        unit = axes[other]["units"] or ""
        if unit_kind(unit) == "reciprocal" or "ev" in unit.casefold().replace("_", ""):
            raise Refused("it is a spectrum image, no micrograph: export the images by themselves")
    for place in places:
        axes[place]["navigate"] = place in others
    return others + rows_and_columns


def _is_named(axis: Signal, which: str) -> bool:
    return axis["name"].casefold().replace("_", "").strip() in _NAMES[which]
