"""Measure what the offline annotator, selector and judge are worth on real conversations.

    python benchmarks/offline_roles.py FILE…    # conversations in messages or ShareGPT form (docs/training-mix.md)
    python benchmarks/offline_roles.py --quick  # generated conversations

The annotator: the share of utterances that get a label. The selector: how often it picks the reply that a person gave
among 16, of which 15 are of other conversations (chance: 1 in 16). The judge: how often it prefers a conversation
to the same one with all replies taken from other conversations. Intervals are of 95 %, clustered by conversation. The
last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from sage_dialog.config import Microworld
from sage_dialog.corpora.conversations import read_conversations
from sage_dialog.dialogue import Message
from sage_dialog.evaluation.statistics import clustered_share
from sage_dialog.microworld.files import instructions
from sage_dialog.microworld.world import load_world
from sage_dialog.roles.offline.annotator import OfflineAnnotator
from sage_dialog.roles.offline.judge import OfflineJudge
from sage_dialog.roles.offline.selector import OfflineSelector
from sage_dialog.roles.protocols import Choice, Comparison, RejectedDialogue

CANDIDATES = 16
Conversation = tuple[Message, ...]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--conversations", type=int, default=2000, help="drawn from each file")
    options = parser.parse_args()
    if not options.files and not options.quick:
        parser.error("name a file of conversations, or --quick")
    with tempfile.TemporaryDirectory() as folder:
        files = [*options.files, *_generated(Path(folder))] if options.quick else options.files
        measured = {file.name: _measure(file, options.conversations) for file in files}
    for name, rows in measured.items():
        print(f"\n{name}")
        for what, row in rows.items():
            print(f"  {what:<36}{row['share']:6.1%}  ({row['low']:.1%} to {row['high']:.1%}; n = {row['n']:,})")
    print(json.dumps(measured))


def _generated(folder: Path) -> Iterator[Path]:
    """Yield a file of generated conversations."""
    for name, content in instructions(load_world(), Microworld.from_base().instructions, seed=0).items():
        (folder / name).write_bytes(content)
        yield folder / name


def _measure(file: Path, at_most: int) -> dict[str, dict[str, float]]:
    read, _ = read_conversations({file.name: file})
    found = [tuple(message for message in dialogue.messages if message.role != "system") for dialogue in read]
    found = [conversation for conversation in found if len(conversation) > 1]
    draw = random.Random(0)
    conversations = draw.sample(found, min(at_most, len(found)))
    return {
        **dict(_labelled(conversations)),
        "selector: the person's reply of 16": _selected(conversations, draw),
        **_preferred(conversations, draw),
    }


def _labelled(conversations: Sequence[Conversation]) -> Iterator[tuple[str, dict[str, float]]]:
    labels = [each for each in OfflineAnnotator().annotate(conversations) if not isinstance(each, RejectedDialogue)]
    for field in ("motivation", "emotion", "topics"):
        marked = [[bool(getattr(utterance.intent, field)) for utterance in each] for each in labels]
        yield f"annotator: turns with {field}", _share(marked)


def _selected(conversations: Sequence[Conversation], draw: random.Random) -> dict[str, float]:
    replies = sorted({message.text for each in conversations for message in each if message.role == "assistant"})
    hits = []
    for number, conversation in enumerate(conversations):
        hits.append([])
        for turn, message in enumerate(conversation):
            if message.role == "assistant" and turn:
                others = [text for text in draw.sample(replies, CANDIDATES) if text != message.text]
                candidates = [message.text, *others[: CANDIDATES - 1]]
                draw.shuffle(candidates)
                choice = Choice(f"{number}/{turn}", conversation[:turn], tuple(candidates))
                (chosen,) = OfflineSelector().select([choice])
                hits[-1].append(isinstance(chosen, int) and candidates[chosen] == message.text)
    return _share(hits)


def _preferred(conversations: Sequence[Conversation], draw: random.Random) -> dict[str, dict[str, float]]:
    replies = [message.text for each in conversations for message in each if message.role == "assistant"]
    mixed = [
        tuple(
            replace(message, content=(other := draw.choice(replies)), text=other)
            if message.role == "assistant"
            else message
            for message in conversation
        )
        for conversation in conversations
    ]
    votes = [each.vote for each in OfflineJudge().judge(map(Comparison, conversations, mixed))]
    decided = [vote for vote in votes if vote != "tie"]
    return {
        "judge: no tie": _share([[vote != "tie"] for vote in votes]),
        "judge: the real one, of the decided": _share([[vote == "first"] for vote in decided]),
    }


def _share(marked: Iterable[Sequence[bool]]) -> dict[str, float]:
    marked = [each for each in marked if each]
    estimate = clustered_share(map(sum, marked), map(len, marked), confidence=0.95)
    return {"share": estimate.value, "low": estimate.low, "high": estimate.high, "n": sum(map(len, marked))}


if __name__ == "__main__":
    main()
