"""The rules of the Reddit filters in their order (paper §3.1 and the DialoGPT recipe), and the report on them.

The rules form one chain: lines become comments, comments that end a chain of replies become paths, and the remaining
paths become dialogues. The first rule that applies removes a line, comment or path.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from sage_dialog.core.tables import DataFrame, from_rows
from sage_dialog.schemas import FILTER_REPORT


class Rule(StrEnum):
    """Reason for which a line, comment or path is removed."""

    # lines of a month's two dumps
    DAMAGED_ARCHIVE = "damaged_archive"  # the archive is truncated or damaged; the lost part counts as one line
    NOT_JSON = "not_json"
    BAD_FIELD = "bad_field"  # a required field is missing or of another type
    LONE_SURROGATE = "lone_surrogate"  # half a character, which UTF-8 cannot encode
    DUPLICATE_THREAD = "duplicate_thread"
    SUBMISSION = "submission"  # read as a thread, not as a comment
    # comments: those removed here are part of no path
    BLOCKED_SUBREDDIT = "blocked_subreddit"
    DELETED = "deleted"
    QUOTE = "quote"
    SHORT_BODY = "short_body"
    DUPLICATE_COMMENT = "duplicate_comment"
    NO_SUBMISSION = "no_submission"
    QUIET_THREAD = "quiet_thread"
    OVER_18 = "over_18"
    NOT_A_LEAF = "not_a_leaf"  # it has a reply: it stands inside paths and ends none
    # paths, one per leaf
    LEAF_SCORE = "leaf_score"
    FEW_TURNS = "few_turns"
    LONG_LEAF = "long_leaf"
    MORE_THAN_TWO_AUTHORS = "more_than_two_authors"
    NO_QUESTION = "no_question"
    LINK = "link"
    BRACKET = "bracket"
    EMPTY_UTTERANCE = "empty_utterance"  # a comment is empty once its text is normalised
    CAPITALS = "capitals"
    MEAN_WORDS = "mean_words"
    BLOCKED_WORD = "blocked_word"
    LANGUAGE = "language"
    SENTIMENT = "sentiment"
    PATH_TOKENS = "path_tokens"
    LONG_TOKEN = "long_token"
    REPETITION = "repetition"
    SHARES_UTTERANCE = "shares_utterance"


UNREADABLE = (Rule.DAMAGED_ARCHIVE, Rule.NOT_JSON, Rule.BAD_FIELD, Rule.LONE_SURROGATE)


def unit(rule: Rule) -> str:
    """Return what the rule removes: "line", "comment" or "path"."""
    order = list(Rule)
    if order.index(rule) <= order.index(Rule.SUBMISSION):
        return "line"
    return "comment" if order.index(rule) <= order.index(Rule.NOT_A_LEAF) else "path"


def filter_report(lines: Mapping[str, int], removed: Mapping[tuple[str, Rule], int]) -> DataFrame:
    """Return a table of `schemas.FILTER_REPORT` by month and step.

    `n_in` of a rule is `n_in` of the rule before less its `n_removed`: what the last rule leaves are the dialogues.

    Args:
        lines: number of lines of each month's dumps.
        removed: number of removals by month and rule.
    """
    rows = []
    for month in sorted(lines):
        n_in = lines[month]
        for step, rule in enumerate(Rule, start=1):
            n_removed = removed.get((month, rule), 0)
            row = {"month": month, "step": step, "rule": rule.value, "unit": unit(rule)}
            rows.append(row | {"n_in": n_in, "n_removed": n_removed})
            n_in -= n_removed
    return from_rows(rows, FILTER_REPORT)
