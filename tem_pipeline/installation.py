"""One installation: its settings and the folders and stores that follow from them.

The command line, the demo and Dagster's resource each make one and pass it down.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

from tem_pipeline.errors import UserError
from tem_pipeline.settings import DAGSTER_HOME, PROJECT_ROOT, Settings, resolve_root
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
    home = Path(str(resolve_root(settings.dagster_home or DAGSTER_HOME)))
    return Installation(settings, layout, store_of(settings, layout), home)


def prepare_dagster_home(home: Path) -> list[str]:
    """Create Dagster's home if need be, and give it the project's `dagster.yaml` if it has none.

    Returns
    -------
    list of str
        A remark if the home has another `dagster.yaml`. It may be the laboratory's own, so it is kept.

    Raises
    ------
    UserError
        When the home can't be written.
    """
    ours, theirs = PROJECT_ROOT / "dagster.yaml", home / "dagster.yaml"
    try:
        home.mkdir(parents=True, exist_ok=True)
        if not theirs.exists():
            shutil.copyfile(ours, theirs)
        if theirs.read_bytes() != ours.read_bytes():
            return [f"{theirs} is kept as it is; it differs from the project's dagster.yaml"]
    except OSError as error:
        raise UserError(
            f"DAGSTER_HOME {home}: can't be used ({error.strerror}); give write permission or name another"
        ) from error
    return []
