import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tem_pipeline.text import encodable, printable

any_text = st.text(st.characters(exclude_categories=[]))
file_names = st.binary().map(os.fsdecode)


@given(any_text)
def test_printable_text_is_one_line_that_can_be_written(text):
    assert printable(text).isprintable()
    assert len(printable(text)) == len(text)
    printable(text).encode("utf-8")


@given(any_text)
def test_only_characters_that_are_not_printable_are_replaced(text):
    for before, after in zip(text, printable(text), strict=True):
        assert after == (before if before.isprintable() else "\ufffd")
    assert printable(printable(text)) == printable(text)


@pytest.mark.parametrize("text", ["a.tif", "Pt 5 nm, Å, 日本語, é, 😀"])
def test_plain_text_is_unchanged(text):
    assert printable(text) == encodable(text) == text


@pytest.mark.parametrize("character", ["\n", "\x1b", "\x00", "\u202e", "\udcff", "\xa0"])
def test_control_characters_and_surrogates_are_replaced(character):
    assert printable(f"a{character}b") == "a\ufffdb"


def test_some_characters_may_be_kept():
    assert printable("a\nb\tc", kept="\n") == "a\nb\ufffdc"


@given(file_names)
def test_every_file_name_can_be_stored_in_a_table(name):
    encodable(name).encode("utf-8")


def test_undecodable_bytes_are_replaced_and_line_ends_stay_in_tables():
    assert encodable(os.fsdecode(b"\xffa\nb")) == "\ufffda\nb"
