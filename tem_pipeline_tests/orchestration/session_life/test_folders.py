import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tem_pipeline.errors import UserError
from tem_pipeline.micrographs.sessions import session_fingerprint, session_key
from tem_pipeline.orchestration.session_life.folders import (
    folder_times_are,
    list_session_folders,
    resumable_fingerprint,
    still_arriving,
    take_snapshot,
)
from tem_pipeline.orchestration.session_life.observations import ObservationLog, observe, observe_one
from tem_pipeline.orchestration.session_life.session_tables import NO_IMAGE
from tem_pipeline.orchestration.session_life.tick_time import OutOfTimeError


def fill(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())


def arriving(folder: Path, unchanged_for_s: float = 1000, settling_s: float = 60) -> str | None:
    return still_arriving(take_snapshot(folder), unchanged_for_s, settling_s)


# --- folders -----------------------------------------------------------------------------------------------


def test_sessions_are_the_folders_directly_below_incoming(tmp_path):
    fill(tmp_path, "b/1.tif", "a/deep/er/1.tif", "README.md", "beside.tif", ".trash/1.tif", "c.part/1.tif")
    (tmp_path / "empty").mkdir()
    assert [(found.name, found.fault) for found in list_session_folders(tmp_path)] == [
        ("a", None),
        ("b", None),
        ("empty", None),
    ]


def test_a_failed_listing_is_an_error_not_an_empty_listing(tmp_path):
    with pytest.raises(UserError, match="cannot be listed"):
        list_session_folders(tmp_path / "gone")
    fill(tmp_path, "file")
    with pytest.raises(UserError, match="cannot be listed"):
        list_session_folders(tmp_path / "file")


def test_links_are_faults_and_not_sessions(tmp_path):
    fill(tmp_path / "outside", "1.tif")
    fill(tmp_path / "incoming/a", "1.tif")
    (tmp_path / "incoming/out").symlink_to(tmp_path / "outside")
    (tmp_path / "incoming/twice").symlink_to("a")
    (tmp_path / "incoming/broken").symlink_to("nothing")
    (tmp_path / "incoming/circle").symlink_to("circle")
    faults = {found.name: found.fault for found in list_session_folders(tmp_path / "incoming")}
    assert set(faults) == {"a", "out", "twice"}
    assert faults["a"] is None
    assert "symbolic link" in str(faults["out"])
    assert "symbolic link" in str(faults["twice"])


def test_of_two_folders_with_one_key_only_one_is_a_session(tmp_path):
    odd = "Pt C"
    fill(tmp_path, f"{odd}/1.tif", f"{session_key(odd)}/1.tif")
    faults = {found.name: found.fault for found in list_session_folders(tmp_path)}
    assert faults[session_key(odd)] is None
    assert "rename" in str(faults[odd])


names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="/\0"), min_size=1, max_size=60)


@given(st.lists(names.filter(lambda name: name not in (".", "..")), max_size=8, unique=True))
def test_keys_are_safe_and_unique_whatever_folders_are_called(tmp_path_factory, several):
    incoming = tmp_path_factory.mktemp("incoming")
    for name in several:
        (incoming / name).mkdir()
    found = list_session_folders(incoming)
    good = [folder.key for folder in found if folder.fault is None]
    assert len(set(good)) == len(good)
    assert all(key == Path(key).name and ".." not in key for key in good)
    assert [folder.key for folder in list_session_folders(incoming)] == [folder.key for folder in found]


# --- completeness ------------------------------------------------------------------------------------------


def test_a_session_is_complete_once_nothing_changed_for_the_settling_time(tmp_path):
    fill(tmp_path, "1.tif", "sub/2.tif")
    assert "less than 60 s" in str(arriving(tmp_path, 59))
    assert arriving(tmp_path, 60) is None


def test_a_marker_completes_a_session_until_files_follow_it(tmp_path):
    fill(tmp_path, "1.tif", "2.tif.part", "only.emi", ".complete")
    assert arriving(tmp_path, 0) is None
    fill(tmp_path, "3.tif")
    os.utime(tmp_path / "3.tif", (0, 0))  # a copy that keeps times
    assert arriving(tmp_path, 0) is not None


@pytest.mark.parametrize("name", ["2.tif.part", "2.tmp", "2.tifdownloading", ".2.tif.Xa3", "sub/.2.tif"])
def test_files_of_a_copy_under_way_keep_a_session_arriving(tmp_path, name):
    fill(tmp_path, "1.tif", name)
    assert Path(name).name in str(arriving(tmp_path))
    (tmp_path / name).unlink()
    assert arriving(tmp_path) is None


def test_files_that_desktops_leave_do_not_keep_a_session_arriving(tmp_path):
    fill(tmp_path, "1.tif", ".DS_Store", "._1.tif", ".directory")
    assert arriving(tmp_path) is None


def test_an_emi_waits_for_its_ser(tmp_path):
    fill(tmp_path, "a.tif", "Scan_1.emi", "sub/Other_2.ser")
    assert "scan_1.emi waits" in str(arriving(tmp_path))
    fill(tmp_path, "sub/Scan_1_1.ser")
    assert "waits" in str(arriving(tmp_path))
    fill(tmp_path, "Scan_1_1.ser")
    assert arriving(tmp_path) is None


def test_a_folder_without_images_is_given_time_and_then_failed(tmp_path):
    folder = tmp_path / "a"
    fill(folder, "notes.txt")
    assert arriving(folder, unchanged_for_s=10) == "it holds no image yet"
    log = ObservationLog()
    for now, fault in ((1e9, None), (1e9 + 61, NO_IMAGE)):
        (found,) = observe(tmp_path, log, now, settling_s=60, out_of_time=lambda: False)
        assert (found.fault, found.fingerprint) == (fault, None)
    assert observe_one(found.folder, log, 1e9 + 61, settling_s=60).fault == NO_IMAGE
    fill(folder, "1.tif")
    (found,) = observe(tmp_path, log, 1e9 + 62, settling_s=60, out_of_time=lambda: False)
    assert (found.fault, found.waiting) == (None, "its files changed less than 60 s ago")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become nobody")
def test_an_unreadable_folder_is_an_error_not_an_empty_session(tmp_path):
    fill(tmp_path / "session", "1.tif", "locked/2.tif")
    (tmp_path / "session/locked").chmod(0)
    script = (
        "import os, sys\n"
        "from tem_pipeline.orchestration.session_life.folders import take_snapshot\n"
        "fd = os.open(sys.argv[1], 0)\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534); os.fchdir(fd)\n"
        "try: print(take_snapshot('.'))\nexcept Exception as error: print(type(error).__name__, error)"
    )
    told = subprocess.run(
        [sys.executable, "-c", script, tmp_path / "session"], capture_output=True, text=True, check=True
    )
    assert told.stdout.startswith("UserError")
    assert "cannot be listed (Permission denied)" in told.stdout


# --- signatures and fingerprints ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: (folder / "c.tif").write_bytes(b"new"),
        lambda folder: (folder / "a.tif").open("ab").write(b"x"),
        lambda folder: os.utime(folder / "a.tif"),
        lambda folder: (folder / "sub/b.tif").unlink(),
        lambda folder: (folder / "a.tif").rename(folder / "d.tif"),
        lambda folder: (folder / "session.yaml").write_bytes(b"mode: haadf"),
    ],
)
def test_every_change_of_a_file_changes_the_signature(tmp_path, change):
    fill(tmp_path, "a.tif", "sub/b.tif", "session.yaml")
    before = take_snapshot(tmp_path).signature
    assert take_snapshot(tmp_path).signature == before
    change(tmp_path)
    assert take_snapshot(tmp_path).signature != before


def test_a_fingerprint_computed_in_steps_is_the_same(tmp_path):
    fill(tmp_path, "a.tif", "b.tif", "sub/c.tif", "session.yaml")
    digests: dict[str, tuple[int, str]] = {}
    steps = 0
    while True:
        try:
            steps += 1
            found = resumable_fingerprint(tmp_path, digests, lambda: True)
            break
        except OutOfTimeError:
            assert len(digests) == steps
    assert steps == 4
    assert found == session_fingerprint(tmp_path)


contents = st.dictionaries(
    st.tuples(
        st.sampled_from(["", "sub", "Pt C", ".hidden", "x.part"]), names.filter(lambda n: n not in "..")
    ),
    st.binary(max_size=20),
    max_size=6,
)


@given(contents, st.randoms(use_true_random=False))
def test_a_fingerprint_depends_on_the_content_alone(tmp_path_factory, content, chance):
    """The order in which files came, their times and the folder's place don't matter."""
    folders = []
    for _ in range(2):
        folder = tmp_path_factory.mktemp("session")
        written = list(content)
        chance.shuffle(written)
        for place in written:
            path = folder.joinpath(*place)
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(content[place])
            os.utime(path, (0, chance.randint(0, 10**9)))
        folders.append(folder)
    one, other = folders
    found = session_fingerprint(one)
    assert found == session_fingerprint(other)
    before = take_snapshot(one)
    assert before == take_snapshot(one)
    assert before.n_images == take_snapshot(other).n_images
    (one / "another.tif").write_bytes(b"another")
    assert take_snapshot(one).signature != before.signature
    assert session_fingerprint(one) != found
    (one / "another.tif").unlink()
    assert session_fingerprint(one) == found


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: (folder / "c.tif").write_bytes(b"new"),
        lambda folder: (folder / "sub/c.tif").write_bytes(b"new"),
        lambda folder: (folder / "sub/b.tif").unlink(),
        lambda folder: (folder / "a.tif").rename(folder / "d.tif"),
        lambda folder: (folder / "new").mkdir(),
        lambda folder: (folder / "session.yaml").write_bytes(b"mode: haadf"),
        lambda folder: (folder / "session.yaml").unlink(),
        lambda folder: folder.rename(folder.with_name("gone")),
    ],
)
def test_folder_times_show_added_and_removed_files_and_edits(tmp_path, change):
    session = tmp_path / "session"
    fill(session, "a.tif", "sub/b.tif", "session.yaml")
    folder_times = take_snapshot(session).folder_times
    assert folder_times_are(session, folder_times)
    time.sleep(0.02)  # times of files have a granularity
    change(session)
    assert not folder_times_are(session, folder_times)
