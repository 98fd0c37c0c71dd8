"""Imagination by rules: faults in set shares, a critique that finds them, rewards, and what is measured."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest

from sage_dialog.config import Imagination, Task
from sage_dialog.core.tables import to_rows
from sage_dialog.corpora.rejects import InputDataError
from sage_dialog.dialogue import Message
from sage_dialog.imagination.protocols import ImaginedDialogue, Persona
from sage_dialog.imagination.rules import CONTRADICTION, EARLY, RuleCritic, RuleImaginer
from sage_dialog.imagination.tables import (
    critique_dialogues,
    critique_effects,
    draw_personas,
    imagine_dialogues,
    persona_diversity,
    read_values,
    score_dialogues,
)

TEA = Persona("guessing:0", {"hour": "noon"}, {"drink": "tea"}, "A guest who likes tea at noon.")


def spoken(*texts: str, last: str = "nothing") -> ImaginedDialogue:
    roles = ("user", "assistant")
    messages = tuple(Message(roles[place % 2], text) for place, text in enumerate(texts))
    return ImaginedDialogue(messages, {"drink": "tea", "poured": last})


def criticise(task: Task, dialogue: ImaginedDialogue) -> Any:
    (critique,) = RuleCritic().critique("guessing", task, [(TEA, dialogue)])
    return critique


def test_what_is_told_early_is_cut_out(guessing: Task) -> None:
    told = spoken("Good noon, I am thirsty. I like tea.", "Here is your tea.", "Thank you.", last="right")
    critique = criticise(guessing, told)
    assert critique.verdict == "rewrite" and critique.faults == (f"{EARLY}: I like tea.",)
    assert critique.messages[0].text == "Good noon, I am thirsty."
    assert critique.messages[1:] == told.messages[1:] and critique.last_state == told.last_state


def test_an_answer_to_a_question_is_kept(guessing: Task) -> None:
    asked = spoken("Good noon, I am thirsty.", "What do you drink at noon?", "I like tea.")
    critique = criticise(guessing, asked)
    assert (critique.verdict, critique.faults, critique.messages) == ("keep", (), asked.messages)


def test_what_is_told_after_another_act_is_early_too(guessing: Task) -> None:
    told = spoken("Good noon, I am thirsty.", "Here is your milk.", "Oh well. I like tea.", last="wrong")
    assert [message.text for message in criticise(guessing, told).messages][2] == "Oh well."


@pytest.mark.parametrize(
    ("texts", "fault"),
    [
        (("Good noon, I am thirsty.", "What do you drink at noon?", "I like milk."), f"{CONTRADICTION}: I like milk."),
        (("Good noon, I am thirsty.", "Here is your milk.", "Thank you."), f"{CONTRADICTION}: Thank you."),
        (("I like tea.", "Here is your tea.", "Thank you."), "the user says nothing else"),
    ],
)
def test_what_cannot_be_mended_is_dropped(guessing: Task, texts: tuple[str, ...], fault: str) -> None:
    critique = criticise(guessing, spoken(*texts))
    assert critique.verdict == "drop" and critique.faults[-1] == fault and critique.messages == ()


def imagined(config: Imagination, *settings: Any, seed: int = 0) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    imaginer = RuleImaginer(*settings)
    personas = draw_personas(imaginer, config, seed)
    dialogues = imagine_dialogues(imaginer, personas, config, seed)
    return personas, dialogues, critique_dialogues(RuleCritic(), personas, dialogues, config)


def test_without_faults_nothing_is_changed(imagination: Imagination) -> None:
    _, dialogues, critiques = imagined(imagination, [1.0, 5.0], 0.0, 0.0)
    assert set(critiques["verdict"]) == {"keep"}
    assert to_rows(critiques[["messages", "last_state"]]) == to_rows(dialogues[["messages", "last_state"]])


def test_the_critique_finds_each_fault_and_no_other(imagination: Imagination) -> None:
    for early, verdict, fault in ((1.0, "rewrite", EARLY), (0.0, "drop", CONTRADICTION)):
        any_share = imagination.model_copy(update={"max_dropped_share": 1.0})
        _, _, critiques = imagined(any_share, [1.0], early, 1.0 - early)
        faults = [text for row in to_rows(critiques) for text in row["faults"]]
        assert faults and all(text.startswith(fault) for text in faults)
        found = critiques["verdict"] == verdict
        assert set(critiques.loc[~found, "verdict"]) <= {"keep"}
        if verdict == "rewrite":
            assert found.all()  # every user told something


def test_equal_seeds_give_equal_tables_and_a_persona_does_not_depend_on_the_others(imagination: Imagination) -> None:
    first, again = (imagined(imagination, [1.0, 5.0], 0.2, 0.1, seed=3) for _ in range(2))
    for one, other in zip(first, again, strict=True):
        pd.testing.assert_frame_equal(one, other)
    fewer = imagination.model_copy(update={"personas": 20})
    assert to_rows(imagined(fewer, [1.0, 5.0], 0.2, 0.1, seed=3)[1])[:20] == to_rows(first[1])[:20]
    assert to_rows(imagined(imagination, [1.0, 5.0], 0.2, 0.1, seed=4)[1]) != to_rows(first[1])


def test_rewards_are_those_of_the_last_state(imagination: Imagination) -> None:
    _, _, critiques = imagined(imagination, [5.0], 0.2, 0.1)
    rewards = score_dialogues(critiques, imagination)
    kept = critiques[critiques["verdict"] != "drop"]
    assert list(rewards["dialogue_id"]) == list(kept["dialogue_id"])
    for row, reward in zip(to_rows(kept), to_rows(rewards), strict=True):
        state = read_values(row["last_state"])
        won = state["advice"] == "right" if "advice" in state else state["level"] == "example"
        assert reward["success"] == won and reward["reward"] == float(won)
        assert reward["replies"] == len(row["messages"]) // 2
    assert 0 < rewards["success"].mean() < 1


def test_too_many_dropped_dialogues_stop_the_run(imagination: Imagination) -> None:
    strict = imagination.model_copy(update={"max_dropped_share": 0.1})
    with pytest.raises(InputDataError, match=r"preference_elicitation are dropped.*max_dropped_share = 0.1"):
        imagined(strict, [1.0], 0.0, 1.0)


def test_measures_before_and_after_the_critique(imagination: Imagination) -> None:
    personas, dialogues, critiques = imagined(imagination, [1.0, 5.0], 0.5, 0.0)
    effects = critique_effects(personas, dialogues, critiques, imagination).set_index(["task", "statistic"])
    for task in imagination.tasks:
        early = effects.loc[(task, "tells early")]
        assert 0.3 < early["before"] < 0.7 and early["after"] == 0 and early["n_before"] == imagination.personas
        shares = [effects.loc[(task, f"share: {verdict}"), "after"] for verdict in ("keep", "rewrite", "drop")]
        assert sum(shares) == pytest.approx(1) and shares[1] == early["before"]


def test_diversity_tells_copies_from_different_personas(imagination: Imagination) -> None:
    personas, _, _ = imagined(imagination, [1.0], 0.0, 0.0)
    figures = persona_diversity(personas, imagination).set_index(["task", "statistic"])["value"]
    copies = personas.assign(text="The same.", hidden=[personas["hidden"].iloc[0]] * len(personas))
    same = persona_diversity(copies, imagination).set_index(["task", "statistic"])["value"]
    for task in imagination.tasks:
        assert same[task, "entropy of what is hidden"] == 0 < figures[task, "entropy of what is hidden"]
        assert same[task, "different texts"] == 1 / imagination.personas < figures[task, "different texts"]
        assert same[task, "likeness to the nearest other"] == 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RuleImaginer([1.0], 1.5, 0.0), "early_share = 1.5"),
        (lambda: RuleImaginer([], 0.0, 0.0), "attention is empty"),
    ],
)
def test_an_argument_out_of_range_is_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
