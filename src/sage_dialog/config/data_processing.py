"""Parameters of the Reddit rules and of the pipeline that applies them (paper §3.1)."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from sage_dialog.config.base import Amount, Config, Count, NonNegative, Share, invalid

SameText = Literal["first", "all"]


class RedditRules(Config):
    """Thresholds of the Reddit rules: the DialoGPT recipe and the paper's own filters."""

    # comments
    blocked_subreddits: tuple[str, ...]
    min_body_words: Count
    min_submission_comments: Amount
    drop_over_18: bool
    same_month: bool
    # paths
    max_comment_words: Count
    max_turns: Annotated[int, Field(ge=2)]
    # dialogues
    min_leaf_score: int
    min_turns: Annotated[int, Field(ge=2)]
    two_authors: bool
    tokenised: bool
    require_question: bool
    max_capitals_run: Amount
    min_mean_words: NonNegative
    blocked_words: tuple[str, ...]
    min_common_words: Amount
    max_path_tokens: Count
    max_token_chars: Count
    max_token_run: Count
    min_sentiment: Annotated[float, Field(ge=-1, le=1)]
    disjoint: bool

    @field_validator("blocked_words")
    @classmethod
    def _check_words(cls, words: tuple[str, ...]) -> tuple[str, ...]:
        for word in words:
            if not word or word != " ".join(word.split()):
                raise invalid(f"{word!r} is no word or phrase; write words with single spaces between them")
        return words

    @field_validator("blocked_subreddits")
    @classmethod
    def _check_subreddits(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if not name or "/" in name or name.split() != [name]:
                raise invalid(f"{name!r} is no name of a subreddit; write it without r/")
        return names

    @model_validator(mode="after")
    def _check_turns(self) -> Self:
        if self.max_turns < self.min_turns:
            raise invalid(f"max_turns = {self.max_turns} is below min_turns = {self.min_turns}: no path would be kept")
        return self


class DataProcessing(Config):
    rule_sets: dict[str, RedditRules]
    rules: str
    executor: Literal["processes", "spark"]
    workers: Count | None
    bucket_comments: Count
    max_reject_share: Share
    max_unread_share: Share
    require_submissions: bool
    same_text_situations: SameText

    @field_validator("rules")
    @classmethod
    def _check_rules(cls, rules: str, info: ValidationInfo) -> str:
        if rules not in (known := info.data.get("rule_sets", {rules})):
            raise invalid(f"not in rule_sets, which has {', '.join(known)}")
        return rules

    @property
    def reddit(self) -> RedditRules:
        return self.rule_sets[self.rules]
