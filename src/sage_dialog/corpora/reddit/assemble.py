"""Dialogues of one bucket of threads: the second of the two functions that every executor runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import pyarrow as pa

from sage_dialog.config import RedditRules
from sage_dialog.corpora.reddit.dialogues import DialogueFilter
from sage_dialog.corpora.reddit.extract import KEYED_COMMENTS, KEYED_SUBMISSIONS
from sage_dialog.corpora.reddit.threads import Part, Records, find_paths, link_comments
from sage_dialog.schemas import DIALOGUES, REJECTED_LINES


class Assembled(NamedTuple):
    """Tables of `schemas.DIALOGUES` and `schemas.REJECTED_LINES` of a bucket, and removals by month and rule."""

    dialogues: pa.Table
    rejected: pa.Table
    removed: Counter[tuple[str, str]]


def assemble(comments: Sequence[Part], submissions: Sequence[Part], rules: RedditRules) -> Assembled:
    """Return the dialogues of a bucket, sorted by id (paper §3.1).

    A path counts for the month of its leaf; siblings share the beginning of their paths.

    Args:
        comments: batches of KEYED_COMMENTS, those of one month in the order of its dump.
        submissions: batches of KEYED_SUBMISSIONS, likewise.
        rules: the thresholds.
    """
    months = sorted({part.month for part in (*comments, *submissions)})
    groups = [[month] for month in months] if rules.same_month else [months]
    results = [
        _assemble(
            [part for month in group for part in comments if part.month == month],
            [part for month in group for part in submissions if part.month == month],
            rules,
        )
        for group in groups
    ]
    rows = sorted((row for found, _, _ in results for row in found), key=lambda row: row["dialogue_id"])
    rejected = [row for _, rejects, _ in results for row in rejects]
    removed: Counter[tuple[str, str]] = Counter()
    for _, _, counts in results:
        removed.update(counts)
    return Assembled(
        pa.Table.from_pylist(rows, schema=DIALOGUES), pa.Table.from_pylist(rejected, schema=REJECTED_LINES), removed
    )


def _assemble(
    comments: Sequence[Part], submissions: Sequence[Part], rules: RedditRules
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], Counter[tuple[str, str]]]:
    threads = Records(submissions, KEYED_SUBMISSIONS)
    bucket = Records(comments, KEYED_COMMENTS)
    eligible, parents = link_comments(bucket, threads, rules)
    paths = find_paths(bucket, eligible, parents, rules)
    dialogues = DialogueFilter(bucket, rules).apply(paths)
    bucket.removed.update(threads.removed)
    return dialogues, threads.rejected + bucket.rejected, bucket.removed
