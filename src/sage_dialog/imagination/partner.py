"""A task's simulated user: it follows the task's rules, so that a finished dialogue has a true outcome."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import product

import numpy as np

from sage_dialog.config.tasks import Act, Outcome, Rule, Task

State = tuple[tuple[str, str], ...]
"""The variables of a user with their values, sorted by name."""

Belief = dict[State, float]
"""Probabilities of the user's states."""


def state_of(values: Mapping[str, str]) -> State:
    return tuple(sorted(values.items()))


def draw_values(weights: Mapping[str, Mapping[str, float]], rng: np.random.Generator) -> dict[str, str]:
    """Draw a value of each variable by its weights."""
    drawn = {}
    for name, options in weights.items():
        shares = np.array(list(options.values()), float)
        drawn[name] = list(options)[int(rng.choice(len(shares), p=shares / shares.sum()))]
    return drawn


def respond(task: Task, state: State, act: str | None, rng: np.random.Generator) -> tuple[State, str, bool]:
    """Return the user's next state, the name of the reply, and whether the dialogue ends with it.

    Args:
        act: a name of `task.acts`; None for a message that is none of them.
    """
    if act is None:
        return state, task.unclear, False
    rule = next(rule for rule in task.acts[act].rules if holds(rule.when, state) and rng.random() < rule.chance)
    return _after(state, rule), rule.reply, rule.ends


def outcome_of(task: Task, state: State) -> Outcome:
    """Return the outcome of a dialogue that leaves the user in this state; without one, reward 0 and no success."""
    found = (outcome for outcome in task.outcomes if holds(outcome.when, state))
    return next(found, Outcome(when={}, reward=0.0, success=False))


def initial_belief(task: Task) -> Belief:
    """Return the probabilities of the user's first states: what an agent knows before the user has said anything."""
    belief: Belief = {}
    options = [[(name, value, weight) for value, weight in weights.items()] for name, weights in task.hidden.items()]
    for chosen in product(*options):
        weight = float(np.prod([weight for _, _, weight in chosen]))
        if weight:
            belief[state_of({name: value for name, value, _ in chosen} | task.progress)] = weight
    return normalize(belief)


def updated_belief(task: Task, belief: Belief, act: str | None, reply: str) -> Belief:
    """Return the probabilities of the user's states after an act and its reply; empty if the reply is impossible."""
    if act is None:
        return belief if reply == task.unclear else {}
    after: Belief = {}
    for state, weight in belief.items():
        for rule, probability in applicable_rules(task.acts[act], state):
            if rule.reply == reply:
                following = _after(state, rule)
                after[following] = after.get(following, 0.0) + weight * probability
    return normalize(after)


def fit(act: Act, belief: Belief) -> float:
    """Return the probability that an act fits the user's state."""
    return sum(
        weight * probability
        for state, weight in belief.items()
        for rule, probability in applicable_rules(act, state)
        if rule.fits
    )


def applicable_rules(act: Act, state: State) -> Iterator[tuple[Rule, float]]:
    """Yield the rules of an act that can apply in a state, with their probabilities."""
    remaining = 1.0
    for rule in act.rules:
        if remaining > 0 and holds(rule.when, state):
            yield rule, remaining * rule.chance
            remaining *= 1 - rule.chance


def holds(when: Mapping[str, str], state: State) -> bool:
    """Return whether variables have these values in a state."""
    values = dict(state)
    return all(values.get(name) == value for name, value in when.items())


def normalize(belief: Belief) -> Belief:
    total = sum(belief.values())
    return {state: weight / total for state, weight in belief.items()} if total else {}


def _after(state: State, rule: Rule) -> State:
    return state_of(dict(state) | rule.sets) if rule.sets else state
