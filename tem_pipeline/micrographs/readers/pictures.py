"""Reads PNG and JPEG pictures with Pillow; they have no pixel size."""

from pathlib import Path

import numpy as np

from tem_pipeline.micrographs.readers.claims import check_jpeg_scans
from tem_pipeline.micrographs.readers.signals import Signal, check_claimed_size


def read_picture(path: Path) -> list[Signal]:
    """Read the picture of a PNG or JPEG file.

    Parameters
    ----------
    path : Path

    Returns
    -------
    list of Signal
        One. It has an axis "sample" if it has colour or transparency.
    """
    from PIL import Image

    check_jpeg_scans(path)
    with Image.open(path, formats=("PNG", "JPEG")) as picture:
        channels = len(picture.getbands())
        check_claimed_size(path, picture.width * picture.height * channels)
        if picture.mode in ("P", "PA", "CMYK", "YCbCr", "HSV", "LAB"):
            picture = picture.convert("RGB")
        data = np.asarray(picture)
    if data.dtype == bool:
        data = data.astype(np.uint8) * np.uint8(255)
    if data.dtype == np.int32 and data.size and data.min() >= 0 and data.max() < 2**16:
        data = data.astype(np.uint16)  # Pillow gives some 16-bit PNGs as int32.
    axes = [{"scale": 1.0, "units": None, "navigate": False} for _ in range(2)]
    if data.ndim == 3:
        axes.append({"name": "sample", "navigate": False})
    return [{"data": data, "axes": axes, "metadata": {}, "original_metadata": {}}]
