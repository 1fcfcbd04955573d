"""The training assets: annotated sets to models in MLflow, their comparison, and the champion.

Assets have no return annotation: with `MaterializeResult` Dagster would assume that they have no value.
Figures are imported where they are drawn, because matplotlib takes half as long to load as Dagster.
"""

from typing import Any

import dagster as dg
import pandas as pd

from tem_pipeline import progress
from tem_pipeline.annotation.augmentation import augment_images, write_shards
from tem_pipeline.annotation.catalogue import from_catalogue, to_catalogue
from tem_pipeline.annotation.datasets import AnnotatedImage, combine_sets, read_annotated_set
from tem_pipeline.annotation.splitting import PARTS, split_sources
from tem_pipeline.errors import UserError
from tem_pipeline.model_comparison import COMPARED, choose_champion, compare_losses
from tem_pipeline.model_training import model_key, prepare_training, train_model
from tem_pipeline.orchestration import previews
from tem_pipeline.orchestration.resources import Platform, TrainingLock, TrainingPlan
from tem_pipeline.segmentation.instances import label_instances
from tem_pipeline.storage import collect_unreferenced, read_table, write_content
from tem_pipeline.tables import LOSSES
from tem_pipeline.training.fitting import PROFILES, Profile
from tem_pipeline.training.metrics import SCORES

GROUP: dict[str, Any] = {"group_name": "training", "key_prefix": "training", "io_manager_key": "tables"}
CATALOGUE = {"annotated_images": dg.AssetIn(key_prefix="training")}
LOWEST_CHAMPION_DICE = 0.8
"""On the test images; below it the check of the champion warns."""


@dg.asset(**GROUP, kinds={"parquet"})
def annotated_images(platform: Platform, training_lock: TrainingLock, training_plan: TrainingPlan):
    """Annotated sets, checked, hashed, and split by source micrograph into training, validation and test."""
    combined = combine_sets([read_annotated_set(folder) for folder in training_plan.folders(platform)])
    parts = split_sources([image.group for image in combined.images], training_plan.split_seed).tolist()
    catalogue = to_catalogue(combined, parts, training_plan.split_seed)
    counts = catalogue.groupby("part", sort=False).agg(images=("name", "size"), sources=("group", "nunique"))
    if counts["sources"]["test"] < 2:
        progress.say(
            "the test images come from one source micrograph, so the scores will have no intervals; "
            "annotate more micrographs"
        )
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
    ins=CATALOGUE,
)
def augmented_dataset(
    platform: Platform,
    training_lock: TrainingLock,
    training_plan: TrainingPlan,
    annotated_images: pd.DataFrame,
):
    """Augmented crops of the training images, in Parquet shards with the source and transform of each row."""
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
    return dg.MaterializeResult(
        value=index,
        metadata={
            "augmented images": profile.augmented_images,
            "source images": len(images),
            "profile": profile.name,
        },
    )


def _profile(plan: TrainingPlan) -> Profile:
    if plan.profile not in PROFILES:
        raise UserError(f"profile {plan.profile!r} is unknown: use one of {', '.join(PROFILES)}")
    return PROFILES[plan.profile]


def _build_model_asset(loss: str) -> dg.AssetsDefinition:
    @dg.asset(
        name=f"model_{loss}",
        description=f"The network trained with the loss {loss}, registered in MLflow.",
        **GROUP,
        kinds={"keras", "mlflow"},
        pool="training",
        ins={**CATALOGUE, "augmented_dataset": dg.AssetIn(key_prefix="training")},
    )
    def model(
        context: dg.AssetExecutionContext,
        platform: Platform,
        training_lock: TrainingLock,
        training_plan: TrainingPlan,
        annotated_images: pd.DataFrame,
        augmented_dataset: pd.DataFrame,
    ):
        plan, installation = training_plan, platform.installation
        training = prepare_training(
            installation,
            annotated_images,
            augmented_dataset,
            loss,
            plan.network,
            plan.seed,
            plan.starting_model(platform),
        )
        if training.remark:
            context.log.info(training.remark)
            progress.say(training.remark)
        trained = train_model(installation, training, context.log.info)
        row = trained.row
        scores = {name: row[f"validation_{name}"] for name in SCORES}
        return dg.MaterializeResult(
            value=pd.DataFrame([row]),
            metadata={
                "MLflow run": row["run_id"],
                "registered version": f"models:/{row['model_name']}/{row['model_version']}",
                "best epoch": row["best_epoch"],
                "training seconds": row["seconds"],
                "validation": previews.table(pd.DataFrame([scores])),
                "predictions on validation": previews.picture(trained.picture),
                **({"start": training.remark} if training.remark else {}),
            },
        )

    return model  # type: ignore[return-value]


MODEL_ASSETS = [_build_model_asset(loss) for loss in LOSSES]
MODEL_DEPS = [dg.AssetKey.from_user_string(model_key(loss)) for loss in LOSSES]


@dg.asset(**GROUP, kinds={"parquet"}, deps=MODEL_DEPS, ins=CATALOGUE)
def loss_comparison(platform: Platform, training_lock: TrainingLock, annotated_images: pd.DataFrame):
    """The paper's table 1 and figure 4 for our data: every loss on the test images, and Otsu's threshold."""
    from tem_pipeline.reports.figures import figure_png

    comparison, figure = compare_losses(platform.installation, annotated_images)
    folder = platform.layout.reports / "loss_comparison"
    comparison["figure"] = write_content(folder, "figure_4", ".png", figure_png(figure))
    # The former table names its figure until this one has replaced it. Older versions kept the report of a
    # session of this name here.
    figures = {*comparison["figure"], *_former_figures(platform)}
    collect_unreferenced(folder, figures, pattern="figure_4-*.png")
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


def _former_figures(platform: Platform) -> set[str]:
    former = platform.layout.table("training/loss_comparison")
    return set(read_table(former, ["figure"])["figure"]) if former.exists() else set()


@dg.asset(
    **GROUP,
    kinds={"openvino", "mlflow"},
    deps=MODEL_DEPS,
    ins=CATALOGUE,
    check_specs=[
        dg.AssetCheckSpec(
            "champion_dice",
            asset=["training", "champion_model"],
            description=f"The champion's Dice on the test images is at least {LOWEST_CHAMPION_DICE}.",
        )
    ],
)
def champion_model(platform: Platform, training_lock: TrainingLock, annotated_images: pd.DataFrame):
    """The registry's alias `champion`. It moves only to a model that is surely better on new images."""
    row = choose_champion(platform.installation, annotated_images)
    dice = row["test_dice"] if row["test_images"] else "no test image is new to the champion"
    return dg.MaterializeResult(
        value=pd.DataFrame([row]),
        metadata={
            "champion": f"models:/{row['model_name']}/{row['model_version']} ({row['loss']})",
            "promoted": row["promoted"],
            "reason": row["reason"],
            "test images new to it": row["test_images"],
            **({"Dice on test": dice} if row["test_images"] else {}),
        },
        check_results=[
            dg.AssetCheckResult(
                check_name="champion_dice",
                passed=row["test_dice"] is None or row["test_dice"] >= LOWEST_CHAMPION_DICE,
                severity=dg.AssetCheckSeverity.WARN,
                metadata={"dice": dice},
            )
        ],
    )


TRAINING_ASSETS = [annotated_images, augmented_dataset, *MODEL_ASSETS, loss_comparison, champion_model]
