"""Policies whose dialogues hold hostile text, and votes on them, for tests."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from sage_dialog import schemas
from sage_dialog.studio.arena.ballots import Ballot
from sage_dialog.studio.arena.vote_file import HumanVote

HOSTILE = "<script>document.title = 'owned'</script><img src=x onerror=\"document.title='owned'\"> & \N{GRINNING FACE}"
PAIRS = (("sage_0", "sage_1"), ("sage_1", "sage_2"))
AT = datetime(2026, 1, 1, tzinfo=UTC)


def dialogue(situation: str, says: str) -> list[dict[str, Any]]:
    said = [("user", f"It is {situation}. {HOSTILE}"), ("assistant", f"{says} 1 {HOSTILE}")]
    said += [("user", "Hm."), ("assistant", f"{says} 2")]
    blocks = "{u_motivation: BLOCK, u_emotion: sad, u_topic: [a]} {a_motivation: b, a_emotion: c, a_topic: [d]} "
    rows = [
        {
            "situation_id": situation,
            "turn": turn,
            "role": role,
            "text": text,
            "content": blocks + text if role == "assistant" else text,
            "outcome": "turn limit",
        }
        for turn, (role, text) in enumerate(said)
    ]
    return rows[::-1]  # readers go by turn


def table(policy: str, situations: int, says: str | None = None) -> pa.Table:
    rows = [row for n in range(situations) for row in dialogue(f"test/{n}", says or f"voice {policy[-1]}")]
    return pa.Table.from_pylist(rows, schema=schemas.TRAJECTORIES)


def vote_on(ballot: Ballot, vote: str, comment: str | None = None) -> HumanVote:
    digests = dict(zip(("first_digest", "second_digest"), ballot.digests, strict=True))
    named = {"situation_id": ballot.situation_id, "first": ballot.first, "second": ballot.second}
    return HumanVote(at=AT, vote=vote, comment=comment, **named, **digests)
