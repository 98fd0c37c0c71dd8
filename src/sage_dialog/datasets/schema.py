"""The catalog's `validator:` for tables: exactly the columns, types and required values of `schemas.py`."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc
from kedro.validation import CheckFailure, DataValidationError

from sage_dialog import schemas
from sage_dialog.core.tables import DataFrame, to_arrow


class TableSchema:
    """Refuses a table that is not of the named schema; the table itself passes unchanged.

    In the catalog::

        validator:
          class: sage_dialog.datasets.schema.TableSchema
          options: {schema: DIALOGUES}

    Raises:
        ValueError: when built with a name that `schemas.py` does not have.
        DataValidationError: from `validate`, with one failure a column.
    """

    def __init__(self, schema: str) -> None:
        expected = getattr(schemas, schema, None)
        if not isinstance(expected, pa.Schema):
            known = sorted(name for name, value in vars(schemas).items() if isinstance(value, pa.Schema))
            raise ValueError(f"schemas.py has no schema {schema!r}; it has {', '.join(known)}")
        self.name = schema
        self.expected: pa.Schema = expected

    def validate(self, data: DataFrame) -> DataFrame:
        import pandas as pd

        if not isinstance(data, pd.DataFrame):
            found = f"{type(data).__module__}.{type(data).__qualname__}"
            raise DataValidationError(f"Expected a pandas.DataFrame with schema {self.name}, found {found}")
        arrow = to_arrow(data)
        if failures := [*self._column_failures(arrow), *self._null_failures(arrow)]:
            raise DataValidationError(f"Not a table of schema {self.name}", failures=failures)
        return data

    def _column_failures(self, data: pa.Table) -> list[CheckFailure]:
        failures = []
        for field in self.expected:
            if (count := data.column_names.count(field.name)) != 1:
                failures.append(
                    _failure(field.name, f"expected one column of type {field.type}, found {count or 'none'}")
                )
            elif (found := data.schema.field(field.name).type) != field.type:
                failures.append(_failure(field.name, f"expected type {field.type}, found {found}"))
        unknown = [name for name in data.column_names if name not in self.expected.names]
        failures += [_failure(name, f"no column of schema {self.name}") for name in unknown]
        if not failures and data.column_names != self.expected.names:
            failures.append(_failure(None, f"expected columns in the order {self.expected.names}"))
        return failures

    def _null_failures(self, data: pa.Table) -> list[CheckFailure]:
        failures = []
        for field in self.expected:
            if data.column_names.count(field.name) == 1 and data.schema.field(field.name).type == field.type:
                for path, count in _nulls(data.column(field.name), field, field.name):
                    failures.append(_failure(path, "required, but null", count))
        return failures


def _failure(column: str | None, check: str, count: int = 1) -> CheckFailure:
    return CheckFailure(message=check, check=check, column=column, failure_count=count)


def _nulls(values: pa.ChunkedArray, field: pa.Field, path: str) -> list[tuple[str, int]]:
    """Where required values of a column are null, nested ones included, and how many are."""
    found = [(path, values.null_count)] if values.null_count and not field.nullable else []
    present = values.drop_null()
    if pa.types.is_list(field.type):
        found += _nulls(pc.list_flatten(present), field.type.value_field, f"{path}[]")
    elif pa.types.is_struct(field.type):
        for child in field.type.fields:
            found += _nulls(pc.struct_field(present, child.name), child, f"{path}.{child.name}")
    return found
