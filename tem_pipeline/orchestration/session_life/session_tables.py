"""Reads what the tables of one session say: their content, when they were written, the last failure."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pandas as pd
import pyarrow.parquet as pq

from tem_pipeline.storage import Layout, read_table, table_fingerprint

# A session is processed once each of these tables holds its folder's content.
SESSION_TABLES = ("raw_tem_images", "predicted_masks", "particle_table", "size_distributions")
NO_IMAGE = "no image: the folder holds no file of an image format"
FAILURE_TABLE = "session_failures"
REFUSALS_SHOWN = 3


@dataclass(frozen=True)
class RecordedTables:
    """What a session's tables say. What a missing table would say is None or left out."""

    fingerprints: Mapping[str, str | None]  # by table, of the folder's content that it was made from
    written: Mapping[str, datetime]  # by table
    images: int | None = None
    refused: int | None = None  # files
    particles: int | None = None
    refusals: tuple[str, ...] = ()  # the first few refused files with their reasons
    name: str | None = None  # of the session's folder, from the manifest
    no_image: str | None = None  # why the manifest has no image to measure


@dataclass(frozen=True)
class RecordedFailure:
    """The last failed run of a session."""

    run_id: str
    fingerprint: str | None  # of the content; None if a person launched the run
    failed_at: datetime
    failed_attempts: int
    reason: str


def recorded_fingerprints(layout: Layout, key: str) -> dict[str, str | None]:
    """Read which content of the folder each table of a session was made from.

    Dagster's data versions don't replace this: they are in Dagster's history, while the tables outlive that
    history, and the command line may have made them with another one.
    """
    return {table: table_fingerprint(layout.table(table, key)) for table in SESSION_TABLES}


def read_tables(layout: Layout, key: str) -> RecordedTables:
    """Read what a session's tables say."""
    paths = {table: layout.table(table, key) for table in SESSION_TABLES}
    written = {
        table: datetime.fromtimestamp(path.stat().st_mtime, UTC)
        for table, path in paths.items()
        if path.exists()
    }
    facts: dict[str, Any] = {}
    if "raw_tem_images" in written:
        manifest = read_table(paths["raw_tem_images"], ["file", "status", "reason", "session_name"])
        refused = manifest[manifest["status"] == "refused"]
        facts = {
            "images": int((manifest["status"] == "ok").sum()),
            "no_image": no_image_reason(manifest),
            "refused": len(refused),
            "refusals": _first_reasons(refused),
            "name": manifest["session_name"].iloc[0] if len(manifest) else None,
        }
    if "particle_table" in written:
        with paths["particle_table"].open("rb") as file:
            facts["particles"] = pq.ParquetFile(file).metadata.num_rows
    return RecordedTables(recorded_fingerprints(layout, key), written, **facts)


def _first_reasons(left_out: pd.DataFrame) -> tuple[str, ...]:
    return tuple(f"{row.file}: {row.reason}" for row in left_out[:REFUSALS_SHOWN].itertuples())


def no_image_reason(manifest: pd.DataFrame) -> str | None:
    """Say why a manifest has no image to measure, or give None if it has one."""
    if (manifest["status"] == "ok").any():
        return None
    if manifest.empty:
        return NO_IMAGE
    more = len(manifest) - REFUSALS_SHOWN
    listed = "; ".join(_first_reasons(manifest)) + (f"; and {more} more" if more > 0 else "")
    return f"no image: none of {len(manifest)} can be measured: {listed}"


def read_failure(layout: Layout, key: str) -> RecordedFailure | None:
    """Read the last failure of a session, if there was one."""
    path = layout.table(FAILURE_TABLE, key)
    if not path.exists():
        return None
    row = read_table(path).iloc[-1]
    fingerprint = row["session_fingerprint"]
    return RecordedFailure(
        row["run_id"],
        None if pd.isna(fingerprint) else fingerprint,
        row["failed_at"].to_pydatetime(),
        int(row["failed_attempts"]),
        row["reason"],
    )
