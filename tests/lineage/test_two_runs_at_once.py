"""Two runs at the same time, in data folders of their own, share a response cache."""

from __future__ import annotations

import json
import os
import re
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from faulty_server import FaultyServer
from kedro.io import Version

from sage_dialog import schemas
from sage_dialog.core.tables import from_rows
from sage_dialog.datasets.parquet import AtomicParquet
from sage_dialog.lineage.content import content_of
from sage_dialog.lineage.run_folder import RunFolder

PROJECT = Path(__file__).parents[2]
DIALOGUES = 16
OLD = "2026-03-01T12.00.00.000Z"


def annotated(body: dict[str, Any]) -> str:
    messages = re.findall(r"^(\d+)\. (user|assistant): (.*)$", body["messages"][1]["content"], re.MULTILINE)
    turns = [
        {"turn": int(number), "speaker": speaker, "motivation": "Sharing", "emotion": None, "topics": ["dogs"],
         "text": text, "question": None} for number, speaker, text in messages
    ]  # fmt: skip
    return json.dumps({"turns": turns})


@pytest.mark.slow
def test_two_runs_keep_their_own_versions_and_send_each_request_once(tmp_path: Path) -> None:
    rows = [
        {"dialogue_id": f"d{number}", "subreddit": "s", "link_id": "t3_l", "month": "2015-01", "n_turns": 2,
         "turns": [{"comment_id": f"c{number}{turn}", "text": f"My dog number {number} is fine, turn {turn}."}
                   for turn in range(2)], "mean_words": 7.0, "min_sentiment": 0.5} for number in range(DIALOGUES)
    ]  # fmt: skip
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        for name, table in (
            ("dialogues", from_rows(rows, schemas.DIALOGUES)),
            ("corpus_dialogues", from_rows([], schemas.CORPUS_DIALOGUES)),
            ("text_duplicates", from_rows([], schemas.TEXT_DUPLICATES)),
        ):
            path = str(folder / f"02_intermediate/{name}.parquet")
            AtomicParquet(filepath=path, version=Version(None, OLD)).save(table)
    response_cache = tmp_path / "responses.sqlite"
    with FaultyServer(reply=annotated, models=("served-model",), latency_s=0.05) as server:
        options = ["--env", "vllm", "--nodes", "sac_augmentation.annotate_dialogues"]
        options += ["--params", f"llm.response_cache={response_cache}"]
        command = [sys.executable, "-m", "kedro", "run", *options]
        both = [
            subprocess.Popen(
                command,
                cwd=PROJECT,
                env=os.environ | {"SAGE_DATA": str(folder), "VLLM_URL": server.url},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
            for folder in folders
        ]
        logs = [run.communicate()[0].decode() for run in both]
    assert [run.returncode for run in both] == [0, 0], logs
    records = [runs.load(name) for runs in (RunFolder(folder / "runs") for folder in folders) for name in runs.names()]
    assert len(records) == 2 and {record.status for record in records} == {"done"}
    assert len({record.process.pid for record in records}) == 2
    for folder, record in zip(folders, records, strict=True):
        assert set(record.writes) == {"annotations", "annotation_rejects"}
        for name, written in record.writes.items():
            path = folder / f"03_primary/{name}.parquet" / record.run / f"{name}.parquet"
            assert written.version == record.run and written.sha256 == content_of(path).sha256
        assert record.reads["dialogues"].version == OLD and record.reads["annotator"].definition["endpoint"]["hosts"]
    assert len({record.writes["annotations"].sha256 for record in records}) == 1
    with sqlite3.connect(response_cache) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert connection.execute("SELECT count(*) FROM responses").fetchone() == (DIALOGUES,)
        assert connection.execute("SELECT count(*) FROM claims").fetchone() == (0,)
    assert sum(record.spent["the run"].calls for record in records if record.spent) == DIALOGUES
    assert {name for record in records for name in record.answered} == {"annotator"}
