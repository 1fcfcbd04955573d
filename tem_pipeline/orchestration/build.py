"""Puts the definitions together; tests build the same ones for their own installations."""

from collections.abc import Sequence

import dagster as dg

from tem_pipeline.installation import Installation
from tem_pipeline.orchestration.assets.analysis import ANALYSIS_ASSETS
from tem_pipeline.orchestration.assets.sessions import SESSION_ASSETS
from tem_pipeline.orchestration.assets.training import TRAINING_ASSETS
from tem_pipeline.orchestration.io_managers import LakeTables
from tem_pipeline.orchestration.jobs import JOBS
from tem_pipeline.orchestration.resources import SessionLock, TrainingLock, TrainingPlan, platform_of
from tem_pipeline.orchestration.retention import old_runs
from tem_pipeline.orchestration.session_life.failures import session_failures
from tem_pipeline.orchestration.session_life.overview import session_overview, session_states_asset
from tem_pipeline.orchestration.session_life.reprocessing import reprocess_requests, reprocess_sessions
from tem_pipeline.orchestration.session_life.schedules import build_nightly_schedule
from tem_pipeline.orchestration.session_life.sensors import build_arrival_sensor


def build_definitions(installation: Installation, named: Sequence[str] = ()) -> dg.Definitions:
    """Build everything that Dagster shows and runs for an installation.

    Parameters
    ----------
    installation : Installation
    named : sequence of str
        Folders that the command line was given; its runs may use them.
    """
    settings = installation.settings
    platform = platform_of(installation, named)
    plan = TrainingPlan(
        sets=list(settings.training_sets), profile=settings.training_profile, split_seed=settings.split_seed
    )
    return dg.Definitions(
        assets=[*SESSION_ASSETS, *TRAINING_ASSETS, *ANALYSIS_ASSETS, session_states_asset],
        jobs=[*JOBS, reprocess_sessions],
        sensors=[
            build_arrival_sensor(settings),
            session_failures,
            session_overview,
            reprocess_requests,
            old_runs,
        ],
        schedules=[build_nightly_schedule(settings)],
        resources={
            "platform": platform,
            "training_plan": plan,
            "session_lock": SessionLock(platform=platform),
            "training_lock": TrainingLock(platform=platform),
            "tables": LakeTables(platform=platform),
        },
        # One process per run: starting one per step costs seconds each, and the run holds the session's lock.
        executor=dg.in_process_executor,
    )
