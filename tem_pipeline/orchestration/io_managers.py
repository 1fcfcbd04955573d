"""Reads and writes the assets' tables: each conforms to its registered schema and is written in one step."""

import dagster as dg
import pandas as pd
import pyarrow as pa
from upath import UPath

from tem_pipeline.errors import UserError
from tem_pipeline.orchestration.resources import Platform
from tem_pipeline.orchestration.table_origins import mark_origins, stale_reason
from tem_pipeline.storage import (
    collect_unreferenced,
    mark_fingerprint,
    read_table,
    table_fingerprint,
    write_table,
)
from tem_pipeline.tables import TABLES, conform


class LakeTables(dg.ConfigurableIOManager):
    """Keeps each asset's table in lake/KEY/session=SESSION/part-0.parquet, or lake/KEY/part-0.parquet.

    KEY is the asset's key, such as particle_table or training/annotated_images. The table is registered in
    `tables.TABLES` under the last part of the key.
    """

    platform: dg.ResourceDependency[Platform]

    def handle_output(self, context: dg.OutputContext, obj: pd.DataFrame) -> None:
        """Bring a table into its registered schema, and replace the previous table by it."""
        path = self._path(context)
        registered = TABLES[context.asset_key.path[-1]]
        table = conform(obj, registered.schema)
        if context.has_asset_partitions:
            table = mark_fingerprint(table, self._fingerprint(context, obj))
            table = mark_origins(self.platform.layout, table, registered.name, context.partition_key)
        columns = list(registered.file_columns)
        # Somebody who has read the previous table may still open the files that it names.
        previous = _named_files(path, columns)
        write_table(path, table)
        if context.has_partition_key or columns:
            collect_unreferenced(path.parent, previous | set(obj[columns].to_numpy().ravel()))
        context.add_output_metadata({"path": dg.MetadataValue.path(str(path)), "rows": len(obj)})

    def load_input(self, context: dg.InputContext) -> pd.DataFrame:
        """Read the table of the same session, or of the whole asset.

        If the input's metadata has `columns`, only these are read.

        Raises
        ------
        UserError
            When a session's table was made from other tables than the present ones.
        """
        if context.has_partition_key and context.has_asset_partitions:
            name = context.asset_key.path[-1]
            if stale := stale_reason(self.platform.layout, name, context.partition_key):
                raise UserError(f"{stale}: materialise {name} again, or process the session")
        return read_table(self._path(context), (context.definition_metadata or {}).get("columns"))

    def _fingerprint(self, context: dg.OutputContext, obj: pd.DataFrame) -> str | None:
        """Give the fingerprint of the session's files that a table was made from.

        Tables made from the manifest have the manifest's: the run holds the session's lock.
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
        return set()  # There is no table yet, or a broken one that is about to be replaced.
