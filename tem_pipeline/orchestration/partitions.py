"""The partitions of assets. One session folder is one partition and one run."""

from collections.abc import Sequence

import dagster as dg

SESSIONS = dg.DynamicPartitionsDefinition(name="sessions")
# Dagster asks its database for all keys of a call in one statement, and SQLite allows 999 of them or more.
KEYS_AT_ONCE = 500


def add_sessions(instance: dg.DagsterInstance, keys: Sequence[str]) -> None:
    """Register sessions, any number of them."""
    for first in range(0, len(keys), KEYS_AT_ONCE):
        instance.add_dynamic_partitions(str(SESSIONS.name), list(keys[first : first + KEYS_AT_ONCE]))
