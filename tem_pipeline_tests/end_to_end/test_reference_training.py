"""The long proof on real images: `make test-slow` with TEM_REFERENCE_DATA set."""

import subprocess
from pathlib import Path

import pandas as pd
import pytest

from tem_pipeline_tests.end_to_end.conftest import Laboratory


@pytest.mark.slow
@pytest.mark.parametrize("split_seed", [0, 1, 2])
def test_the_champion_of_four_losses_reaches_dice_0_97_on_real_test_images(
    reference_data: Path, tmp_path: Path, split_seed: int
):
    laboratory = Laboratory(tmp_path)
    images = reference_data / "bright_field_particles"
    laboratory.succeed("train", images, "--profile", "quick", "--split-seed", split_seed)
    champion = pd.read_parquet(laboratory.data / "lake/training/champion_model/part-0.parquet").iloc[0]
    assert champion["test_images"] >= 3
    assert champion["test_dice"] >= 0.97
    assert champion["test_mean_iou"] >= 0.96


@pytest.mark.slow
def test_the_demo_reaches_its_figures_and_leaves_a_laboratory_alone(tmp_path: Path):
    laboratory = Laboratory(tmp_path)
    champion = laboratory.models / "champion" / "model.json"
    champion.parent.mkdir(parents=True)
    champion.write_text("a laboratory's own")
    done: subprocess.CompletedProcess[str] = laboratory.run("demo")
    assert done.returncode == 0, done.stderr
    assert champion.read_text() == "a laboratory's own"
    assert {path.name for path in laboratory.data.iterdir()} == {"demo"}
    trained = pd.read_parquet(laboratory.data / "demo/lake/training/champion_model/part-0.parquet").iloc[0]
    assert trained["test_dice"] >= 0.95
    comparison = pd.read_parquet(laboratory.data / "demo/lake/training/loss_comparison/part-0.parquet")
    assert comparison.set_index("loss").loc["otsu_watershed", "dice"] < 0.70
    particles = pd.read_parquet(
        laboratory.data / "demo/lake/particle_table/session=demo_session/part-0.parquet"
    )
    truth = pd.concat(
        pd.read_parquet(path)
        for path in (laboratory.data / "demo/simulated").glob("*/truth/particles.parquet")
    )
    found = particles.loc[~particles["touches_edge"], "equivalent_diameter_nm"]
    true = truth.loc[~truth["touches_edge"], "visible_diameter_nm"]
    assert found.mean() == pytest.approx(true.mean(), rel=0.02)
    assert len(found) == pytest.approx(len(true), rel=0.03)
