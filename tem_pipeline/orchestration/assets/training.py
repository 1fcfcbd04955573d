"""The training assets: annotated sets to models in MLflow, their comparison, and the champion.

Assets carry no return annotation: by `MaterializeResult` Dagster would take them to have no value.
Pictures are imported where they are drawn: matplotlib takes half as long to load as Dagster.
"""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pandas as pd

from tem_pipeline import progress, tracking
from tem_pipeline.annotation.augmentation import augment_images, read_shards, write_shards
from tem_pipeline.annotation.catalogue import from_catalogue, to_catalogue
from tem_pipeline.annotation.datasets import AnnotatedImage, combine_sets, read_annotated_set
from tem_pipeline.annotation.splitting import PARTS, split_sources
from tem_pipeline.errors import UserError
from tem_pipeline.orchestration import previews
from tem_pipeline.orchestration.resources import Platform, TrainingPlan
from tem_pipeline.segmentation.inference import predict_classes
from tem_pipeline.segmentation.instances import label_instances
from tem_pipeline.segmentation.models import SegmentationModel, load_model, read_card
from tem_pipeline.storage import collect_unreferenced, read_table, write_content
from tem_pipeline.training.baseline import otsu_watershed
from tem_pipeline.training.evaluation import (
    compare_cores,
    diameter_uncertainty,
    evaluate_model,
    is_better,
    pixel_size_range,
    summarise_evaluation,
    unseen,
)
from tem_pipeline.training.fitting import (
    PROFILES,
    StartingModel,
    TrainedNetwork,
    prepare_keras,
    train_network,
)
from tem_pipeline.training.losses import LOSSES

GROUP: dict[str, Any] = {"group_name": "training", "key_prefix": "training", "io_manager_key": "tables"}
BASELINE = "otsu_watershed"
SCORE_NAMES = ("accuracy", "mean_iou", "dice", "iou")
COMPARED = (*SCORE_NAMES, "boundary_f", "instance_f1", "diameter_error")


def model_key(loss: str) -> str:
    """Give the asset key of the model trained with a loss, with slashes."""
    return f"training/model_{loss}"


@dg.asset(**GROUP, kinds={"parquet"})
def annotated_images(platform: Platform, training_plan: TrainingPlan):
    """Labelled sets, checked, split by source micrograph into training, validation and test, and hashed."""
    combined = combine_sets([read_annotated_set(folder) for folder in training_plan.folders(platform.layout)])
    parts = split_sources([image.group for image in combined.images], training_plan.split_seed).tolist()
    catalogue = to_catalogue(combined, parts, training_plan.split_seed)
    counts = catalogue.groupby("part", sort=False).agg(images=("name", "size"), sources=("group", "nunique"))
    return dg.MaterializeResult(
        value=catalogue,
        metadata={
            "dataset hash": catalogue["dataset_hash"].iloc[0],
            "images": len(catalogue),
            "split": previews.table(counts.reindex(PARTS).reset_index()),
            "sources": previews.table(catalogue[["set_name", "name", "group", "part"]], 100),
            "annotation": previews.picture(_annotation_png(combined.images[0])),
        },
    )


def _annotation_png(image: AnnotatedImage) -> bytes:
    from tem_pipeline.reports.overlays import overlay_png

    cores = image.class_map == len(image.classes) - 1
    shells = image.class_map > 0 if "shell" in image.classes else None
    return overlay_png(
        image.image,
        label_instances(cores, 1),
        None if shells is None else label_instances(shells, 1),
        pixel_size_nm=image.pixel_size_nm[1] if image.pixel_size_nm else None,
    )


@dg.asset(
    **GROUP,
    kinds={"parquet"},
    ins={"annotated_images": dg.AssetIn(key_prefix="training")},
)
def augmented_dataset(platform: Platform, training_plan: TrainingPlan, annotated_images: pd.DataFrame):
    """Augmented crops of the training images, in Parquet shards with source and transform of every row."""
    profile = _profile(training_plan)
    images = from_catalogue(annotated_images, "training")
    folder = platform.layout.partition("training/augmented_dataset")
    threads = platform.settings.threads
    with progress.bar("augmenting") as advance:
        rows = augment_images(
            images, profile.augmented_images, profile.crop_px, training_plan.seed, threads=threads
        )
        counted = (
            (advance((index + 1) / profile.augmented_images, ""), row)[1] for index, row in enumerate(rows)
        )
        shards = write_shards(counted, folder, threads=threads)
    index = pd.DataFrame(
        {
            "shard_file": [shard.name for shard in shards],
            "dataset_hash": annotated_images["dataset_hash"].iloc[0],
            "profile": profile.name,
            "crop_px": profile.crop_px,
            "seed": training_plan.seed,
        }
    )
    collect_unreferenced(folder, index["shard_file"])
    return dg.MaterializeResult(
        value=index,
        metadata={
            "augmented images": profile.augmented_images,
            "source images": len(images),
            "profile": profile.name,
        },
    )


def _profile(plan: TrainingPlan):
    if plan.profile not in PROFILES:
        raise UserError(f"profile {plan.profile!r} is unknown: use one of {', '.join(PROFILES)}")
    return PROFILES[plan.profile]


def _build_model_asset(loss: str) -> dg.AssetsDefinition:
    @dg.asset(
        name=f"model_{loss}",
        description=f"The network trained with the loss {loss}, in MLflow with its inference form.",
        **GROUP,
        kinds={"keras", "mlflow"},
        pool="training",
        ins={
            "annotated_images": dg.AssetIn(key_prefix="training"),
            "augmented_dataset": dg.AssetIn(key_prefix="training"),
        },
    )
    def model(
        context: dg.AssetExecutionContext,
        platform: Platform,
        training_plan: TrainingPlan,
        annotated_images: pd.DataFrame,
        augmented_dataset: pd.DataFrame,
    ):
        row = _train(context, platform, training_plan, loss, annotated_images, augmented_dataset)
        scores = {name: row[f"validation_{name}"] for name in SCORE_NAMES}
        picture, remark = row.pop("picture"), row.pop("start_remark")
        return dg.MaterializeResult(
            value=pd.DataFrame([row]),
            metadata={
                "MLflow run": row["run_id"],
                "registered version": f"models:/{row['model_name']}/{row['model_version']}",
                "best epoch": row["best_epoch"],
                "training seconds": row["seconds"],
                "validation": previews.table(pd.DataFrame([scores])),
                "predictions on validation": previews.picture(picture),
                **({"start": remark} if remark else {}),
            },
        )

    return model  # type: ignore[return-value]


def _train(
    context: dg.AssetExecutionContext,
    platform: Platform,
    plan: TrainingPlan,
    loss: str,
    catalogue: pd.DataFrame,
    augmented: pd.DataFrame,
) -> dict[str, Any]:
    """Train, log and register one model; give the row of its table."""
    layout, settings, store = platform.layout, platform.settings, platform.store
    profile = PROFILES[augmented["profile"].iloc[0]]
    training = from_catalogue(catalogue, "training")
    validation = from_catalogue(catalogue, "validation")
    classes = training[0].classes
    start, network, base_width = _starting_model(plan, platform), plan.network, profile.base_width
    remark = ""
    if start:
        remark = start.changes(profile, network, classes)
        context.log.info(remark)
        progress.say(remark)
        network, base_width = start.card.network, start.card.base_width
        validation = unseen(validation, start.card, validation_too=False)
        if not validation:
            raise UserError(
                f"{start.folder}: was trained on every validation image of this split; "
                "split as for that model, annotate more, or train without --from"
            )
    folder = layout.partition("training/augmented_dataset")
    crops, class_maps = read_shards(
        [folder / name for name in augmented["shard_file"]], platform.settings.threads
    )
    results: dict[str, Any] = {}
    picture: list[bytes] = []

    def train(log_epoch: Callable[[int, dict[str, float]], None]) -> TrainedNetwork:
        epochs = -(-profile.steps // profile.epoch_steps)
        with progress.bar(f"training {loss}") as advance:

            def on_epoch(epoch: int, metrics: dict[str, float]) -> None:
                log_epoch(epoch, metrics)
                advance(epoch / epochs, f"validation Dice {metrics['val_dice']:.4f}")
                context.log.info(f"epoch {epoch}/{epochs}: {metrics}")

            trained = train_network(
                crops,
                class_maps,
                [(image.image, image.class_map) for image in validation],
                classes=classes,
                loss=loss,
                profile=profile,
                network=plan.network,
                seed=plan.seed,
                start=start,
                on_epoch=on_epoch,
            )
        results.update(best_epoch=trained.best_epoch, seconds=trained.seconds)
        return trained

    def score(model_folder: Path) -> tuple[dict[str, float], float | None]:
        model = load_model(model_folder, settings.threads, settings.precision)
        evaluated = evaluate_model(model, validation)
        summary = summarise_evaluation(evaluated)
        return {name: float(summary[name]) for name in SCORE_NAMES}, diameter_uncertainty(evaluated)

    def figure(model_folder: Path) -> bytes:
        from tem_pipeline.reports.figures import figure_png, loss_comparison_figure

        model = load_model(model_folder, settings.threads, settings.precision)
        shown = validation[:2]
        found = [_cores(model, image) for image in shown]
        drawn = loss_comparison_figure(
            [image.image for image in shown],
            [image.class_map == len(classes) - 1 for image in shown],
            {loss: found},
        )
        picture.append(figure_png(drawn, dpi=60))
        return figure_png(drawn)

    prepare_keras(settings.threads)
    dataset_hash = catalogue["dataset_hash"].iloc[0]
    with tempfile.TemporaryDirectory() as staging:
        card = tracking.log_training(
            store,
            train,
            parameters={
                "loss": loss,
                "network": network,
                "profile": profile.name,
                "base_width": base_width,
                "crop_px": profile.crop_px,
                "steps": profile.steps,
                "batch": profile.batch,
                "learning_rate": profile.learning_rate,
                "augmented_images": len(crops),
                "training_images": len(training),
                "validation_images": len(validation),
                "split_seed": int(catalogue["split_seed"].iloc[0]),
                "seed": plan.seed,
                "start_from": plan.start_from,
                "start_weights_sha256": start.card.weights_sha256 if start else "",
                "start_remark": remark,
                "dataset_hash": dataset_hash,
                "sets": ", ".join(sorted(set(catalogue["set_name"]))),
            },
            card={
                "loss": loss,
                "network": network,
                "base_width": base_width,
                "classes": classes,
                "profile": profile.name,
                "seed": plan.seed,
                "dataset_hash": dataset_hash,
                # What the starting model has seen this one has seen too.
                "training_images": _hashes(training, start.card.training_images if start else ()),
                "validation_images": _hashes(validation, start.card.validation_images if start else ()),
                "pixel_size_nm": pixel_size_range(training),
            },
            staging=Path(staging),
            figure=figure,
            score=score,
        )
    return {
        "loss": loss,
        "model_name": card.name,
        "model_version": card.version,
        "run_id": card.run_id,
        "dataset_hash": dataset_hash,
        "profile": profile.name,
        "seed": plan.seed,
        **results,
        **{f"validation_{name}": value for name, value in card.validation_scores.items()},
        "picture": picture[0],
        "start_remark": remark,
    }


def _cores(model: SegmentationModel, image: AnnotatedImage) -> np.ndarray:
    class_map, _ = predict_classes(model, image.image, pixel_size_nm=image.square_pixel_nm)
    return class_map == model.card.classes.index("core")


def _starting_model(plan: TrainingPlan, platform: Platform) -> StartingModel | None:
    if not plan.start_from:
        return None
    folder = tracking.resolve_model(plan.start_from, platform.store, platform.layout)
    return StartingModel(folder, read_card(folder))


def _hashes(images: Sequence[AnnotatedImage], others: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys([*(image.pixel_sha256 for image in images), *others]))


MODEL_ASSETS = [_build_model_asset(loss) for loss in LOSSES]
MODEL_DEPS = [dg.AssetKey(["training", f"model_{loss}"]) for loss in LOSSES]


def _trained_models(platform: Platform, dataset_hash: str) -> pd.DataFrame:
    """Gather the rows of the models trained on a dataset; a loss never trained on it is left out."""
    tables = [platform.layout.table(model_key(loss)) for loss in LOSSES]
    rows = pd.concat([pd.DataFrame(), *(read_table(table) for table in tables if table.exists())])
    if len(rows):
        rows = rows[rows["dataset_hash"] == dataset_hash]
    if rows.empty:
        raise UserError("no model was trained on the present annotated images: materialise a model first")
    return rows.reset_index(drop=True)


@dg.asset(
    **GROUP, kinds={"parquet"}, deps=MODEL_DEPS, ins={"annotated_images": dg.AssetIn(key_prefix="training")}
)
def loss_comparison(platform: Platform, annotated_images: pd.DataFrame):
    """The paper's table 1 and figure 4 for our data: every loss on the test images, beside Otsu's."""
    from tem_pipeline.reports.figures import figure_png, loss_comparison_figure

    models = _trained_models(platform, annotated_images["dataset_hash"].iloc[0])
    loaded = [
        load_model(
            tracking.fetch_version(platform.store, str(version)),
            platform.settings.threads,
            platform.settings.precision,
        )
        for version in models["model_version"]
    ]
    # A model that others were started from may have been trained on what is a test image now.
    cards = [model.card for model in loaded]
    images = unseen(from_catalogue(annotated_images, "test"), *cards, validation_too=True)
    if not images:
        raise UserError("every test image was seen by a model that a training started from: annotate others")
    core = len(images[0].classes) - 1
    rows, pictures = [], {}
    for trained, model in zip(models.itertuples(), loaded, strict=True):
        rows.append(_score_row(str(trained.loss), str(trained.model_version), evaluate_model(model, images)))
        pictures[str(trained.loss)] = [_cores(model, image) for image in images[:2]]
    # Standardised images are dark on light whatever their mode was.
    otsu = [otsu_watershed(image.image, "bright_field") > 0 for image in images]
    counted = pd.DataFrame([compare_cores(i, o) for i, o in zip(images, otsu, strict=True)])
    counted["group"] = [image.group for image in images]
    rows.append(_score_row(BASELINE, "", counted))
    comparison = pd.DataFrame(rows).assign(dataset_hash=annotated_images["dataset_hash"].iloc[0])
    figure = loss_comparison_figure(
        [image.image for image in images[:2]], [image.class_map == core for image in images[:2]], pictures
    )
    folder = platform.layout.reports / "loss_comparison"
    comparison["figure"] = write_content(folder, "figure_4", ".png", figure_png(figure))
    collect_unreferenced(folder, comparison["figure"])
    return dg.MaterializeResult(
        value=comparison,
        metadata={
            "table 1, on test images": previews.table(
                comparison[["loss", *COMPARED, "dice_low", "dice_high", "images"]]
            ),
            "figure": dg.MetadataValue.path(str(folder / comparison["figure"].iloc[0])),
            "figure 4": previews.picture(figure_png(figure, dpi=50)),
        },
    )


def _score_row(loss: str, version: str, evaluated: pd.DataFrame) -> dict[str, Any]:
    summary = summarise_evaluation(evaluated)
    row: dict[str, Any] = {"loss": loss, "model_version": version}
    for name in COMPARED:
        low, high = summary["intervals"][name]
        row |= {name: summary[name], f"{name}_low": low, f"{name}_high": high}
    return row | {"images": summary["images"], "sources": evaluated["group"].nunique()}


@dg.asset(
    **GROUP,
    kinds={"openvino", "mlflow"},
    deps=MODEL_DEPS,
    ins={"annotated_images": dg.AssetIn(key_prefix="training")},
    check_specs=[
        dg.AssetCheckSpec(
            "champion_dice",
            asset=["training", "champion_model"],
            description="The champion's Dice on the test images is at least 0.8.",
        )
    ],
)
def champion_model(platform: Platform, annotated_images: pd.DataFrame):
    """The registry's alias `champion`; moved only to a model that is better on images new to both."""
    models = _trained_models(platform, annotated_images["dataset_hash"].iloc[0])
    candidate_row = models.sort_values("validation_dice").iloc[-1]
    store, layout, settings = platform.store, platform.layout, platform.settings
    version = str(candidate_row["model_version"])
    verdict = {"promote": True, "reason": "the first model is champion"}
    if tracking.champion_version(store) is not None:
        tracking.check_champion(store, layout)
        champion = load_model(layout.champion, settings.threads, settings.precision)
        if champion.card.version == version:
            verdict = {"promote": False, "reason": "the best model is champion already"}
        else:
            candidate = load_model(
                tracking.fetch_version(store, version), settings.threads, settings.precision
            )
            verdict = is_better(candidate, champion, from_catalogue(annotated_images, "validation"))
    if verdict["promote"]:
        tracking.promote(store, layout, version)
    card = read_card(layout.champion)
    model = load_model(layout.champion, settings.threads, settings.precision)
    # A champion of an earlier split may have been trained on what is a test image now.
    tests = unseen(from_catalogue(annotated_images, "test"), card, validation_too=True)
    tested = summarise_evaluation(evaluate_model(model, tests)) if tests else {"dice": None, "mean_iou": None}
    dice = tested["dice"]
    row = {
        "model_name": card.name,
        "model_version": card.version,
        "loss": card.loss,
        "candidate_version": version,
        "promoted": verdict["promote"],
        "reason": verdict["reason"],
        "test_images": len(tests),
        "test_dice": dice,
        "test_mean_iou": tested["mean_iou"],
    }
    return dg.MaterializeResult(
        value=pd.DataFrame([row]),
        metadata={
            "champion": f"models:/{card.name}/{card.version} ({card.loss})",
            "promoted": verdict["promote"],
            "reason": verdict["reason"],
            "test images new to it": len(tests),
            **({"Dice on test": dice} if tests else {}),
        },
        check_results=[
            dg.AssetCheckResult(
                check_name="champion_dice",
                passed=dice is None or dice >= 0.8,
                severity=dg.AssetCheckSeverity.WARN,
                metadata={"dice": dice if tests else "no test image is new to the champion"},
            )
        ],
    )


TRAINING_ASSETS = [annotated_images, augmented_dataset, *MODEL_ASSETS, loss_comparison, champion_model]
