import dagster as dg
import pandas as pd
import pyarrow.parquet as pq
import pytest

from tem_pipeline.errors import UserError
from tem_pipeline.orchestration.assets import sessions
from tem_pipeline.orchestration.io_managers import LakeTables
from tem_pipeline.orchestration.resources import Platform
from tem_pipeline.particles.distributions import PARTICLE_COLUMNS
from tem_pipeline.storage import write_table
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
