"""Negotiations with a partner: who reads what, what the outcome is, and how policies and partner are measured."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy.stats import permutation_test
from scripted_engine import ScriptedEngine

from sage_dialog.config import Negotiation, SamplingConfig
from sage_dialog.core.tables import DataFrame, from_rows, to_rows
from sage_dialog.inference.engine import Prompt
from sage_dialog.offline_rl.negotiation import (
    negotiation_comparisons,
    negotiation_scores,
    partner_likeness,
    play_negotiations,
)
from sage_dialog.schemas import NEGOTIATION_CONTEXTS, NEGOTIATION_ROLLOUTS, NEGOTIATIONS

SAMPLING = SamplingConfig.from_base()
PROMPT = Negotiation.from_base().system_prompt
MINE, YOURS = "<selection> item0=1 item1=0 item2=1", "<selection> item0=0 item1=4 item2=0"


def contexts(*begins: bool) -> DataFrame:
    row = {"counts": [1, 4, 1], "values": [4, 1, 2], "partner_values": [0, 2, 2]}
    rows = [
        {**row, "situation_id": f"val.txt:{i}", "negotiation_id": f"n{i}", "agent_begins": first}
        for i, first in enumerate(begins)
    ]
    return from_rows(rows, NEGOTIATION_CONTEXTS)


def negotiate(
    agent: Callable[[list[str], int], str],
    partner: Callable[[list[str]], str],
    table: DataFrame,
    **options: Any,
) -> tuple[list[dict[str, Any]], ScriptedEngine, ScriptedEngine]:
    """Play with replies that are functions of the messages so far, and of the number of the sample."""

    def said(prompt: Prompt) -> list[str]:
        return [message["content"] for message in prompt.messages[1:]]

    engine = ScriptedEngine(lambda policy, prompt, j: agent(said(prompt), j))
    partners = ScriptedEngine(lambda policy, prompt, j: partner(said(prompt)))
    limits = {"max_messages": 6} | options
    rollouts = play_negotiations(engine, "bc", partners, "partner", table, PROMPT, SAMPLING, SAMPLING, **limits)
    return to_rows(rollouts), engine, partners


def test_the_side_that_answers_a_selection_reads_its_mark_alone() -> None:
    (row,), agent, partner = negotiate(
        lambda said, j: MINE if "deal" in said else "the book for me",
        lambda said: YOURS if "<selection>" in said else "deal",
        contexts(True),
    )
    assert (row["reward"], row["partner_reward"], row["success"], row["unclear"]) == (6.0, 8.0, True, 0)
    assert (row["selected"], row["partner_selected"], row["replies"]) == ([1, 0, 1], [0, 4, 0], 2)
    assert partner.prompts("partner")[-1][-1]["content"] == "<selection>"
    assert [message["role"] for message in partner.prompts("partner")[0]] == ["system", "user"]
    assert (
        "worth 4" in agent.prompts("bc")[0][0]["content"] and "worth 0" in partner.prompts("partner")[0][0]["content"]
    )
    assert not any("worth 0" in m["content"] for view in agent.prompts("bc") for m in view)
    assert row["messages"][-1] == {
        "role": "user",
        "content": "<selection>",
    }  # what the partner chose is not in a prompt
    assert row["hidden"] == [{"name": kind, "value": v} for kind, v in (("books", "0"), ("hats", "2"), ("balls", "2"))]


def test_the_partner_may_begin_and_end() -> None:
    (row,), _, _ = negotiate(
        lambda said, j: MINE if said[-1] == "<selection>" else "the book for me",
        lambda said: YOURS if said else "hello",
        contexts(False),
    )
    assert [m["content"] for m in row["messages"][1:]] == ["hello", "the book for me", "<selection>", MINE]
    assert (row["reward"], row["partner_reward"]) == (6.0, 8.0)


@pytest.mark.parametrize(
    ("agent", "partner", "unclear"),
    [
        (MINE, MINE, 0),  # both take the book
        ("<selection> no agreement", YOURS, 0),
        ("<selection> item0=2 item1=0 item2=1", YOURS, 1),
        ("hm", YOURS, 1),
        ("never", "mind", 0),  # nobody selects within the limit
    ],
)
def test_without_two_selections_that_add_up_nobody_gets_anything(agent: str, partner: str, unclear: int) -> None:
    rows, _, _ = negotiate(lambda said, j: agent, lambda said: partner, contexts(True, False))
    for row in rows:
        assert (row["reward"], row["partner_reward"], row["success"], row["unclear"]) == (0.0, 0.0, False, unclear)
        assert len(row["messages"]) - 1 <= 6


def test_every_policy_meets_the_same_partner_with_the_same_random_numbers() -> None:
    items = []
    for text in ("the book for me", "all for me"):
        _, _, partner = negotiate(
            lambda said, j, text=text: text, lambda said: "no", contexts(True, False), max_messages=4
        )
        items.append([prompt.item for _, prompt, _ in partner.requests])
    assert items[0] == items[1] and len(set(items[0])) == len(items[0])


def test_the_critic_chooses_among_the_messages_of_the_agent() -> None:
    def rank(pairs: Any) -> list[tuple[float, float]]:
        return [(1.0, 3.0 if "2" in text else 2.0) for _, text in pairs]

    (row,), _, partner = negotiate(
        lambda said, j: f"offer {j}", lambda said: "no", contexts(True), candidates=4, rank=rank, name="rerank"
    )
    assert {m["content"] for m in row["messages"] if m["role"] == "assistant"} == {"offer 2"}
    assert (row["policy"], row["value"], row["action_value"]) == ("rerank", 1.0, 3.0)
    assert all(prompt.messages[1]["content"] == "offer 2" for _, prompt, _ in partner.requests)


def test_the_critic_chooses_when_to_end_but_not_what_was_agreed() -> None:
    """Of several selections the first that is drawn counts, whatever the critic says."""
    greedy = "<selection> item0=1 item1=4 item2=1"

    def rank(pairs: Any) -> list[tuple[float, float]]:
        return [(0.0, 3.0 if text == greedy else 2.0 if text == MINE else 1.0) for _, text in pairs]

    (row,), _, _ = negotiate(
        lambda said, j: ("the book for me", MINE, greedy)[j],
        lambda said: YOURS,
        contexts(True),
        candidates=3,
        rank=rank,
    )
    assert (row["selected"], row["replies"], row["reward"]) == ([1, 0, 1], 1, 6.0)


def played(policy: str, rewards: Any, said: str = "deal") -> list[dict[str, Any]]:
    return [
        {
            "policy": policy,
            "task": "deal_or_no_deal",
            "situation_id": f"val.txt:{i}",
            "messages": [{"role": "user", "content": said}, {"role": "user", "content": "<selection>"}],
            "hidden": [],
            "replies": 3,
            "unclear": 0,
            "reward": float(reward),
            "success": reward > 0,
            "negotiation_id": f"n{i // 2}",
            "partner_reward": 10.0 - reward if reward > 0 else 0.0,
        }
        for i, reward in enumerate(rewards)
    ]


def test_scores_and_comparisons_are_of_the_same_contexts() -> None:
    rng = np.random.default_rng(0)
    base = rng.choice([0, 4, 6], 80)
    better = np.clip(base + rng.choice([-2, 0, 3], 80), 0, 10)
    rollouts = from_rows(played("bc", base) + played("awr", better) + played("twin", base), NEGOTIATION_ROLLOUTS)
    scores = {(row["policy"], row["statistic"]): row for row in to_rows(negotiation_scores(rollouts, 0.95, 50, 0))}
    assert scores["awr", "reward"]["value"] == pytest.approx(better.mean())
    assert scores["awr", "success"]["value"] == pytest.approx((better > 0).mean())
    assert scores["bc", "partner reward"]["value"] == pytest.approx(np.where(base > 0, 10 - base, 0).mean())
    assert scores["bc", "reward of agreements"]["value"] == pytest.approx(base[base > 0].mean())
    assert scores["bc", "partner reward of agreements"]["n"] == (base > 0).sum()
    rows = {
        (row["policy_a"], row["statistic"]): row
        for row in to_rows(negotiation_comparisons(rollouts, "bc", 0.95, 2000, 0))
    }
    found = rows["awr", "reward"]
    assert found["difference"] == pytest.approx((better - base).mean()) and found["low"] < found["difference"]
    assert (found["wins_a"], found["wins_b"], found["n"]) == ((better > base).sum(), (better < base).sum(), 80)
    expected = permutation_test(
        (better, base), lambda a, b: (a - b).mean(), permutation_type="samples", n_resamples=2000, rng=1
    )
    assert found["p"] == pytest.approx(expected.pvalue, abs=0.03) and found["p_holm"] == pytest.approx(2 * found["p"])
    assert rows["twin", "reward"]["p"] == 1.0 and rows["twin", "success"]["difference"] == 0.0


def humans(said: Callable[[int], str], count: int) -> DataFrame:
    common = {"split": "valid", "counts": [1, 4, 1], "values": [4, 1, 2], "partner_values": [0, 2, 2], "agreed": False}
    return from_rows(
        [
            {
                **common,
                **{"record": f"val.txt:{i}", "negotiation_id": f"n{i // 2}", "reward": 0, "partner_reward": 0},
                "messages": [{"role": "user", "content": said(i)}, {"role": "assistant", "content": "simulated word"}],
            }
            for i in range(count)
        ],
        NEGOTIATIONS,
    )


def test_the_partner_is_as_human_as_a_classifier_cannot_tell() -> None:
    words = ["deal", "no way", "the hats", "ok then"]
    rollouts = from_rows(
        [row for i in range(60) for row in played("same", [0] * (i + 1), words[i % 4])[-1:]]
        + played("other", [0] * 60, "simulated word"),
        NEGOTIATION_ROLLOUTS,
    )
    people = humans(lambda i: words[(i // 2 + 1) % 4], 80)  # 20 are of contexts that nobody played
    found = {row["policy"]: row for row in to_rows(partner_likeness(rollouts, people, 5, 0.95, 50, 0))}
    assert 0.3 < found["same"]["value"] < 0.7 and found["other"]["value"] == 1.0
    assert (found["same"]["simulated"], found["same"]["human"]) == (60, 60)
    silent = rollouts.assign(messages=[[] for _ in range(len(rollouts))])
    assert all(row["value"] is None for row in to_rows(partner_likeness(silent, people, 5, 0.95, 50, 0)))
    with pytest.raises(ValueError, match=r"30 negotiations are too few for negotiation.folds = 31"):
        partner_likeness(rollouts, people, 31, 0.95, 50, 0)
