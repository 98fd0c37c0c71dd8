"""Pushshift's monthly dumps, `RC_YYYY-MM` (comments) and `RS_YYYY-MM` (submissions), read line by line.

A line that cannot be read is counted by reason and left out; only a month in which too many cannot be
read stops the run.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from sage_dialog.corpora.compression import SUFFIXES, DamagedFileError, read_lines
from sage_dialog.corpora.reddit.funnel import Funnel, Rule

logger = logging.getLogger(__name__)

_NAME = re.compile(rf"(?P<kind>RC|RS)_(?P<month>\d{{4}}-(?:0[1-9]|1[0-2]))(?:{'|'.join(map(re.escape, SUFFIXES))})?")


class Dump(NamedTuple):
    """One month's file. `kind` is "RC" (comments) or "RS" (submissions)."""

    month: str
    kind: str
    path: Path


class Submission(NamedTuple):
    id: str
    num_comments: int


class Comment(NamedTuple):
    """A comment as dumped. `link_id` is its thread ("t3_…"), `parent_id` what it answers ("t1_…" or "t3_…")."""

    id: str
    parent_id: str
    link_id: str
    subreddit: str
    score: int
    body: str
    month: str


def find_dumps(files: Mapping[str, Path]) -> list[Dump]:
    """The dumps among files given by name, by month, comments before submissions.

    Raises:
        FileNotFoundError: if there is no month of comments.
        ValueError: if a month stands there twice.
    """
    dumps: dict[tuple[str, str], Dump] = {}
    for name, path in sorted(files.items()):
        found = _NAME.fullmatch(name)
        if found is None:
            logger.warning("%s is no Reddit dump (RC_YYYY-MM or RS_YYYY-MM, %s or plain); ignored", name, SUFFIXES)
            continue
        dump = Dump(found["month"], found["kind"], Path(path))
        if (other := dumps.setdefault((dump.month, dump.kind), dump)) is not dump:
            raise ValueError(f"{other.path} and {path} are dumps of the same month; remove one of them")
    ordered = [dumps[key] for key in sorted(dumps)]
    if not any(dump.kind == "RC" for dump in ordered):
        raise FileNotFoundError(
            f"no Reddit comments among {sorted(files) or 'no files'}: expected RC_YYYY-MM.zst, .bz2, .xz, .gz or plain"
        )
    return ordered


def read_submissions(dump: Dump, seen: set[str], funnel: Funnel) -> Iterator[Submission]:
    """The readable submissions of a month; ids in `seen` are left out and new ones added."""
    for record in _records(dump, funnel):
        submission = _submission(record)
        if isinstance(submission, Rule):
            funnel.remove(dump.month, submission)
        elif submission.id in seen:
            funnel.remove(dump.month, Rule.DUPLICATE_ID)
        else:
            seen.add(submission.id)
            funnel.remove(dump.month, Rule.SUBMISSION)
            yield submission


def read_comments(dump: Dump, seen: set[str], funnel: Funnel) -> Iterator[Comment]:
    """The readable comments of a month; ids in `seen` are left out and new ones added."""
    for record in _records(dump, funnel):
        comment = _comment(record, dump.month)
        if isinstance(comment, Rule):
            funnel.remove(dump.month, comment)
        elif comment.id in seen:
            funnel.remove(dump.month, Rule.DUPLICATE_ID)
        else:
            seen.add(comment.id)
            yield comment


def check_rejects(month: str, funnel: Funnel, max_share: float) -> None:
    """Raises ValueError where more than `max_share` of a month's lines could not be read."""
    unreadable, lines = funnel.unreadable(month), funnel.lines(month)
    if unreadable.total() > max_share * lines:
        reasons = ", ".join(f"{rule}: {count}" for rule, count in unreadable.most_common())
        raise ValueError(
            f"{unreadable.total()} of the {lines} lines of Reddit month {month} cannot be read ({reasons}), more than "
            f"data_processing.reddit.max_reject_share = {max_share} allows. Fetch the month's dumps again, or raise it."
        )


def _records(dump: Dump, funnel: Funnel) -> Iterator[dict[str, Any]]:
    """The JSON objects of a dump; every other line is counted. Blank lines are no lines."""
    for line in _lines(dump, funnel):
        funnel.came(dump.month)
        try:
            # Decoded here: json.loads would let surrogates written as raw bytes through.
            record = json.loads(line.decode("utf-8"))
        except (ValueError, RecursionError):
            funnel.remove(dump.month, Rule.NOT_JSON)
            continue
        if isinstance(record, dict):
            yield record
        else:
            funnel.remove(dump.month, Rule.BAD_FIELD)


def _lines(dump: Dump, funnel: Funnel) -> Iterator[bytes]:
    try:
        yield from (line for line in read_lines(dump.path) if line.strip())
    except DamagedFileError as error:
        logger.warning("%s. What stands before is kept, what is lost counts as one line", error)
        funnel.came(dump.month)
        funnel.remove(dump.month, Rule.DAMAGED_ARCHIVE)


def _submission(record: dict[str, Any]) -> Submission | Rule:
    name: Any = record.get("id")
    num_comments: Any = record.get("num_comments")
    if not (isinstance(name, str) and name and _is_int(num_comments)):
        return Rule.BAD_FIELD
    return Submission(name, num_comments) if _encodable(name) else Rule.LONE_SURROGATE


def _comment(record: dict[str, Any], month: str) -> Comment | Rule:
    texts: tuple[Any, ...] = tuple(record.get(field) for field in ("id", "parent_id", "link_id", "subreddit", "body"))
    score: Any = record.get("score", "missing")
    if not all(isinstance(text, str) for text in texts) or not all(texts[:4]):
        return Rule.BAD_FIELD
    if not (score is None or _is_int(score)):
        return Rule.BAD_FIELD
    if not _encodable("".join(texts)):
        return Rule.LONE_SURROGATE
    name, parent_id, link_id, subreddit, body = texts
    return Comment(name, parent_id, link_id, subreddit, score or 0, body, month)  # a hidden score is null


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _encodable(text: str) -> bool:
    if text.isascii():
        return True
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
