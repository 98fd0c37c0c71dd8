"""Tasks: the files that ship, their simulated users, and errors in a task of the user's own."""

from __future__ import annotations

import copy
from collections import Counter
from typing import Any

import numpy as np
import pytest
import yaml
from guessing_task import GUESSING
from pydantic import ValidationError

from sage_dialog.config import Imagination, Task
from sage_dialog.dialogue import Message
from sage_dialog.imagination.partner import (
    draw_values,
    fit,
    initial_belief,
    outcome_of,
    respond,
    state_of,
    updated_belief,
)
from sage_dialog.imagination.wording import Wording, with_blocks
from sage_dialog.sac import parse


def changed(**changes: Any) -> dict[str, Any]:
    return copy.deepcopy(GUESSING) | changes


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("acts", "ask", "rules", 0, "reply"), "likes te", "did you mean likes tea"),
        (("acts", "ask", "rules", 0, "when"), {"drnk": "tea"}, "no variable is called 'drnk', did you mean drink"),
        (("acts", "ask", "rules", 0, "when"), {"drink": "coffee"}, "drink is never 'coffee'"),
        (("acts", "ask", "rules", 2, "chance"), 0.5, "acts.ask: its last rule must hold always"),
        (("acts", "ask", "says"), ["What at {our}?"], "{our} is no variable here; known are hour"),
        (("openings",), ["I like {drink}."], "{drink} is no variable here"),
        (("acts", "pour tea", "topics"), ["Tea, hot"], "cannot be a label of a block; write 'tea hot'"),
        (("acts", "pour tea", "rules", 0, "sets"), {"pured": "right"}, "declare it under hidden or progress"),
        (("unclear",), "nothing", "unclear: no reply is called 'nothing'"),
        (("hidden", "drink"), {"tea": 0}, "no value has a weight above 0"),
        (("shared",), {"drink": {"tea": 1}, "hour": {"noon": 1}}, "declared twice"),
    ],
)
def test_a_mistake_in_a_task_is_named_with_its_place(path: tuple[Any, ...], value: Any, message: str) -> None:
    task = changed()
    inner: Any = task
    for part in path[:-1]:
        inner = inner[part]
    inner[path[-1]] = value
    with pytest.raises(ValidationError) as error:
        Task.model_validate(task)
    assert message in str(error.value)


@pytest.mark.parametrize("text", ["acts: [", "- a list"])
def test_a_file_that_is_no_task_is_refused(text: str) -> None:
    with pytest.raises(ValidationError, match=r"no YAML|no task"):
        Task.model_validate(text)


def test_a_task_is_read_from_its_text() -> None:
    assert Task.model_validate(yaml.safe_dump(GUESSING)) == Task.model_validate(GUESSING)


@pytest.mark.parametrize("name", ["Ask", "ask: early", ""])
def test_a_name_that_cannot_stand_in_tables_is_refused(name: str) -> None:
    with pytest.raises(ValidationError, match="cannot name a task"):
        Imagination.model_validate(Imagination.from_base().model_dump() | {"tasks": {name: GUESSING}})


@pytest.mark.parametrize("name", ["preference_elicitation", "teaching"])
def test_every_wording_of_a_task_that_ships_is_recognised(name: str) -> None:
    task = Imagination.from_base().tasks[name]
    wording = Wording(task)
    shared = {variable: next(iter(weights)) for variable, weights in task.shared.items()}
    for act, described in task.acts.items():
        assert {wording.act(said.format(**shared)) for said in described.says} == {act}
    for reply, answer in task.replies.items():
        for said in answer.says:
            assert wording.replies(said.format(**shared), shared) == [(reply, said.format(**shared))]


@pytest.mark.parametrize("name", ["preference_elicitation", "teaching"])
def test_asking_first_pays_in_a_task_that_ships(name: str) -> None:
    """An attentive agent that asks reaches the goal much more often than one that never asks."""
    task = Imagination.from_base().tasks[name]
    rates = {}
    for asks in (True, False):
        rng, won = np.random.default_rng(0), 0
        for _ in range(300):
            state, belief = state_of(draw_values(task.hidden, rng) | task.progress), initial_belief(task)
            for _ in range(task.max_replies):
                known = {act: fit(described, belief) for act, described in task.acts.items()}
                best = max(known, key=lambda act: known[act])
                unsure = [act for act in task.acts if act.startswith("ask") and asks and _informs(task, act, belief)]
                act = unsure[0] if unsure and known[best] < 0.6 else best
                state, reply, ends = respond(task, state, act, rng)
                belief = updated_belief(task, belief, act, reply)
                assert belief, "a reply that the rules rule out"
                if ends:
                    break
            won += outcome_of(task, state).success
        rates[asks] = won / 300
    assert rates[True] > 0.75 and rates[True] - rates[False] > 0.2, rates


def _informs(task: Task, act: str, belief: Any) -> bool:
    """Whether more than one telling reply is possible."""
    telling = [rule.reply for rule in task.acts[act].rules if task.replies[rule.reply].tells]
    return sum(bool(updated_belief(task, belief, act, reply)) for reply in telling) > 1


def test_the_belief_is_that_of_counting(guessing: Task) -> None:
    """An independent way to the same number: simulate, and keep the runs with the reply that was heard."""
    rng = np.random.default_rng(1)
    kept: Counter[str] = Counter()
    for _ in range(20_000):
        hidden = draw_values(guessing.hidden, rng)
        _, reply, _ = respond(guessing, state_of(hidden | guessing.progress), "ask", rng)
        if reply == "shy":
            kept[hidden["drink"]] += 1
    belief = updated_belief(guessing, initial_belief(guessing), "ask", "shy")
    milk = sum(weight for state, weight in belief.items() if dict(state)["drink"] == "milk")
    assert milk == pytest.approx(0.75) and kept["milk"] / kept.total() == pytest.approx(milk, abs=0.03)
    assert fit(guessing.acts["pour milk"], initial_belief(guessing)) == pytest.approx(0.75)
    assert updated_belief(guessing, initial_belief(guessing), "ask", "glad") == {}


def test_an_unknown_message_changes_nothing(guessing: Task) -> None:
    state = state_of({"drink": "tea", "poured": "nothing"})
    assert respond(guessing, state, None, np.random.default_rng(0)) == (state, "puzzled", False)
    assert outcome_of(guessing, state).reward == 0.0


def test_blocks_hold_what_was_said_and_nothing_hidden(guessing: Task) -> None:
    dialogue = [
        Message("user", "Good noon, I am thirsty."),
        Message("assistant", "What do you drink at noon?"),
        Message("user", "I like tea."),
        Message("assistant", "So, here is your tea!"),
        Message("user", "Thank you."),
        Message("assistant", "Nice weather."),
    ]
    written = with_blocks(guessing, Wording(guessing), dialogue, {"hour": "noon"})
    first, second = parse(written[1].content), parse(written[3].content)
    assert (first.state.topics, first.action.motivation) == ((), "ask drink")
    assert (second.state.topics, second.action.topics, second.utterance) == (
        ("tea",),
        ("tea",),
        "So, here is your tea!",
    )
    assert written[5] == dialogue[5]


def test_a_wording_inside_a_longer_one_is_no_second_reply() -> None:
    task = Task.model_validate(changed())
    replies = {**GUESSING["replies"], "likes much": {"motivation": "answering", "says": ["I like tea. A lot."]}}
    task = Task.model_validate(changed(replies=replies))
    assert Wording(task).replies("I like tea. A lot.", {}) == [("likes much", "I like tea. A lot.")]
