"""Runs jobs in this process, for the command line. Dagster's UI shows these runs like any other."""

from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg

from tem_pipeline.errors import UserError
from tem_pipeline.installation import Installation, prepare_dagster_home
from tem_pipeline.orchestration.build import build_definitions
from tem_pipeline.orchestration.partitions import SESSIONS
from tem_pipeline.orchestration.session_life.failures import failure_reason


def open_instance(installation: Installation) -> dg.DagsterInstance:
    """Open Dagster's instance in the installation's home; a new home gets the project's `dagster.yaml`."""
    home = installation.dagster_home
    prepare_dagster_home(home)
    return dg.DagsterInstance.from_config(str(home))


def run_job(
    installation: Installation,
    name: str,
    *,
    session: str | None = None,
    assets: Sequence[str] | None = None,
    resources: Mapping[str, Mapping[str, Any]] | None = None,
    tags: Mapping[str, str] | None = None,
    named: Sequence[str] = (),
) -> None:
    """Run a job to its end.

    Parameters
    ----------
    installation : Installation
    name : str
        Name of a job in `jobs`.
    session : str, optional
        Key of the session. Its partition is registered first.
    assets : sequence of str, optional
        Keys of the job's assets to materialise, with slashes; by default all.
    resources : mapping, optional
        Configuration of resources by name.
    named : sequence of str
        Folders outside the installation that the run may use.

    Raises
    ------
    UserError
        When the run fails, with the reason of the failed step.
    """
    with open_instance(installation) as instance:
        # Dagster resolves definitions with the instance opened last in this process, which must be open.
        job = build_definitions(installation, named).resolve_job_def(name)
        if session is not None:
            instance.add_dynamic_partitions(str(SESSIONS.name), [session])
        result = job.execute_in_process(
            instance=instance,
            partition_key=session,
            asset_selection=[dg.AssetKey.from_user_string(key) for key in assets] if assets else None,
            run_config={
                "resources": {key: {"config": dict(config)} for key, config in (resources or {}).items()},
                "loggers": {"console": {"config": {"log_level": "CRITICAL"}}},
            },
            tags=dict(tags or {}),
            raise_on_error=False,
        )
        if not result.success:
            raise UserError(failure_reason(result.all_events))
