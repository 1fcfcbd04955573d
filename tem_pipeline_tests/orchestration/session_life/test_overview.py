import dagster as dg
import pytest

from tem_pipeline.orchestration.resources import Platform
from tem_pipeline.orchestration.session_life import overview
from tem_pipeline.orchestration.session_life.overview import session_overview, states_page
from tem_pipeline.orchestration.session_life.states import SessionState
from tem_pipeline.particles.query import run_query
from tem_pipeline_tests.orchestration.conftest import deliver

pytestmark = pytest.mark.usefixtures("settle_at_once")


@pytest.fixture
def tick(instance: dg.DagsterInstance, platform: Platform):
    cursor = None

    def tick() -> dict | None:
        """Give what the page shows, or None if it was not written."""
        nonlocal cursor
        context = dg.build_sensor_context(instance=instance, cursor=cursor)
        result = session_overview(context, platform=platform)
        if not isinstance(result, dg.SensorResult):
            return None
        cursor = result.cursor
        (event,) = result.asset_events
        assert isinstance(event, dg.AssetMaterialization)
        return {name: value.value for name, value in event.metadata.items()}

    return tick


def test_the_page_is_written_when_a_state_changes_and_only_then(
    tick, run, incoming, files, platform: Platform
):
    deliver(files, incoming / "a|b")
    shown = tick()
    assert shown["complete"] == 1
    assert "| a\\|b | complete |" in shown["sessions"]
    assert tick() is None
    (incoming / "a|b/4.tif.part").touch()
    assert "4.tif.part is being written" in tick()["sessions"]
    (incoming / "a|b/4.tif.part").unlink()
    assert tick()["complete"] == 1
    states = run_query(platform.layout.lake, "SELECT name, state FROM session_states").to_pylist()
    assert states == [{"name": "a|b", "state": "complete"}]


def test_sessions_that_need_a_person_come_first_on_a_small_page():
    def state(number: int, name) -> SessionState:
        return SessionState(f"s{number}", f"s{number}", name, "x" * 300, None, None, None, 20, 0, 500)

    states = [state(number, "processed") for number in range(10_000)]
    page = states_page([*states, state(10_000, "failed"), state(10_001, "parked")])
    text = str(page["sessions"].value)  # type: ignore[union-attr]
    assert [line.split(" | ")[1] for line in text.splitlines()[2:5]] == ["failed", "parked", "processed"]
    assert f"and {10_002 - overview.ROWS_SHOWN} more" in text
    assert len(text) < 200_000
    assert (page["failed"], page["processed"]) == (1, 10_000)


def test_tables_that_take_long_to_read_are_read_in_steps(tick, run, incoming, files, monkeypatch):
    for name in ("a", "b", "c"):
        deliver(files[:1], incoming / name)
        assert run(dg.RunRequest(partition_key=name, job_name="ingest_session"))
    looks = 2

    def two_looks(seconds: float):
        left = iter([False] * looks)
        return lambda: next(left, True)

    monkeypatch.setattr(overview, "stopwatch", two_looks)
    assert tick() is None
    looks = 3
    assert tick()["ingested"] == 3
