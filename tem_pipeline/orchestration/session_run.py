"""Processes one session folder from the command line, with the job that also runs at night."""

from pathlib import Path

import pandas as pd

from tem_pipeline.errors import UserError
from tem_pipeline.installation import Installation
from tem_pipeline.micrographs.sessions import session_fingerprint, session_key
from tem_pipeline.orchestration.launch import run_job
from tem_pipeline.orchestration.resources import SESSION_FOLDER_TAG
from tem_pipeline.storage import Layout, read_table, table_fingerprint
from tem_pipeline.text import counted, printable

MOST_LISTED = 20
"""Files of each kind that a summary names; the report names all."""


def process_session(installation: Installation, folder: Path) -> str:
    """Register a session folder and make its masks, particle table, statistics and report.

    Returns
    -------
    str
        Summary of the results and their files.

    Raises
    ------
    UserError
        When the folder can't be processed, or its key is that of another session.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: is not a folder; name a session's folder")
    folder = folder.resolve()
    key = session_key(folder.name)
    layout = installation.layout
    _refuse_taken_key(layout, key, folder)
    outside = layout.outside_folder(layout.recorded_folder(folder))
    tags = {SESSION_FOLDER_TAG: outside} if outside else {}
    run_job(installation, "process_session", session=key, tags=tags, named=[str(folder)])
    return summarise_session(layout, key)


def _refuse_taken_key(layout: Layout, key: str, folder: Path) -> None:
    """Refuse a folder with the name of another session, because it would replace that session's tables."""
    below_incoming = Path(str(layout.incoming)) / folder.name
    if below_incoming.is_dir() and not below_incoming.samefile(folder):
        raise UserError(f"{folder}: {below_incoming} has the same name; rename one of the folders")
    table = layout.table("raw_tem_images", key)
    if table.exists():
        recorded = set(read_table(table, ["session_folder"])["session_folder"].dropna())
        outside = layout.outside_folder(layout.recorded_folder(folder))
        others = [other for other in recorded if layout.outside_folder(other) != outside]
        # A folder that was moved keeps its content.
        if others and table_fingerprint(table) != session_fingerprint(folder):
            raise UserError(f"{folder}: a session of this name was read from {others[0]}; rename the folder")


def summarise_session(layout: Layout, key: str) -> str:
    """Summarise a session's results and name their files. The last line is the report's address."""
    manifest = read_table(layout.table("raw_tem_images", key))
    masks = read_table(layout.table("predicted_masks", key))
    distributions = read_table(layout.table("size_distributions", key))
    status = manifest["status"].value_counts()
    measured = counted(status.get("ok", 0), "image")
    refused = counted(status.get("refused", 0), "file")
    lines = [
        f"session {_shown_name(manifest, key)}: {measured} measured, {refused} refused",
        *_listed("refused", _reasons(manifest, "refused")),
        *_listed("duplicate", _reasons(manifest, "duplicate")),
        *_listed("to review", _reviews(manifest, masks)),
    ]
    for row in distributions[distributions["measurand"] == "equivalent_diameter"].itertuples():
        if row.n_counted:
            spread = f" ± {row.standard_deviation:.3f}" if pd.notna(row.standard_deviation) else ""
            lines.append(
                f"  {counted(row.n_counted, 'whole particle')}, equivalent diameter {row.mean:.3f}{spread}"
                f" {row.unit} (mean ± sd), median {row.median:.3f} {row.unit}"
            )
        else:
            lines.append(f"  no whole particle was counted ({row.unit})")
    lines.append(f"  {layout.table('particle_table', key)}")
    lines.append(f"Report: {layout.report(key).as_uri()}")
    return "\n".join(printable(line) for line in lines)


def _shown_name(manifest: pd.DataFrame, key: str) -> str:
    """Give the folder's name, with the key beside it if they differ."""
    name = manifest["session_name"].iloc[0] if len(manifest) else key
    return key if name == key else f"{name} (key {key})"


def _reasons(manifest: pd.DataFrame, status: str) -> list[str]:
    rows = manifest[manifest["status"] == status]
    return [f"{row.file}: {row.reason}" for row in rows.itertuples()]


def _reviews(manifest: pd.DataFrame, masks: pd.DataFrame) -> list[str]:
    """Name the images that a person should look at, by their file."""
    files = manifest.dropna(subset="image_id").set_index("image_id")["file"]
    rows = masks[masks["image_quality"] == "review"]
    return [f"{files[row.image_id]}: {row.image_quality_reason}" for row in rows.itertuples()]


def _listed(kind: str, entries: list[str]) -> list[str]:
    more = len(entries) - MOST_LISTED
    rest = [f"  {kind}: {more} more, see the report"] if more > 0 else []
    return [f"  {kind}: {entry}" for entry in entries[:MOST_LISTED]] + rest
