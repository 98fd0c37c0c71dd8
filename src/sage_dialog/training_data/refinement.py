"""What the next policy learns from: the chosen trajectories, with a share of the first training mix (paper §3.4)."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import pyarrow as pa

from sage_dialog.core.seeds import derived_seed, sample_ids, seed_label
from sage_dialog.dialogue import Message, agent_view
from sage_dialog.schemas import SFT_CONVERSATIONS
from sage_dialog.selfplay.choices import Choices
from sage_dialog.selfplay.tables import messages_by_dialogue

logger = logging.getLogger(__name__)


def refinement_mix(
    trajectories: pa.Table,
    sft_conversations: pa.Table,
    system_prompt: str | None,
    replay_share: float,
    seed: int,
    candidates: pa.Table | None = None,
    best_share: float = 1.0,
) -> pa.Table:
    """Training conversations (schemas.SFT_CONVERSATIONS) from played dialogues.

    A dialogue counts up to the agent's last message; one in which the agent never spoke is left out.
    `replay_share` times as many conversations of the first mix, drawn by seed, keep the agent in the habit
    of its blocks: the selector that picked the trajectories never saw them.

    Args:
        candidates: schemas.CANDIDATES of the same search; needed where `best_share` is less than 1.
        best_share: of the dialogues in which the agent spoke, those that the selector judged best
            (`Choices.dialogue_score`); among equals the seed decides.

    Raises:
        ValueError: if the agent spoke in no dialogue.
    """
    rows = []
    silent = 0
    for situation_id, played in messages_by_dialogue(trajectories).items():
        spoken = _up_to_last_reply(played)
        if spoken:
            messages = list(agent_view(spoken, system_prompt))
            rows.append({"conversation_id": situation_id, "source": "trajectories", "messages": messages})
        else:
            silent += 1
    if not rows:
        raise ValueError(
            f"the agent spoke in none of {silent} dialogues, so there is nothing to refine it on; the column `outcome` "
            "of the trajectories and `invalid_reason` of the candidates say why. Train the first policy longer, lower "
            "self_play.agent.temperature or raise self_play.agent.max_new_tokens"
        )
    if silent:
        logger.info("%d of %d dialogues hold no reply of the agent and are left out", silent, silent + len(rows))
    if best_share < 1:
        if candidates is None:
            raise ValueError("best_share ranks dialogues by the choices among their candidates; give the candidates")
        best = _best([str(row["conversation_id"]) for row in rows], Choices(candidates), best_share, seed)
        logger.info("%d of %d dialogues, those judged best, are learned from", len(best), len(rows))
        rows = [row for row in rows if row["conversation_id"] in best]
    return pa.concat_tables(
        [
            pa.Table.from_pylist(rows, schema=SFT_CONVERSATIONS),
            _replay(sft_conversations, round(replay_share * len(rows)), seed),
        ]
    )


def _best(situations: Sequence[str], choices: Choices, share: float, seed: int) -> set[str]:
    ranked = sorted(
        situations,
        key=lambda name: (
            *(-number for number in choices.dialogue_score(name)),
            derived_seed(seed, "best trajectories", name),
        ),
    )
    return set(ranked[: max(1, round(share * len(ranked)))])


def _up_to_last_reply(messages: Sequence[Message]) -> Sequence[Message]:
    last = max((turn for turn, message in enumerate(messages) if message.role == "assistant"), default=-1)
    return messages[: last + 1]


def _replay(conversations: pa.Table, size: int, seed: int) -> pa.Table:
    names = [
        f"{seed_label(source)}/{seed_label(name)}"
        for source, name in zip(
            conversations["source"].to_pylist(), conversations["conversation_id"].to_pylist(), strict=True
        )
    ]
    drawn = set(sample_ids(names, size, seed, "replay"))
    replayed = conversations.filter(pa.array([name in drawn for name in names], pa.bool_()))
    return replayed.select(SFT_CONVERSATIONS.names).cast(SFT_CONVERSATIONS)
