"""Dagster's entry: `workspace.yaml` names this module."""

from tem_pipeline.installation import installation_of
from tem_pipeline.orchestration.build import build_definitions
from tem_pipeline.settings import load_settings

defs = build_definitions(installation_of(load_settings()))
