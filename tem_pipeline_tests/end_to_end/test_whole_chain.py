"""Simulated sessions at several pixel sizes, noise levels and both modes, compared with the truth.

The truth is that of the particles that the frame leaves whole: full diameters of the projections, also where
another particle hides a part, and the mean thickness of shells that the frame leaves whole.
"""

from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile

from tem_pipeline.micrographs.session_images import ingest_session
from tem_pipeline.particles.checks import check_particle_table
from tem_pipeline.particles.table import measure_session
from tem_pipeline.segmentation.instances import label_instances
from tem_pipeline.segmentation.touching import split_touching
from tem_pipeline.simulation.sessions import simulate_session
from tem_pipeline.storage import encode_tiff, write_content
from tem_pipeline_tests.end_to_end.conftest import Laboratory

# Pixel size in nm with the side in px of about the same field; electrons per pixel.
FIELDS = [(0.07, 672), (0.10, 512), (0.15, 384)]
DOSES = [250.0, 800.0, 2500.0]
CONDITIONS = list(product(FIELDS, DOSES, ["bright_field", "haadf"]))
ERRORS = ["mean", "sd", "median", "count", "thickness"]


def simulated(folder: Path, number: int, first_seed: int, images: int) -> Path:
    """Simulate a session under the condition of that number, below a folder of that name."""
    (pixel_size_nm, size), dose, mode = CONDITIONS[number]
    return simulate_session(
        folder / f"{number}",
        images=images,
        size=size,
        pixel_size_nm=pixel_size_nm,
        seed=first_seed + number,
        mode=mode,  # type: ignore[arg-type]
        dose=dose,
    )


def errors(particles: pd.DataFrame, truth: pd.DataFrame) -> dict[str, float]:
    """Relative errors over whole particles of good images."""
    found = particles[~particles["touches_edge"].astype(bool) & (particles["image_quality"] == "good")]
    true = truth[~truth["touches_edge"]]
    true_thickness = true.loc[~true["shell_touches_edge"].fillna(True).astype(bool), "shell_thickness_nm"]
    diameter, true_diameter = found["equivalent_diameter_nm"], true["diameter_nm"]
    return {
        "mean": diameter.mean() / true_diameter.mean() - 1,
        "sd": diameter.std() / true_diameter.std() - 1,
        "median": diameter.median() / true_diameter.median() - 1,
        "count": len(found) / len(true) - 1,
        "thickness": found["shell_thickness_nm"].mean() / true_thickness.mean() - 1,
        "particles": len(true),
    }


def true_masks(manifest: pd.DataFrame, truth: Path, target: Path) -> pd.DataFrame:
    """The table of `predicted_masks` that a model without fault would give."""
    rows = []
    for image in manifest.itertuples():
        name = f"{Path(str(image.file)).stem}.tif"
        cores = tifffile.imread(truth / "cores" / name) > 0
        labels, split_labels = split_touching(label_instances(cores, np.pi / 4 * 5**2))
        pictures = {
            "labels_file": labels,
            "shells_file": tifffile.imread(truth / "shells" / name),
            "probability_file": (cores * 255).astype(np.uint8),
        }
        rows.append(
            {
                "image_id": image.image_id,
                "mode": image.mode,
                "image_quality": "good",
                "split_labels": split_labels,
                **{key: write_content(target, name, ".tif", encode_tiff(p)) for key, p in pictures.items()},
                **dict.fromkeys(["model_name", "model_version", "model_sha256", "loss", "code_version"]),
            }
        )
    return pd.DataFrame(rows)


def test_on_true_masks_a_session_gives_back_its_particles(tmp_path: Path):
    rows, tables = [], []
    for seed, ((pixel_size_nm, _), dose, mode) in enumerate(CONDITIONS):
        out = simulated(tmp_path, seed, 500, images=2)
        manifest = ingest_session(out / "session", f"s{seed}", out / "raw")
        masks = true_masks(manifest, out / "truth", out / "masks")
        particles = measure_session(manifest, out / "raw", masks, out / "masks")
        tables.append(particles)
        found = errors(particles, pd.read_parquet(out / "truth/particles.parquet"))
        rows.append({"pixel_size_nm": pixel_size_nm, "dose": dose, "mode": mode, **found})
    table = pd.DataFrame(rows)
    check_particle_table(pd.concat(tables, ignore_index=True))
    within = table[ERRORS].abs() <= [0.01, 0.05, 0.01, 0.02, 0.03]
    assert within.all(axis=None), table.round(4).to_string()


# All is what the platform promises. Some are both modes, each pixel size and dose once at least.
@pytest.mark.parametrize(
    "numbers",
    [
        pytest.param(range(2, len(CONDITIONS), 5), id="some"),
        pytest.param(range(len(CONDITIONS)), id="all", marks=[pytest.mark.slow, pytest.mark.timeout(3600)]),
    ],
)
def test_a_session_gives_back_its_particles_with_the_pretrained_model(
    numbers: range, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("TEM_PRETRAINED_MODEL")
    laboratory = Laboratory(tmp_path)
    incoming = laboratory.data / "incoming"
    incoming.mkdir(parents=True)
    for number in numbers:
        (simulated(tmp_path, number, 700, images=6) / "session").rename(incoming / f"s{number}")
    laboratory.succeed("process", *sorted(incoming.iterdir()), timeout_s=3600)
    rows = []
    for number in numbers:
        (pixel_size_nm, _), dose, mode = CONDITIONS[number]
        lake = laboratory.data / "lake" / "particle_table" / f"session=s{number}"
        truth = pd.read_parquet(tmp_path / f"{number}" / "truth/particles.parquet")
        found = errors(pd.read_parquet(lake / "part-0.parquet"), truth)
        rows.append({"pixel_size_nm": pixel_size_nm, "dose": dose, "mode": mode, **found})
    table = pd.DataFrame(rows)
    within = table[ERRORS].abs() <= [0.03, 0.10, 0.03, 0.04, 0.05]
    assert within.all(axis=None), table.round(4).to_string()
