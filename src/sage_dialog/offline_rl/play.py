"""Dialogues of policies with the simulated partners of their tasks, with and without a critic."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from sage_dialog.config import Imagination, SamplingConfig, Task
from sage_dialog.core.seeds import generator
from sage_dialog.core.tables import DataFrame, from_rows
from sage_dialog.dialogue import Message, agent_view
from sage_dialog.imagination.partner import State, draw_values, outcome_of, respond, state_of
from sage_dialog.imagination.rules import pick
from sage_dialog.imagination.wording import Wording
from sage_dialog.inference.candidates import Candidate, parse_candidate
from sage_dialog.inference.engine import Engine, Prompt
from sage_dialog.schemas import GOAL_ROLLOUTS

logger = logging.getLogger(__name__)

View = tuple[dict[str, str], ...]
"""The messages of a dialogue as the agent sees them."""

Rank = Callable[[Sequence[tuple[View, str]]], list[tuple[float, float]]]
"""Returns V and Q of replies, each after its messages."""


@dataclass
class Situation:
    """A dialogue in progress with a user whose state is hidden."""

    id: str
    name: str
    task: Task
    shared: dict[str, str]
    hidden: dict[str, str]
    state: State
    messages: list[Message]
    ended: bool = False
    unclear: int = 0
    values: list[tuple[float, float]] = field(default_factory=list)

    @property
    def replies(self) -> int:
        return sum(message.role == "assistant" for message in self.messages)


def situations(imagination: Imagination, count: int, seed: int) -> list[Situation]:
    """Return users to play with, `count` for each task: the same for every policy, and none of the personas."""
    drawn = []
    for name, task in imagination.tasks.items():
        for number in range(count):
            rng = generator(seed, "partner", name, number)
            shared, hidden = draw_values(task.shared, rng), draw_values(task.hidden, rng)
            opening = pick(task.openings, rng).format(**shared)
            state = state_of(hidden | task.progress)
            drawn.append(Situation(f"{name}/{number}", name, task, shared, hidden, state, [Message("user", opening)]))
    return drawn


def play(
    engine: Engine,
    policy: str,
    blocks: bool,
    users: Sequence[Situation],
    sampling: SamplingConfig,
    seed: int,
    candidates: int = 1,
    rank: Rank | None = None,
    name: str | None = None,
) -> DataFrame:
    """Play each user to the end and return the dialogues (schemas.GOAL_ROLLOUTS).

    All policies meet the same users, who draw the same random numbers.

    Args:
        candidates: replies that are drawn for each message; the first is taken where there is no `rank`, else that
            with the largest Q - V. A reply that is cut, or whose blocks do not parse, is taken only if all are such.
        rank: a critic.
        name: of the policy in the table, where it is not that of its weights.
    """
    wordings = {user.name: Wording(user.task) for user in users}
    while playing := [user for user in users if not user.ended]:
        prompts = [
            Prompt(agent_view(user.messages, user.task.agent.system_prompt), ("goal", user.id, len(user.messages)))
            for user in playing
        ]
        sampled = engine.sample(policy, prompts, sampling, candidates)
        drawn = [[parse_candidate(sample, blocks) for sample in samples] for samples in sampled]
        chosen = choose([user.values for user in playing], prompts, drawn, rank)
        for user, candidate in zip(playing, chosen, strict=True):
            if candidate is None:  # the context is full
                user.ended = True
                continue
            _hear(user, wordings[user.name], candidate.message, seed)
    rows = []
    for user in users:
        outcome = outcome_of(user.task, user.state)
        first = user.values[0] if user.values else (None, None)
        rows.append(
            {
                "policy": name or policy,
                "task": user.name,
                "situation_id": user.id,
                "messages": list(agent_view(user.messages, user.task.agent.system_prompt)),
                "hidden": [{"name": variable, "value": value} for variable, value in user.hidden.items()],
                "replies": user.replies,
                "unclear": user.unclear,
                "reward": outcome.reward,
                "success": outcome.success,
                "value": first[0],
                "action_value": first[1],
            }
        )
    won = sum(outcome_of(user.task, user.state).success for user in users)
    logger.info("%s: %d of %d dialogues reach their goal", name or policy, won, len(rows))
    return from_rows(rows, GOAL_ROLLOUTS)


def choose(
    values: Sequence[list[tuple[float, float]]],
    prompts: Sequence[Prompt],
    drawn: Sequence[list[Candidate]],
    rank: Rank | None,
) -> list[Candidate | None]:
    """Return the reply that each user hears; None where there is none.

    Args:
        values: V and Q of the replies so far, a list for each dialogue; with a critic those of the reply are added.
    """
    offered = [[each for each in candidates if each.valid] or candidates for candidates in drawn]
    if rank is None:
        return [candidates[0] if candidates else None for candidates in offered]
    pairs = [
        (prompt.messages, text)
        for prompt, candidates in zip(prompts, offered, strict=True)
        for text in dict.fromkeys(each.text for each in candidates)
    ]
    ranked = dict(zip(((id(view), text) for view, text in pairs), rank(pairs), strict=True))
    chosen: list[Candidate | None] = []
    for so_far, prompt, candidates in zip(values, prompts, offered, strict=True):
        if not candidates:
            chosen.append(None)
            continue
        found = [ranked[id(prompt.messages), each.text] for each in candidates]
        best = max(range(len(found)), key=lambda place: found[place][1] - found[place][0])  # the first of equals
        so_far.append(found[best])
        chosen.append(candidates[best])
    return chosen


def _hear(user: Situation, wording: Wording, message: Message, seed: int) -> None:
    """Add the agent's message and the user's answer to it; the user reads its text alone."""
    user.messages.append(message)
    act = wording.act(message.text)
    user.unclear += act is None
    rng = generator(seed, "partner reply", user.id, user.replies)
    user.state, reply, ends = respond(user.task, user.state, act, rng)
    user.messages.append(Message("user", pick(user.task.replies[reply].says, rng).format(**user.shared)))
    user.ended = ends or user.replies >= user.task.max_replies
