import dagster as dg
import pytest

from tem_pipeline.orchestration.resources import Platform
from tem_pipeline.storage import read_table
from tem_pipeline.tracking.champion import NO_CHAMPION_YET
from tem_pipeline_tests.orchestration.conftest import deliver, lay_champion, lay_model, process

pytestmark = pytest.mark.usefixtures("settle_at_once")


@pytest.fixture
def session(incoming, files) -> str:
    deliver(files, incoming / "a")
    return "a"


def models(platform: Platform, session: str = "a") -> set[tuple[str, str, str]]:
    """Name, version and hash of the models that the rows of a session's tables name."""
    columns = ["model_name", "model_version", "model_sha256"]
    tables = [
        read_table(platform.layout.table(name, session)) for name in ("predicted_masks", "particle_table")
    ]
    assert all(len(table) for table in tables)
    return {tuple(row) for table in tables for row in table[columns].to_numpy()}


def test_without_a_champion_every_row_names_the_pretrained_model(
    definitions: dg.Definitions, instance: dg.DagsterInstance, platform: Platform, session: str
):
    lay_model(platform.layout.pretrained, "pretrained", "3")
    instance.add_dynamic_partitions("sessions", [session])
    job = definitions.resolve_job_def("process_session")
    result = job.execute_in_process(instance=instance, partition_key=session)
    assert models(platform) == {("pretrained", "3", "sha of pretrained 3")}
    (masks,) = result.asset_materializations_for_node("predicted_masks")
    assert masks.metadata["why this model"].value == NO_CHAMPION_YET
    assert "pretrained version 3" in str(masks.metadata["model"].value)


def test_a_later_champion_processes_new_sessions_only(
    night,
    run,
    incoming,
    files,
    platform: Platform,
    session: str,
):
    lay_model(platform.layout.pretrained, "pretrained")
    (request,) = night()
    assert run(request)
    lay_champion(platform)
    deliver(files[:1], incoming / "b")
    (request,) = night()
    assert request.partition_key == "b"
    assert run(request)
    assert models(platform, "b") == {("tem_segmentation", "1", "sha of tem_segmentation 1")}
    assert models(platform, "a") == {("pretrained", "1", "sha of pretrained 1")}


def test_a_champion_goes_before_the_pretrained_model(platform: Platform, session: str):
    lay_model(platform.layout.pretrained, "pretrained")
    lay_champion(platform)
    assert process(platform) is None
    assert models(platform) == {("tem_segmentation", "1", "sha of tem_segmentation 1")}


def test_the_pretrained_model_does_not_replace_a_broken_champion(platform: Platform, session: str):
    lay_model(platform.layout.pretrained, "pretrained")
    lay_champion(platform)
    (platform.layout.champion / "model.json").write_text("{")
    reason = process(platform)
    assert reason is not None
    assert "not a model card" in reason


def test_without_any_model_the_reason_says_to_train_one(platform: Platform, session: str):
    reason = process(platform)
    assert reason is not None
    assert "train one first" in reason
