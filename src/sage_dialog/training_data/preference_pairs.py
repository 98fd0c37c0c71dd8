"""Preference pairs from a search: what was chosen against others of the same turn (paper §3.5)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Literal

import pyarrow as pa

from sage_dialog.core.seeds import derived_seed, generator
from sage_dialog.dialogue import agent_view
from sage_dialog.schemas import DPO_PAIRS
from sage_dialog.selfplay.choices import Candidate, Choices, group_by_turn
from sage_dialog.selfplay.tables import messages_by_dialogue

logger = logging.getLogger(__name__)


def preference_pairs(
    candidates: pa.Table,
    trajectories: pa.Table,
    system_prompt: str | None,
    seed: int,
    negatives: int | None = 1,
    rejected: Literal["random", "worst"] = "random",
) -> pa.Table:
    """Pairs of each agent turn (schemas.DPO_PAIRS): prompt as the agent saw it, both replies with their blocks.

    Rejected are up to `negatives` replies, or all where that is None, among the valid candidates that say something
    else than the chosen one and than each other; a turn with no such candidate gives no pair.

    Args:
        rejected: "random" draws them by (seed, situation, turn). "worst" takes those whose action the selector chose
            least in the whole search (`Choices.action_preference`); among equals the seed decides.

    Raises:
        ValueError: if no turn gives a pair.
    """
    dialogues = messages_by_dialogue(trajectories)
    choices = Choices(candidates) if rejected == "worst" else None
    rows, alone = [], 0
    for (situation_id, turn), drawn in group_by_turn(candidates):
        valid = [candidate for candidate in drawn if candidate["valid"]]
        chosen = next((candidate for candidate in valid if candidate["chosen"]), None)
        if chosen is None:
            continue
        others = _unlike(chosen, valid)
        alone += not others
        rng, paired = generator(seed, "rejected", situation_id, turn), 0
        if choices is not None:
            others.sort(
                key=lambda other: (
                    choices.action_preference(other),
                    derived_seed(seed, "worst", situation_id, turn, other["text"]),
                )
            )
        while others and paired != negatives:
            loser = others[0 if choices is not None else rng.integers(len(others))]
            rows.append(
                {
                    "situation_id": situation_id,
                    "turn": turn,
                    "prompt": list(agent_view(dialogues[situation_id][:turn], system_prompt)),
                    "chosen": chosen["text"],
                    "rejected": loser["text"],
                }
            )
            others, paired = _unlike(loser, others), paired + 1
    if not rows:
        raise ValueError(
            f"no agent turn gives a preference pair: {alone} turns had a chosen candidate, but no other valid one that "
            "says something else. Raise self_play.candidates or self_play.agent.temperature and run the last iteration "
            "again"
        )
    logger.info("%d pairs; in %d turns no other valid candidate says something else", len(rows), alone)
    return pa.Table.from_pylist(rows, schema=DPO_PAIRS)


def _unlike(said: Candidate, candidates: Sequence[Candidate]) -> list[Candidate]:
    return [other for other in candidates if other["utterance"].strip() != said["utterance"].strip()]
