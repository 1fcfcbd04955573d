"""The `tem-pipeline` command: runs Dagster's jobs or plain functions in this process.

Each command imports what it needs, so that no command waits for the libraries of another.
"""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from tem_pipeline import __version__, progress
from tem_pipeline.environment import configure_libraries
from tem_pipeline.errors import UserError
from tem_pipeline.installation import Installation, installation_of
from tem_pipeline.micrographs.modes import Mode
from tem_pipeline.settings import load_settings, settings_table
from tem_pipeline.storage import AnyPath
from tem_pipeline.tables import LOSSES

app = typer.Typer(
    name="tem-pipeline",
    help="From a transmission electron microscope's session folders to particle tables.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

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
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


def _print_version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


def _known_losses(names: list[str] | None) -> list[str] | None:
    unknown = [name for name in names or () if name not in LOSSES]
    if unknown:
        raise typer.BadParameter(f"{', '.join(unknown)}: use {', '.join(LOSSES)}")
    return names


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True),
    ] = False,
) -> None:
    """From a transmission electron microscope's session folders to particle tables."""


def main() -> None:
    """Run the command line. Exit 0: done; 1: something failed, one line each on stderr; 2: wrong usage."""
    configure_libraries()
    progress.open_terminal()
    try:
        app()
    except UserError as error:
        fail(error)
        sys.exit(1)
    except KeyboardInterrupt:
        fail("interrupted")
        sys.exit(1)
    except BrokenPipeError:
        # The reader of our output, such as `head`, has closed it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)


def fail(reason: object) -> None:
    """Write one line on stderr."""
    print("tem-pipeline: " + " ".join(str(reason).split()), file=sys.stderr)


def _each(items: list[Any], work: Callable[[Any], None]) -> None:
    """Do the work for each item. A failure is one line on stderr, and the other items are still done."""
    failed = False
    for item in items:
        try:
            work(item)
        except UserError as error:
            fail(error)
            failed = True
    if failed:
        raise typer.Exit(1)


def _installation() -> Installation:
    return installation_of(load_settings())


def _model_folder(installation: Installation, reference: str) -> AnyPath:
    """Find a model; say so if the pretrained model replaces a missing champion."""
    from tem_pipeline.tracking.champion import NO_CHAMPION_YET, resolve_model

    folder = resolve_model(reference, installation.store, installation.layout)
    if reference == "champion" and folder == installation.layout.pretrained:
        progress.say(NO_CHAMPION_YET)
    return folder


def _set_folder(installation: Installation, name: str) -> Path:
    """Find an annotated set: a name below annotated/ goes before a folder of the working directory."""
    annotated = Path(str(installation.layout.annotated))
    is_name = Path(name).name == name and name != ".."
    for folder in (annotated / name, Path(name)) if is_name else (Path(name),):
        if folder.is_dir():
            return folder.resolve()
    raise UserError(f"{name}: is not an annotated set; name a folder, or a set below {annotated}")


@app.command()
def demo() -> None:
    """Train and process on simulated images, below data/demo and models/demo."""
    from tem_pipeline.demo import run_demo

    run_demo(load_settings())


@app.command()
def dev(
    demo: Annotated[bool, typer.Option("--demo", help="Show the results of the demo.")] = False,
    dagster_port: Annotated[int, typer.Option(min=1, max=65535, envvar="DAGSTER_PORT")] = 3000,
    mlflow_port: Annotated[int, typer.Option(min=1, max=65535, envvar="MLFLOW_PORT")] = 5000,
) -> None:
    """Run Dagster's pages and daemon, and MLflow's pages, on 127.0.0.1 until Ctrl-C."""
    from tem_pipeline.demo import demo_installation
    from tem_pipeline.dev import serve

    serve(demo_installation(load_settings()) if demo else _installation(), dagster_port, mlflow_port)


@app.command()
def simulate(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write, outside incoming/.")],
    images: Annotated[int, typer.Option(min=1, help="Number of images.")] = 6,
    size: Annotated[int, typer.Option(min=64, max=8192, help="Height and width of an image in px.")] = 512,
    pixel_size_nm: Annotated[float, typer.Option(help="Side of a pixel in nm.")] = 0.1,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the random numbers.")] = 0,
    file_format: Annotated[
        Literal["tif", "mrc", "emd", "hspy"], typer.Option("--format", help="File format.")
    ] = "tif",
    mode: Annotated[Mode, typer.Option(help="Imaging mode.")] = "bright_field",
    dose: Annotated[
        float | None, typer.Option(help="Mean number of electrons per pixel.", show_default="800")
    ] = None,
    mean_nm: Annotated[
        float | None, typer.Option(help="Mean diameter of the cores in nm.", show_default="1.85")
    ] = None,
    sd_nm: Annotated[
        float | None,
        typer.Option(help="Standard deviation of the core diameters in nm.", show_default="0.135 × the mean"),
    ] = None,
) -> None:
    """Write a simulated session and its truth: OUT/session and OUT/truth."""
    from tem_pipeline.simulation.sessions import simulate_session

    simulate_session(
        out,
        images=images,
        size=size,
        pixel_size_nm=pixel_size_nm,
        seed=seed,
        file_format=file_format,
        mode=mode,
        dose=dose,
        mean_nm=mean_nm,
        sd_nm=sd_nm,
        refuse_inside=Path(str(_installation().layout.incoming)),
    )
    print(out)


@app.command()
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
) -> None:
    """Train one model per loss; the best becomes champion if it beats the current one."""
    from tem_pipeline.orchestration.training_run import train_sets

    installation = _installation()
    folders = [str(_set_folder(installation, name)) for name in sets]
    seed_of_split = installation.settings.split_seed if split_seed is None else split_seed
    print(train_sets(installation, folders, profile, loss or [], start_from, seed_of_split, seed))


@app.command()
def evaluate(
    annotated_set: Annotated[
        str, typer.Argument(metavar="SET", help="Annotated set: a folder, or a name below annotated/.")
    ],
    model: ModelReference = "champion",
    flips: Flips = None,
    as_json: AsJson = False,
) -> None:
    """Evaluate a model on an annotated set. Images that it was trained on are skipped and counted."""
    from tem_pipeline.annotation.datasets import read_annotated_set
    from tem_pipeline.segmentation.models import load_model
    from tem_pipeline.training.evaluation import evaluate_model, summarise_evaluation, unseen

    installation = _installation()
    settings = installation.settings
    folder = _set_folder(installation, annotated_set)
    loaded = load_model(_model_folder(installation, model), settings.threads, settings.precision)
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
    print(f"{summary['model']} on {summary['images']} images ({summary['skipped']} skipped: trained on them)")
    for name, (low, high) in summary["intervals"].items():
        interval = "one source: no interval" if low is None else f"95 % interval {low:.4f} … {high:.4f}"
        value = "none found" if summary[name] is None else f"{summary[name]:.4f}"
        print(f"{name:14} {value}  {interval}")


@app.command()
def process(
    session_dirs: Annotated[
        list[Path], typer.Argument(metavar="SESSION_DIR...", help="Folders of microscope files.")
    ],
) -> None:
    """Register sessions and make their masks, tables, statistics and reports."""
    from tem_pipeline.orchestration.session_run import process_session

    installation = _installation()
    _each(session_dirs, lambda folder: print(process_session(installation, folder)))


@app.command()
def segment(
    inputs: Annotated[
        list[Path],
        typer.Argument(metavar="IMAGE_OR_DIR...", help="Images, and folders whose images are taken."),
    ],
    out: Annotated[Path, typer.Option(help="Folder for the results.")],
    model: ModelReference = "champion",
    pixel_size_nm: Annotated[
        float | None,
        typer.Option(
            help="Side of a pixel in nm, for files that do not hold it.", show_default="uncalibrated"
        ),
    ] = None,
    mode: Annotated[
        Literal[Mode, "auto"],
        typer.Option(help="Imaging mode; auto takes it from the file or the image."),
    ] = "auto",
    flips: Flips = None,
    minimum_diameter_nm: Annotated[
        float | None,
        typer.Option(
            help="Smallest diameter in nm on calibrated images; smaller objects are removed.",
            show_default="TEM_MINIMUM_DIAMETER_NM",
        ),
    ] = None,
) -> None:
    """Segment and measure images outside any session."""
    if minimum_diameter_nm is not None and not minimum_diameter_nm > 0:
        raise typer.BadParameter("must be over 0", param_hint="--minimum-diameter-nm")
    from tem_pipeline.segmentation.models import load_model
    from tem_pipeline.single_images import segment_files

    installation = _installation()
    chosen = {"test_time_flips": flips, "minimum_diameter_nm": minimum_diameter_nm}
    settings = installation.settings.model_copy(update={k: v for k, v in chosen.items() if v is not None})
    loaded = load_model(_model_folder(installation, model), settings.threads, settings.precision)
    failures = segment_files(inputs, out, loaded, settings, pixel_size_nm, mode)
    for failure in failures:
        fail(failure)
    if failures:
        raise typer.Exit(1)


@app.command()
def info(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Microscope files.")],
    as_json: AsJson = False,
) -> None:
    """Describe files: shape, pixel size in nm and its source, or why a file is not a micrograph."""
    from tem_pipeline.micrographs.ingestion import describe_file

    described = [describe_file(file) for file in files]
    if as_json:
        print(json.dumps({"files": described}))
    else:
        for entry in described:
            for image in entry["images"]:
                height, width = image["shape"]
                size_nm = image["pixel_size_nm"]
                scale = f"{size_nm[0]:.6g} × {size_nm[1]:.6g} nm per pixel" if size_nm else "no pixel size"
                of_kind = "" if image["kind"] == "micrograph" else f", {image['kind']} ({image['title']})"
                note = f"; {image['note']}" if image["note"] else ""
                print(
                    f"{entry['file']}: {height} × {width} px, {scale} ({image['calibration']}){of_kind}{note}"
                )
            if entry["refused"]:
                print(f"{entry['file']}: refused: {entry['refused']}")
    missing = [file for file in files if not file.is_file()]
    for file in missing:
        fail(f"{file}: no such file")
    if missing:
        raise typer.Exit(1)


@app.command()
def query(
    sql: Annotated[str, typer.Argument(metavar="SQL", help="One SELECT statement of DuckDB's SQL.")],
    output: Annotated[
        Literal["table", "csv", "json"], typer.Option("--format", help="Format of the printed result.")
    ] = "table",
    out: Annotated[
        Path | None,
        typer.Option(help="Write the result to this .csv, .parquet or .xlsx file.", show_default="print it"),
    ] = None,
) -> None:
    """Run a read-only SQL query; each asset's table is a view."""
    from tem_pipeline.particles.query import run_query, write_result

    result = run_query(Path(str(_installation().layout.lake)), sql)
    if out is not None:
        write_result(result, out)
        print(out)
    elif output == "csv":
        print(result.to_pandas().to_csv(index=False), end="")
    elif output == "json":
        print(result.to_pandas().to_json(orient="records", date_format="iso", date_unit="us"))
    else:
        print(result.to_pandas().to_string(index=False))


@app.command()
def sessions(as_json: AsJson = False) -> None:
    """List every session with its state and the reason."""
    import time

    from tem_pipeline.orchestration.session_life.survey import as_lines, as_record, session_states

    installation = _installation()
    states = session_states(installation.layout, installation.settings, time.time())
    if as_json:
        print(json.dumps([as_record(state) for state in states]))
    else:
        print("\n".join(as_lines(states)))


@app.command()
def settings(as_json: AsJson = False) -> None:
    """List every setting with its value and where it comes from."""
    rows = settings_table(load_settings())
    if as_json:
        print(json.dumps(rows))
        return
    for row in rows:
        print(f"{row['setting']} = {row['value']}  ({row['origin']})\n    {row['meaning']}")


if __name__ == "__main__":
    main()
