"""Genuine months: the same tables as the oracle's, row for row, under the rules that people use."""

from functools import cache
from pathlib import Path

import pytest
import reddit_oracle

from sage_dialog.config import DataProcessing, RedditRules

SETS = DataProcessing.from_base().rule_sets
# Leaves thousands of dialogues, so that their being the same says something.
LOOSE = {"min_mean_words": 3, "min_sentiment": -0.2, "require_question": False, "min_leaf_score": -100}


@pytest.fixture
def dumps(shared):
    """The dumps of a folder by name."""

    def files(folder: str) -> dict[str, Path]:
        return {path.name: path for path in shared(folder).iterdir()}

    return files


@pytest.fixture(scope="module", autouse=True)
def _parsed_once():
    """The oracle parses each line and tokenises and scores each text once; its rules work on them each time."""
    parsed_lines, cached_text = reddit_oracle.parsed_lines, reddit_oracle.CachedText
    parsed = cache(lambda dump: list(parsed_lines(dump)))
    texts = cache(lambda tokenised: cached_text(RedditRules.from_base(tokenised=tokenised)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reddit_oracle, "parsed_lines", parsed)
        patch.setattr(reddit_oracle, "CachedText", lambda rules: texts(rules.tokenised))
        yield


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    """Rules on paths take the months that were extracted for others."""
    return tmp_path_factory.mktemp("scratch")


def lines(found) -> int:
    return sum(row["n_in"] for row in found.filter_report if row["step"] == 1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rules", "dialogues"),
    [(SETS["paper"], 10), (RedditRules.from_base(**LOOSE), 2_462)],
    ids=["paper", "loose"],
)
def test_2015_gives_the_oracles_tables(dumps, read, scratch, rules, dialogues):
    found = read(dumps("reddit_2015"), rules, scratch=scratch)
    assert len(found.dialogues) == dialogues
    assert lines(found) == 352_570 + 65_531


@pytest.mark.parametrize("rules", ["paper", "literal"])
def test_2005_and_2006_give_the_oracles_tables(dumps, read, rules):
    found = read(dumps("reddit_2005_2006"), SETS[rules])
    assert lines(found) == 27_695 + 778
    assert found.removed["submission"] == 778
    assert found.removed["deleted"] == 4_467


OPTIONS = {
    "short": {"max_turns": 4},
    "recipe": {"tokenised": True, "same_month": True, "disjoint": True, "blocked_words": ("reddit", "of the")},
    "two": {"two_authors": True, "blocked_subreddits": ("Programming",), "max_token_run": 3, "drop_over_18": True},
}


@pytest.mark.slow
@pytest.mark.parametrize(("options", "dialogues"), [("short", 900), ("recipe", 600), ("two", 300)])
def test_threads_of_2005_and_2006_without_submissions_give_the_oracles_tables(dumps, read, options, dialogues):
    rules = RedditRules.from_base(**LOOSE, min_turns=2, min_submission_comments=0, **OPTIONS[options])
    found = read(dumps("reddit_2005_2006"), rules, workers=2 if options == "short" else 1)
    assert len(found.dialogues) > dialogues
    assert len({row["month"] for row in found.dialogues}) == 4
    assert {"bracket", "link", "capitals", "sentiment", "language"} <= found.removed.keys()
