"""The catalog's `validator:` for tables: exactly the columns, types and required values of a schema.

In the catalog::

    validator: sage_dialog.datasets.schema.DIALOGUES # any name of sage_dialog.schemas
"""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc
from kedro.validation import CheckFailure, DataValidationError

from sage_dialog import schemas
from sage_dialog.core.tables import DataFrame, to_arrow


class TableSchema:
    """Refuses a DataFrame that is not of the named schema; the DataFrame itself passes unchanged.

    Raises:
        AttributeError: if `sage_dialog.schemas` has no schema of this name.
        DataValidationError: from `validate`, with one failure a column.
    """

    def __init__(self, schema: str) -> None:
        expected = getattr(schemas, schema, None)
        if not isinstance(expected, pa.Schema):
            known = sorted(name for name, value in vars(schemas).items() if isinstance(value, pa.Schema))
            raise AttributeError(f"sage_dialog.schemas has no schema {schema!r}; it has {', '.join(known)}")
        self.name = schema
        self.expected: pa.Schema = expected

    def validate(self, data: DataFrame) -> DataFrame:
        import pandas as pd

        if not isinstance(data, pd.DataFrame):
            found = f"{type(data).__module__}.{type(data).__qualname__}"
            raise DataValidationError(f"Expected a pandas.DataFrame with schema {self.name}, found {found}")
        if failures := list(self._failures(data)):
            raise DataValidationError(f"Not a table of schema {self.name}", failures=failures)
        return data

    def _failures(self, data: DataFrame) -> Iterator[CheckFailure]:
        names = list(data.columns)
        for field in self.expected:
            if (count := names.count(field.name)) != 1:
                yield _failure(field.name, f"expected one column of type {field.type}, found {count or 'none'}")
                continue
            values = to_arrow(data[[field.name]]).column(0)
            if values.type != field.type:
                yield _failure(field.name, f"expected type {field.type}, found {values.type}")
                continue
            for path, nulls in _nulls(values, field, field.name):
                yield _failure(path, "required, but null", nulls)
        for name in names:
            if name not in self.expected.names:
                yield _failure(name, f"no column of schema {self.name}")
        if sorted(names) == sorted(self.expected.names) and names != self.expected.names:
            yield _failure(None, f"expected columns in the order {self.expected.names}")


def __getattr__(name: str) -> TableSchema:
    """Return the validator for a schema by its name, by which a catalog entry refers to it."""
    if not name.isupper():
        raise AttributeError(f"module {__name__} has no attribute {name!r}")
    return TableSchema(name)


def _failure(column: str | None, check: str, count: int = 1) -> CheckFailure:
    return CheckFailure(message=check, check=check, column=column, failure_count=count)


def _nulls(values: pa.ChunkedArray, field: pa.Field, path: str) -> list[tuple[str, int]]:
    """Return the paths at which required values are null, nested ones included, with their counts."""
    found = [(path, values.null_count)] if values.null_count and not field.nullable else []
    values = values.drop_null()
    if pa.types.is_list(field.type):
        found += _nulls(pc.list_flatten(values), field.type.value_field, f"{path}[]")
    elif pa.types.is_struct(field.type):
        for child in field.type.fields:
            found += _nulls(pc.struct_field(values, child.name), child, f"{path}.{child.name}")
    return found
