"""Prints docs/data-dictionary.md from the schemas: `make docs`."""

from tem_pipeline.micrographs.ingestion import MANIFEST_SCHEMA
from tem_pipeline.particles.schema import (
    PARTICLE_SCHEMA,
    SAMPLE_SUMMARY_SCHEMA,
    SIZE_DISTRIBUTION_SCHEMA,
    STRUCTURE_ACTIVITY_SCHEMA,
    data_dictionary,
)
from tem_pipeline.segmentation.masks import MASK_SCHEMA

TABLES = {
    "particle_table": ("One row a particle: the table everybody queries.", PARTICLE_SCHEMA),
    "size_distributions": ("One row a session, measurand and unit.", SIZE_DISTRIBUTION_SCHEMA),
    "sample_summary": (
        "One row a sample, measurand and unit: all its sessions together.",
        SAMPLE_SUMMARY_SCHEMA,
    ),
    "structure_activity": (
        "One row a descriptor, activity unit and conditions: samples together with their activity.",
        STRUCTURE_ACTIVITY_SCHEMA,
    ),
    "raw_tem_images": ("The manifest: one row an image, refused files included.", MANIFEST_SCHEMA),
    "predicted_masks": ("One row a segmented image.", MASK_SCHEMA),
}


def render() -> str:
    """Give the data dictionary of every table as Markdown."""
    introduction = (
        "# Data dictionary\n\nMade from the schemas by `make docs`; a test holds it to them. Each table lies "
        "at `data/lake/TABLE/session=SESSION/part-0.parquet`, those of samples at "
        "`data/lake/analysis/TABLE/part-0.parquet`; the unit of a column stands in its Parquet "
        "field's metadata too.\n"
    )
    parts = [introduction]
    for name, (description, schema) in TABLES.items():
        parts.append(f"## {name}\n\n{description}\n\n{data_dictionary(schema).strip()}\n")
    return "\n".join(parts)


if __name__ == "__main__":
    print(render(), end="")
