"""Random choices depend on the run's seed, what they are for and the item, and on nothing else."""

import random

from hypothesis import given
from hypothesis import strategies as st

from sage_dialog.core.seeds import derived_seed, generator, sample_ids

PARTS = st.lists(st.one_of(st.text(st.characters(codec=None), max_size=4), st.integers(0, 30)), max_size=3)


def test_the_numbers_of_a_seed_never_change() -> None:
    """Equal seeds give equal draws on any machine and in any version."""
    item = (0, "sample", "search", "sage_1", "s 1", 3)
    assert derived_seed(*item) == 2424141368885810581
    assert generator(*item).random(2).tolist() == [0.9427228518808611, 0.8338980158803135]


@given(PARTS, PARTS)
def test_other_parts_give_another_seed(one: list[object], other: list[object]) -> None:
    same = [str(part) for part in one] == [str(part) for part in other]
    assert (derived_seed(0, "purpose", *one) == derived_seed(0, "purpose", *other)) is same
    assert derived_seed(0, "purpose", *one) != derived_seed(1, "purpose", *one)
    assert derived_seed(0, "purpose", *one) != derived_seed(0, "another", *one)


def test_ids_are_drawn_one_by_one_and_keep_their_order() -> None:
    ids = [f"id{number}" for number in range(40)]
    drawn = sample_ids(ids, 10, 0, "test")
    assert len(drawn) == 10 and drawn == [name for name in ids if name in drawn]
    shuffled = random.Random(1).sample(ids, len(ids))
    assert sorted(sample_ids(shuffled, 10, 0, "test")) == sorted(drawn)
    assert set(sample_ids(ids, 9, 0, "test")) < set(drawn)  # a larger sample holds the smaller
    without = [name for name in ids if name != drawn[3]]
    assert set(drawn) - {drawn[3]} < set(sample_ids(without, 10, 0, "test"))
    assert sample_ids(ids, 10, 1, "test") != drawn != sample_ids(ids, 10, 0, "another")


def test_all_or_no_ids_are_drawn_by_size() -> None:
    ids = ["b", "a"]
    assert sample_ids(ids, None, 0, "test") == sample_ids(ids, 2, 0, "test") == sample_ids(ids, 9, 0, "test") == ids
    assert sample_ids(ids, 0, 0, "test") == []
