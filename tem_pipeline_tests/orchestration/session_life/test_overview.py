import shutil

import dagster as dg
import pytest

from tem_pipeline.errors import UserError
from tem_pipeline.orchestration.resources import Platform
from tem_pipeline.orchestration.session_life import overview
from tem_pipeline.orchestration.session_life.overview import session_overview, states_page
from tem_pipeline.orchestration.session_life.states import SessionState
from tem_pipeline.particles.query import run_query
from tem_pipeline.storage import write_table
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
        cursor = result.cursor or cursor
        assert result.skip_reason is not None
        if not result.asset_events:
            return None
        assert "wrote the table of" in str(result.skip_reason.skip_message)
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
    assert "| a&#124;b | complete |" in shown["sessions"]
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


def test_a_slow_disk_is_read_in_steps_to_its_end(tick, run, incoming, files, platform, monkeypatch):
    """However little time there is: each tick continues where the former one stopped."""
    names = ["a", "b", "c", "d"]
    for name in names:
        deliver(files[:1], incoming / name)
    monkeypatch.setattr(overview, "TICK_SECONDS", -1.0)  # time for one session

    def shown() -> list[str]:
        rows = run_query(platform.layout.lake, "SELECT name, state FROM session_states").to_pylist()
        return [f"{row['name']} {row['state']}" for row in rows]

    for number in range(1, 5):
        assert tick()
        assert shown() == [f"{name} complete" for name in names[:number]]
    (incoming / "d/4.tif.part").touch()
    assert [tick() is None for _ in range(4)] == [True, True, True, False]
    assert shown()[-1] == "d arriving"
    shutil.rmtree(incoming / "b")
    tick()
    assert [row[0] for row in shown()] == ["a", "c", "d"]


def test_a_table_that_could_not_be_written_is_written_later(tick, incoming, files, platform, monkeypatch):
    deliver(files[:1], incoming / "a")
    full_disk = [UserError("the disk is full")]

    def write(*arguments) -> None:
        if full_disk:
            raise full_disk.pop()
        write_table(*arguments)

    monkeypatch.setattr(overview, "write_table", write)
    assert tick() is None
    assert not platform.layout.table("session_states").exists()
    assert tick()["complete"] == 1
    assert platform.layout.table("session_states").exists()
    assert tick() is None
