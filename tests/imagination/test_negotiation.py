"""Deal or No Deal as a task: what each side reads, what a selection is, and who learns from which negotiation."""

from __future__ import annotations

import itertools

import pytest
from pydantic import ValidationError

from sage_dialog.config import Negotiation
from sage_dialog.core.tables import DataFrame, from_rows, to_rows
from sage_dialog.imagination.negotiation import (
    agree,
    base_documents,
    draw_contexts,
    is_valid_selection,
    parse_selection,
    rename_kinds,
    selection_text,
    side_view,
    split_negotiations,
    worth,
)
from sage_dialog.schemas import NEGOTIATIONS

PROMPT = Negotiation.from_base().system_prompt
COUNTS, VALUES, PARTNER_VALUES = (1, 4, 1), (4, 1, 2), (0, 2, 2)


def side(number: int, role: str, split: str = "train", selected: list[int] | None = None) -> dict:
    """One side of a negotiation that the other side ends."""
    own = role == "assistant"
    return {
        "record": f"{split}.txt:{2 * number + own}",
        "negotiation_id": f"{split}{number}",
        "split": split,
        "counts": COUNTS,
        "values": VALUES if own else PARTNER_VALUES,
        "partner_values": PARTNER_VALUES if own else VALUES,
        "messages": [{"role": role, "content": f"the book for me {number}"}],
        "agreed": selected is not None,
        "taken": selected,
        "selected": selected,
        "reward": 6 if selected else 0,
        "partner_reward": 8 if selected else 0,
    }


@pytest.fixture
def negotiations() -> DataFrame:
    rows = [side(number, role) for number in range(20) for role in ("assistant", "user")]
    rows += [side(number, role, "valid") for number in range(5) for role in ("assistant", "user")]
    return from_rows(rows, NEGOTIATIONS)


def test_a_side_reads_its_own_values_and_never_the_other_ones() -> None:
    own, other = (side_view(PROMPT, side(0, role, selected=[1, 0, 1])) for role in ("assistant", "user"))
    assert own[0]["content"] == "Divide 1 books worth 4 each, 4 hats worth 1 each and 1 balls worth 2 each."
    assert other[0]["content"] == "Divide 1 books worth 0 each, 4 hats worth 2 each and 1 balls worth 2 each."
    selection = "<selection> item0=1 item1=0 item2=1"
    assert [(m["role"], m["content"]) for m in own[1:]] == [
        ("assistant", "the book for me 0"), ("user", "<selection>"), ("assistant", selection),
    ]  # fmt: skip
    assert [(m["role"], m["content"]) for m in other[1:]] == [("user", "the book for me 0"), ("assistant", selection)]


@pytest.mark.parametrize(
    ("text", "items", "valid"),
    [
        ("<selection> item0=1 item1=0 item2=1", (1, 0, 1), True),
        ("<selection> no agreement", None, True),
        ("<selection> item0=1 item1=5 item2=1", None, False),  # there are four hats
        ("<selection> item0=1 item1=0", None, False),
        ("<selection> item0=1 item1=0 item2=1 deal", None, False),
        ("item0=1 item1=0 item2=1", None, False),
    ],
)
def test_a_selection_names_items_that_there_are(text: str, items: tuple[int, ...] | None, valid: bool) -> None:
    assert (parse_selection(text, COUNTS), is_valid_selection(text, COUNTS)) == (items, valid)
    if valid:
        assert selection_text(items) == text


def test_the_sides_agree_if_their_selections_add_up() -> None:
    assert agree(COUNTS, (1, 0, 1), (0, 4, 0)) and worth(VALUES, (1, 0, 1)) == 6
    assert agree(COUNTS, (0, 0, 0), COUNTS)
    assert not agree(COUNTS, (1, 0, 1), (0, 3, 0)) and not agree(COUNTS, (1, 0, 1), (1, 4, 0))
    assert not agree(COUNTS, None, (0, 4, 0)) and not agree(COUNTS, None, None)


def test_training_and_held_out_share_no_negotiation(negotiations: DataFrame) -> None:
    dialogues = split_negotiations(negotiations, PROMPT, 0.2, 0)
    ids = dict(negotiations[["record", "negotiation_id"]].itertuples(index=False, name=None))
    train, held_out = (
        {ids[record] for record in dialogues.loc[dialogues["split"] == split, "dialogue_id"]}
        for split in ("train", "valid")
    )
    assert (len(train), len(held_out), len(train | held_out)) == (16, 4, 20)
    assert len(dialogues) == 40 and not any("valid" in each for each in train | held_out)
    other = split_negotiations(negotiations, PROMPT, 0.2, 1)
    assert set(other.loc[other["split"] == "valid", "dialogue_id"]) != {
        record for record in dialogues["dialogue_id"] if ids[record] in held_out
    }
    with pytest.raises(ValueError, match=r"too few to hold some out.*negotiation_rl.held_out 0.01"):
        split_negotiations(negotiations, PROMPT, 0.01, 0)


def test_kinds_change_places_with_their_names() -> None:
    texts = ["both hats for a book", "hatless notebooks , a ball or a basketball", "Books ?", "all balls !"]
    negotiation = side(0, "assistant", selected=[1, 3, 0]) | {
        "messages": [{"role": "user", "content": text} for text in texts]
    }
    renamed = rename_kinds(negotiation, (2, 0, 1))  # books are the balls, hats the books, balls the hats
    assert [message["content"] for message in renamed["messages"]] == [
        "both balls for a hat", "hatless notebooks , a book or a basketball", "Books ?", "all books !",
    ]  # fmt: skip
    assert (renamed["counts"], renamed["values"], renamed["selected"]) == ([1, 1, 4], [2, 4, 1], [0, 1, 3])
    back = rename_kinds(renamed, (1, 2, 0))
    assert back == negotiation | {name: list(negotiation[name]) for name in ("counts", "values", "selected")}
    assert rename_kinds(negotiation | {"selected": None}, (1, 0, 2))["selected"] is None


def test_bases_learn_from_training_dialogues_in_every_order(negotiations: DataFrame) -> None:
    dialogues = split_negotiations(negotiations, PROMPT, 0.2, 0)
    documents = [document["messages"] for document in base_documents(negotiations, dialogues, PROMPT)]
    train = to_rows(dialogues[dialogues["split"] == "train"])
    assert len(documents) == 6 * len(train) and len({str(document) for document in documents}) == len(documents)
    assert all(row["messages"] in documents for row in train)
    assert {document[0]["content"] for document in documents} == {
        PROMPT.format(books=books, hats=hats, balls=balls, book=book, hat=hat, ball=ball)
        for values in (VALUES, PARTNER_VALUES)
        for (books, book), (hats, hat), (balls, ball) in itertools.permutations(zip(COUNTS, values, strict=True))
    }


def test_contexts_are_those_of_the_validation_file_or_of_what_is_held_out(negotiations: DataFrame) -> None:
    agents = split_negotiations(negotiations, PROMPT, 0.2, 0)
    valid = draw_contexts(negotiations, agents, "valid", 100, 0)
    assert len(valid) == 10 and set(valid["agent_begins"]) == {True, False}
    held_out = draw_contexts(negotiations, agents, "held_out", 100, 0)
    assert set(held_out["situation_id"]) == set(agents.loc[agents["split"] == "valid", "dialogue_id"])
    few = to_rows(draw_contexts(negotiations, agents, "valid", 3, 0))
    assert len(few) == 3 and all(row in to_rows(valid) for row in few)  # who begins does not depend on the number
    with pytest.raises(ValueError, match=r"put val.txt beside train.txt"):
        draw_contexts(negotiations[negotiations["split"] == "train"], agents, "valid", 3, 0)


@pytest.mark.parametrize(
    "prompt", ["Divide.", "{books} {hats} {balls} {book} {hat} {hat}", "{books} {", PROMPT + "{x}"]
)
def test_a_system_prompt_names_counts_and_values(prompt: str) -> None:
    with pytest.raises(ValidationError, match="system_prompt"):
        Negotiation.from_base(system_prompt=prompt)
