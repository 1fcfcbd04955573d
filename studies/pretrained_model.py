"""Evaluates the pretrained model on real images and new simulated sessions, none of them training data.

The model is loaded from models/pretrained/ and used with the scales of its card, as by a user.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.ndimage import center_of_mass
from scipy.optimize import linear_sum_assignment

from studies.tables import markdown_table
from studies.trainings import Job, code_sha256, row_key
from tem_pipeline.annotation.datasets import SHELL_CLASSES, AnnotatedImage, read_annotated_set
from tem_pipeline.micrographs.hashes import file_digest
from tem_pipeline.micrographs.intensity import standardise
from tem_pipeline.micrographs.modes import MODES
from tem_pipeline.micrographs.reading_process import read_micrographs
from tem_pipeline.reports.overlays import overlay_png
from tem_pipeline.segmentation.inference import segment_micrograph
from tem_pipeline.segmentation.models import SegmentationModel, load_model, read_card
from tem_pipeline.settings import PROJECT_ROOT
from tem_pipeline.simulation.imaging import Imaging
from tem_pipeline.simulation.micrographs import simulate_micrograph
from tem_pipeline.training.evaluation import COUNTS, SHELL_COUNTS, evaluate_model, summarise_evaluation
from tem_pipeline.training.metrics import scores

# Code that decides the numbers here, in addition to the code of every study.
CODE = (
    "tem_pipeline.simulation.imaging",
    "tem_pipeline.simulation.micrographs",
    "tem_pipeline.simulation.projection",
    "tem_pipeline.simulation.specimens",
    "studies.pretrained_model",
)
# The same conditions as in the test of the whole chain. These seeds are used nowhere else.
PIXEL_SIZES_NM, DOSES = (0.07, 0.10, 0.15), (250.0, 800.0, 2500.0)
FIRST_SEED = 9000
IMAGES = 4  # per condition


@dataclass(frozen=True)
class Boxes:
    """Boxes of particles on one image: (n, 4) of top, left, bottom, right in px."""

    name: str
    image: np.ndarray
    boxes: np.ndarray


def read_boxes(folder: Path) -> list[Boxes]:
    """Read `supported_catalysts`: images/NAME.jpg with boxes/NAME.txt, `class x y width height` relative."""
    read = []
    for file in sorted((folder / "images").iterdir()):
        image = read_micrographs(file)[0].image
        rows = np.loadtxt(folder / "boxes" / f"{file.stem}.txt", ndmin=2)[:, 1:]
        sides = np.array(image.shape[::-1] * 2)
        x, y, width, height = (rows * sides).T
        boxes = np.column_stack((y - height / 2, x - width / 2, y + height / 2, x + width / 2))
        read.append(Boxes(file.stem, image, boxes))
    return read


def match_centres(centres: np.ndarray, boxes: np.ndarray) -> int:
    """Count the boxes that contain a found centre; each centre and each box is used at most once.

    Parameters
    ----------
    centres : ndarray, (n, 2)
        y and x in px.
    boxes : ndarray, (m, 4)
        Top, left, bottom, right in px.
    """
    if not len(centres) or not len(boxes):
        return 0
    y, x = centres[:, 0, None], centres[:, 1, None]
    inside = (y >= boxes[:, 0]) & (y <= boxes[:, 2]) & (x >= boxes[:, 1]) & (x <= boxes[:, 3])
    rows, columns = linear_sum_assignment(~inside)
    return int(inside[rows, columns].sum())


def centres_in_boxes(
    model: SegmentationModel, images: list[Boxes], pictures: Path | None = None, flips: bool = False
) -> pd.DataFrame:
    """Find particles on every image and compare their centres with the boxes.

    Returns
    -------
    DataFrame
        One row per image: name, mode, boxes, found, matched, precision, recall, f1.
    """
    rows = []
    for one in images:
        segmentation = segment_micrograph(one.image, model, flips=flips)
        labels = segmentation.labels
        numbers = np.unique(labels)[1:]
        centres = np.array(center_of_mass(labels > 0, labels, numbers)).reshape(-1, 2)
        matched = match_centres(centres, one.boxes)
        rows.append(
            {
                "name": one.name,
                "mode": segmentation.mode,
                "boxes": len(one.boxes),
                "found": len(centres),
                "matched": matched,
                "precision": matched / max(len(centres), 1),
                "recall": matched / len(one.boxes),
                "f1": 2 * matched / (len(centres) + len(one.boxes)),
            }
        )
        if pictures:
            pictures.mkdir(parents=True, exist_ok=True)
            (pictures / f"{one.name}.png").write_bytes(overlay_png(one.image, labels, max_px=1024))
    return pd.DataFrame(rows)


def pooled_f1(rows: pd.DataFrame) -> dict[str, Any]:
    """F1 over all boxes of all images, with a 95 % interval that resamples images."""
    counts = rows[["matched", "found", "boxes"]].to_numpy()
    drawn = np.random.default_rng(0).integers(len(counts), size=(2000, len(counts)))
    matched, found, boxes = np.moveaxis(counts[drawn].sum(axis=1), -1, 0)
    low, high = np.quantile(2 * matched / (found + boxes), (0.025, 0.975))
    matched, found, boxes = counts.sum(axis=0)
    return {
        "f1": float(2 * matched / (found + boxes)),
        "low": float(low),
        "high": float(high),
        "images": len(rows),
    }


def dice_on_set(model: SegmentationModel, folder: Path) -> dict[str, Any]:
    """Scores on all images of an annotated set, see `summarise_evaluation`."""
    return summarise_evaluation(evaluate_model(model, read_annotated_set(folder).images))


def fresh_sessions(model: SegmentationModel) -> pd.DataFrame:
    """Scores on simulated core–shell sessions.

    Returns
    -------
    DataFrame
        One row per condition: pixel_size_nm, dose, mode, dice_core, dice_shell, diameter_error (mean over
        images).
    """
    rows = []
    conditions = product(PIXEL_SIZES_NM, DOSES, MODES)
    for number, (pixel_size_nm, dose, mode) in enumerate(conditions):
        annotated = []
        for index in range(IMAGES):
            rng = np.random.default_rng((FIRST_SEED, number, index))
            imaging = Imaging(mode=mode, dose=dose)  # type: ignore[arg-type]
            drawn = simulate_micrograph(rng, pixel_size_nm=pixel_size_nm, imaging=imaging)
            class_map = (drawn.shells > 0).astype(np.uint8)
            class_map[drawn.cores > 0] = 2
            name = f"{number}_{index}"
            image = standardise(drawn.image, mode)
            annotated.append(AnnotatedImage(name, image, class_map, SHELL_CLASSES, name, "", "", mode))
        evaluated = evaluate_model(model, annotated)
        rows.append(
            {
                "pixel_size_nm": pixel_size_nm,
                "dose": dose,
                "mode": mode,
                "dice_core": scores(tuple(evaluated[COUNTS].sum()))["dice"],
                "dice_shell": scores(tuple(evaluated[SHELL_COUNTS].sum()))["dice"],
                "diameter_error": evaluated["diameter_error"].mean(),
            }
        )
    return pd.DataFrame(rows)


def pretrained_jobs(reference: Path, pictures: Path, threads: int) -> list[Job]:
    """Give the jobs that evaluate the model in models/pretrained/.

    Parameters
    ----------
    reference : path
        Folder with bright_field_particles/ and supported_catalysts/.
    pictures : path
        Folder for overlays of the found particles.
    threads : int
    """
    folder = PROJECT_ROOT / "models" / "pretrained"
    card = read_card(folder)
    names = ("weights_sha256", "scales", "core_threshold", "diameters_px")
    decided = {name: getattr(card, name) for name in names}

    def job(
        name: str,
        cost: float,
        measure: Callable[[SegmentationModel], dict[str, Any]],
        data: Path | None = None,
    ) -> Job:
        decided_by = {**decided, "name": name, "code": code_sha256(*CODE)}
        if data:
            files = sorted(file for file in data.rglob("*") if file.is_file())
            decided_by["data"] = [(str(file.relative_to(data)), file_digest(file)) for file in files]

        def run() -> dict[str, Any]:
            started = time.monotonic()
            row = measure(load_model(folder, threads))
            return {"name": name, **row, "seconds": time.monotonic() - started}

        return Job(row_key(decided_by), name, cost, run)

    real, boxed = reference / "bright_field_particles", reference / "supported_catalysts"
    return [
        job(real.name, 1, lambda model: {"scores": dice_on_set(model, real)}, real),
        job(boxed.name, 8, lambda model: _boxes_row(model, boxed, pictures), boxed),
        job("fresh_sessions", 4, lambda model: {"rows": fresh_sessions(model).to_dict("records")}),
    ]


def _boxes_row(model: SegmentationModel, folder: Path, pictures: Path) -> dict[str, Any]:
    boxed = read_boxes(folder)
    found = {
        flips: centres_in_boxes(model, boxed, None if flips else pictures, flips) for flips in (False, True)
    }
    pooled = {
        flips: {
            name: pooled_f1(part)
            for name, part in [("all", rows), *((mode, rows[rows["mode"] == mode]) for mode in MODES)]
        }
        for flips, rows in found.items()
    }
    return {
        "rows": found[False].to_dict("records"),
        "pooled": pooled[False],
        "pooled_with_flips": pooled[True],
    }


def pretrained_section(result: dict[str, Any]) -> str:
    """Give the tables of the pretrained model's page."""
    real, boxed, fresh = result["rows"]
    scores, intervals = real["scores"], real["scores"]["intervals"]
    with_intervals = [
        f"{scores[name]:.3f} ({intervals[name][0]:.3f} … {intervals[name][1]:.3f})"
        for name in ("accuracy", "mean_iou", "dice")
    ]
    pooled = [
        [f"{name.replace('_', ' ')}, {boxed['pooled'][name]['images']} images"]
        + [
            f"{found['f1']:.3f} ({found['low']:.3f} … {found['high']:.3f})"
            for found in (boxed["pooled"][name], boxed["pooled_with_flips"][name])
        ]
        for name in boxed["pooled"]
    ]
    images = [
        [row["name"], row["mode"].replace("_", " "), str(row["boxes"]), str(row["found"])]
        + [f"{row[name]:.2f}" for name in ("precision", "recall", "f1")]
        for row in boxed["rows"]
    ]
    conditions = [
        [f"{row['pixel_size_nm']:.2f}", f"{row['dose']:.0f}", row["mode"].replace("_", " ")]
        + [f"{row[name]:.3f}" for name in ("dice_core", "dice_shell")]
        + [f"{100 * row['diameter_error']:+.1f} %"]
        for row in fresh["rows"]
    ]
    lines = [
        "**Real bright-field particles**: `bright_field_particles`.",
        f"{scores['images']} crops with hand-made masks.",
        "Intervals resample source micrographs.",
        "",
        *markdown_table(["accuracy", "mean IoU", "Dice"], [with_intervals]),
        "",
        "**Real supported catalysts**: `supported_catalysts`, annotated with boxes.",
        "A box counts as found if the centre of a particle is in it; each box and each centre is used once.",
        "Intervals resample images.",
        "",
        *markdown_table(["", "F1", "F1 with `--flips`"], pooled),
        "",
        "Each image, without `--flips`:",
        "",
        *markdown_table(["image", "mode", "boxes", "found", "precision", "recall", "F1"], images),
        "",
        "**Fresh simulated core–shell sessions**: 4 micrographs of 512 × 512 px each.",
        "",
        *markdown_table(
            [
                *("pixel size (nm)", "electrons per pixel", "mode", "Dice of cores"),
                *("Dice of whole particles", "diameter error"),
            ],
            conditions,
        ),
    ]
    return "\n".join(lines)
