"""One installation: its settings and the folders and stores that follow from them.

The command line, the demo and Dagster's resource each make one and pass it down.
"""

from dataclasses import dataclass
from pathlib import Path

from tem_pipeline.settings import Settings, resolve_root
from tem_pipeline.storage import Layout, layout_of
from tem_pipeline.tracking.store import ModelStore, store_of


@dataclass(frozen=True)
class Installation:
    """Where one installation keeps its data, its models and Dagster's records."""

    settings: Settings
    layout: Layout
    store: ModelStore
    dagster_home: Path


def installation_of(settings: Settings) -> Installation:
    """Give the installation that the settings describe, without creating or opening anything."""
    layout = layout_of(settings)
    home = Path(str(resolve_root(settings.dagster_home or ".dagster")))
    return Installation(settings, layout, store_of(settings, layout), home)
