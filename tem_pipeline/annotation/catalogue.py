"""Stores annotated images and their split in one table, which every training step reads."""

import hashlib
from collections.abc import Sequence

import pandas as pd

from tem_pipeline.annotation.datasets import AnnotatedImage, AnnotatedSet
from tem_pipeline.annotation.pixels import decode_class_map, decode_image, encode_class_map, encode_image
from tem_pipeline.errors import UserError


def to_catalogue(annotated: AnnotatedSet, parts: Sequence[str], split_seed: int) -> pd.DataFrame:
    """Put images, class maps and the split into a table.

    Parameters
    ----------
    annotated : AnnotatedSet
    parts : sequence of str
        training, validation or test for every image.
    split_seed : int
        Seed of the split.

    Returns
    -------
    DataFrame
        One row per image. `dataset_hash` covers images, masks, sources and the split. Standardised images are
        16-bit PNGs, class maps 8-bit PNGs.
    """
    # The split is part of the hash, because models are compared on the test images of their own split.
    split = "\n".join([annotated.sha256, *parts])
    dataset_hash = hashlib.sha256(split.encode()).hexdigest()
    rows = [
        {
            "dataset_hash": dataset_hash,
            "split_seed": split_seed,
            "set_name": annotated.name,
            "name": image.name,
            "group": image.group,
            "part": part,
            "pixel_sha256": image.pixel_sha256,
            "mask_sha256": image.mask_sha256,
            "mode": image.mode,
            "height_px": image.image.shape[0],
            "width_px": image.image.shape[1],
            "pixel_size_nm": list(image.pixel_size_nm) if image.pixel_size_nm else None,
            "classes": list(image.classes),
            "image_png": encode_image(image.image),
            "class_map_png": encode_class_map(image.class_map),
        }
        for image, part in zip(annotated.images, parts, strict=True)
    ]
    return pd.DataFrame(rows)


def from_catalogue(catalogue: pd.DataFrame, part: str) -> list[AnnotatedImage]:
    """Give the images of one part of the split.

    Raises
    ------
    UserError
        When the part is empty.
    """
    chosen = catalogue[catalogue["part"] == part]
    if chosen.empty:
        raise UserError(f"there is no {part} image in annotated_images: materialise it again")
    return [
        AnnotatedImage(
            name=row["name"],
            image=decode_image(row["image_png"]),
            class_map=decode_class_map(row["class_map_png"]),
            classes=tuple(row["classes"]),
            group=row["group"],
            pixel_sha256=row["pixel_sha256"],
            mask_sha256=row["mask_sha256"],
            mode=row["mode"],
            pixel_size_nm=None if row["pixel_size_nm"] is None else tuple(row["pixel_size_nm"]),
        )
        for row in chosen.to_dict("records")
    ]
