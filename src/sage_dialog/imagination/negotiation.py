"""Deal or No Deal as a task: what each side reads and writes, and what a division is worth.

Two sides divide books, hats and balls. Each knows the counts and its own values, which stand in its system prompt. When
they have talked, one side writes a selection, the items that it gets; the other reads its mark alone, and writes a
selection of its own. Where the two add up to the counts, each side gets the worth of its items, and else nothing.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from sage_dialog.config.negotiation import PLACES
from sage_dialog.core.seeds import generator, sample_ids
from sage_dialog.core.tables import DataFrame, from_rows, to_rows
from sage_dialog.schemas import GOAL_DIALOGUES, NEGOTIATION_CONTEXTS

Row = dict[str, Any]
Items = Sequence[int]

TASK = "deal_or_no_deal"
KINDS = ("books", "hats", "balls")

MARK = "<selection>"
"""What begins a selection, as in the data."""

NO_AGREEMENT = "no agreement"

TRAIN, VALID = "train", "valid"

_SELECTION = re.compile(r"item0=(\d+) item1=(\d+) item2=(\d+)")


def system_prompt(template: str, counts: Items, values: Items) -> str:
    """Return what a side knows: the counts, and what an item of each kind is worth to it."""
    return template.format(**dict(zip(PLACES, (*counts, *values), strict=True)))


def selection_text(selected: Items | None) -> str:
    """Return a selection as a side writes it."""
    if selected is None:
        return f"{MARK} {NO_AGREEMENT}"
    return f"{MARK} " + " ".join(f"item{kind}={number}" for kind, number in enumerate(selected))


def is_selection(text: str) -> bool:
    return text.lstrip().startswith(MARK)


def is_valid_selection(text: str, counts: Items) -> bool:
    """Return whether a text is a selection of items that there are, or of no agreement."""
    return text.strip() == f"{MARK} {NO_AGREEMENT}" or parse_selection(text, counts) is not None


def parse_selection(text: str, counts: Items) -> tuple[int, ...] | None:
    """Return the items of a selection; None if it names none, or more than there are."""
    found = _SELECTION.fullmatch(text.strip().removeprefix(MARK).strip()) if is_selection(text) else None
    items = tuple(map(int, found.groups())) if found else None
    if items is None or any(item > count for item, count in zip(items, counts, strict=True)):
        return None
    return items


def agree(counts: Items, selected: Items | None, other: Items | None) -> bool:
    """Return whether the selections of both sides add up to the counts."""
    if selected is None or other is None:
        return False
    return all(sum(both) == count for *both, count in zip(selected, other, counts, strict=True))


def worth(values: Items, items: Items) -> int:
    return sum(value * number for value, number in zip(values, items, strict=True))


def side_view(template: str, negotiation: Row) -> list[dict[str, str]]:
    """Return a human negotiation (schemas.NEGOTIATIONS) as one side's chat messages, up to its selection."""
    messages = [{"role": "system", "content": system_prompt(template, negotiation["counts"], negotiation["values"])}]
    messages += negotiation["messages"]
    if messages[-1]["role"] == "assistant":  # sides alternate, so the other one ended the talk
        messages.append({"role": "user", "content": MARK})
    messages.append({"role": "assistant", "content": selection_text(negotiation["selected"])})
    return messages


def split_negotiations(
    negotiations: DataFrame, template: str, partner_share: float, held_out: float, seed: int
) -> tuple[DataFrame, DataFrame]:
    """Return the dialogues of agents, and those of the partner (schemas.GOAL_DIALOGUES).

    Both are of the training negotiations, each negotiation with both sides in one of the two.

    Args:
        partner_share: share of the negotiations from which the partner learns.
        held_out: share of the agents' negotiations from which nothing is learnt.

    Raises:
        ValueError: if there are too few negotiations to divide.
    """
    train = to_rows(negotiations[negotiations["split"] == TRAIN])
    ids = list(dict.fromkeys(row["negotiation_id"] for row in train))
    partner = set(sample_ids(ids, round(partner_share * len(ids)), seed, "negotiation partner"))
    agents = [each for each in ids if each not in partner]
    valid = set(sample_ids(agents, round(held_out * len(agents)), seed, "negotiations held out"))
    if not partner or not valid or len(valid) == len(agents):
        raise ValueError(
            f"{len(ids)} training negotiations are too few to divide between a partner (negotiation.partner_share "
            f"{partner_share:g}), agents, and what is held out of these (negotiation_rl.held_out {held_out:g}); put "
            "the whole of train.txt into the folder of the catalog entry dealornodeal"
        )
    tables: dict[bool, list[Row]] = {True: [], False: []}
    for row in train:
        messages = side_view(template, row)
        tables[row["negotiation_id"] in partner].append(
            {
                "dialogue_id": row["record"],
                "task": TASK,
                "split": VALID if row["negotiation_id"] in valid else TRAIN,
                "messages": messages,
                "replies": sum(message["role"] == "assistant" for message in messages),
                "reward": row["reward"],
                "success": row["agreed"],
            }
        )
    return from_rows(tables[False], GOAL_DIALOGUES), from_rows(tables[True], GOAL_DIALOGUES)


def draw_contexts(negotiations: DataFrame, dialogues: DataFrame, which: str, count: int, seed: int) -> DataFrame:
    """Return what is divided in the dialogues to play (schemas.NEGOTIATION_CONTEXTS), the same for every policy.

    Args:
        dialogues: those of agents.
        which: "valid" for the contexts of the validation file, "held_out" for those held out of the training file.
        count: at most so many, drawn by seed.

    Raises:
        ValueError: if there is none.
    """
    if which == VALID:
        rows = to_rows(negotiations[negotiations["split"] == VALID])
    else:
        records = set(dialogues.loc[dialogues["split"] == VALID, "dialogue_id"])
        rows = [row for row in to_rows(negotiations) if row["record"] in records]
    if not rows:
        raise ValueError("there are no validation negotiations to play; put val.txt beside train.txt (dealornodeal)")
    chosen = set(sample_ids([row["record"] for row in rows], count, seed, "negotiation contexts"))
    return from_rows(
        [
            {
                "situation_id": row["record"],
                **{name: row[name] for name in ("negotiation_id", "counts", "values", "partner_values")},
                "agent_begins": bool(generator(seed, "who begins", row["record"]).integers(2)),
            }
            for row in rows
            if row["record"] in chosen
        ],
        NEGOTIATION_CONTEXTS,
    )
