"""Prints docs/data-dictionary.md from the registered tables: `make docs`."""

import pyarrow as pa

from tem_pipeline.storage import TABLE_FILE
from tem_pipeline.tables import TABLES, Table

_INTRODUCTION = """# Data dictionary

Every table of `data/lake` with its columns.
`make docs` makes this page from the code, and a test keeps it up to date.
The unit and the meaning of a column are also in the metadata of its Parquet field.
The SQL view of a table has the table's name.
Views of tables with one file per session also have the column `session`.
"""
_GROUPS = {None: "Sessions", "analysis": "Analysis over all sessions", "training": "Training"}


def render() -> str:
    """Give the data dictionary of every table as Markdown."""
    parts = [_INTRODUCTION]
    for group, title in _GROUPS.items():
        parts.append(f"## {title}\n")
        schemas: dict[int, list[Table]] = {}
        for table in TABLES.values():
            if table.group == group:
                schemas.setdefault(id(table.schema), []).append(table)
        parts += [_section(alike) for alike in schemas.values()]
    return "\n".join(parts)


def _section(tables: list[Table]) -> str:
    """Describe tables that share one schema."""
    names = ", ".join(table.name for table in tables)
    session = "session=SESSION/" if tables[0].per_session else ""
    files = ", ".join(f"`{table.key}/{session}{TABLE_FILE}`" for table in tables)
    section = f"### {names}\n\n{tables[0].description}\n\n{files}\n\n{columns_as_markdown(tables[0].schema)}"
    return section + "".join(_file_section(table) for table in tables if table.file_schema is not None)


def _file_section(table: Table) -> str:
    """Describe the tables that are named in a column of another one."""
    columns = " and ".join(f"`{name}`" for name in table.file_columns)
    return (
        f"\n#### Files of {table.name}\n\n{table.file_description}\nThere is no SQL view of them.\n\n"
        f"`{table.key}/`, named in {columns}\n\n{columns_as_markdown(table.file_schema)}"
    )


def columns_as_markdown(schema: pa.Schema) -> str:
    """List a schema's columns as a Markdown table: name, type, unit, whether it may be null, meaning."""
    rows = ["| column | type | unit | may be null | meaning |", "|---|---|---|---|---|"]
    for field in schema:
        about = {key.decode(): value.decode() for key, value in (field.metadata or {}).items()}
        meaning = about.get("description", "").replace("|", "\\|")
        rows.append(
            f"| `{field.name}` | {field.type} | {about.get('unit', '')} | "
            f"{'yes' if field.nullable else 'no'} | {meaning} |"
        )
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    print(render(), end="")
