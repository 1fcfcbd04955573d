import dagster as dg
import pytest

from tem_pipeline.errors import UserError
from tem_pipeline.orchestration.partitions import SESSIONS
from tem_pipeline.orchestration.resources import SESSION_FOLDER_TAG, Platform
from tem_pipeline.orchestration.session_life.failures import failure_reason
from tem_pipeline.orchestration.session_life.reprocessing import chosen_sessions, reprocess_requests
from tem_pipeline.storage import read_table
from tem_pipeline_tests.orchestration.conftest import deliver, lay_champion


@pytest.fixture
def laboratory(run, incoming, files, platform: Platform, tmp_path):
    """Three sessions that the first champion has processed; one of them is outside incoming/."""
    lay_champion(platform)
    for name in ("a", "b"):
        deliver(files[:1], incoming / name)
    (incoming / "a/session.yaml").write_text("sample_id: Pt-C 12")
    deliver(files[:1], tmp_path / "outside")
    tags = {SESSION_FOLDER_TAG: str(tmp_path / "outside")}
    assert run(dg.RunRequest(partition_key="a", job_name="process_session"))
    assert run(dg.RunRequest(partition_key="b", job_name="process_session"))
    outside = dg.RunRequest(partition_key="outside", job_name="process_session", tags=tags)
    assert run(outside, named=[tmp_path / "outside"])


@pytest.fixture
def ask(definitions: dg.Definitions, instance: dg.DagsterInstance):
    def ask(**choice) -> dg.ExecuteInProcessResult:
        job = definitions.resolve_job_def("reprocess_sessions")
        config = {"ops": {"choose_sessions": {"config": choice}}}
        return job.execute_in_process(config, instance=instance, raise_on_error=False)

    return ask


@pytest.fixture
def requests(instance: dg.DagsterInstance):
    def requests(asked: dg.ExecuteInProcessResult) -> list[dg.RunRequest]:
        event = next(event for event in asked.all_events if event.is_successful_output)
        context = dg.build_run_status_sensor_context("reprocess_requests", event, instance, asked.dagster_run)
        return list(reprocess_requests(context))  # type: ignore[arg-type]

    return requests


@pytest.mark.usefixtures("laboratory")
def test_only_chosen_sessions_are_processed_with_the_new_champion(
    ask, requests, run, platform: Platform, tmp_path
):
    lay_champion(platform, version="2")

    def versions() -> list[str]:
        tables = [platform.layout.table("predicted_masks", key) for key in ("a", "b", "outside")]
        return [read_table(table)["model_version"].iloc[0] for table in tables]

    asked = requests(ask(sessions=["outside"], samples=["Pt-C 12"]))
    assert [(request.partition_key, request.tags.get(SESSION_FOLDER_TAG)) for request in asked] == [
        ("a", None),
        ("outside", str(tmp_path / "outside")),
    ]
    assert len({request.run_key for request in asked}) == 2
    for request in asked:
        assert run(dg.RunRequest(**{**request._asdict(), "job_name": "process_session"}))
    assert versions() == ["2", "1", "2"]


@pytest.mark.usefixtures("laboratory")
def test_all_sessions_can_be_chosen_and_get_their_partitions(ask, requests, instance: dg.DagsterInstance):
    for key in ("a", "b", "outside"):
        instance.delete_dynamic_partition(str(SESSIONS.name), key)
    again = requests(ask(all_sessions=True))
    assert [request.partition_key for request in again] == ["a", "b", "outside"]
    assert set(instance.get_dynamic_partitions(str(SESSIONS.name))) == {"a", "b", "outside"}
    # They wait behind new sessions, and each choice asks for runs of its own.
    assert {request.tags["dagster/priority"] for request in again} == {"-1"}
    assert not {r.run_key for r in again} & {r.run_key for r in requests(ask(all_sessions=True))}


@pytest.mark.usefixtures("laboratory")
def test_a_choice_of_nothing_or_of_unknown_names_fails_in_one_line(ask, platform: Platform):
    asked = ask(sessions=["a", "Pt C"], samples=["gold"])
    assert not asked.success
    reason = failure_reason(asked.all_events)
    assert "'Pt C'" in reason
    assert "'gold'" in reason
    with pytest.raises(UserError, match="no session is chosen"):
        chosen_sessions(platform.layout, [], [], False)
