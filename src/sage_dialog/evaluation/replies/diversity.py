"""Diversity of the agents' actions and replies, at the same amount of text for every policy.

Both distinct-n and self-BLEU depend on the amount of text: of more words a smaller share is new, and among more replies
each finds a nearer one. Situations are therefore divided into groups of ten, by seed and id, the same for all policies;
a measure is computed within each group, at a fixed size, and averaged. Groups hold different situations and so are
independent of each other, as Student's interval over them requires.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import combinations
from statistics import fmean
from typing import Any

from sage_dialog.core.nltk_modules import nltk_module
from sage_dialog.core.seeds import derived_seed
from sage_dialog.core.tables import DataFrame, from_rows
from sage_dialog.evaluation.rollouts import replies_by_dialogue
from sage_dialog.evaluation.statistics import clustered_mean
from sage_dialog.schemas import DIVERSITY

GROUP = 10  # situations
DRAWN = 100  # n-grams of each measurement of distinct-n
BLEU_GROUPS = 20  # at most, since comparing takes time

Reply = Mapping[str, Any]  # a row of `schemas.REPLIES`
Group = Sequence[Sequence[Reply]]


def diversity(rollouts: DataFrame, replies: DataFrame, confidence: float, seed: int) -> DataFrame:
    """Return a table of `schemas.DIVERSITY`; without a row where there is too little text or too few situations.

    distinct_1 to distinct_3: the share of different n-grams among 100 drawn without replacement from a group's replies,
    averaged over all such draws (Hurlbert's rarefaction; 1 is all different). It is distinct-n (Li et al. 2016) at a
    fixed size. self_bleu: BLEU-4 of a reply with the replies of the group's other situations at the same exchange as
    its references (Zhu et al. 2018), by NLTK with its first smoothing; 1 is all the same. Words are lower case, split
    at white space.

    Of policies with blocks, different_motivations, different_emotions and different_actions (either differs): how often
    two replies of a group, to two situations at the same exchange, mean to do different things.

    Args:
        rollouts: the table of `schemas.ROLLOUTS`, with all policies on the same situations.
        replies: `parse_replies` of it.
    """
    with_blocks = set(replies["policy"][replies["blocks"]])
    rows = []
    for policy, dialogues in replies_by_dialogue(rollouts, replies):
        groups = [[dialogues[situation] for situation in group] for group in situation_groups(dialogues, seed)]
        for statistic, (of, measure) in _MEASURES.items():
            if of == "actions" and policy not in with_blocks:
                continue
            measured = groups[:BLEU_GROUPS] if statistic == "self_bleu" else groups
            values = [value for group in measured if (value := measure(group)) is not None]
            if len(values) < 2:
                continue
            mean = clustered_mean(values, [1] * len(values), confidence)
            row = {"policy": policy, "of": of, "statistic": statistic, **vars(mean)}
            rows.append(row | {"low": max(0.0, mean.low), "high": min(1.0, mean.high)})
    return from_rows(rows, DIVERSITY)


def situation_groups(situations: Iterable[str], seed: int) -> list[list[str]]:
    """Return groups of ten by seed and id; the last few that do not fill a group are left out."""
    drawn = sorted(situations, key=lambda situation: derived_seed(seed, "diversity", situation))
    return [drawn[start : start + GROUP] for start in range(0, len(drawn) - GROUP + 1, GROUP)]


def expected_distinct(counts: Iterable[int], drawn: int) -> float | None:
    """Return how many kinds are expected among `drawn` items without replacement; None if there are fewer items.

    Args:
        counts: the number of items of each kind.
    """
    kinds = Counter(counts)
    total = sum(count * number for count, number in kinds.items())
    if total < drawn:
        return None
    ways = math.comb(total, drawn)
    # Integers until the division, which is the only rounding.
    return sum(number * (ways - math.comb(total - count, drawn)) for count, number in kinds.items()) / ways


def _distinct(group: Group, order: int) -> float | None:
    grams = Counter(
        words[start : start + order]
        for replies in group
        for reply in replies
        for words in (tuple(_words(reply)),)
        for start in range(len(words) - order + 1)
    )
    kinds = expected_distinct(grams.values(), DRAWN)
    return None if kinds is None else kinds / DRAWN


def _self_bleu(group: Group) -> float | None:
    bleu = nltk_module("nltk.translate.bleu_score")
    smoothing = bleu.SmoothingFunction().method1
    scores = []
    for exchange in _exchanges(group):
        replies = [words for reply in exchange if (words := _words(reply))]
        for words in replies if len(replies) > 1 else ():
            references = [other for other in replies if other is not words]
            scores.append(bleu.sentence_bleu(references, words, smoothing_function=smoothing))
    return fmean(scores) if scores else None


def _different(group: Group, fields: Sequence[str]) -> float | None:
    pairs = [
        any(one[field] != other[field] for field in fields)
        for exchange in _exchanges(group)
        for one, other in combinations([reply for reply in exchange if reply["invalid_reason"] is None], 2)
    ]
    return fmean(pairs) if pairs else None


def _exchanges(group: Group) -> Iterator[list[Reply]]:
    """Yield the replies of all dialogues of a group at exchange 1, at exchange 2, and so on."""
    for place in range(max(map(len, group), default=0)):
        yield [replies[place] for replies in group if len(replies) > place]


def _words(reply: Reply) -> list[str]:
    return str(reply["text"]).lower().split()


_MEASURES: dict[str, tuple[str, Callable[[Group], float | None]]] = {
    "distinct_1": ("replies", partial(_distinct, order=1)),
    "distinct_2": ("replies", partial(_distinct, order=2)),
    "distinct_3": ("replies", partial(_distinct, order=3)),
    "self_bleu": ("replies", _self_bleu),
    "different_motivations": ("actions", partial(_different, fields=["a_motivation"])),
    "different_emotions": ("actions", partial(_different, fields=["a_emotion"])),
    "different_actions": ("actions", partial(_different, fields=["a_motivation", "a_emotion"])),
}
