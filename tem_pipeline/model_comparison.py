"""Compares the trained models, and promotes the best. The training assets call this module."""

from typing import TYPE_CHECKING, Any

import pandas as pd

from tem_pipeline.annotation.catalogue import from_catalogue
from tem_pipeline.errors import UserError
from tem_pipeline.installation import Installation
from tem_pipeline.model_training import model_key, predicted_cores
from tem_pipeline.segmentation.models import SegmentationModel, load_model
from tem_pipeline.storage import Layout, read_table
from tem_pipeline.tracking import champion
from tem_pipeline.tracking.store import REGISTERED_MODEL
from tem_pipeline.training.baseline import otsu_watershed
from tem_pipeline.training.evaluation import compare_cores, evaluate_model, summarise_evaluation, unseen
from tem_pipeline.training.losses import LOSSES
from tem_pipeline.training.metrics import SCORES
from tem_pipeline.training.promotion import Verdict, compare_with_champion

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BASELINE = "otsu_watershed"
COMPARED = (*SCORES, "boundary_f", "instance_f1", "diameter_error")


def compare_losses(installation: Installation, catalogue: pd.DataFrame) -> tuple[pd.DataFrame, "Figure"]:
    """Compare the models of all losses, and Otsu's threshold, on the test images.

    Parameters
    ----------
    installation : Installation
    catalogue : DataFrame
        Table of the annotated images.

    Returns
    -------
    DataFrame
        One row per loss, and one of the baseline, with scores and 95 % intervals.
    Figure
        Predictions on two test images.

    Raises
    ------
    UserError
        When no model was trained on these images, or no test image is new to all models.
    """
    from tem_pipeline.reports.figures import loss_comparison_figure

    models = _trained_models(installation.layout, catalogue["dataset_hash"].iloc[0])
    loaded = [_load_trained(installation, row) for row in models.to_dict("records")]
    # A model that others were started from may have been trained on a present test image.
    cards = [model.card for model in loaded]
    images = unseen(from_catalogue(catalogue, "test"), *cards, validation_too=True)
    if not images:
        raise UserError("every test image was seen by a model that a training started from: annotate others")
    rows, pictures = [], {}
    for trained, model in zip(models.itertuples(), loaded, strict=True):
        rows.append(_score_row(str(trained.loss), str(trained.model_version), evaluate_model(model, images)))
        pictures[str(trained.loss)] = [predicted_cores(model, image) for image in images[:2]]
    # Standardised images are dark on light in every mode.
    otsu = [otsu_watershed(image.image, "bright_field") > 0 for image in images]
    counted = pd.DataFrame([compare_cores(i, o) for i, o in zip(images, otsu, strict=True)])
    counted["group"] = [image.group for image in images]
    rows.append(_score_row(BASELINE, "", counted))
    core = len(images[0].classes) - 1
    figure = loss_comparison_figure(
        [image.image for image in images[:2]], [image.class_map == core for image in images[:2]], pictures
    )
    return pd.DataFrame(rows).assign(dataset_hash=catalogue["dataset_hash"].iloc[0]), figure


def _trained_models(layout: Layout, dataset_hash: str) -> pd.DataFrame:
    """Collect the table rows of the models trained on a dataset; losses not trained on it are left out."""
    tables = [layout.table(model_key(loss)) for loss in LOSSES]
    rows = pd.concat([pd.DataFrame(), *(read_table(table) for table in tables if table.exists())])
    if len(rows):
        rows = rows[rows["dataset_hash"] == dataset_hash]
    if rows.empty:
        raise UserError("no model was trained on the present annotated images: materialise a model first")
    return rows.reset_index(drop=True)


def _load_trained(installation: Installation, row: dict[str, Any]) -> SegmentationModel:
    """Load the model of a row of a model's table.

    Versions are numbers: in another store, or in one that was made anew, the same number is another model.

    Raises
    ------
    UserError
        When the store has no such version, or another model under it.
    """
    settings, version = installation.settings, str(row["model_version"])
    folder = champion.fetch_version(installation.store, version)
    model = load_model(folder, settings.threads, settings.precision)
    if (model.card.run_id, model.card.dataset_hash) != (row["run_id"], row["dataset_hash"]):
        raise UserError(
            f"models:/{REGISTERED_MODEL}/{version} is not the model of the table {model_key(row['loss'])}: "
            f"the table is of another model store; materialise {model_key(row['loss'])} again"
        )
    return model


def _score_row(loss: str, version: str, evaluated: pd.DataFrame) -> dict[str, Any]:
    summary = summarise_evaluation(evaluated)
    row: dict[str, Any] = {"loss": loss, "model_version": version}
    for name in COMPARED:
        low, high = summary["intervals"][name]
        row |= {name: summary[name], f"{name}_low": low, f"{name}_high": high}
    return row | {"images": summary["images"], "sources": evaluated["group"].nunique()}


def choose_champion(installation: Installation, catalogue: pd.DataFrame) -> dict[str, Any]:
    """Promote the best trained model if it is surely better than the champion.

    The validation images choose the candidate among the losses. The test images, which chose nothing, decide
    about the promotion, see `compare_with_champion`.

    Returns
    -------
    dict
        The row of the table `champion_model`: the champion, the comparison, and the champion's scores on the
        test images that are new to it, None if there is none.

    Raises
    ------
    UserError
        When no model was trained on these images, or the model store can't be reached.
    """
    store, layout, settings = installation.store, installation.layout, installation.settings
    models = _trained_models(layout, catalogue["dataset_hash"].iloc[0])
    best = models.sort_values("validation_dice").to_dict("records")[-1]
    candidate = _load_trained(installation, best)
    tests = from_catalogue(catalogue, "test")
    verdict, compared_with = Verdict(True, "the first model becomes champion without comparison"), None
    if champion.champion_version(store) is not None:
        champion.check_champion(store, layout)
        current = load_model(layout.champion, settings.threads, settings.precision)
        if current.card.version == candidate.card.version:
            verdict = Verdict(False, "the best model is champion already")
        else:
            compared_with = current.card.version
            verdict = compare_with_champion(candidate, current, tests)
    if verdict.promote:
        champion.promote(store, layout, candidate.card.version)
    model = load_model(layout.champion, settings.threads, settings.precision)
    # A champion of an earlier split may have been trained on a present test image.
    new = unseen(tests, model.card, validation_too=True)
    tested = summarise_evaluation(evaluate_model(model, new)) if new else {"dice": None, "mean_iou": None}
    return {
        "model_name": model.card.name,
        "model_version": model.card.version,
        "loss": model.card.loss,
        "candidate_version": candidate.card.version,
        "promoted": verdict.promote,
        "reason": verdict.reason,
        "test_images": len(new),
        "test_dice": tested["dice"],
        "test_mean_iou": tested["mean_iou"],
        "dataset_hash": catalogue["dataset_hash"].iloc[0],
        "compared_with": compared_with,
        "compared_images": verdict.images,
        "compared_sources": verdict.sources,
        "dice_difference": verdict.dice_difference,
        "dice_difference_low": verdict.low,
        "dice_difference_high": verdict.high,
    }
