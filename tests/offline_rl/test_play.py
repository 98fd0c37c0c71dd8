"""Play with simulated partners: the same users for every policy, and the critic's choice among replies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from guessing_task import GUESSING
from scripted_engine import ScriptedEngine

from sage_dialog.config import Imagination, SamplingConfig, Task
from sage_dialog.core.tables import to_rows
from sage_dialog.inference.engine import FinishReason, Prompt, Sample
from sage_dialog.offline_rl.play import play, situations
from sage_dialog.sac import Chain, Intent, render

SAMPLING = SamplingConfig.from_base()
DRINKS = ("Here is your tea.", "Here is your milk.")


@pytest.fixture
def config() -> Imagination:
    return Imagination.from_base(tasks={"guessing": Task.model_validate(GUESSING)})


def blocks(text: str) -> str:
    return render(Chain(Intent("asking"), Intent("pour"), text))


def run(config: Imagination, reply: Any, count: int = 40, seed: int = 0, **options: Any) -> list[dict[str, Any]]:
    engine = ScriptedEngine(reply)
    return to_rows(play(engine, "goal_bc", True, situations(config, count, seed), SAMPLING, seed, **options))


def test_the_outcome_is_that_of_the_hidden_state(config: Imagination) -> None:
    rows = run(config, lambda policy, prompt, j: blocks(DRINKS[0]))
    for row in rows:
        right = {pair["name"]: pair["value"] for pair in row["hidden"]}["drink"] == "tea"
        assert (row["reward"], row["success"], row["replies"]) == ((2.0, True, 1) if right else (-1.0, False, 1))
        assert row["messages"][-1]["content"] == ("Thank you." if right else "Oh well.")
    assert 0.05 < sum(row["success"] for row in rows) / len(rows) < 0.5  # tea has a quarter of the weight


def test_the_partner_reads_text_and_no_blocks(config: Imagination) -> None:
    """The block names a drink, and the text does not."""
    said = render(Chain(Intent("asking"), Intent("pour", None, ("tea",)), "Well, well."))
    rows = run(config, lambda policy, prompt, j: said, count=3)
    assert [(row["unclear"], row["replies"], row["reward"]) for row in rows] == [(2, 2, 0.0)] * 3
    assert all(row["messages"][-1]["content"] == "Pardon?" for row in rows)


def test_every_policy_meets_the_same_users_with_the_same_luck(config: Imagination) -> None:
    ask = blocks("What do you drink at noon?")
    one, other = (
        run(config, lambda policy, prompt, j, text=text: text) for text in (ask, ask.replace("pour", "inquire"))
    )
    for first, second in zip(one, other, strict=True):
        assert first["hidden"] == second["hidden"] and first["situation_id"] == second["situation_id"]
        heard = [[m["content"] for m in row["messages"] if m["role"] == "user"] for row in (first, second)]
        assert heard[0] == heard[1]
    assert {row["messages"][3]["content"] for row in one} == {"I like tea.", "I like milk.", "Oh well."}
    assert run(config, lambda policy, prompt, j: ask, seed=1) != one


def test_a_user_does_not_depend_on_the_number_of_users(config: Imagination) -> None:
    assert (
        run(config, lambda policy, prompt, j: blocks(DRINKS[1]), count=5)
        == run(config, lambda policy, prompt, j: blocks(DRINKS[1]))[:5]
    )


def test_the_critic_chooses_by_q_minus_v(config: Imagination) -> None:
    values = {DRINKS[0]: (0.9, 1.0), DRINKS[1]: (0.1, 0.5)}  # the second has the larger advantage, not the larger Q
    seen: list[int] = []

    def rank(pairs: Sequence[tuple[Any, str]]) -> list[tuple[float, float]]:
        seen.append(len(pairs))
        return [values[text.partition("]} ")[2].partition("]} ")[2]] for _, text in pairs]

    rows = run(config, lambda policy, prompt, j: blocks(DRINKS[j % 2]), 6, candidates=4, rank=rank, name="goal_rerank")
    assert {row["messages"][2]["content"] for row in rows} == {blocks(DRINKS[1])}
    assert {(row["policy"], row["value"], row["action_value"]) for row in rows} == {("goal_rerank", 0.1, 0.5)}
    assert seen == [12]  # equal replies are read once


def test_a_broken_reply_is_chosen_only_if_all_are_broken(config: Imagination) -> None:
    def reply(policy: str, prompt: Prompt, j: int) -> Sample:
        text = blocks(DRINKS[0]) if j == 2 else blocks(DRINKS[1])
        return Sample(text, 9, FinishReason.STOP if j == 2 else FinishReason.LENGTH)

    rows = run(config, reply, 4, candidates=3)
    assert {row["messages"][2]["content"] for row in rows} == {blocks(DRINKS[0])}
    rows = run(config, lambda policy, prompt, j: "garbage", 4, candidates=2)
    assert {row["unclear"] for row in rows} == {2}


def test_a_full_context_ends_the_dialogue(config: Imagination) -> None:
    rows = run(config, lambda policy, prompt, j: None, 2, candidates=2, rank=lambda pairs: [])
    assert [(row["replies"], row["reward"], row["value"]) for row in rows] == [(0, 0.0, None)] * 2
