from tem_pipeline.data_dictionary import TABLES, render
from tem_pipeline.settings import PROJECT_ROOT


def test_the_data_dictionary_is_what_the_schemas_say():
    written = (PROJECT_ROOT / "docs/data-dictionary.md").read_text(encoding="utf-8")
    assert written == render(), "run `make docs`"


def test_every_column_of_every_table_has_a_meaning():
    for name, (_, schema) in TABLES.items():
        for field in schema:
            assert (field.metadata or {}).get(b"description"), f"{name}.{field.name}"
