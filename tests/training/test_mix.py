"""The training mix: the same dialogues with blocks and without, from both sides, drawn and ordered by seed."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from sage_dialog import schemas
from sage_dialog.corpora.conversations import Conversation, Message
from sage_dialog.parameters import SacAugmentation
from sage_dialog.pipelines.sac_augmentation.nodes import annotate_dialogues
from sage_dialog.roles.protocols import Labelled, Rejected
from sage_dialog.sac import Chain, Intent, parse, strip_blocks
from sage_dialog.training.mix import training_mix

PREAMBLES = {"listener": "You listen.", "sharer": "You share.", "instructions": "You help."}
SAID = ("I lost my keys.", "Oh no! Where?", "At home: {under} the topic: sofa.")
INTENTS = (Intent("sharing", "sad", ("keys",)), Intent("comfort", "calm", ("keys",)), Intent("elaborating", "sad"))


def annotations(dialogues: int) -> pa.Table:
    rows = [
        {
            "dialogue_id": f"d{number:02d}",
            "turn": turn,
            "speaker": "assistant" if turn % 2 else "user",
            "motivation": intent.motivation,
            "emotion": intent.emotion,
            "topics": list(intent.topics) or None,
            "text": f"{number}: {text}",
            "original_text": text,
            "kept_original": False,
            "annotator": "by hand",
        }
        for number in range(dialogues)
        for turn, (text, intent) in enumerate(zip(SAID, INTENTS, strict=True))
    ]
    return pa.Table.from_pylist(rows[::-1], schema=schemas.ANNOTATIONS)  # readers sort


def told(number: int, *roles: str) -> Conversation:
    return Conversation(f"i{number}", tuple(Message(role, f"{role} {number}") for role in roles))


def mix(
    sizes: dict[str, int | None], with_blocks: bool = True, seed: int = 0, dialogues: int = 12, instructions: Any = ()
) -> list[dict[str, Any]]:
    sources = [{"name": name, "size": size} for name, size in sizes.items()]
    dials = SacAugmentation(mix=sources, preambles=PREAMBLES)
    table = training_mix(annotations(dialogues), instructions, dials, seed, with_blocks)
    assert table.schema == schemas.SFT_CONVERSATIONS
    return table.to_pylist()


def test_the_listeners_side_carries_the_sharers_labels_before_its_own() -> None:
    ((system, shared, answered, went_on),) = (row["messages"] for row in mix({"listener": None}, dialogues=1))
    assert system == {"role": "system", "content": "You listen."}
    assert shared == {"role": "user", "content": f"0: {SAID[0]}"}
    assert parse(answered["content"]) == Chain(INTENTS[0], INTENTS[1], f"0: {SAID[1]}")
    assert went_on == {"role": "user", "content": f"0: {SAID[2]}"}


def test_the_sharers_side_is_the_same_dialogue_with_the_roles_changed() -> None:
    ((system, shared, answered, went_on),) = (row["messages"] for row in mix({"sharer": None}, dialogues=1))
    assert system == {"role": "system", "content": "You share."}
    assert shared["role"] == went_on["role"] == "assistant"
    assert parse(shared["content"]) == Chain(Intent(), INTENTS[0], f"0: {SAID[0]}")
    assert answered == {"role": "user", "content": f"0: {SAID[1]}"}
    assert parse(went_on["content"]) == Chain(INTENTS[1], INTENTS[2], f"0: {SAID[2]}")


def test_the_plain_mix_is_the_same_conversations_in_the_same_order_without_blocks() -> None:
    sizes = {"listener": 5, "sharer": 4, "instructions": None}
    instructions = [told(number, "user", "assistant") for number in range(3)]
    rich, plain = (mix(sizes, blocks, instructions=instructions) for blocks in (True, False))
    assert len(rich) == 12
    bare = [
        row | {"messages": [said | {"content": strip_blocks(said["content"])} for said in row["messages"]]}
        for row in rich
    ]
    assert bare == plain != rich


def test_conversations_are_drawn_and_ordered_by_seed_and_id() -> None:
    def names(seed: int, dialogues: int = 12) -> list[str]:
        return [row["conversation_id"] for row in mix({"listener": 5, "sharer": 5}, seed=seed, dialogues=dialogues)]

    assert names(0) == names(0)
    assert len({tuple(names(seed)) for seed in range(4)}) == len({frozenset(names(seed)) for seed in range(4)}) == 4
    assert names(0) != sorted(names(0))
    listeners, sharers = ({name.split(":")[1] for name in names(0) if name.startswith(side)} for side in ("l", "s"))
    assert len(listeners) == len(sharers) == 5
    # A dialogue more moves none of those drawn but by its own draw.
    assert len(set(names(0)) - set(names(0, dialogues=13))) <= 2


def test_a_preamble_takes_the_place_of_an_instructions_own_system_message() -> None:
    instructions = [told(0, "system", "user", "assistant"), told(1, "user", "assistant"), told(2, "system", "user")]
    rows = mix({"instructions": None}, instructions=instructions)
    assert sorted(row["conversation_id"] for row in rows) == [
        "instructions:i0",
        "instructions:i1",
    ]  # i2 teaches nothing
    for row in rows:
        assert [said["role"] for said in row["messages"]] == ["system", "user", "assistant"]
        assert row["messages"][0]["content"] == "You help."


class ByHand:
    name = "by hand"

    def annotate(self, dialogues: Any) -> list[Any]:
        assert all(
            said.role == ("assistant" if place % 2 else "user") for each in dialogues for place, said in enumerate(each)
        )
        return [
            Rejected("too short", "no")
            if len(each) < 3
            else tuple(Labelled(intent, said.text.upper()) for said, intent in zip(each, INTENTS, strict=True))
            for each in dialogues
        ]


@pytest.mark.parametrize("size", [0, 3, 150])
def test_every_dialogue_is_annotated_or_rejected_and_keeps_its_words(size: int) -> None:
    rows = [
        {
            "dialogue_id": f"d{number}",
            "subreddit": "s",
            "link_id": "t3_1",
            "month": "2015-01",
            "turns": [{"comment_id": f"c{turn}", "text": text} for turn, text in enumerate(SAID[: 3 - number % 2])],
            "n_turns": 3 - number % 2,
            "mean_words": 1.0,
            "min_sentiment": 0.5,
        }
        for number in range(size)
    ]
    labelled, rejected = annotate_dialogues(pa.Table.from_pylist(rows, schema=schemas.DIALOGUES), ByHand())
    assert labelled.schema == schemas.ANNOTATIONS and rejected.schema == schemas.ANNOTATION_REJECTS
    assert rejected.to_pylist() == [
        {"dialogue_id": f"d{number}", "reason": "too short", "raw_reply": "no"} for number in range(1, size, 2)
    ]
    found = labelled.to_pylist()
    assert [(row["dialogue_id"], row["turn"], row["original_text"], row["text"]) for row in found] == [
        (f"d{number}", turn, text, text.upper()) for number in range(0, size, 2) for turn, text in enumerate(SAID)
    ]
    assert all(row["motivation"] == INTENTS[row["turn"]].motivation for row in found)
