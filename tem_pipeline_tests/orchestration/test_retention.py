from datetime import UTC, datetime, timedelta

import dagster as dg

from tem_pipeline.orchestration.resources import PARTITION_TAG
from tem_pipeline.orchestration.retention import delete_old_pages, delete_old_runs
from tem_pipeline.orchestration.session_life.overview import STATES_TABLE

KEYS = dg.StaticPartitionsDefinition(["a", "b"])


@dg.asset(partitions_def=KEYS)
def table(context: dg.AssetExecutionContext) -> None:
    if context.run.tags.get("fails"):
        raise ValueError


def run(instance: dg.DagsterInstance, key: str, **tags: str) -> str:
    job = dg.Definitions(
        assets=[table], jobs=[dg.define_asset_job("process_session", [table])]
    ).resolve_job_def("process_session")
    tags = {PARTITION_TAG: key, **tags}
    return job.execute_in_process(
        instance=instance, partition_key=key, tags=tags, raise_on_error=False
    ).run_id


def test_runs_that_nothing_needs_are_deleted(instance: dg.DagsterInstance):
    superseded, mended = run(instance, "a"), run(instance, "a", fails="yes")
    present, failed_night = run(instance, "a"), run(instance, "b", fails="yes")
    kept = {present, failed_night}
    assert delete_old_runs(instance, datetime.now(UTC) - timedelta(days=1)) == (0, None)
    assert delete_old_runs(instance, datetime.now(UTC) + timedelta(days=1)) == (2, None)
    assert {one.run_id for one in instance.get_runs()} == kept
    assert not {superseded, mended} & kept
    assert instance.get_materialized_partitions(table.key) == {"a"}


def test_old_pages_are_deleted_and_the_latest_stays(instance: dg.DagsterInstance):
    for number in range(3):
        instance.report_runless_asset_event(
            dg.AssetMaterialization(STATES_TABLE, metadata={"number": number})
        )

    def numbers() -> list:
        records = instance.fetch_materializations(dg.AssetKey(STATES_TABLE), limit=10).records
        return [one.asset_materialization.metadata["number"].value for one in records]  # type: ignore[union-attr]

    delete_old_pages(instance, datetime.now(UTC) - timedelta(days=1))
    assert numbers() == [2, 1, 0]
    delete_old_pages(instance, datetime.now(UTC) + timedelta(days=1))
    assert numbers() == [2]
