from pathlib import Path

import dagster as dg
import pandas as pd

from tem_pipeline.orchestration.resources import Platform
from tem_pipeline.storage import read_table, write_table
from tem_pipeline.tables import SAMPLE_SUMMARY_SCHEMA, conform
from tem_pipeline_tests.particles.test_activity import DIAMETERS, summaries


def lay_samples(platform: Platform) -> None:
    rows = summaries(DIAMETERS)
    required = {
        field.name: [] if str(field.type).startswith("list") else 0
        for field in SAMPLE_SUMMARY_SCHEMA
        if not field.nullable and rows[field.name].isna().any()
    }
    filled = rows.assign(**{name: [value] * len(rows) for name, value in required.items()})
    write_table(platform.layout.table("analysis/sample_summary"), conform(filled, SAMPLE_SUMMARY_SCHEMA))


def relate(definitions: dg.Definitions, instance: dg.DagsterInstance):
    return definitions.resolve_job_def("analyse").execute_in_process(
        instance=instance, asset_selection=[dg.AssetKey(["analysis", "structure_activity"])]
    )


def test_activities_are_related_drawn_and_shown_and_a_bad_row_is_a_warning(
    definitions: dg.Definitions, instance: dg.DagsterInstance, platform: Platform
):
    lay_samples(platform)
    folder = Path(str(platform.layout.data_root)) / "activity"
    folder.mkdir(parents=True)
    lines = [f"S{i},{1 / diameter},s⁻¹,0.01,$x_{{1}}" for i, diameter in enumerate(DIAMETERS)]
    text = "\n".join(["sample_id,activity,unit,standard_error,feed", *lines, "S1,much,s-1,,", "S99,1,s-1,,"])
    (folder / "a.csv").write_text(text)
    result = relate(definitions, instance)
    table = read_table(platform.layout.table("analysis/structure_activity")).set_index("descriptor")
    first = table[table["conditions"] != ""]
    assert first.loc["mean_diameter", "n_samples"] == len(DIAMETERS)
    (check,) = result.get_asset_check_evaluations()
    assert not check.passed
    assert check.severity == dg.AssetCheckSeverity.WARN
    told = str(check.metadata["rows left out"].value)
    assert "| a.csv | 10 |" in told
    assert "S99" in told
    metadata = result.asset_materializations_for_node("analysis__structure_activity")[0].metadata
    assert len(str(metadata["first picture"].value)) < 140_000
    assert "data:image/png" in str(metadata["first picture"].value)
    pictures = Path(str(platform.layout.reports)) / "structure_activity"
    assert len(list(pictures.glob("*.png"))) == 2
    (folder / "a.csv").write_text("\n".join(["sample_id,activity,unit,standard_error,feed", *lines]))
    assert all(check.passed for check in relate(definitions, instance).get_asset_check_evaluations())
    assert len(list(pictures.glob("*.png"))) == 1


def test_without_activities_the_table_is_empty(
    definitions: dg.Definitions, instance: dg.DagsterInstance, platform: Platform
):
    lay_samples(platform)
    assert relate(definitions, instance).success
    assert isinstance(table := read_table(platform.layout.table("analysis/structure_activity")), pd.DataFrame)
    assert table.empty
