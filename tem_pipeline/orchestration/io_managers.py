"""Tables in and out of the lake: checked against their schema, written in one step."""

import dagster as dg
import pandas as pd
import pyarrow as pa
from upath import UPath

from tem_pipeline.micrographs.ingestion import MANIFEST_SCHEMA
from tem_pipeline.orchestration.resources import Platform
from tem_pipeline.particles.schema import PARTICLE_SCHEMA, SIZE_DISTRIBUTION_SCHEMA, conform
from tem_pipeline.segmentation.masks import MASK_SCHEMA
from tem_pipeline.storage import read_table, write_table

SCHEMAS: dict[str, pa.Schema] = {
    "raw_tem_images": MANIFEST_SCHEMA,
    "predicted_masks": MASK_SCHEMA,
    "particle_table": PARTICLE_SCHEMA,
    "size_distributions": SIZE_DISTRIBUTION_SCHEMA,
}


class LakeTables(dg.ConfigurableIOManager):
    """Keeps each asset's table at lake/ASSET/session=SESSION/part-0.parquet, or lake/ASSET/part-0.parquet.

    The folder of an asset without partitions is its key: training/annotated_images, analysis/sample_summary.
    """

    platform: dg.ResourceDependency[Platform]

    def handle_output(self, context: dg.OutputContext, obj: pd.DataFrame) -> None:
        """Check a table against its schema and put it in place of the former one."""
        path = self._path(context)
        schema = SCHEMAS.get(context.asset_key.path[-1])
        write_table(path, conform(obj, schema) if schema else obj)
        context.add_output_metadata({"path": dg.MetadataValue.path(str(path)), "rows": len(obj)})

    def load_input(self, context: dg.InputContext) -> pd.DataFrame:
        """Read the table of the same session, or of the whole asset."""
        return read_table(self._path(context))

    def _path(self, context: dg.InputContext | dg.OutputContext) -> UPath:
        session = (
            context.partition_key if context.has_partition_key and context.has_asset_partitions else None
        )
        return self.platform.layout.table("/".join(context.asset_key.path), session)
