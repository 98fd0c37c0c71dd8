"""The offline selector: rules and word lists in place of the paper's selector LLM (paper §3.4).

It detects the user's emotion and each candidate's style by phrases. It prefers a reply whose style fits the emotion,
that keeps to the user's topic, repeats nothing, is short, and ends with a question. Its choices are no evidence about
language models.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

from sage_dialog.core.seeds import derived_seed
from sage_dialog.core.sentiment import compound
from sage_dialog.dialogue import Message
from sage_dialog.roles.offline.cues import count_topics, dominant_emotion, welcome_styles
from sage_dialog.roles.offline.lexicon import content_words, read_lexicon, read_phrases, sentences, trigrams, words
from sage_dialog.roles.protocols import Choice, NoChoice

StyleFit = dict[str, float]

FIT = 2.0
TOPIC = 1.0
DRIFT = 1.5
QUESTION = 0.4
REPETITION = 1.5
OPENER = 0.5

SHORT_WORDS = 4
LONG_WORDS = 30
OVERLONG = 0.04  # for each word over LONG_WORDS
MAX_WORDS = 120
READABLE = 0.85  # minimum share of letters and spaces

OUT_OF_PLACE = -0.5
CLEAR_SENTIMENT = 0.2  # minimum absolute VADER compound that counts where no cue indicates an emotion
_DISTRESS: StyleFit = {"comfort": 0.8, "validation": 0.7, "reassurance": 0.7, "celebration": -1.0, "lecture": -0.5}
_DELIGHT: StyleFit = {"celebration": 0.8, "admiration": 0.7, "encouragement": 0.4, "comfort": -0.8, "lecture": -0.5}
_UNCLEAR: StyleFit = {"validation": 0.4, "encouragement": 0.3, "lecture": -0.5}


class OfflineSelector:
    """Deterministic, and independent of the order of the candidates.

    Ties are broken by a draw that the turn and the candidate's own words seed.
    """

    name = "offline-rules-selector"

    def expect(self, choices: int) -> None:
        """Do nothing: the rules cost nothing."""

    def select(self, choices: Sequence[Choice]) -> list[int | NoChoice]:
        """Return the best candidates; none is good if all are empty, garbled or far too long."""
        return [self._best(choice) for choice in choices]

    def _best(self, choice: Choice) -> int | NoChoice:
        scorer = _Scorer(choice.history)

        def rank(index: int) -> tuple[float, int]:
            candidate = choice.candidates[index]
            return round(scorer.score(candidate), 6), derived_seed(0, "selector", choice.item, candidate)

        acceptable = [index for index, candidate in enumerate(choice.candidates) if is_readable(candidate)]
        return max(acceptable, key=rank, default=NoChoice.NONE_GOOD)


class _Scorer:
    """Scores the candidates of one turn by features of its history."""

    def __init__(self, history: Sequence[Message]) -> None:
        user_texts = [message.text for message in history if message.role == "user"]
        self.style_fit = style_fit(tuple(user_texts))
        self.topics = {topic for text in user_texts for topic in count_topics(text)}
        self.latest = content_words(words(user_texts[-1])) if user_texts else set()
        self.situation = content_words(words(user_texts[0])) if user_texts else set()
        self.latest_trigrams = trigrams(words(user_texts[-1])) if user_texts else set()
        replies = [message.text for message in history if message.role == "assistant"]
        self.replies = [trigrams(words(reply)) for reply in replies]
        self.openers = {tuple(words(reply)[:3]) for reply in replies}
        self.endings = {tuple(words(sentences(reply)[-1])) for reply in replies if reply.strip()}

    def score(self, candidate: str) -> float:
        tokens = words(candidate)
        return (
            FIT * self._fit(tokens)
            + TOPIC * self._topic(tokens)
            - DRIFT * bool(count_topics(candidate).keys() - self.topics)
            + QUESTION * candidate.rstrip().endswith("?")
            - REPETITION * self._repetition(tokens)
            - OPENER * ((tuple(tokens[:3]) in self.openers) + (tuple(words(sentences(candidate)[-1])) in self.endings))
            - OVERLONG * max(0, len(tokens) - LONG_WORDS)
            - (len(tokens) < SHORT_WORDS)
        )

    def _fit(self, tokens: Sequence[str]) -> float:
        """Return the mean fit of the candidate's styles, in [-1, 1]; 0 without a style."""
        styles = read_phrases("selector_styles").weights(tokens)
        if not styles:
            return 0.0
        return sum(weight * self.style_fit.get(style, 0.0) for style, weight in styles.items()) / sum(styles.values())

    def _topic(self, tokens: Sequence[str]) -> float:
        """Return the overlap with the user's content words, in [0, 1]; the latest message counts most."""
        own = content_words(tokens)
        return min(1.0, 0.6 * len(own & self.latest) + 0.4 * len(own & self.situation))

    def _repetition(self, tokens: Sequence[str]) -> float:
        """Return the largest share of the candidate's trigrams in one earlier reply, or the user's latest message."""
        own = trigrams(tokens)
        if not own:
            return 0.0
        return max(len(own & earlier) / len(own) for earlier in (*self.replies, self.latest_trigrams))


def is_readable(text: str) -> bool:
    """Return whether a reply consists of words, without parts of blocks, stutter or excessive length."""
    tokens = words(text)
    if not 2 <= len(tokens) <= MAX_WORDS or set("{}[]<>|") & set(text):
        return False
    if sum(char.isalpha() or char.isspace() for char in text) < READABLE * len(text):
        return False
    if any(tokens[start] == tokens[start + 1] == tokens[start + 2] for start in range(len(tokens) - 2)):
        return False
    repeated = Counter(zip(tokens, tokens[1:], tokens[2:], strict=False)).most_common(1)
    return not repeated or repeated[0][1] < 3


@lru_cache(maxsize=4096)
def style_fit(user_texts: tuple[str, ...]) -> StyleFit:
    """Return how well each style answers the emotions in the user's messages, in [-1, 1].

    By the one dominant emotion (feelings.toml) of the latest message or of all messages; else by the families of
    selector_feelings.toml, weighted by their cues; else by the sign of VADER's compound.
    """
    if emotion := dominant_emotion(user_texts[-1:]) or dominant_emotion(user_texts):
        return dict.fromkeys(read_phrases("selector_styles").names, OUT_OF_PLACE) | welcome_styles(emotion)
    families = read_lexicon("selector_feelings")
    found: Counter[str] = Counter()
    for text in user_texts:
        found.update(read_phrases("selector_feelings").weights(words(text)))
    total = sum(found.values())
    if total:
        styles = {style for family in found for style in families[family]["fitting"]}
        return {
            style: sum(weight * families[family]["fitting"].get(style, 0.0) for family, weight in found.items()) / total
            for style in sorted(styles)
        }
    sentiment = compound()(" ".join(user_texts))
    if abs(sentiment) < CLEAR_SENTIMENT:
        return _UNCLEAR
    return _DISTRESS if sentiment < 0 else _DELIGHT
