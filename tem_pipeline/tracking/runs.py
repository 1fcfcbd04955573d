"""A training as a run in MLflow: its parameters, its epochs, and the registered model."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tem_pipeline.tracking.store import (
    MODEL_FOLDER_ARTIFACT,
    REGISTERED_MODEL,
    ModelStore,
    experiment_id,
    global_store,
    open_store,
)

if TYPE_CHECKING:
    from tem_pipeline.training.fitting import TrainedNetwork


@dataclass(frozen=True)
class TrainingRun:
    """A run in MLflow that is under way."""

    run_id: str
    client: Any
    tags: Mapping[str, str]

    def log_epoch(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """Log the metrics of an epoch."""
        import mlflow

        mlflow.log_metrics(dict(metrics), step=epoch, run_id=self.run_id)

    def log_metrics(self, metrics: Mapping[str, float]) -> None:
        """Log metrics of the whole training."""
        import mlflow

        mlflow.log_metrics(dict(metrics), run_id=self.run_id)

    def register(self, trained: "TrainedNetwork") -> str:
        """Log the trained network with its history and register it.

        Returns
        -------
        str
            Version of the registered model.
        """
        import mlflow

        self.log_metrics({"best_epoch": trained.best_epoch, "training_seconds": trained.seconds})
        self.client.log_text(self.run_id, trained.history.to_csv(index=False), "history.csv")
        packages = [f"{name}=={version(name)}" for name in ("keras", "tensorflow")]
        logged = mlflow.keras.log_model(trained.model, name="model", pip_requirements=packages)  # type: ignore[attr-defined]
        _create_registered_model(self.client)
        registered = self.client.create_model_version(
            REGISTERED_MODEL, source=logged.model_uri, run_id=self.run_id, tags=dict(self.tags)
        )
        return str(registered.version)

    def log_model_folder(self, folder: Path, figures: Mapping[str, bytes]) -> None:
        """Log the exported model's folder and PNG figures by file name."""
        for name, png in figures.items():
            (folder / name).write_bytes(png)
            self.client.log_artifact(self.run_id, str(folder / name))
            (folder / name).unlink()
        self.client.log_artifacts(self.run_id, str(folder), MODEL_FOLDER_ARTIFACT)


@contextmanager
def training_run(
    store: ModelStore, name: str, parameters: Mapping[str, Any], tags: Mapping[str, str]
) -> Iterator[TrainingRun]:
    """Open a run for one training; an error inside the block marks the run as failed.

    Parameters
    ----------
    store : ModelStore
    name : str
        Name of the run.
    parameters : mapping
        Logged with the run.
    tags : mapping
        Set on the run and on the registered version.

    Yields
    ------
    TrainingRun

    Raises
    ------
    UserError
        When the store can't be reached, and for every MLflow error inside the block.
    """
    with open_store(store) as client, global_store(store):
        import mlflow

        experiment = experiment_id(client, store)
        with mlflow.start_run(
            experiment_id=experiment, run_name=name, tags=dict(tags), log_system_metrics=False
        ) as run:
            mlflow.log_params(dict(parameters))
            yield TrainingRun(run.info.run_id, client, tags)


def _create_registered_model(client: Any) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(REGISTERED_MODEL)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
