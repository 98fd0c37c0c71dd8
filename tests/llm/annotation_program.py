"""Dialogues, and a program that annotates them in a process of its own, which a test may kill.

python annotation_program.py URL JOURNAL DIALOGUES FOLDER
"""

import json
import random
import re
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from faulty_server import WRONG_FORM

from sage_dialog import schemas
from sage_dialog.config import Caps
from sage_dialog.core.tables import table
from sage_dialog.llm.budget import Budget
from sage_dialog.llm.endpoint import Endpoint
from sage_dialog.llm.live_client import LiveClient
from sage_dialog.llm.response_cache import ResponseCache
from sage_dialog.pipelines.sac_augmentation.nodes import annotate_dialogues
from sage_dialog.roles.llm.annotator import LLMAnnotator

PROMPT = Path(__file__).parents[2] / "conf" / "base" / "prompts" / "annotator.txt"
FEELINGS = ("Glad", "sad ", "null", "A bit worried")


def annotated(body: dict[str, Any]) -> str:
    """Labels that depend on the words alone; every fiftieth dialogue or so is beyond this annotator."""
    said = re.findall(r"^(\d+)\. (user|assistant): (.*)$", body["messages"][1]["content"], re.MULTILINE)
    if "number 7 of" in said[0][2]:
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


def main() -> None:
    url, response_cache, number, folder = sys.argv[1:]
    endpoint = Endpoint(base_urls=(url,), model="some-model", concurrency=16)
    client = LiveClient(endpoint, ResponseCache(Path(response_cache)), Budget(Caps(), {}, {}))
    tables = annotate_dialogues(dialogues(int(number)), LLMAnnotator(client, PROMPT))
    for name, rows in zip(("annotations", "rejects"), tables, strict=True):
        pq.write_table(rows, Path(folder) / f"{name}.parquet")


if __name__ == "__main__":
    main()
