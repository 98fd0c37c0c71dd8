"""One test a rule, on hand-made threads, on both sides of its threshold."""

import pytest

from sage_dialog.corpora.reddit.rules import has_link, normalised, tweet_tokens
from sage_dialog.sentiment import compound

WORD = "lovely "


def turns(dialogues):
    return [[turn["comment_id"] for turn in dialogue["turns"]] for dialogue in dialogues]


def test_a_thread_that_keeps_every_rule_is_one_dialogue(months, happy):
    months.thread()
    months.chain(happy)
    dialogues, removed = months.read()
    (dialogue,) = dialogues
    assert dialogue["dialogue_id"] == "c4"
    assert turns(dialogues) == [["c0", "c1", "c2", "c3", "c4"]]
    assert [turn["text"] for turn in dialogue["turns"]] == happy
    assert (dialogue["subreddit"], dialogue["link_id"], dialogue["month"]) == ("aww", "t3_t", "2015-01")
    assert dialogue["n_turns"] == 5
    assert dialogue["mean_words"] == sum(len(text.split()) for text in happy) / 5
    assert dialogue["min_sentiment"] == min(map(compound(), happy))
    assert removed == {"submission": 1, "not_a_leaf": 4}


@pytest.mark.parametrize(
    ("rules", "removed", "dialogues"),
    [
        ({"min_submission_comments": 9}, {}, 1),
        ({"min_submission_comments": 10}, {"quiet_thread": 5}, 0),
    ],
)
def test_a_thread_needs_comments(months, happy, rules, removed, dialogues):
    months.thread(num_comments=9)
    months.chain(happy)
    assert outcome(months, **rules) == (dialogues, removed)


@pytest.mark.parametrize(("min_submission_comments", "removed"), [(1, {"no_submission": 5}), (0, {})])
def test_a_thread_needs_its_submission_unless_none_is_asked_for(months, happy, min_submission_comments, removed):
    months.chain(happy)
    dialogues, by_rule = months.read(min_submission_comments=min_submission_comments)
    by_rule.pop("not_a_leaf", None)
    assert (len(dialogues), by_rule) == (0 if removed else 1, removed)


def outcome(months, **rules):
    """How many dialogues, and what the rules removed besides submissions and inner comments."""
    dialogues, removed = months.read(**rules)
    return len(dialogues), {rule: n for rule, n in removed.items() if rule not in ("submission", "not_a_leaf")}


@pytest.mark.parametrize(
    ("body", "rule"),
    [
        ("[deleted]", "deleted"),
        ("[removed]", "deleted"),
        (" [deleted]\n", "deleted"),
        ("> as you said\n\nI love it", "quote"),
        ("&gt; as you said\n\nI love it", "quote"),
        ("lovely", "short_body"),
        ("", "short_body"),
    ],
)
def test_a_comment_that_does_not_count_breaks_the_chain_above_it(months, happy, body, rule):
    months.thread()
    months.chain([*happy, body, *happy])
    dialogues, removed = months.read(max_turns=20)
    assert sorted(map(tuple, turns(dialogues))) == [
        ("c0", "c1", "c2", "c3", "c4"),
        ("c6", "c7", "c8", "c9", "c10"),
    ]
    assert removed == {"submission": 1, rule: 1, "not_a_leaf": 8}


@pytest.mark.parametrize(("min_body_words", "whole"), [(2, True), (3, False)])
def test_a_short_comment_does_not_count(months, happy, min_body_words, whole):
    months.thread()
    months.chain([*happy[:2], "Lovely thanks", *happy])
    (dialogue,) = months.read(min_body_words=min_body_words, min_mean_words=0)[0]
    assert (dialogue["n_turns"] == 8) == whole


@pytest.mark.parametrize(("score", "expected"), [(1, (1, {})), (0, (0, {"leaf_score": 1}))])
def test_only_the_leafs_score_is_asked(months, happy, score, expected):
    months.thread()
    months.chain(happy[:4], score=-7)
    months.comment("leaf", "c3", happy[4], score=score)
    assert outcome(months) == expected


def test_a_hidden_score_counts_as_zero(months, happy):
    months.thread()
    months.chain(happy, score=None)
    assert outcome(months) == (0, {"leaf_score": 1})
    assert outcome(months, min_leaf_score=0) == (1, {})


@pytest.mark.parametrize(("words", "n_turns"), [(100, 6), (101, 5)])
def test_a_path_stops_below_a_long_comment(months, happy, words, n_turns):
    months.thread()
    months.chain([WORD * words, *happy])
    (dialogue,) = months.read()[0]
    assert dialogue["n_turns"] == n_turns


@pytest.mark.parametrize(("words", "expected"), [(100, (1, {})), (101, (0, {"long_leaf": 1}))])
def test_a_long_leaf_ends_its_path(months, happy, words, expected):
    months.thread()
    leaf = "Lovely garden, " * (words // 2) + "lovely" * (words % 2)
    months.chain([*happy, leaf])
    assert outcome(months) == expected


@pytest.mark.parametrize(("turn_count", "expected"), [(5, (1, {})), (4, (0, {"few_turns": 1}))])
def test_a_dialogue_has_more_than_four_turns(months, happy, turn_count, expected):
    months.thread()
    months.chain(happy[-turn_count:])
    assert outcome(months) == expected


def test_a_path_climbs_from_its_leaf_and_drops_what_is_older(months, happy):
    months.thread()
    months.chain([*happy, *happy, *happy])
    assert turns(months.read()[0]) == [[f"c{position}" for position in range(5, 15)]]
    assert turns(months.read(max_turns=7)[0]) == [[f"c{position}" for position in range(8, 15)]]


@pytest.mark.parametrize("link", ["http://a.com", "HTTPS://a.com", "[this](http://a.com)", "see:http"])
def test_a_link_drops_the_path(months, happy, link):
    months.thread()
    months.chain([f"{happy[0]} {link}", *happy[1:]])
    assert outcome(months) == (0, {"link": 1})


def test_a_hashtag_is_no_link(months, happy):
    months.thread()
    months.chain([f"{happy[0]} #http", *happy[1:]])
    assert outcome(months) == (1, {})
    assert has_link("look at http://a.com")
    assert not has_link("#http://a.com")


@pytest.mark.parametrize("bracket", "[]()")
def test_a_bracket_drops_the_path(months, happy, bracket):
    months.thread()
    months.chain([*happy[:2], f"{happy[2]} {bracket}", *happy[3:]])
    assert outcome(months) == (0, {"bracket": 1})


@pytest.mark.parametrize(("shout", "expected"), [("WOWW", (1, {})), ("WOWWW", (0, {"capitals": 1}))])
def test_five_capitals_in_a_row_drop_the_path(months, happy, shout, expected):
    months.thread()
    months.chain([f"{shout} {happy[0]}", *happy[1:]])
    assert outcome(months) == expected
    assert outcome(months, max_capitals_run=5) == (1, {})


@pytest.mark.parametrize(("words", "expected"), [(16, (1, {})), (15, (0, {"mean_words": 1}))])
def test_utterances_have_more_than_fifteen_words_on_average(months, words, expected):
    months.thread()
    lengths = (2, 2 * words - 2, words, words, words)
    months.chain(["lovely " * (length - 1) + "day?" for length in lengths], prefix="m")
    assert outcome(months, max_token_run=50) == expected


def test_words_are_counted_after_normalising(months, happy):
    months.thread()
    months.chain([f"{text} #one #two" for text in ["lovely " * 14 + "day?"] * 5])
    assert outcome(months, max_token_run=50) == (0, {"mean_words": 1})


@pytest.mark.parametrize(
    ("ending", "expected"), [("too?", (1, {})), ("too? ", (1, {})), ("too? Yes.", (0, {"no_question": 1}))]
)
def test_one_utterance_ends_with_a_question_mark(months, happy, ending, expected):
    months.thread()
    months.chain([happy[0], happy[4].replace("too?", ending), *happy[:3]])
    assert outcome(months) == expected
    assert outcome(months, require_question=False) == (1, {})


def test_an_utterance_of_other_signs_only_drops_the_path(months, happy):
    months.thread()
    months.chain([*happy[:2], "Спасибо большое", *happy[2:]])
    assert outcome(months) == (0, {"empty_utterance": 1})


@pytest.mark.parametrize(("spare", "expected"), [(0, (1, {})), (-1, (0, {"path_tokens": 1}))])
def test_a_path_has_so_many_tokens_at_most(months, happy, spare, expected):
    months.thread()
    months.chain(happy)
    tokens = sum(len(tweet_tokens(text)) for text in happy)
    assert outcome(months, max_path_tokens=tokens + spare) == expected


@pytest.mark.parametrize(("letters", "expected"), [(30, (1, {})), (31, (0, {"long_token": 1}))])
def test_a_token_of_the_leaf_has_thirty_letters_at_most(months, happy, letters, expected):
    months.thread()
    months.chain([*happy, f"{happy[0]} {'a' * letters}"])
    assert outcome(months) == expected


def test_a_long_token_above_the_leaf_is_no_matter(months, happy):
    months.thread()
    months.chain([f"{happy[0]} {'a' * 31}", *happy[1:]])
    assert outcome(months) == (1, {})


@pytest.mark.parametrize(("run", "expected"), [("very very", (1, {})), ("very very very", (0, {"repetition": 1}))])
def test_the_leaf_does_not_repeat_a_token_three_times_running(months, happy, run, expected):
    months.thread()
    months.chain([*happy, f"I love it {run} much. {happy[0]}"])
    assert outcome(months) == expected


def test_a_repetition_above_the_leaf_is_no_matter(months, happy):
    months.thread()
    months.chain([f"very very very {happy[0]}", *happy[1:]])
    assert outcome(months) == (1, {})


@pytest.mark.parametrize("sour", range(5))
def test_every_utterance_is_happier_than_the_threshold(months, happy, sour):
    months.thread()
    months.chain([*happy[:sour], "The bus to the town leaves in the morning and comes back at night?", *happy[sour:]])
    assert outcome(months) == (0, {"sentiment": 1})


@pytest.mark.parametrize(("below", "expected"), [(0.0001, (1, {})), (0.0, (0, {"sentiment": 1}))])
def test_the_threshold_itself_is_not_enough(months, happy, below, expected):
    months.thread()
    months.chain(happy)
    lowest = min(map(compound(), happy))
    assert outcome(months, min_sentiment=lowest - below) == expected


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ("line\r\nline\tend", "line line end"),
        ("don\u2019t &amp; won't", "don't won't"),
        ("it\\'s #nice #really", "it's"),
        ("nice #really", "nice"),
        ("me w/ you w/o him b/c new/old j/k", "me with you without him because new old just kidding"),
        ("{u_topic: [x]} *so* good; <b>", "u topic: [x] so good b"),
        ("caf\u00e9 \U0001f600 ok\u2028then", "caf ok then"),
        ("it costs 5$ - 10%", "it costs 5 10"),
    ],
)
def test_text_is_one_line_in_the_recipes_character_set(body, text):
    assert normalised(body) == text
