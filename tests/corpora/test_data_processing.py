"""The pipeline from raw folders to tables, run as Kedro runs it."""

import pyarrow as pa
import pytest
from kedro.io import DataCatalog, MemoryDataset
from kedro.runner import SequentialRunner

from sage_dialog import schemas
from sage_dialog.config import DataProcessing, RedditRules
from sage_dialog.pipelines.data_processing import create_pipeline


class Kept(MemoryDataset):
    """Stays when its last reader is done."""

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

    def run_pipeline(**rules):
        raw = {
            "reddit_dumps": months.files(),
            "empathetic_dialogues": {"train.csv": csv},
            "params:data_processing": DataProcessing.from_base(
                rule_sets={"paper": RedditRules.from_base(**rules)}, workers=1
            ),
            "params:scratch": str(tmp_path_factory.mktemp("scratch")),
        }
        outputs = ("dialogues", "filter_report", "rejected_lines", "filter_figure", "situations")
        catalog = DataCatalog({name: MemoryDataset(data) for name, data in raw.items()})
        for name in outputs:
            catalog[name] = Kept()
        SequentialRunner().run(create_pipeline(), catalog)
        return {name: catalog.load(name) for name in outputs}

    return run_pipeline


def test_raw_folders_become_tables_of_their_schemas(run):
    tables = run()
    assert tables.pop("filter_figure").startswith(b"\x89PNG")
    assert tables.pop("rejected_lines").schema == schemas.REJECTED_LINES
    for name, table in tables.items():
        assert isinstance(table, pa.Table)
        assert table.schema == getattr(schemas, name.upper())
        table.validate(full=True)
        assert table.num_rows > 0
    assert tables["situations"].to_pylist() == [
        {"situation_id": "hit:0_conv:1", "split": "train", "emotion": "sad", "text": "I lost my dog."}
    ]


def test_the_same_input_gives_the_same_tables(run):
    assert run() == run()


def test_no_dialogue_is_a_table_without_rows_and_a_warning(run, caplog):
    assert run(min_sentiment=0.999)["dialogues"].num_rows == 0
    assert "No Reddit dialogue passed the rules" in caplog.text
