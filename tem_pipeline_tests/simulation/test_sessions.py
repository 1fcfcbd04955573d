"""Simulated sessions and annotated sets as folders of files."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tifffile
import yaml

from tem_pipeline.errors import UserError
from tem_pipeline.simulation.sessions import simulate_annotated_set, simulate_session
from tem_pipeline.simulation.specimens import Population

SMALL: dict[str, Any] = {"images": 2, "size": 96, "seed": 7}


def test_a_session_has_its_truth_and_its_description(tmp_path: Path) -> None:
    out = simulate_session(tmp_path / "out", mode="haadf", sample_id="pt_1", **SMALL)
    particles = pd.read_parquet(out / "truth" / "particles.parquet")
    described = yaml.safe_load((out / "session" / "session.yaml").read_text())
    assert described["mode"] == "haadf"
    assert described["sample_id"] == "pt_1"
    for name, table in particles.groupby("image"):
        cores = tifffile.imread(out / "truth" / "cores" / f"{name}.tif")
        shells = tifffile.imread(out / "truth" / "shells" / f"{name}.tif")
        assert cores.dtype == shells.dtype == np.uint16
        assert cores.max() == len(table)
        assert shells[cores > 0].all()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


def test_a_seed_gives_the_same_session_and_a_longer_one_begins_with_it(tmp_path: Path) -> None:
    first = simulate_session(tmp_path / "a", **SMALL)
    longer = simulate_session(tmp_path / "b", **{**SMALL, "images": 3})
    other = simulate_session(tmp_path / "c", **{**SMALL, "seed": 8})
    for file in ("session/image_000.tif", "session/image_001.tif", "truth/cores/image_001.tif"):
        assert (first / file).read_bytes() == (longer / file).read_bytes()
        assert (first / file).read_bytes() != (other / file).read_bytes()
    assert (first / "session/image_000.tif").read_bytes() != (first / "session/image_001.tif").read_bytes()


def test_an_annotated_set_has_masks_shells_and_a_source_for_each_image(tmp_path: Path) -> None:
    out = simulate_annotated_set(tmp_path / "set", **SMALL)
    groups = yaml.safe_load((out / "dataset.yaml").read_text())["groups"]
    names = {path.stem for path in (out / "images").iterdir()}
    assert names == {path.stem for path in (out / "masks").iterdir()}
    assert names == {path.stem for path in (out / "shells").iterdir()} == set(groups)
    assert len(set(groups.values())) == len(names)


def test_size_options_reach_the_particles(tmp_path: Path) -> None:
    out = simulate_session(tmp_path / "out", images=3, size=256, mean_nm=3.0, sd_nm=0.1)
    diameters = pd.read_parquet(out / "truth" / "particles.parquet")["diameter_nm"]
    assert diameters.between(2.7, 3.3).all()
    with pytest.raises(UserError, match="standard deviation"):
        simulate_session(tmp_path / "other", sd_nm=-1)


def test_a_folder_in_use_or_inside_the_refused_one_is_left_alone(tmp_path: Path) -> None:
    used = tmp_path / "used"
    used.mkdir()
    (used / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="isn't empty"):
        simulate_session(used, **SMALL)
    assert [path.name for path in used.iterdir()] == ["notes.txt"]
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="isn't empty"):
        simulate_annotated_set(tmp_path / "file", **SMALL)
    incoming = tmp_path / "incoming"
    incoming.mkdir()
    (tmp_path / "link").symlink_to(incoming)
    for inside in (
        incoming,
        incoming / "session",
        tmp_path / "x" / ".." / "incoming" / "s",
        tmp_path / "link" / "s",
    ):
        with pytest.raises(UserError, match="inside"):
            simulate_session(inside, refuse_inside=incoming, **SMALL)
    assert not any(incoming.iterdir())


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    assert (simulate_session(tmp_path / "out", **SMALL) / "truth").is_dir()


def test_a_failed_simulation_leaves_no_files(tmp_path: Path) -> None:
    crowded = Population(mean_nm=0.21, sd_nm=0, shell_nm=0, shell_sd_nm=0, coverage=(2, 2))
    with pytest.raises(UserError, match="would hold"):
        simulate_session(tmp_path / "out", images=1, size=8192, population=crowded)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"images": 0}, "images"),
        ({"seed": -1}, "seed"),
        ({"size": 4}, "px"),
        ({"file_format": "dm4"}, "format 'dm4'"),
        ({"mode": "sem"}, "mode 'sem'"),
        ({"dose": -3.0}, "dose"),
        ({"mean_nm": 0.0}, "mean diameter"),
        ({"pixel_size_nm": -0.1}, "pixel size"),
    ],
)
def test_wrong_options_are_refused_before_anything_is_written(
    tmp_path: Path, arguments: dict, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        simulate_session(tmp_path / "out", **arguments)
    assert not any(tmp_path.iterdir())
