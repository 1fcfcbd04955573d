"""Tables in and out of the lake: checked against their schema, written in one step."""

import dagster as dg
import pandas as pd
import pyarrow as pa
from upath import UPath

from tem_pipeline.errors import UserError
from tem_pipeline.orchestration.resources import Platform
from tem_pipeline.storage import (
    collect_unreferenced,
    mark_fingerprint,
    read_table,
    table_fingerprint,
    write_table,
)
from tem_pipeline.tables import TABLES, conform


class LakeTables(dg.ConfigurableIOManager):
    """Keeps each asset's table at lake/ASSET/session=SESSION/part-0.parquet, or lake/ASSET/part-0.parquet.

    The folder of an asset without partitions is its key: training/annotated_images, analysis/sample_summary.
    """

    platform: dg.ResourceDependency[Platform]

    def handle_output(self, context: dg.OutputContext, obj: pd.DataFrame) -> None:
        """Check a table against its schema and put it in place of the former one."""
        path = self._path(context)
        registered = TABLES[context.asset_key.path[-1]]
        table = conform(obj, registered.schema)
        if context.has_asset_partitions:
            table = mark_fingerprint(table, self._fingerprint(context, obj))
        columns = list(registered.file_columns)
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
