import dagster as dg
import pytest

from tem_pipeline.orchestration.partitions import KEYS_AT_ONCE, SESSIONS, add_sessions


def test_any_number_of_sessions_can_be_registered(monkeypatch: pytest.MonkeyPatch):
    """SQLite refuses statements with too many variables."""
    sizes = []
    add = dg.DagsterInstance.add_dynamic_partitions

    def add_and_count(instance, name, keys) -> None:
        sizes.append(len(keys))
        add(instance, name, keys)

    monkeypatch.setattr(dg.DagsterInstance, "add_dynamic_partitions", add_and_count)
    keys = [f"s{number}" for number in range(2 * KEYS_AT_ONCE + 1)]
    with dg.DagsterInstance.ephemeral() as instance:
        add_sessions(instance, keys)
        assert set(instance.get_dynamic_partitions(str(SESSIONS.name))) == set(keys)
    assert sizes == [KEYS_AT_ONCE, KEYS_AT_ONCE, 1]
