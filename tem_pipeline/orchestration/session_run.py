"""Processes one session folder from the command line, with the job that also runs at night."""

from pathlib import Path

import pandas as pd

from tem_pipeline.errors import UserError
from tem_pipeline.installation import Installation
from tem_pipeline.micrographs.sessions import session_key
from tem_pipeline.orchestration.launch import run_job
from tem_pipeline.orchestration.resources import SESSION_FOLDER_TAG
from tem_pipeline.storage import Layout, read_table


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
    run_job(installation, "process_session", session=key, tags={SESSION_FOLDER_TAG: str(folder)})
    return summarise_session(layout, key)


def _refuse_taken_key(layout: Layout, key: str, folder: Path) -> None:
    """Refuse a folder with the name of another session, because it would replace that session's tables."""
    below_incoming = Path(str(layout.incoming)).resolve() / folder.name
    if folder != below_incoming and below_incoming.is_dir():
        raise UserError(f"{folder}: {below_incoming} has the same name; rename one of the folders")
    table = layout.table("raw_tem_images", key)
    if table.exists():
        recorded = set(read_table(table, ["session_folder"])["session_folder"].dropna())
        if recorded and recorded != {str(folder)}:
            raise UserError(
                f"{folder}: a session of this name was read from {recorded.pop()}; rename the folder"
            )


def summarise_session(layout: Layout, key: str) -> str:
    """Summarise a session's results and the files they are in."""
    manifest = read_table(layout.table("raw_tem_images", key))
    distributions = read_table(layout.table("size_distributions", key))
    status = manifest["status"].value_counts()
    lines = [
        f"session {key}: {status.get('ok', 0)} images measured, {status.get('refused', 0)} files refused",
        *(
            f"  refused: {row.file}: {row.reason}"
            for row in manifest[manifest["status"] == "refused"].itertuples()
        ),
    ]
    for row in distributions[distributions["measurand"] == "equivalent_diameter"].itertuples():
        if row.n_counted:
            spread = f" ± {row.standard_deviation:.3f}" if pd.notna(row.standard_deviation) else ""
            lines.append(
                f"  {row.n_counted} whole particles, equivalent diameter {row.mean:.3f}{spread} {row.unit}"
                f" (mean ± sd), median {row.median:.3f} {row.unit}"
            )
        else:
            lines.append(f"  no whole particle was counted ({row.unit})")
    lines.append(f"  {layout.table('particle_table', key)}")
    lines.append(f"  {layout.report(key)}")
    return "\n".join(lines)
