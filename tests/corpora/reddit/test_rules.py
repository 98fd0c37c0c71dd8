"""One test a rule, on hand-made threads, on both sides of its threshold."""

import pytest

from sage_dialog.core.sentiment import compound
from sage_dialog.corpora.reddit.text import normalise, tweet_tokens

WORD = "lovely "


def test_a_thread_that_keeps_every_rule_is_one_dialogue(months, happy):
    months.thread()
    months.chain(happy, author="ann")
    read = months.read()
    (dialogue,) = read.dialogues
    assert dialogue["dialogue_id"] == "t/c4"
    assert [turn["comment_id"] for turn in dialogue["turns"]] == ["c0", "c1", "c2", "c3", "c4"]
    assert [turn["text"] for turn in dialogue["turns"]] == happy
    assert {turn["author"] for turn in dialogue["turns"]} == {"8d3adf6abf23f3a5"}
    assert (dialogue["subreddit"], dialogue["link_id"], dialogue["month"]) == ("aww", "t3_t", "2015-01")
    assert dialogue["n_turns"] == 5
    assert dialogue["mean_words"] == sum(len(text.split()) for text in happy) / 5
    assert dialogue["min_sentiment"] == min(map(compound(), happy))
    assert read.removed == {"submission": 1, "not_a_leaf": 4}


@pytest.mark.parametrize(
    ("blocked", "expected"),
    [((), (1, {})), (("AWW", "cats"), (0, {"blocked_subreddit": 5})), (("aw",), (1, {}))],
)
def test_a_blocked_subreddit_is_left_out_in_any_case(months, happy, blocked, expected):
    months.thread()
    months.chain(happy)
    assert months.outcome(blocked_subreddits=blocked) == expected


def test_a_blocked_subreddit_is_known_by_its_folded_case(months, happy):
    months.thread()
    months.chain(happy, subreddit="STRASSE")
    assert months.outcome(blocked_subreddits=("stra\u00dfe",)) == (0, {"blocked_subreddit": 5})


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
    assert months.outcome(**rules) == (dialogues, removed)


@pytest.mark.parametrize(("min_submission_comments", "removed"), [(1, {"no_submission": 5}), (0, {})])
def test_a_thread_needs_its_submission_unless_none_is_required(months, happy, min_submission_comments, removed):
    months.chain(happy)
    assert months.outcome(min_submission_comments=min_submission_comments) == (0 if removed else 1, removed)


@pytest.mark.parametrize(("drop_over_18", "marked", "n"), [(True, True, 0), (False, True, 1), (True, False, 1)])
@pytest.mark.parametrize("min_submission_comments", [0, 2])
def test_a_thread_over_18_is_removed_by_option(months, happy, drop_over_18, marked, n, min_submission_comments):
    months.thread(over_18=marked)
    months.chain(happy)
    read = months.outcome(drop_over_18=drop_over_18, min_submission_comments=min_submission_comments)
    assert read == (n, {} if n else {"over_18": 5})


@pytest.mark.parametrize("marked", [None, "true", 1, [True]])
def test_only_true_means_over_18(months, happy, marked):
    months.thread(over_18=marked)
    months.chain(happy)
    assert months.outcome(drop_over_18=True) == (1, {})


def test_a_thread_without_its_submission_is_not_over_18(months, happy):
    months.chain(happy)
    assert months.outcome(drop_over_18=True, min_submission_comments=0) == (1, {})


def test_rules_on_a_comment_come_before_rules_on_its_thread(months):
    """So the extracted part of a month does not depend on other months."""
    months.chain(["[deleted]", "> quoted here", "short"], thread="nowhere")
    months.comment("b", body="[deleted]", thread="nowhere", subreddit="cats")
    assert months.outcome(blocked_subreddits=("cats",)) == (
        0,
        {"blocked_subreddit": 1, "deleted": 1, "quote": 1, "short_body": 1},
    )


@pytest.mark.parametrize(
    ("body", "rule"),
    [
        ("[deleted]", "deleted"),
        ("[removed]", "deleted"),
        (" [deleted]\n", "deleted"),
        ("> as you said\n\nI love it", "quote"),
        ("&gt; as you said\n\nI love it", "quote"),
        ("[removed]\u2003\x1c\x85", "deleted"),
        ("lovely", "short_body"),
        ("\u2003lovely\x1f", "short_body"),
        ("", "short_body"),
    ],
)
def test_a_comment_that_does_not_count_breaks_the_chain_above_it(months, happy, body, rule):
    months.thread()
    months.chain([*happy, body, *happy])
    read = months.read(max_turns=20)
    assert read.paths == {"t/c10": ["c6", "c7", "c8", "c9", "c10"], "t/c4": ["c0", "c1", "c2", "c3", "c4"]}
    assert read.removed == {"submission": 1, rule: 1, "not_a_leaf": 8}


@pytest.mark.parametrize("body", ["[deleted] by me", "(deleted)", "[Deleted] [deleted]", "removed", "&lt; & gt;"])
def test_a_comment_that_looks_deleted_or_quoted_but_is_not_counts(months, body):
    months.thread()
    months.comment("c", body=f"{body} yes")
    assert months.outcome() == (0, {"few_turns": 1})


def test_a_quote_is_within_one_body(months):
    """Not in the end of one and the beginning of the next."""
    months.thread()
    for position, body in enumerate(["love you &", "gt; love you", "love you &g", "t; love you"]):
        months.comment(f"c{position}", body=body)
    assert months.outcome() == (0, {"few_turns": 4})


@pytest.mark.parametrize("space", ["\x1c", "\x85", "\xa0", "\u2003", "\u2028", "\u3000", "\x0b", "\n"])
def test_two_words_are_two_whatever_space_is_between_them(months, space):
    months.thread()
    months.comment("c", body=f"{space}Lovely{space}garden{space}")
    assert months.outcome() == (0, {"few_turns": 1})
    assert months.outcome(min_body_words=3) == (0, {"short_body": 1})


@pytest.mark.parametrize("no_space", ["\u200b", "\ufeff", "\u180e", "\x00", "\u2060"])
def test_other_characters_than_spaces_separate_no_words(months, no_space):
    months.thread()
    months.comment("c", body=f"Lovely{no_space}garden")
    assert months.outcome() == (0, {"short_body": 1})


@pytest.mark.parametrize(("min_body_words", "whole"), [(2, True), (3, False)])
def test_a_short_comment_does_not_count(months, happy, min_body_words, whole):
    months.thread()
    months.chain([*happy[:2], "Lovely thanks", *happy])
    (dialogue,) = months.read(min_body_words=min_body_words, min_mean_words=0).dialogues
    assert (dialogue["n_turns"] == 8) == whole


@pytest.mark.parametrize(("score", "expected"), [(1, (1, {})), (0, (0, {"leaf_score": 1}))])
def test_only_the_score_of_the_leaf_counts(months, happy, score, expected):
    months.thread()
    months.chain(happy[:4], score=-7)
    months.comment("leaf", "c3", happy[4], score=score)
    assert months.outcome() == expected


def test_a_hidden_score_counts_as_zero(months, happy):
    months.thread()
    months.chain(happy, score=None)
    assert months.outcome() == (0, {"leaf_score": 1})
    assert months.outcome(min_leaf_score=0) == (1, {})


@pytest.mark.parametrize(("words", "n_turns"), [(100, 6), (101, 5)])
def test_a_path_stops_below_a_long_comment(months, happy, words, n_turns):
    months.thread()
    months.chain([WORD * words, *happy])
    (dialogue,) = months.read().dialogues
    assert dialogue["n_turns"] == n_turns


@pytest.mark.parametrize(("words", "expected"), [(100, (1, {})), (101, (0, {"long_leaf": 1}))])
def test_a_long_leaf_ends_its_path(months, happy, words, expected):
    months.thread()
    leaf = "Lovely garden, " * (words // 2) + "lovely" * (words % 2)
    months.chain([*happy, leaf])
    assert months.outcome(min_common_words=0) == expected


@pytest.mark.parametrize(("turn_count", "expected"), [(5, (1, {})), (4, (0, {"few_turns": 1}))])
def test_a_dialogue_has_more_than_four_turns(months, happy, turn_count, expected):
    months.thread()
    months.chain(happy[-turn_count:])
    assert months.outcome() == expected


def test_a_path_climbs_from_its_leaf_and_drops_what_is_older(months, happy):
    months.thread()
    months.chain([*happy, *happy, *happy])
    assert months.read().paths == {"t/c14": [f"c{position}" for position in range(5, 15)]}
    assert months.read(max_turns=7).paths == {"t/c14": [f"c{position}" for position in range(8, 15)]}


@pytest.mark.parametrize("link", ["http://a.com", "HTTPS://a.com", "[this](http://a.com)", "see:http"])
def test_a_link_drops_the_path(months, happy, link):
    months.thread()
    months.chain([f"{happy[0]} {link}", *happy[1:]])
    assert months.outcome() == (0, {"link": 1})


@pytest.mark.parametrize("word", ["#http", "#see-http://a.com", "htt p", "ht\u200btp"])
def test_a_hashtag_is_no_link(months, happy, word):
    months.thread()
    months.chain([f"{happy[0]} {word}", *happy[1:]])
    assert months.outcome() == (1, {})


@pytest.mark.parametrize(
    ("authors", "expected"),
    [
        ("ann bob ann bob ann", (1, {})),
        ("ann bob ann bob cid", (0, {"more_than_two_authors": 1})),
        ("ann bob cid bob ann", (0, {"more_than_two_authors": 1})),
        ("ann ann ann ann ann", (0, {"more_than_two_authors": 1})),
        ("ann bob ann ann bob", (0, {"more_than_two_authors": 1})),
        ("ann bob Ann bob ann", (0, {"more_than_two_authors": 1})),
        *(
            (f"ann {nobody} ann {nobody} ann", (0, {"more_than_two_authors": 1}))
            for nobody in ("[deleted]", "[removed]", "[unknown]")
        ),
    ],
)
def test_two_people_take_turns_by_option(months, happy, authors, expected):
    months.thread()
    for position, author in enumerate(authors.split()):
        parent = f"c{position - 1}" if position else None
        months.comment(f"c{position}", parent, happy[position], author=author)
    assert months.outcome(two_authors=True) == expected
    assert months.outcome(two_authors=False) == (1, {})


@pytest.mark.parametrize("author", [None, "", 7, False, ["ann"], {"name": "ann"}, "[deleted]"])
def test_an_author_without_a_name_is_unknown_and_allowed(months, happy, author):
    months.thread()
    months.comment("c0", None, happy[0], author="bob")
    months.comment("c1", "c0", happy[1], author=author)
    months.comment("c2", "c1", happy[4])
    read = months.read(min_turns=3)
    (dialogue,) = read.dialogues
    assert [turn["author"] for turn in dialogue["turns"]][1:] == [None, None]
    assert months.outcome(min_turns=2, max_turns=2, two_authors=True) == (0, {"more_than_two_authors": 1})


@pytest.mark.parametrize("bracket", ["[", "]", "(", ")", "&#40;", "&lpar;", "\\]", ":)"])
@pytest.mark.parametrize("tokenised", [False, True])
def test_a_bracket_drops_the_path(months, happy, bracket, tokenised):
    months.thread()
    months.chain([*happy[:2], f"{happy[2]} {bracket}", *happy[3:]])
    assert months.outcome(tokenised=tokenised) == (0, {"bracket": 1})


@pytest.mark.parametrize("word", ["#(yes)", "{so}", "&#35;(yes)", "\uff08so\uff09"])
def test_a_bracket_that_normalisation_removes_does_not_count(months, happy, word):
    months.thread()
    months.chain([f"{happy[0]} {word}", *happy[1:]])
    assert months.outcome() == (1, {})


@pytest.mark.parametrize(("shout", "expected"), [("WOWW", (1, {})), ("WOWWW", (0, {"capitals": 1}))])
def test_five_capitals_in_a_row_drop_the_path(months, happy, shout, expected):
    months.thread()
    months.chain([f"{shout} {happy[0]}", *happy[1:]])
    assert months.outcome() == expected
    assert months.outcome(max_capitals_run=5) == (1, {})


def test_tokens_are_kept_by_option(months, happy):
    months.thread()
    months.chain([f"{happy[0]} Isn't it?", *happy[1:]])
    (dialogue,) = months.read(tokenised=True).dialogues
    texts = [turn["text"] for turn in dialogue["turns"]]
    assert texts[0] == "I really love this happy little garden and I am so glad that you enjoy it too . Isn't it ?"
    assert dialogue["mean_words"] == sum(len(text.split()) for text in texts) / 5 > 18
    assert dialogue["min_sentiment"] == min(map(compound(), texts))


@pytest.mark.parametrize(("words", "expected"), [(16, (1, {})), (15, (0, {"mean_words": 1}))])
def test_utterances_have_more_than_fifteen_words_on_average(months, words, expected):
    months.thread()
    lengths = (2, 2 * words - 2, words, words, words)
    months.chain(["lovely " * (length - 1) + "day?" for length in lengths], prefix="m")
    assert months.outcome(max_token_run=50, min_common_words=0) == expected


def test_words_are_counted_after_normalising(months, happy):
    months.thread()
    months.chain([f"{text} #one #two" for text in ["lovely " * 14 + "day?"] * 5])
    assert months.outcome(max_token_run=50) == (0, {"mean_words": 1})


@pytest.mark.parametrize(
    ("ending", "expected"),
    [
        ("too?", (1, {})),
        ("too? ", (1, {})),
        ("too? #asking", (1, {})),
        ("too?*", (1, {})),
        ("too&quest;", (1, {})),
        ("too&#63;", (1, {})),
        ("too? Yes.", (0, {"no_question": 1})),
        ("too?'", (0, {"no_question": 1})),
        ("too \uff1f", (0, {"no_question": 1})),
        ("too #?", (0, {"no_question": 1})),
    ],
)
def test_one_utterance_ends_with_a_question_mark(months, happy, ending, expected):
    months.thread()
    months.chain([happy[0], happy[4].replace("too?", ending), *happy[:3]])
    assert months.outcome() == expected
    assert months.outcome(require_question=False) == (1, {})


@pytest.mark.parametrize("body", ["Спасибо большое", "#so #so", "\\ \\", "&nbsp; *", "\u200b \u200b"])
def test_an_utterance_of_other_signs_only_drops_the_path(months, happy, body):
    months.thread()
    months.chain([*happy[:2], body, *happy[2:]])
    assert months.outcome() == (0, {"empty_utterance": 1})


@pytest.mark.parametrize(
    ("blocked", "found"),
    [
        ("garden", True),
        ("GARDEN", True),
        ("happy little", True),
        ("too", True),
        ("i", True),
        ("gard", False),
        ("arden", False),
        ("happy garden", False),
        ("garden and i am so glad that", True),
    ],
)
def test_a_blocked_word_drops_the_path(months, happy, blocked, found):
    months.thread()
    months.chain(happy)
    expected = (0, {"blocked_word": 1}) if found else (1, {})
    assert months.outcome(blocked_words=("never", blocked)) == expected


def test_a_blocked_word_that_no_text_has_is_a_warning(months, happy, caplog):
    months.thread()
    months.chain(happy)
    months.outcome(blocked_words=("so", "don't", "na\u00efve", "a$$"))
    assert "No text has these blocked_words: 'na\u00efve', 'a$$'; write" in caplog.text


@pytest.mark.parametrize("tokenised", [False, True])
def test_a_blocked_word_is_searched_in_the_text_that_is_kept(months, happy, tokenised):
    months.thread()
    months.chain(["A mother-in-law w/o me, b/c I love my happy family and my great friends.", *happy[1:]])
    for blocked in ("mother in law", "without", "because"):
        assert months.outcome(blocked_words=(blocked,), tokenised=tokenised) == (0, {"blocked_word": 1})
    for blocked in ("mother-in-law", "w/o", "out"):
        assert months.outcome(blocked_words=(blocked,), tokenised=tokenised) == (1, {})
    # Without spaces before marks "me, because" is one phrase, with them "me , because" is.
    assert months.outcome(blocked_words=("me, because",), tokenised=tokenised)[0] == int(tokenised)
    assert months.outcome(blocked_words=("me , because",), tokenised=tokenised)[0] == int(not tokenised)


@pytest.mark.parametrize(
    ("leaf", "words"),
    [
        ("Wunderbar gemacht, herrlich great love happy happy joy!", 0),
        ("Wunderbar gemacht, the. herrlich great love happy joy!", 1),
        ("The great love, happy joy, to: the wunderbar herrlich 'of' joys.", 4),
        ("Theo, thence, tooth, great love happy happy joy!", 0),
        ("You're happy, it's great, love!", 0),
    ],
)
@pytest.mark.parametrize("min_common_words", [0, 1, 2, 4, 5])
def test_the_leaf_holds_common_english_words(months, happy, leaf, words, min_common_words):
    months.thread()
    months.chain([*happy, leaf])
    expected = (0, {"language": 1}) if words < min_common_words else (1, {})
    assert months.outcome(min_common_words=min_common_words, max_token_run=9, min_mean_words=5) == expected


def test_other_utterances_than_the_leaf_may_hold_no_common_word(months, happy):
    months.thread()
    months.chain(["Wunderbar gemacht, herrlich great love happy happy joy!", *happy])
    assert months.outcome(min_common_words=3, min_mean_words=5) == (1, {})


@pytest.mark.parametrize(("spare", "expected"), [(0, (1, {})), (-1, (0, {"path_tokens": 1}))])
def test_a_path_has_at_most_max_path_tokens(months, happy, spare, expected):
    months.thread()
    months.chain(happy)
    tokens = sum(len(tweet_tokens(text)) for text in happy)
    assert months.outcome(max_path_tokens=tokens + spare) == expected


@pytest.mark.parametrize(("letters", "expected"), [(30, (1, {})), (31, (0, {"long_token": 1}))])
def test_a_token_of_the_leaf_has_thirty_letters_at_most(months, happy, letters, expected):
    months.thread()
    months.chain([*happy, f"{happy[0]} {'a' * letters}"])
    assert months.outcome() == expected


def test_a_long_token_above_the_leaf_is_allowed(months, happy):
    months.thread()
    months.chain([f"{happy[0]} {'a' * 31}", *happy[1:]])
    assert months.outcome() == (1, {})


@pytest.mark.parametrize(
    ("run", "longest"),
    [
        ("very", 1),
        ("very Very very", 1),
        ("very, very, very", 1),
        ("very very", 2),
        ("very very.", 2),
        ("so, very very, very", 2),
        ("... ! !", 2),
        ("very very very", 3),
        ("D: D: D:", 3),
        ("very very very.", 3),
        ("? ? ?", 3),
        (". . .", 3),
        ("very very very very", 4),
        ("!!!!!!!!", 3),  # TweetTokenizer shortens it
    ],
)
@pytest.mark.parametrize("max_token_run", [1, 2, 3])
def test_the_leaf_does_not_repeat_a_token_three_times_running(months, happy, run, longest, max_token_run):
    months.thread()
    months.chain([*happy, f"I love it {run} much. {happy[0]}"])
    expected = (0, {"repetition": 1}) if longest > max_token_run else (1, {})
    assert months.outcome(max_token_run=max_token_run) == expected


def test_a_repetition_above_the_leaf_is_allowed(months, happy):
    months.thread()
    months.chain([f"very very very {happy[0]}", *happy[1:]])
    assert months.outcome() == (1, {})


@pytest.mark.parametrize("sour", range(5))
def test_every_utterance_is_happier_than_the_threshold(months, happy, sour):
    months.thread()
    months.chain([*happy[:sour], "The bus to the town leaves in the morning and comes back at night?", *happy[sour:]])
    assert months.outcome() == (0, {"sentiment": 1})


@pytest.mark.parametrize(("below", "expected"), [(0.0001, (1, {})), (0.0, (0, {"sentiment": 1}))])
def test_the_threshold_itself_is_not_enough(months, happy, below, expected):
    months.thread()
    months.chain(happy)
    lowest = min(map(compound(), happy))
    assert months.outcome(min_sentiment=lowest - below) == expected


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ("line\r\nline\tend", "line line end"),
        ("don\u2019t &amp; won't", "don't won't"),
        ("it\\'s #nice #really", "it's"),
        ("nice #really", "nice"),
        ("me w/ you w/o him b/c new/old j/k", "me with you without him because new old just kidding"),
        ("w/out and/w/o and w/me, a_b/c b/cd 2b/c", "with out and w o and with me, a b c b cd 2b c"),
        ("b\\/c \\#tag &#35;tag w/o\u00e9", "because with o"),
        ("{u_topic: [x]} *so* good; <b>", "u topic: [x] so good b"),
        ("caf\u00e9 \U0001f600 ok\u2028then", "caf ok then"),
        ("it costs 5$ - 10%", "it costs 5 10"),
    ],
)
def test_text_is_one_line_in_the_recipes_character_set(body, text):
    assert normalise(body) == text
