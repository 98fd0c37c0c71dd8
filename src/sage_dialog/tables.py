"""The type of the tables that nodes take and give, and how rows become one.

Kedro's commands import every node and resolve its signature. pyarrow comes in with the first table, not before.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pyarrow import Schema, Table
else:
    Schema = Table = Any


def table(rows: Sequence[dict[str, Any]], schema: Schema) -> Table:
    """Rows as a `pyarrow.Table` of one of `schemas`; a column that a row lacks is null."""
    import pyarrow as pa

    return pa.Table.from_pylist(rows, schema=schema)
