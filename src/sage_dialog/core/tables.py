"""Tables: pandas DataFrames with Arrow-backed columns, and their conversion from and to rows and Arrow tables.

`DataFrame` and `Schema` are the names for annotations of node functions: Kedro's commands import every node and resolve
its signature, and pandas and pyarrow are imported only when a table is built.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
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


def table(rows: Iterable[Mapping[str, Any]], schema: Schema) -> Table:
    """Rows as a `pyarrow.Table` of one of `schemas`; a column that a row lacks is null."""
    import pyarrow as pa

    return pa.Table.from_pylist(list(rows), schema=schema)


def on_arrow(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a node function that works on Arrow tables DataFrames as inputs and outputs."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        outputs = function(*map(_in, args), **{name: _in(value) for name, value in kwargs.items()})
        return tuple(map(_out, outputs)) if isinstance(outputs, tuple) else _out(outputs)

    return call


def _in(value: Any) -> Any:
    return to_arrow(value) if type(value).__name__ == "DataFrame" else value


def _out(value: Any) -> Any:
    return from_arrow(value) if type(value).__name__ == "Table" else value
