"""What assets get from outside: the installation, the training plan and the session lock."""

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
from pydantic import Field
from upath import UPath

from tem_pipeline import progress
from tem_pipeline.errors import UserError
from tem_pipeline.installation import Installation
from tem_pipeline.settings import Settings, resolve_root
from tem_pipeline.storage import Layout, is_free, read_table, session_lock, training_lock
from tem_pipeline.tracking.store import REGISTERED_MODEL, ModelStore

PARTITION_TAG = "dagster/partition"
SESSION_FOLDER_TAG = "tem_pipeline/session_folder"


class Platform(dg.ConfigurableResource):
    """Gives the installation: made by `platform_of`.

    It has no fields, because Dagster's pages can set those of any resource: whoever launches a run must not
    choose other folders.
    """

    @property
    @abstractmethod
    def installation(self) -> Installation:
        """The installation that assets, sensors and schedules work on."""

    @property
    @abstractmethod
    def named(self) -> frozenset[str]:
        """Folders that the command line was given."""

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


def platform_of(installation: Installation, named: Sequence[str] = ()) -> Platform:
    """Give the resource of an installation.

    Parameters
    ----------
    installation : Installation
    named : sequence of str
        Folders that the command line was given. Runs launched from Dagster's pages use only the
        installation's.
    """

    given = installation

    class OfInstallation(Platform):
        @property
        def installation(self) -> Installation:
            return given

        @property
        def named(self) -> frozenset[str]:
            return frozenset(named)

    return OfInstallation()


class TrainingPlan(dg.ConfigurableResource):
    """The data and the effort of a training."""

    sets: list[str] = Field(default=[], description="names below annotated/; empty: all below annotated/")
    profile: str = Field(default="standard", description="quick, standard or paper")
    network: str = Field(default="ds_unet", description="ds_unet or unet")
    split_seed: int = Field(default=0, description="seed of the split into training, validation and test")
    seed: int = Field(default=0, description="seed of augmentation, first weights and order of batches")
    start_from: str = Field(
        default="",
        description="first weights: champion, pretrained or models:/NAME/VERSION; empty: random",
    )

    def folders(self, platform: Platform) -> list[Path]:
        """Give the folders of the annotated sets.

        Raises
        ------
        UserError
            When there is no set, or a name is not a set's folder.
        """
        root = Path(str(platform.layout.annotated))
        if self.sets:
            folders = [self._folder(platform, root, name) for name in self.sets]
        else:
            folders = sorted(path for path in root.glob("*") if path.is_dir())
        if not folders:
            raise UserError(f"{root}: there is no annotated set; put images/ and masks/ into a folder there")
        return folders

    @staticmethod
    def _folder(platform: Platform, root: Path, name: str) -> Path:
        folder = root / name
        inside = folder.resolve().is_relative_to(root.resolve())
        chosen = name in platform.named or name in platform.settings.training_sets
        if not folder.is_dir() or not (inside or (chosen and Path(name).is_absolute())):
            raise UserError(
                f"{name}: is not an annotated set below {root}; "
                "name other folders in TEM_TRAINING_SETS, or train with `tem-pipeline train`"
            )
        return folder

    def starting_model(self, platform: Platform) -> str:
        """Give the reference of the model whose weights to start from.

        Raises
        ------
        UserError
            When it is a folder that the command line was not given.
        """
        name = self.start_from
        registered = name in ("", "champion", "pretrained") or name.startswith("models:/")
        if not (registered or name in platform.named):
            raise UserError(
                f"{name}: start from champion, pretrained or models:/{REGISTERED_MODEL}/VERSION, "
                "or use `tem-pipeline train --from`"
            )
        return name


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


class TrainingLock(dg.ConfigurableResource):
    """Holds the lock of the training tables from the run's first step to its last."""

    platform: dg.ResourceDependency[Platform]

    @contextmanager
    def yield_for_execution(self, context: dg.InitResourceContext) -> Iterator[Any]:
        """Take the lock when the run starts, and wait for a training that is under way."""
        layout = self.platform.layout
        if not is_free(training_lock(layout, timeout_s=0)):
            progress.say("another training is under way: this one starts when it has ended")
        with training_lock(layout):
            yield self


def session_folder(run_tags: Mapping[str, str], platform: Platform, session: str) -> UPath:
    """Find the folder that a session is read from.

    A run of a session that was given by its folder has it in a tag. Any other session is below incoming/, in
    a folder whose name is the key or gives the key. Whoever launches a run can set tags, so the folder must
    be one of this installation.

    Raises
    ------
    UserError
        When the folder does not exist, or may not be read.
    """
    from tem_pipeline.micrographs.sessions import session_key

    layout = platform.layout
    tagged = run_tags.get(SESSION_FOLDER_TAG)
    if tagged:
        folder = UPath(tagged)
        if session_key(folder.name) != session:
            raise UserError(f"session {session}: {tagged} is the folder of another session")
        if not _may_be_read(folder, platform, session):
            raise UserError(
                f"{tagged}: is outside {layout.incoming}; run `tem-pipeline process {tagged}`, "
                "or name a folder above it in TEM_SESSION_ROOTS"
            )
        return folder
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


def _may_be_read(folder: UPath, platform: Platform, session: str) -> bool:
    """Tell whether a session may be read from a folder.

    It may if the folder is below incoming/ or TEM_SESSION_ROOTS, if the command line was given it now, or if
    the session was read from it before.
    """
    layout = platform.layout
    roots = [layout.incoming, *(resolve_root(root) for root in platform.settings.session_roots)]
    if str(folder) in platform.named or any(_is_below(folder, root) for root in roots):
        return True
    table = layout.table("raw_tem_images", session)
    return table.exists() and str(folder) in set(read_table(table, ["session_folder"])["session_folder"])


def _is_below(folder: UPath, root: UPath) -> bool:
    if folder.protocol != root.protocol or ".." in folder.parts:
        return False
    if folder.protocol in ("", "file"):
        return Path(str(folder)).resolve().is_relative_to(Path(str(root)).resolve())
    return folder.is_relative_to(root)
