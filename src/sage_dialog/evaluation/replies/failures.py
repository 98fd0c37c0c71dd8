"""How policies fail, each failure by a rule that anybody can apply by hand, with examples (paper, limitations and §G).

Rules look at words, not at meaning. What they find is worth reading; what they miss nobody counts.
"""

from __future__ import annotations

import re
import tomllib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from importlib import resources
from typing import TYPE_CHECKING, Any

from sage_dialog.core.seeds import sample_ids
from sage_dialog.evaluation.replies.replies import opening
from sage_dialog.evaluation.rollouts import Reply, replies_by_dialogue
from sage_dialog.evaluation.statistics import clustered_share
from sage_dialog.sac import Unparsed, parse

if TYPE_CHECKING:
    import pyarrow as pa

STOCK_SHARE = 0.05
STOCK_DIALOGUES = 2
EXAMPLES = 3  # of each failure of each policy
EXCERPT = 60  # characters of an opening that is shown

FAILURES = {
    "poses_as_human": "claims to be a person, or what only a person has: a past, relations, a home or body, plans to "
    "meet; by the expressions of human_claims.toml, unless the user said the same words before",
    "repeated_opening": "begins with the same three words as an earlier reply of its dialogue; of replies after the "
    "first",
    "repeated_reply": "says word for word what an earlier reply of its dialogue said; of replies after the first",
    "stock_opening": "begins with three words that begin a reply in at least one in twenty, and at least two, of the "
    "policy's other dialogues",
    "broken_blocks": "writes blocks that do not parse; of policies that write blocks",
    "leaked_blocks": "lets the user hear the name of a block's field, such as u_emotion",
}
_QUOTED = re.compile(r"""(?<!^)["\u201c][^"\u201d]*["\u201d]|(?<!^)(?<!\w)['\u2018](?:[^']|'(?=\w))*'(?!\w)""")
_LEAKED = re.compile(r"\b[ua]_(?:motivation|emotion|topic)s?\b")


@dataclass(frozen=True)
class Finding:
    """A failure of one reply; `why` is the words that match, or what is wrong with the blocks."""

    reply: Reply
    why: str


Rule = Callable[[Sequence[Reply]], Iterator[Finding]]


def failure_modes(
    rollouts: Mapping[str, pa.Table], with_blocks: Sequence[str], confidence: float, seed: int
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Each policy's rate of each failure, by the rules of `FAILURES`, and some examples.

    Intervals take dialogues as clusters. Examples are drawn by seed, policy and place, up to three of each failure, so
    that they are neither the worst nor the first.

    Returns:
        Rows of `schemas.FAILURE_MODES`, where what there is nothing to count of has none, and of
        `schemas.FAILURE_EXAMPLES`.
    """
    modes, examples = [], []
    for policy, table in rollouts.items():
        dialogues = list(replies_by_dialogue(table).values())
        rules = {**_RULES, "stock_opening": _opens_as_others(dialogues)}
        for failure in FAILURES:
            if failure == "broken_blocks" and policy not in with_blocks:
                continue
            found = [list(rules[failure](replies)) for replies in dialogues]
            sizes = [len(replies) - (failure in _OF_LATER) for replies in dialogues]
            if not any(size > 0 for size in sizes):
                continue
            share = clustered_share([len(findings) for findings in found], [max(0, size) for size in sizes], confidence)
            modes.append(
                {
                    "policy": policy,
                    "failure": failure,
                    "rules": human_claims()[0],
                    "n": share.n,
                    "count": sum(map(len, found)),
                    "share": share.value,
                    "low": share.low,
                    "high": share.high,
                }
            )
            places = {f"{one.reply.situation_id} {one.reply.exchange}": one for findings in found for one in findings}
            examples += [
                {
                    "policy": policy,
                    "failure": failure,
                    "situation_id": places[place].reply.situation_id,
                    "exchange": places[place].reply.exchange,
                    "why": places[place].why,
                    "text": places[place].reply.text,
                }
                for place in sample_ids(list(places), EXAMPLES, seed, f"examples of {failure} by {policy}")
            ]
    return modes, examples


@cache
def human_claims() -> tuple[int, re.Pattern[str]]:
    """The version of `human_claims.toml`, and all its expressions as one, which is searched ten times as fast."""
    read = tomllib.loads((resources.files("sage_dialog.evaluation.replies") / "human_claims.toml").read_text("utf-8"))
    return int(read["version"]), re.compile("|".join(f"(?:{one})" for some in read["claims"].values() for one in some))


def human_claim(text: str, heard_before: str = "") -> str | None:
    """The first words of a reply that claim to be human and that the user had not said before; or None."""
    matches = (match.group() for match in human_claims()[1].finditer(_QUOTED.sub('"', _plain(text))))
    return next((words for words in matches if words not in _plain(heard_before)), None)


def _poses(replies: Sequence[Reply]) -> Iterator[Finding]:
    for reply in replies:
        if words := human_claim(reply.text, reply.heard_before):
            yield Finding(reply, words)


def _repeats_opening(replies: Sequence[Reply]) -> Iterator[Finding]:
    yield from _repeats(replies, [" ".join(opening(reply.text)) for reply in replies])


def _repeats_reply(replies: Sequence[Reply]) -> Iterator[Finding]:
    yield from _repeats(replies, [reply.text for reply in replies])


def _repeats(replies: Sequence[Reply], values: Sequence[str]) -> Iterator[Finding]:
    first: dict[str, int] = {}
    for reply, value in zip(replies, values, strict=True):
        if value in first:
            yield Finding(reply, f"as in exchange {first[value]}: {value[:EXCERPT]}")
        first.setdefault(value, reply.exchange)


def _opens_as_others(dialogues: Sequence[Sequence[Reply]]) -> Rule:
    openings = Counter(words for replies in dialogues for words in {opening(reply.text) for reply in replies} if words)
    return partial(_stock, others=len(dialogues) - 1, openings=openings)


def _stock(replies: Sequence[Reply], others: int, openings: Mapping[tuple[str, ...], int]) -> Iterator[Finding]:
    for reply in replies:
        elsewhere = openings[words] - 1 if (words := opening(reply.text)) else 0
        if elsewhere >= max(STOCK_DIALOGUES, STOCK_SHARE * others):
            yield Finding(reply, f"in {elsewhere} of {others} other dialogues: {' '.join(words)[:EXCERPT]}")


def _broken(replies: Sequence[Reply]) -> Iterator[Finding]:
    for reply in replies:
        if isinstance(read := parse(reply.content), Unparsed):
            yield Finding(reply, read.reason)


def _leaks(replies: Sequence[Reply]) -> Iterator[Finding]:
    for reply in replies:
        if match := _LEAKED.search(reply.text):
            yield Finding(reply, match.group())


_RULES: dict[str, Rule] = {
    "poses_as_human": _poses,
    "repeated_opening": _repeats_opening,
    "repeated_reply": _repeats_reply,
    "broken_blocks": _broken,
    "leaked_blocks": _leaks,
}
_OF_LATER = frozenset({"repeated_opening", "repeated_reply"})


def _plain(text: str) -> str:
    return text.lower().replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")
