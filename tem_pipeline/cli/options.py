"""Options that several commands share, and what they choose: the installation, a model, an annotated set."""

from pathlib import Path
from typing import Annotated

import typer

from tem_pipeline import progress
from tem_pipeline.errors import UserError
from tem_pipeline.installation import Installation, installation_of
from tem_pipeline.settings import load_settings
from tem_pipeline.storage import AnyPath

DEMO_HELP = "Work on what `tem-pipeline demo` made, instead of the laboratory's folders."

Flips = Annotated[
    bool | None,
    typer.Option(
        "--flips/--no-flips",
        help="Average predictions over the mirror images of each image: four times the work.",
        show_default="TEM_TEST_TIME_FLIPS",
    ),
]
ModelReference = Annotated[
    str,
    typer.Option(metavar="REF", help="champion, pretrained, models:/NAME/VERSION, or a model's folder."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document; off by default.")]

Demo = Annotated[bool, typer.Option("--demo", help=DEMO_HELP)]


def chosen_installation(demo: bool = False) -> Installation:
    """Give the laboratory's installation, or the demo's.

    Raises
    ------
    UserError
        If the demo is asked for before it was run.
    """
    settings = load_settings()
    if not demo:
        return installation_of(settings)
    from tem_pipeline.demo import demo_installation

    installation = demo_installation(settings)
    if not installation.layout.data_root.is_dir():
        raise UserError("there is no demo yet: run `tem-pipeline demo` or `make demo` first")
    return installation


def model_folder(of: Installation, reference: str) -> AnyPath:
    """Find a model; say so if the pretrained model replaces a missing champion."""
    from tem_pipeline.tracking.champion import NO_CHAMPION_YET, resolve_model

    folder = resolve_model(reference, of.store, of.layout)
    if reference == "champion" and folder == of.layout.pretrained:
        progress.say(NO_CHAMPION_YET)
    return folder


def set_folder(of: Installation, name: str) -> Path:
    """Find an annotated set: a name below annotated/ goes before a folder of the working directory."""
    annotated = Path(str(of.layout.annotated))
    is_name = Path(name).name == name and name != ".."
    for folder in (annotated / name, Path(name)) if is_name else (Path(name),):
        if folder.is_dir():
            return folder.resolve()
    raise UserError(f"{name}: is not an annotated set; name a folder, or a set below {annotated}")
