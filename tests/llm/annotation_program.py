"""Dialogues to annotate, and a program that annotates them in a process of its own, which a test may kill.

python annotation_program.py URL CACHE DIALOGUES FOLDER
"""

import json
import random
import re
import sys
from pathlib import Path
from typing import Any

import pandas as pd
from faulty_server import WRONG_FORM
from live_program import MODEL

from sage_dialog import schemas
from sage_dialog.config import Caps
from sage_dialog.core.tables import from_rows
from sage_dialog.llm.budget import Budget
from sage_dialog.llm.endpoint import Endpoint
from sage_dialog.llm.live_client import LiveClient
from sage_dialog.llm.response_cache import ResponseCache
from sage_dialog.roles.llm.annotator import LLMAnnotator
from sage_dialog.training_data.annotation import label_dialogues

PROMPT = Path(__file__).parents[2] / "conf" / "base" / "prompts" / "annotator.txt"
NO_CORPORA = from_rows([], schemas.CORPUS_DIALOGUES)
FEELINGS = ("Glad", "sad ", "null", "A bit worried")


def annotate(body: dict[str, Any]) -> str:
    """Return labels that depend on the text alone; a fiftieth of the dialogues get an unusable response."""
    utterances = re.findall(r"^(\d+)\. (user|assistant): (.*)$", body["messages"][1]["content"], re.MULTILINE)
    if "number 7 of" in utterances[0][2]:
        return WRONG_FORM
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
        for number, speaker, text in utterances
    ]
    return json.dumps({"turns": turns})


def make_dialogues(number: int) -> pd.DataFrame:
    draw = random.Random(0)

    def text(dialogue: int, turn: int) -> str:
        dots = "." * draw.randint(1, 9)
        return f"I dont know about number {dialogue % 50} of them, {turn}{dots} Story {dialogue}."

    rows = [
        {
            "dialogue_id": f"d{dialogue}",
            "subreddit": "s",
            "link_id": "t3_l",
            "month": "2015-01",
            "turns": [{"comment_id": f"c{dialogue}/{turn}", "text": text(dialogue, turn)} for turn in range(4)],
            "n_turns": 4,
            "mean_words": 9.0,
            "min_sentiment": 0.5,
        }
        for dialogue in range(number)
    ]
    return from_rows(rows, schemas.DIALOGUES)


def main() -> None:
    url, response_cache, number, folder = sys.argv[1:]
    endpoint = Endpoint(base_urls=(url,), model=MODEL, concurrency=16)
    client = LiveClient(endpoint, ResponseCache(Path(response_cache)), Budget(Caps(), {}, {}))
    tables = label_dialogues(make_dialogues(int(number)), NO_CORPORA, LLMAnnotator(client, PROMPT), "dialogues")
    for name, table in zip(("annotations", "rejects"), tables, strict=True):
        table.to_parquet(Path(folder) / f"{name}.parquet")


if __name__ == "__main__":
    main()
