"""Leaves and paths: what the DialoGPT extractor got right, and what it got wrong."""

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from sage_dialog import schemas
from sage_dialog.corpora.reddit.dumps import Comment
from sage_dialog.corpora.reddit.threads import climb, leaves
from sage_dialog.parameters import RedditRules


def ids(dialogues):
    return {dialogue["dialogue_id"]: [turn["comment_id"] for turn in dialogue["turns"]] for dialogue in dialogues}


def test_siblings_are_dialogues_of_their_own_and_share_their_beginning(months, happy):
    months.thread()
    months.chain(happy[:4])
    months.comment("b", "c3", happy[4])
    months.comment("a", "c3", happy[4])
    dialogues, _ = months.read()
    trunk = ["c0", "c1", "c2", "c3"]
    assert ids(dialogues) == {"a": [*trunk, "a"], "b": [*trunk, "b"]}
    assert [dialogue["dialogue_id"] for dialogue in dialogues] == ["a", "b"]


def test_one_sibling_that_a_rule_takes_does_not_take_the_other(months, happy):
    months.thread()
    months.chain(happy[:4])
    months.comment("a", "c3", "This is awful, I hate it and I am so angry. Are you not?")
    months.comment("b", "c3", happy[4])
    assert list(ids(months.read()[0])) == ["b"]


def test_a_comment_whose_only_reply_fails_a_later_rule_is_still_no_leaf(months, happy):
    months.thread()
    months.chain([*happy, "This is awful, I hate it and I am so angry."])
    dialogues, removed = months.read()
    assert dialogues == []
    assert removed == {"submission": 1, "not_a_leaf": 5, "sentiment": 1}


def test_a_comment_whose_only_reply_does_not_count_is_a_leaf(months, happy):
    months.thread()
    months.chain([*happy, "[deleted]"])
    assert list(ids(months.read()[0])) == ["c4"]


def test_chains_across_month_boundaries_are_whole(months, happy):
    months.thread(month="2014-12")
    for position, month in enumerate(["2014-12", "2014-12", "2015-01", "2015-02", "2015-02"]):
        months.comment(f"c{position}", f"c{position - 1}" if position else None, happy[position], month)
    dialogues, _ = months.read()
    assert ids(dialogues) == {"c4": ["c0", "c1", "c2", "c3", "c4"]}
    assert dialogues[0]["month"] == "2015-02"


def test_a_reply_dumped_in_an_earlier_month_than_its_parent_still_finds_it(months, happy):
    months.thread(month="2015-02")
    for position, month in enumerate(["2015-02", "2015-01", "2015-02", "2015-01", "2015-02"]):
        months.comment(f"c{position}", f"c{position - 1}" if position else None, happy[position], month)
    assert ids(months.read()[0]) == {"c4": ["c0", "c1", "c2", "c3", "c4"]}


def test_a_path_does_not_climb_into_another_thread(months, happy):
    months.thread("t")
    months.thread("other")
    months.chain(happy, prefix="x", thread="other")
    months.chain(happy, prefix="c")
    months.comment("stray", "x4", happy[4], thread="t")
    dialogues, removed = months.read()
    assert list(ids(dialogues)) == ["c4"]
    assert removed["few_turns"] == 1


def test_a_circle_of_parents_ends(months, happy):
    months.thread()
    months.comment("a", "b", happy[0])
    months.comment("b", "a", happy[1])
    months.comment("leaf", "a", happy[4])
    dialogues, _ = months.read(min_turns=2, min_mean_words=0)
    assert ids(dialogues) == {"leaf": ["b", "a", "leaf"]}


def test_the_order_of_the_lines_does_not_matter(months, happy):
    months.thread()
    months.chain([*happy, *happy])
    months.comment("a", "c5", happy[4])
    forwards = months.read()
    months.lines["RC_2015-01"].reverse()
    assert months.read() == forwards
    assert len(forwards[0]) == 2


def test_the_rows_fit_the_table(months, happy):
    months.thread()
    months.chain(happy)
    table = pa.Table.from_pylist(months.read()[0], schema=schemas.DIALOGUES)
    table.validate(full=True)
    assert table.num_rows == 1


@st.composite
def forests(draw):
    """Comments whose parents stand before them, stand nowhere, or are the submission."""
    size = draw(st.integers(0, 25))
    comments = {}
    for number in range(size):
        parents = [f"t1_{before}" for before in range(number)] + ["t1_missing", "t3_t"]
        words = draw(st.integers(1, 4))
        parent = draw(st.sampled_from(parents))
        comments[str(number)] = Comment(str(number), parent, "t3_t", "aww", 1, "word " * words, "2015-01")
    return comments


@settings(deadline=None)
@given(forests(), st.integers(2, 6))
def test_paths_are_what_a_plain_reading_of_the_recipe_gives(comments, max_turns):
    rules = RedditRules(max_comment_words=3, max_turns=max_turns)

    def recipe(name, depth):
        comment = comments[name]
        if depth == 0 or len(comment.body.split()) > 3:
            return []
        parent = comment.parent_id[3:]
        return [*(recipe(parent, depth - 1) if parent in comments else []), name]

    ends = [leaf.id for leaf in leaves(comments)]
    parents = {comment.parent_id[3:] for comment in comments.values()}
    assert ends == [name for name in comments if name not in parents]
    for name in ends:
        if plain := recipe(name, max_turns):  # a long leaf has no path in the recipe, and a rule of its own here
            assert [comment.id for comment in climb(comments[name], comments, rules)] == plain


def test_a_chain_deeper_than_the_stack_is_climbed():
    comments = {"0": Comment("0", "t3_t", "t3_t", "aww", 1, "word word", "2015-01")}
    for number in range(1, 5000):
        name = str(number)
        comments[name] = Comment(name, f"t1_{number - 1}", "t3_t", "aww", 1, "word word", "2015-01")
    (leaf,) = leaves(comments)
    assert len(climb(leaf, comments, RedditRules(max_turns=5000))) == 5000
