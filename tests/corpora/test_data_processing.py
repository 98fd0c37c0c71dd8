"""The pipeline from raw folders to tables, run as Kedro runs it."""

import pandas as pd
import pytest
from kedro.io import DataCatalog, MemoryDataset
from kedro.runner import SequentialRunner
from matplotlib.figure import Figure

from sage_dialog import schemas
from sage_dialog.config import Corpora, DataProcessing, RedditRules
from sage_dialog.core.tables import to_arrow, to_rows
from sage_dialog.corpora.reddit import funnel
from sage_dialog.pipelines.data_processing import create_pipeline


class Kept(MemoryDataset):
    """A value that stays after its last reader."""

    def _release(self) -> None:
        pass


@pytest.fixture
def run(months, happy, tmp_path_factory):
    csv = tmp_path_factory.mktemp("situations") / "train.csv"
    csv.write_text(
        "conv_id,utterance_idx,context,prompt,speaker_idx,utterance,selfeval,tags\n"
        "hit:0_conv:1,1,sad,I lost my dog.,3,I lost my dog.,5|5|5_5|5|5,\n"
    )
    months.thread()
    months.chain(happy)

    def run_pipeline(dumps=None, **rules):
        raw = {
            "reddit_dumps": months.files() if dumps is None else dumps,
            "empathetic_dialogues": {"train.csv": csv},
            "params:data_processing": DataProcessing.from_base(
                rule_sets={"paper": RedditRules.from_base(**rules)}, workers=1
            ),
            **{name: {} for name in ("esconv", "dailydialog", "empathetic_intents", "own_dialogues")},
            "params:corpora": Corpora.from_base(),
            "params:data_processing.same_text_situations": "first",
            "params:scratch": str(tmp_path_factory.mktemp("scratch")),
        }
        outputs = (
            *("dialogues", "filter_report", "rejected_lines", "filter_figure", "situations"),
            *("corpus_dialogues", "corpus_rejects", "text_duplicates"),
        )
        catalog = DataCatalog({name: MemoryDataset(data) for name, data in raw.items()})
        for name in outputs:
            catalog[name] = Kept()
        SequentialRunner().run(create_pipeline(), catalog)
        return {name: catalog.load(name) for name in outputs}

    return run_pipeline


def test_raw_folders_become_tables_of_their_schemas(run):
    tables = run()
    assert isinstance(tables.pop("filter_figure"), Figure)
    for name, table in tables.items():
        schema = getattr(schemas, name.upper())
        assert {column: dtype.pyarrow_dtype for column, dtype in table.dtypes.items()} == dict(
            zip(schema.names, schema.types, strict=True)
        )
        to_arrow(table, schema).validate(full=True)
        assert table.empty == (name in ("rejected_lines", "corpus_dialogues", "corpus_rejects", "text_duplicates"))
    assert to_rows(tables["situations"]) == [
        {"situation_id": "hit:0_conv:1", "split": "train", "emotion": "sad", "text": "I lost my dog."}
    ]


def test_the_same_input_gives_the_same_tables(run):
    first, second = run(), run()
    del first["filter_figure"], second["filter_figure"]
    for name, table in first.items():
        pd.testing.assert_frame_equal(table, second[name])


def test_no_dialogue_is_a_table_without_rows_and_a_warning(run, caplog):
    assert run(min_sentiment=0.999)["dialogues"].empty
    assert "No Reddit dialogue passed the rules" in caplog.text


def test_without_dumps_the_tables_of_reddit_are_empty(run, caplog):
    tables = run(dumps={})
    assert tables["dialogues"].empty and tables["filter_report"].empty and tables["rejected_lines"].empty
    assert isinstance(tables["filter_figure"], Figure)
    assert "dialogues come from corpora alone" in caplog.text


def test_a_rule_that_removes_almost_everything_is_logged_by_name(run, caplog, monkeypatch):
    monkeypatch.setattr(funnel, "_MIN_REACHED", 1)
    run(min_mean_words=50)
    assert "mean_words removes 100 % of 1 paths" in caplog.text
