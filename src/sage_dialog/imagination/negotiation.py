"""Deal or No Deal as a task: what each side reads and writes, and what a division is worth.

Two sides divide books, hats and balls. Each knows the counts and its own values, which stand in its system prompt. When
they have talked, one side writes a selection, the items that it gets; the other reads its mark alone, and writes a
selection of its own. Where the two add up to the counts, each side gets the worth of its items, and else nothing.
"""

from __future__ import annotations

import itertools
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

_KIND = re.compile(r"\b(?:book|hat|ball)(?=s?\b)")
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


def _singular(kind: str) -> str:
    return kind.removesuffix("s")


def rename_kinds(negotiation: Row, order: Sequence[int]) -> Row:
    """Return a human negotiation in which kind i is what was kind `order[i]`, in the messages, too.

    Only their names tell books, hats and balls apart, so it is as good a negotiation.
    """
    names = {_singular(old): _singular(new) for old, new in zip((KINDS[kind] for kind in order), KINDS, strict=True)}
    messages = [
        {**message, "content": _KIND.sub(lambda found: names[found[0]], message["content"])}
        for message in negotiation["messages"]
    ]
    values = {name: [negotiation[name][kind] for kind in order] for name in ("counts", "values")}
    selected = negotiation["selected"]
    selected = None if selected is None else [selected[kind] for kind in order]
    return {**negotiation, "messages": messages, **values, "selected": selected}


def base_documents(negotiations: DataFrame, dialogues: DataFrame, template: str) -> list[dict[str, Any]]:
    """Return what bases learn from as {"messages"}: the training dialogues, each with the kinds in every order.

    Args:
        negotiations: schemas.NEGOTIATIONS.
        dialogues: schemas.GOAL_DIALOGUES, of these negotiations.
    """
    train = set(dialogues.loc[dialogues["split"] == TRAIN, "dialogue_id"])
    rows = [row for row in to_rows(negotiations) if row["record"] in train]
    orders = list(itertools.permutations(range(len(KINDS))))
    return [{"messages": side_view(template, rename_kinds(row, order))} for order in orders for row in rows]


def split_negotiations(negotiations: DataFrame, template: str, held_out: float, seed: int) -> DataFrame:
    """Return the dialogues of the training negotiations (schemas.GOAL_DIALOGUES), some of them held out.

    Args:
        held_out: share of the negotiations from which nothing is learnt; both sides of each.

    Raises:
        ValueError: if there are too few negotiations to divide.
    """
    train = to_rows(negotiations[negotiations["split"] == TRAIN])
    ids = list(dict.fromkeys(row["negotiation_id"] for row in train))
    valid = set(sample_ids(ids, round(held_out * len(ids)), seed, "negotiations held out"))
    if not valid or len(valid) == len(ids):
        raise ValueError(
            f"{len(ids)} training negotiations are too few to hold some out (negotiation_rl.held_out {held_out:g}); "
            "put the whole of train.txt into the folder of the catalog entry dealornodeal"
        )
    rows = []
    for row in train:
        messages = side_view(template, row)
        rows.append(
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
    return from_rows(rows, GOAL_DIALOGUES)


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
