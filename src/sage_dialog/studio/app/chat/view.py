"""Conversations as the templates of the chat show them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sage_dialog.sac.grammar import FIELDS
from sage_dialog.studio.chat.branches import Branches
from sage_dialog.studio.chat.conversation import ChatTurn, Settings
from sage_dialog.studio.chat.drawing import Drawing
from sage_dialog.studio.chat.reply_view import ReplyView, view_reply
from sage_dialog.studio.chat.talks import Side, Talk
from sage_dialog.studio.chat.terminal.display import format_steering
from sage_dialog.studio.visible_text import visible

MOST_SUGGESTIONS = 200
"""Values of a field to choose from."""


@dataclass(frozen=True)
class TurnView:
    """A turn: the person's message and the reply.

    Attributes:
        number: in the tree of turns.
        place: of this turn among `alternatives`, from 1.
        steering: what steered the reply, a line each.
    """

    number: int
    user: str
    reply: ReplyView
    fault: str | None
    policy: str
    steering: tuple[str, ...]
    alternatives: Sequence[int]
    place: int


@dataclass(frozen=True)
class CandidateView:
    """A reply to choose."""

    number: int
    reply: ReplyView
    fault: str | None
    log_probability: float | None


@dataclass(frozen=True)
class SideView:
    """A policy's part of a conversation.

    Attributes:
        name: of the policy, or "A" and "B" where they are hidden.
        pending: the reply that is being drawn.
        pending_reply: what it says so far.
        failed: a reply that failed.
        replaced: whether it was to replace another.
    """

    number: int
    name: str
    blocks: bool
    turns: Sequence[TurnView]
    candidates: Sequence[CandidateView]
    pending: Drawing | None
    pending_reply: ReplyView | None
    failed: Drawing | None
    replaced: bool
    context_left: int | None


def talk_sides(talk: Talk) -> list[SideView]:
    """Return the sides of a conversation."""
    names = ["A", "B"] if talk.hidden else [side.policy for side in talk.sides]
    return [_side(number, name, side) for number, (name, side) in enumerate(zip(names, talk.sides, strict=True))]


def _side(number: int, name: str, side: Side) -> SideView:
    drawing = side.drawing
    busy = drawing if side.busy else None
    path = side.branches.path()
    if busy is not None and not busy.candidates:
        path = side.branches.path_to(busy.parent)
    return SideView(
        number=number,
        name=name,
        blocks=side.blocks,
        turns=[_turn(side.branches, each) for each in path],
        candidates=[_candidate(place, turn, side.blocks) for place, turn in enumerate(side.candidates, 1)],
        pending=busy,
        pending_reply=view_reply(busy.text, busy.blocks) if busy is not None else None,
        failed=drawing if side.failed else None,
        replaced=drawing is not None and drawing.parent != side.branches.last,
        context_left=side.context_left,
    )


def _turn(branches: Branches, number: int) -> TurnView:
    branch = branches.at(number)
    reply, steering = branch.turn.reply, branch.turn.settings.steering
    alternatives = branches.alternatives(number)
    return TurnView(
        number=number,
        user=visible(branch.turn.user),
        reply=view_reply(reply.text, branch.blocks),
        fault=None if reply.invalid_reason is None else visible(reply.invalid_reason),
        policy=branch.policy,
        steering=tuple(format_steering(steering).plain.splitlines()) if steering and branch.blocks else (),
        alternatives=alternatives,
        place=alternatives.index(number) + 1,
    )


def _candidate(place: int, turn: ChatTurn, blocks: bool) -> CandidateView:
    reply = turn.reply
    fault = None if reply.invalid_reason is None else visible(reply.invalid_reason)
    return CandidateView(place, view_reply(reply.text, blocks), fault, reply.log_probability)


@dataclass(frozen=True)
class FieldSettings:
    """What steers a field.

    Attributes:
        fixed: the fixed value as text, empty for none.
        boosts: keywords with their weights.
        known: values to choose from.
    """

    name: str
    fixed: str
    boosts: Mapping[str, float]
    known: Sequence[str]


def field_settings(settings: Settings, known: Mapping[str, Sequence[str]]) -> list[FieldSettings]:
    """Return the steering by field, those of the action first."""
    steering = settings.steering
    boosts: Mapping[Any, Mapping[str, float]] = steering.boosts
    fixed: dict[str, str] = {}
    for field, value in steering.fixed.items():
        fixed[field] = (", ".join(value) if isinstance(value, tuple) else value or "") or "null"
    return [
        FieldSettings(name, fixed.get(name, ""), boosts.get(name, {}), known.get(name, ())[:MOST_SUGGESTIONS])
        for name in (*FIELDS[3:], *FIELDS[:3])
    ]


def steering_lines(settings: Settings) -> list[str]:
    """Return what is steered, a line each."""
    return format_steering(settings.steering).plain.splitlines()
