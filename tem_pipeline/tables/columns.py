"""What a column is: name, type, unit and meaning; and how a table is brought into its schema."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from tem_pipeline.errors import UserError

if TYPE_CHECKING:  # Every command loads this module, and pandas takes a fifth of a second.
    import pandas as pd

SCHEMA_VERSION = "2"
VERSION_METADATA = {"schema_version": SCHEMA_VERSION}
TEXT, INTEGER, REAL, BOOLEAN = pa.string(), pa.int64(), pa.float64(), pa.bool_()


def column(name: str, kind: pa.DataType, unit: str, meaning: str, nullable: bool = True) -> pa.Field:
    """Define a column of a table.

    Parameters
    ----------
    name : str
    kind : DataType
    unit : str
        "1" for ratios and counts; empty for text, flags and identifiers; "see unit" where another column of
        the row names it.
    meaning : str
        One line for the data dictionary.
    nullable : bool
    """
    return pa.field(name, kind, nullable, metadata={"unit": unit, "description": meaning})


def conform(frame: "pd.DataFrame | pa.Table | Sequence[Mapping[str, Any]]", schema: pa.Schema) -> pa.Table:
    """Cast a table to a schema: its columns, order, types and metadata.

    Parameters
    ----------
    frame : DataFrame, Table or sequence of mapping
        A mapping is a row: values by column. Missing columns that may be null are added as nulls; NaN
        becomes null.
    schema : Schema

    Returns
    -------
    Table

    Raises
    ------
    UserError
        Naming a column that is unknown, missing, of another type or null where it must not be.
    """
    if isinstance(frame, Sequence):
        names = list({name: None for row in frame for name in row})
        columns: Any = {name: [row.get(name) for row in frame] for name in names}
    else:
        names = list(frame.column_names if isinstance(frame, pa.Table) else frame.columns)
        columns = frame
    if unknown := [str(name) for name in names if name not in schema.names]:
        raise UserError(
            f"column {unknown[0]!r} isn't in the schema; its columns are {', '.join(schema.names)}"
        )
    arrays = []
    for field in schema:
        if field.name in names:
            array = _cast(columns[field.name], field)
        elif field.nullable:
            array = pa.nulls(len(frame), field.type)
        else:
            raise UserError(f"column {field.name!r} is missing")
        if not field.nullable and array.null_count:
            row = int(np.flatnonzero(array.is_null().to_numpy(zero_copy_only=False))[0])
            raise UserError(f"column {field.name!r} is empty in row {row} and must not be")
        arrays.append(array)
    return pa.Table.from_arrays(arrays, schema=schema)


def _cast(values: Any, field: pa.Field) -> pa.Array:
    try:
        if isinstance(values, pa.ChunkedArray):
            return values.combine_chunks().cast(field.type)
        if pa.types.is_dictionary(field.type):
            # pyarrow can't make a dictionary array directly from a column without rows.
            return pa.array(values, type=field.type.value_type, from_pandas=True).cast(field.type)
        return pa.array(values, type=field.type, from_pandas=True)
    except (pa.ArrowException, TypeError) as error:
        raise UserError(f"column {field.name!r} can't be read as {field.type}: {error}") from error
