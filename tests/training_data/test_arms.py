"""Arms of the ablation: what of the chain stands in the text, and that everything else is equal."""

from __future__ import annotations

from typing import Any, get_args

import pytest

from sage_dialog import schemas
from sage_dialog.config import SacAugmentation
from sage_dialog.core.recipe import Arm
from sage_dialog.core.tables import from_rows, to_rows
from sage_dialog.corpora.rejects import InputDataError
from sage_dialog.sac import Chain, Intent, parse
from sage_dialog.training_data.mix import training_mix
from sage_dialog.training_data.sources import SourceReader

ARMS: tuple[Arm, ...] = get_args(Arm)
PROMPTS = {"listener": "You listen.", "speaker": "You share.", "instructions": "You help."}


def annotations(dialogues: int) -> Any:
    """Return dialogues of different lengths, with labels that name their dialogue and turn."""
    rows = [
        {
            "dialogue_id": f"d{number}",
            "turn": turn,
            "role": "assistant" if turn % 2 else "user",
            "motivation": f"m{number} {turn}",
            "emotion": f"e{number} {turn}",
            "topics": [f"t{number} {turn}"],
            "text": f"text {number} {turn}",
            "original_text": "",
            "kept_original": False,
            "annotator": "by hand",
        }
        for number in range(dialogues)
        for turn in range(2 + 2 * (number % 3))
    ]
    return from_rows(rows, schemas.ANNOTATIONS)


def mix(arm: Arm, dialogues: int = 9, seed: int = 0, blend: dict[str, Any] | None = None) -> list[dict[str, Any]]:
    config = SacAugmentation.from_base(
        mix=[{"name": "listener"}, {"name": "speaker", "size": 5}], system_prompts=PROMPTS, blend=blend
    )
    return to_rows(training_mix(SourceReader(annotations(dialogues), {}, lambda _: None), config, seed, arm)[0])


def replies(rows: list[dict[str, Any]]) -> list[tuple[str, list[Chain]]]:
    """Return the chains of each conversation."""
    found = []
    for row in rows:
        chains = [parse(message["content"]) for message in row["messages"] if message["role"] == "assistant"]
        assert all(isinstance(chain, Chain) for chain in chains)
        found.append((row["conversation_id"], chains))
    return found


def words(rows: list[dict[str, Any]]) -> list[Any]:
    """Return everything but the blocks."""
    return [
        (row["conversation_id"], [(each["role"], each["content"].rpartition("} ")[2]) for each in row["messages"]])
        for row in rows
    ]


@pytest.mark.parametrize("blend", [None, {"sources": ["listener"], "others": 2, "max_tokens": 900}])
def test_arms_hold_the_same_conversations_in_the_same_order_with_the_same_words(blend: Any) -> None:
    plain = words(mix("plain", blend=blend))
    for arm in ARMS:
        assert words(mix(arm, blend=blend)) == plain, arm
    assert len({str(mix(arm, blend=blend)) for arm in ARMS}) == len(ARMS)


def test_an_arm_keeps_its_part_of_the_chain() -> None:
    nothing = Intent()
    for (name, whole), (_, emotion), (_, action) in zip(
        *(replies(mix(arm)) for arm in ("chain", "emotion", "action")), strict=True
    ):
        for chain, reading, plan in zip(whole, emotion, action, strict=True):
            assert (reading.state, reading.action) == (Intent(emotion=chain.state.emotion), nothing), name
            assert (plan.state, plan.action) == (nothing, chain.action), name
            assert chain.action != nothing and reading.utterance == plan.utterance == chain.utterance


def test_a_shuffled_dialogue_has_the_chains_of_one_other_dialogue_in_order() -> None:
    own = {name: [(chain.state, chain.action) for chain in chains] for name, chains in replies(mix("chain"))}
    donors = []
    for name, chains in replies(mix("shuffled")):
        found = [(chain.state, chain.action) for chain in chains]
        source = name.partition(":")[0]
        (donor,) = (
            other
            for other, given in own.items()
            if other.startswith(source) and found == [given[place % len(given)] for place in range(len(found))]
        )
        assert donor != name
        donors.append(donor)
    assert sorted(donors) == sorted(own), "each dialogue gives its chains to one other"
    assert mix("shuffled") == mix("shuffled") != mix("shuffled", seed=1)


def test_one_dialogue_cannot_be_shuffled() -> None:
    with pytest.raises(InputDataError, match="d0 is its only dialogue with labels"):
        mix("shuffled", dialogues=1)
