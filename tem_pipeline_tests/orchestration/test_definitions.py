import os
import shutil
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest

from tem_pipeline.errors import UserError
from tem_pipeline.orchestration import previews
from tem_pipeline.orchestration.partitions import SESSIONS
from tem_pipeline.orchestration.resources import SESSION_FOLDER_TAG, Platform, TrainingPlan
from tem_pipeline.orchestration.session_life.failures import failure_reason
from tem_pipeline.settings import PROJECT_ROOT
from tem_pipeline.simulation.sessions import simulate_session
from tem_pipeline.storage import read_table


def test_the_workspace_and_the_settings_of_dagster_load_cleanly(tmp_path: Path):
    shutil.copy(PROJECT_ROOT / "dagster.yaml", tmp_path)
    validated = subprocess.run(
        [Path(sys.executable).parent / "dagster", "definitions", "validate", "-w", "workspace.yaml"],
        cwd=PROJECT_ROOT,
        env={**os.environ, "DAGSTER_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert validated.returncode == 0, validated.stderr


def test_what_only_runs_need_is_not_loaded_with_the_code_location():
    program = (
        "import sys, tem_pipeline.definitions;"
        "print({'matplotlib', 'scipy.stats', 'skimage.morphology', 'skimage.segmentation', 'tensorflow',"
        " 'mlflow', 'openvino', 'rsciio', 'duckdb'} & set(sys.modules))"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", program], cwd=PROJECT_ROOT, capture_output=True, text=True, check=True
    )
    assert loaded.stdout.strip() == "set()"


def test_the_assets_are_those_of_the_design(definitions: dg.Definitions):
    dg.Definitions.validate_loadable(definitions)
    keys = {key.to_user_string() for key in definitions.resolve_asset_graph().get_all_asset_keys()}
    losses = ("cross_entropy", "weighted_cross_entropy", "iou", "dice")
    assert keys == {
        "raw_tem_images",
        "predicted_masks",
        "particle_table",
        "size_distributions",
        "session_report",
        "analysis/sample_summary",
        "analysis/structure_activity",
        "training/annotated_images",
        "training/augmented_dataset",
        *(f"training/model_{loss}" for loss in losses),
        "training/loss_comparison",
        "training/champion_model",
        "session_states",
    }


def ingest(definitions: dg.Definitions, instance: dg.DagsterInstance, session: str, **tags: str):
    instance.add_dynamic_partitions(str(SESSIONS.name), [session])
    job = definitions.resolve_job_def("ingest_session")
    return job.execute_in_process(instance=instance, partition_key=session, tags=tags, raise_on_error=False)


def test_ingesting_a_session_gives_its_checks_and_its_manifest(
    definitions: dg.Definitions, instance: dg.DagsterInstance, platform: Platform, tmp_path: Path
):
    simulate_session(tmp_path / "out", images=2, size=128)
    folder = Path(str(platform.layout.incoming)) / "a_session"
    folder.parent.mkdir(parents=True)
    (tmp_path / "out/session").rename(folder)
    (folder / "broken.dm3").write_text("no micrograph")
    result = ingest(definitions, instance, "a_session")
    assert result.success
    checks = {check.check_name: check.passed for check in result.get_asset_check_evaluations()}
    assert checks == {"no_file_refused": False, "all_calibrated": True}
    metadata = result.asset_materializations_for_node("raw_tem_images")[0].metadata
    assert metadata["images"].value == 2
    assert "broken.dm3" in str(metadata["manifest"].value)
    manifest = read_table(platform.layout.table("raw_tem_images", "a_session"))
    assert set(manifest["status"]) == {"ok", "refused"}
    for name in manifest["image_file"].dropna():
        assert (platform.layout.partition("raw_tem_images", "a_session") / name).exists()


@pytest.mark.parametrize("key", ["../escape", "a/b"])
def test_a_partition_key_that_leads_outside_fails_and_writes_nothing_there(
    definitions: dg.Definitions, instance: dg.DagsterInstance, platform: Platform, tmp_path: Path, key: str
):
    (tmp_path / "session").mkdir()
    result = ingest(definitions, instance, key, **{SESSION_FOLDER_TAG: str(tmp_path / "session")})
    assert not result.success
    assert not list(tmp_path.rglob("*.parquet"))


def test_a_session_folder_that_is_gone_fails_with_its_name(
    definitions: dg.Definitions, instance: dg.DagsterInstance
):
    result = ingest(definitions, instance, "gone")
    assert not result.success
    assert "session gone: there is no such folder below" in failure_reason(result.all_events)


def test_an_annotated_set_cannot_be_named_outside_the_annotated_folder(platform: Platform, tmp_path: Path):
    (tmp_path / "data/annotated").mkdir(parents=True)
    (tmp_path / "data/elsewhere").mkdir()
    with pytest.raises(UserError, match="not an annotated set"):
        TrainingPlan(sets=["../elsewhere"]).folders(platform.layout)
    elsewhere = str(tmp_path / "data/elsewhere")
    assert TrainingPlan(sets=[elsewhere]).folders(platform.layout) == [Path(elsewhere)]


def test_cells_of_previews_cannot_break_out_of_their_table():
    import pandas as pd

    text = previews.table(pd.DataFrame({"file": ["a|b\n<script>"], "n": [1.23456]})).value
    assert text is not None
    assert text.splitlines()[2] == "| a\\|b &lt;script> | 1.235 |"


def test_a_picture_too_large_for_the_event_log_is_named_instead():
    assert "too large" in str(previews.picture(b"x" * 100_001).value)
