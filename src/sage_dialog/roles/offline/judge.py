"""The offline judge: whole dialogues compared by counts of words, in place of the judge LLM (paper §3.6, appendix A).

The paper's prompt asks for a chatbot that sounds "like a real human, being colloquial, humorous, funny,
intriguing, sympathetic, natural and not overly verbose". Each dialogue gets one score between 0 and 1 for
each of these traits that words can show; the better mean wins, a small difference is a tie. The scores of a
dialogue do not depend on the other, so the order cannot matter. Its words and its scheme are not the
selector's. Nothing it says is evidence about language models.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import lru_cache
from statistics import fmean

from sage_dialog.core.sentiment import compound
from sage_dialog.dialogue import Message
from sage_dialog.roles.offline.lexicon import Phrases, content_words, read_tables, trigrams, words
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
MARGIN = 0.03  # of a score between 0 and 1; closer dialogues are a tie

BRIEF_WORDS = 25.0  # mean words a reply up to which brevity is full; at VERBOSE_WORDS nothing is left of it
VERBOSE_WORDS = 60.0
TERSE_WORDS = 4.0
ASKING_SHARE = 0.6  # share of replies with a question that is as good as more


class OfflineJudge:
    """Deterministic; the reversed comparison gives the mirrored verdict."""

    name = "offline-rules-judge"

    def judge(self, comparisons: Sequence[Comparison]) -> Iterator[Verdict]:
        """See `protocols.Judge`. Never unreadable; `raw_response` gives the scores of both dialogues."""
        return (_verdict(traits(pair.first), traits(pair.second)) for pair in comparisons)


def _verdict(first: dict[str, float], second: dict[str, float]) -> Verdict:
    lead = round(_total(first) - _total(second), 9)
    reply = f"first {_spelled(first)}; second {_spelled(second)}"
    if abs(lead) <= MARGIN:
        return Verdict("tie", reply)
    return Verdict("first" if lead > 0 else "second", reply)


def _total(scores: dict[str, float]) -> float:
    return sum(WEIGHTS[trait] * score for trait, score in scores.items())


def _spelled(scores: dict[str, float]) -> str:
    return f"{_total(scores):.3f} (" + ", ".join(f"{trait} {score:.2f}" for trait, score in scores.items()) + ")"


@lru_cache(maxsize=4096)  # a dialogue is read in both orders and in several pairs
def traits(dialogue: tuple[Message, ...]) -> dict[str, float]:
    """Scores in [0, 1] by trait, in the order of WEIGHTS; all 0 where the assistant says nothing."""
    heard = [words(said.text) for said in dialogue if said.role == "user"]
    spoken = [said.text for said in dialogue if said.role == "assistant" and words(said.text)]
    if not spoken:
        return dict.fromkeys(WEIGHTS, 0.0)
    replies = [words(text) for text in spoken]
    answers = [said.text for said in dialogue[1:] if said.role == "user"]
    questions = [text.rstrip().endswith("?") for text in spoken]
    return {
        "brief": _brief(fmean(map(len, replies))),
        "natural": fmean(map(_natural, replies)),
        "attuned": _attuned(heard, replies),
        "welcomed": fmean(map(_welcomed, answers)) if answers else 0.5,
        "varied": _varied(replies),
        "curious": min(1.0, fmean(questions) / ASKING_SHARE),
        "on_topic": _on_topic(heard, replies),
    }


def _brief(mean_words: float) -> float:
    if mean_words < TERSE_WORDS:
        return mean_words / TERSE_WORDS
    return min(1.0, max(0.0, (VERBOSE_WORDS - mean_words) / (VERBOSE_WORDS - BRIEF_WORDS)))


def _natural(reply: Sequence[str]) -> float:
    """Talk against essay: colloquial and bookish phrases and contractions weighed up, 0.5 where there are none."""
    sound = _sounds().weights(reply)
    talk = sound.get("colloquial", 0.0) + sum("'" in word for word in reply)
    return (talk + 1) / (talk + 2 * sound.get("bookish", 0.0) + 2)


def _attuned(heard: Sequence[Sequence[str]], replies: Sequence[Sequence[str]]) -> float:
    """How far the replies do what this user would welcome: 1 does nothing else, 0 only what grates, 0.5 neither."""
    wishes = _wishes(heard)
    balance = []
    for reply in replies:
        moves = _moves().weights(reply)
        made = sum(moves.values())
        balance.append(sum(weight * wishes[move] for move, weight in moves.items()) / made if made else 0.0)
    return 0.5 + 0.5 * fmean(balance)


def _wishes(heard: Sequence[Sequence[str]]) -> Counter[str]:
    """By move, between -1 and 1, how welcome it is: the user_needs heard in all the user says, by their cues."""
    found: Counter[str] = Counter()
    for message in heard:
        found.update(_plights().weights(message))
    total = sum(found.values())
    wishes: Counter[str] = Counter()
    for plight, cues in found.items():
        table = read_tables("judge_user_needs")[plight]
        wishes.update(dict.fromkeys(table["welcome"], cues / total))
        wishes.subtract(dict.fromkeys(table["unwelcome"], cues / total))
    return wishes


def _welcomed(answer: str) -> float:
    """How the user takes the reply: warm or flat by phrase, else by the sign and size of VADER's compound."""
    reaction = _reactions().weights(words(answer))
    warm, flat = reaction.get("warm", 0.0), reaction.get("flat", 0.0)
    if warm or flat:
        return warm / (warm + flat)
    return 0.5 + 0.25 * compound()(answer)


def _varied(replies: Sequence[Sequence[str]]) -> float:
    """Share of the assistant's trigrams that no earlier reply has, over all replies but the first."""
    said = trigrams(replies[0])
    fresh = []
    for reply in replies[1:]:
        own = trigrams(reply)
        fresh.append(len(own - said) / len(own) if own else 0.0)
        said |= own
    return fmean(fresh) if fresh else 1.0


def _on_topic(heard: Sequence[Sequence[str]], replies: Sequence[Sequence[str]]) -> float:
    """Share of replies that take up a content word of the user's."""
    subjects = set().union(*map(content_words, heard)) if heard else set()
    return fmean(bool(content_words(reply) & subjects) for reply in replies)


@lru_cache(maxsize=1)
def _plights() -> Phrases:
    return Phrases({name: table["heard"] for name, table in read_tables("judge_user_needs").items()})


@lru_cache(maxsize=1)
def _moves() -> Phrases:
    return Phrases(read_tables("judge_moves")["moves"])


@lru_cache(maxsize=1)
def _sounds() -> Phrases:
    return Phrases(read_tables("judge_moves")["sound"])


@lru_cache(maxsize=1)
def _reactions() -> Phrases:
    return Phrases(read_tables("judge_moves")["reactions"])
