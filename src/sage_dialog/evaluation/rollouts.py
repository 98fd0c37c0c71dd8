"""Dialogues of a table of rollouts, and the replies of the agents."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import pandas as pd

from sage_dialog.core.tables import DataFrame, from_rows, to_rows
from sage_dialog.dialogue import Message
from sage_dialog.sac import Chain, Intent, parse
from sage_dialog.schemas import REPLIES


def dialogues_by_policy(rollouts: DataFrame) -> dict[str, dict[str, tuple[Message, ...]]]:
    """Return the dialogues of a table of `schemas.ROLLOUTS` as both sides read them, by policy and situation.

    Policies come in their order in the table, situations sorted.
    """
    dialogues: dict[str, dict[str, list[Message]]] = {policy: {} for policy in rollouts["policy"].unique()}
    rows = rollouts.sort_values(["situation_id", "turn"])[["policy", "situation_id", "role", "text"]]
    for policy, situation, role, text in rows.itertuples(index=False, name=None):
        dialogues[policy].setdefault(situation, []).append(Message(role, text))
    return {
        policy: {situation: tuple(messages) for situation, messages in by_situation.items()}
        for policy, by_situation in dialogues.items()
    }


def same_situations(situations: Mapping[str, Collection[str]], policy_a: str, policy_b: str) -> list[str]:
    """Return the situations that both policies played, sorted.

    Raises:
        ValueError: naming the policy without rollouts, or a situation that only one of the two played.
    """
    for policy in (policy_a, policy_b):
        if policy not in situations:
            raise ValueError(
                f"policy {policy!r} is compared but was not rolled out; `pairs` in parameters_evaluation.yml may name "
                f"{', '.join(sorted(situations))}"
            )
    for policy, other in ((policy_a, policy_b), (policy_b, policy_a)):
        if missing := sorted(set(situations[other]) - set(situations[policy])):
            raise ValueError(
                f"situation {missing[0]!r} was played by {other} but not by {policy} ({len(missing)} such in all); "
                f"run both again on the same situations: kedro run --pipelines evaluation"
            )
    return sorted(situations[policy_a])


def parse_replies(rollouts: DataFrame, policy_cards: DataFrame) -> DataFrame:
    """Return the agents' replies with their parsed blocks, as a table of `schemas.REPLIES`.

    Policies come in their order in `rollouts`, their dialogues sorted by situation.

    Args:
        policy_cards: a table of `schemas.POLICIES`; a policy that is not in it writes no blocks.
    """
    with_blocks = set(policy_cards["policy"][policy_cards["blocks"]])
    return pd.concat(
        [
            from_rows(_parse_policy(policy, rows, policy in with_blocks), REPLIES)
            for policy, rows in rollouts.groupby("policy", sort=False)
        ]
        or [from_rows([], REPLIES)],
        ignore_index=True,
    )


def _parse_policy(policy: str, rollouts: DataFrame, blocks: bool) -> Iterator[dict[str, Any]]:
    dialogue, exchange = None, 0
    user_texts: list[str] = []
    rows = rollouts.sort_values(["situation_id", "turn"])[["situation_id", "role", "text", "content"]]
    for situation, role, text, content in rows.itertuples(index=False, name=None):
        if situation != dialogue:
            dialogue, exchange, user_texts = situation, 0, []
        if role == "user":
            user_texts.append(text)
            continue
        exchange += 1
        reply = {"policy": policy, "situation_id": situation, "exchange": exchange, "text": text, "blocks": blocks}
        reply["user_text"] = "\n".join(user_texts)
        user_texts = []
        chain = parse(content) if blocks else None
        if isinstance(chain, Chain):
            reply |= intent_columns("u_", chain.state) | intent_columns("a_", chain.action)
        elif chain is not None:
            reply["invalid_reason"] = chain.reason
        yield reply


def intent_columns(prefix: str, intent: Intent) -> dict[str, Any]:
    """Return an intent as columns of a table."""
    return {
        f"{prefix}motivation": intent.motivation,
        f"{prefix}emotion": intent.emotion,
        f"{prefix}topics": list(intent.topics),
    }


def replies_by_dialogue(
    rollouts: DataFrame, replies: DataFrame
) -> Iterator[tuple[str, dict[str, list[dict[str, Any]]]]]:
    """Yield each policy with the replies of its dialogues by situation, sorted; a dialogue may have no reply.

    Args:
        rollouts: the table of `schemas.ROLLOUTS`, which has all dialogues.
        replies: `parse_replies` of it.
    """
    for policy, rows in rollouts.groupby("policy", sort=False):
        dialogues: dict[str, list[dict[str, Any]]] = {situation: [] for situation in sorted(set(rows["situation_id"]))}
        for reply in to_rows(replies[replies["policy"] == policy]):
            dialogues[reply["situation_id"]].append(reply)
        yield policy, dialogues
