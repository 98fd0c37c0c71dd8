"""The rules of the Reddit filters, in the order in which they are asked (paper §3.1 and the DialoGPT recipe).

They form one chain: lines become comments, comments that end a chain of replies become paths, and paths that
no rule takes become dialogues. The first rule that holds takes a line, comment or path.
"""

from __future__ import annotations

from enum import StrEnum


class Rule(StrEnum):
    """Why a line, comment or path goes no further."""

    # lines of a month's two dumps
    DAMAGED_ARCHIVE = "damaged_archive"  # the archive breaks off; all that is lost counts as one line
    NOT_JSON = "not_json"
    BAD_FIELD = "bad_field"  # a field that is needed is missing or of another type
    LONE_SURROGATE = "lone_surrogate"  # half a character, which neither UTF-8 nor Arrow can hold
    DUPLICATE_THREAD = "duplicate_thread"
    SUBMISSION = "submission"  # read as a thread, not as a comment
    # comments: what removes one here makes it no part of any path
    BLOCKED_SUBREDDIT = "blocked_subreddit"
    DELETED = "deleted"
    QUOTE = "quote"
    SHORT_BODY = "short_body"
    DUPLICATE_COMMENT = "duplicate_comment"
    NO_SUBMISSION = "no_submission"
    QUIET_THREAD = "quiet_thread"
    OVER_18 = "over_18"
    NOT_A_LEAF = "not_a_leaf"  # a counted comment answers it: it stands inside paths and ends none
    # paths, one for each leaf
    LEAF_SCORE = "leaf_score"
    FEW_TURNS = "few_turns"
    LONG_LEAF = "long_leaf"
    MORE_THAN_TWO_AUTHORS = "more_than_two_authors"
    NO_QUESTION = "no_question"
    LINK = "link"
    BRACKET = "bracket"
    EMPTY_UTTERANCE = "empty_utterance"  # nothing is left of a comment once its text is normalised
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
    """What the rule takes: "line", "comment" or "path"."""
    order = list(Rule)
    if order.index(rule) <= order.index(Rule.SUBMISSION):
        return "line"
    return "comment" if order.index(rule) <= order.index(Rule.NOT_A_LEAF) else "path"
