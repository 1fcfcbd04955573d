"""The registry of models: the only module that imports mlflow."""

import http.client
import logging
import os
import shutil
import sqlite3
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock
from upath import UPath

from tem_pipeline.errors import UserError
from tem_pipeline.segmentation.models import ModelCard, holds_model, read_card, write_card
from tem_pipeline.settings import Settings
from tem_pipeline.storage import AnyPath, Layout, atomic_path

if TYPE_CHECKING:  # finding a model must not wait for what training it needs
    from tem_pipeline.training.fitting import TrainedNetwork

EXPERIMENT = "tem_segmentation"
REGISTERED_MODEL = "tem_segmentation"
CHAMPION = "champion"
INFERENCE_ARTIFACT = "inference"
NO_CHAMPION_YET = "there is no champion yet: the pretrained model is used; train one on your own images"


@dataclass(frozen=True)
class ModelStore:
    """Where models are tracked: an MLflow server, or the embedded store below the models root."""

    uri: str
    artifacts: str | None


def store_of(settings: Settings, layout: Layout) -> ModelStore:
    """Give the store that the settings name; nothing is opened or written yet."""
    if settings.mlflow_tracking_uri:
        return ModelStore(settings.mlflow_tracking_uri, None)
    folder = Path(str(layout.mlflow))
    return ModelStore(f"sqlite:///{folder / 'mlflow.db'}", (folder / "artifacts").as_uri())


def _embedded_database(store: ModelStore) -> Path | None:
    prefix = "sqlite:///"
    return Path(store.uri.removeprefix(prefix)) if store.uri.startswith(prefix) else None


@contextmanager
def _client(store: ModelStore) -> Iterator[Any]:
    """Open the store; whatever it says that it can't do becomes one line."""
    _knock(store)
    # A server that fails later should be an error within a minute, not after MLflow's many retries.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    import mlflow
    from mlflow.exceptions import MlflowException

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        _point_at(store)
        client = mlflow.MlflowClient(store.uri, store.uri)
        if database := _embedded_database(store):
            _initialise(client, store, database.parent)
        yield client
    except MlflowException as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"MLflow store {store.uri}: {reason}; check that it is running and reachable"
        ) from error


def _point_at(store: ModelStore) -> None:
    """Name the store to MLflow's functions that take none, but leave the environment as it is.

    MLflow writes the address there too, for processes to come; our settings would take it for a person's.
    """
    import mlflow

    before = {name: os.environ.get(name) for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI")}
    mlflow.set_tracking_uri(store.uri)
    mlflow.set_registry_uri(store.uri)
    for name, value in before.items():
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value


def _knock(store: ModelStore) -> None:
    """Make sure that the store answers at all: MLflow itself would try for minutes.

    Any answer of a server will do, so that those behind a login or a proxy are left to MLflow.
    """
    try:
        if (database := _embedded_database(store)) and database.exists():
            with closing(sqlite3.connect(f"{database.as_uri()}?mode=rw", uri=True)) as connection:
                connection.execute("SELECT count(*) FROM sqlite_master")
        elif store.uri.startswith("http"):
            urllib.request.urlopen(f"{store.uri.rstrip('/')}/health", timeout=5).close()
    except urllib.error.HTTPError:
        return
    except (OSError, http.client.HTTPException, sqlite3.Error) as error:
        reason = getattr(error, "reason", error)
        if isinstance(reason, ssl.SSLError):
            return  # MLflow has settings of its own for certificates
        raise UserError(
            f"MLflow store {store.uri}: no answer ({reason}); check that it is running and reachable"
        ) from error


def _initialise(client: Any, store: ModelStore, folder: Path) -> None:
    """Make the embedded store once; two processes that first use it at once would race in its migrations."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(str(folder / ".initialise.lock"), timeout=300):
            if client.get_experiment_by_name(EXPERIMENT) is None:
                _create_experiment(client, store)
    except OSError as error:
        raise UserError(f"{folder}: MLflow's store can't be written ({error.strerror})") from error


def _experiment_id(client: Any, store: ModelStore) -> str:
    experiment = client.get_experiment_by_name(EXPERIMENT)
    if experiment is None:
        return _create_experiment(client, store)
    return experiment.experiment_id


def _create_experiment(client: Any, store: ModelStore) -> str:
    # The tag lets MLflow's pages open on training runs rather than on its view for language models.
    kind = {"mlflow.experimentKind": "custom_model_development"}
    return client.create_experiment(EXPERIMENT, artifact_location=store.artifacts, tags=kind)


def log_training(
    store: ModelStore,
    train: "Callable[[Callable[[int, dict[str, float]], None]], TrainedNetwork]",
    *,
    parameters: dict[str, Any],
    card: dict[str, Any],
    staging: Path,
    figure: Callable[[Path], bytes] | None = None,
    score: Callable[[Path], tuple[dict[str, float], float | None]] | None = None,
) -> ModelCard:
    """Train inside an MLflow run and register the model.

    Parameters
    ----------
    store : ModelStore
    train : callable
        Given a function to call after every epoch; returns the trained network. An error in it marks the
        MLflow run as failed.
    parameters : dict
        Logged with the run.
    card : dict
        Fields of the model card that are known before training; must hold `loss`.
    staging : path
        An empty folder in which the model is put together; the caller removes it.
    figure : callable, optional
        Given the exported model's folder, returns a PNG of predictions.
    score : callable, optional
        Given the exported model's folder, returns its scores on validation, without prefix, and the relative
        error of the diameters there.

    Returns
    -------
    ModelCard
        Of the registered version; its folder is `staging`.
    """
    import mlflow

    from tem_pipeline.training.fitting import export_model

    with (
        _client(store) as client,
        mlflow.start_run(
            experiment_id=_experiment_id(client, store), run_name=card["loss"], log_system_metrics=False
        ) as run,
    ):
        run_id = run.info.run_id
        mlflow.log_params(parameters)
        mlflow.set_tags({"loss": card["loss"], "dataset_hash": card["dataset_hash"]})

        def log_epoch(epoch: int, metrics: dict[str, float]) -> None:
            mlflow.log_metrics(metrics, step=epoch, run_id=run_id)

        trained = train(log_epoch)
        mlflow.log_metrics({"best_epoch": trained.best_epoch, "training_seconds": trained.seconds})
        mlflow.log_text(trained.history.to_csv(index=False), "history.csv")
        logged = mlflow.keras.log_model(  # type: ignore[attr-defined]
            trained.model,
            name="model",
            pip_requirements=[f"keras=={_version('keras')}", f"tensorflow=={_version('tensorflow')}"],
        )
        version = _register(client, logged.model_uri, run_id)
        client.set_model_version_tag(REGISTERED_MODEL, version, "loss", card["loss"])
        client.set_model_version_tag(REGISTERED_MODEL, version, "dataset_hash", card["dataset_hash"])
        complete = {"name": REGISTERED_MODEL, "version": version, "run_id": run_id, **card}
        exported = export_model(trained, staging, **complete)
        if score:
            validation_scores, diameter_error = score(staging)
            mlflow.log_metrics({f"best_val_{key}": value for key, value in validation_scores.items()})
            if diameter_error is not None:
                mlflow.log_metric("best_val_diameter_error", diameter_error)
            exported = replace(exported, validation_scores=validation_scores, diameter_error=diameter_error)
            write_card(staging, exported)
        if figure:
            (staging / "predictions.png").write_bytes(figure(staging))
            mlflow.log_artifact(str(staging / "predictions.png"))
            (staging / "predictions.png").unlink()
        mlflow.log_artifacts(str(staging), INFERENCE_ARTIFACT)
    return exported


def _register(client: Any, model_uri: str, run_id: str) -> str:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(REGISTERED_MODEL)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    return str(client.create_model_version(REGISTERED_MODEL, source=model_uri, run_id=run_id).version)


def _version(package: str) -> str:
    from importlib.metadata import version

    return version(package)


def champion_version(store: ModelStore) -> str | None:
    """Give the version that the alias `champion` names, or None where there is none yet.

    Raises
    ------
    UserError
        When the store can't be reached.
    """
    if (database := _embedded_database(store)) and not database.exists():
        return None  # a mere look doesn't make a store
    with _client(store) as client:
        from mlflow.exceptions import MlflowException

        try:
            return str(client.get_model_version_by_alias(REGISTERED_MODEL, CHAMPION).version)
        except MlflowException as error:
            if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                return None
            raise


def fetch_version(store: ModelStore, version: str) -> Path:
    """Give the model folder of a registered version; from a server it is downloaded.

    Raises
    ------
    UserError
        When there is no such version.
    """
    import mlflow

    with _client(store) as client:
        registered = client.get_model_version(REGISTERED_MODEL, version)
        folder = mlflow.artifacts.download_artifacts(  # type: ignore[attr-defined]
            run_id=registered.run_id, artifact_path=INFERENCE_ARTIFACT, tracking_uri=store.uri
        )
    return Path(folder)


def promote(store: ModelStore, layout: Layout, version: str) -> ModelCard:
    """Move the alias `champion` to a version and write the champion folder with it.

    The weights are laid beside those of the former champion; the card, which names them, is replaced last,
    so whoever loads the champion meets the old one or the new one, whole.
    """
    source = fetch_version(store, version)
    card = read_card(source)
    _lay_weights(source, layout.champion, card)
    with _client(store) as client:
        client.set_registered_model_alias(REGISTERED_MODEL, CHAMPION, version)
    write_card(layout.champion, card)
    return card


def _lay_weights(source: Path, target: AnyPath, card: ModelCard) -> None:
    for file in sorted((source / card.weights).iterdir()):
        with atomic_path(target / card.weights / file.name) as part:
            shutil.copyfile(file, part)


def check_champion(store: ModelStore, layout: Layout) -> ModelCard:
    """Make sure that the champion folder holds what the alias names.

    A folder that fell behind, because somebody moved the alias in MLflow or a promotion was cut short, is
    written anew. Where no version has the alias, the folder alone says what the champion is.

    Raises
    ------
    UserError
        When there is no champion at all, or the store can't be reached.
    """
    version = champion_version(store)
    if version is None:
        return read_card(layout.champion)
    try:
        card = read_card(layout.champion)
    except UserError:
        card = None
    if card is None or card.version != version:
        return promote(store, layout, version)
    return card


def champion_or_pretrained(store: ModelStore, layout: Layout) -> AnyPath:
    """Give the folder of the model that sessions are processed with.

    It is the champion, checked as `check_champion` does. As long as there is none, in the registry or in its
    folder, it is the pretrained model.

    Raises
    ------
    UserError
        When there is neither, or the store can't be reached.
    """
    if (
        not holds_model(layout.champion)
        and champion_version(store) is None
        and holds_model(layout.pretrained)
    ):
        return layout.pretrained
    check_champion(store, layout)
    return layout.champion


def resolve_model(reference: str, store: ModelStore, layout: Layout) -> AnyPath:
    """Give the model folder that a reference names.

    Parameters
    ----------
    reference : str
        `champion`, `pretrained`, `models:/NAME/VERSION`, or a folder. The champion's folder is taken as it
        is, without a look into the registry; where it is empty, see `champion_or_pretrained`.

    Raises
    ------
    UserError
        When it names nothing.
    """
    if reference == "champion":
        return layout.champion if holds_model(layout.champion) else champion_or_pretrained(store, layout)
    if reference == "pretrained":
        return layout.pretrained
    if reference.startswith("models:/"):
        name, _, version = reference.removeprefix("models:/").partition("/")
        if name != REGISTERED_MODEL or not version.isdigit():
            raise UserError(
                f"{reference}: models are named models:/{REGISTERED_MODEL}/VERSION, VERSION a number"
            )
        return fetch_version(store, version)
    return UPath(reference)
