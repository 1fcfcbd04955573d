import pytest

from tem_pipeline.data_dictionary import columns_as_markdown, render
from tem_pipeline.settings import PROJECT_ROOT
from tem_pipeline.tables import TABLES


def test_the_data_dictionary_is_up_to_date():
    written = (PROJECT_ROOT / "docs/data-dictionary.md").read_text(encoding="utf-8")
    assert written == render(), "run `make docs`"


@pytest.mark.parametrize("name", TABLES)
def test_the_data_dictionary_describes_every_registered_table(name):
    table = TABLES[name]
    text = render()
    headings = [line for line in text.splitlines() if line.startswith("### ")]
    assert sum(name in heading[4:].split(", ") for heading in headings) == 1
    place = f"`{table.key}/{'session=SESSION/' if table.per_session else ''}part-0.parquet`"
    assert place in text
    assert columns_as_markdown(table.schema) in text
    if table.file_schema is not None:
        assert f"#### Files of {name}\n" in text
        assert columns_as_markdown(table.file_schema) in text


@pytest.mark.parametrize("name", TABLES)
def test_the_data_dictionary_has_a_row_for_each_column(name):
    schema = TABLES[name].schema
    lines = columns_as_markdown(schema).splitlines()
    assert len(lines) == 2 + len(schema)
    assert len({line.count("|") - line.count("\\|") for line in lines}) == 1
    for field, line in zip(schema, lines[2:], strict=True):
        assert line.startswith(f"| `{field.name}` | {field.type} | {field.metadata[b'unit'].decode()} |")
