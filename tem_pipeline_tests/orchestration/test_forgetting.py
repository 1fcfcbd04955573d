"""A session is forgotten as a whole, and nothing else is touched."""

from pathlib import Path

import pandas as pd
import pytest

from tem_pipeline.errors import UserError
from tem_pipeline.installation import Installation, installation_of
from tem_pipeline.orchestration.forgetting import forget_session, forgettable
from tem_pipeline.orchestration.launch import open_instance
from tem_pipeline.settings import Settings
from tem_pipeline.storage import session_lock, write_bytes, write_table


@pytest.fixture
def laboratory(tmp_path: Path) -> Installation:
    """An installation with the tables and reports of the sessions a and b."""
    installation = installation_of(
        Settings(
            data_root=str(tmp_path / "data_root"),
            models_root=str(tmp_path / "models_root"),
            dagster_home=str(tmp_path / "dagster_home"),
        )
    )
    layout = installation.layout
    for key in "ab":
        write_bytes(layout.incoming / key / "image.tif", b"pixels")
        write_bytes(layout.report(key), b"page")
        for table in ("raw_tem_images", "particle_table"):
            write_table(layout.table(table, key), pd.DataFrame({"n": [1]}))
    with open_instance(installation) as instance:
        instance.add_dynamic_partitions("sessions", ["a", "b"])
    return installation


def files_of(installation: Installation) -> set[str]:
    root = Path(str(installation.layout.data_root))
    return {str(file.relative_to(root)) for file in root.rglob("*") if file.is_file()}


def test_all_that_was_made_of_a_session_goes_and_the_rest_stays(laboratory: Installation):
    before = files_of(laboratory)
    key, folders = forgettable(laboratory, "a")
    assert (key, len(folders)) == ("a", 3)
    forget_session(laboratory, key)
    made = {"lake/raw_tem_images/session=a/part-0.parquet", "lake/particle_table/session=a/part-0.parquet"}
    assert before - files_of(laboratory) == made | {"reports/a/index.html"}
    assert not {file for file in files_of(laboratory) if file.startswith(".locks")}
    with open_instance(laboratory) as instance:
        assert list(instance.get_dynamic_partitions("sessions")) == ["b"]
    with pytest.raises(UserError, match="no such session"):
        forgettable(laboratory, "a")
    write_bytes(laboratory.layout.reports / "loss_comparison/figure.png", b"figure")
    with pytest.raises(UserError, match="no such session"):
        forgettable(laboratory, "loss_comparison")


def test_a_session_that_a_run_works_on_is_not_forgotten(laboratory: Installation):
    before = files_of(laboratory)
    with session_lock(laboratory.layout, "a"), pytest.raises(UserError, match="being processed"):
        forget_session(laboratory, "a")
    assert before <= files_of(laboratory)
