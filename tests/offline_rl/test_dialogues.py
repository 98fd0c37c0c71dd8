"""Dialogues with returns: splits, what the agent sees, weights and preference pairs."""

from __future__ import annotations

import math

import pytest

from sage_dialog.config import Imagination
from sage_dialog.core.tables import DataFrame, from_rows, to_rows
from sage_dialog.imagination.tables import read_values
from sage_dialog.offline_rl.dialogues import goal_dialogues, training_conversations
from sage_dialog.offline_rl.learning import outcome_pairs, weighted_conversations
from sage_dialog.sac import Chain, parse
from sage_dialog.schemas import ADVANTAGES, GOAL_DIALOGUES

Tables = tuple[DataFrame, DataFrame, DataFrame]


def test_dialogues_end_with_the_agent_and_have_blocks_and_rewards(dialogues: DataFrame, tables: Tables) -> None:
    rewards = {row["dialogue_id"]: row for row in to_rows(tables[2])}
    for row in to_rows(dialogues):
        roles = [message["role"] for message in row["messages"]]
        assert roles == ["system"] + ["user", "assistant"] * row["replies"]
        replies = [message["content"] for message in row["messages"] if message["role"] == "assistant"]
        assert all(isinstance(parse(reply), Chain) for reply in replies)
        assert (row["reward"], row["success"]) == tuple(
            rewards[row["dialogue_id"]][key] for key in ("reward", "success")
        )
    held_out = dialogues[dialogues["split"] == "valid"].groupby("task").size() / dialogues.groupby("task").size()
    assert held_out.between(0.2, 0.3).all()


def test_no_message_holds_a_reward_or_what_was_not_said(dialogues: DataFrame, tables: Tables) -> None:
    """A hidden value stands in an agent's message only after the user's answer, or as a recommendation."""
    hidden = {row["persona_id"]: read_values(row["hidden"]) for row in to_rows(tables[0])}
    for row in to_rows(dialogues):
        first = next(message["content"] for message in row["messages"] if message["role"] == "assistant")
        chain = parse(first)
        assert isinstance(chain, Chain) and chain.state.topics == (), (first, hidden[row["dialogue_id"]])
        text = " ".join(message["content"] for message in row["messages"]).lower()
        assert "reward" not in text and "success" not in text and "none yet" not in text


def test_without_blocks_messages_are_text(imagination: Imagination, tables: Tables) -> None:
    plain = goal_dialogues(*tables, imagination, False, 0.25, 0)
    assert not any("{" in message["content"] for row in to_rows(plain) for message in row["messages"])


def test_the_best_dialogues_are_kept_by_task(dialogues: DataFrame) -> None:
    every, best = training_conversations(dialogues), training_conversations(dialogues, 0.3)
    train = dialogues[dialogues["split"] == "train"]
    assert list(every["conversation_id"]) == list(train["dialogue_id"])
    kept = train[train["dialogue_id"].isin(list(best["conversation_id"]))]
    for task, of_task in train.groupby("task"):
        of_best = kept[kept["task"] == task]
        assert len(of_best) == round(0.3 * len(of_task))
        assert (
            of_best["reward"].min()
            >= of_task[~of_task["dialogue_id"].isin(list(of_best["dialogue_id"]))]["reward"].max()
        )


def advantages_of(dialogues: DataFrame, advantage: float) -> DataFrame:
    rows = [
        {
            **{name: row[name] for name in ("dialogue_id", "task", "split")},
            **{"reply": reply, "replies": row["replies"], "value": 0.0, "action_value": 0.0, "realised": 0.0},
            "advantage": advantage * reply,
        }
        for row in to_rows(dialogues)
        for reply in range(row["replies"], 0, -1)  # in another order than the replies
    ]
    return from_rows(rows, ADVANTAGES)


def test_weights_are_exponential_limited_and_one_on_average(dialogues: DataFrame) -> None:
    rows = to_rows(weighted_conversations(dialogues, advantages_of(dialogues, 0.1), 0.1, 10.0))
    weights = [weight for row in rows for weight in row["weights"]]
    assert sum(weights) / len(weights) == pytest.approx(1)
    longest = max(rows, key=lambda row: len(row["weights"]))["weights"]
    assert longest[1] / longest[0] == pytest.approx(math.e) and longest[2] / longest[0] == pytest.approx(10 / math.e)
    assert len(rows) == (dialogues["split"] == "train").sum()
    extreme = to_rows(weighted_conversations(dialogues, advantages_of(dialogues, 1e6), 0.1, 30.0))
    assert all(math.isfinite(weight) for row in extreme for weight in row["weights"])


def test_pairs_are_of_one_state_two_actions_and_better_dialogues_first(dialogues: DataFrame) -> None:
    by_id = {row["dialogue_id"]: row for row in to_rows(dialogues)}
    rows = to_rows(outcome_pairs(dialogues, 5, 0))
    assert len(rows) > 10
    for row in rows:
        chosen, rejected = parse(row["chosen"]), parse(row["rejected"])
        assert isinstance(chosen, Chain) and isinstance(rejected, Chain)
        assert chosen.state == rejected.state and chosen.action != rejected.action
        source = by_id[row["situation_id"]]
        assert source["success"] and source["split"] == "train"
        assert (
            row["prompt"] == source["messages"][: row["turn"]]
            and source["messages"][row["turn"]]["content"] == row["chosen"]
        )
    assert to_rows(outcome_pairs(dialogues, 5, 0)) == rows
    fewer = outcome_pairs(dialogues, 1, 0)
    assert len(fewer) < len(rows)


def test_equal_rewards_give_no_pair(dialogues: DataFrame) -> None:
    same = from_rows([row | {"reward": 1.0} for row in to_rows(dialogues)], GOAL_DIALOGUES)
    with pytest.raises(ValueError, match="no two replies in the same state"):
        outcome_pairs(same, 5, 0)
