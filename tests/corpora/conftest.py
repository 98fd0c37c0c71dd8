"""Hand-made Reddit months: threads written as short lists, dumped as Pushshift does."""

import json
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pytest

from sage_dialog import schemas
from sage_dialog.corpora.reddit import read_dialogues
from sage_dialog.corpora.reddit.funnel import Rule
from sage_dialog.parameters import RedditRules

SHARED = Path(__file__).parents[3] / "shared" / "data"

# Sixteen words, and happier than 0.4.
HAPPY = "I really love this happy little garden and I am so glad that you enjoy it too."
ASKING = "I really love this happy little garden and are you not so glad to enjoy it too?"


class Months:
    """Collects comments and submissions by month, writes them and reads dialogues from them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.lines: dict[str, list[str]] = {}

    def add(self, name: str, record) -> None:
        """`name` is a dump's file name; a string is written as it stands."""
        self.lines.setdefault(name, []).append(record if isinstance(record, str) else json.dumps(record))

    def thread(self, name="t", month="2015-01", num_comments=9) -> None:
        self.add(f"RS_{month}", {"id": name, "num_comments": num_comments})

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

    def read(self, **rules):
        """Dialogues, and what each rule removed in all months: rules that removed nothing are left out."""
        dialogues, report = read_dialogues(self.files(), RedditRules(**({"max_reject_share": 1} | rules)))
        removed: dict[str, int] = {}
        for row in report:
            if row["removed"]:
                removed[row["rule"]] = removed.get(row["rule"], 0) + row["removed"]
        return dialogues, removed


@pytest.fixture
def months(tmp_path):
    return Months(tmp_path)


@pytest.fixture
def happy():
    """Five turns that pass every default rule; the last asks."""
    return [HAPPY] * 4 + [ASKING]


@pytest.fixture
def shared():
    """The folder of real data beside the repository; tests that use it skip where it is missing."""

    def folder(name: str) -> Path:
        path = SHARED / name
        if not path.exists():
            pytest.skip(f"real data is missing: {path}")
        return path

    return folder


@pytest.fixture
def assert_explained():
    def check(report, dialogues):
        """Each step takes in what the step before let through, and what passes the last is a dialogue."""
        assert report
        for month in {row["month"] for row in report}:
            rows = [row for row in report if row["month"] == month]
            assert [row["rule"] for row in rows] == [rule.value for rule in Rule]
            assert [row["step"] for row in rows] == list(range(1, len(Rule) + 1))
            units = [row["unit"] for row in rows]
            assert units == sorted(units, key=["line", "comment", "path"].index)
            for before, row in pairwise(rows):
                assert row["came_in"] == before["came_in"] - before["removed"] >= 0
            survivors = rows[-1]["came_in"] - rows[-1]["removed"]
            assert survivors == sum(dialogue["month"] == month for dialogue in dialogues)
        pa.Table.from_pylist(report, schema=schemas.FILTER_REPORT).validate(full=True)

    return check
