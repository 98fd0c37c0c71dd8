"""Tasks: goal-directed dialogues described as data, one YAML file each (docs/imagination.md).

A task names what both sides know, what the user alone knows, and which last states of the user are a success. Its
`acts` and `replies` describe a user that follows rules, so that dialogues have true outcomes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from string import Formatter
from typing import Annotated, Any, Self

from pydantic import Field, FiniteFloat, model_validator

from sage_dialog.config.base import (
    Config,
    Count,
    NonNegative,
    Positive,
    PositiveShare,
    invalid,
    read_mapping,
    suggestion,
)
from sage_dialog.sac.chain import normalize_label

Values = dict[str, str]
"""Values of variables by their names."""

Sentences = Annotated[tuple[str, ...], Field(min_length=1)]
"""Wordings of one meaning. A name in braces stands for the value of a shared variable."""


class Side(Config):
    """One of the two speakers: what it is called, and its system prompt."""

    name: str
    system_prompt: str


class Outcome(Config):
    """What a last state of the user is worth; of several outcomes the first whose conditions hold counts.

    Attributes:
        when: values that variables must have.
    """

    when: Values
    reward: FiniteFloat
    success: bool


class Rule(Config):
    """What an act does to the user: of an act's rules the first that holds applies.

    Attributes:
        when: values that variables must have.
        chance: the probability with which the rule holds where its conditions do.
        sets: new values of variables.
        reply: what the user answers; a name of `replies`.
        fits: whether an attentive agent would choose the act here. Imagined agents tend to; no reward depends on it.
        ends: whether the dialogue ends with the answer.
    """

    when: Values = Field({})
    chance: PositiveShare = 1.0
    sets: Values = Field({})
    reply: str
    fits: bool = False
    ends: bool = False


class Act(Config):
    """Something that the agent can do.

    Attributes:
        motivation: its label in the action block.
        topics: the topics in the action block.
        weight: how often imagined agents choose it, relative to other acts.
    """

    motivation: str
    topics: tuple[str, ...] = ()
    weight: Positive
    says: Sentences
    rules: Annotated[tuple[Rule, ...], Field(min_length=1)]


class Reply(Config):
    """Something that the user answers.

    Attributes:
        motivation: its label in the state block.
        emotion: its label in the state block.
        tells: values that an attentive agent knows from here on: the topics of the state block.
    """

    motivation: str
    emotion: str | None = None
    tells: Values = Field({})
    says: Sentences


class Task(Config):
    """A goal-directed dialogue.

    Attributes:
        description: what the dialogue is about, for language models that imagine it.
        goal: the outcomes in words, for language models.
        criteria: what a critique examines, for language models.
        max_replies: agent messages after which the dialogue ends.
        shared: variables that both sides know, with the weights of their values.
        hidden: variables that the user alone knows, with the weights of their values.
        progress: further variables of the user's state, with their first value.
        persona: the user in one sentence; names in braces stand for values of hidden variables.
        openings: the user's first message.
        unclear: the reply to a message that is none of the acts.
    """

    description: str
    goal: str
    agent: Side
    user: Side
    criteria: tuple[str, ...]
    max_replies: Count
    shared: dict[str, dict[str, NonNegative]]
    hidden: Annotated[dict[str, dict[str, NonNegative]], Field(min_length=1)]
    progress: Values
    outcomes: Annotated[tuple[Outcome, ...], Field(min_length=1)]
    persona: Sentences
    openings: Sentences
    acts: Annotated[dict[str, Act], Field(min_length=2)]
    replies: Annotated[dict[str, Reply], Field(min_length=1)]
    unclear: str

    @model_validator(mode="before")
    @classmethod
    def _read_yaml(cls, text: Any) -> Any:
        if not isinstance(text, str):
            return text
        values = read_mapping(
            text, "no task: expected a mapping with description, acts, replies, … (docs/imagination.md)"
        )
        return {key: value for key, value in values.items() if not key.startswith("_")}  # anchors

    @model_validator(mode="after")
    def _check_references(self) -> Self:
        faults = [*self._value_faults(), *self._reply_faults(), *self._wording_faults()]
        if faults:
            raise invalid("; ".join(faults))
        return self

    @property
    def values(self) -> dict[str, set[str]]:
        """The possible values of the variables of the user's state."""
        values = {name: set(weights) for name, weights in self.hidden.items()}
        values |= {name: values.get(name, set()) | {first} for name, first in self.progress.items()}
        for act in self.acts.values():
            for rule in act.rules:
                for name, value in rule.sets.items():
                    values.setdefault(name, set()).add(value)
        return values

    def _value_faults(self) -> Iterator[str]:
        known = self.values
        for kind, weights in (*self.shared.items(), *self.hidden.items()):
            if not sum(weights.values()):
                yield f"{kind}: no value has a weight above 0"
        if both := sorted(set(self.shared) & set(known) | set(self.hidden) & set(self.progress)):
            yield f"{both[0]} is declared twice among shared, hidden and progress"
        conditions = [(f"outcomes.{place}.when", outcome.when) for place, outcome in enumerate(self.outcomes)]
        for name, act in self.acts.items():
            for place, rule in enumerate(act.rules):
                where = f"acts.{name}.rules.{place}"
                conditions.append((f"{where}.when", rule.when))
                for variable in rule.sets.keys() - self.hidden.keys() - self.progress.keys():
                    yield f"{where}.sets: no variable is called {variable!r}; declare it under hidden or progress"
        conditions += [(f"replies.{name}.tells", reply.tells) for name, reply in self.replies.items()]
        for where, values in conditions:
            for variable, value in values.items():
                if variable not in known:
                    yield f"{where}: no variable is called {variable!r}{suggestion(variable, known)}"
                elif value not in known[variable]:
                    yield f"{where}: {variable} is never {value!r}{suggestion(value, known[variable])}"

    def _reply_faults(self) -> Iterator[str]:
        named = {
            f"acts.{name}.rules.{place}": rule.reply
            for name, act in self.acts.items()
            for place, rule in enumerate(act.rules)
        }
        for where, reply in {**named, "unclear": self.unclear}.items():
            if reply not in self.replies:
                yield f"{where}: no reply is called {reply!r}{suggestion(reply, self.replies)}"
        for name, act in self.acts.items():
            if act.rules[-1].when or act.rules[-1].chance < 1:
                yield f"acts.{name}: its last rule must hold always, without `when` and `chance`"
        labels = [(f"acts.{name}", label) for name, act in self.acts.items() for label in (act.motivation, *act.topics)]
        for name, reply_ in self.replies.items():
            values = reply_.tells.values()
            labels += [(f"replies.{name}", label) for label in (reply_.motivation, reply_.emotion, *values) if label]
        for where, label in labels:
            if normalize_label(label) != label:
                yield f"{where}: {label!r} cannot be a label of a block; write {normalize_label(label)!r}"

    def _wording_faults(self) -> Iterator[str]:
        wordings: list[tuple[str, Sentences, Mapping[str, Any]]] = [
            ("openings", self.openings, self.shared),
            ("persona", self.persona, {**self.shared, **self.hidden}),
            *((f"acts.{name}.says", act.says, self.shared) for name, act in self.acts.items()),
            *((f"replies.{name}.says", reply.says, self.shared) for name, reply in self.replies.items()),
        ]
        for where, sentences, variables in wordings:
            for sentence in sentences:
                try:
                    slots = {slot for _, slot, _, _ in Formatter().parse(sentence) if slot is not None}
                except ValueError as error:
                    yield f"{where}: {sentence!r}: {error}"
                    continue
                for slot in sorted(slots - variables.keys()):
                    yield f"{where}: {{{slot}}} is no variable here; known are {', '.join(variables) or 'none'}"
