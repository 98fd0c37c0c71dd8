"""Replies of held-out conversations, with what was said before and the labels that people gave."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import Any

from sage_dialog.config import Reference
from sage_dialog.core.seeds import generator, sample_ids
from sage_dialog.core.tables import DataFrame, from_rows, to_rows
from sage_dialog.corpora.rejects import InputDataError
from sage_dialog.schemas import REFERENCE_ITEMS
from sage_dialog.training_data.annotation import FIELDS, merged_turns

logger = logging.getLogger(__name__)

Row = dict[str, Any]


def reference_items(corpus_dialogues: DataFrame, config: Reference, seed: int, assistant_may_open: bool) -> DataFrame:
    """Return the replies of held-out dialogues, as a table of `schemas.REFERENCE_ITEMS`.

    A sampled dialogue is there up to its last scored reply, with the replies before that are not scored.

    Args:
        corpus_dialogues: schemas.CORPUS_DIALOGUES. Utterances of one role in a row are one.
        assistant_may_open: whether policies are trained on dialogues that the assistant opens; else its opening is left
            out. An opening is never scored.

    Raises:
        InputDataError: if no dialogue of the split has a reply.
    """
    rows: list[Row] = []
    held_out = corpus_dialogues[corpus_dialogues["split"] == config.split]
    openings = 0
    for corpus, of_corpus in held_out.groupby("corpus", sort=True):
        dialogues = {row["dialogue_id"]: row["turns"] for row in to_rows(of_corpus[["dialogue_id", "turns"]])}
        for name in sample_ids(sorted(dialogues), config.dialogues, seed, f"reference dialogues {corpus}"):
            turns = merged_turns(dialogues[name])
            if turns and turns[0]["role"] == "assistant" and not assistant_may_open:
                openings += 1
                turns = turns[1:]
            replies = list(replies_of(name, corpus, config.split, turns[: config.max_turns]))
            chosen = _scored(replies, config, seed)
            last = max((place for place, reply in enumerate(replies) if reply["item_id"] in chosen), default=-1)
            rows += [{**reply, "scored": reply["item_id"] in chosen} for reply in replies[: last + 1]]
    if openings:
        logger.info("%d dialogues are opened by the assistant, whose opening is left out", openings)
    if not rows:
        splits = ", ".join(f"{split} ({n})" for split, n in corpus_dialogues["split"].value_counts().items())
        raise InputDataError(
            f"no corpus has a reply in the split {config.split!r}; dialogues by split: {splits or 'none'}. Name "
            "corpora in `corpora.read`, put the files of the split beside the others (docs/corpora.md), or set "
            "reference.split"
        )
    _add_donors(rows, seed)
    return from_rows(rows, REFERENCE_ITEMS)


def replies_of(dialogue: str, corpus: str, split: str, turns: Sequence[Row]) -> Iterator[Row]:
    """Yield the replies of the assistant in a dialogue of alternating turns, without `scored` and `donor`."""
    for place, turn in enumerate(turns):
        if turn["role"] != "assistant":
            continue
        user = turns[place - 1] if place else dict.fromkeys(FIELDS)
        labels = {f"{prefix}_{field}": of[field] for prefix, of in (("u", user), ("a", turn)) for field in FIELDS}
        yield {
            "item_id": f"{dialogue}#{place}",
            "dialogue_id": dialogue,
            "corpus": corpus,
            "split": split,
            "turn": place,
            "history": [{"role": each["role"], "content": each["text"]} for each in turns[:place]],
            "reply": turn["text"],
            **labels,
        }


def _scored(replies: Sequence[Row], config: Reference, seed: int) -> set[str]:
    names = [reply["item_id"] for reply in replies if reply["history"] and reply["reply"].strip()]
    if config.replies == "first":
        names = names[:1]
    return set(sample_ids(names, config.replies_per_dialogue, seed, "reference replies"))


def _add_donors(rows: list[Row], seed: int) -> None:
    """Give each scored reply another dialogue's of its corpus, drawn by seed; none where there is one dialogue only."""
    by_corpus: dict[str, list[Row]] = {}
    for row in rows:
        if row["scored"]:
            by_corpus.setdefault(row["corpus"], []).append(row)
    for scored in by_corpus.values():
        for row in scored:
            others = [other["item_id"] for other in scored if other["dialogue_id"] != row["dialogue_id"]]
            if others:
                row["donor"] = others[int(generator(seed, "shuffled chain", row["item_id"]).integers(len(others)))]
