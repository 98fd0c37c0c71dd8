"""What an utterance is about, from `lexicons/topics.toml`; the annotator names it, the selector keeps to it."""

from __future__ import annotations

from collections import Counter

from sage_dialog.roles.offline.emotions import found_phrases
from sage_dialog.roles.offline.lexicon import read_tables


def mentioned_topics(text: str) -> Counter[str]:
    """How many different words of each topic a text holds, its name included; topics without any are left out."""
    lists = {topic: f"{topic}, {things}" for topic, things in read_tables("topics")["topics"].items()}
    return +Counter({topic: len(set(found_phrases(text, words))) for topic, words in lists.items()})
