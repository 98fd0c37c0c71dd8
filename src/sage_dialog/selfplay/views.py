"""One dialogue as it is played: what was said, and what each of the two sees of it (paper §3.4)."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import StrEnum

from sage_dialog.dialogue import Message
from sage_dialog.inference.candidates import Candidate


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
    """A policy in a part. `blocks`: it writes state and action before what it says. `system_prompt`: its system message."""

    policy: str
    blocks: bool
    system_prompt: str | None


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
        return cls(situation_id, [Message("user", situation)])

    @property
    def turn(self) -> int:
        """The number of the next message."""
        return len(self.messages)

    def said(self) -> tuple[Message, ...]:
        return tuple(Message(message.role, message.text) for message in self.messages)


_QUESTION = re.compile(
    # Behind it white space, a sign (an emoji, a dash; none that goes on in a link) or a new sentence's capital.
    r"\?[?!.…]*+(?P<closed>[\"'”’»)\]*_]*+)(?=$|[^\w/&=%#]|[A-Z](?:[a-z'’\s]|$))(?P<goes_on>[.,;:]|\s+[a-z])?"
)
_LINK = re.compile(r"(?:https?://|www\.|\w\.\w+/)\S*$")
_QUOTES = frozenset("\"'”’»")
# By closing sign, that it was opened before: ":)" closes nothing, nor does the apostrophe of "boss'".
_OPENED = {
    ")": r"\([^)]*$",
    "]": r"\[[^\]]*$",
    "»": r"«[^»]*$",
    "”": r"[“„\"][^”]*$",
    '"': r'(?<!\w)"(?=\S)',
    "'": r"(?<!\w)['‘](?=\S)",
    "’": r"(?<!\w)['‘](?=\S)",
    "*": r"(?<!\w)\*(?=\S)",
    "_": r"(?<!\w)_(?=\S)",
}

_START = r"(?:^|[,;:.…–—]|\s-|--)\W*"
_LEADS = r"""(?:(?:and|so|well|ok(?:ay)?|alright|all\ right|anyways?|now|then|oh|yes|yeah|please|you\ too|until\ then
    |thank(?:s|\ you)(?:\ (?:(?:so|very)\ much|a\ lot|again|for\ \w+(?:\ (?:to\ )?(?:me|advice|help|time))?))*
    )\W+)*"""
_FAREWELL = re.compile(
    rf"""(?:{_START}{_LEADS}(?:
        (?:you\ )?(?:good[\ -]?bye|bye|good\ night|see\ ya|take\ care)
        |(?:(?:i\ guess\ )?(?:i['’]?ll|i\ will|we['’]?ll|hope\ to|i\ hope\ to)\ )?(?:see|talk\ to)\ (?:you|ya)
            \ (?:later|soon|around|tomorrow)
        |(?P<hoped>(?:i\ )?(?:hope\ )?you\ (?:all\ )?)?have\ an?
            \ (?:good|great|nice|lovely)\ (?:day|evening|night|weekend)
        )
    |\b(?:go|now)\ (?:good[\ -]?bye|bye|good\ night)
    )\b
    (?!['’]s|\ of\ (?!yourself))
    (?!\ (?:is|was|are|were|to(?!\ you)|sleep|kiss(?:es)?|hugs?|letters?|part(?:y|ies)|calls?)\b)
    (?!,?\ (?:my\ )?(?:mom(?:my|ma)?|mum(?:my)?|mama|dad(?:dy)?|papa|gran(?:ny|dma|dpa)|nana)\b)
    (?(hoped)(?=\W*$|[^\w\s]|\ (?:too|ahead|now|everyone|and)\b))""",
    re.IGNORECASE | re.VERBOSE,
)
_SAYS = r"(?:sa(?:id|ys?|ying)|whisper(?:ed|s)|shout(?:ed|s)|text(?:ed|s)|wrote|writes|told|repl(?:ied|ies)|asked)"
# Where a farewell is only told of: 'Then she said, goodbye.', 'Bye, he texted'.
_TOLD = re.compile(
    rf"\b(?<!you ){_SAYS}(?: \w+)?\W*$|^\W*(?:i|he|she|they|we|(?:my|his|her|the) \w+)(?: \w+)? {_SAYS}\b",
    re.IGNORECASE,
)


def up_to_first_question(text: str) -> str:
    """The text up to and with its first question: a user asks once and waits for the answer.

    "I'm sad. Why did she leave? I loved her." keeps "I'm sad. Why did she leave?". A question that is quoted, or
    stands in brackets within a sentence, is none of the user's; a text that asks nothing else stays whole.
    """
    for found in _QUESTION.finditer(text):
        before = text[: found.start()]
        opened = {closer for closer in found["closed"] if re.search(_OPENED[closer], before)}
        quoted = not _QUOTES.isdisjoint(opened)
        aside = opened and found["goes_on"]
        if not quoted and not aside and not _LINK.search(before):
            return text[: found.end("closed")]
    return text


def is_farewell(text: str) -> bool:
    """Whether the last sentence takes leave of the listener, and does not only speak of it.

    "I never said goodbye.", "I didn't have a good day." and "I wish I could talk to you later." do not; nor does who
    speaks to the dead ("See you soon, mom."). A farewell that is missed costs a few turns, one that is none the rest
    of a dialogue: where words can be either, they are none.
    """
    if text.rstrip().endswith("?"):
        return False
    sentences = [sentence for sentence in re.split(r"(?<=[.!?])\s+", text) if re.search(r"\w", sentence)]
    last = sentences[-1] if sentences else ""
    return any(
        not (_TOLD.search(last[: found.start()]) or _TOLD.search(last[found.end() :]))
        for found in _FAREWELL.finditer(last)
    )
