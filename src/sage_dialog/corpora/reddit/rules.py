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
    """Reason for which a line, comment or path is removed.

    Attributes:
        meaning: what the rule removes, to be read after "lines", "comments" or "paths", with the names of
            `config.RedditRules`.
    """

    meaning: str

    def __new__(cls, value: str, meaning: str) -> Rule:
        rule = str.__new__(cls, value)
        rule._value_, rule.meaning = value, meaning
        return rule

    # lines of a month's two dumps
    DAMAGED_ARCHIVE = "damaged_archive", "lost where an archive breaks off, however many, counted as one"
    NOT_JSON = "not_json", "that are no JSON object in UTF-8"
    BAD_FIELD = "bad_field", "in which a field that is needed is missing or has no clear value"
    LONE_SURROGATE = "lone_surrogate", "with half a character, which UTF-8 cannot hold"
    DUPLICATE_THREAD = "duplicate_thread", "with a submission that was read before"
    SUBMISSION = "submission", "read as threads, not as comments"
    # comments: those removed here are part of no path
    BLOCKED_SUBREDDIT = "blocked_subreddit", "in one of blocked_subreddits"
    DELETED = "deleted", "whose text was deleted or removed"
    QUOTE = "quote", "that quote (>)"
    SHORT_BODY = "short_body", "of fewer than min_body_words words"
    DUPLICATE_COMMENT = "duplicate_comment", "with the id of an earlier one of their thread"
    NO_SUBMISSION = "no_submission", "whose thread's submission was not read"
    QUIET_THREAD = (
        "quiet_thread",
        "in threads of fewer than min_submission_comments comments, as their submissions state",
    )
    OVER_18 = "over_18", "in threads marked over 18 (drop_over_18)"
    NOT_A_LEAF = "not_a_leaf", "that others answer: they stand inside paths and end none"
    # paths, one per leaf
    LEAF_SCORE = "leaf_score", "whose last comment scores less than min_leaf_score"
    FEW_TURNS = "few_turns", "of fewer than min_turns comments"
    LONG_LEAF = "long_leaf", "whose last comment has more than max_comment_words words"
    MORE_THAN_TWO_AUTHORS = "more_than_two_authors", "in which not two people, both known, take turns (two_authors)"
    NO_QUESTION = "no_question", "in which no comment ends in a question mark (require_question)"
    LINK = "link", "with a link"
    BRACKET = "bracket", "with a round or square bracket"
    EMPTY_UTTERANCE = "empty_utterance", "in which nothing is left of a comment once its text is normalised"
    CAPITALS = "capitals", "with more than max_capitals_run capitals in a row"
    MEAN_WORDS = "mean_words", "of min_mean_words words a comment or fewer, on average"
    BLOCKED_WORD = "blocked_word", "with one of blocked_words"
    LANGUAGE = "language", "whose last comment has fewer than min_common_words of the most common English words"
    SENTIMENT = "sentiment", "with a comment whose VADER compound score is min_sentiment or lower"
    PATH_TOKENS = "path_tokens", "of more than max_path_tokens tokens"
    LONG_TOKEN = "long_token", "whose last comment has a token of more than max_token_chars characters"
    REPETITION = "repetition", "whose last comment says a token more than max_token_run times in a row"
    SHARES_UTTERANCE = "shares_utterance", "that share a comment with a path already taken (disjoint)"

    @property
    def unit(self) -> str:
        """What the rule removes: "line", "comment" or "path"."""
        order = list(Rule)
        if order.index(self) <= order.index(Rule.SUBMISSION):
            return "line"
        return "comment" if order.index(self) <= order.index(Rule.NOT_A_LEAF) else "path"


UNREADABLE = (Rule.DAMAGED_ARCHIVE, Rule.NOT_JSON, Rule.BAD_FIELD, Rule.LONE_SURROGATE)


def filter_report(lines: Mapping[str, int], removed: Mapping[tuple[str, str], int]) -> DataFrame:
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
            row = {"month": month, "step": step, "rule": rule.value, "unit": rule.unit}
            rows.append(row | {"n_in": n_in, "n_removed": n_removed})
            n_in -= n_removed
    return from_rows(rows, FILTER_REPORT)
