"""How much a policy varies what it does and says, at the same amount of text for every policy.

Both distinct-n and self-BLEU move with the amount of text: of more words a smaller share is new, and among more replies
each finds a nearer one. So situations are put into groups of ten, by seed and id, the same for all policies; a figure
is worked out within each group, at a fixed size, and averaged. Groups hold different situations, which makes them
independent of each other: Student's interval over the groups is honest.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import combinations
from statistics import fmean
from typing import TYPE_CHECKING, Any

from sage_dialog.core.nltk_modules import nltk_module
from sage_dialog.core.seeds import derived_seed
from sage_dialog.evaluation.rollouts import Reply, replies_by_dialogue
from sage_dialog.evaluation.statistics import clustered_mean

if TYPE_CHECKING:
    import pyarrow as pa

GROUP = 10  # situations
DRAWN = 100  # n-grams at which distinct-n is told
ORDERS = (1, 2, 3)
BLEU_GROUPS = 20  # at most; comparing takes time

Group = Sequence[Sequence[Reply]]


def diversity(
    rollouts: Mapping[str, pa.Table], with_blocks: Sequence[str], confidence: float, seed: int
) -> list[dict[str, Any]]:
    """Rows of `schemas.DIVERSITY`; what there is too little text or too few situations for has no row.

    distinct_1 to distinct_3: the share of different n-grams among 100 drawn without return from a group's replies,
    on average over all such draws (Hurlbert's rarefaction; 1 is all different). Distinct-n (Li et al. 2016) at a fixed
    size. self_bleu: BLEU-4 of a reply with the replies of the group's other situations at the same exchange as its
    references (Zhu et al. 2018), by NLTK with its first smoothing; 1 is all the same. Words are lower case, split at
    white space.

    Of policies with blocks, different_motivations, different_emotions and different_actions (either differs): how often
    two replies of a group, to two situations at the same exchange, mean to do different things.

    Args:
        rollouts: tables of `schemas.TRAJECTORIES` by policy, all on the same situations.
        with_blocks: the policies that write state and action.
        confidence: such as 0.95.
        seed: the run's.
    """
    rows = []
    for policy, table in rollouts.items():
        dialogues = replies_by_dialogue(table)
        groups = [[dialogues[situation] for situation in group] for group in situation_groups(dialogues, seed)]
        for statistic, (of, figure) in _FIGURES.items():
            if of == "actions" and policy not in with_blocks:
                continue
            counted = groups[:BLEU_GROUPS] if statistic == "self_bleu" else groups
            found = [value for group in counted if (value := figure(group)) is not None]
            if len(found) < 2:
                continue
            mean = clustered_mean(found, [1] * len(found), confidence)
            rows.append(
                {
                    "policy": policy,
                    "of": of,
                    "statistic": statistic,
                    "n": mean.n,
                    "value": mean.value,
                    "low": max(0.0, mean.low),
                    "high": min(1.0, mean.high),
                }
            )
    return rows


def situation_groups(situations: Iterable[str], seed: int) -> list[list[str]]:
    """Groups of ten by seed and id; the last few that make no group are left out."""
    drawn = sorted(situations, key=lambda situation: derived_seed(seed, "diversity", situation))
    return [drawn[start : start + GROUP] for start in range(0, len(drawn) - GROUP + 1, GROUP)]


def expected_distinct(counts: Iterable[int], drawn: int) -> float | None:
    """How many kinds are expected among so many drawn without return; None where there are fewer than that.

    Args:
        counts: how often each kind is there.
        drawn: how many are drawn.
    """
    kinds = Counter(counts)
    total = sum(count * number for count, number in kinds.items())
    if total < drawn:
        return None
    ways = math.comb(total, drawn)
    # Whole numbers until the division, which alone rounds.
    return sum(number * (ways - math.comb(total - count, drawn)) for count, number in kinds.items()) / ways


def _distinct(order: int) -> Callable[[Group], float | None]:
    def figure(group: Group) -> float | None:
        grams = Counter(
            words[start : start + order]
            for replies in group
            for reply in replies
            for words in (_words(reply),)
            for start in range(len(words) - order + 1)
        )
        found = expected_distinct(grams.values(), DRAWN)
        return None if found is None else found / DRAWN

    return figure


def _self_bleu(group: Group) -> float | None:
    bleu = nltk_module("nltk.translate.bleu_score")
    smoothing = bleu.SmoothingFunction().method1
    scores = [
        bleu.sentence_bleu([other for other in said if other is not words], words, smoothing_function=smoothing)
        for exchange in _exchanges(group)
        if len(said := [words for reply in exchange if (words := list(_words(reply)))]) > 1
        for words in said
    ]
    return fmean(scores) if scores else None


def _different(label: Callable[[Reply], object]) -> Callable[[Group], float | None]:
    def figure(group: Group) -> float | None:
        pairs = [
            label(one) != label(other)
            for exchange in _exchanges(group)
            for one, other in combinations([reply for reply in exchange if reply.chain], 2)
        ]
        return fmean(pairs) if pairs else None

    return figure


def _exchanges(group: Group) -> Iterator[list[Reply]]:
    """The replies of all dialogues of a group at exchange 1, at exchange 2, and so on."""
    for place in range(max(map(len, group), default=0)):
        yield [replies[place] for replies in group if len(replies) > place]


def _words(reply: Reply) -> tuple[str, ...]:
    return tuple(reply.text.lower().split())


def _motivation(reply: Reply) -> str | None:
    return reply.chain.action.motivation if reply.chain else None


def _emotion(reply: Reply) -> str | None:
    return reply.chain.action.emotion if reply.chain else None


_FIGURES: dict[str, tuple[str, Callable[[Group], float | None]]] = {
    **{f"distinct_{order}": ("replies", _distinct(order)) for order in ORDERS},
    "self_bleu": ("replies", _self_bleu),
    "different_motivations": ("actions", _different(_motivation)),
    "different_emotions": ("actions", _different(_emotion)),
    "different_actions": ("actions", _different(lambda reply: (_motivation(reply), _emotion(reply)))),
}
