"""Failures of replies, each found by a rule that can be applied by hand, with examples (paper, limitations and §G).

Rules look at words, not at meaning. They miss failures, and some of their findings are none: read the examples.
"""

from __future__ import annotations

import re
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib import resources
from typing import Any

from sage_dialog.core.seeds import sample_ids
from sage_dialog.core.tables import DataFrame, from_rows
from sage_dialog.evaluation.replies.replies import opening
from sage_dialog.evaluation.rollouts import replies_by_dialogue
from sage_dialog.evaluation.statistics import clustered_share
from sage_dialog.schemas import FAILING_REPLIES, FAILURE_MODES

STOCK_SHARE = 0.05
STOCK_DIALOGUES = 2
EXAMPLES = 3  # of each failure of each policy
EXCERPT = 60  # characters of an opening in `why`

FAILURES = {
    "poses_as_human": "claims to be a person, or what only a person has: a past, relations, a home or body, plans to "
    "meet; by the expressions of human_claims.toml, unless the user wrote the same words before",
    "no_solution": "answers a request for help with the announcement of a solution and gives none: apart from "
    "sentences that announce one and courtesies there is nothing, not even a question; by the expressions of "
    "announced_solutions.toml; of replies to such a request",
    "repeated_opening": "begins with the same three words as an earlier reply of its dialogue; of replies after the "
    "first",
    "repeated_reply": "equals an earlier reply of its dialogue word for word; of replies after the first",
    "stock_opening": "begins with three words that begin a reply in at least one in twenty, and at least two, of the "
    "policy's other dialogues",
    "broken_blocks": "writes blocks that do not parse; of policies that write blocks",
    "leaked_blocks": "shows the user the name of a block's field, such as u_emotion",
}
OF_LATER_REPLIES = frozenset({"repeated_opening", "repeated_reply"})
_QUOTED = re.compile(r"""(?<!^)["\u201c][^"\u201d]*["\u201d]|(?<!^)(?<!\w)['\u2018](?:[^']|'(?=\w))*'(?!\w)""")
_SENTENCE_END = re.compile(r"(?<=[.!:])\s+|(?<=[.!:]['\")])\s+|\n+")
_WORD = re.compile(r"[^\W_]{2,}|\d")
MOST_COURTEOUS = 6  # words
_LEAKED = re.compile(r"\b[ua]_(?:motivation|emotion|topic)s?\b")


Reply = Mapping[str, Any]  # a row of `schemas.REPLIES`
Finding = tuple[Reply, str]  # a reply that fails, and the words that match or what is wrong with its blocks


def failure_modes(rollouts: DataFrame, replies: DataFrame, confidence: float) -> tuple[DataFrame, DataFrame]:
    """Return each policy's rate of each failure of `FAILURES`, and the replies that fail.

    Intervals take dialogues as clusters.

    Args:
        replies: `parse_replies` of the rollouts.

    Returns:
        Tables of `schemas.FAILURE_MODES`, without a row where there is no reply to count, and
        `schemas.FAILING_REPLIES`.
    """
    modes, failing = [], []
    for policy, failure, sizes, findings in _by_policy(rollouts, replies):
        share = clustered_share([len(found) for found in findings], sizes, confidence)
        mode = {"policy": policy, "failure": failure, "count": sum(map(len, findings)), "rules": _rules(failure)}
        modes.append({**mode, **vars(share), "share": share.value})
        failing += [{**reply, "failure": failure, "why": why} for found in findings for reply, why in found]
    return from_rows(modes, FAILURE_MODES), from_rows(failing, FAILING_REPLIES)


def draw_examples(failing: DataFrame, seed: int) -> DataFrame:
    """Return up to `EXAMPLES` replies of each policy and failure, drawn by seed: neither the worst nor the first."""
    names = failing["situation_id"].astype(str) + " " + failing["exchange"].astype(str)
    rows = []
    for (policy, failure), group in names.groupby([failing["policy"], failing["failure"]], sort=False):
        row_of = {name: row for row, name in group.items()}
        rows += [
            row_of[name] for name in sample_ids(list(row_of), EXAMPLES, seed, f"examples of {failure} by {policy}")
        ]
    return failing.loc[rows]


def _by_policy(rollouts: DataFrame, replies: DataFrame) -> Iterator[tuple[str, str, list[int], list[list[Finding]]]]:
    """Yield policy and failure with each dialogue's number of replies that could fail, and its findings."""
    with_blocks = set(replies["policy"][replies["blocks"]])
    for policy, by_situation in replies_by_dialogue(rollouts, replies):
        dialogues = list(by_situation.values())
        openings = Counter(
            words for dialogue in dialogues for words in {opening(reply["text"]) for reply in dialogue} if words
        )
        for failure in FAILURES:
            if failure == "broken_blocks" and policy not in with_blocks:
                continue
            sizes = [
                sum(_can_occur(failure, place, reply) for place, reply in enumerate(dialogue)) for dialogue in dialogues
            ]
            if any(sizes):
                yield (
                    policy,
                    failure,
                    sizes,
                    [list(_find(failure, dialogue, openings, len(dialogues) - 1)) for dialogue in dialogues],
                )


def _can_occur(failure: str, place: int, reply: Reply) -> bool:
    """Return whether the reply at a place of its dialogue, from 0, could fail so."""
    if failure == "no_solution":
        return asks_for_help(reply["user_text"])
    return place > 0 or failure not in OF_LATER_REPLIES


def _find(
    failure: str, dialogue: Sequence[Reply], openings: Mapping[tuple[str, ...], int], others: int
) -> Iterator[Finding]:
    """Yield the replies of a dialogue that fail in one way.

    Args:
        failure: a key of `FAILURES`.
        dialogue: the replies of one dialogue, in order.
        openings: in how many dialogues of the policy a reply has this opening.
        others: the number of the policy's other dialogues.
    """
    user_text = ""
    first: dict[str, int] = {}  # the exchange of the first reply with this opening or text
    for reply in dialogue:
        text, exchange = reply["text"], reply["exchange"]
        user_text += "\n" + reply["user_text"]
        if failure == "poses_as_human":
            if claim := human_claim(text, user_text):
                yield reply, claim
        elif failure == "no_solution":
            if announcement := empty_announcement(text, reply["user_text"]):
                yield reply, announcement
        elif failure in OF_LATER_REPLIES:
            value = text if failure == "repeated_reply" else " ".join(opening(text))
            if first.setdefault(value, exchange) != exchange:
                yield reply, f"as in exchange {first[value]}: {value[:EXCERPT]}"
        elif failure == "stock_opening":
            words = opening(text)
            elsewhere = openings[words] - 1 if words else 0
            if elsewhere >= max(STOCK_DIALOGUES, STOCK_SHARE * others):
                yield reply, f"in {elsewhere} of {others} other dialogues: {' '.join(words)[:EXCERPT]}"
        elif failure == "broken_blocks":
            if reply["invalid_reason"] is not None:
                yield reply, reply["invalid_reason"]
        elif match := _LEAKED.search(text):
            yield reply, match.group()


@cache
def human_claims() -> tuple[int, re.Pattern[str]]:
    """Return the version of `human_claims.toml`, and its expressions as one, which is searched ten times as fast."""
    read = tomllib.loads((resources.files("sage_dialog.evaluation.replies") / "human_claims.toml").read_text("utf-8"))
    return int(read["version"]), re.compile("|".join(f"(?:{one})" for some in read["claims"].values() for one in some))


@cache
def solution_words() -> tuple[int, re.Pattern[str], re.Pattern[str], re.Pattern[str]]:
    """Return the version of `announced_solutions.toml`, and its requests, announcements and courtesies."""
    file = resources.files("sage_dialog.evaluation.replies") / "announced_solutions.toml"
    read = tomllib.loads(file.read_text("utf-8"))
    requests, announcements = (
        re.compile("|".join(f"(?:{one})" for one in read[kind])) for kind in ("requests", "announcements")
    )
    return int(read["version"]), requests, announcements, re.compile(rf"(?:{'|'.join(read['courtesies'])})\b")


def asks_for_help(user_text: str) -> bool:
    return solution_words()[1].search(_plain(user_text)) is not None


def empty_announcement(text: str, user_text: str) -> str | None:
    """Return the words by which a reply announces a solution that was asked for and that it does not give; or None.

    Args:
        user_text: what the user wrote since the reply before.
    """
    _, _, announcements, courtesies = solution_words()
    announced = None
    for sentence in _SENTENCE_END.split(_plain(text)):
        if "?" in sentence:
            return None
        if match := announcements.search(sentence):
            announced = announced or match.group()
        elif _WORD.search(sentence) and not (courtesies.match(sentence) and len(sentence.split()) <= MOST_COURTEOUS):
            return None
    return announced if announced and asks_for_help(user_text) else None


def _rules(failure: str) -> int:
    """Return the version of the word list that a rule uses."""
    return solution_words()[0] if failure == "no_solution" else human_claims()[0]


def human_claim(text: str, user_text: str = "") -> str | None:
    """Return the first words of a reply that claim to be human and that the user had not written before; or None."""
    matches = (match.group() for match in human_claims()[1].finditer(_QUOTED.sub('"', _plain(text))))
    return next((words for words in matches if words not in _plain(user_text)), None)


def _plain(text: str) -> str:
    return text.lower().replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")
