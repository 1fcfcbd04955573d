"""Every table of the lake: what it holds and where its files are."""

from dataclasses import dataclass
from typing import Literal

import pyarrow as pa

from tem_pipeline.tables.activity import STRUCTURE_ACTIVITY_SCHEMA
from tem_pipeline.tables.particles import PARTICLE_SCHEMA
from tem_pipeline.tables.sessions import FAILURE_SCHEMA, MANIFEST_SCHEMA, MASK_SCHEMA, STATES_SCHEMA
from tem_pipeline.tables.statistics import SAMPLE_SUMMARY_SCHEMA, SIZE_DISTRIBUTION_SCHEMA
from tem_pipeline.tables.training import (
    ANNOTATED_IMAGES_SCHEMA,
    AUGMENTED_DATASET_SCHEMA,
    CHAMPION_SCHEMA,
    LOSS_COMPARISON_SCHEMA,
    LOSSES,
    SHARD_SCHEMA,
    TRAINED_MODEL_SCHEMA,
)

Group = Literal["analysis", "training"]


@dataclass(frozen=True)
class Table:
    """A table of the lake.

    Attributes
    ----------
    name : str
        Name of the asset's folder and of the view in SQL.
    schema : Schema
    description : str
        One sentence: what a row is.
    per_session : bool
        Whether each session has a file of its own, ``session=SESSION/part-0.parquet``.
    group : "analysis", "training" or None
        Folder of the lake that holds the table's folder; None for the lake itself.
    file_columns : tuple of str
        Columns that name files beside the table.
    file_schema : Schema, optional
        Of the files in `file_columns`, if these are tables themselves. SQL has no view of them.
    file_description : str
        One sentence: what a row of these files is.
    """

    name: str
    schema: pa.Schema
    description: str
    per_session: bool = False
    group: Group | None = None
    file_columns: tuple[str, ...] = ()
    file_schema: pa.Schema | None = None
    file_description: str = ""

    @property
    def key(self) -> str:
        """Folder of the table below the lake, which is also the asset's key."""
        return f"{self.group}/{self.name}" if self.group else self.name


TABLES = {
    table.name: table
    for table in (
        Table(
            "particle_table",
            PARTICLE_SCHEMA,
            "One row per particle: the table to query first.",
            per_session=True,
        ),
        Table(
            "size_distributions",
            SIZE_DISTRIBUTION_SCHEMA,
            "One row per session, measurand and unit.",
            per_session=True,
        ),
        Table(
            "raw_tem_images",
            MANIFEST_SCHEMA,
            "The manifest: one row per image, including refused files.",
            per_session=True,
            file_columns=("image_file",),
        ),
        Table(
            "predicted_masks",
            MASK_SCHEMA,
            "One row per segmented image.",
            per_session=True,
            file_columns=("labels_file", "shells_file", "probability_file"),
        ),
        Table(
            "session_failures",
            FAILURE_SCHEMA,
            "One row per session whose processing failed: its latest failed run.",
            per_session=True,
        ),
        Table("session_states", STATES_SCHEMA, "One row per session: its state and the reason."),
        Table(
            "sample_summary",
            SAMPLE_SUMMARY_SCHEMA,
            "One row per sample, measurand and unit, over all sessions of the sample.",
            group="analysis",
        ),
        Table(
            "structure_activity",
            STRUCTURE_ACTIVITY_SCHEMA,
            "One row per descriptor, activity unit and conditions: samples with their measured activity.",
            group="analysis",
        ),
        Table(
            "annotated_images",
            ANNOTATED_IMAGES_SCHEMA,
            "One row per annotated image, with its part of the split.",
            group="training",
        ),
        Table(
            "augmented_dataset",
            AUGMENTED_DATASET_SCHEMA,
            "One row per Parquet file of augmented crops.",
            group="training",
            file_columns=("shard_file",),
            file_schema=SHARD_SCHEMA,
            file_description="One row per augmented crop.",
        ),
        *(
            Table(
                f"model_{loss}",
                TRAINED_MODEL_SCHEMA,
                "One row: the latest model of this loss.",
                group="training",
            )
            for loss in LOSSES
        ),
        Table(
            "loss_comparison",
            LOSS_COMPARISON_SCHEMA,
            "One row per loss, and one for the baseline: scores on the test images.",
            group="training",
        ),
        Table(
            "champion_model",
            CHAMPION_SCHEMA,
            "One row: the champion, and how the last comparison ended.",
            group="training",
        ),
    )
}
"""Every table by its name. A table is added here, and nowhere else."""
