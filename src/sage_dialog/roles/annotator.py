"""The offline annotator: word lists instead of a language model (what appendix B of the paper asks of one).

It reads a few English phrases and nothing else. It makes the recipe runnable on one machine; nothing it
labels is evidence about language models.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any

from sage_dialog.roles.feelings import cue_votes, found_phrases
from sage_dialog.roles.protocols import Labelled, Rejected, Said
from sage_dialog.sac import Intent

MAX_TOPICS = 2


@dataclass(frozen=True)
class OfflineAnnotator:
    """Labels every utterance of a dialogue from the words said so far by its speaker.

    Motivation: by the speaker's side. The first speaker shares, then elaborates, asks or thanks; the second
    one comforts, reassures, … by the style words found. Emotion: the cues of the first speaker's words so
    far; the tone of the second one's motivation. A label is None where no word tells.
    """

    name: str = "offline-lexicon-annotator"
    _lexicon: dict[str, Any] = field(default_factory=lambda: _lexicon(), repr=False, compare=False)

    def annotate(self, dialogues: Sequence[Sequence[Said]]) -> list[tuple[Labelled, ...] | Rejected]:
        return [self._one(dialogue) for dialogue in dialogues]

    def _one(self, dialogue: Sequence[Said]) -> tuple[Labelled, ...] | Rejected:
        if empty := [i for i, said in enumerate(dialogue) if not said.text.strip()]:
            return Rejected(f"utterance {empty[0]} is empty")
        feelings: Counter[str] = Counter()
        labelled = []
        for position, said in enumerate(dialogue):
            topics = self._topics(said.text) or (self._topics(dialogue[position - 1].text) if position else ())
            if said.role == "user":
                feelings.update(cue_votes(said.text))
                intent = Intent(self._sharers_motivation(said.text, position), _winner(feelings), topics)
            else:
                motivation = _winner(_found(said.text, self._lexicon["motivations"]))
                intent = Intent(motivation, self._lexicon["tones"].get(motivation), topics)
            last = position == len(dialogue) - 1
            text = _readable(said.text)
            if said.role == "assistant" and not last and not text.endswith("?"):
                text = f"{text} {_bridge(topics)}"
            labelled.append(Labelled(intent, text))
        return tuple(labelled)

    def _topics(self, text: str) -> tuple[str, ...]:
        lists = {topic: [topic, *words] for topic, words in self._lexicon["topics"].items()}
        found = _found(text, lists)
        return tuple(topic for topic, _ in found.most_common(MAX_TOPICS))

    def _sharers_motivation(self, text: str, position: int) -> str:
        if position == 0:
            return "sharing"
        if text.rstrip().endswith("?"):
            return "asking"
        return "gratitude" if found_phrases(text, tuple(self._lexicon["gratitude"])) else "elaborating"


@cache
def _lexicon() -> dict[str, Any]:
    import yaml

    return dict(yaml.safe_load(files(__package__).joinpath("lexicons", "annotator.yml").read_text()))


def _found(text: str, lists: dict[str, list[str]]) -> Counter[str]:
    """How many different phrases of each list a text holds; lists without any are left out."""
    counts = Counter({name: len(set(found_phrases(text, tuple(phrases)))) for name, phrases in lists.items()})
    return +counts


def _winner(votes: Counter[str]) -> str | None:
    """The name with most votes, the first of equals in the order of the lexicon; None without votes."""
    return max(votes, key=lambda name: votes[name]) if votes else None


def _readable(text: str) -> str:
    """One line, single spaces, runs of the same mark shortened, a capital at the start."""
    text = re.sub(r"([!?.,])\1+", r"\1", " ".join(text.split()))
    return text[:1].upper() + text[1:]


def _bridge(topics: tuple[str, ...]) -> str:
    """A question that leads on to the user's next words (paper appendix B)."""
    return f"How is it going with the {topics[0]}?" if topics else "How did that go?"
