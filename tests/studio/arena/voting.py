"""Rollouts with hostile text, and votes on them, for tests."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sage_dialog.core.tables import DataFrame, from_rows
from sage_dialog.schemas import ROLLOUTS
from sage_dialog.studio.arena.ballots import Ballot
from sage_dialog.studio.arena.vote_file import HumanVote

HOSTILE = "<script>document.title = 'owned'</script><img src=x onerror=\"document.title='owned'\"> & \N{GRINNING FACE}"
POLICIES = ("sage_0", "sage_1", "sage_2")
PAIRS = (("sage_0", "sage_1"), ("sage_1", "sage_2"))
AT = datetime(2026, 1, 1, tzinfo=UTC)


def dialogue(policy: str, situation: str, reply: str) -> list[dict[str, Any]]:
    messages = [("user", f"It is {situation}. {HOSTILE}"), ("assistant", f"{reply} 1 {HOSTILE}")]
    messages += [("user", "Hm."), ("assistant", f"{reply} 2")]
    blocks = "{u_motivation: BLOCK, u_emotion: sad, u_topic: [a]} {a_motivation: b, a_emotion: c, a_topic: [d]} "
    rows = [
        {
            "policy": policy,
            "situation_id": situation,
            "turn": turn,
            "role": role,
            "text": text,
            "content": blocks + text if role == "assistant" else text,
            "outcome": "turn limit",
        }
        for turn, (role, text) in enumerate(messages)
    ]
    return rows[::-1]  # readers sort by turn


def rollouts_of(situations: int, *policies: str, **replies: str) -> DataFrame:
    """Return ROLLOUTS of policies on a number of situations; replies are `voice N`, or those of `replies`."""
    return from_rows(
        (
            row
            for policy in policies
            for n in range(situations)
            for row in dialogue(policy, f"test/{n}", replies.get(policy, f"voice {policy[-1]}"))
        ),
        ROLLOUTS,
    )


def vote_on(ballot: Ballot, vote: str, comment: str | None = None) -> HumanVote:
    digests = dict(zip(("first_digest", "second_digest"), ballot.digests, strict=True))
    named = {"situation_id": ballot.situation_id, "first": ballot.first, "second": ballot.second}
    return HumanVote(at=AT, vote=vote, comment=comment, **named, **digests)
