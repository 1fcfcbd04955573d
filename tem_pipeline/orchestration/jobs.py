"""The jobs that users, sensors and schedules launch."""

import dagster as dg

# Dagster restarts a crashed run from its first step: the session folder may have changed since.
_RESTART = {"dagster/retry_strategy": "ALL_STEPS"}

ingest_session = dg.define_asset_job(
    "ingest_session",
    selection=dg.AssetSelection.assets("raw_tem_images"),
    description="Read a session's files: calibrated TIFFs and the manifest.",
    tags=_RESTART,
)
process_session = dg.define_asset_job(
    "process_session",
    selection=dg.AssetSelection.groups("sessions"),
    description="Process one session, from its files to its report.",
    tags=_RESTART,
)
train_models = dg.define_asset_job(
    "train_models",
    selection=dg.AssetSelection.groups("training"),
    description="Train one model per loss; the best becomes champion if it beats the current one.",
)
analyse = dg.define_asset_job(
    "analyse",
    selection=dg.AssetSelection.groups("analysis"),
    description="Summarise samples over all their sessions and relate them to activity.",
)

JOBS = [ingest_session, process_session, train_models, analyse]
