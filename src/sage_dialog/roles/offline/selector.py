"""The offline selector: rules and word lists in place of the paper's selector LLM (paper §3.4).

It reads the user's feeling in the user's words, tells what each candidate does by its phrases, and prefers
a reply whose style fits the feeling, that stays on the user's topic and brings up no other, repeats nothing,
is short, and hands the turn back with a question. Nothing it chooses is evidence about language models.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

from sage_dialog.core.seeds import derived_seed
from sage_dialog.core.sentiment import compound
from sage_dialog.dialogue import Message
from sage_dialog.roles.offline.emotions import shown_emotion, welcome_styles
from sage_dialog.roles.offline.lexicon import Phrases, content_words, read_tables, sentences, trigrams, words
from sage_dialog.roles.offline.topics import mentioned_topics
from sage_dialog.roles.protocols import Choice, NoChoice

Fitting = dict[str, float]

FIT = 2.0
TOPIC = 1.0
DRIFT = 1.5
QUESTION = 0.4
REPETITION = 1.5
OPENER = 0.5

SHORT_WORDS = 4
LONG_WORDS = 30
OVERLONG = 0.04  # a word past LONG_WORDS
MOST_WORDS = 120
READABLE = 0.85  # share of letters and spaces

OUT_OF_PLACE = -0.5
# Where no cue tells the feeling, VADER tells its sign; below this it tells nothing.
CLEAR_SENTIMENT = 0.2
_DISTRESS: Fitting = {"comfort": 0.8, "validation": 0.7, "reassurance": 0.7, "celebration": -1.0, "lecture": -0.5}
_DELIGHT: Fitting = {"celebration": 0.8, "admiration": 0.7, "encouragement": 0.4, "comfort": -0.8, "lecture": -0.5}
_UNCLEAR: Fitting = {"validation": 0.4, "encouragement": 0.3, "lecture": -0.5}


class OfflineSelector:
    """Deterministic; ties are broken by a draw keyed to the turn and the candidate's own words.

    A candidate's score depends on the history and itself alone, so candidates in another order give the
    same choice.
    """

    name = "offline-rules-selector"

    def expect(self, choices: int) -> None:
        """See `protocols.Selector`; costs nothing here."""

    def select(self, choices: Sequence[Choice]) -> list[int | NoChoice]:
        """See `protocols.Selector`. None is good where every candidate is empty, garbled or far too long."""
        return [self._best(choice) for choice in choices]

    def _best(self, choice: Choice) -> int | NoChoice:
        reading = _Reading(choice.history)

        def rank(index: int) -> tuple[float, int]:
            candidate = choice.candidates[index]
            return round(reading.score(candidate), 6), derived_seed(0, "selector", choice.item, candidate)

        acceptable = [index for index, candidate in enumerate(choice.candidates) if readable(candidate)]
        return max(acceptable, key=rank, default=NoChoice.NONE_GOOD)


class _Reading:
    """What the selector takes from the history of one turn, read once for all its candidates."""

    def __init__(self, history: Sequence[Message]) -> None:
        heard = [said.text for said in history if said.role == "user"]
        self.fitting = fitting_styles(tuple(heard))
        self.topics = {topic for message in heard for topic in mentioned_topics(message)}
        self.latest = content_words(words(heard[-1])) if heard else set()
        self.situation = content_words(words(heard[0])) if heard else set()
        self.latest_trigrams = trigrams(words(heard[-1])) if heard else set()
        replies = [said.text for said in history if said.role == "assistant"]
        self.replies = [trigrams(words(reply)) for reply in replies]
        self.openers = {tuple(words(reply)[:3]) for reply in replies}
        self.endings = {tuple(words(sentences(reply)[-1])) for reply in replies if reply.strip()}

    def score(self, candidate: str) -> float:
        tokens = words(candidate)
        return (
            FIT * self._fit(tokens)
            + TOPIC * self._topic(tokens)
            - DRIFT * bool(mentioned_topics(candidate).keys() - self.topics)
            + QUESTION * candidate.rstrip().endswith("?")
            - REPETITION * self._repetition(tokens)
            - OPENER * ((tuple(tokens[:3]) in self.openers) + (tuple(words(sentences(candidate)[-1])) in self.endings))
            - OVERLONG * max(0, len(tokens) - LONG_WORDS)
            - (len(tokens) < SHORT_WORDS)
        )

    def _fit(self, tokens: Sequence[str]) -> float:
        """Mean fit of the styles found in the reply, in [-1, 1]; 0 where none is."""
        styles = _styles().weights(tokens)
        total = sum(styles.values())
        return sum(weight * self.fitting.get(style, 0.0) for style, weight in styles.items()) / total if total else 0.0

    def _topic(self, tokens: Sequence[str]) -> float:
        """How far the reply takes up what the user speaks of, in [0, 1]: the latest message before the situation."""
        said = content_words(tokens)
        return min(1.0, 0.6 * len(said & self.latest) + 0.4 * len(said & self.situation))

    def _repetition(self, tokens: Sequence[str]) -> float:
        """The largest share of the reply's trigrams that one earlier reply, or the user just now, has said."""
        own = trigrams(tokens)
        if not own:
            return 0.0
        return max(len(own & said) / len(own) for said in (*self.replies, self.latest_trigrams))


def readable(text: str) -> bool:
    """Whether a reply is worth comparing: words, not debris of blocks, no stutter, not endless."""
    tokens = words(text)
    if not 2 <= len(tokens) <= MOST_WORDS or set("{}[]<>|") & set(text):
        return False
    if sum(char.isalpha() or char.isspace() for char in text) < READABLE * len(text):
        return False
    if any(tokens[start] == tokens[start + 1] == tokens[start + 2] for start in range(len(tokens) - 2)):
        return False
    repeated = Counter(zip(tokens, tokens[1:], tokens[2:], strict=False)).most_common(1)
    return not repeated or repeated[0][1] < 3


@lru_cache(maxsize=4096)
def fitting_styles(heard: tuple[str, ...]) -> Fitting:
    """How well each style answers the feelings in the user's messages, in [-1, 1].

    Where the cues of feelings.toml leave one emotion, in the latest message or in all, what that emotion
    welcomes. Else the families of selector_feelings.toml, weighed by the cues found for each; VADER's sign
    where there are none.
    """
    if emotion := shown_emotion(heard[-1:]) or shown_emotion(heard):
        return dict.fromkeys(_styles().names, OUT_OF_PLACE) | welcome_styles(emotion)
    families = read_tables("selector_feelings")
    found: Counter[str] = Counter()
    for message in heard:
        found.update(_feelings().weights(words(message)))
    total = sum(found.values())
    if total:
        styles = {style for family in found for style in families[family]["fitting"]}
        return {
            style: sum(weight * families[family]["fitting"].get(style, 0.0) for family, weight in found.items()) / total
            for style in sorted(styles)
        }
    sentiment = compound()(" ".join(heard))
    if abs(sentiment) < CLEAR_SENTIMENT:
        return _UNCLEAR
    return _DISTRESS if sentiment < 0 else _DELIGHT


@lru_cache(maxsize=1)
def _feelings() -> Phrases:
    return Phrases({family: table["cues"] for family, table in read_tables("selector_feelings").items()})


@lru_cache(maxsize=1)
def _styles() -> Phrases:
    return Phrases(read_tables("selector_styles"))
