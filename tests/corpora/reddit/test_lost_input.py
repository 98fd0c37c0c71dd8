"""Lost input is never silent: a damaged or truncated dump warns by name, and stops the run if the loss is large."""

import json
import random
import re
from collections import Counter

import pytest
import zstandard

from sage_dialog.config import DataProcessing, RedditRules
from sage_dialog.corpora.reddit import reading, tally
from sage_dialog.corpora.reddit.tally import Limits
from sage_dialog.corpora.rejects import InputDataError

RULES = RedditRules.from_base()
# As in conf/base.
BASE = DataProcessing.from_base()
STRICT = Limits(BASE.max_reject_share, BASE.max_unread_share, BASE.require_submissions)


def compressed(name: str, comments: int, frame: int = 1 << 30) -> bytes:
    """Return comments that compress as text does, in frames of so many lines."""
    draw = random.Random(name)
    lines = []
    for number in range(comments):
        words = " ".join(f"{draw.randrange(1 << 40):x}" for _ in range(8))
        record = {"id": f"{name}{number}", "parent_id": "t3_t", "link_id": "t3_t", "subreddit": "aww", "score": 1}
        lines.append(json.dumps({**record, "body": words}).encode() + b"\n")
    parts = [b"".join(lines[start : start + frame]) for start in range(0, len(lines), frame)]
    return b"".join(zstandard.ZstdCompressor(level=1, write_checksum=True).compress(part) for part in parts)


@pytest.fixture
def dump(months, happy):
    """A function that writes the second of two months, from its bytes, and returns all files."""

    def write(content: bytes):
        months.thread()
        months.chain(happy)
        path = months.folder / "RC_2015-02.zst"
        path.write_bytes(content)
        months.thread("u", month="2015-02")
        return months.files()

    return write


def test_a_truncated_dump_stops_the_run_and_is_named(dump, fast, caplog):
    files = dump(compressed("a", 20_000)[: -(1 << 10)])
    with pytest.raises(InputDataError, match=r"RC_2015-02\.zst breaks off: it ends inside a frame.*max_unread_share"):
        fast(files, RULES, limits=STRICT)
    found = fast(files, RULES, limits=Limits())
    assert list(found.paths) == ["t/c4"]
    (line,) = [row["line"] for row in found.rejected_lines]
    unknown = "RC_2015-02.zst breaks off: it ends inside a frame; how much is missing is unknown. "
    assert f"{unknown}All after line {line - 1:,} is lost" in caplog.text


def test_damage_warns_with_the_unread_share_and_stops_the_run_if_it_is_large(dump, fast, caplog):
    whole = compressed("a", 40_000, frame=50)

    def damaged(place: float):
        middle = int(len(whole) * place)
        return dump(whole[:middle] + bytes(64) + whole[middle + 64 :])

    files = damaged(0.4)
    with pytest.raises(InputDataError, match=r"RC_2015-02\.zst breaks off: .* unread \((59\.9|60\.0) %\).*"):
        fast(files, RULES, limits=STRICT)
    files = damaged(0.998)
    assert list(fast(files, RULES, limits=STRICT).paths) == ["t/c4"]
    warning = (
        r"RC_2015-02\.zst breaks off: .* compressed bytes are unread \(0\.[23] %\)\. All after line 39,\d+ is lost"
    )
    assert re.search(warning, caplog.text)


def test_a_damaged_dump_warns_also_when_it_was_read_by_an_earlier_run(dump, caplog, tmp_path):
    from sage_dialog.corpora.reddit import read_dialogues

    files = dump(compressed("a", 20_000)[:-100])
    for _ in range(2):
        caplog.clear()
        read_dialogues(files, RULES, scratch=tmp_path / "scratch", bucket_comments=1_000, workers=1)
        assert "RC_2015-02.zst breaks off" in caplog.text
    with pytest.raises(InputDataError):  # also when a run with other limits has read it
        read_dialogues(files, RULES, scratch=tmp_path / "scratch", bucket_comments=1_000, workers=1, limits=STRICT)


def test_a_month_without_its_submissions_stops_the_run(months, happy, fast, caplog):
    months.thread()
    months.chain(happy)
    months.chain(happy, month="2015-02", prefix="d", thread="u")
    files = months.files()
    lost = "There is no RS_2015-02: all comments in threads that began in this month are lost to the rule no_submission"
    with pytest.raises(InputDataError, match=f"{lost}.*require_submissions=false"):
        fast(files, RULES, limits=STRICT)
    assert list(fast(files, RULES).paths) == ["t/c4"]
    assert lost in caplog.text
    caplog.clear()
    assert len(fast(files, RedditRules.from_base(min_submission_comments=0), limits=STRICT).dialogues) == 2
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


def test_a_gap_between_months_is_a_warning(months, happy, fast, caplog):
    for month in ("2014-11", "2015-02"):
        months.thread(month, month=month)
        months.chain(happy, month=month, prefix=month, thread=month)
    assert len(fast(months.files(), RULES, limits=STRICT).dialogues) == 2
    assert "There is no RC_2014-12, RC_2015-01: dialogues that cross a missing month break off there" in caplog.text


def test_a_dump_without_a_line_is_a_warning(dump, fast, caplog):
    files = dump(zstandard.ZstdCompressor().compress(b""))
    assert list(fast(files, RULES, limits=STRICT).paths) == ["t/c4"]
    assert "RC_2015-02.zst has no line: remove it, or fetch it again" in caplog.text


def test_too_many_unreadable_lines_stop_the_run_before_the_end_of_the_dump(dump, fast, monkeypatch):
    monkeypatch.setattr(reading, "BLOCK_BYTES", 1 << 16)
    monkeypatch.setattr(tally, "_MIN_LINES", 1_000)
    files = dump(zstandard.ZstdCompressor().compress(random.Random(0).randbytes(5_000_000)))
    with pytest.raises(InputDataError, match=r"cannot be read \(not_json: ") as stopped:
        fast(files, RULES, limits=STRICT)
    read = re.match(r"([0-9,]+) of the first \1 lines of RC_2015-02\.zst", str(stopped.value))
    assert 1_000 <= int(read[1].replace(",", "")) < 2_000  # of some 20,000


def test_a_few_unreadable_lines_at_the_beginning_stop_no_run(dump, fast):
    content = zstandard.ZstdCompressor().compress(b"broken\n" * 40)
    assert fast(dump(content + compressed("a", 1_000)), RULES, limits=STRICT).removed["not_json"] == 40


def test_of_many_rejected_lines_the_first_are_kept_and_all_are_counted(months, happy, fast, caplog):
    months.thread()
    months.chain(happy)
    for number in range(1_200):
        months.add("RC_2015-01", f"broken {number}")
        months.add("RC_2015-01", "{}")
        months.comment(f"x{number}")
    months.lines["RC_2015-01"] += [line for line in months.lines["RC_2015-01"] if '"x' in line]
    once, twice = (fast(months.files(), RULES, bucket_comments=size) for size in (10_000, 300))
    assert once == twice
    assert once.removed["not_json"] == once.removed["bad_field"] == once.removed["duplicate_comment"] == 1_200
    reasons = Counter(row["reason"] for row in once.rejected_lines)
    assert reasons == {"not_json": 1_000, "bad_field": 1_000, "duplicate_comment": 1_000}
    lines = [row["line"] for row in once.rejected_lines if row["reason"] == "not_json"]
    assert lines == list(range(6, 6 + 3_000, 3))
    warning = "2400 of 4806 lines cannot be read (not_json: 1200, bad_field: 1200), most of them in RC_2015-01"
    assert warning in caplog.text


def test_a_line_without_an_end_is_damage(dump, fast, monkeypatch):
    monkeypatch.setattr(reading, "_MAX_LINE_BYTES", 1 << 20)
    files = dump(zstandard.ZstdCompressor().compress(b"{}\n" + bytes(1 << 26)))
    with pytest.raises(InputDataError, match=r"RC_2015-02\.zst breaks off: a line has more than 1,048,576 bytes"):
        fast(files, RULES, limits=STRICT)
