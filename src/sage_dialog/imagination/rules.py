"""Imagination by a task's rules: dialogues of an imperfect agent with the simulated user, and their critique.

Such dialogues stand in for those of a language model where there is none. They have its two most frequent faults, in
shares that are set: a user who tells early what the agent should ask, and a user who contradicts the persona.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence

import numpy as np

from sage_dialog.config.tasks import Task
from sage_dialog.core.seeds import generator
from sage_dialog.dialogue import Message
from sage_dialog.imagination.partner import (
    draw_values,
    fit,
    initial_belief,
    respond,
    state_of,
    updated_belief,
)
from sage_dialog.imagination.protocols import Critique, ImaginedDialogue, Persona
from sage_dialog.imagination.wording import Wording

EARLY, CONTRADICTION = "the user tells early what the agent should ask", "the user contradicts the persona"


class RuleImaginer:
    """Draws personas by the task's weights, and plays dialogues by its rules.

    The agent draws an act with a probability in proportion to its weight times exp(attention * p), where p is the
    probability that the act fits, given what the user has said.

    Args:
        attention: one of these is drawn for each dialogue; with 0 the agent draws acts by their weights alone.
        early_share: share of the dialogues whose user tells something in the first message.
        contradiction_share: share of the dialogues whose user answers once as another persona would.
    """

    def __init__(self, attention: Sequence[float], early_share: float, contradiction_share: float) -> None:
        for field, share in (("early_share", early_share), ("contradiction_share", contradiction_share)):
            if not 0 <= share <= 1:
                raise ValueError(f"{field} = {share}; it must be between 0 and 1")
        if not attention:
            raise ValueError("attention is empty; give one number or more, such as [0.0, 3.0]")
        self._attention, self._early, self._contradiction = tuple(attention), early_share, contradiction_share
        settings = json.dumps([self._attention, early_share, contradiction_share])
        self.name = f"rules imaginer {hashlib.sha256(settings.encode()).hexdigest()[:8]}"

    def personas(self, name: str, task: Task, count: int, seed: int) -> list[Persona]:
        return [self._persona(name, task, number, seed) for number in range(count)]

    def imagine(self, name: str, task: Task, personas: Sequence[Persona], seed: int) -> Iterator[ImaginedDialogue]:
        wording = Wording(task)
        for persona in personas:
            yield self._imagine(task, wording, persona, generator(seed, "imagined dialogue", name, persona.id))

    def _persona(self, name: str, task: Task, number: int, seed: int) -> Persona:
        rng = generator(seed, "persona", name, number)
        shared, hidden = draw_values(task.shared, rng), draw_values(task.hidden, rng)
        return Persona(f"{name}:{number}", shared, hidden, pick(task.persona, rng).format(**shared, **hidden))

    def _imagine(self, task: Task, wording: Wording, persona: Persona, rng: np.random.Generator) -> ImaginedDialogue:
        attention = self._attention[int(rng.integers(len(self._attention)))]
        early, contradicts = rng.random() < self._early, rng.random() < self._contradiction
        state, belief = state_of(dict(persona.hidden) | task.progress), initial_belief(task)
        opening = pick(task.openings, rng).format(**persona.shared)
        telling = [
            name for name, reply in task.replies.items() if reply.tells and reply.tells.items() <= dict(state).items()
        ]
        if early and telling:
            opening += " " + _say(task, pick(telling, rng), persona, rng)
        messages = [Message("user", opening)]
        for _ in range(task.max_replies):
            acts = list(task.acts)
            weights = np.array(
                [task.acts[act].weight * np.exp(attention * fit(task.acts[act], belief)) for act in acts]
            )
            act = acts[int(rng.choice(len(acts), p=weights / weights.sum()))]
            messages.append(Message("assistant", pick(task.acts[act].says, rng).format(**persona.shared)))
            state, reply, ends = respond(task, state, act, rng)
            others = [rule.reply for rule in task.acts[act].rules if _differs(task, rule.reply, reply)]
            if contradicts and others:
                reply, contradicts = pick(others, rng), False
            messages.append(Message("user", _say(task, reply, persona, rng)))
            belief = updated_belief(task, belief, act, reply) or belief
            if ends:
                break
        return ImaginedDialogue(tuple(messages), dict(state))


class RuleCritic:
    """Reads a dialogue of a task's own wordings beside the persona.

    What a user tells without being asked is cut out. A dialogue in which the user says what the persona's rules rule
    out, or nothing that is left, is dropped.
    """

    name = "rules critic"

    def critique(
        self, name: str, task: Task, dialogues: Sequence[tuple[Persona, ImaginedDialogue]]
    ) -> Iterator[Critique]:
        wording = Wording(task)
        for persona, dialogue in dialogues:
            yield self._critique(task, wording, persona, dialogue)

    def _critique(self, task: Task, wording: Wording, persona: Persona, dialogue: ImaginedDialogue) -> Critique:
        belief, act = {state_of(dict(persona.hidden) | task.progress): 1.0}, None
        messages, faults = [], []
        for place, message in enumerate(dialogue.messages):
            if message.role == "assistant":
                act = wording.act(message.text)
                messages.append(message)
                continue
            text = message.text
            answers = set() if act is None else {rule.reply for rule in task.acts[act].rules}
            for reply, sentence in wording.replies(message.text, persona.shared):
                if task.replies[reply].tells and reply not in answers:
                    faults.append(f"{EARLY}: {sentence}")
                    text = " ".join(text.replace(sentence, "").split())
                elif place:
                    belief = updated_belief(task, belief, act, reply)
                    if not belief:
                        return Critique("drop", (*faults, f"{CONTRADICTION}: {sentence}"), (), {})
            if not text:
                return Critique("drop", (*faults, "the user says nothing else"), (), {})
            messages.append(Message("user", text))
        return Critique("rewrite" if faults else "keep", tuple(faults), tuple(messages), dialogue.last_state)


def pick(options: Sequence[str], rng: np.random.Generator) -> str:
    return options[int(rng.integers(len(options)))]


def _say(task: Task, reply: str, persona: Persona, rng: np.random.Generator) -> str:
    return pick(task.replies[reply].says, rng).format(**persona.shared)


def _differs(task: Task, other: str, reply: str) -> bool:
    """Return whether both replies tell a value, and not the same."""
    one, two = task.replies[other].tells, task.replies[reply].tells
    return bool(one and two) and one != two
