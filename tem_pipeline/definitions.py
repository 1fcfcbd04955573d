"""Dagster's entry: `workspace.yaml` names this module."""

from tem_pipeline.orchestration.build import build_definitions

defs = build_definitions()
