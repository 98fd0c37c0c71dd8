"""Tables of votes and words from plain values, and rows of the tables that metrics return, for tests."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa

from sage_dialog import schemas
from sage_dialog.core.tables import DataFrame, from_rows, to_rows

Row = dict[str, Any]


OUTCOMES = {"a": "a", "b": "b", "t": "tie"}
"""The votes of `letter_votes` by letter."""


def letter_votes(judge: str, letters: str, pair: tuple[str, str] = ("old", "new"), start: int = 0) -> list[Row]:
    """Return votes on a pair, equal in both orders, with one letter of OUTCOMES for each situation."""
    return [
        {"judge": judge, "policy_a": pair[0], "policy_b": pair[1], "situation_id": f"s{place}", "order": order}
        | {"vote": OUTCOMES[letter]}
        for place, letter in enumerate(letters, start)
        for order in ("ab", "ba")
    ]


def votes_table(rows: Iterable[Mapping[str, Any]]) -> DataFrame:
    return from_rows(rows, schemas.JUDGE_VOTES)


def words_table(words: Mapping[str, Mapping[str, int]]) -> DataFrame:
    """Return a table like that of `length.count_words` from words by policy and situation."""
    schema = pa.schema([("policy", pa.string()), ("situation_id", pa.string()), ("words", pa.int64())])
    rows = [
        {"policy": policy, "situation_id": situation, "words": count}
        for policy, by_situation in words.items()
        for situation, count in by_situation.items()
    ]
    return from_rows(rows, schema)


def table_rows(frame: DataFrame, schema: pa.Schema) -> list[Row]:
    """Return the rows of a table after checking that its columns and types are those of a schema."""
    types = [(name, dtype.pyarrow_dtype) for name, dtype in frame.dtypes.items()]
    assert types == [(field.name, field.type) for field in schema]
    return to_rows(frame)
