"""A training as a run in MLflow: its parameters, its epochs, and the registered model."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from tem_pipeline.tracking.store import (
    MODEL_FOLDER_ARTIFACT,
    REGISTERED_MODEL,
    ModelStore,
    experiment_id,
    open_store,
)

if TYPE_CHECKING:
    from tem_pipeline.training.fitting import TrainedNetwork


@dataclass(frozen=True)
class TrainingRun:
    """A run in MLflow that is under way.

    Only MLflow's client is used. Its other functions write to one store per process, whose address they also
    put into the environment, where another thread would read it.
    """

    run_id: str
    client: Any
    store: ModelStore
    experiment_id: str
    tags: Mapping[str, str]

    def log_epoch(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """Log the metrics of an epoch."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self.client.log_batch(
            self.run_id, [Metric(name, float(value), now, epoch) for name, value in metrics.items()]
        )

    def log_metrics(self, metrics: Mapping[str, float]) -> None:
        """Log metrics of the whole training."""
        self.log_epoch(0, metrics)

    def register(self, trained: "TrainedNetwork") -> str:
        """Log the trained network with its history and register it.

        Returns
        -------
        str
            Version of the registered model.
        """
        from mlflow.entities import LoggedModelOutput, LoggedModelStatus

        self.log_metrics({"best_epoch": trained.best_epoch, "training_seconds": trained.seconds})
        self.client.log_text(self.run_id, trained.history.to_csv(index=False), "history.csv")
        logged = self.client.create_logged_model(self.experiment_id, "model", self.run_id)
        self.client.log_outputs(self.run_id, [LoggedModelOutput(logged.model_id, step=0)])
        self._upload(trained.model, logged)
        self.client.finalize_logged_model(logged.model_id, LoggedModelStatus.READY)
        _create_registered_model(self.client)
        # An embedded store would look for models:/… in the store of the process.
        source = logged.artifact_location if self.store.database else f"models:/{logged.model_id}"
        registered = self.client.create_model_version(
            REGISTERED_MODEL, source=source, run_id=self.run_id, tags=dict(self.tags)
        )
        return str(registered.version)

    def _upload(self, network: Any, logged: Any) -> None:
        from mlflow import keras
        from mlflow.models import Model

        described = Model(
            artifact_path=logged.artifact_location,
            model_uuid=logged.model_id,
            model_id=logged.model_id,
            run_id=self.run_id,
        )
        packages = [f"{name}=={version(name)}" for name in ("keras", "tensorflow")]
        with TemporaryDirectory() as folder:
            files = str(Path(folder) / "model")
            keras.save_model(network, files, mlflow_model=described, pip_requirements=packages)
            self.client.log_model_artifacts(logged.model_id, files)

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
    with open_store(store) as client:
        from mlflow.entities import Param
        from mlflow.tracking.context.registry import resolve_tags

        experiment = experiment_id(client, store)
        run_id = client.create_run(experiment, tags=resolve_tags(dict(tags)), run_name=name).info.run_id
        status = "FAILED"
        try:
            client.log_batch(run_id, params=[Param(key, str(value)) for key, value in parameters.items()])
            yield TrainingRun(run_id, client, store, experiment, tags)
            status = "FINISHED"
        finally:
            client.set_terminated(run_id, status)


def _create_registered_model(client: Any) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(REGISTERED_MODEL)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
