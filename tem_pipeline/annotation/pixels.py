"""Encodes standardised images and class maps as PNG for the training tables."""

import io
import zlib

import numpy as np
from PIL import Image

INTENSITY_LIMIT = 8.0
"""`micrographs.intensity.standardise` clips intensities to ± this value."""

_LEVELS = 65535


def encode_image(image: np.ndarray) -> bytes:
    """Encode a standardised image as 16-bit PNG, to within 0.00013 standard deviations.

    Parameters
    ----------
    image : ndarray, (height, width)
    """
    levels = np.rint((image + INTENSITY_LIMIT) * (_LEVELS / (2 * INTENSITY_LIMIT)))
    return _encode(np.clip(levels, 0, _LEVELS).astype(np.uint16))


def decode_image(content: bytes) -> np.ndarray:
    """Decode what `encode_image` encoded, as float32."""
    return _decode(content).astype(np.float32) * np.float32(2 * INTENSITY_LIMIT / _LEVELS) - INTENSITY_LIMIT


def encode_class_map(class_map: np.ndarray) -> bytes:
    """Encode a class map, uint8, as PNG."""
    return _encode(class_map.astype(np.uint8))


def decode_class_map(content: bytes) -> np.ndarray:
    """Decode what `encode_class_map` encoded, as uint8."""
    return _decode(content).astype(np.uint8)


def _encode(image: np.ndarray) -> bytes:
    stream = io.BytesIO()
    # Run-length coding is enough: noise has no repetitions, and a mask consists of runs.
    Image.fromarray(image).save(stream, "PNG", compress_level=1, compress_type=zlib.Z_RLE)
    return stream.getvalue()


def _decode(content: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(content), formats=("PNG",)) as picture:
        return np.asarray(picture)
