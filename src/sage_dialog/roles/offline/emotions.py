"""Which of the 32 emotions a person's words show, and what replies it welcomes, from `lexicons/feelings.toml`."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from functools import cache

from sage_dialog.roles.offline.lexicon import phrase_list, read_tables


def cue_votes(text: str) -> Counter[str]:
    """One vote a kind of cue for each emotion it may show, however often it is said."""
    votes: Counter[str] = Counter()
    for group in read_tables("feelings")["cues"]:
        if found_phrases(text, group["phrases"]):
            votes.update(group["emotions"])
    return votes


def shown_emotion(messages: Iterable[str]) -> str | None:
    """The one emotion with most votes over all messages; None where none or several stand out alike."""
    votes: Counter[str] = Counter()
    for message in messages:
        votes.update(cue_votes(message))
    ranked = votes.most_common(2)
    if not ranked or (len(ranked) == 2 and ranked[0][1] == ranked[1][1]):
        return None
    return ranked[0][0]


def welcome_styles(emotion: str) -> dict[str, float]:
    """How welcome each style of reply is to a person in that mood, in [0, 1]."""
    return dict(read_tables("feelings")["welcome"][emotion])


def found_phrases(text: str, phrases: str) -> list[str]:
    """Which phrases of a list a text holds as whole words, in the text's order."""
    return _pattern(phrases).findall(text.lower())


@cache
def _pattern(phrases: str) -> re.Pattern[str]:
    return re.compile(rf"\b(?:{'|'.join(map(re.escape, phrase_list(phrases)))})\b")
