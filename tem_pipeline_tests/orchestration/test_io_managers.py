from typing import Any

import dagster as dg
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tem_pipeline.errors import UserError
from tem_pipeline.orchestration.assets import analysis, sessions
from tem_pipeline.orchestration.io_managers import LakeTables
from tem_pipeline.orchestration.partitions import SESSIONS
from tem_pipeline.orchestration.resources import Platform
from tem_pipeline.orchestration.session_life.failures import failure_reason
from tem_pipeline.orchestration.table_origins import mark_origins, stale_reason
from tem_pipeline.particles.distributions import PARTICLE_COLUMNS
from tem_pipeline.storage import mark_fingerprint, write_table
from tem_pipeline.tables import TABLES
from tem_pipeline_tests.orchestration.conftest import deliver, lay_champion, process


@pytest.mark.usefixtures("settle_at_once")
def test_a_run_reads_only_the_particle_columns_that_it_needs(
    platform: Platform, incoming, files, monkeypatch: pytest.MonkeyPatch
):
    read = []
    distribute = sessions.distribute
    monkeypatch.setattr(sessions, "distribute", lambda *tables: read.append(tables[0]) or distribute(*tables))
    lay_champion(platform)
    deliver(files, incoming / "a")
    assert process(platform) is None
    assert set(read[0].columns) == set(PARTICLE_COLUMNS)


@pytest.mark.parametrize(
    ("metadata", "columns"),
    [({}, ["image_id", "area_px"]), ({"columns": ["area_px", "of_a_later_version"]}, ["area_px"])],
)
def test_an_input_reads_only_the_columns_that_it_names(
    platform: Platform, metadata: dict, columns: list[str]
):
    write_table(platform.layout.table("analysis/x"), pd.DataFrame({"image_id": ["a"], "area_px": [3]}))
    context = dg.build_input_context(asset_key=dg.AssetKey(["analysis", "x"]), definition_metadata=metadata)
    assert list(LakeTables(platform=platform).load_input(context).columns) == columns


def test_tables_made_from_other_tables_than_the_present_are_refused(platform: Platform):
    def write(name: str, **columns) -> None:
        frame = pd.DataFrame({column: [value] for column, value in columns.items()})
        frame = frame.assign(**dict.fromkeys(TABLES[name].file_columns))
        frame.attrs["session_fingerprint"] = columns.get("session_fingerprint")
        context = dg.build_output_context(
            asset_key=name, partition_key="a", asset_partitions_def=dg.StaticPartitionsDefinition(["a"])
        )
        LakeTables(platform=platform).handle_output(context, frame)

    def stale(name: str) -> str | None:
        return stale_reason(platform.layout, name, "a")

    tables = ("raw_tem_images", "predicted_masks", "particle_table")
    write("raw_tem_images", session_fingerprint="F")
    write("predicted_masks", model_version="1")
    write_table(
        platform.layout.table("particle_table", "a"),
        mark_origins(platform.layout, pa.table({"area_px": [3.0]}), "particle_table", "a"),
    )
    assert [stale(name) for name in tables] == [None, None, None]
    write("predicted_masks", model_version="2")
    assert "particle_table was made from another predicted_masks" in str(stale("particle_table"))
    assert stale("predicted_masks") is None
    write("raw_tem_images", session_fingerprint="G")
    assert "predicted_masks was made from another raw_tem_images" in str(stale("predicted_masks"))
    # Tables of versions that wrote no origins are compared by the fingerprint.
    write_table(platform.layout.table("predicted_masks", "a"), mark_fingerprint(pa.table({"a": [1]}), "F"))
    assert "another raw_tem_images" in str(stale("predicted_masks"))
    write_table(platform.layout.table("predicted_masks", "a"), mark_fingerprint(pa.table({"a": [1]}), "G"))
    assert stale("predicted_masks") is None


@pytest.mark.usefixtures("settle_at_once")
def test_particles_are_not_measured_with_masks_of_former_files(
    platform: Platform, incoming, files, definitions: dg.Definitions, instance: dg.DagsterInstance
):
    lay_champion(platform)
    deliver(files[:2], incoming / "a")
    assert process(platform) is None
    deliver(files[2:], incoming / "a")
    instance.add_dynamic_partitions(str(SESSIONS.name), ["a"])
    for job, assets, made in (
        ("ingest_session", ["raw_tem_images"], True),
        ("process_session", ["particle_table"], False),
        ("process_session", ["size_distributions"], False),
    ):
        result = definitions.resolve_job_def(job).execute_in_process(
            instance=instance,
            partition_key="a",
            asset_selection=[dg.AssetKey(name) for name in assets],
            raise_on_error=False,
        )
        assert result.success is made
    assert "was made from another raw_tem_images" in failure_reason(result.all_events)
    # Until the session is processed again, its former particles don't count for its sample either.
    summary: Any = analysis.sample_summary(platform=platform)
    assert summary.metadata["sessions"] == 0
    assert summary.metadata["sessions left out"] == 1


def test_every_asset_with_a_table_is_registered(definitions: dg.Definitions):
    graph = definitions.resolve_asset_graph()
    partitioned = {key.to_user_string(): graph.get(key).is_partitioned for key in graph.get_all_asset_keys()}
    assert partitioned.pop("session_report")  # its page is below reports/
    registered = {table.key: table.per_session for table in TABLES.values()}
    assert registered.pop("session_failures")  # written by a sensor
    assert partitioned == registered


@pytest.mark.parametrize("name", [table.name for table in TABLES.values() if table.group])
def test_a_table_conforms_to_its_registered_schema_when_written(platform: Platform, name: str):
    table = TABLES[name]
    context = dg.build_output_context(asset_key=dg.AssetKey(table.key.split("/")))
    LakeTables(platform=platform).handle_output(context, pd.DataFrame(columns=table.schema.names[::-1]))
    with platform.layout.table(table.key).open("rb") as file:
        written = pq.read_schema(file)
    assert written.equals(table.schema)
    assert [field.metadata for field in written] == [field.metadata for field in table.schema]
    with pytest.raises(UserError, match="'foreign' isn't in the schema"):
        LakeTables(platform=platform).handle_output(context, pd.DataFrame({"foreign": [1]}))
