import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tem_pipeline.descriptions import MAX_YAML_BYTES
from tem_pipeline.errors import UserError
from tem_pipeline.micrographs.sessions import (
    SessionDescription,
    read_session_description,
    session_files,
    session_fingerprint,
    session_key,
)

PLAIN = r"[A-Za-z0-9][A-Za-z0-9._-]*"
names = st.text(st.characters(exclude_categories=()), max_size=300) | st.text("ab.-_/ \n|Å~%", max_size=120)


def describe(folder: Path, content: str | bytes) -> SessionDescription:
    (folder / "session.yaml").write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_session_description(folder)


def complaint(folder: Path, content: str | bytes) -> str:
    with pytest.raises(UserError) as caught:
        describe(folder, content)
    message = str(caught.value)
    assert "session.yaml" in message
    assert message.isprintable()
    assert len(message) < 600
    return message


# --- session.yaml ----------------------------------------------------------------------------------------


def test_a_session_without_session_yaml_has_the_defaults(tmp_path):
    description = read_session_description(tmp_path)
    assert description == SessionDescription()
    assert (description.calibration_uncertainty, description.stack, description.mode) == (
        0.02,
        "frames",
        None,
    )


def test_every_key_is_read(tmp_path):
    found = describe(
        tmp_path,
        "sample_id: Pt-C 12 # the third\noperator: Ångström, J.\nmicroscope: JEM-2100\nvoltage_kv: 200\n"
        "mode: haadf\npixel_size_nm: [0.1, 0.2]\ncalibration_uncertainty: 0.01\nmetal: Pt\nstack: fields\n"
        "notes: |\n  two\n  lines\n",
    )
    assert found.model_dump() == {
        "sample_id": "Pt-C 12",
        "operator": "Ångström, J.",
        "microscope": "JEM-2100",
        "voltage_kv": 200,
        "mode": "haadf",
        "pixel_size_nm": (0.1, 0.2),
        "calibration_uncertainty": 0.01,
        "metal": "Pt",
        "stack": "fields",
        "notes": "two\nlines\n",
    }
    assert describe(tmp_path, "pixel_size_nm: 5.0e-2").pixel_size_nm == 0.05
    assert describe(tmp_path, "\ufeffmode: bright_field".encode()).mode == "bright_field"


@pytest.mark.parametrize(
    "name", ["007", "2026-11-22", "1_000", "12:30", "1e3", "yes", "0x10", "NO", "null-1"]
)
def test_sample_names_that_yaml_would_convert_stay_text(tmp_path, name):
    assert describe(tmp_path, f"sample_id: {name}").sample_id == name


@pytest.mark.parametrize("content", ["", "# nothing\n", "---\n", "{}", "sample_id:\nmode: ~\noperator: ''\n"])
def test_an_empty_description_is_the_default(tmp_path, content):
    assert describe(tmp_path, content) == SessionDescription()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("pixel_size: 0.1", ["'pixel_size'", "unknown", "pixel_size_nm"]),
        ("mode: dark_field", ["mode", "haadf"]),
        ("pixel_size_nm: -0.1", ["pixel_size_nm", "-0.1"]),
        ("pixel_size_nm: 0", ["pixel_size_nm"]),
        ("pixel_size_nm: .nan", ["pixel_size_nm"]),
        ("pixel_size_nm: 1e9", ["pixel_size_nm"]),
        ("pixel_size_nm: about 1", ["pixel_size_nm", "number"]),
        ("pixel_size_nm: [1, 2, 3]", ["pixel_size_nm"]),
        ("voltage_kv: [200]", ["voltage_kv"]),
        ("voltage_kv: inf", ["voltage_kv"]),
        ("sample_id: {a: 1}", ["sample_id"]),
        ('sample_id: "a\\nb"', ["sample_id"]),
        ("sample_id: " + "x" * 300, ["sample_id"]),
        ("calibration_uncertainty: 2", ["calibration_uncertainty"]),
        ("stack: all", ["stack"]),
        ("- a\n- b", ["key: value"]),
        ("just text", ["key: value"]),
        ("a: b\n---\nc: d", ["document"]),
        ("sample_id: a\nsample_id: b", ["sample_id", "twice"]),
        ("? [a, b]\n: c", ["session.yaml"]),
        ("mode: [haadf", ["line"]),
        ("\tmode: haadf", ["line"]),
        ("sample_id: !!python/object/apply:os.system [echo]", ["sample_id"]),
        (b"operator: \xff\xfe\xfa", ["UTF-8"]),
        (b"operator: a\x00b", ["session.yaml"]),
        (b"\x89PNG\r\n\x1a\n" + bytes(200), ["session.yaml"]),
    ],
)
def test_a_wrong_description_gives_one_clear_line(tmp_path, content, words):
    message = complaint(tmp_path, content)
    assert all(word in message for word in words), message


def test_yaml_bombs_are_refused(tmp_path):
    bomb = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
        f"{new}: &{new} [{','.join(['*' + old] * 9)}]\n"
        for old, new in zip("abcdefgh", "bcdefghi", strict=True)
    )
    assert "aliases" in complaint(tmp_path, bomb)
    assert "nested" in complaint(tmp_path, "a: " + "[" * 20_000)
    assert "kB" in complaint(tmp_path, "notes: " + "x" * MAX_YAML_BYTES)
    assert "kB" in complaint(tmp_path, b"#" * 10_000_000)
    assert "unknown" in complaint(tmp_path, "".join(f"k{i}: v\n" for i in range(5000)))


def test_a_description_must_be_a_regular_file_in_the_folder(tmp_path):
    session = tmp_path / "session"
    (session / "session.yaml").mkdir(parents=True)
    with pytest.raises(UserError, match="not a regular file"):
        read_session_description(session)
    (session / "session.yaml").rmdir()
    (tmp_path / "secret.yaml").write_text("operator: root")
    (session / "session.yaml").symlink_to(tmp_path / "secret.yaml")
    with pytest.raises(UserError, match="not a regular file"):
        read_session_description(session)
    (session / "session.yaml").unlink()
    os.mkfifo(session / "session.yaml")
    with pytest.raises(UserError, match="not a regular file"):
        read_session_description(session)


@given(st.binary(max_size=300) | st.text(max_size=200).map(lambda text: text.encode("utf-8", "replace")))
def test_any_content_gives_a_description_or_a_one_line_error(tmp_path_factory, content):
    folder = tmp_path_factory.getbasetemp() / "yaml"
    folder.mkdir(exist_ok=True)
    try:
        message = str(describe(folder, content).stack)
    except UserError as error:
        message = str(error)
    assert "\n" not in message
    assert len(message) < 600


# --- keys ------------------------------------------------------------------------------------------------


@given(names)
@example("")
@example("..")
@example("../../etc/passwd")
@example("a|b\nc")
@example("\udcff")
@example("2026 11 22 Pt/C")
@example("x" * 300)
@example("日本語")
@example("a..b")
@example("-rf")
def test_every_key_is_safe_stable_and_its_own_key(name):
    key = session_key(name)
    assert re.fullmatch(PLAIN, key)
    assert ".." not in key
    assert len(key) <= 100
    assert Path("lake", f"session={key}").name == f"session={key}"
    assert session_key(name) == key
    assert session_key(key) == key
    if key != name:
        assert key[-1] not in ".-_"


@given(st.from_regex(rf"\A{PLAIN}\Z").filter(lambda name: ".." not in name and len(name) <= 100))
def test_plain_names_are_their_own_keys(name):
    assert session_key(name) == name


@given(st.lists(names, min_size=2, max_size=20, unique=True))
def test_different_names_have_different_keys(several):
    assert len({session_key(name) for name in several}) == len(several)


def test_a_key_keeps_the_readable_part_of_the_name():
    assert re.fullmatch(r"2026-11-22-Pt-C-Angstrom-[0-9a-f]{12}", session_key("2026-11-22 Pt|C Ångström"))


# --- files -----------------------------------------------------------------------------------------------


def listed(folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in session_files(folder)]


def fill(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())


def test_files_are_listed_in_order_from_all_folders_in_any_case(tmp_path):
    fill(tmp_path, "b.TIF", "a/z.dm4", "a/2.Emd", "c.mrc", "a.b/x.png", "d.SER", "e.emi", "f.HSPY", "g.jpeg")
    assert listed(tmp_path) == [
        "a/2.Emd",
        "a/z.dm4",
        "a.b/x.png",
        *("b.TIF", "c.mrc", "d.SER", "e.emi", "f.HSPY", "g.jpeg"),
    ]


def test_hidden_unfinished_and_other_files_are_left_out(tmp_path):
    fill(
        tmp_path,
        "a.tif",
        "session.yaml",
        ".complete",
        ".hidden.tif",
        ".cache/a.tif",
        "b.tif.part",
        "c.tif.TMP",
    )
    fill(
        tmp_path,
        "d.tifdownloading",
        "x.part/e.tif",
        "notes.txt",
        "log.xml",
        "table.csv",
        "meta.json",
        "readme",
    )
    assert listed(tmp_path) == ["a.tif"]


def test_images_without_a_reader_are_listed_too(tmp_path):
    fill(tmp_path, "a.bmp", "b.mib", "c.H5")
    assert listed(tmp_path) == ["a.bmp", "b.mib", "c.H5"]


def test_links_are_followed_only_inside_the_session(tmp_path):
    session, outside = tmp_path / "session", tmp_path / "outside"
    fill(session, "a.tif")
    fill(outside, "secret.tif")
    (session / "inside.tif").symlink_to("a.tif")
    (session / "leak.tif").symlink_to(outside / "secret.tif")
    (session / "folder").symlink_to(outside)
    (session / "broken.tif").symlink_to("nothing.tif")
    (session / "circle.tif").symlink_to("circle.tif")
    (session / "up").symlink_to("..")
    os.mkfifo(session / "pipe.tif")
    assert listed(session) == ["a.tif", "inside.tif"]


def test_a_session_may_be_reached_through_a_link(tmp_path):
    fill(tmp_path / "real", "a.tif")
    (tmp_path / "link").symlink_to("real")
    assert listed(tmp_path / "link") == ["a.tif"]


def test_a_folder_that_cannot_be_listed_is_an_error(tmp_path):
    with pytest.raises(UserError, match="cannot be listed"):
        session_files(tmp_path / "gone")
    fill(tmp_path, "a.tif")
    with pytest.raises(UserError, match="cannot be listed"):
        session_files(tmp_path / "a.tif")
    (tmp_path / "empty").mkdir()
    assert session_files(tmp_path / "empty") == []


def test_folders_nested_deeper_than_python_can_recurse_are_listed():
    # Not in tmp_path: pytest's own cleaning up is recursive.
    with tempfile.TemporaryDirectory() as name:
        session = Path(name, "session")
        inner = session.joinpath(*["d"] * 1200)
        subprocess.run(["mkdir", "-p", inner], check=True)
        try:
            (inner / "a.tif").write_bytes(b"x")
            assert session_files(session) == [inner / "a.tif"]
        finally:
            subprocess.run(["rm", "-rf", session], check=True)


# --- fingerprints ----------------------------------------------------------------------------------------


def test_a_copy_under_another_name_and_time_has_the_same_fingerprint(tmp_path):
    fill(tmp_path / "one", "a.tif", "sub/b.tif", "session.yaml")
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    os.utime(tmp_path / "two/a.tif", (0, 0))
    assert session_fingerprint(tmp_path / "one") == session_fingerprint(tmp_path / "two")


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: (folder / "c.tif").write_bytes(b"new"),
        lambda folder: (folder / "a.tif").write_bytes(b"b.tif"[:5]),
        lambda folder: (folder / "a.tif").unlink(),
        lambda folder: (folder / "a.tif").rename(folder / "d.tif"),
        lambda folder: (folder / "session.yaml").write_bytes(b"mode: haadf"),
        lambda folder: (folder / "session.yaml").unlink(),
    ],
)
def test_every_change_of_content_changes_the_fingerprint(tmp_path, change):
    fill(tmp_path, "a.tif", "b.tif", "session.yaml")
    before = session_fingerprint(tmp_path)
    change(tmp_path)
    assert session_fingerprint(tmp_path) != before


def test_files_that_are_not_read_do_not_change_the_fingerprint(tmp_path):
    fill(tmp_path, "a.tif")
    before = session_fingerprint(tmp_path)
    fill(tmp_path, ".complete", "notes.txt", "b.tif.part")
    assert session_fingerprint(tmp_path) == before
