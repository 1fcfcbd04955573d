"""Writes into each table of a session what it was made from, and compares that with the present tables.

Assets can be materialised one by one. Without this a table could be made from masks of earlier files.
"""

import hashlib
import json

import pyarrow as pa

from tem_pipeline.orchestration.session_life.session_tables import SESSION_TABLES
from tem_pipeline.storage import Layout, table_fingerprint, table_metadata

_MADE_FROM = b"made_from"


def mark_origins(layout: Layout, table: pa.Table, name: str, session: str) -> pa.Table:
    """Write into a table of a session which content each earlier table of the session has now."""
    origins = {earlier: _content(layout, earlier, session) for earlier in _earlier(name)}
    marked = {**(table.schema.metadata or {}), _MADE_FROM: json.dumps(origins).encode()}
    return table.replace_schema_metadata(marked)


def stale_reason(layout: Layout, name: str, session: str) -> str | None:
    """Say why a table of a session does not fit the present tables that it was made from; None if it does.

    Tables of versions that wrote no origins are compared by the fingerprint of the session's files.
    """
    path = layout.table(name, session)
    recorded = table_metadata(path).get(_MADE_FROM)
    if recorded is None:
        manifest = layout.table(SESSION_TABLES[0], session)
        stale = [SESSION_TABLES[0]] if table_fingerprint(path) != table_fingerprint(manifest) else []
    else:
        origins = json.loads(recorded)
        stale = [
            earlier for earlier, content in origins.items() if _content(layout, earlier, session) != content
        ]
    if not stale:
        return None
    return f"session {session}: {name} was made from another {stale[0]} than the present one"


def _earlier(name: str) -> tuple[str, ...]:
    return SESSION_TABLES[: SESSION_TABLES.index(name)] if name in SESSION_TABLES else ()


def _content(layout: Layout, name: str, session: str) -> str | None:
    path = layout.table(name, session)
    if name == SESSION_TABLES[0]:
        return table_fingerprint(path)  # the same if the same files are read again
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else None
