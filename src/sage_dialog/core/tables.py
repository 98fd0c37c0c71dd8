"""Tables: pandas DataFrames with Arrow-backed columns, and their conversion from and to rows and Arrow tables.

`DataFrame` and `Schema` are the names for annotations of node functions: Kedro's commands import every node and resolve
its signature, and pandas and pyarrow are imported only when a table is built.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pandas import DataFrame
    from pyarrow import Schema, Table
else:
    DataFrame = Schema = Table = Any


def from_rows(rows: Iterable[Mapping[str, Any]], schema: Schema) -> DataFrame:
    """Return rows as a DataFrame with the columns and types of a schema; a column that a row lacks is null."""
    import pyarrow as pa

    return from_arrow(pa.Table.from_pylist(list(rows), schema=schema))


def to_rows(frame: DataFrame) -> list[dict[str, Any]]:
    """Return a DataFrame as dictionaries of Python values; null is None, nested values are lists and dictionaries."""
    return to_arrow(frame).to_pylist()


def from_arrow(table: Table) -> DataFrame:
    """Return an Arrow table as a DataFrame without copying; nested types and nullable integers stay as they are."""
    import pandas as pd

    return table.to_pandas(types_mapper=pd.ArrowDtype)


def to_arrow(frame: DataFrame, schema: Schema | None = None) -> Table:
    """Return a DataFrame as an Arrow table, in the column order and types of `schema` where one is given.

    Raises:
        KeyError: if a column of the schema is missing.
        pyarrow.ArrowInvalid: if a value does not fit its type.
    """
    import pyarrow as pa

    return pa.Table.from_pandas(frame, schema=schema, preserve_index=False).replace_schema_metadata(None)


def conform(frame: DataFrame, schema: Schema) -> DataFrame:
    """Return the columns of `schema` in its order and types, such as after a `groupby` that changed integer widths."""
    return from_arrow(to_arrow(frame, schema))
