"""Commands on image files: simulate them, describe them, segment them outside any session."""

import json
import os
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from tem_pipeline.cli.failures import fail
from tem_pipeline.cli.options import AsJson, Demo, Flips, ModelReference, chosen_installation, model_folder
from tem_pipeline.errors import UserError
from tem_pipeline.micrographs.modes import Mode


def simulate(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write, outside incoming/.")],
    images: Annotated[int, typer.Option(min=1, help="Number of images.")] = 6,
    size: Annotated[int, typer.Option(min=64, max=8192, help="Height and width of an image in px.")] = 512,
    pixel_size_nm: Annotated[float, typer.Option(help="Side of a pixel in nm, 0.001 to 1000000.")] = 0.1,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the random numbers.")] = 0,
    file_format: Annotated[
        Literal["tif", "mrc", "emd", "hspy"], typer.Option("--format", help="File format.")
    ] = "tif",
    mode: Annotated[Mode, typer.Option(help="Imaging mode.")] = "bright_field",
    dose: Annotated[
        float | None,
        typer.Option(help="Mean number of electrons per pixel, over 0 to 1e9.", show_default="800"),
    ] = None,
    mean_nm: Annotated[
        float | None,
        typer.Option(
            help="Mean diameter of the cores in nm, over 0; at least 2 px, and within the image.",
            show_default="1.85",
        ),
    ] = None,
    sd_nm: Annotated[
        float | None,
        typer.Option(help="Standard deviation of the core diameters in nm.", show_default="0.135 × the mean"),
    ] = None,
    demo: Demo = False,
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
        refuse_inside=Path(str(chosen_installation(demo).layout.incoming)),
    )
    print(out)


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
    demo: Demo = False,
) -> None:
    """Segment and measure images outside any session."""
    if minimum_diameter_nm is not None and not minimum_diameter_nm > 0:
        raise typer.BadParameter("must be over 0", param_hint="--minimum-diameter-nm")
    from tem_pipeline.segmentation.models import load_model
    from tem_pipeline.single_images import segment_files

    installation = chosen_installation(demo)
    chosen = {"test_time_flips": flips, "minimum_diameter_nm": minimum_diameter_nm}
    settings = installation.settings.model_copy(update={k: v for k, v in chosen.items() if v is not None})
    loaded = load_model(model_folder(installation, model), settings.threads, settings.precision)
    failures = segment_files(inputs, out, loaded, settings, pixel_size_nm, mode, print)
    for failure in failures:
        fail(failure)
    if failures:
        raise typer.Exit(1)


def info(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE_OR_DIR...", help="Microscope files, and folders of them.")
    ],
    as_json: AsJson = False,
) -> None:
    """Describe files: shape, pixel size in nm and its source, or why a file is not a micrograph."""
    from tem_pipeline.micrographs.ingestion import describe_file

    listed, sizes_nm, faults = _files_to_describe(files)
    described = [describe_file(file, size_nm) for file, size_nm in zip(listed, sizes_nm, strict=True)]
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
    for fault in faults:
        fail(fault)
    if faults:
        raise typer.Exit(1)


def _files_to_describe(inputs: list[Path]) -> tuple[list[Path], list[Any], list[str]]:
    """List the files to describe, the pixel size in nm that session.yaml gives for each, and the faults.

    A folder stands for its images. Notes beside images are left out, as a session leaves them out; alone they
    are described, so that a person learns why.
    """
    from tem_pipeline.micrographs.sessions import is_note, read_session_description, session_files

    several = any(os.path.isdir(path) or not is_note(path) for path in inputs)
    files: list[Path] = []
    sizes_nm: list[Any] = []
    faults: list[str] = []
    for path in inputs:
        found, size_nm = [path], None
        if os.path.isdir(path):
            found = []
            try:
                found = session_files(path)
                size_nm = read_session_description(path).pixel_size_nm
            except UserError as error:
                faults.append(str(error))
            else:
                faults += [] if found else [f"{path}: holds no image"]
        elif not os.path.isfile(path):
            faults.append(f"{path}: no such file")
        elif several and is_note(path):
            continue
        files += found
        sizes_nm += [size_nm] * len(found)
    return files, sizes_nm, faults
