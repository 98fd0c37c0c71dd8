"""Texts that stand twice are found, and training texts that stand in a held-out split are marked."""

import json
import lzma
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from sage_dialog import schemas
from sage_dialog.config import Corpora
from sage_dialog.core.tables import from_rows, to_arrow, to_rows
from sage_dialog.corpora.duplicates import SourceText, find_duplicates, normalise
from sage_dialog.corpora.labelled import read_corpora
from sage_dialog.pipelines.data_processing.nodes import find_text_duplicates

DAILYDIALOG = Path(__file__).parents[3] / "shared" / "data" / "dailydialog" / "dailydialog.jsonl.xz"

STORY = (
    "My sister forgot the keys in the office last night and had to walk all the way back in the rain, "
    "so I made her some tea and we laughed about it until the neighbours knocked on the wall"
)


def text(name: str, content: str, split: str = "train", source: str = "a") -> SourceText:
    return SourceText(f"{source}/{split}/{name}", source, split, content)


def words(seed: int, size: int, vocabulary: int = 3000) -> list[str]:
    return [f"w{word}" for word in np.random.default_rng(seed).integers(0, vocabulary, size)]


def found(*texts: SourceText, remove: bool = True, min_overlap: float = 0.5) -> dict[str, tuple]:
    table = find_duplicates(texts, min_overlap, remove)
    to_arrow(table, schemas.TEXT_DUPLICATES).validate(full=True)
    return {row["dialogue_id"]: (row["kind"], row["copy_of"], row["removed"]) for row in to_rows(table)}


def test_case_punctuation_and_spacing_do_not_matter():
    assert normalise("Say , Jim , it ’ s ＯＫ !") == normalise("say, Jim: it's ok")
    assert found(text("1", "Say , Jim , it ’ s ＯＫ !", "test"), text("2", "say, Jim: it's ok")) == {
        "a/train/2": ("exact", "a/test/1", True)
    }


def test_a_training_text_is_marked_by_its_copy_in_a_held_out_split_of_any_source():
    near = STORY.replace("sister", "brother").replace("tea", "hot tea")
    copies = found(
        text("old", STORY),
        text("again", STORY + "!"),
        text("other", "Nothing of this stands anywhere else, whatever you look for in these texts."),
        text("near", near, "valid", "b"),
        text("held", STORY, "test", "b"),
    )
    assert copies == {
        "a/train/old": ("exact", "b/test/held", True),
        "a/train/again": ("exact", "b/test/held", True),
        "b/valid/near": ("near", "b/test/held", False),
    }
    assert not any(removed for *_, removed in found(text("x", STORY, "test"), text("y", STORY), remove=False).values())
    assert found(text("x", STORY), text("y", STORY)) == {"a/train/y": ("exact", "a/train/x", False)}


def test_a_copy_of_a_copy_of_a_held_out_text_is_marked():
    base = words(0, 60)
    middle = [*base[:45], *words(1, 20)]
    far = [*base[30:45], *words(1, 20), *words(2, 4)]
    texts = [
        text(name, " ".join(each), split)
        for name, each, split in (("far", far, "train"), ("middle", middle, "train"), ("base", base, "test"))
    ]
    assert found(*texts, min_overlap=0.4) == {
        "a/train/far": ("near", "a/train/middle", True),
        "a/train/middle": ("near", "a/test/base", True),
    }


def test_empty_and_short_texts():
    assert found(
        text("1", "?!", "test"), text("2", ""), text("3", "yes", "test"), text("4", "Yes."), text("5", "no")
    ) == {"a/train/4": ("exact", "a/test/3", True)}
    assert found() == {}


@pytest.mark.parametrize("seed", [0, 1])
def test_near_copies_are_those_of_a_comparison_of_all_pairs(seed):
    generator = np.random.default_rng(seed)
    texts = []
    for number in range(120):
        base = words(1000 * seed + number // 4, 40)
        for place in generator.choice(40, size=int(generator.integers(0, 9)), replace=False):
            base[place] = f"x{number}y{place}"
        texts.append(" ".join(base))
    overlaps = {}
    for (i, one), (j, other) in combinations(enumerate(texts), 2):
        first, second = ({tuple(each.split()[at : at + 3]) for at in range(38)} for each in (one, other))
        overlaps[i, j] = len(first & second) / len(first | second)
    expected = {j for (_, j), overlap in overlaps.items() if overlap >= 0.6}
    copies = found(*(text(f"{number:03d}", each) for number, each in enumerate(texts)), min_overlap=0.6)
    assert {int(name.rpartition("/")[2]) for name in copies} == expected
    assert 10 < len(expected) < 80


def test_near_copies_are_found_among_many_texts_from_one_template():
    texts = [text(f"{n}", f"{STORY} and then number {n} of room {n * 7} came by with cake") for n in range(300)]
    copies = found(*texts, text("held", f"{STORY} and then number none came by with cake", "test"))
    assert len(copies) == 300 and all(removed for *_, removed in copies.values())


def test_the_order_of_the_texts_changes_no_mark():
    texts = [
        text(f"{n}", " ".join(words(n // 3, 30)[: 30 - n % 3]), "test" if n % 5 == 0 else "train") for n in range(60)
    ]
    marked = {name for name, (*_, removed) in found(*texts).items() if removed}
    assert marked == {name for name, (*_, removed) in found(*texts[::-1]).items() if removed}
    assert len(marked) > 10


def test_reddit_dialogues_are_compared_with_held_out_dialogues_of_corpora():
    row = {
        "subreddit": "s",
        "link_id": "t3_l",
        "month": "2015-01",
        "n_turns": 2,
        "mean_words": 9.0,
        "min_sentiment": 0.5,
    }
    halves = STORY.split(", ", 1)
    reddit = [{**row, "dialogue_id": "x/y", "turns": [{"comment_id": half, "text": half} for half in halves]}]
    turns = [{"role": "user", "text": STORY, "labels": []}]
    corpus = [{"dialogue_id": "own/test/1", "corpus": "own", "split": "test", "labels": [], "turns": turns}]
    dialogues = from_rows(reddit, schemas.DIALOGUES)
    table = find_text_duplicates(dialogues, from_rows(corpus, schemas.CORPUS_DIALOGUES), Corpora.from_base())
    assert [(each["dialogue_id"], each["removed"]) for each in to_rows(table)] == [("x/y", True)]
    assert find_text_duplicates(dialogues, from_rows([], schemas.CORPUS_DIALOGUES), Corpora.from_base()).empty


@pytest.mark.skipif(not DAILYDIALOG.exists(), reason=f"needs the real DailyDialog at {DAILYDIALOG}")
def test_texts_of_the_real_dailydialog_that_stand_in_train_and_test_are_found(tmp_path):
    """The test split is apart: the training texts that are known to stand in it are planted as one."""
    with lzma.open(DAILYDIALOG, "rt") as file:
        rows = [json.loads(line) for line in file]
    train = [row for row in rows if row["split"] == "train"]
    leaked = [row for row in train if "test" in (row["dup_of"] or [])][:150]
    others = [row for row in train if row["dup_of"] is None][:400]
    planted = [{**row, "split": "test", "utts": [each.upper() for each in row["utts"]]} for row in leaked]
    path = tmp_path / "dailydialog.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in [*others, *leaked, *planted]))
    config = Corpora.from_base(read=["dailydialog"])
    dialogues, _ = read_corpora({"dailydialog": {path.name: path}}, config)
    table = find_text_duplicates(from_rows([], schemas.DIALOGUES), dialogues, config)
    removed = set(table.loc[table["removed"], "dialogue_id"])
    assert len(leaked) == 150
    assert {f"dailydialog/train/{len(others) + number}" for number in range(150)} <= removed
    assert len(removed) < 200
