"""The `tem-pipeline` command: runs the same assets in this process, or plain functions."""

import atexit
import gc
import json
import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from tem_pipeline import progress
from tem_pipeline.errors import UserError
from tem_pipeline.settings import Settings, load_settings, settings_table
from tem_pipeline.storage import AnyPath, Layout, layout_of

app = typer.Typer(
    name="tem-pipeline",
    help="From a transmission electron microscope's session folders to particle tables.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Mode = Literal["bright_field", "haadf"]
Flips = Annotated[
    bool | None, typer.Option("--flips/--no-flips", help="average over mirrorings: four times the work")
]


class LossName(StrEnum):
    """The losses that can be chosen."""

    cross_entropy = "cross_entropy"
    weighted_cross_entropy = "weighted_cross_entropy"
    iou = "iou"
    dice = "dice"


def main() -> None:
    """Run the command line. Exit 0: done; 1: something failed, one line each on stderr; 2: wrong usage."""
    gc.freeze()  # what is loaded stays: there is no garbage in it
    progress.open_terminal()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        app()
    except UserError as error:
        fail(error)
        sys.exit(1)
    except KeyboardInterrupt:
        fail("interrupted")
        sys.exit(1)
    except BrokenPipeError:
        # Whoever read our output, such as `head`, has had enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)


def fail(reason: object) -> None:
    """Write one line on stderr."""
    print("tem-pipeline: " + " ".join(str(reason).split()), file=sys.stderr)


@contextmanager
def _no_garbage() -> Iterator[None]:
    """Look for no garbage while modules are loaded, and leave what they hold out of later searches."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def _each(items: list[Any], work: Callable[[Any], None]) -> None:
    """Do the work for each item; one that fails is one line, and the rest is done."""
    failed = False
    for item in items:
        try:
            work(item)
        except UserError as error:
            fail(error)
            failed = True
    if failed:
        raise typer.Exit(1)


def _model_folder(reference: str, settings: Settings) -> AnyPath:
    """Find a model; one that stands in for a champion that isn't there yet is named."""
    from tem_pipeline import tracking

    layout = layout_of(settings)
    folder = tracking.resolve_model(reference, tracking.store_of(settings, layout), layout)
    if reference == "champion" and folder == layout.pretrained:
        progress.say(tracking.NO_CHAMPION_YET)
    return folder


def _layout() -> Layout:
    return layout_of(load_settings())


def _set_folder(name: str) -> Path:
    """Find an annotated set: a name below annotated/ goes before a folder of the working directory."""
    annotated = Path(str(_layout().annotated))
    is_name = Path(name).name == name and name != ".."
    for folder in (annotated / name, Path(name)) if is_name else (Path(name),):
        if folder.is_dir():
            return folder.resolve()
    raise UserError(f"{name}: is no annotated set; name a folder, or one below {annotated}")


@app.command()
def demo() -> None:
    """Run the main job on a simulated session, everything embedded below data/demo and models/demo."""
    from tem_pipeline.demo import run_demo

    run_demo()


@app.command()
def simulate(
    out: Path,
    images: Annotated[int, typer.Option(min=1)] = 6,
    size: Annotated[int, typer.Option(min=64, max=16384)] = 512,
    pixel_size_nm: Annotated[float, typer.Option()] = 0.1,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    file_format: Annotated[Literal["tif", "mrc", "emd", "hspy"], typer.Option("--format")] = "tif",
    mode: Mode = "bright_field",
    dose: Annotated[float | None, typer.Option(help="electrons per nm²")] = None,
    mean_nm: Annotated[float | None, typer.Option(help="mean diameter of the cores")] = None,
    sd_nm: Annotated[float | None, typer.Option(help="standard deviation of the diameter")] = None,
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
        refuse_inside=Path(str(_layout().incoming)),
    )
    print(out)


@app.command()
def train(
    sets: Annotated[list[str], typer.Argument(help="folders, or names below annotated/")],
    profile: Literal["quick", "standard", "paper"] = "standard",
    loss: Annotated[list[LossName] | None, typer.Option(help="only these losses")] = None,
    start_from: Annotated[str, typer.Option("--from", help="pretrained, or another model")] = "",
    split_seed: Annotated[int | None, typer.Option(min=0, help="seed of the split")] = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
) -> None:
    """Train one model a loss on annotated sets; the best becomes champion if it earns it."""
    from tem_pipeline.orchestration.training_run import train_sets

    folders = [str(_set_folder(name)) for name in sets]
    seed_of_split = load_settings().split_seed if split_seed is None else split_seed
    print(train_sets(folders, profile, loss or [], start_from, seed_of_split, seed))


@app.command()
def evaluate(
    annotated_set: Annotated[str, typer.Argument(metavar="SET")],
    model: Annotated[str, typer.Option(metavar="REF")] = "champion",
    flips: Flips = None,
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """Hold a model against an annotated set; images it was trained on are skipped and counted."""
    from tem_pipeline.annotation.datasets import read_annotated_set
    from tem_pipeline.segmentation.models import load_model
    from tem_pipeline.training.evaluation import evaluate_model, summarise_evaluation, unseen

    settings = load_settings()
    folder = _set_folder(annotated_set)
    loaded = load_model(_model_folder(model, settings), settings.threads, settings.precision)
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
def process(session_dirs: Annotated[list[Path], typer.Argument(metavar="SESSION_DIR...")]) -> None:
    """Register sessions and make their masks, tables, statistics and report."""
    from tem_pipeline.orchestration.session_run import process_session

    _each(session_dirs, lambda folder: print(process_session(folder)))


@app.command()
def segment(
    inputs: Annotated[list[Path], typer.Argument(metavar="IMAGE_OR_DIR...")],
    out: Annotated[Path, typer.Option()],
    model: Annotated[str, typer.Option(metavar="REF")] = "champion",
    pixel_size_nm: Annotated[float | None, typer.Option(help="fills only what is missing")] = None,
    mode: Literal["bright_field", "haadf", "auto"] = "auto",
    flips: Flips = None,
    minimum_diameter_nm: Annotated[
        float | None, typer.Option(help="smaller objects are removed where the pixel size is known")
    ] = None,
) -> None:
    """Segment and measure images outside any session."""
    if minimum_diameter_nm is not None and not minimum_diameter_nm > 0:
        raise typer.BadParameter("must be over 0", param_hint="--minimum-diameter-nm")
    chosen = {"test_time_flips": flips, "minimum_diameter_nm": minimum_diameter_nm}
    settings = load_settings().model_copy(update={k: v for k, v in chosen.items() if v is not None})
    # Memory goes back with the process: to look for garbage in it at the end took a tenth of a file's time.
    atexit.register(gc.freeze)
    with _no_garbage():
        from tem_pipeline.segmentation.models import load_model

        folder = _model_folder(model, settings)
        with ThreadPoolExecutor(1) as beside:
            # OpenVINO and the model are loaded while this thread imports the rest.
            loading = beside.submit(load_model, folder, settings.threads, settings.precision)
            from tem_pipeline.single_images import segment_files

            loaded = loading.result()
    failures = segment_files(inputs, out, loaded, settings, pixel_size_nm, mode)
    for failure in failures:
        fail(failure)
    if failures:
        raise typer.Exit(1)


@app.command()
def info(files: list[Path], as_json: Annotated[bool, typer.Option("--json")] = False) -> None:
    """Say what files hold: shape, pixel size in nm with its source, or why it is no micrograph."""
    from tem_pipeline.micrographs.ingestion import describe_file

    described = [describe_file(file) for file in files]
    if as_json:
        print(json.dumps({"files": described}))
    else:
        for entry in described:
            for image in entry["images"]:
                height, width = image["shape"]
                size_nm = image["pixel_size_nm"]
                scale = f"{size_nm[0]:.6g} × {size_nm[1]:.6g} nm a pixel" if size_nm else "no pixel size"
                print(f"{entry['file']}: {height} × {width} px, {scale} ({image['calibration']})")
            if entry["refused"]:
                print(f"{entry['file']}: refused: {entry['refused']}")
    missing = [file for file in files if not file.is_file()]
    for file in missing:
        fail(f"{file}: there is no such file")
    if missing:
        raise typer.Exit(1)


@app.command()
def query(
    sql: Annotated[str, typer.Argument(metavar="SQL")],
    output: Annotated[Literal["table", "csv", "json"], typer.Option("--format")] = "table",
    out: Annotated[Path | None, typer.Option(help="a .csv, .parquet or .xlsx file")] = None,
) -> None:
    """Ask the tables; the views are named as the assets."""
    from tem_pipeline.particles.query import run_query, write_result

    result = run_query(Path(str(_layout().lake)), sql)
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
def sessions(as_json: Annotated[bool, typer.Option("--json")] = False) -> None:
    """List every session, its state and the reason."""
    import time

    from tem_pipeline.orchestration.session_life.survey import as_lines, as_record, session_states

    states = session_states(_layout(), load_settings(), time.time())
    if as_json:
        print(json.dumps([as_record(state) for state in states]))
    else:
        print("\n".join(as_lines(states)))


@app.command()
def settings(as_json: Annotated[bool, typer.Option("--json")] = False) -> None:
    """List every setting, its value and where it came from."""
    rows = settings_table(load_settings())
    if as_json:
        print(json.dumps(rows))
        return
    for row in rows:
        print(f"{row['setting']} = {row['value']}  ({row['origin']})\n    {row['meaning']}")


if __name__ == "__main__":
    main()
