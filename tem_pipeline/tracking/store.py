"""The store in which models are tracked: an MLflow server, or the store embedded below the models root."""

import http.client
import logging
import sqlite3
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock

from tem_pipeline.errors import UserError
from tem_pipeline.settings import Settings
from tem_pipeline.storage import Layout
from tem_pipeline.text import redacted, without_credentials

EXPERIMENT = "tem_segmentation"
REGISTERED_MODEL = "tem_segmentation"
MODEL_FOLDER_ARTIFACT = "inference"
_DATABASE_DRIVERS = ("psycopg", "psycopg2", "MySQLdb", "pymysql", "pyodbc")


@dataclass(frozen=True)
class ModelStore:
    """Address of an MLflow store, and the folder of its artifacts where the store is embedded."""

    uri: str = field(repr=False)
    artifacts: str | None

    @property
    def database(self) -> Path | None:
        """The database file of an embedded store."""
        prefix = "sqlite:///"
        return Path(self.uri.removeprefix(prefix)) if self.uri.startswith(prefix) else None


def store_of(settings: Settings, layout: Layout) -> ModelStore:
    """Give the store that the settings name, without opening it.

    Raises
    ------
    UserError
        When MLflow can't keep its embedded store in the models root.
    """
    if settings.mlflow_tracking_uri:
        return ModelStore(settings.mlflow_tracking_uri, None)
    folder = Path(str(layout.mlflow))
    if "%" in str(folder) or "?" in str(folder):
        raise UserError(
            f"TEM_MODELS_ROOT={layout.models_root}: MLflow can't keep its store in a folder with "
            "% or ? in its name; name another folder"
        )
    return ModelStore(f"sqlite:///{folder / 'mlflow.db'}", (folder / "artifacts").as_uri())


@contextmanager
def open_store(store: ModelStore) -> Iterator[Any]:
    """Open the store, and create the embedded one if it does not exist yet.

    Yields
    ------
    MlflowClient

    Raises
    ------
    UserError
        When the store does not answer, and for every MLflow error inside the block.
    """
    _require_answer(store)
    import mlflow
    from mlflow.exceptions import MlflowException

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        client = mlflow.MlflowClient(store.uri, store.uri)
        if store.database:
            _create_embedded(client, store, store.database.parent)
        yield client
    except ModuleNotFoundError as error:
        if error.name not in _DATABASE_DRIVERS:
            raise
        raise UserError(
            f"MLflow store {store.uri}: its database driver {error.name} is not installed; "
            "install it, or name another driver, such as postgresql+psycopg2://"
        ) from None
    except MlflowException as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"MLflow store {store.uri}: {reason}; check that it is running and reachable") from (
            error if redacted(store.uri) == store.uri else None
        )


def experiment_id(client: Any, store: ModelStore) -> str:
    """Give the experiment of all trainings; it is created if need be."""
    experiment = client.get_experiment_by_name(EXPERIMENT)
    if experiment is not None:
        return experiment.experiment_id
    # With this tag MLflow's pages open on the training runs instead of the view for language models.
    kind = {"mlflow.experimentKind": "custom_model_development"}
    return client.create_experiment(EXPERIMENT, artifact_location=store.artifacts, tags=kind)


def _require_answer(store: ModelStore) -> None:
    """Check that the store answers: MLflow itself would retry for minutes.

    Any HTTP answer is accepted, because a server behind a login or a proxy is MLflow's business.
    """
    try:
        if store.database and store.database.exists():
            with closing(sqlite3.connect(f"{store.database.as_uri()}?mode=rw", uri=True)) as connection:
                connection.execute("SELECT count(*) FROM sqlite_master")
        elif store.uri.startswith("http"):
            urllib.request.urlopen(f"{without_credentials(store.uri).rstrip('/')}/health", timeout=5).close()
    except urllib.error.HTTPError:
        return
    except (OSError, http.client.HTTPException, sqlite3.Error) as error:
        reason = getattr(error, "reason", error)
        if isinstance(reason, ssl.SSLError):
            return  # MLflow has its own settings for certificates.
        raise UserError(
            f"MLflow store {store.uri}: no answer ({reason}); check that it is running and reachable"
        ) from error


def _create_embedded(client: Any, store: ModelStore, folder: Path) -> None:
    """Create the embedded store under a lock: two processes would race in its first migrations."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(str(folder / ".initialise.lock"), timeout=300):
            experiment_id(client, store)
    except OSError as error:
        raise UserError(f"{folder}: MLflow's store can't be written ({error.strerror})") from error
