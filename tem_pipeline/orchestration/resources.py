"""What assets get from outside: the installation, the training plan and the session lock."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
from pydantic import Field
from upath import UPath

from tem_pipeline.errors import UserError
from tem_pipeline.installation import Installation, installation_of
from tem_pipeline.settings import Settings, load_settings
from tem_pipeline.storage import Layout, session_lock
from tem_pipeline.tracking.store import ModelStore

PARTITION_TAG = "dagster/partition"
SESSION_FOLDER_TAG = "tem_pipeline/session_folder"


class Platform(dg.ConfigurableResource):
    """Gives the installation: the settings of the environment, with overrides."""

    data_root: str | None = Field(default=None, description="overrides TEM_DATA_ROOT")
    models_root: str | None = Field(default=None, description="overrides TEM_MODELS_ROOT")
    pretrained_model: str | None = Field(default=None, description="overrides TEM_PRETRAINED_MODEL")
    mlflow_tracking_uri: str | None = Field(
        default=None, description="overrides MLFLOW_TRACKING_URI; empty: the embedded store"
    )

    @property
    def installation(self) -> Installation:
        """The installation that assets, sensors and schedules work on."""
        overrides = {name: value for name, value in self.model_dump().items() if value is not None}
        return installation_of(load_settings().model_copy(update=overrides))

    @property
    def settings(self) -> Settings:
        """The installation's settings."""
        return self.installation.settings

    @property
    def layout(self) -> Layout:
        """The installation's folders."""
        return self.installation.layout

    @property
    def store(self) -> ModelStore:
        """The installation's model store."""
        return self.installation.store


def platform_of(installation: Installation) -> Platform:
    """Give the resource of an installation.

    Its folders and its model store are fixed. Other settings are read from the environment when needed.
    """
    layout = installation.layout
    return Platform(
        data_root=str(layout.data_root),
        models_root=str(layout.models_root),
        pretrained_model=str(layout.pretrained),
        mlflow_tracking_uri=installation.settings.mlflow_tracking_uri or "",
    )


class TrainingPlan(dg.ConfigurableResource):
    """What `train_models` learns from, and how much is spent on it."""

    sets: list[str] = Field(
        default=[], description="names below annotated/, or absolute folders; none: all below annotated/"
    )
    profile: str = Field(default="standard", description="quick, standard or paper")
    network: str = Field(default="ds_unet", description="ds_unet or unet")
    split_seed: int = Field(default=0, description="seed of the split into training, validation and test")
    seed: int = Field(default=0, description="seed of augmentation, first weights and order of batches")
    start_from: str = Field(default="", description="a model whose weights to start from, such as pretrained")

    def folders(self, layout: Layout) -> list[Path]:
        """Give the folders of the annotated sets.

        Raises
        ------
        UserError
            When there is none, or one of them is no folder.
        """
        if self.sets:
            folders = [self._folder(layout, name) for name in self.sets]
        else:
            root = Path(str(layout.annotated))
            folders = sorted(path for path in root.glob("*") if path.is_dir())
        if not folders:
            raise UserError(
                f"{layout.annotated}: there is no annotated set; lay images/ and masks/ into a folder there"
            )
        return folders

    @staticmethod
    def _folder(layout: Layout, name: str) -> Path:
        root = Path(str(layout.annotated))
        folder = root / name
        inside = folder.resolve().is_relative_to(root.resolve())
        if not folder.is_dir() or not (inside or Path(name).is_absolute()):
            raise UserError(f"{name}: is no annotated set; name a folder, or one below {root}")
        return folder


class SessionLock(dg.ConfigurableResource):
    """Holds the one lock of the run's session from the run's first step to its last."""

    platform: dg.ResourceDependency[Platform]

    @contextmanager
    def yield_for_execution(self, context: dg.InitResourceContext) -> Iterator[Any]:
        """Take the lock when the run starts; it is freed when the run ends or its process dies."""
        session = context.run.tags.get(PARTITION_TAG) if context.run else None
        if session is None:
            raise UserError("a run processes exactly one session: launch it with one partition")
        with session_lock(self.platform.layout, session):
            yield self


def session_folder(run_tags: dict[str, str], layout: Layout, session: str) -> UPath:
    """Find the folder that a session is read from.

    The run says so where the session was given by its folder; else it lies below incoming/, under its own
    name or one that this key was made from.

    Raises
    ------
    UserError
        When there is no such folder.
    """
    from tem_pipeline.micrographs.sessions import session_key

    tagged = run_tags.get(SESSION_FOLDER_TAG)
    if tagged:
        return UPath(tagged)
    direct = layout.incoming / session
    if session_key(session) == session and direct.is_dir():
        return direct
    if layout.incoming.exists():
        for folder in layout.incoming.iterdir():
            if folder.is_dir() and session_key(folder.name) == session:
                return folder
    raise UserError(
        f"session {session}: there is no such folder below {layout.incoming}; copy it there again"
    )
