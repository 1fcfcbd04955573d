from pathlib import Path

import dagster as dg

from tem_pipeline.orchestration.partitions import SESSIONS
from tem_pipeline.orchestration.resources import Platform
from tem_pipeline_tests.orchestration.conftest import deliver, lay_champion


def test_processing_a_session_writes_and_links_its_report(
    definitions: dg.Definitions, instance: dg.DagsterInstance, platform: Platform, incoming: Path, files
):
    lay_champion(platform)
    deliver(files, incoming / "a")
    instance.add_dynamic_partitions(str(SESSIONS.name), ["a"])
    job = definitions.resolve_job_def("process_session")
    result = job.execute_in_process(instance=instance, partition_key="a")
    page = Path(str(platform.layout.data_root)) / "reports/a/index.html"
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")
    metadata = result.asset_materializations_for_node("session_report")[0].metadata
    assert metadata["report"].value == page.as_uri()
    assert metadata["path"].value == str(page)
    assert not (Path(str(platform.layout.lake)) / "session_report").exists()
