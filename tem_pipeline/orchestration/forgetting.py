"""Forgets a session: removes its tables, report, lock and partition, and nothing below incoming/."""

import shutil
from pathlib import Path

import dagster as dg

from tem_pipeline.errors import UserError
from tem_pipeline.installation import Installation
from tem_pipeline.micrographs.sessions import session_key
from tem_pipeline.orchestration.launch import open_instance
from tem_pipeline.orchestration.partitions import SESSIONS
from tem_pipeline.orchestration.resources import PARTITION_TAG
from tem_pipeline.storage import SESSION_KEY, AnyPath, Layout, is_local, session_lock

_WAITING = [dg.DagsterRunStatus.QUEUED, dg.DagsterRunStatus.NOT_STARTED, dg.DagsterRunStatus.STARTING]


def forgettable(installation: Installation, name: str) -> tuple[str, list[AnyPath]]:
    """Find what is known of a session.

    Parameters
    ----------
    installation : Installation
    name : str
        The session's key, or the name of its folder.

    Returns
    -------
    key : str
    folders : list of path
        Of its tables and its report.

    Raises
    ------
    UserError
        When nothing of that name is known.
    """
    layout = installation.layout
    keys = [name, session_key(name)] if SESSION_KEY.fullmatch(name) else [session_key(name)]
    for key in keys:
        if folders := _folders(layout, key):
            return key, folders
    with open_instance(installation) as instance:
        for key in keys:
            if instance.has_dynamic_partition(str(SESSIONS.name), key):
                return key, []
    raise UserError(f"{name}: no such session has tables or a report; see `tem-pipeline sessions`")


def _folders(layout: Layout, key: str) -> list[AnyPath]:
    tables = layout.lake.iterdir() if layout.lake.is_dir() else ()
    folders: list[AnyPath] = [place for table in tables if (place := table / f"session={key}").is_dir()]
    # Figures of trainings and analyses have folders beside the reports: they have no such page.
    return [*folders, layout.report(key).parent] if layout.report(key).exists() else folders


def forget_session(installation: Installation, key: str) -> None:
    """Remove a session's tables, report, lock and partition. Its folder of microscope files is kept.

    Raises
    ------
    UserError
        When a run holds the session's lock, or waits to start.
    """
    layout = installation.layout
    with session_lock(layout, key, timeout_s=0), open_instance(installation) as instance:
        waiting = dg.RunsFilter(tags={PARTITION_TAG: key}, statuses=_WAITING)
        if instance.get_runs_count(waiting):
            raise UserError(f"session {key}: a run of it waits in Dagster's queue; end it there first")
        for folder in _folders(layout, key):
            _remove(folder)
        instance.delete_dynamic_partition(str(SESSIONS.name), key)
        if is_local(layout.data_root):
            (Path(str(layout.data_root)) / ".locks" / f"{key}.lock").unlink(missing_ok=True)


def _remove(folder: AnyPath) -> None:
    try:
        if is_local(folder):
            shutil.rmtree(str(folder))
        else:
            folder.fs.rm(folder.path, recursive=True)  # type: ignore[union-attr]
    except OSError as error:
        raise UserError(f"{folder}: can't be removed ({error.strerror}); give write permission") from error
