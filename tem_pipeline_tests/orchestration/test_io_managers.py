import dagster as dg
import pandas as pd
import pytest

from tem_pipeline.orchestration.assets import sessions
from tem_pipeline.orchestration.io_managers import LakeTables
from tem_pipeline.orchestration.resources import Platform
from tem_pipeline.particles.distributions import PARTICLE_COLUMNS
from tem_pipeline.storage import write_table
from tem_pipeline_tests.orchestration.conftest import deliver, lay_champion, process


@pytest.mark.usefixtures("settle_at_once")
def test_a_run_reads_the_columns_of_the_particles_that_it_counts(
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
def test_an_input_reads_the_columns_that_it_names_as_far_as_the_table_has_them(
    platform: Platform, metadata: dict, columns: list[str]
):
    write_table(platform.layout.table("analysis/x"), pd.DataFrame({"image_id": ["a"], "area_px": [3]}))
    context = dg.build_input_context(asset_key=dg.AssetKey(["analysis", "x"]), definition_metadata=metadata)
    assert list(LakeTables(platform=platform).load_input(context).columns) == columns
