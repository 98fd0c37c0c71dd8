"""Hand-made Reddit months, read by the fast path and by the plain oracle, which must agree."""

import functools
import json
import tempfile
from collections import Counter
from contextlib import nullcontext
from itertools import pairwise, zip_longest
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

import pandas as pd
import pyarrow as pa
import pytest
import reddit_oracle

from sage_dialog import schemas
from sage_dialog.config import RedditRules
from sage_dialog.core import sentiment
from sage_dialog.core.tables import to_arrow
from sage_dialog.corpora.reddit import job, read_dialogues

REJECTS = ("damaged_archive", "not_json", "bad_field", "lone_surrogate", "duplicate_thread", "duplicate_comment")

# Sixteen words, and happier than 0.4.
HAPPY = "I really love this happy little garden and I am so glad that you enjoy it too."
ASKING = "I really love this happy little garden and are you not so glad to enjoy it too?"


class Outcome(NamedTuple):
    """The rows of the three tables."""

    dialogues: list[dict]
    filter_report: list[dict]
    rejected_lines: list[dict]

    @property
    def removed(self) -> dict[str, int]:
        """The removals of each rule over all months, without rules that removed nothing."""
        counts = Counter()
        for row in self.filter_report:
            counts[row["rule"]] += row["n_removed"]
        return {rule: count for rule, count in counts.items() if count}

    @property
    def paths(self) -> dict[str, list[str]]:
        """The comments of each dialogue, by its id."""
        return {row["dialogue_id"]: [turn["comment_id"] for turn in row["turns"]] for row in self.dialogues}

    @classmethod
    def of(cls, tables) -> "Outcome":
        return cls(*(check_schema(table, getattr(schemas, name.upper())) for name, table in tables._asdict().items()))


def check_schema(frame: pd.DataFrame, schema: pa.Schema) -> list[dict]:
    """Return the rows of a table, which has the columns and types of a schema and no null where it allows none."""
    assert {name: dtype.pyarrow_dtype for name, dtype in frame.dtypes.items()} == {
        field.name: field.type for field in schema
    }
    assert list(frame.columns) == schema.names
    table = to_arrow(frame, schema)
    table.validate(full=True)
    assert not any(table[field.name].null_count for field in schema if not field.nullable)
    return table.to_pylist()


lexicon = functools.cache(sentiment.lexicon)


def read_fast(files, rules, workers=1, bucket_comments=100_000, scratch=None, **options) -> Outcome:
    # What is read here is not resumed: no waiting for the disk, and no fingerprints of all code for each dump.
    with (
        nullcontext(scratch) if scratch else tempfile.TemporaryDirectory() as scratch,
        patch("os.fsync"),
        patch.object(job, "_CODE", ("corpora/rejects.py",)),
        patch.object(job, "lexicon", lexicon),
    ):
        return Outcome.of(
            read_dialogues(
                files, rules, scratch=Path(scratch), workers=workers, bucket_comments=bucket_comments, **options
            )
        )


def check_same(fast: Outcome, plain: Outcome) -> None:
    """Row for row. The order of dialogues with the same id (of two months, or of "t3_x" and "x") is left open."""

    def in_order(rows):
        return sorted(rows, key=lambda row: (row["dialogue_id"], row["month"], row["link_id"]))

    ids = [row["dialogue_id"] for row in fast.dialogues]
    assert ids == sorted(ids)
    for name in Outcome._fields:
        ours, theirs = getattr(fast, name), getattr(plain, name)
        if name == "dialogues":
            ours, theirs = in_order(ours), in_order(theirs)
        differences = [pair for pair in zip_longest(ours, theirs) if pair[0] != pair[1]]
        assert not differences, f"{name}: {len(differences)} differences (fast, oracle), the first: {differences[:3]}"


def check_explained(outcome: Outcome) -> None:
    """Each step starts with what the step before left, and what the last one leaves are the dialogues."""
    report = outcome.filter_report
    assert report
    for month in {row["month"] for row in report}:
        rows = [row for row in report if row["month"] == month]
        assert [row["rule"] for row in rows] == list(reddit_oracle.RULES)
        assert [row["step"] for row in rows] == list(range(1, len(rows) + 1))
        units = [row["unit"] for row in rows]
        assert units == sorted(units, key=["line", "comment", "path"].index)
        for before, row in pairwise(rows):
            assert row["n_in"] == before["n_in"] - before["n_removed"]
        dialogues = sum(dialogue["month"] == month for dialogue in outcome.dialogues)
        assert rows[-1]["n_in"] - rows[-1]["n_removed"] == dialogues
        assert rows[0]["n_in"] == sum(row["n_removed"] for row in rows) + dialogues
        assert all(row["n_in"] >= row["n_removed"] >= 0 for row in rows)
        rejected = Counter(row["reason"] for row in outcome.rejected_lines if row["month"] == month)
        assert rejected == {
            row["rule"]: row["n_removed"] for row in rows if row["rule"] in REJECTS and row["n_removed"]
        }
    places = [(row["month"], row["file"], row["line"]) for row in outcome.rejected_lines]
    assert places == sorted(set(places))
    assert all(row["line"] > 0 and len(row["excerpt"]) <= 200 for row in outcome.rejected_lines)


def read_both(files, rules, plain=None, **how) -> Outcome:
    """Return the tables of the fast path, checked against those of the oracle."""
    fast = read_fast(files, rules, **how)
    check_explained(fast)
    check_same(fast, plain or Outcome(*reddit_oracle.dialogues(files, rules)))
    return fast


class Months:
    """Collects comments and submissions by month, writes them and reads dialogues from them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.lines: dict[str, list[str]] = {}

    def add(self, name: str, record) -> None:
        """`name` is a dump's file name; a string is written as it stands."""
        self.lines.setdefault(name, []).append(record if isinstance(record, str) else json.dumps(record))

    def thread(self, name="t", month="2015-01", num_comments=9, **fields) -> None:
        self.add(f"RS_{month}", {"id": name, "num_comments": num_comments} | fields)

    def comment(self, name, parent=None, body=HAPPY, month="2015-01", thread="t", score=1, **fields) -> None:
        record = {
            "id": name,
            "parent_id": f"t1_{parent}" if parent else f"t3_{thread}",
            "link_id": f"t3_{thread}",
            "subreddit": "aww",
            "score": score,
            "body": body,
        }
        self.add(f"RC_{month}", record | fields)

    def chain(self, bodies, month="2015-01", prefix="c", **fields) -> None:
        """Each body answers the one before."""
        for position, body in enumerate(bodies):
            parent = f"{prefix}{position - 1}" if position else None
            self.comment(f"{prefix}{position}", parent, body, month, **fields)

    def files(self) -> dict[str, Path]:
        for name, lines in self.lines.items():
            (self.folder / name).write_text("".join(line + "\n" for line in lines))
        return {path.name: path for path in self.folder.iterdir()}

    def read(self, **rules) -> Outcome:
        return read_both(self.files(), RedditRules.from_base(**rules), bucket_comments=3)

    def outcome(self, **rules) -> tuple[int, dict[str, int]]:
        """How many dialogues, and what the rules removed besides submissions and inner comments."""
        read = self.read(**rules)
        usual = ("submission", "not_a_leaf")
        return len(read.dialogues), {rule: count for rule, count in read.removed.items() if rule not in usual}


@pytest.fixture
def months(tmp_path):
    folder = tmp_path / "months"
    folder.mkdir()
    return Months(folder)


@pytest.fixture
def happy():
    """Five turns that pass every default rule; the last asks."""
    return [HAPPY] * 4 + [ASKING]


@pytest.fixture(scope="session")
def read():
    """`read(files, rules, **how)`: the Outcome of the fast path, equal to the oracle's."""
    return read_both


@pytest.fixture(scope="session")
def fast():
    """`fast(files, rules, **how)`: the Outcome of the fast path alone."""
    return read_fast
