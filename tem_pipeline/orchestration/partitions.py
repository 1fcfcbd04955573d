"""The partitions of assets: one session folder is one partition, one run, and the unit of scaling out."""

import dagster as dg

SESSIONS = dg.DynamicPartitionsDefinition(name="sessions")
