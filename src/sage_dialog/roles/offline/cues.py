"""Emotions and topics in a text, from `lexicons/feelings.toml` and `lexicons/topics.toml`."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import cache

from sage_dialog.roles.offline.lexicon import read_lexicon, split_phrases


def cue_votes(text: str) -> Counter[str]:
    """Count for each of the 32 emotions the kinds of cues for it in a text."""
    votes: Counter[str] = Counter()
    for group in read_lexicon("feelings")["cues"]:
        if find_phrases(text, group["phrases"]):
            votes.update(group["emotions"])
    return votes


def dominant_emotion(messages: Iterable[str]) -> str | None:
    """Return the emotion with most votes over all messages; None if there is none, or a tie."""
    votes: Counter[str] = Counter()
    for message in messages:
        votes.update(cue_votes(message))
    ranked = votes.most_common(2)
    if not ranked or (len(ranked) == 2 and ranked[0][1] == ranked[1][1]):
        return None
    return ranked[0][0]


def welcome_styles(emotion: str) -> dict[str, float]:
    """Return how welcome each style of reply is to a user with this emotion, in [0, 1]."""
    return dict(read_lexicon("feelings")["welcome"][emotion])


def count_topics(text: str) -> Counter[str]:
    """Count the different words of each topic in a text, the topic's name included. Topics without any are left out."""
    return count_phrases(text, _topics())


def count_phrases(text: str, lists: Mapping[str, str]) -> Counter[str]:
    """Count the different phrases of each list in a text. Lists without any are left out."""
    return +Counter({name: len(set(find_phrases(text, phrases))) for name, phrases in lists.items()})


def find_phrases(text: str, phrases: str) -> list[str]:
    """Return the phrases of a list that a text contains as whole words, in the text's order."""
    return _pattern(phrases).findall(text.lower())


@cache
def _topics() -> dict[str, str]:
    return {topic: f"{topic}, {words}" for topic, words in read_lexicon("topics")["topics"].items()}


@cache
def _pattern(phrases: str) -> re.Pattern[str]:
    return re.compile(rf"\b(?:{'|'.join(map(re.escape, split_phrases(phrases)))})\b")
