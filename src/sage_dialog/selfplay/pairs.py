"""Preference pairs from a search: what was chosen against others at random (paper §3.5)."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from itertools import groupby
from typing import Any

import pyarrow as pa

from sage_dialog.schemas import DPO_PAIRS
from sage_dialog.seeds import generator
from sage_dialog.selfplay.dialogue import agent_view
from sage_dialog.selfplay.tables import dialogues_of

logger = logging.getLogger(__name__)


def preference_pairs(
    candidates: pa.Table, trajectories: pa.Table, preamble: str | None, seed: int, negatives: int | None = 1
) -> pa.Table:
    """Pairs of each agent turn (schemas.DPO_PAIRS): prompt as the agent saw it, both replies with their blocks.

    Up to `negatives` rejected replies, or all where that is None, are drawn by (seed, situation, turn) among the
    valid candidates that say something else than the chosen one and than each other; a turn with no such candidate
    gives no pair.

    Raises:
        ValueError: if no turn gives a pair.
    """
    dialogues = dialogues_of(trajectories)
    rows, alone = [], 0
    for (situation_id, turn), valid in _turns(candidates):
        chosen = next((candidate for candidate in valid if candidate["chosen"]), None)
        if chosen is None:
            continue
        others = _unlike(chosen, valid)
        alone += not others
        rng, drawn = generator(seed, "rejected", situation_id, turn), 0
        while others and drawn != negatives:
            rejected = others[rng.integers(len(others))]
            rows.append(
                {
                    "situation_id": situation_id,
                    "turn": turn,
                    "prompt": list(agent_view(dialogues[situation_id][:turn], preamble)),
                    "chosen": chosen["text"],
                    "rejected": rejected["text"],
                }
            )
            others, drawn = _unlike(rejected, others), drawn + 1
    if not rows:
        raise ValueError(
            f"no agent turn gives a preference pair: {alone} turns had a chosen candidate, but no other valid one that "
            "says something else. Raise self_play.candidates or self_play.agent.temperature and run the last iteration "
            "again"
        )
    logger.info("%d pairs; in %d turns no other valid candidate says something else", len(rows), alone)
    return pa.Table.from_pylist(rows, schema=DPO_PAIRS)


def _unlike(said: dict[str, Any], candidates: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [other for other in candidates if other["utterance"].strip() != said["utterance"].strip()]


def _turns(candidates: pa.Table) -> Iterator[tuple[tuple[str, int], list[dict[str, Any]]]]:
    """The valid candidates of each agent turn; rows of a turn stand together, as the search wrote them."""
    columns = candidates.select(["situation_id", "turn", "text", "utterance", "chosen", "valid"])
    rows = (row for batch in columns.to_batches(max_chunksize=4096) for row in batch.to_pylist() if row["valid"])
    for turn, group in groupby(rows, key=lambda row: (row["situation_id"], row["turn"])):
        yield turn, list(group)
