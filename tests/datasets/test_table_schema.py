"""The catalog refuses a table that does not match its schema, and leaves no version of it."""

from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest
from kedro.io import DataCatalog
from kedro.validation import DataValidationError, ValidationConfigurationError

from sage_dialog import schemas
from sage_dialog.core.tables import from_rows, to_arrow, to_rows
from sage_dialog.datasets.schema import TableSchema

DIALOGUE = {
    "dialogue_id": "d1",
    "subreddit": "s",
    "link_id": "t3_1",
    "month": "2015-01",
    "turns": [{"comment_id": "c1", "author": None, "text": "hello"}],
    "n_turns": 1,
    "mean_words": 1.0,
    "min_sentiment": 0.5,
}


def dialogues(*changes: dict[str, object]) -> pd.DataFrame:
    return from_rows([{**DIALOGUE, **change} for change in changes or ({},)], schemas.DIALOGUES)


def catalog(tmp_path: Path, name: str = "dialogues", schema: str = "DIALOGUES") -> DataCatalog:
    entry = {
        "type": "sage_dialog.datasets.parquet.AtomicParquet",
        "filepath": str(tmp_path / f"{name}.parquet"),
        "versioned": True,
        "validator": f"sage_dialog.datasets.schema.{schema}",
    }
    return DataCatalog.from_config({name: entry})


def refusal(table: object) -> str:
    with pytest.raises(DataValidationError) as refused:
        TableSchema("DIALOGUES").validate(table)
    return str(refused.value)


def test_a_valid_table_is_saved_and_loaded(tmp_path: Path) -> None:
    catalog(tmp_path).save("dialogues", dialogues())
    assert to_rows(catalog(tmp_path).load("dialogues")) == [DIALOGUE]


@pytest.mark.parametrize("name", sorted(name for name, value in vars(schemas).items() if isinstance(value, pa.Schema)))
def test_every_schema_takes_its_own_empty_table_through_parquet(tmp_path: Path, name: str) -> None:
    schema = getattr(schemas, name)
    catalog(tmp_path, "t", name).save("t", from_rows([], schema))
    assert to_arrow(catalog(tmp_path, "t", name).load("t"), schema).schema.equals(schema)


def test_a_refused_save_names_table_and_column_and_leaves_no_version(tmp_path: Path) -> None:
    wrong = dialogues().assign(mean_words=pd.array(["one"], dtype=pd.ArrowDtype(pa.string())))
    kept = catalog(tmp_path)
    with pytest.raises(DataValidationError) as refused:
        kept.save("dialogues", wrong)
    message = str(refused.value)
    assert "dataset 'dialogues' on save" in message
    assert "mean_words: expected type double, found string" in message
    assert not kept.exists("dialogues")
    assert not list(tmp_path.rglob("*.parquet"))


def test_a_table_of_another_schema_is_refused_on_load(tmp_path: Path) -> None:
    entry = {
        "type": "sage_dialog.datasets.parquet.AtomicParquet",
        "filepath": str(tmp_path / "dialogues.parquet"),
        "versioned": True,
    }
    DataCatalog.from_config({"dialogues": entry}).save("dialogues", pd.DataFrame({"n": [1]}))
    with pytest.raises(DataValidationError, match="dataset 'dialogues' on load"):
        catalog(tmp_path).load("dialogues")


def test_missing_and_unknown_columns_are_named() -> None:
    message = refusal(dialogues().drop(columns="month").assign(score=1))
    assert "month: expected one column of type string, found none" in message
    assert "score: no column of schema DIALOGUES" in message


def test_a_duplicate_column_is_counted() -> None:
    message = refusal(pd.concat([dialogues(), dialogues()[["month"]]], axis="columns"))
    assert "month: expected one column of type string, found 2" in message


def test_columns_in_another_order_are_refused() -> None:
    assert "in the order" in refusal(dialogues()[list(reversed(schemas.DIALOGUES.names))])


def test_nulls_in_required_columns_are_counted() -> None:
    assert "link_id: required, but null — 2 cases" in refusal(dialogues({"link_id": None}, {}, {"link_id": None}))


def test_nulls_in_nested_required_fields_are_found() -> None:
    turns = [{"comment_id": "c", "text": "x"}, {"comment_id": "d", "text": None}]
    assert "turns[].text: required, but null — 1 case" in refusal(dialogues({}, {"turns": turns}))


def test_nulls_in_nullable_columns_pass() -> None:
    row = {"situation_id": "s", "turn": 0, "candidate": 0, "text": "x", "valid": False, "chosen": False}
    table = from_rows([row], schemas.CANDIDATES)
    assert TableSchema("CANDIDATES").validate(table) is table


def test_data_of_another_type_are_named_by_it() -> None:
    assert "found builtins.list" in refusal([DIALOGUE])


def test_an_unknown_schema_lists_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(ValidationConfigurationError, match=r"no schema 'DIALOGS'; it has .*DIALOGUES"):
        catalog(tmp_path, schema="DIALOGS").save("dialogues", dialogues())
