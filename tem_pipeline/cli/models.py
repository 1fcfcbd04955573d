"""Commands that train, evaluate and choose models."""

import json
from typing import Annotated, Literal

import typer

from tem_pipeline import progress
from tem_pipeline.cli.options import (
    AsJson,
    Demo,
    Flips,
    ModelReference,
    chosen_installation,
    model_folder,
    set_folder,
)
from tem_pipeline.errors import UserError
from tem_pipeline.text import counted
from tem_pipeline.training.losses import LOSSES


def _known_losses(names: list[str] | None) -> list[str] | None:
    unknown = [name for name in names or () if name not in LOSSES]
    if unknown:
        raise typer.BadParameter(f"{', '.join(unknown)}: use {', '.join(LOSSES)}")
    return names


def train(
    sets: Annotated[
        list[str],
        typer.Argument(metavar="SET...", help="Annotated sets: folders, or names below annotated/."),
    ],
    profile: Annotated[
        Literal["quick", "standard", "paper"],
        typer.Option(help="Size of the network and length of the training."),
    ] = "standard",
    loss: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            callback=_known_losses,
            help=f"Train only with this loss; can be repeated. One of {', '.join(LOSSES)}.",
            show_default="all losses",
        ),
    ] = None,
    start_from: Annotated[
        str,
        typer.Option(
            "--from",
            metavar="REF",
            help="Model whose weights to start from, such as pretrained.",
            show_default="random weights",
        ),
    ] = "",
    split_seed: Annotated[
        int | None,
        typer.Option(
            min=0, help="Seed of the split into training, validation and test.", show_default="TEM_SPLIT_SEED"
        ),
    ] = None,
    seed: Annotated[
        int, typer.Option(min=0, help="Seed of augmentation, first weights and order of batches.")
    ] = 0,
    demo: Demo = False,
) -> None:
    """Train one model per loss; the best becomes champion if it beats the current one."""
    from tem_pipeline.orchestration.training_run import train_sets

    installation = chosen_installation(demo)
    folders = [str(set_folder(installation, name)) for name in sets]
    seed_of_split = installation.settings.split_seed if split_seed is None else split_seed
    print(train_sets(installation, folders, profile, loss or [], start_from, seed_of_split, seed))


def evaluate(
    annotated_set: Annotated[
        str, typer.Argument(metavar="SET", help="Annotated set: a folder, or a name below annotated/.")
    ],
    model: ModelReference = "champion",
    flips: Flips = None,
    as_json: AsJson = False,
    demo: Demo = False,
) -> None:
    """Evaluate a model on an annotated set. Images that it was trained on are skipped and counted."""
    from tem_pipeline.annotation.datasets import read_annotated_set
    from tem_pipeline.segmentation.models import load_model
    from tem_pipeline.training.evaluation import evaluate_model, summarise_evaluation, unseen

    installation = chosen_installation(demo)
    settings = installation.settings
    folder = set_folder(installation, annotated_set)
    loaded = load_model(model_folder(installation, model), settings.threads, settings.precision)
    images = read_annotated_set(folder).images
    new = unseen(images, loaded.card, validation_too=True)
    if not new:
        raise UserError(f"{folder}: the model was trained on every image of this set; annotate others")
    with progress.bar("evaluating") as advance:
        mirrored = settings.test_time_flips if flips is None else flips
        evaluated = evaluate_model(loaded, new, lambda share: advance(share, ""), mirrored)
    summary = summarise_evaluation(evaluated)
    summary |= {"skipped": len(images) - len(new), "model": f"{loaded.card.name}/{loaded.card.version}"}
    if as_json:
        print(json.dumps(summary))
        return
    images = counted(summary["images"], "image")
    print(f"{summary['model']} on {images} ({summary['skipped']} skipped: trained on them)")
    for name, (low, high) in summary["intervals"].items():
        interval = "one source: no interval" if low is None else f"95 % interval {low:.4f} … {high:.4f}"
        value = "none found" if summary[name] is None else f"{summary[name]:.4f}"
        print(f"{name:14} {value}  {interval}")


def champion(
    version: Annotated[
        str | None,
        typer.Argument(
            metavar="[VERSION]", help="Registered version to make champion.", show_default="show the champion"
        ),
    ] = None,
    demo: Demo = False,
) -> None:
    """Show the champion, or make another registered version champion."""
    from tem_pipeline.segmentation.models import read_card
    from tem_pipeline.tracking.champion import champion_or_pretrained, promote

    installation = chosen_installation(demo)
    store, layout = installation.store, installation.layout
    if version is not None:
        number = version.removeprefix("models:/tem_segmentation/")
        if not number.isdigit():
            raise typer.BadParameter(f"{version}: give the number of a version", param_hint="VERSION")
        promote(store, layout, number)
    folder = champion_or_pretrained(store, layout)
    card = read_card(folder)
    if folder == layout.pretrained:
        print("no champion yet: sessions are processed with the pretrained model")
    print(f"{card.name} version {card.version} ({card.loss})\n{folder}")
