"""What `tem-pipeline process` tells at its end."""

from pathlib import Path
from urllib.parse import unquote

import pandas as pd

from tem_pipeline.orchestration.resources import Platform
from tem_pipeline.orchestration.session_run import MOST_LISTED, summarise_session
from tem_pipeline.storage import Layout, write_table
from tem_pipeline.tables import MANIFEST_SCHEMA, MASK_SCHEMA, SIZE_DISTRIBUTION_SCHEMA

KEY = "Uberblick-0123456789ab"


def lay_tables(layout: Layout, statuses: list[str], review: list[int]) -> None:
    manifest = [
        {
            "session_name": "Überblick",
            "file": f"größe {n}.tif",
            "image_id": None if status == "refused" else f"image-{n}",
            "status": status,
            "reason": None if status == "ok" else f"reason {n}",
        }
        for n, status in enumerate(statuses)
    ]
    masks = [
        {
            "image_id": f"image-{n}",
            "image_quality": "review" if n in review else "good",
            "image_quality_reason": f"blurred {n}" if n in review else None,
        }
        for n, status in enumerate(statuses)
        if status == "ok"
    ]
    for name, rows, schema in (
        ("raw_tem_images", manifest, MANIFEST_SCHEMA),
        ("predicted_masks", masks, MASK_SCHEMA),
        ("size_distributions", [], SIZE_DISTRIBUTION_SCHEMA),
    ):
        frame = pd.DataFrame(rows).reindex(columns=schema.names)
        write_table(layout.table(name, KEY), frame)


def test_the_summary_names_what_a_person_should_look_at(platform: Platform):
    lay_tables(platform.layout, ["ok", "refused", "duplicate", "ok"], review=[3])
    lines = summarise_session(platform.layout, KEY).splitlines()
    assert lines[0] == f"session Überblick (key {KEY}): 2 images measured, 1 file refused"
    assert "  refused: größe 1.tif: reason 1" in lines
    assert "  duplicate: größe 2.tif: reason 2" in lines
    assert "  to review: größe 3.tif: blurred 3" in lines
    report = Path(str(platform.layout.report(KEY)))
    assert unquote(lines[-1]) == f"Report: file://{report}"


def test_a_long_list_of_files_is_cut_and_says_so(platform: Platform):
    lay_tables(platform.layout, ["ok"] + ["refused"] * (MOST_LISTED + 3), review=[])
    lines = summarise_session(platform.layout, KEY).splitlines()
    assert "1 image measured, 23 files refused" in lines[0]
    assert sum(line.startswith("  refused: ") for line in lines) == MOST_LISTED + 1
    assert "  refused: 3 more, see the report" in lines
