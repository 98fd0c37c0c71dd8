"""The offline judge: scores of complete dialogues by word counts, in place of the judge LLM (paper §3.6, appendix A).

The paper's prompt asks for a chatbot that sounds "like a real human, being colloquial, humorous, funny, intriguing,
sympathetic, natural and not overly verbose". Each dialogue gets a score in [0, 1] for each of these traits that word
counts can measure; the better weighted mean wins, and a small difference is a tie. A dialogue's scores are independent
of the other, so the order cannot matter. Word lists and rules differ from the selector's. Its votes are no evidence
about language models.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import lru_cache
from statistics import fmean

from sage_dialog.core.sentiment import compound
from sage_dialog.dialogue import Message
from sage_dialog.roles.offline.lexicon import content_words, read_lexicon, read_phrases, trigrams, words
from sage_dialog.roles.protocols import Comparison, Verdict

WEIGHTS = {
    "brief": 0.15,
    "natural": 0.10,
    "attuned": 0.30,
    "welcomed": 0.15,
    "varied": 0.10,
    "curious": 0.10,
    "on_topic": 0.10,
}
MARGIN = 0.03  # differences of weighted means up to which two dialogues tie

BRIEF_WORDS = 25.0  # mean words a reply up to which "brief" is 1; it falls to 0 at VERBOSE_WORDS
VERBOSE_WORDS = 60.0
TERSE_WORDS = 4.0
ASKING_SHARE = 0.6  # share of replies with a question from which "curious" is 1


class OfflineJudge:
    """Deterministic; the reversed comparison gives the mirrored verdict."""

    name = "offline-rules-judge"

    def judge(self, comparisons: Sequence[Comparison]) -> Iterator[Verdict]:
        """Yield verdicts, with the scores of both dialogues as `raw_response`; never "unreadable"."""
        return (_verdict(scores(pair.first), scores(pair.second)) for pair in comparisons)


def _verdict(first: dict[str, float], second: dict[str, float]) -> Verdict:
    lead = round(_total(first) - _total(second), 9)
    response = f"first {_format(first)}; second {_format(second)}"
    if abs(lead) <= MARGIN:
        return Verdict("tie", response)
    return Verdict("first" if lead > 0 else "second", response)


def _total(traits: dict[str, float]) -> float:
    return sum(WEIGHTS[trait] * score for trait, score in traits.items())


def _format(traits: dict[str, float]) -> str:
    return f"{_total(traits):.3f} (" + ", ".join(f"{trait} {score:.2f}" for trait, score in traits.items()) + ")"


@lru_cache(maxsize=4096)  # a dialogue is judged in both orders and in several pairs
def scores(dialogue: tuple[Message, ...]) -> dict[str, float]:
    """Return the scores in [0, 1] by trait, in the order of WEIGHTS; all 0 if the assistant says nothing."""
    user_words = [words(message.text) for message in dialogue if message.role == "user"]
    replies = [message.text for message in dialogue if message.role == "assistant" and words(message.text)]
    if not replies:
        return dict.fromkeys(WEIGHTS, 0.0)
    reply_words = [words(text) for text in replies]
    reactions = [message.text for message in dialogue[1:] if message.role == "user"]
    questions = [text.rstrip().endswith("?") for text in replies]
    return {
        "brief": _brief(fmean(map(len, reply_words))),
        "natural": fmean(map(_natural, reply_words)),
        "attuned": _attuned(user_words, reply_words),
        "welcomed": fmean(map(_welcomed, reactions)) if reactions else 0.5,
        "varied": _varied(reply_words),
        "curious": min(1.0, fmean(questions) / ASKING_SHARE),
        "on_topic": _on_topic(user_words, reply_words),
    }


def _brief(mean_words: float) -> float:
    if mean_words < TERSE_WORDS:
        return mean_words / TERSE_WORDS
    return min(1.0, max(0.0, (VERBOSE_WORDS - mean_words) / (VERBOSE_WORDS - BRIEF_WORDS)))


def _natural(reply: Sequence[str]) -> float:
    """Return the share of colloquial phrases and contractions among these and bookish phrases, 0.5 without any."""
    sound = read_phrases("judge_moves", "sound").weights(reply)
    colloquial = sound.get("colloquial", 0.0) + sum("'" in word for word in reply)
    return (colloquial + 1) / (colloquial + 2 * sound.get("bookish", 0.0) + 2)


def _attuned(user_words: Sequence[Sequence[str]], replies: Sequence[Sequence[str]]) -> float:
    """Return how far the replies make the moves that this user needs: 1 only these, 0 only unwelcome ones."""
    preferences = _move_preferences(user_words)
    balance = []
    for reply in replies:
        moves = read_phrases("judge_moves", "moves").weights(reply)
        total = sum(moves.values())
        balance.append(sum(weight * preferences[move] for move, weight in moves.items()) / total if total else 0.0)
    return 0.5 + 0.5 * fmean(balance)


def _move_preferences(user_words: Sequence[Sequence[str]]) -> Counter[str]:
    """Return how welcome each move is, in [-1, 1]: the needs found in the user's messages, weighted by their cues."""
    found: Counter[str] = Counter()
    for message in user_words:
        found.update(read_phrases("judge_user_needs").weights(message))
    total = sum(found.values())
    preferences: Counter[str] = Counter()
    for need, cues in found.items():
        table = read_lexicon("judge_user_needs")[need]
        preferences.update(dict.fromkeys(table["welcome"], cues / total))
        preferences.subtract(dict.fromkeys(table["unwelcome"], cues / total))
    return preferences


def _welcomed(reaction: str) -> float:
    """Return how warm a user's reaction is, in [0, 1]: by phrases, else by VADER's compound."""
    found = read_phrases("judge_moves", "reactions").weights(words(reaction))
    warm, flat = found.get("warm", 0.0), found.get("flat", 0.0)
    if warm or flat:
        return warm / (warm + flat)
    return 0.5 + 0.25 * compound()(reaction)


def _varied(replies: Sequence[Sequence[str]]) -> float:
    """Return the mean share of new trigrams over all replies but the first."""
    earlier = trigrams(replies[0])
    fresh = []
    for reply in replies[1:]:
        own = trigrams(reply)
        fresh.append(len(own - earlier) / len(own) if own else 0.0)
        earlier |= own
    return fmean(fresh) if fresh else 1.0


def _on_topic(user_words: Sequence[Sequence[str]], replies: Sequence[Sequence[str]]) -> float:
    """Return the share of replies that contain a content word of the user's."""
    subjects = set().union(*map(content_words, user_words)) if user_words else set()
    return fmean(bool(content_words(reply) & subjects) for reply in replies)
