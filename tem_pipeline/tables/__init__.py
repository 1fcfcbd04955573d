"""Every table of the lake with its columns, units and meanings; and how a table is brought into its schema.

Filling the tables is left to the packages whose results they hold.
"""

from tem_pipeline.tables.activity import STRUCTURE_ACTIVITY_SCHEMA
from tem_pipeline.tables.columns import SCHEMA_VERSION, column, conform
from tem_pipeline.tables.particles import MEASURED_FIELDS, PARTICLE_SCHEMA, PROVENANCE_FIELDS
from tem_pipeline.tables.registry import TABLES, Group, Table
from tem_pipeline.tables.sessions import FAILURE_SCHEMA, MANIFEST_SCHEMA, MASK_SCHEMA, STATES_SCHEMA
from tem_pipeline.tables.statistics import (
    FIT_PARAMETERS,
    INTERVAL_STATISTICS,
    SAMPLE_SUMMARY_SCHEMA,
    SIZE_DISTRIBUTION_SCHEMA,
    STATISTICS,
)
from tem_pipeline.tables.training import LOSSES, SHARD_SCHEMA

__all__ = [
    "FAILURE_SCHEMA",
    "FIT_PARAMETERS",
    "INTERVAL_STATISTICS",
    "LOSSES",
    "MANIFEST_SCHEMA",
    "MASK_SCHEMA",
    "MEASURED_FIELDS",
    "PARTICLE_SCHEMA",
    "PROVENANCE_FIELDS",
    "SAMPLE_SUMMARY_SCHEMA",
    "SCHEMA_VERSION",
    "SHARD_SCHEMA",
    "SIZE_DISTRIBUTION_SCHEMA",
    "STATES_SCHEMA",
    "STATISTICS",
    "STRUCTURE_ACTIVITY_SCHEMA",
    "TABLES",
    "Group",
    "Table",
    "column",
    "conform",
]
