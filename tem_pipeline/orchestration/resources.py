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
from tem_pipeline.text import redacted
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
    uri = installation.settings.mlflow_tracking_uri or ""
    return Platform(
        data_root=str(layout.data_root),
        models_root=str(layout.models_root),
        pretrained_model=str(layout.pretrained),
        # Dagster shows this configuration, so an address with a password is read from the environment.
        mlflow_tracking_uri=uri if redacted(uri) == uri else None,
    )


class TrainingPlan(dg.ConfigurableResource):
    """The data and the effort of a training."""

    sets: list[str] = Field(
        default=[], description="names below annotated/, or absolute folders; empty: all below annotated/"
    )
    profile: str = Field(default="standard", description="quick, standard or paper")
    network: str = Field(default="ds_unet", description="ds_unet or unet")
    split_seed: int = Field(default=0, description="seed of the split into training, validation and test")
    seed: int = Field(default=0, description="seed of augmentation, first weights and order of batches")
    start_from: str = Field(
        default="", description="model whose weights to start from, such as pretrained; empty: random"
    )

    def folders(self, layout: Layout) -> list[Path]:
        """Give the folders of the annotated sets.

        Raises
        ------
        UserError
            When there is no set, or a name is not a set's folder.
        """
        if self.sets:
            folders = [self._folder(layout, name) for name in self.sets]
        else:
            root = Path(str(layout.annotated))
            folders = sorted(path for path in root.glob("*") if path.is_dir())
        if not folders:
            raise UserError(
                f"{layout.annotated}: there is no annotated set; put images/ and masks/ into a folder there"
            )
        return folders

    @staticmethod
    def _folder(layout: Layout, name: str) -> Path:
        root = Path(str(layout.annotated))
        folder = root / name
        inside = folder.resolve().is_relative_to(root.resolve())
        if not folder.is_dir() or not (inside or Path(name).is_absolute()):
            raise UserError(f"{name}: is not an annotated set; name a folder, or a set below {root}")
        return folder


class SessionLock(dg.ConfigurableResource):
    """Holds the lock of the run's session from the first step to the last."""

    platform: dg.ResourceDependency[Platform]

    @contextmanager
    def yield_for_execution(self, context: dg.InitResourceContext) -> Iterator[Any]:
        """Take the lock when the run starts. It is freed when the run ends or its process dies."""
        session = context.run.tags.get(PARTITION_TAG) if context.run else None
        if session is None:
            raise UserError("a run processes exactly one session: launch it with one partition")
        with session_lock(self.platform.layout, session):
            yield self


def session_folder(run_tags: dict[str, str], layout: Layout, session: str) -> UPath:
    """Find the folder that a session is read from.

    A run of a session that was given by its folder has it in a tag. Any other session is below incoming/, in
    a folder whose name is the key or gives the key.

    Raises
    ------
    UserError
        When the folder does not exist.
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
