import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from studies.__main__ import REHEARSAL, complete, jobs_of
from studies.trainings import (
    CLASSICAL,
    REAL,
    SIMULATED,
    Job,
    Training,
    _code_alone,
    core_share,
    cores_only,
    read_data,
    train_and_evaluate,
    training_job,
)
from tem_pipeline.annotation.datasets import read_annotated_set
from tem_pipeline.errors import UserError
from tem_pipeline.settings import PROJECT_ROOT
from tem_pipeline.training.fitting import Profile
from tem_pipeline_tests.annotation.test_datasets import make_set, mask_of, save
from tem_pipeline_tests.studies.discs import discs_set

SMALL = Profile("small", 4, 32, 16, 4, 2)


def classical_jobs(count: int = 12) -> list[Job]:
    """Jobs that make real rows without training a network."""
    data = discs_set(side_px=256)
    return [training_job(Training("discs", "none", SMALL, seed, CLASSICAL), data, 1) for seed in range(count)]


def test_a_killed_study_resumes_with_the_missing_rows(tmp_path: Path):
    code = (
        "import sys; from pathlib import Path; "
        "from studies.__main__ import complete; "
        "from tem_pipeline_tests.studies.test_trainings import classical_jobs; "
        "complete(classical_jobs(), Path(sys.argv[1]), print)"
    )
    killed = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], cwd=PROJECT_ROOT, env={**os.environ, "TEM_THREADS": "1"}
    )
    deadline = time.monotonic() + 300
    while not list(tmp_path.glob("*.json")) and killed.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    left = {file.name: file.stat().st_mtime_ns for file in tmp_path.glob("*.json")}
    jobs, said = classical_jobs(), []
    assert 1 <= len(left) < len(jobs)
    rows = complete(jobs, tmp_path, said.append)
    assert len(said) == len(jobs) - len(left)
    assert {name: (tmp_path / name).stat().st_mtime_ns for name in left} == left
    assert [row["seed"] for row in rows] == list(range(12))
    assert complete(jobs, tmp_path, said.append) == rows
    assert len(said) == len(jobs) - len(left)


def test_an_interrupted_training_leaves_no_row(tmp_path: Path):
    def interrupted() -> dict:
        raise KeyboardInterrupt

    first, *others = classical_jobs(3)
    with pytest.raises(KeyboardInterrupt):
        complete([first, Job("key", "interrupted", 1.0, interrupted), *others], tmp_path, lambda line: None)
    assert [file.stem for file in tmp_path.iterdir()] == [first.key]


def test_shared_work_is_done_once_and_the_remaining_time_is_reported(tmp_path: Path):
    first, second = classical_jobs(2)
    said: list[str] = []
    rows = complete([first, first, second], tmp_path, said.append)
    assert rows[0] == rows[1]
    assert len(said) == 2
    assert "1/2 discs, otsu_watershed" in said[0]
    assert said[1].endswith("about 0 s left")


@pytest.mark.parametrize(
    "change",
    [
        {"data": REAL},
        {"loss": "iou"},
        {"seed": 1},
        {"network": "unet"},
        {"protocol": "augment_then_split"},
        {"profile": replace(SMALL, steps=5)},
    ],
)
def test_a_rows_key_depends_on_everything_that_decides_the_training(change: dict):
    training = Training(SIMULATED, "dice", SMALL)
    assert training.key("a") == Training(SIMULATED, "dice", replace(SMALL)).key("a")
    assert replace(training, **change).key("a") != training.key("a")
    assert training.key("b") != training.key("a")


def test_a_rows_key_changes_with_pixels_masks_and_sources(tmp_path: Path):
    folder = make_set(tmp_path / "set")

    def key() -> str:
        return Training(REAL, "dice", SMALL).key(cores_only(read_annotated_set(folder)).sha256)

    keys = [key(), key()]
    assert keys[0] == keys[1]
    with Image.open(folder / "images" / "im1.png") as picture:
        image = np.array(picture)
    image[5, 5] ^= 1
    save(folder / "images" / "im1.png", image)
    keys.append(key())
    mask = mask_of(folder).copy()
    mask[40, 40] ^= 255
    save(folder / "masks" / "im0.png", mask)
    keys.append(key())
    (folder / "dataset.yaml").write_text("groups: {im0: one, im1: one}")
    keys.append(key())
    assert len(set(keys)) == 4


def test_a_rows_key_changes_with_code_but_not_with_comments():
    plain = "LIMIT = 2\n\n\ndef area(x):\n    return x * LIMIT\n"
    told = '"""Text."""\nLIMIT = 2  # px\n"""Text."""\ndef area(x):\n    """Text."""\n    return x * LIMIT\n'
    assert _code_alone(plain) == _code_alone(told)
    assert _code_alone(plain) != _code_alone(plain.replace("2", "3"))


def test_simulated_cores_cover_the_area_implied_by_the_papers_table_1():
    simulated = read_data(SIMULATED)
    assert simulated.classes == ("background", "core")
    assert len({image.group for image in simulated.images}) == len(simulated.images) == 24
    shares = []
    for accuracy, dice in ((0.9718, 0.8394), (0.9755, 0.8602), (0.9765, 0.8608), (0.9761, 0.8692)):
        wrong = 1 - accuracy
        shares.append(dice * wrong / (2 * (1 - dice)) + wrong / 2)
    assert min(shares) <= core_share(simulated) <= max(shares)
    # Shells are background, so some background is darker than the support.
    assert all(set(np.unique(image.class_map)) == {0, 1} for image in simulated.images)


def test_without_the_real_set_the_study_says_what_to_do(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("TEM_REFERENCE_DATA", raising=False)
    with pytest.raises(UserError, match="TEM_REFERENCE_DATA"):
        read_data(REAL)


def test_a_row_has_the_papers_scores_and_scores_on_held_out_sources():
    data = discs_set()
    row = train_and_evaluate(Training("discs", "dice", SMALL, protocol="augment_then_split"), data, threads=1)
    json.loads(json.dumps(row, allow_nan=False))
    assert row["images_on_both_sides"] > 0
    assert set(row["reported"]) == {"accuracy", "mean_iou", "dice"}
    assert row["test"]["images"] == len(row["test_images"]) == row["test_sources"] == 2
    assert row["held_out_crops"]["images"] == 128
    for summary in (row["test"], row["held_out_crops"]):
        assert {"boundary_f", "instance_f1", "diameter_error"} <= summary.keys() & summary["intervals"].keys()


def test_parts_share_trainings_and_only_one_has_the_papers_protocol(reference_data: Path):
    parts = {name: jobs_of(name, REHEARSAL, 1) for name in ("losses", "networks", "protocol", "standard")}
    keys = {name: {job.key for job in jobs} for name, jobs in parts.items()}
    assert {name: len(found) for name, found in keys.items()} == {
        "losses": 20,
        "networks": 17,
        "protocol": 8,
        "standard": 4,
    }
    assert len(keys["networks"] & keys["losses"]) == 8
    assert len(keys["protocol"] & keys["losses"]) == 4
    leaking = [job.name for jobs in parts.values() for job in jobs if "augment_then_split" in job.name]
    assert len(leaking) == len([job for job in parts["protocol"] if "augment_then_split" in job.name]) == 4
