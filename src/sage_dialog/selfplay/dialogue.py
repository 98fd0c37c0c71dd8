"""One dialogue as it is played: what was said, and what each of the two sees of it (paper §3.4)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from sage_dialog.roles.protocols import Said
from sage_dialog.sac import Chain, Intent, render

UNREAD_OPENING = Intent("sharing")
"""What the opening means to the user where the agent gave no reading of it."""


class Outcome(StrEnum):
    """How a dialogue ended."""

    TURN_LIMIT = "turn limit"
    FAREWELL = "farewell"
    CONTEXT_FULL = "context full"
    NO_VALID_CANDIDATE = "no valid candidate"
    NO_GOOD_CANDIDATE = "no good candidate"
    UNREADABLE_CHOICE = "unreadable choice"
    EMPTY_AGENT_REPLY = "empty agent reply"
    EMPTY_USER_REPLY = "empty user reply"
    CUT_USER_REPLY = "cut user reply"
    NO_VALID_USER_BLOCKS = "no valid user blocks"


@dataclass(frozen=True)
class Speaker:
    """A policy in a part. `blocks`: it writes state and action before what it says. `preamble`: its system message."""

    policy: str
    blocks: bool
    preamble: str | None


@dataclass(frozen=True)
class Message:
    """One turn. `text` is what the other side hears, `content` what the speaker wrote, blocks included.

    `chain` is null where the speaker writes no blocks or wrote none that parse.
    """

    role: str
    text: str
    content: str
    chain: Chain | None = None


@dataclass(frozen=True)
class Candidate:
    """One sampled agent reply. `reason` says why it is not valid; `utterance` is null where it cannot be told."""

    text: str
    utterance: str | None
    chain: Chain | None
    reason: str | None

    @property
    def valid(self) -> bool:
        return self.reason is None


@dataclass
class Dialogue:
    """A dialogue under way; `outcome` is null until it ends. Turn 0 is the situation, in the user's voice."""

    situation_id: str
    messages: list[Message]
    outcome: Outcome | None = None
    candidates: dict[int, tuple[list[Candidate], int | None]] = field(default_factory=dict)
    """For each agent turn of a search: the candidates and which was chosen."""

    @classmethod
    def opened(cls, situation_id: str, situation: str) -> Dialogue:
        return cls(situation_id, [Message("user", situation, situation)])

    @property
    def turn(self) -> int:
        """The number of the next message."""
        return len(self.messages)

    def said(self) -> tuple[Said, ...]:
        return tuple(Said(message.role, message.text) for message in self.messages)


def agent_view(messages: Sequence[Message], preamble: str | None) -> tuple[dict[str, str], ...]:
    """The dialogue as the agent sees it: the user's words alone, its own messages with their blocks."""
    view = _system(preamble)
    for message in messages:
        view.append({"role": message.role, "content": message.text if message.role == "user" else message.content})
    return tuple(view)


def user_view(messages: Sequence[Message], user: Speaker) -> tuple[dict[str, str], ...]:
    """The dialogue as the simulated user sees it, roles flipped: itself as the assistant, with its own blocks.

    The agent's blocks are hidden, with one exception: what the agent read in the opening becomes the
    intent of the opening, which nobody has written.
    """
    opening, *rest = messages
    first = opening.text
    if user.blocks:
        reading = rest[0].chain.state if rest and rest[0].chain is not None else UNREAD_OPENING
        first = render(Chain(Intent(), reading, opening.text))
    view = [*_system(user.preamble), {"role": "assistant", "content": first}]
    for message in rest:
        if message.role == "user":
            view.append({"role": "assistant", "content": message.content})
        else:
            view.append({"role": "user", "content": message.text})
    return tuple(view)


def _system(preamble: str | None) -> list[dict[str, str]]:
    return [{"role": "system", "content": preamble}] if preamble else []


_QUESTION = re.compile(r"\?[?!.…]*(?P<closed>[\"'”’»)\]*_]*)(?=\s|$|[—–]|--)(?P<goes_on>\s+[a-z])?")
_LINK = re.compile(r"(?:https?://|www\.)\S*$")
_QUOTED = frozenset("\"'”’»")
_FAREWELL = re.compile(
    r"(?:(?P<before>\w+)\W+)?\b(?:good ?bye|bye|good night(?!['’]s| of)|see ya|take care(?! of (?!yourself))"
    r"|see (?:you|ya) (?:later|soon|around|tomorrow)|talk to (?:you|ya) (?:later|soon)"
    r"|have a (?:good|great|nice|lovely) (?:day|evening|night|weekend))\b",
    re.IGNORECASE,
)
# What it follows where it is only spoken of: "I never said goodbye", "a good night".
_SPOKEN_OF = re.compile(
    r"a|final|first|her|his|kiss(?:ed)?|last|my|never|no|of|our|said|say(?:ing|s)?|the|their|to|waved?", re.IGNORECASE
)


def up_to_first_question(text: str) -> str:
    """The text up to and with its first question: a user asks once and waits for the answer.

    "I'm sad. Why did she leave? I loved her." keeps "I'm sad. Why did she leave?". A question that is quoted, or
    stands in brackets within a sentence, is none of the user's; a text that asks nothing else stays whole.
    """
    for found in _QUESTION.finditer(text):
        quoted = not _QUOTED.isdisjoint(found["closed"])
        aside = found["closed"] and found["goes_on"]
        if not quoted and not aside and not _LINK.search(text, 0, found.start()):
            return text[: found.end("closed")]
    return text


def is_farewell(text: str) -> bool:
    """Whether the last sentence takes leave, and does not only speak of it ("I never said goodbye.")."""
    if text.rstrip().endswith("?"):
        return False
    last = re.split(r"(?<=[.!?])\s+", text.strip())[-1]
    return any(not _SPOKEN_OF.fullmatch(found["before"] or "") for found in _FAREWELL.finditer(last))
