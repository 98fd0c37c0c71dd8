"""The rules on genuine months: every line explained, every dialogue kept for a reason."""

import json

import pytest

from sage_dialog.corpora.compression import read_lines
from sage_dialog.corpora.reddit import read_dialogues
from sage_dialog.parameters import RedditRules
from sage_dialog.sentiment import packaged_lexicon

RELAXED = {"min_turns": 3, "min_sentiment": 0.2}


def assert_keep_the_rules(dialogues, rules):
    """Asked anew of what came out, one utterance at a time."""
    from nltk.sentiment.vader import SentimentIntensityAnalyzer, VaderConstants

    analyzer = SentimentIntensityAnalyzer.__new__(SentimentIntensityAnalyzer)
    analyzer.lexicon, analyzer.constants = packaged_lexicon(), VaderConstants()
    assert [dialogue["dialogue_id"] for dialogue in dialogues] == sorted({d["dialogue_id"] for d in dialogues})
    for dialogue in dialogues:
        texts = [turn["text"] for turn in dialogue["turns"]]
        assert rules.min_turns <= len(texts) == dialogue["n_turns"] <= rules.max_turns
        assert sum(len(text.split()) for text in texts) / len(texts) > rules.min_mean_words
        assert any(text.endswith("?") for text in texts)
        assert dialogue["min_sentiment"] == min(analyzer.polarity_scores(text)["compound"] for text in texts)
        assert dialogue["min_sentiment"] > rules.min_sentiment
        assert dialogue["dialogue_id"] == dialogue["turns"][-1]["comment_id"]


def test_months_of_2005_and_2006_are_explained_to_the_last_line(shared, assert_explained):
    files = {path.name: path for path in shared("reddit_2005_2006").iterdir()}
    dialogues, report = read_dialogues(files, RedditRules())
    assert_explained(report, dialogues)
    assert sum(row["came_in"] for row in report if row["step"] == 1) == 27_695 + 778
    assert sum(row["removed"] for row in report if row["rule"] == "submission") == 778


def test_threads_of_2005_and_2006_without_submissions_give_dialogues_where_none_is_asked_for(shared, assert_explained):
    files = {path.name: path for path in shared("reddit_2005_2006").iterdir()}
    rules = RedditRules(min_submission_comments=0, min_turns=3, min_sentiment=0.0, min_mean_words=10)
    dialogues, report = read_dialogues(files, rules)
    assert_explained(report, dialogues)
    assert_keep_the_rules(dialogues, rules)
    assert sum(row["removed"] for row in report if row["rule"] == "deleted") == 4_467
    assert len({dialogue["month"] for dialogue in dialogues}) > 1


@pytest.mark.parametrize("thresholds", [{}, RELAXED], ids=["default", "relaxed"])
def test_a_third_of_a_month_of_2015_is_explained_and_keeps_the_rules(shared, tmp_path, thresholds, assert_explained):
    source = shared("reddit_2015")
    part = tmp_path / "RC_2015-03"
    part.write_bytes(b"".join(line for line in read_lines(source / "RC_2015-03.zst") if in_third(line)))
    rules = RedditRules(**thresholds)
    files = {"RC_2015-03": part, "RS_2015-03.zst": source / "RS_2015-03.zst"}
    dialogues, report = read_dialogues(files, rules)
    assert_explained(report, dialogues)
    assert_keep_the_rules(dialogues, rules)
    assert dialogues or not thresholds


def in_third(line: bytes) -> bool:
    """Whole threads, chosen by their name."""
    return sum(json.loads(line)["link_id"].encode()) % 3 == 0
