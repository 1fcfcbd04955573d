"""Writes the table of session states between two marks in ``docs/operations.md``: `python -m docs.states`."""

import re
from pathlib import Path

from tem_pipeline.orchestration.session_life.states import states_as_markdown

PAGE = Path(__file__).with_name("operations.md")
TABLE = re.compile(r"(?<=<!-- states: start -->\n).*(?=\n<!-- states: end -->)", re.DOTALL)

if __name__ == "__main__":
    page = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(TABLE.sub(lambda _: states_as_markdown(), page), encoding="utf-8")
