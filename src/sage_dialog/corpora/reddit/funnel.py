"""The rules in the order in which they are asked, and how many lines, comments and paths each one took.

The rules form one chain: lines that are read as comments become comments, comments that end a chain of
replies become paths, paths that no rule takes become dialogues. So a month's lines are explained whole:
what comes in at a rule is what came in at the rule before, less what that one removed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from enum import StrEnum
from typing import Any


class Rule(StrEnum):
    """Why a line, comment or path goes no further. The first rule that holds takes it."""

    # lines of a month's two dumps
    DAMAGED_ARCHIVE = "damaged_archive"  # the archive breaks off; all that is lost counts as one line
    NOT_JSON = "not_json"
    BAD_FIELD = "bad_field"  # a field that is needed is missing or of another type
    LONE_SURROGATE = "lone_surrogate"  # half a character, which neither UTF-8 nor Arrow can hold
    DUPLICATE_ID = "duplicate_id"
    SUBMISSION = "submission"  # read as a thread, not as a comment
    # comments: what removes one here makes it no part of any path
    NO_SUBMISSION = "no_submission"
    QUIET_THREAD = "quiet_thread"
    DELETED = "deleted"
    QUOTE = "quote"
    SHORT_BODY = "short_body"
    NOT_A_LEAF = "not_a_leaf"  # a counted comment answers it: it stands inside paths and ends none
    # paths, one for each leaf
    LEAF_SCORE = "leaf_score"
    LONG_LEAF = "long_leaf"
    FEW_TURNS = "few_turns"
    LINK = "link"
    EMPTY_UTTERANCE = "empty_utterance"  # nothing is left of a comment once its text is normalised
    BRACKET = "bracket"
    CAPITALS = "capitals"
    MEAN_WORDS = "mean_words"
    NO_QUESTION = "no_question"
    PATH_TOKENS = "path_tokens"
    LONG_TOKEN = "long_token"
    REPETITION = "repetition"
    SENTIMENT = "sentiment"


UNREADABLE = (Rule.DAMAGED_ARCHIVE, Rule.NOT_JSON, Rule.BAD_FIELD, Rule.LONE_SURROGATE)


def _unit(rule: Rule) -> str:
    order = list(Rule)
    if order.index(rule) <= order.index(Rule.SUBMISSION):
        return "line"
    return "comment" if order.index(rule) <= order.index(Rule.NOT_A_LEAF) else "path"


class Funnel:
    """Counts by month. Every line is told once to `came`, and whatever it becomes at most once to `remove`."""

    def __init__(self, months: Iterable[str]) -> None:
        self._lines = dict.fromkeys(sorted(months), 0)
        self._removed: Counter[tuple[str, Rule]] = Counter()

    def came(self, month: str) -> None:
        self._lines[month] += 1

    def remove(self, month: str, rule: Rule) -> None:
        self._removed[month, rule] += 1

    @property
    def months(self) -> list[str]:
        return list(self._lines)

    def lines(self, month: str) -> int:
        return self._lines[month]

    def unreadable(self, month: str) -> Counter[Rule]:
        return Counter({rule: count for rule in UNREADABLE if (count := self._removed[month, rule])})

    def rows(self) -> list[dict[str, Any]]:
        """Rows of `schemas.FILTER_REPORT`, by month and step; step counts from 1 through all units."""
        rows = []
        for month, came_in in self._lines.items():
            for step, rule in enumerate(Rule, start=1):
                removed = self._removed[month, rule]
                row = {"month": month, "step": step, "rule": rule.value, "unit": _unit(rule)}
                rows.append(row | {"came_in": came_in, "removed": removed})
                came_in -= removed
        return rows
