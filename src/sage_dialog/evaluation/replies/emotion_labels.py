"""The label of EmpatheticDialogues that a free emotion word means, by versioned lists made by hand."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources

from sage_dialog.corpora.empathetic import EMOTIONS
from sage_dialog.sac import normalize_label


@dataclass(frozen=True)
class EmotionLabels:
    """A version of the lists. `meant` maps words to labels; `degrees` are ignored in front of a word."""

    version: int
    meant: Mapping[str, str]
    degrees: frozenset[str]

    @property
    def labels(self) -> tuple[str, ...]:
        """The 32 labels, those of similar meaning together."""
        return tuple(dict.fromkeys(self.meant.values()))

    def label(self, emotion: str | None) -> str | None:
        """Return the label that an emotion of a block means; None if the lists do not hold it.

        The emotion is looked up in lower case, first whole, then without a word or two of degree in front.
        """
        emotion = None if emotion is None else normalize_label(emotion)
        while emotion is not None and emotion not in self.meant:
            words = emotion.split(" ")
            cut = next((size for size in (2, 1) if " ".join(words[:size]) in self.degrees and words[size:]), None)
            emotion = None if cut is None else " ".join(words[cut:])
        return None if emotion is None else self.meant[emotion]


@cache
def emotion_labels() -> EmotionLabels:
    """Return the lists of the package."""
    return read_emotion_labels(
        (resources.files("sage_dialog.evaluation.replies") / "emotion_words.toml").read_text("utf-8")
    )


def read_emotion_labels(text: str) -> EmotionLabels:
    """Return lists in the form of `emotion_words.toml`.

    Raises:
        ValueError: naming a label that is missing or not one of the 32, or a word that is in two lists.
    """
    lists = tomllib.loads(text)
    if wrong := ", ".join(sorted(set(lists["labels"]) ^ set(EMOTIONS))):
        raise ValueError(f"emotion words: {wrong}: give each of the 32 labels one list, and no other")
    meant: dict[str, str] = {}
    for label, words in lists["labels"].items():
        for word in (label, *_listed(words)):
            if meant.setdefault(word, label) != label:
                raise ValueError(
                    f"emotion words: {word!r} is in the lists of {meant[word]!r} and {label!r}; choose one"
                )
    return EmotionLabels(int(lists["version"]), meant, frozenset(_listed(lists["degrees"])))


def _listed(words: str) -> list[str]:
    return [" ".join(word.split()) for word in words.split(",") if word.strip()]
