"""Times two queries of 10 million particles in 2,000 sessions, compared with pandas."""

import shutil
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from benchmarks.measurements import Measurement, compared
from tem_pipeline.particles.measurement import measure_particles
from tem_pipeline.particles.query import run_query
from tem_pipeline.particles.table import with_origin
from tem_pipeline.storage import write_table
from tem_pipeline.tables import MANIFEST_SCHEMA, PARTICLE_SCHEMA, SIZE_DISTRIBUTION_SCHEMA, conform
from tem_pipeline_tests.particles.shapes import particle_sheet

SESSIONS, SAMPLES, PARTICLES = 2_000, 100, 5_000
ROOM_BYTES = 8 * 10**9
SESSION = "2026-1234"


def querying_ten_million_particles() -> list[Measurement]:
    """Querying 10 million particles in 2,000 sessions, files in the system's cache."""
    if shutil.disk_usage(tempfile.gettempdir()).free < ROOM_BYTES:
        raise OSError(f"{tempfile.gettempdir()}: 8 GB are needed; make room, or set TMPDIR")
    with tempfile.TemporaryDirectory() as name:
        lake = Path(name)
        _fill(lake)
        folder = lake / "particle_table"
        files = sorted(folder.glob("session=*/part-0.parquet"))
        columns = ["sample_id", "equivalent_diameter_nm"]

        def means_of_files() -> pd.Series:
            tables = [pd.read_parquet(file, columns=columns, partitioning=None) for file in files]
            return pd.concat(tables).groupby("sample_id")["equivalent_diameter_nm"].mean()

        def means_of_folder() -> pd.Series:
            table = pd.read_parquet(folder, columns=columns)
            return table.groupby("sample_id")["equivalent_diameter_nm"].mean()

        def means() -> pa.Table:
            return run_query(
                lake,
                "SELECT sample_id, avg(equivalent_diameter_nm) AS mean_nm FROM particle_table "
                "GROUP BY sample_id ORDER BY sample_id",
            )

        def session() -> pa.Table:
            return run_query(lake, f"SELECT * FROM particle_table WHERE session = '{SESSION}'")

        def session_of_folder() -> pd.DataFrame:
            return pd.read_parquet(folder, filters=[("session", "==", SESSION)])

        assert np.allclose(means()["mean_nm"], means_of_files())
        assert session().num_rows == len(session_of_folder()) == PARTICLES
        what = "mean diameter per sample"
        return [
            compared(what, means, "pandas, two columns file by file", means_of_files, 5, at_least=10),
            compared(what, means, "pandas, two columns of the folder", means_of_folder, 5),
            compared(
                "one session's particles, all columns",
                session,
                "pandas, the folder filtered by session",
                session_of_folder,
                9,
                limit=0.2,
            ),
        ]


def _fill(lake: Path) -> None:
    """Write the same particles for every session, with different names and sizes."""
    base = _particles()
    image, label = base["image_id"].to_pylist(), base["label"].to_pylist()
    diameter = np.asarray(base["equivalent_diameter_nm"])
    for number in range(SESSIONS):
        key = f"2026-{number:04d}"
        columns = {
            "particle_id": [f"{key}/{i}/{n}" for i, n in zip(image, label, strict=True)],
            "session_id": [key] * PARTICLES,
            "session_name": [key] * PARTICLES,
            "sample_id": [f"sample {number % SAMPLES}"] * PARTICLES,
            "equivalent_diameter_nm": diameter * (1 + number / SESSIONS),
        }
        table = base
        for name, values in columns.items():
            at = table.schema.get_field_index(name)
            field = table.schema.field(at)
            table = table.set_column(at, field, pa.array(values, field.type))
        for asset, content in (
            ("particle_table", table),
            ("raw_tem_images", MANIFEST_SCHEMA.empty_table()),
            ("size_distributions", SIZE_DISTRIBUTION_SCHEMA.empty_table()),
        ):
            write_table(lake / asset / f"session={key}" / "part-0.parquet", content)


def _particles() -> pa.Table:
    cores, shells = particle_sheet(2912)
    image = (np.random.default_rng(0).normal(1000, 100, cores.shape) - 300 * (cores > 0)).astype(np.uint16)
    probability = np.where(cores > 0, 230, 20).astype(np.uint8)
    measured = measure_particles(cores, image, probability, 0.1, shell_labels=shells).iloc[:PARTICLES]
    origin = {
        "session_id": "",
        "session_name": "",
        "sample_id": "",
        "image_id": "",
        "field_id": "",
        "file": "",
        "file_sha256": "0" * 64,
        "pixel_sha256": "1" * 64,
        "mode": "bright_field",
        "pixel_size_nm": 0.1,
        "calibration": "metadata",
        "calibration_uncertainty": 0.02,
        "model_name": "tem_segmentation",
        "model_version": "3",
        "model_sha256": "2" * 64,
        "loss": "dice",
        "code_version": "0.1.0",
        "image_quality": "good",
        "metal": "Pt",
    }
    images = [f"image_{i // 200:03d}" for i in range(len(measured))]
    table = with_origin(measured, origin).assign(
        image_id=images, field_id=images, file=[f"{name}.emd" for name in images]
    )
    return conform(table, PARTICLE_SCHEMA)
