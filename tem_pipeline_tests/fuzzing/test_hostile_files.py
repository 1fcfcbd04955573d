import os
import time
from collections import Counter

import numpy as np
import pytest

import fuzzing.__main__ as fuzzing
from fuzzing.__main__ import Report, mutants, outcome_of, read_mutants, sources
from fuzzing.crafted import CRAFTED
from tem_pipeline.micrographs.hashes import file_digest, file_sha256
from tem_pipeline.micrographs.reading_process import ReadingLimits, read_micrographs
from tem_pipeline_tests.micrographs.readers.files import refusal

pytestmark = pytest.mark.skipif(os.name == "nt", reason="pipes and links of this kind are POSIX")

# What a cheap look at the file says; the limits would say less, and later.
REASONS = {
    "tiff_directories_in_a_circle": "form a circle",
    "tiff_of_100_000_directories": "more than 10000 pages",
    "ome_tiff_of_400_million_planes": "claims 400000000 planes",
    "ome_tiff_whose_first_plane_is_number_400_million": "claims 400000000 planes",
    "tiff_strip_that_grows_a_thousandfold": "claims 0.28 GB",
    "hdf5_graph_that_fans_out": "linked more than once",
    "hdf5_graph_of_soft_links_that_fans_out": "linked more than once",
    "hdf5_group_that_holds_itself": "linked more than once",
    "hdf5_of_5_000_levels": "groups in groups",
    "hdf5_of_100_000_rows_of_variable_length": "100000 rows",
    "hdf5_rows_that_share_one_long_row": "4000 rows",
    "hdf5_chunk_longer_than_its_data": "claims 0.3 GB",
    "hdf5_data_in_another_file": "in another file",
    "dm3_of_a_million_groups": "more than 100000 tags",
    "dm3_of_5_000_levels": "RecursionError",
    "jpeg_of_5_000_scans": "scans",
    "png_that_claims_a_billion_pixels": "damaged",
    "sparse_mrc_of_a_terabyte": "hardly any of that is on the disk",
    "emi_of_many_pairs": "more than 100 descriptions",
    "ser_that_is_a_link_out_of_the_session": "no plain file of this folder",
    "ser_that_is_a_pipe": "no plain file of this folder",
    "ser_that_is_a_device": "no plain file of this folder",
    "emi_that_is_a_pipe": "no plain file of this folder",
    "emi_that_is_a_link_out_of_the_session": "no plain file of this folder",
    "tif_that_is_a_pipe": "not a file",
    "tif_that_is_a_device": "not a file",
}


@pytest.mark.parametrize("make", [make for make in CRAFTED if make.__name__ in REASONS])
def test_crafted_files_are_refused_with_what_is_wrong_with_them(tmp_path, make):
    outcome, reason = outcome_of(make(tmp_path), ReadingLimits(30, 10**9))
    assert (outcome, REASONS[make.__name__] in reason) == ("refused", True), reason


def test_every_crafted_kind_has_a_reason_or_a_test_of_its_own():
    assert {make.__name__ for make in CRAFTED} - REASONS.keys() == {"ome_tiff_that_names_a_file_elsewhere"}


def test_of_an_ome_set_of_files_each_gives_its_own_pages_only(tmp_path):
    (make,) = (make for make in CRAFTED if make.__name__ == "ome_tiff_that_names_a_file_elsewhere")
    (found,) = read_micrographs(make(tmp_path))
    assert found.image.shape == (48, 64)


def test_a_file_that_is_mostly_holes_is_hashed_by_its_size_at_once(tmp_path):
    path = tmp_path / "a.mrc"
    path.write_bytes(b"header")
    os.truncate(path, 10**12)
    assert file_digest(path)[0] == 10**12
    assert file_sha256(path) is None
    assert "on the disk" in refusal(path)


def test_no_mutant_leads_to_a_traceback(tmp_path, monkeypatch):
    monkeypatch.setattr(fuzzing, "FOLDER", tmp_path / "kept")
    report = Report()
    read_mutants(tmp_path, report, sources(tmp_path), time.monotonic() + 10)
    outcomes = Counter()
    for (_, outcome), count in report.counts.items():
        outcomes[outcome] += count
    assert outcomes["refused"] > 10
    assert report.tracebacks == 0, report.notes


def test_mutants_are_the_same_each_time_and_differ_from_their_file(tmp_path):
    path = tmp_path / "a.tif"
    path.write_bytes(np.random.default_rng(0).bytes(5000))
    once, again = mutants([path]), mutants([path])
    contents = [next(once)[1] for _ in range(20)]
    assert contents == [next(again)[1] for _ in range(20)]
    assert sum(content != path.read_bytes() for content in contents) >= 19
