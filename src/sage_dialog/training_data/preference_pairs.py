"""Preference pairs from a search: the chosen candidate against others of the same turn (paper §3.5)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Literal

from sage_dialog.core.seeds import derived_seed, generator
from sage_dialog.core.tables import DataFrame, from_rows
from sage_dialog.dialogue import agent_view
from sage_dialog.schemas import DPO_PAIRS
from sage_dialog.selfplay.choices import Candidate, Choices, group_by_turn
from sage_dialog.selfplay.tables import messages_by_dialogue

logger = logging.getLogger(__name__)


def preference_pairs(
    candidates: DataFrame,
    trajectories: DataFrame,
    system_prompt: str | None,
    seed: int,
    negatives: int | None = 1,
    rejected: Literal["random", "worst"] = "random",
) -> DataFrame:
    """Return the pairs of each agent turn (schemas.DPO_PAIRS): the agent's prompt, both replies with their blocks.

    The rejected replies of a turn are up to `negatives` (None: all) valid candidates whose utterances differ from the
    chosen one and from each other. A turn without such a candidate gives no pair.

    Args:
        rejected: "random" draws them by (seed, situation, turn). "worst" takes those whose action the selector chose
            least in the whole search (`Choices.action_preference`); ties are broken by the seed.

    Raises:
        ValueError: if no turn gives a pair.
    """
    dialogues = messages_by_dialogue(trajectories)
    choices = Choices(candidates) if rejected == "worst" else None
    rows, without_pair = [], 0
    for (situation_id, turn), drawn in group_by_turn(candidates):
        valid = [candidate for candidate in drawn if candidate["valid"]]
        chosen = next((candidate for candidate in valid if candidate["chosen"]), None)
        if chosen is None:
            continue
        others = _different(chosen, valid)
        without_pair += not others
        rng, pairs = generator(seed, "rejected", situation_id, turn), 0
        if choices is not None:
            others.sort(
                key=lambda other: (
                    choices.action_preference(other),
                    derived_seed(seed, "worst", situation_id, turn, other["text"]),
                )
            )
        while others and pairs != negatives:
            other = others[0 if choices is not None else rng.integers(len(others))]
            rows.append(
                {
                    "situation_id": situation_id,
                    "turn": turn,
                    "prompt": list(agent_view(dialogues[situation_id][:turn], system_prompt)),
                    "chosen": chosen["text"],
                    "rejected": other["text"],
                }
            )
            others, pairs = _different(other, others), pairs + 1
    if not rows:
        raise ValueError(
            f"no agent turn gives a preference pair: {without_pair} turns had a chosen candidate, but no other valid "
            "candidate with a different utterance. Raise self_play.candidates or self_play.agent.temperature and run "
            "the last iteration again"
        )
    logger.info("%d pairs; %d turns have no other valid candidate with a different utterance", len(rows), without_pair)
    return from_rows(rows, DPO_PAIRS)


def _different(candidate: Candidate, others: Sequence[Candidate]) -> list[Candidate]:
    return [other for other in others if other["utterance"].strip() != candidate["utterance"].strip()]
