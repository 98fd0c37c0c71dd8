"""Short forms in which schemas are declared: `schema(name=STRING, n=nullable(INT32), **INTERVAL)`."""

import pyarrow as pa

STRING, BOOL, INT32, INT64, FLOAT64 = pa.string(), pa.bool_(), pa.int32(), pa.int64(), pa.float64()
STRINGS = pa.list_(STRING)

INTERVAL = {"low": FLOAT64, "high": FLOAT64}
ESTIMATE = {"n": INT32, "value": FLOAT64, **INTERVAL}
SHARE = {"n": INT32, "count": INT32, "share": FLOAT64, **INTERVAL}


def schema(**columns: pa.DataType | pa.Field) -> pa.Schema:
    """Return a schema of columns in the given order; a column of a plain type may not be null."""
    return pa.schema(required(**columns))


def required(**columns: pa.DataType | pa.Field) -> list[pa.Field]:
    """Return fields by name; a plain type may not be null, a field keeps whether it may."""
    return [
        column.with_name(name) if isinstance(column, pa.Field) else pa.field(name, column, nullable=False)
        for name, column in columns.items()
    ]


def nullable(kind: pa.DataType) -> pa.Field:
    """Return a column that may be null."""
    return pa.field("", kind)


def nullable_floats(*names: str) -> dict[str, pa.Field]:
    """Return columns of numbers that may be null, such as an estimate and its interval."""
    return dict.fromkeys(names, nullable(FLOAT64))


def intent(prefix: str) -> dict[str, pa.Field]:
    """Return the columns of an intent, each of which may be null."""
    kinds = {"motivation": STRING, "emotion": STRING, "topics": STRINGS}
    return {f"{prefix}{name}": nullable(kind) for name, kind in kinds.items()}


def sources() -> dict[str, pa.Field]:
    """Return the columns that say where each label of an intent comes from; null where there is no label."""
    return {f"{name}_source": nullable(STRING) for name in ("motivation", "emotion", "topics")}


MESSAGES = pa.list_(pa.field("element", pa.struct(required(role=STRING, content=STRING)), nullable=False))
