"""Tables in and out of the lake: checked against their schema, written in one step."""

import dagster as dg
import pandas as pd
import pyarrow as pa
from upath import UPath

from tem_pipeline.errors import UserError
from tem_pipeline.micrographs.ingestion import MANIFEST_SCHEMA
from tem_pipeline.orchestration.resources import Platform
from tem_pipeline.particles.schema import (
    PARTICLE_SCHEMA,
    SAMPLE_SUMMARY_SCHEMA,
    SIZE_DISTRIBUTION_SCHEMA,
    STRUCTURE_ACTIVITY_SCHEMA,
    conform,
)
from tem_pipeline.segmentation.masks import MASK_SCHEMA
from tem_pipeline.storage import (
    collect_unreferenced,
    mark_fingerprint,
    read_table,
    table_fingerprint,
    write_table,
)

SCHEMAS: dict[str, pa.Schema] = {
    "raw_tem_images": MANIFEST_SCHEMA,
    "predicted_masks": MASK_SCHEMA,
    "particle_table": PARTICLE_SCHEMA,
    "size_distributions": SIZE_DISTRIBUTION_SCHEMA,
    "sample_summary": SAMPLE_SUMMARY_SCHEMA,
    "structure_activity": STRUCTURE_ACTIVITY_SCHEMA,
}
FILE_COLUMNS = {
    "raw_tem_images": ["image_file"],
    "predicted_masks": ["labels_file", "shells_file", "probability_file"],
}
"""Columns of a session's tables that name the files beside them."""


class LakeTables(dg.ConfigurableIOManager):
    """Keeps each asset's table at lake/ASSET/session=SESSION/part-0.parquet, or lake/ASSET/part-0.parquet.

    The folder of an asset without partitions is its key: training/annotated_images, analysis/sample_summary.
    """

    platform: dg.ResourceDependency[Platform]

    def handle_output(self, context: dg.OutputContext, obj: pd.DataFrame) -> None:
        """Check a table against its schema and put it in place of the former one."""
        path = self._path(context)
        schema = SCHEMAS.get(context.asset_key.path[-1])
        table = conform(obj, schema) if schema else pa.Table.from_pandas(obj, preserve_index=False)
        if schema and context.has_asset_partitions:
            table = mark_fingerprint(table, self._fingerprint(context, obj))
        columns = FILE_COLUMNS.get(context.asset_key.path[-1], [])
        # Somebody may have read the former table and still be about to open the files that it names.
        former = _named_files(path, columns)
        write_table(path, table)
        if context.has_partition_key:
            collect_unreferenced(path.parent, former | set(obj[columns].to_numpy().ravel()))
        context.add_output_metadata({"path": dg.MetadataValue.path(str(path)), "rows": len(obj)})

    def load_input(self, context: dg.InputContext) -> pd.DataFrame:
        """Read the table of the same session, or of the whole asset.

        Only the `columns` that the input's metadata names, where it does.
        """
        return read_table(self._path(context), (context.definition_metadata or {}).get("columns"))

    def _fingerprint(self, context: dg.OutputContext, obj: pd.DataFrame) -> str | None:
        """Give the content of the session's folder that a table comes from.

        That of the manifest holds for what is made from it: the run has the session's lock.
        """
        if context.asset_key.path[-1] == "raw_tem_images":
            return obj.attrs.get("session_fingerprint")
        return table_fingerprint(self.platform.layout.table("raw_tem_images", context.partition_key))

    def _path(self, context: dg.InputContext | dg.OutputContext) -> UPath:
        session = (
            context.partition_key if context.has_partition_key and context.has_asset_partitions else None
        )
        return self.platform.layout.table("/".join(context.asset_key.path), session)


def _named_files(path: UPath, columns: list[str]) -> set[str]:
    try:
        return set(read_table(path, columns).to_numpy().ravel()) if columns else set()
    except (UserError, pa.ArrowException):
        return set()  # there is none yet, or it is broken and about to be replaced
