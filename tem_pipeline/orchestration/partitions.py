"""The partitions of assets. One session folder is one partition and one run."""

import dagster as dg

SESSIONS = dg.DynamicPartitionsDefinition(name="sessions")
