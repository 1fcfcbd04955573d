import os
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tem_pipeline.errors import UserError
from tem_pipeline.settings import PROJECT_ROOT
from tem_pipeline.text import counted, encodable, one_line, printable

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


def test_a_noun_agrees_with_its_number():
    assert [counted(n, "file") for n in range(3)] == ["0 files", "1 file", "2 files"]
    assert counted(2, "series", "series") == "2 series"


def test_no_message_writes_a_plural_after_a_number_that_may_be_one():
    nouns = "images|files|sessions|particles|sources|samples|folders|cores|rows|fields|models"
    after_a_number = re.compile(rf"\{{(?!counted)[\w.]*(?:len\([^)]*\)|images|n_\w+|count)\}} (?:{nouns})\b")
    # These numbers are never 1: the messages are about a number over a limit.
    never_one = ("save each as its own file", "samples have", "the same for all", "would hold", "give 1 to")
    never_one += ("fields resampled", "don't fit", "rows of variable length")
    found = [
        f"{path.name}: {line.strip()}"
        for path in sorted((PROJECT_ROOT / "tem_pipeline").rglob("*.py"))
        for line in path.read_text(encoding="utf-8").splitlines()
        if after_a_number.search(line) and not any(text in line for text in never_one)
    ]
    assert found == []


@given(st.text())
def test_one_line_is_printable_and_without_runs_of_white_space(text):
    line = one_line(text)
    assert line.isprintable()
    assert line == one_line(line)
    assert one_line(f" {text}\n\t{text}\n") == f"{line} {line}".strip()
    assert str(UserError(f"\x1b[2J{text}")).isprintable()
