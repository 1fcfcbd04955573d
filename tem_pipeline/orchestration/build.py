"""Puts the definitions together; tests build the same ones with other resources."""

from collections.abc import Mapping
from typing import Any

import dagster as dg

from tem_pipeline.orchestration.assets.analysis import ANALYSIS_ASSETS
from tem_pipeline.orchestration.assets.sessions import SESSION_ASSETS
from tem_pipeline.orchestration.assets.training import TRAINING_ASSETS
from tem_pipeline.orchestration.io_managers import LakeTables
from tem_pipeline.orchestration.jobs import JOBS
from tem_pipeline.orchestration.resources import Platform, SessionLock, TrainingPlan
from tem_pipeline.orchestration.session_life.failures import session_failures
from tem_pipeline.orchestration.session_life.overview import session_overview, session_states_asset
from tem_pipeline.orchestration.session_life.reprocessing import reprocess_requests, reprocess_sessions
from tem_pipeline.orchestration.session_life.schedules import build_nightly_schedule
from tem_pipeline.orchestration.session_life.sensors import build_arrival_sensor
from tem_pipeline.settings import load_settings


def build_definitions(resource_overrides: Mapping[str, Any] | None = None) -> dg.Definitions:
    """Build everything that Dagster shows and runs.

    Parameters
    ----------
    resource_overrides : mapping, optional
        Resources by name, in place of those that the settings give.
    """
    settings = load_settings()
    platform = Platform()
    plan = TrainingPlan(
        sets=list(settings.training_sets), profile=settings.training_profile, split_seed=settings.split_seed
    )
    resources: dict[str, Any] = {
        "platform": platform,
        "training_plan": plan,
        "session_lock": SessionLock(platform=platform),
        "tables": LakeTables(platform=platform),
    }
    return dg.Definitions(
        assets=[*SESSION_ASSETS, *TRAINING_ASSETS, *ANALYSIS_ASSETS, session_states_asset],
        jobs=[*JOBS, reprocess_sessions],
        sensors=[build_arrival_sensor(settings), session_failures, session_overview, reprocess_requests],
        schedules=[build_nightly_schedule(settings)],
        resources={**resources, **(resource_overrides or {})},
        # One process a run: starting one a step costs seconds each, and the run holds the session's lock.
        executor=dg.in_process_executor,
    )
