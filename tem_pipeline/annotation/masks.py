"""Reads and checks one annotated image: a micrograph with its mask and, if there is one, its shells.

`datasets` puts the images of a set together.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tem_pipeline.micrographs.hashes import pixel_sha256
from tem_pipeline.micrographs.reading import MicrographError
from tem_pipeline.micrographs.reading_process import read_micrographs
from tem_pipeline.text import printable

MASK_SUFFIXES = (".png", ".tif", ".tiff", ".jpg", ".jpeg")

_CODING = "use 0 for background and 255 for particles, or a separate number 1, 2, 3 … per particle"


@dataclass
class Annotation:
    """One image with its mask as read; the set's mode and sources are not known yet."""

    name: str
    pixels: np.ndarray
    class_map: np.ndarray
    instances: np.ndarray | None
    pixel_size_nm: tuple[float, float] | None
    pixel_sha256: str
    mask_sha256: str


class Fault(Exception):
    """The fault of one file; its text does not name the set's folder."""


def read_annotation(name: str, files: dict[str, Path]) -> Annotation:
    """Read the image, mask and shells of one name.

    Parameters
    ----------
    name : str
    files : dict of str to path
        Files of "images" and "masks", and of "shells" if the set has them.

    Raises
    ------
    Fault
        If a file can't be read or the files don't fit together.
    """
    image, pixel_size_nm = _read_image(files["images"], "images", measurable_only=True)
    core, instances = _read_mask(files["masks"], "masks", image.shape)
    class_map = core.astype(np.uint8)
    if "shells" in files:
        whole, _ = _read_mask(files["shells"], "shells", image.shape)
        outside = np.count_nonzero(core & ~whole)
        if outside > np.count_nonzero(core) / 2:
            raise Fault(
                f"shells/{printable(files['shells'].name)}: most of the cores are outside the shells: "
                "draw whole particles, core and shell together"
            )
        class_map = np.where(core, np.uint8(2), whole.astype(np.uint8))
    digest = hashlib.sha256(np.array(image.shape, dtype="<i8").tobytes() + class_map.tobytes())
    if instances is not None:
        digest.update(instances.astype("<i4").tobytes())
    return Annotation(
        name=name,
        pixels=image,
        class_map=class_map,
        instances=instances,
        pixel_size_nm=pixel_size_nm,
        pixel_sha256=pixel_sha256(image),
        mask_sha256=digest.hexdigest(),
    )


def _read_image(
    file: Path, kind: str, *, measurable_only: bool
) -> tuple[np.ndarray, tuple[float, float] | None]:
    """Read the only image of a file. A mask may be blank, a micrograph may not."""
    try:
        micrographs = read_micrographs(file, measurable_only=measurable_only, as_stored=kind != "images")
    except MicrographError as error:
        raise Fault(f"{kind}/{printable(file.name)}: {error.reason}") from error
    if len(micrographs) != 1:
        raise Fault(
            f"{kind}/{printable(file.name)}: it holds {len(micrographs)} images: save each as its own file"
        )
    return micrographs[0].image, micrographs[0].pixel_size_nm


def _read_mask(file: Path, kind: str, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray | None]:
    """Read a mask as foreground, and as label image if it separates particles."""
    where = f"{kind}/{printable(file.name)}"
    if file.suffix.lower() not in MASK_SUFFIXES:
        raise Fault(f"{where}: a mask is a {', '.join(MASK_SUFFIXES)} file: export it as one")
    mask, _ = _read_image(file, kind, measurable_only=False)
    if mask.shape != shape:
        raise Fault(
            f"{where}: the mask is {mask.shape[0]}x{mask.shape[1]} px and its image {shape[0]}x{shape[1]} px "
            "(height x width): they must agree"
        )
    if file.suffix.lower() in (".jpg", ".jpeg"):
        # Compression blurs a mask: labels are lost, but dark and bright can still be separated.
        unclear = np.mean((mask >= 64) & (mask < 192))
        if unclear > 0.05:
            raise Fault(f"{where}: JPEG has blurred its values: save the mask as PNG")
        return mask >= 128, None
    values = np.unique(mask)
    if np.any(values < 0) or np.any(values != np.floor(values)) or values[-1] > np.iinfo(np.int32).max:
        raise Fault(
            f"{where}: a mask has whole numbers from 0 upwards, not {values[0]:g} … {values[-1]:g}: {_CODING}"
        )
    labels = values[values > 0]
    foreground = mask > 0
    if len(labels) == 0 or (len(labels) == 1 and labels[0] in (1, 255)):
        return foreground, None
    if len(labels) == 1:
        raise Fault(f"{where}: its only values are {', '.join(f'{v:g}' for v in values)}: {_CODING}")
    instances = mask.astype(np.int32)
    _check_instances(where, instances, len(labels))
    return foreground, instances


def _check_instances(where: str, instances: np.ndarray, count: int) -> None:
    from skimage.measure import label

    # In a mask that codes classes, few values cover many particles.
    pieces = int(label(instances, connectivity=2).max())
    if pieces >= 4 * count:
        raise Fault(
            f"{where}: its {count} labels are in {pieces} pieces, so they seem to code classes: "
            "give each particle its own label, or use 255 for all cores, and put whole particles into shells/"
        )
