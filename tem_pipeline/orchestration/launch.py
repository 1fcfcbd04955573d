"""Runs jobs in this process, for the command line. Dagster's UI shows these runs like any other."""

import sys
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import dagster as dg
from dagster._core.definitions.repository_definition import SINGLETON_REPOSITORY_NAME
from dagster._core.remote_origin import ManagedGrpcPythonEnvCodeLocationOrigin, RemoteRepositoryOrigin
from dagster._core.storage.tags import MAX_RETRIES_TAG
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin

from tem_pipeline.errors import UserError
from tem_pipeline.installation import Installation, prepare_dagster_home
from tem_pipeline.orchestration.build import build_definitions
from tem_pipeline.orchestration.partitions import add_sessions
from tem_pipeline.orchestration.session_life.failures import failure_reason
from tem_pipeline.settings import PROJECT_ROOT

CODE_LOCATION = "tem_pipeline.definitions"
"""The module that `workspace.yaml` loads; Dagster names the location after it."""


def open_instance(installation: Installation) -> dg.DagsterInstance:
    """Open Dagster's instance in the installation's home; a new home gets the project's `dagster.yaml`."""
    home = installation.dagster_home
    prepare_dagster_home(home)
    return dg.DagsterInstance.from_config(str(home))


def _count_as_runs_of_the_code_location(instance: dg.DagsterInstance, job: str) -> None:
    """Let every run that this instance creates name the code location of `workspace.yaml`.

    Dagster's home page, its timeline and the pages of jobs show only runs that do. A run in this process
    would name none, because it does not come through Dagster's server.
    """
    location = ManagedGrpcPythonEnvCodeLocationOrigin(
        loadable_target_origin=LoadableTargetOrigin(
            executable_path=sys.executable,
            module_name=CODE_LOCATION,
            working_directory=str(PROJECT_ROOT),
        ),
        location_name=CODE_LOCATION,
    )
    origin = RemoteRepositoryOrigin(location, SINGLETON_REPOSITORY_NAME).get_job_origin(job)
    instance.create_run_for_job = partial(  # type: ignore[method-assign]
        instance.create_run_for_job, remote_job_origin=origin
    )


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
            add_sessions(instance, [session])
        _count_as_runs_of_the_code_location(instance, name)
        result = job.execute_in_process(
            instance=instance,
            partition_key=session,
            asset_selection=[dg.AssetKey.from_user_string(key) for key in assets] if assets else None,
            run_config={
                "resources": {key: {"config": dict(config)} for key, config in (resources or {}).items()},
                "loggers": {"console": {"config": {"log_level": "CRITICAL"}}},
            },
            # Nobody but the person who started this run decides whether it is tried again.
            tags={MAX_RETRIES_TAG: "0", **(tags or {})},
            raise_on_error=False,
        )
        if not result.success:
            raise UserError(failure_reason(result.all_events))
