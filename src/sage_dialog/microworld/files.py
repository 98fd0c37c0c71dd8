"""Raw files of the demo world except Reddit: EmpatheticDialogues CSVs with their truth, and instructions."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from typing import Any

from sage_dialog.config import Split
from sage_dialog.core.seeds import generator
from sage_dialog.corpora.empathetic import COLUMNS
from sage_dialog.microworld.base_text import ASSISTANT_PROMPT, suited_motivation
from sage_dialog.microworld.world import World, pick


def empathetic_dialogues(
    world: World, sizes: Mapping[Split, int], seed: int
) -> tuple[dict[str, bytes], list[dict[str, Any]]]:
    """Return `train.csv`, `valid.csv`, `test.csv` in the original format, and the truth of each situation.

    Truth rows have situation_id, split, emotion, topic and the suitable motivations. No text occurs twice.
    """
    files, truth = {}, []
    seen: set[str] = set()
    for split, size in sizes.items():
        sheet = io.StringIO()
        writer = csv.writer(sheet, quoting=csv.QUOTE_NONE, quotechar=None, lineterminator="\n")
        writer.writerow(COLUMNS)
        number = attempt = 0
        while number < size:
            rng = generator(seed, "situation", split, attempt)
            attempt += 1
            scene = world.scene(rng)
            if scene.text in seen:
                continue
            seen.add(scene.text)
            conversation = f"hit:{number}_conv:{split}{number}"
            reply = world.reply(rng, scene, suited_motivation(world, rng, scene, 0.6), scene.things[0])
            for position, text in enumerate((scene.text, reply, world.follow_up(rng, scene, True, scene.things[1])), 1):
                row = [conversation, position, scene.emotion, scene.text, position % 2, text, "5|5|5_5|5|5", ""]
                writer.writerow([str(cell).replace(",", "_comma_") for cell in row])
            truth.append(
                {
                    "situation_id": conversation,
                    "split": split,
                    "emotion": scene.emotion,
                    "topic": scene.topic,
                    "suitable": list(world.suitable(scene.emotion)),
                }
            )
            number += 1
        files[f"{split}.csv"] = sheet.getvalue().encode()
    return files, truth


def instructions(world: World, count: int, seed: int) -> dict[str, bytes]:
    """Return `sharegpt.json`: plain questions about the world's topics, answered in one sentence."""
    conversations = []
    for number in range(count):
        rng = generator(seed, "instruction", number)
        scene = world.scene(rng)
        turns = [{"from": "system", "value": ASSISTANT_PROMPT}]
        for topic in (scene.topic, pick(rng, list(world.parts["topics"]))):
            things = world.parts["topics"][topic]["things"]
            chosen = [things[i] for i in rng.permutation(len(things))[:2]]
            turns += [
                {"from": "human", "value": f"Name two things that go with the {topic}."},
                {"from": "gpt", "value": f"For the {topic}, think of {chosen[0]} and {chosen[1]}."},
            ]
        conversations.append({"id": f"instruction-{number}", "conversations": turns})
    return {"sharegpt.json": json.dumps(conversations, indent=1).encode()}
