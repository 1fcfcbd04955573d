import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import dagster as dg
import pytest
from upath import UPath

from tem_pipeline.errors import UserError
from tem_pipeline.installation import installation_of
from tem_pipeline.orchestration import previews
from tem_pipeline.orchestration.assets import sessions
from tem_pipeline.orchestration.partitions import SESSIONS
from tem_pipeline.orchestration.resources import (
    SESSION_FOLDER_TAG,
    Platform,
    TrainingPlan,
    platform_of,
    session_folder,
)
from tem_pipeline.orchestration.session_life.failures import failure_reason
from tem_pipeline.orchestration.session_life.survey import session_states
from tem_pipeline.settings import PROJECT_ROOT, Settings
from tem_pipeline.simulation.sessions import simulate_session
from tem_pipeline.storage import read_table
from tem_pipeline_tests.orchestration.conftest import deliver, lay_champion


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
    evaluated = result.get_asset_check_evaluations()
    checks = {check.check_name: check.passed for check in evaluated}
    assert checks == {"any_image": True, "no_file_refused": False, "all_calibrated": True}
    # The result is that of this session: the next one does not overwrite it.
    assert {check.partition for check in evaluated} == {"a_session"}
    metadata = result.asset_materializations_for_node("raw_tem_images")[0].metadata
    assert metadata["images"].value == 2
    assert "broken.dm3" in str(metadata["manifest"].value)
    manifest = read_table(platform.layout.table("raw_tem_images", "a_session"))
    assert set(manifest["status"]) == {"ok", "refused"}
    for name in manifest["image_file"].dropna():
        assert (platform.layout.partition("raw_tem_images", "a_session") / name).exists()


def test_every_check_of_a_session_is_kept_for_each_session(definitions: dg.Definitions):
    graph = definitions.resolve_asset_graph()
    checks = {key: graph.get(key) for key in graph.asset_check_keys}
    assert checks
    for key, check in checks.items():
        assert (check.partitions_def is not None) == graph.get(key.asset_key).is_partitioned, key


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({}, "no image: the folder holds no file of an image format"),
        ({"note.txt": "…"}, "no image: the folder holds no file of an image format"),
        ({"a.dm3": "…", "b.tif": ""}, "no image: none of 2 can be measured: a.dm3: "),
    ],
)
def test_a_session_without_an_image_is_failed_and_says_so(
    definitions: dg.Definitions, instance: dg.DagsterInstance, platform: Platform, files: dict, reason: str
):
    folder = Path(str(platform.layout.incoming)) / "a"
    folder.mkdir(parents=True)
    for name, text in files.items():
        (folder / name).write_text(text)
    instance.add_dynamic_partitions(str(SESSIONS.name), ["a"])
    job = definitions.resolve_job_def("process_session")
    result = job.execute_in_process(instance=instance, partition_key="a", raise_on_error=False)
    assert not result.success
    assert failure_reason(result.all_events).startswith(f"session a: {reason}")
    failed = [check for check in result.get_asset_check_evaluations() if not check.passed]
    assert ("any_image", True) in [(check.check_name, check.blocking) for check in failed]
    assert not platform.layout.table("predicted_masks", "a").exists()
    assert len(read_table(platform.layout.table("raw_tem_images", "a"))) == len(files) - ("note.txt" in files)
    settings = platform.settings.model_copy(update={"settling_s": 0})
    (state,) = session_states(platform.layout, settings, time.time())
    assert state.state == "failed"
    assert "no image" in str(state.reason)


def test_a_faulty_particle_table_fails_a_blocking_check_and_is_not_written(
    platform: Platform, incoming, files, monkeypatch, definitions, instance
):
    lay_champion(platform)
    deliver(files, incoming / "a")
    measure = sessions.measure_session
    monkeypatch.setattr(
        sessions, "measure_session", lambda *tables: measure(*tables).assign(equivalent_diameter_px=1.0)
    )
    instance.add_dynamic_partitions(str(SESSIONS.name), ["a"])
    job = definitions.resolve_job_def("process_session")
    result = job.execute_in_process(instance=instance, partition_key="a", raise_on_error=False)
    assert "equivalent_diameter_px: must be 2 √(area / π)" in failure_reason(result.all_events)
    (check,) = [one for one in result.get_asset_check_evaluations() if one.check_name == "rules_kept"]
    assert (check.passed, check.blocking, check.partition) == (False, True, "a")
    assert "must be 2 √(area / π)" in str(check.metadata["fault"].value)
    for name in ("particle_table", "size_distributions"):
        assert not platform.layout.table(name, "a").exists()


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


def test_a_page_cannot_name_a_folder_outside_incoming(
    platform: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    private = tmp_path / "private/a"
    private.mkdir(parents=True)
    incoming = Path(str(platform.layout.incoming))
    (incoming / "a").mkdir(parents=True)
    (incoming / "link").symlink_to(tmp_path / "private")
    for folder in (private, incoming / "../../private/a", incoming / "link/a", UPath("memory://private/a")):
        with pytest.raises(UserError, match="TEM_SESSION_ROOTS"):
            session_folder({SESSION_FOLDER_TAG: str(folder)}, platform, "a")
    tags = {SESSION_FOLDER_TAG: str(private)}
    assert session_folder(tags, platform_of(platform.installation, [str(private)]), "a") == UPath(private)
    monkeypatch.setenv("TEM_SESSION_ROOTS", f'["{tmp_path / "private"}"]')
    assert session_folder(tags, platform, "a") == UPath(private)
    assert session_folder({SESSION_FOLDER_TAG: str(incoming / "a")}, platform, "a") == UPath(incoming / "a")


def test_a_page_cannot_read_one_session_from_the_folder_of_another(
    definitions: dg.Definitions, instance: dg.DagsterInstance, platform: Platform
):
    other = Path(str(platform.layout.incoming)) / "b"
    other.mkdir(parents=True)
    result = ingest(definitions, instance, "a", **{SESSION_FOLDER_TAG: str(other)})
    assert "is the folder of another session" in failure_reason(result.all_events)


def test_a_page_cannot_give_a_run_other_folders(definitions: dg.Definitions):
    job = definitions.resolve_job_def("process_session")
    assert dg.validate_run_config(job, {})
    for resource, configuration in (
        ("platform", {"data_root": "/elsewhere"}),
        ("platform", {"fixed": {"config": {}}}),
        ("session_lock", {"platform": {"data_root": "/elsewhere"}}),
        ("tables", {"platform": {"data_root": "/elsewhere"}}),
    ):
        with pytest.raises(dg.DagsterInvalidConfigError):
            dg.validate_run_config(job, {"resources": {resource: {"config": configuration}}})


def test_only_the_command_line_and_the_settings_name_other_annotated_sets(
    platform: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "data/annotated").mkdir(parents=True)
    elsewhere = tmp_path / "data/elsewhere"
    elsewhere.mkdir()
    for name in ("../elsewhere", str(elsewhere)):
        with pytest.raises(UserError, match="not an annotated set"):
            TrainingPlan(sets=[name]).folders(platform)
    plan = TrainingPlan(sets=[str(elsewhere)])
    assert plan.folders(platform_of(platform.installation, [str(elsewhere)])) == [elsewhere]
    monkeypatch.setenv("TEM_TRAINING_SETS", f'["{elsewhere}"]')
    assert plan.folders(platform) == [elsewhere]


def test_only_the_command_line_starts_a_training_from_any_folder(platform: Platform):
    for reference in ("", "champion", "pretrained", "models:/tem_segmentation/3"):
        assert TrainingPlan(start_from=reference).starting_model(platform) == reference
    plan = TrainingPlan(start_from="/tmp/model")
    with pytest.raises(UserError, match="start from champion"):
        plan.starting_model(platform)
    assert plan.starting_model(platform_of(platform.installation, ["/tmp/model"])) == "/tmp/model"


def test_cells_of_previews_cannot_break_out_of_their_table():
    import pandas as pd

    text = previews.table(pd.DataFrame({"file": ["a|b\n<script>"], "n": [1.23456]})).value
    assert text is not None
    assert text.splitlines()[2] == "| a&#124;b\N{REPLACEMENT CHARACTER}&#60;script&#62; | 1.235 |"
    for name in (
        "![x](http://evil/y.png)",
        "[a](b)",
        "`code`",
        "<img src=x>",
        "https://evil",
        "www.evil.org",
    ):
        text = str(previews.table(pd.DataFrame({"file": [name]})).value).splitlines()[2]
        assert not any(mark in text for mark in ("](", "`", "<", "://", "www."))


def test_a_picture_too_large_for_the_event_log_is_named_instead():
    assert "too large" in str(previews.picture(b"x" * 100_001).value)


def test_the_platform_gives_the_very_installation_that_it_was_built_for(tmp_path: Path):
    chosen = Settings(threads=1, tile_px=256, minimum_diameter_px=9, dagster_home=str(tmp_path / "home"))
    installation = installation_of(chosen)
    assert platform_of(installation).installation is installation
