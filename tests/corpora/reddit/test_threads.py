"""Leaves, paths, months and what dialogues share: what the DialoGPT extractor got right, and what it got wrong."""

import pytest

SOUR = "This is awful, I hate it and I am so angry. Are you not?"
TRUNK = ["c0", "c1", "c2", "c3"]


def test_siblings_are_dialogues_of_their_own_and_share_their_beginning(months, happy):
    months.thread()
    months.chain(happy[:4])
    months.comment("b", "c3", happy[4])
    months.comment("a", "c3", happy[4])
    read = months.read()
    assert read.paths == {"t/a": [*TRUNK, "a"], "t/b": [*TRUNK, "b"]}
    assert [row["dialogue_id"] for row in read.dialogues] == ["t/a", "t/b"]


def test_removing_one_sibling_keeps_the_other(months, happy):
    months.thread()
    months.chain(happy[:4])
    months.comment("a", "c3", SOUR)
    months.comment("b", "c3", happy[4])
    assert list(months.read().paths) == ["t/b"]


def test_a_comment_whose_only_reply_fails_a_later_rule_is_still_no_leaf(months, happy):
    months.thread()
    months.chain([*happy, SOUR])
    read = months.read()
    assert read.dialogues == []
    assert read.removed == {"submission": 1, "not_a_leaf": 5, "sentiment": 1}


@pytest.mark.parametrize("reply", ["[deleted]", "> quoted it", "short"])
def test_a_comment_whose_only_reply_does_not_count_is_a_leaf(months, happy, reply):
    months.thread()
    months.chain([*happy, reply])
    assert list(months.read().paths) == ["t/c4"]


def test_a_comment_whose_only_reply_is_in_another_thread_is_a_leaf(months, happy):
    months.thread()
    months.thread("other")
    months.chain(happy)
    months.comment("x", "c4", thread="other")
    read = months.read()
    assert list(read.paths) == ["t/c4"]
    assert read.removed["few_turns"] == 1


def test_a_path_does_not_climb_into_another_thread(months, happy):
    months.thread()
    months.thread("other")
    months.chain(happy, prefix="x", thread="other")
    months.chain(happy)
    months.comment("stray", "x4", happy[4])
    read = months.read()
    assert read.paths == {"other/x4": ["x0", "x1", "x2", "x3", "x4"], "t/c4": [*TRUNK, "c4"]}
    assert read.removed["few_turns"] == 1


def test_the_same_id_in_two_threads_is_two_comments(months, happy):
    months.thread()
    months.thread("other")
    months.chain(happy)
    months.chain(happy, thread="other")
    assert list(months.read().paths) == ["other/c4", "t/c4"]


def test_ids_with_line_ends_in_them_are_different(months, happy):
    """JSON strings may hold them, so no character can separate a thread's name from a comment's."""
    months.thread()
    months.thread("t\nx")
    months.chain(happy, prefix="x\nc")
    months.chain(happy, prefix="c", thread="t\nx")
    assert list(months.read().paths) == ["t\nx/c4", "t/x\nc4"]


def test_a_circle_of_parents_ends(months, happy):
    months.thread()
    months.comment("a", "b", happy[0])
    months.comment("b", "a", happy[1])
    months.comment("leaf", "a", happy[4])
    assert months.read(min_turns=2).paths == {"t/leaf": ["b", "a", "leaf"]}


def test_a_comment_that_answers_itself_ends_no_path(months, happy):
    months.thread()
    months.comment("a", "a", happy[0])
    months.comment("b", "a", happy[4])
    read = months.read(min_turns=2)
    assert read.paths == {"t/b": ["a", "b"]}
    assert read.removed == {"submission": 1, "not_a_leaf": 1}


@pytest.mark.parametrize("parent_id", ["t3_t", "c3", "t1_", "t1_C3", "t1_c3 ", "T1_c3", "t4_c3", "t1_t1_c3"])
def test_only_a_comments_full_name_is_a_parent(months, happy, parent_id):
    months.thread()
    months.chain(happy[:4])
    months.comment("leaf", None, happy[4], parent_id=parent_id)
    assert months.outcome() == (0, {"few_turns": 2})


@pytest.mark.parametrize("link_id", ["t3_t", "t"])
def test_a_thread_may_be_named_with_or_without_its_kind(months, happy, link_id):
    months.thread()
    months.chain(happy, link_id=link_id)
    read = months.read()
    assert list(read.paths) == ["t/c4"]
    assert read.dialogues[0]["link_id"] == link_id


def test_the_order_of_the_lines_does_not_matter(months, happy):
    months.thread()
    months.chain([*happy, *happy])
    months.comment("a", "c5", happy[4])
    forwards = months.read()
    months.lines["RC_2015-01"].reverse()
    assert months.read() == forwards
    assert len(forwards.dialogues) == 2


def test_a_long_thread_is_climbed_to_its_top(months):
    months.thread()
    months.chain(["I love the garden."] * 1500)
    read = months.read(max_turns=2000, min_mean_words=0, max_path_tokens=100_000, require_question=False)
    assert [row["n_turns"] for row in read.dialogues] == [1500]


# Months


def test_chains_across_month_boundaries_are_whole(months, happy):
    months.thread(month="2014-12")
    for position, month in enumerate(["2014-12", "2014-12", "2015-01", "2015-02", "2015-02"]):
        months.comment(f"c{position}", f"c{position - 1}" if position else None, happy[position], month)
    read = months.read()
    assert read.paths == {"t/c4": [*TRUNK, "c4"]}
    assert read.dialogues[0]["month"] == "2015-02"


def test_a_reply_dumped_in_an_earlier_month_than_its_parent_still_finds_it(months, happy):
    months.thread(month="2015-02")
    for position, month in enumerate(["2015-02", "2015-01", "2015-02", "2015-01", "2015-02"]):
        months.comment(f"c{position}", f"c{position - 1}" if position else None, happy[position], month)
    assert months.read().paths == {"t/c4": [*TRUNK, "c4"]}


def test_a_path_counts_in_the_month_of_its_leaf(months, happy):
    months.thread()
    months.chain(happy[:4])
    months.comment("a", "c3", SOUR, month="2015-02")
    months.comment("b", "c3", happy[4], month="2015-03")
    taken = {(row["month"], row["rule"]) for row in months.read().filter_report if row["n_removed"]}
    assert taken == {("2015-01", "submission"), ("2015-01", "not_a_leaf"), ("2015-02", "sentiment")}


def test_the_recipe_reads_each_month_by_itself(months, happy):
    """Its extractor reads month by month: a chain ends where its month does, and so does a submission."""
    months.thread()
    months.thread(month="2015-02")
    months.chain(happy)
    months.comment("d", "c4", happy[4], month="2015-02")
    months.comment("e", "c4", happy[4], month="2015-03")
    assert months.read().paths == {"t/d": [*TRUNK, "c4", "d"], "t/e": [*TRUNK, "c4", "e"]}
    alone = months.read(same_month=True)
    assert alone.paths == {"t/c4": [*TRUNK, "c4"]}
    assert alone.removed == {"submission": 2, "not_a_leaf": 4, "few_turns": 1, "no_submission": 1}
    assert alone.rejected_lines == []


def test_the_recipe_takes_a_comment_of_two_months_twice(months, happy):
    for month in ("2015-02", "2015-01"):
        months.thread(month=month)
        months.chain(happy, month=month)
    together = months.read()
    assert together.removed == {"submission": 1, "duplicate_thread": 1, "duplicate_comment": 5, "not_a_leaf": 4}
    alone = months.read(same_month=True)
    assert [(row["dialogue_id"], row["month"]) for row in alone.dialogues] == [("t/c4", "2015-01"), ("t/c4", "2015-02")]


# Duplicates


def test_of_comments_with_the_same_id_the_first_counts(months, happy):
    months.thread()
    months.chain(happy)
    months.comment("c4", "c3", SOUR, month="2015-02")
    months.comment("c4", "c3", SOUR)
    read = months.read()
    assert read.dialogues[0]["turns"][4]["text"] == happy[4]
    assert read.removed == {"submission": 1, "duplicate_comment": 2, "not_a_leaf": 4}
    places = [("2015-01", "RC_2015-01", 6), ("2015-02", "RC_2015-02", 1)]
    assert [tuple(row.values()) for row in read.rejected_lines] == [
        (*place, "duplicate_comment", "t1_c4") for place in places
    ]


def test_a_removed_comment_is_no_first_of_its_id(months, happy):
    months.thread()
    months.comment("c4", "c3", "[deleted]")
    months.chain(happy)
    months.comment("c4", "c3", "[deleted]", month="2015-02")
    read = months.read()
    assert list(read.paths) == ["t/c4"]
    assert read.removed == {"submission": 1, "deleted": 2, "not_a_leaf": 4}


def test_a_second_comment_is_a_duplicate_also_where_its_thread_does_not_count(months):
    months.comment("a")
    months.comment("a")
    assert months.outcome() == (0, {"duplicate_comment": 1, "no_submission": 1})


@pytest.mark.parametrize(("first", "second", "n"), [(9, 0, 1), (0, 9, 0)])
def test_of_threads_with_the_same_id_the_first_counts(months, happy, first, second, n):
    months.thread(num_comments=second, month="2015-02")
    months.thread(num_comments=first, over_18=False)
    months.thread(num_comments=second, over_18=True)
    months.chain(happy)
    read = months.read(drop_over_18=True)
    assert len(read.dialogues) == n
    assert read.removed["duplicate_thread"] == 2
    assert [tuple(row.values()) for row in read.rejected_lines] == [
        ("2015-01", "RS_2015-01", 2, "duplicate_thread", "t3_t"),
        ("2015-02", "RS_2015-02", 1, "duplicate_thread", "t3_t"),
    ]


# Dialogues that share no utterance


def test_disjoint_dialogues_are_chosen_longest_first_and_then_by_name(months, happy):
    months.thread()
    months.chain(happy)
    months.comment("b", "c3", happy[4])
    months.comment("a", "c3", happy[4])
    months.comment("long", "b", happy[4])
    months.chain(happy, prefix="other", thread="t")
    assert list(months.read().paths) == ["t/a", "t/c4", "t/long", "t/other4"]
    read = months.read(disjoint=True)
    assert read.paths == {
        "t/long": [*TRUNK, "b", "long"],
        "t/other4": [f"other{position}" for position in range(5)],
    }
    assert read.removed["shares_utterance"] == 2
    months.lines["RC_2015-01"] = [line for line in months.lines["RC_2015-01"] if '"long"' not in line]
    assert list(months.read(disjoint=True).paths) == ["t/a", "t/other4"]


def test_disjoint_dialogues_make_room_only_for_dialogues(months, happy):
    months.thread()
    months.chain([*happy[:4], SOUR])
    months.comment("a", "c3", SOUR)
    months.comment("b", "c3", happy[4])
    assert list(months.read(disjoint=True).paths) == ["t/b"]


def test_with_disjoint_dialogues_a_cut_path_leaves_its_older_comments_to_others(months, happy):
    months.thread()
    months.chain([*happy, *happy])
    months.comment("a", "c3", happy[4])
    read = months.read(disjoint=True, max_turns=5)
    assert read.paths == {"t/c9": ["c5", "c6", "c7", "c8", "c9"], "t/a": [*TRUNK, "a"]}
    assert "shares_utterance" not in read.removed
