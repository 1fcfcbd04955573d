import dagster as dg
import pandas as pd

from tem_pipeline.orchestration.resources import Platform
from tem_pipeline.storage import read_table, write_table
from tem_pipeline_tests.particles.tables import discs, manifest_row, particle_table


def lay_session(platform: Platform, session: str, diameters: list[float]) -> None:
    labels = discs(diameters)
    manifest = {**manifest_row("a", labels), "session_id": session, "sample_id": "Pt-3"}
    quality = {"session_id": session, "image_id": "a", "image_quality": "good"}
    for name, table in (
        ("particle_table", particle_table(labels, "a", session_id=session)),
        ("raw_tem_images", pd.DataFrame([manifest])),
        ("predicted_masks", pd.DataFrame([quality])),
    ):
        write_table(platform.layout.table(name, session), table)


def analyse(definitions: dg.Definitions, instance: dg.DagsterInstance) -> dg.ExecuteInProcessResult:
    return definitions.resolve_job_def("analyse").execute_in_process(
        instance=instance, asset_selection=[dg.AssetKey(["analysis", "sample_summary"])]
    )


def test_a_sample_is_summed_up_over_the_sessions_whose_tables_are_complete(
    definitions: dg.Definitions, instance: dg.DagsterInstance, platform: Platform
):
    for session, diameters in (("a", [8.0, 12]), ("b", [20.0]), ("unfinished", [30.0])):
        lay_session(platform, session, diameters)
    platform.layout.table("predicted_masks", "unfinished").unlink()
    assert analyse(definitions, instance).success
    summary = read_table(platform.layout.table("analysis/sample_summary"))
    row = summary[summary["measurand"] == "equivalent_diameter"].iloc[0]
    assert (row["sample_id"], list(row["sessions"]), row["n_counted"]) == ("Pt-3", ["a", "b"], 3)


def test_without_a_session_the_summary_is_an_empty_table(
    definitions: dg.Definitions, instance: dg.DagsterInstance, platform: Platform
):
    assert analyse(definitions, instance).success
    assert read_table(platform.layout.table("analysis/sample_summary")).empty
