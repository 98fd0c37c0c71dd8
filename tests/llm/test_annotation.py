"""A thousand dialogues annotated by way of a server that fails one call in five: the tables of one that never does."""

import json
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from faulty_server import EVERY_FAULT, WRONG_FORM, FaultyServer

from sage_dialog import schemas
from sage_dialog.llm.client import Client
from sage_dialog.llm.journal import Journal
from sage_dialog.pipelines.sac_augmentation.nodes import annotate_dialogues
from sage_dialog.roles.llm_annotator import LLMAnnotator
from sage_dialog.tables import table

PROMPT = Path(__file__).parents[2] / "conf" / "base" / "prompts" / "annotator.txt"
FEELINGS = ("Glad", "sad ", "null", "A bit worried")


def annotated(body: dict[str, Any]) -> str:
    """Labels that depend on the words alone; every fiftieth dialogue or so is beyond this annotator."""
    said = re.findall(r"^(\d+)\. (user|assistant): (.*)$", body["messages"][1]["content"], re.MULTILINE)
    if "number 7 of" in said[0][2]:
        return "This one is too sad for words."
    turns = [
        {
            "turn": int(number),
            "speaker": speaker,
            "motivation": "sharing",
            "emotion": FEELINGS[len(text) % len(FEELINGS)],
            "topics": [f"topic {len(text) % 5}"],
            "text": text.replace("dont", "don't"),
            "question": "And then?" if speaker == "assistant" else None,
        }
        for number, speaker, text in said
    ]
    return json.dumps({"turns": turns})


def dialogues(number: int) -> pa.Table:
    draw = random.Random(0)
    rows = [
        {
            "dialogue_id": f"d{place}",
            "subreddit": "s",
            "link_id": "t3_l",
            "month": "2015-01",
            "turns": [
                {"comment_id": f"c{place}/{turn}", "text": f"I dont know about number {place % 50} of them, {turn}"
                 + "." * draw.randint(1, 9) + f" Story {place}."} for turn in range(4)
            ],
            "n_turns": 4,
            "mean_words": 9.0,
            "min_sentiment": 0.5,
        }
        for place in range(number)
    ]  # fmt: skip
    return table(rows, schemas.DIALOGUES)


@pytest.fixture
def annotate(
    make_client: Callable[..., Client], serve: Callable[..., FaultyServer], tmp_path: Path
) -> Callable[..., tuple[FaultyServer, pa.Table, pa.Table, Journal]]:
    def annotate(number: int, **faults: Any) -> tuple[FaultyServer, pa.Table, pa.Table, Journal]:
        server = serve(reply=annotated, **faults)
        journal = Journal(tmp_path / f"{server.port}.sqlite")
        client = make_client(server.url, journal=journal, concurrency=64, timeout_s=1.0, attempts=20, useless_replies=8)
        return server, *annotate_dialogues(dialogues(number), LLMAnnotator(client, PROMPT)), journal

    return annotate


def test_faults_change_nothing_but_the_number_of_calls(annotate) -> None:
    _, annotations, rejects, _ = annotate(1000)
    assert len(rejects) == 20 and len(annotations) == 980 * 4
    assert set(rejects["raw_reply"].to_pylist()) == {"This one is too sad for words."}
    assert set(annotations["emotion"].to_pylist()) == {"glad", "sad", None, "a bit worried"}

    faulty, same, same_rejects, journal = annotate(1000, share=0.2, faults=EVERY_FAULT, seed=3)
    assert same.equals(annotations)
    # A reply of the wrong form is a reply; where it came as the second one, it is what the row shows.
    assert same_rejects["dialogue_id"].equals(rejects["dialogue_id"])
    assert set(same_rejects["raw_reply"].to_pylist()) <= {"This one is too sad for words.", WRONG_FORM}
    assert max(faulty.paid.values()) == 1
    failed = sum(call.outcome != "reply" for call in faulty.calls)
    assert failed > 200 and {call.outcome for call in faulty.calls} == {"reply", *EVERY_FAULT}
    assert sum(faulty.paid.values()) + failed == len(faulty.calls)
    (spent,) = journal.spent()
    assert spent.replies == sum(faulty.paid.values()) + sum(call.outcome == "wrong form" for call in faulty.calls)
    journal.close()
