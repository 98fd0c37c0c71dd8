"""What is learnt from dialogues with returns: a critic, advantages, weights of messages, and preference pairs."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sage_dialog.config import CriticConfig, SamplingConfig
from sage_dialog.core.policies import Policy
from sage_dialog.core.seeds import generator
from sage_dialog.core.tables import DataFrame, from_rows, to_rows
from sage_dialog.inference.engine import Engine, Prompt
from sage_dialog.offline_rl.critic import Critic, FeatureReader, Transitions, save_critic, train_heads
from sage_dialog.offline_rl.dialogues import TRAIN
from sage_dialog.offline_rl.encoding import Decisions, conversation_decisions, reply_decision
from sage_dialog.sac import Chain, parse
from sage_dialog.schemas import ADVANTAGES, CRITIC_LOG, DPO_PAIRS, WEIGHTED_CONVERSATIONS

Row = dict[str, Any]


def train_critic(
    base: Policy,
    policy: Policy,
    dialogues: DataFrame,
    config: CriticConfig,
    seed: int,
    out: Path,
    alternatives: Sequence[Sequence[str]] | None = None,
    threads: int | None = None,
) -> tuple[DataFrame, DataFrame, Policy]:
    """Train a critic on the training dialogues, and read all dialogues with it.

    Args:
        dialogues: schemas.GOAL_DIALOGUES.
        alternatives: for each reply of the training dialogues, in order, other replies to the same messages.

    Returns:
        Tables of `schemas.CRITIC_LOG` and `schemas.ADVANTAGES`, and the critic.
    """
    reader = FeatureReader(base, policy, config.layers, config.log_probabilities, threads)
    rows = to_rows(dialogues)
    train = [row for row in rows if row["split"] == TRAIN]
    data = _transitions(reader, train, policy.card.blocks)
    if alternatives is not None and config.conservative:
        data = replace(data, alternatives=_alternative_features(reader, train, alternatives, policy.card.blocks))
    heads, log = train_heads(data, config, seed)
    table = advantages(Critic(reader, heads, policy.card.blocks), reader, dialogues, config, policy.card.blocks)
    return from_rows(log, CRITIC_LOG), table, save_critic(heads, config, policy, out)


def advantages(
    critic: Critic, reader: FeatureReader, dialogues: DataFrame, config: CriticConfig, blocks: bool
) -> DataFrame:
    """Return V, Q, the advantage and the realised return of every reply (schemas.ADVANTAGES).

    The advantage is (1 - λ) Q(s, a) + λ (r + γ V(s')) - V(s), with λ = `config.td_weight`.
    """
    rows = to_rows(dialogues)
    data = _transitions(reader, rows, blocks)
    values, action_values = critic.evaluate(data.states, data.actions)
    next_values = values[data.following.clamp(min=0)].masked_fill(data.following < 0, 0.0)
    targets = data.rewards + config.discount * next_values
    columns = zip(*(each.tolist() for each in (values, action_values, targets)), strict=True)
    weight, found = config.td_weight, []
    for row in rows:
        returned = 0.0
        realised = [returned := reward + config.discount * returned for reward in reversed(_rewards(row))][::-1]
        for reply, after in enumerate(realised, 1):
            value, action_value, target = next(columns)
            found.append(
                {
                    **{name: row[name] for name in ("dialogue_id", "task", "split")},
                    "reply": reply,
                    "replies": len(realised),
                    "value": value,
                    "action_value": action_value,
                    "advantage": (1 - weight) * action_value + weight * target - value,
                    "realised": after,
                }
            )
    return from_rows(found, ADVANTAGES)


def draw_alternatives(
    engine: Engine, policy: Policy, dialogues: DataFrame, sampling: SamplingConfig, count: int
) -> list[list[str]]:
    """Return `count` replies of a policy to the messages before each reply of the training dialogues, in order."""
    prompts = [
        Prompt(tuple(row["messages"][:place]), ("alternative", row["dialogue_id"], place))
        for row in to_rows(dialogues[dialogues["split"] == TRAIN])
        for place in _reply_places(row)
    ]
    return [[sample.text for sample in samples] for samples in engine.sample(policy.name, prompts, sampling, count)]


def weighted_conversations(dialogues: DataFrame, advantages: DataFrame, scale: float, max_weight: float) -> DataFrame:
    """Return the training dialogues with a weight for each reply (schemas.WEIGHTED_CONVERSATIONS).

    The weight is exp(advantage / scale), at most `max_weight`, divided by the mean over all replies (advantage-weighted
    regression, Peng et al. 2019, arXiv:1910.00177).
    """
    by_dialogue: dict[str, list[float]] = defaultdict(list)
    ordered = advantages[advantages["split"] == TRAIN].sort_values(["dialogue_id", "reply"])
    for dialogue, advantage in ordered[["dialogue_id", "advantage"]].itertuples(index=False, name=None):
        by_dialogue[dialogue].append(min(max_weight, math.exp(min(advantage / scale, 700.0))))
    total = [weight for weights in by_dialogue.values() for weight in weights]
    mean = sum(total) / len(total)
    rows = [
        {
            "conversation_id": row["dialogue_id"],
            "source": row["task"],
            "messages": row["messages"],
            "weights": [weight / mean for weight in by_dialogue[row["dialogue_id"]]],
        }
        for row in to_rows(dialogues[dialogues["split"] == TRAIN])
    ]
    return from_rows(rows, WEIGHTED_CONVERSATIONS)


def outcome_pairs(dialogues: DataFrame, pairs_per_state: int, seed: int) -> DataFrame:
    """Return preference pairs of replies in the same state (schemas.DPO_PAIRS).

    The chosen reply is of a dialogue with a larger reward. Two replies are in the same state if their tasks and their
    state blocks are equal; without blocks, if their tasks and their numbers are. The prompt is that of the chosen one.
    Pairs with the same action are left out.

    Args:
        pairs_per_state: limit for each state, drawn by seed.

    Raises:
        ValueError: if there is no pair.
    """
    by_state: dict[tuple[Any, ...], list[tuple[Row, int, object]]] = defaultdict(list)
    for row in to_rows(dialogues[dialogues["split"] == TRAIN]):
        for number, place in enumerate(_reply_places(row), 1):
            content = row["messages"][place]["content"]
            chain = parse(content)
            if isinstance(chain, Chain):
                by_state[row["task"], chain.state].append((row, place, chain.action))
            else:
                by_state[row["task"], number].append((row, place, content))
    rows = []
    for state, replies in by_state.items():
        rewards = np.array([row["reward"] for row, _, _ in replies])
        actions = np.unique([str(action) for _, _, action in replies], return_inverse=True)[1]
        options = np.argwhere((rewards[:, None] > rewards) & (actions[:, None] != actions))
        rng = generator(seed, "outcome pairs", *map(str, state))
        for index in sorted(rng.permutation(len(options))[:pairs_per_state].tolist()):
            (row, place, _), (other_row, elsewhere, _) = (replies[each] for each in options[index].tolist())
            rows.append(
                {
                    "situation_id": row["dialogue_id"],
                    "turn": place,
                    "prompt": row["messages"][:place],
                    "chosen": row["messages"][place]["content"],
                    "rejected": other_row["messages"][elsewhere]["content"],
                }
            )
    if not rows:
        raise ValueError(
            "no two replies in the same state belong to dialogues of different rewards, so there is no pair; imagine "
            "more dialogues (imagination.personas)"
        )
    return from_rows(rows, DPO_PAIRS)


def _transitions(reader: FeatureReader, rows: Sequence[Row], blocks: bool) -> Transitions:
    sequences: list[Decisions] = []
    rewards: list[float] = []
    following: list[int] = []
    for row in rows:
        sequences += conversation_decisions(reader.chat, row["messages"], blocks)
        count = _replies(row)
        first = len(rewards)
        rewards += _rewards(row)
        following += [*range(first + 1, first + count), -1]
    states, actions = reader.read(sequences)
    return Transitions(states, actions, torch.tensor(rewards), torch.tensor(following))


def _alternative_features(
    reader: FeatureReader, rows: Sequence[Row], alternatives: Sequence[Sequence[str]], blocks: bool
) -> torch.Tensor:
    prompts = [row["messages"][:place] for row in rows for place in _reply_places(row)]
    sequences = [
        reply_decision(reader.chat, prompt, reply, blocks)
        for prompt, replies in zip(prompts, alternatives, strict=True)
        for reply in replies
    ]
    return reader.read(sequences)[1].view(len(prompts), -1, reader.width)


def _rewards(row: Row) -> list[float]:
    """Return the reward after each reply."""
    if row["reply_rewards"] is None:
        return [0.0] * (_replies(row) - 1) + [row["reward"]]
    return list(row["reply_rewards"])


def _replies(row: Row) -> int:
    return len(_reply_places(row))


def _reply_places(row: Row) -> list[int]:
    return [place for place, message in enumerate(row["messages"]) if message["role"] == "assistant"]
