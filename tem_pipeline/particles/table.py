"""Puts a session's particle table together: what was measured on each image, with where it came from."""

from collections.abc import Iterable
from typing import Any

import pandas as pd
import pyarrow as pa
import tifffile

from tem_pipeline.images_in_flight import in_order, most_in_flight
from tem_pipeline.particles.checks import PARTICLE_SCHEMA_IN_MEMORY
from tem_pipeline.particles.measurement import measure_particles
from tem_pipeline.storage import AnyPath
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


def measure_session(
    manifest: pd.DataFrame, images: AnyPath, masks: pd.DataFrame, mask_images: AnyPath
) -> pd.DataFrame:
    """Measure every particle of a session; two images at a time, where they aren't very large.

    Parameters
    ----------
    manifest, masks : DataFrame
        The tables of `raw_tem_images` and `predicted_masks`.
    images, mask_images : path
        Where the images lie that they name.

    Returns
    -------
    DataFrame
        One row a particle with the columns of `PARTICLE_SCHEMA`, as `join_tables` gives them.
    """
    rows = manifest.set_index("image_id")

    def measure(pair: tuple[pd.Series, pd.Series]) -> pd.DataFrame:
        raw, mask = pair
        pixel_size_nm = float(raw["pixel_size_x_nm"]) if pd.notna(raw["pixel_size_x_nm"]) else None
        measured = measure_particles(
            _read(mask_images / mask["labels_file"]),
            _read(images / raw["image_file"]),
            _read(mask_images / mask["probability_file"]),
            pixel_size_nm,
            shell_labels=_read(mask_images / mask["shells_file"]) if pd.notna(mask["shells_file"]) else None,
            split_labels=_split_labels(mask),
        )
        origin = {**raw[[c for c in FROM_MANIFEST if c != "image_id"]], **mask[[*FROM_MASKS, "image_id"]]}
        return with_origin(measured, {**origin, "pixel_size_nm": pixel_size_nm})

    pairs = ((rows.loc[mask["image_id"]], mask) for _, mask in masks.iterrows())
    in_flight = most_in_flight(rows.loc[masks["image_id"]])
    return join_tables(table for _, table in in_order(measure, pairs, in_flight))


def join_tables(tables: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """Put the tables of several images together; texts that an image's particles share are categories."""
    # Packed as they come: as a frame, texts and many small arrays among the images' large ones, each takes
    # several times the room.
    packed = [conform(table, PARTICLE_SCHEMA_IN_MEMORY) for table in tables]
    table = pa.concat_tables([PARTICLE_SCHEMA_IN_MEMORY.empty_table(), *packed])
    del packed  # else every column stays in memory twice until the last is done
    return table.to_pandas(split_blocks=True, self_destruct=True)


def with_origin(measured: pd.DataFrame, origin: dict[str, Any]) -> pd.DataFrame:
    """Add to every row what it was measured on; `particle_id` names it uniquely.

    Parameters
    ----------
    measured : DataFrame
        As `measure_particles` returns it.
    origin : dict
        Values of the provenance columns.
    """
    columns = {name: [None if pd.isna(value) else value] * len(measured) for name, value in origin.items()}
    identity = [f"{origin['session_id']}/{origin['image_id']}/{label}" for label in measured["label"]]
    return pd.concat([pd.DataFrame({"particle_id": identity, **columns}), measured], axis=1)


def _split_labels(mask: pd.Series) -> list[int]:
    """Give the numbers of split cores; tables written before cores were split don't have the column."""
    found = mask.get("split_labels")
    return [] if found is None else [int(label) for label in found]


def _read(path: AnyPath) -> Any:
    with path.open("rb") as file:
        return tifffile.imread(file)
