"""Rollouts read back from their table: whole dialogues, and the agent's replies by exchange."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import pandas as pd

from sage_dialog.core.tables import DataFrame, conform
from sage_dialog.dialogue import Message
from sage_dialog.sac import Chain, parse
from sage_dialog.schemas import ROLLOUTS

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class Reply:
    """One message of the agent: `text` is what the user hears, `content` what was written.

    Exchange 1 is the reply to the situation itself. `heard_before` is all that the user had said until then.
    """

    situation_id: str
    exchange: int
    text: str
    content: str
    heard_before: str

    @cached_property
    def chain(self) -> Chain | None:
        """None where the message has no blocks that parse."""
        chain = parse(self.content)
        return chain if isinstance(chain, Chain) else None


def concat_rollouts(rollouts: Mapping[str, DataFrame], external_rollouts: DataFrame | None = None) -> DataFrame:
    """Return the rollouts of policies and of external models as one table of `schemas.ROLLOUTS`.

    Args:
        rollouts: tables of `schemas.TRAJECTORIES` by policy.
        external_rollouts: a table of `schemas.ROLLOUTS`.
    """
    tables = [rows.assign(policy=policy) for policy, rows in rollouts.items()]
    return conform(pd.concat([*tables, external_rollouts] if external_rollouts is not None else tables), ROLLOUTS)


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


def whole_dialogues(rollouts: pa.Table) -> dict[str, tuple[Message, ...]]:
    """Each situation's dialogue as its two sides heard it, from a table of `schemas.TRAJECTORIES`."""
    dialogues: dict[str, list[Message]] = {}
    for row in rollouts.select(["situation_id", "turn", "role", "text"]).sort_by("turn").to_pylist():
        dialogues.setdefault(row["situation_id"], []).append(Message(row["role"], row["text"]))
    return {situation: tuple(dialogues[situation]) for situation in sorted(dialogues)}


def replies_by_dialogue(rollouts: pa.Table) -> dict[str, list[Reply]]:
    """The agent's replies in order, for every situation of the table, also one without any reply."""
    replies: dict[str, list[Reply]] = {}
    heard: dict[str, str] = {}
    for row in rollouts.select(["situation_id", "turn", "role", "text", "content"]).sort_by("turn").to_pylist():
        situation, text = row["situation_id"], row["text"]
        dialogue = replies.setdefault(situation, [])
        if row["role"] == "assistant":
            dialogue.append(Reply(situation, len(dialogue) + 1, text, row["content"], heard.get(situation, "")))
        else:
            heard[situation] = f"{heard[situation]}\n{text}" if situation in heard else text
    return {situation: replies[situation] for situation in sorted(replies)}


def same_situations(rollouts: Mapping[str, pa.Table], policy_a: str, policy_b: str) -> list[str]:
    """The situations that both policies played.

    Raises:
        ValueError: naming the policy that was not rolled out, or a situation that only one of the two played.
    """
    for policy in (policy_a, policy_b):
        if policy not in rollouts:
            raise ValueError(
                f"policy {policy!r} is compared but was not rolled out; `pairs` in parameters_evaluation.yml may name "
                f"{', '.join(sorted(rollouts))}"
            )
    played = {policy: set(rollouts[policy]["situation_id"].to_pylist()) for policy in (policy_a, policy_b)}
    for policy, other in ((policy_a, policy_b), (policy_b, policy_a)):
        if missing := sorted(played[other] - played[policy]):
            raise ValueError(
                f"situation {missing[0]!r} was played by {other} but not by {policy} ({len(missing)} such in all); "
                f"run both again on the same situations: kedro run --pipelines evaluation"
            )
    return sorted(played[policy_a])
