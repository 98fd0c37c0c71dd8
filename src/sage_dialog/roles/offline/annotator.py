"""The offline annotator: word lists instead of a language model (what appendix B of the paper asks of one).

It reads a few English phrases and nothing else. It makes the recipe runnable on one machine; nothing it
labels is evidence about language models.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from sage_dialog.dialogue import Message
from sage_dialog.roles.offline.emotions import cue_votes, found_phrases
from sage_dialog.roles.offline.lexicon import read_tables
from sage_dialog.roles.offline.topics import mentioned_topics
from sage_dialog.roles.protocols import LabelledUtterance, RejectedDialogue
from sage_dialog.sac import Intent

MAX_TOPICS = 2


class OfflineAnnotator:
    """Labels every utterance of a dialogue from the words said so far by its speaker.

    Motivation: by the speaker's side. The first speaker shares, then elaborates, asks or thanks; the second
    one comforts, reassures, … by the style words found. Emotion: the cues of the first speaker's words so
    far; the tone of the second one's motivation. A label is None where no word tells.
    """

    name = "offline-lexicon-annotator"

    @property
    def labels(self) -> dict[str, frozenset[str]]:
        """Every label that it can give the second speaker, by "motivation", "emotion" and "topic"."""
        lexicon = read_tables("annotator")
        return {
            "motivation": frozenset(lexicon["motivations"]),
            "emotion": frozenset(lexicon["tones"].values()),
            "topic": frozenset(read_tables("topics")["topics"]),
        }

    def annotate(
        self, dialogues: Sequence[Sequence[Message]]
    ) -> Iterator[tuple[LabelledUtterance, ...] | RejectedDialogue]:
        """See `protocols.Annotator`. A dialogue with an empty utterance is rejected."""
        return map(_labelled, dialogues)


def _labelled(dialogue: Sequence[Message]) -> tuple[LabelledUtterance, ...] | RejectedDialogue:
    if empty := [position for position, said in enumerate(dialogue) if not said.text.strip()]:
        return RejectedDialogue(f"utterance {empty[0]} is empty")
    lexicon = read_tables("annotator")
    feelings: Counter[str] = Counter()
    labelled = []
    for position, said in enumerate(dialogue):
        topics = _topics(said.text) or (_topics(dialogue[position - 1].text) if position else ())
        text = _readable(said.text)
        if said.role == "user":
            feelings.update(cue_votes(said.text))
            intent = Intent(_speakers_motivation(said.text, position), _winner(feelings), topics)
        else:
            motivation = _winner(_found(said.text, lexicon["motivations"]))
            intent = Intent(motivation, lexicon["tones"].get(motivation), topics)
            if position < len(dialogue) - 1 and not text.endswith("?"):
                text = f"{text} {_bridge(topics)}"
        labelled.append(LabelledUtterance(intent, text))
    return tuple(labelled)


def _topics(text: str) -> tuple[str, ...]:
    """The topics a text mentions, those with most of their words first."""
    return tuple(topic for topic, _ in mentioned_topics(text).most_common(MAX_TOPICS))


def _speakers_motivation(text: str, position: int) -> str:
    if position == 0:
        return "sharing"
    if text.rstrip().endswith("?"):
        return "asking"
    return "gratitude" if found_phrases(text, read_tables("annotator")["gratitude"]) else "elaborating"


def _found(text: str, lists: Mapping[str, str]) -> Counter[str]:
    """How many different phrases of each list a text holds; lists without any are left out."""
    return +Counter({name: len(set(found_phrases(text, phrases))) for name, phrases in lists.items()})


def _winner(votes: Counter[str]) -> str | None:
    """The name with most votes, of equals the one that was found first; None without votes."""
    return max(votes, key=lambda name: votes[name]) if votes else None


def _readable(text: str) -> str:
    """One line, single spaces, runs of the same mark shortened, a capital at the start."""
    text = re.sub(r"([!?.,])\1+", r"\1", " ".join(text.split()))
    return text[:1].upper() + text[1:]


def _bridge(topics: tuple[str, ...]) -> str:
    """A question that leads on to the user's next words (paper appendix B)."""
    return f"How is it going with the {topics[0]}?" if topics else "How did that go?"
