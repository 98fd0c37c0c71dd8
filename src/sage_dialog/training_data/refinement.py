"""Training conversations of the next policy: chosen trajectories and a share of the first training mix (paper §3.4)."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import pandas as pd

from sage_dialog.core.seeds import derived_seed, sample_ids, seed_label
from sage_dialog.core.tables import DataFrame, conform, from_rows
from sage_dialog.dialogue import agent_view
from sage_dialog.schemas import SFT_CONVERSATIONS
from sage_dialog.selfplay.choices import Choices
from sage_dialog.selfplay.tables import messages_by_dialogue
from sage_dialog.training_data.sources import up_to_last_reply

logger = logging.getLogger(__name__)


def refinement_mix(
    trajectories: DataFrame,
    sft_conversations: DataFrame,
    system_prompt: str | None,
    replay_share: float,
    seed: int,
    candidates: DataFrame | None = None,
    best_share: float = 1.0,
) -> DataFrame:
    """Return training conversations (schemas.SFT_CONVERSATIONS) from self-play trajectories.

    A dialogue counts up to the agent's last message; dialogues without one are skipped. A sample of the first mix,
    `replay_share` times as many conversations, keeps the agent's blocks valid: the selector never reads blocks.

    Args:
        candidates: schemas.CANDIDATES of the same search; required where `best_share` is less than 1.
        best_share: share of the dialogues to keep, best first by `Choices.dialogue_score`; ties are broken by the seed.

    Raises:
        ValueError: if no dialogue has a message of the agent.
    """
    rows = []
    dialogues = messages_by_dialogue(trajectories)
    for situation_id, dialogue in dialogues.items():
        if messages := up_to_last_reply(dialogue):
            view = list(agent_view(messages, system_prompt))
            rows.append({"conversation_id": situation_id, "source": "trajectories", "messages": view})
    if not rows:
        raise ValueError(
            f"no message of the agent in {len(dialogues)} dialogues, so there is nothing to refine it on; see the "
            "column `outcome` of the trajectories and `invalid_reason` of the candidates. Train the first policy "
            "longer, lower self_play.agent.temperature or raise self_play.agent.max_new_tokens"
        )
    if silent := len(dialogues) - len(rows):
        logger.info("%d of %d dialogues have no message of the agent and are skipped", silent, len(dialogues))
    conversations = from_rows(rows, SFT_CONVERSATIONS)
    if best_share < 1:
        if candidates is None:
            raise ValueError("best_share ranks dialogues by their candidates; pass the candidates of the search")
        best = _best_dialogues(conversations["conversation_id"], Choices(candidates), best_share, seed)
        logger.info("%d of %d dialogues are kept, best first", len(best), len(conversations))
        conversations = conversations[conversations["conversation_id"].isin(best)]
    replayed = _sample_replay(sft_conversations, round(replay_share * len(conversations)), seed)
    return pd.concat([conversations, replayed], ignore_index=True)


def _best_dialogues(situations: Sequence[str], choices: Choices, share: float, seed: int) -> list[str]:
    ranked = sorted(
        situations,
        key=lambda name: (
            *(-score for score in choices.dialogue_score(name)),
            derived_seed(seed, "best trajectories", name),
        ),
    )
    return ranked[: max(1, round(share * len(ranked)))]


def _sample_replay(conversations: DataFrame, size: int, seed: int) -> DataFrame:
    ids = conversations["source"].map(seed_label) + "/" + conversations["conversation_id"].map(seed_label)
    sample = sample_ids(ids.tolist(), size, seed, "replay")
    return conform(conversations[ids.isin(sample)], SFT_CONVERSATIONS)
