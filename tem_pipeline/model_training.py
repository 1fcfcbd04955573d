"""Trains and registers a model. The training assets call this module; it does not know Dagster."""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from tem_pipeline import progress
from tem_pipeline.annotation.augmentation import read_shards
from tem_pipeline.annotation.catalogue import from_catalogue
from tem_pipeline.annotation.datasets import AnnotatedImage
from tem_pipeline.errors import UserError
from tem_pipeline.installation import Installation
from tem_pipeline.segmentation.inference import predict_classes
from tem_pipeline.segmentation.models import ModelCard, SegmentationModel, load_model, read_card, write_card
from tem_pipeline.tracking import champion
from tem_pipeline.tracking.runs import TrainingRun, training_run
from tem_pipeline.tracking.store import REGISTERED_MODEL
from tem_pipeline.training.evaluation import (
    diameter_uncertainty,
    evaluate_model,
    pixel_size_range,
    summarise_evaluation,
    unseen,
)
from tem_pipeline.training.fitting import (
    PROFILES,
    Profile,
    StartingModel,
    TrainedNetwork,
    export_model,
    prepare_keras,
    train_network,
)
from tem_pipeline.training.metrics import SCORES

if TYPE_CHECKING:
    pass


def model_key(loss: str) -> str:
    """Give the key of the asset, and of the table, of the model trained with a loss."""
    return f"training/model_{loss}"


@dataclass(frozen=True)
class Training:
    """One training that is about to start: its data, its network and its starting model."""

    loss: str
    network: str
    base_width: int
    profile: Profile
    seed: int
    start: StartingModel | None
    start_from: str
    remark: str
    training: list[AnnotatedImage]
    validation: list[AnnotatedImage]
    crops: np.ndarray
    class_maps: np.ndarray
    dataset_hash: str
    split_seed: int
    sets: tuple[str, ...]


@dataclass(frozen=True)
class TrainedModel:
    """A registered model: its table row and a small picture of its predictions."""

    row: dict[str, Any]
    picture: bytes


def prepare_training(
    installation: Installation,
    catalogue: pd.DataFrame,
    augmented: pd.DataFrame,
    loss: str,
    network: str = "ds_unet",
    seed: int = 0,
    start_from: str = "",
) -> Training:
    """Read the data of a training and find the model that it starts from.

    Parameters
    ----------
    installation : Installation
    catalogue : DataFrame
        Table of the annotated images.
    augmented : DataFrame
        Table of the augmented crops; its rows name the profile.
    loss : str
        A name of `tables.LOSSES`.
    network : str
        A name of `fitting.NETWORKS`; the network of a starting model takes precedence.
    seed : int
        Seed of the first weights and of the order of batches.
    start_from : str
        Reference of the model whose weights to start from; empty: random weights.

    Raises
    ------
    UserError
        When the crops were made of other annotated images, the starting model can't be found, or it has seen
        every validation image.
    """
    _require_same_images("the augmented crops", augmented, catalogue, "materialise augmented_dataset again")
    profile = PROFILES[augmented["profile"].iloc[0]]
    base_width, remark = profile.base_width, ""
    training, validation = (from_catalogue(catalogue, part) for part in ("training", "validation"))
    start = _starting_model(installation, start_from)
    if start:
        remark = start.changes(profile, network, training[0].classes)
        network, base_width = start.card.network, start.card.base_width
        validation = unseen(validation, start.card, validation_too=False)
        if not validation:
            raise UserError(
                f"{start.folder}: was trained on every validation image of this split; "
                "split as for that model, annotate more, or train without --from"
            )
    folder = installation.layout.partition("training/augmented_dataset")
    shards = [folder / name for name in augmented["shard_file"]]
    crops, class_maps = read_shards(shards, installation.settings.threads)
    return Training(
        loss=loss,
        network=network,
        base_width=base_width,
        profile=profile,
        seed=seed,
        start=start,
        start_from=start_from,
        remark=remark,
        training=training,
        validation=validation,
        crops=crops,
        class_maps=class_maps,
        dataset_hash=catalogue["dataset_hash"].iloc[0],
        split_seed=int(catalogue["split_seed"].iloc[0]),
        sets=tuple(sorted(set(catalogue["set_name"]))),
    )


def _require_same_images(what: str, made: pd.DataFrame, catalogue: pd.DataFrame, remedy: str) -> None:
    """Refuse an artefact that was made from other annotated images, or from another split of them.

    Crops of an earlier split may show the present test images. A model trained on them could not be tested.
    """
    present = catalogue["dataset_hash"].iloc[0]
    other = [str(value)[:12] for value in made["dataset_hash"].unique() if value != present]
    if made.empty or other:
        source = f"the annotated images {', '.join(other)}" if other else "no annotated image"
        raise UserError(f"{what} were made from {source}, the present ones are {present[:12]}: {remedy}")


def _starting_model(installation: Installation, reference: str) -> StartingModel | None:
    if not reference:
        return None
    folder = champion.resolve_model(reference, installation.store, installation.layout)
    return StartingModel(folder, read_card(folder))


def train_model(installation: Installation, training: Training, tell: Callable[[str], None]) -> TrainedModel:
    """Train a network, log the training in MLflow and register the model.

    Parameters
    ----------
    installation : Installation
    training : Training
    tell : callable
        Receives one line per epoch.

    Raises
    ------
    UserError
        When the model store can't be reached.
    """
    prepare_keras(installation.settings.threads)
    tags = {"loss": training.loss, "dataset_hash": training.dataset_hash}
    with (
        tempfile.TemporaryDirectory() as name,
        training_run(installation.store, training.loss, _parameters(training), tags) as run,
    ):
        trained = _fit(training, run, tell)
        folder = Path(name)
        origin = {"name": REGISTERED_MODEL, "version": run.register(trained), "run_id": run.run_id}
        card = export_model(trained, folder, **origin, **_card_fields(training))
        model = load_model(folder, installation.settings.threads, installation.settings.precision)
        card = _score(model, training.validation, card, run)
        write_card(folder, card)
        picture, small_picture = _predictions(model, training)
        run.log_model_folder(folder, {"predictions.png": picture})
    row = {
        "loss": training.loss,
        "model_name": card.name,
        "model_version": card.version,
        "run_id": card.run_id,
        "dataset_hash": training.dataset_hash,
        "profile": training.profile.name,
        "seed": training.seed,
        "best_epoch": trained.best_epoch,
        "seconds": trained.seconds,
        **{f"validation_{name}": value for name, value in card.validation_scores.items()},
    }
    return TrainedModel(row, small_picture)


def _parameters(training: Training) -> dict[str, Any]:
    """Give what MLflow shows as the parameters of the run."""
    profile, start = training.profile, training.start
    return {
        "loss": training.loss,
        "network": training.network,
        "profile": profile.name,
        "base_width": training.base_width,
        "crop_px": profile.crop_px,
        "steps": profile.steps,
        "batch": profile.batch,
        "learning_rate": profile.learning_rate,
        "augmented_images": len(training.crops),
        "training_images": len(training.training),
        "validation_images": len(training.validation),
        "split_seed": training.split_seed,
        "seed": training.seed,
        "start_from": training.start_from,
        "start_weights_sha256": start.card.weights_sha256 if start else "",
        "start_remark": training.remark,
        "dataset_hash": training.dataset_hash,
        "sets": ", ".join(training.sets),
    }


def _card_fields(training: Training) -> dict[str, Any]:
    """Give the fields of the model card that are known before the training."""
    start = training.start.card if training.start else None
    return {
        "loss": training.loss,
        "network": training.network,
        "base_width": training.base_width,
        "classes": training.training[0].classes,
        "profile": training.profile.name,
        "seed": training.seed,
        "dataset_hash": training.dataset_hash,
        # The new model counts as trained on the images of its starting model too.
        "training_images": _hashes(training.training, start.training_images if start else ()),
        "validation_images": _hashes(training.validation, start.validation_images if start else ()),
        "pixel_size_nm": pixel_size_range(training.training),
    }


def _hashes(images: Sequence[AnnotatedImage], others: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys([*(image.pixel_sha256 for image in images), *others]))


def _fit(training: Training, run: TrainingRun, tell: Callable[[str], None]) -> TrainedNetwork:
    """Train the network; log and tell every epoch."""
    epochs = -(-training.profile.steps // training.profile.epoch_steps)
    with progress.bar(f"training {training.loss}") as advance:

        def on_epoch(epoch: int, metrics: dict[str, float]) -> None:
            run.log_epoch(epoch, metrics)
            advance(epoch / epochs, f"validation Dice {metrics['val_dice']:.4f}")
            tell(f"epoch {epoch}/{epochs}: {metrics}")

        return train_network(
            training.crops,
            training.class_maps,
            [(image.image, image.class_map) for image in training.validation],
            classes=training.training[0].classes,
            loss=training.loss,
            profile=training.profile,
            network=training.network,
            seed=training.seed,
            start=training.start,
            on_epoch=on_epoch,
        )


def _score(
    model: SegmentationModel, validation: Sequence[AnnotatedImage], card: ModelCard, run: TrainingRun
) -> ModelCard:
    """Score the exported model on the validation images; give its card with the scores."""
    evaluated = evaluate_model(model, validation)
    summary = summarise_evaluation(evaluated)
    scores = {name: float(summary[name]) for name in SCORES}
    error = diameter_uncertainty(evaluated)
    shown = scores if error is None else {**scores, "diameter_error": error}
    run.log_metrics({f"best_val_{name}": value for name, value in shown.items()})
    return replace(card, validation_scores=scores, diameter_error=error)


def _predictions(model: SegmentationModel, training: Training) -> tuple[bytes, bytes]:
    """Draw predictions beside the annotation, as PNG: large for MLflow, small for Dagster's event log."""
    from tem_pipeline.reports.figures import figure_png, loss_comparison_figure

    shown = training.validation[:2]
    drawn = loss_comparison_figure(
        [image.image for image in shown],
        [image.class_map == len(image.classes) - 1 for image in shown],
        {training.loss: [predicted_cores(model, image) for image in shown]},
    )
    return figure_png(drawn), figure_png(drawn, dpi=60)


def predicted_cores(model: SegmentationModel, image: AnnotatedImage) -> np.ndarray:
    """Give the mask of the cores that a model finds in an annotated image."""
    class_map, _ = predict_classes(model, image.image, pixel_size_nm=image.square_pixel_nm)
    return class_map == model.card.classes.index("core")
