import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
from upath import UPath

from tem_pipeline.errors import UserError
from tem_pipeline.storage import (
    Layout,
    atomic_path,
    collect_unreferenced,
    encode_tiff,
    read_table,
    session_lock,
    write_content,
    write_table,
)


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(UPath(tmp_path / "data"), UPath(tmp_path / "models"))


def test_a_file_appears_only_when_it_is_complete(tmp_path: Path):
    target = tmp_path / "table.parquet"
    with atomic_path(target) as part:
        part.write_bytes(b"half")
        assert not target.exists()
    assert target.read_bytes() == b"half"


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path):
    target = tmp_path / "table.parquet"
    target.write_bytes(b"old")

    def write_half() -> None:
        with atomic_path(target) as part:
            part.write_bytes(b"new")
            raise ValueError("broke")

    with pytest.raises(ValueError, match="broke"):
        write_half()
    assert target.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["table.parquet"]


def test_a_full_disk_is_reported_in_one_line_and_keeps_the_old_file(tmp_path: Path):
    target = tmp_path / "table.parquet"
    target.write_bytes(b"old")
    with pytest.raises(UserError, match=r"table\.parquet.*No space left"), atomic_path(target):
        raise OSError(28, "No space left on device")
    assert target.read_bytes() == b"old"


@pytest.mark.parametrize("key", ["../x", "a/b", "", ".hidden", "a..b", "x" * 200, "a b", "a\nb"])
def test_a_session_key_cannot_lead_out_of_the_lake(layout: Layout, key: str):
    with pytest.raises(UserError, match="not safe"):
        layout.partition("particle_table", key)
    with pytest.raises(UserError, match="not safe"), session_lock(layout, key):
        pass


def test_a_table_comes_back_without_the_columns_of_its_folder_name(layout: Layout):
    table = layout.table("particle_table", "20261122")
    write_table(table, pd.DataFrame({"session_id": ["20261122"], "area_px": [3]}))
    assert list(read_table(table).columns) == ["session_id", "area_px"]
    assert read_table(table)["session_id"].tolist() == ["20261122"]


def test_a_missing_table_says_what_to_do(layout: Layout):
    with pytest.raises(UserError, match="materialise"):
        read_table(layout.table("particle_table", "nothing"))


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32", "uint32"])
def test_a_tiff_keeps_its_pixels_and_its_scale(tmp_path: Path, dtype: str):
    image = np.arange(12).reshape(3, 4).astype(dtype)
    path = tmp_path / "image.tif"
    path.write_bytes(encode_tiff(image, 0.125))
    with tifffile.TiffFile(path) as file:
        assert np.array_equal(file.asarray(), image)
        count, length = file.pages[0].tags["XResolution"].value  # type: ignore[union-attr]
        per_nm = count / length if file.is_imagej else count / length / 1e7
        assert per_nm == pytest.approx(8, rel=1e-6)
        if dtype != "uint32":
            assert (file.imagej_metadata or {})["unit"] == "nm"


def test_equal_content_is_written_once(tmp_path: Path):
    first = write_content(tmp_path, "image", ".tif", b"one")
    assert write_content(tmp_path, "image", ".tif", b"one") == first
    second = write_content(tmp_path, "image", ".tif", b"two")
    assert {path.name for path in tmp_path.iterdir()} == {first, second}


def test_unreferenced_files_are_deleted_only_after_some_time(tmp_path: Path):
    kept = write_content(tmp_path, "kept", ".tif", b"1")
    old = write_content(tmp_path, "old", ".tif", b"2")
    assert collect_unreferenced(tmp_path, [kept]) == 0
    time.sleep(0.02)
    assert collect_unreferenced(tmp_path, [kept], older_than_s=0.01) == 1
    assert (tmp_path / kept).exists()
    assert not (tmp_path / old).exists()


def test_a_session_lock_is_freed_when_its_process_dies(layout: Layout):
    script = (
        "import sys, time; from upath import UPath; from tem_pipeline.storage import Layout, session_lock\n"
        f"with session_lock(Layout(UPath({str(layout.data_root)!r}), UPath('m')), 's'):\n"
        "    print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(UserError, match="somebody else"), session_lock(layout, "s", timeout_s=0.2):
            pass
        holder.kill()
        holder.wait()
        with session_lock(layout, "s", timeout_s=5):
            pass


@pytest.mark.parametrize("key", ["loss_comparison", "structure_activity", "Loss_Comparison"])
def test_a_session_called_like_a_folder_of_figures_has_its_own(layout: Layout, key: str):
    report = layout.report(key)
    assert report.parent.name.lower() not in ("loss_comparison", "structure_activity")
    assert report != layout.report(key.swapcase())
    assert report.parent.parent == layout.report("other").parent.parent


def test_figures_are_collected_and_an_older_report_beside_them_is_kept(tmp_path: Path):
    for name in ("index.html", "figure_4-1.png", "figure_4-2.png"):
        (tmp_path / name).touch()
    time.sleep(0.02)
    assert collect_unreferenced(tmp_path, ["figure_4-2.png"], 0.01, pattern="figure_4-*.png") == 1
    assert {path.name for path in tmp_path.iterdir()} == {"index.html", "figure_4-2.png"}


def test_a_session_is_recorded_by_its_place_and_found_after_a_move(tmp_path: Path):
    folder = tmp_path / "disk" / "incoming" / "s"
    folder.mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    linked = Layout(UPath(tmp_path / "link"), UPath(tmp_path / "models"))
    real = Layout(UPath(tmp_path / "disk"), UPath(tmp_path / "models"))
    for layout in (linked, real):
        for path in (folder, tmp_path / "link" / "incoming" / "s"):
            assert layout.recorded_folder(path) == "incoming/s"
            assert layout.outside_folder(str(path)) is None
    # An older table recorded the whole path.
    (tmp_path / "disk").rename(tmp_path / "moved")
    moved = Layout(UPath(tmp_path / "moved"), UPath(tmp_path / "models"))
    assert moved.outside_folder(str(folder)) is None
    assert moved.outside_folder("incoming/s") is None


def test_a_folder_outside_incoming_is_recorded_by_its_path(tmp_path: Path, layout: Layout):
    for folder in (tmp_path / "s", tmp_path / "other" / "incoming" / "s"):
        folder.mkdir(parents=True)
        assert layout.recorded_folder(folder) == str(folder)
        assert layout.outside_folder(str(folder)) == str(folder)
