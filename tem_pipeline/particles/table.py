"""Makes particle tables: measures images and adds to every row its image and its model."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from tem_pipeline.images_in_flight import in_order, most_in_flight
from tem_pipeline.particles.checks import PARTICLE_SCHEMA_IN_MEMORY
from tem_pipeline.particles.measurement import measure_particles
from tem_pipeline.storage import AnyPath, read_tiff
from tem_pipeline.tables import conform

FROM_MANIFEST = (
    "session_id",
    "session_name",
    "sample_id",
    "image_id",
    "field_id",
    "file",
    "file_sha256",
    "pixel_sha256",
    "calibration",
    "calibration_uncertainty",
    "metal",
)
FROM_MASKS = ("mode", "image_quality", "model_name", "model_version", "model_sha256", "loss", "code_version")


def measure_image(
    raw: Mapping[str, Any],
    mask: Mapping[str, Any],
    image: np.ndarray,
    labels: np.ndarray,
    core_probability: np.ndarray,
    shell_labels: np.ndarray | None,
) -> pd.DataFrame:
    """Measure every particle of one image; sessions and single images share this.

    Parameters
    ----------
    raw : mapping
        The image's row of the manifest: `FROM_MANIFEST` and pixel_size_x_nm.
    mask : mapping
        The image's row of the masks: `FROM_MASKS` and split_labels. Tables written before touching cores were
        cut apart have no split_labels.
    image, labels, core_probability, shell_labels
        See `measure_particles`.

    Returns
    -------
    DataFrame
        One row per particle with the columns of `PARTICLE_SCHEMA`.
    """
    pixel_size_nm = float(raw["pixel_size_x_nm"]) if pd.notna(raw["pixel_size_x_nm"]) else None
    split_labels = mask.get("split_labels")
    measured = measure_particles(
        labels,
        image,
        core_probability,
        pixel_size_nm,
        shell_labels=shell_labels,
        split_labels=[] if split_labels is None else [int(label) for label in split_labels],
    )
    origin = {name: raw[name] for name in FROM_MANIFEST} | {name: mask[name] for name in FROM_MASKS}
    return with_origin(measured, origin | {"pixel_size_nm": pixel_size_nm})


def measure_session(
    manifest: pd.DataFrame, images: AnyPath, masks: pd.DataFrame, mask_images: AnyPath
) -> pd.DataFrame:
    """Measure every particle of a session.

    Two images are in work at the same time, or one if any is very large.

    Parameters
    ----------
    manifest, masks : DataFrame
        The tables of `raw_tem_images` and `predicted_masks`.
    images, mask_images : path
        Folders of the images that these tables name.

    Returns
    -------
    DataFrame
        One row per particle with the columns of `PARTICLE_SCHEMA`, as `join_tables` gives them.
    """
    rows = manifest.set_index("image_id", drop=False)

    def measure(pair: tuple[pd.Series, pd.Series]) -> pd.DataFrame:
        raw, mask = pair
        return measure_image(
            raw.to_dict(),
            mask.to_dict(),
            read_tiff(images / raw["image_file"]),
            read_tiff(mask_images / mask["labels_file"]),
            read_tiff(mask_images / mask["probability_file"]),
            read_tiff(mask_images / mask["shells_file"]) if pd.notna(mask["shells_file"]) else None,
        )

    pairs = ((rows.loc[mask["image_id"]], mask) for _, mask in masks.iterrows())
    in_flight = most_in_flight(rows.loc[masks["image_id"]])
    return join_tables(table for _, table in in_order(measure, pairs, in_flight))


def join_tables(tables: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """Join the tables of several images; texts that an image's particles share become categories."""
    # Each table is converted at once, because a DataFrame of texts takes several times the memory.
    packed = [conform(table, PARTICLE_SCHEMA_IN_MEMORY) for table in tables]
    table = pa.concat_tables([PARTICLE_SCHEMA_IN_MEMORY.empty_table(), *packed])
    del packed  # Otherwise every column is in memory twice until the last one is converted.
    return table.to_pandas(split_blocks=True, self_destruct=True)


def with_origin(measured: pd.DataFrame, origin: Mapping[str, Any]) -> pd.DataFrame:
    """Add to every row the image and the model it comes from, and a unique `particle_id`.

    Parameters
    ----------
    measured : DataFrame
        As `measure_particles` returns it.
    origin : mapping
        Values of the provenance columns.
    """
    columns = {name: [None if pd.isna(value) else value] * len(measured) for name, value in origin.items()}
    identity = [f"{origin['session_id']}/{origin['image_id']}/{label}" for label in measured["label"]]
    return pd.concat([pd.DataFrame({"particle_id": identity, **columns}), measured], axis=1)
