"""The offline annotator: word lists in place of the paper's annotator LLM (paper appendix B).

It knows a few English phrases and nothing else. It makes the recipe runnable on one machine; its labels are no evidence
about language models.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence

from sage_dialog.dialogue import Message
from sage_dialog.roles.offline.cues import count_phrases, count_topics, cue_votes, find_phrases
from sage_dialog.roles.offline.lexicon import read_lexicon
from sage_dialog.roles.protocols import Annotation, LabelledUtterance, reject_empty
from sage_dialog.sac import Intent

MAX_TOPICS = 2


class OfflineAnnotator:
    """Labels every utterance from the words of its speaker up to there.

    Motivation: the user shares first, then elaborates, asks or thanks; the assistant comforts, reassures, … by style
    words. Emotion: the user's by the cues in all their words so far, the assistant's by its motivation. A label is None
    if no word indicates it.
    """

    name = "offline-lexicon-annotator"

    @property
    def labels(self) -> dict[str, frozenset[str]]:
        """All labels of assistant messages, by "motivation", "emotion" and "topic"."""
        lexicon = read_lexicon("annotator")
        return {
            "motivation": frozenset(lexicon["motivations"]),
            "emotion": frozenset(lexicon["tones"].values()),
            "topic": frozenset(read_lexicon("topics")["topics"]),
        }

    def annotate(self, dialogues: Sequence[Sequence[Message]]) -> Iterator[Annotation]:
        return map(_annotate, dialogues)


def _annotate(dialogue: Sequence[Message]) -> Annotation:
    if rejected := reject_empty(dialogue):
        return rejected
    lexicon = read_lexicon("annotator")
    votes: Counter[str] = Counter()
    labelled = []
    for position, message in enumerate(dialogue):
        topics = _topics(message.text) or (_topics(dialogue[position - 1].text) if position else ())
        text = _readable(message.text)
        if message.role == "user":
            votes.update(cue_votes(message.text))
            intent = Intent(_user_motivation(message.text, position), _winner(votes), topics)
        else:
            motivation = _winner(count_phrases(message.text, lexicon["motivations"]))
            intent = Intent(motivation, lexicon["tones"].get(motivation), topics)
            if position < len(dialogue) - 1 and not text.endswith("?"):
                text = f"{text} {_question(topics)}"
        labelled.append(LabelledUtterance(intent, text))
    return tuple(labelled)


def _topics(text: str) -> tuple[str, ...]:
    """Return the topics of a text, those with most different words first."""
    return tuple(topic for topic, _ in count_topics(text).most_common(MAX_TOPICS))


def _user_motivation(text: str, position: int) -> str:
    if position == 0:
        return "sharing"
    if text.rstrip().endswith("?"):
        return "asking"
    return "gratitude" if find_phrases(text, read_lexicon("annotator")["gratitude"]) else "elaborating"


def _winner(votes: Counter[str]) -> str | None:
    """Return the name with most votes, of equals the first; None without votes."""
    return max(votes, key=lambda name: votes[name]) if votes else None


def _readable(text: str) -> str:
    """Return the text in one line, with single spaces, single marks and a capital at the start."""
    text = re.sub(r"([!?.,])\1+", r"\1", " ".join(text.split()))
    return text[:1].upper() + text[1:]


def _question(topics: tuple[str, ...]) -> str:
    """Return a question that leads on to the user's next message (paper appendix B)."""
    return f"How is it going with the {topics[0]}?" if topics else "How did that go?"
