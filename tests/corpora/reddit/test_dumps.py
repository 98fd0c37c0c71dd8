"""Reading months: every format, every kind of fault rejected by name, and nothing else lost with it."""

import bz2
import gzip
import json
import lzma

import pytest
import zstandard
from upath import UPath

from sage_dialog.config import RedditRules
from sage_dialog.corpora.reddit.dumps import find_dumps
from sage_dialog.corpora.reddit.tally import Limits
from sage_dialog.corpora.rejects import InputDataError

GOOD = {
    "id": "x",
    "parent_id": "t3_t",
    "link_id": "t3_t",
    "subreddit": "aww",
    "score": 1,
    "body": "two words",
    "author": "ann",
}
NAMES = ("id", "parent_id", "link_id", "subreddit")


def zstd(data: bytes) -> bytes:
    """Two frames that declare a 2 GiB window, as Pushshift's do."""
    parameters = zstandard.ZstdCompressionParameters.from_level(1, window_log=31, write_content_size=False)
    compressor = zstandard.ZstdCompressor(compression_params=parameters)
    middle = len(data) // 2
    return b"".join(stream_compressed(compressor, part) for part in (data[:middle], data[middle:]))


def stream_compressed(compressor, data: bytes) -> bytes:
    writer = compressor.compressobj()
    return writer.compress(data) + writer.flush()


COMPRESS = {".zst": zstd, ".bz2": bz2.compress, ".xz": lzma.compress, ".gz": gzip.compress, "": lambda data: data}


@pytest.mark.parametrize("suffix", COMPRESS)
def test_every_format_reads_the_same(months, happy, read, suffix):
    months.thread()
    months.chain(happy * 3)
    plain = months.read()
    for path in list(months.folder.iterdir()):
        path.with_name(path.name + suffix).write_bytes(COMPRESS[suffix](path.read_bytes()))
        if suffix:
            path.unlink()
    packed = read({path.name: path for path in months.folder.iterdir()}, RedditRules.from_base())
    assert packed == plain
    assert len(packed.dialogues) == 1


def test_dumps_may_be_in_another_file_system(months, happy, fast):
    months.thread()
    months.chain(happy)
    folder = UPath("memory://reddit")
    for name, path in months.files().items():
        (folder / f"{name}.bz2").write_bytes(bz2.compress(path.read_bytes()))
    files = {path.name: path for path in folder.iterdir()}
    assert fast(files, RedditRules.from_base()).dialogues == months.read().dialogues


@pytest.mark.parametrize("suffix", [".zst", ".bz2", ".xz", ".gz"])
def test_a_truncated_archive_yields_the_lines_before_the_cut(months, happy, read, suffix):
    months.thread()
    months.chain(happy)
    for number in range(10_000):
        months.comment(f"f{number}", body=f"filler {number * 7919 % 10_007:x}")
    files = months.files()
    plain = files.pop("RC_2015-01")
    files[f"RC_2015-01{suffix}"] = cut = plain.with_name(f"RC_2015-01{suffix}")
    whole = COMPRESS[suffix](plain.read_bytes())
    cut.write_bytes(whole[: len(whole) * 9 // 10])
    found = read(files, RedditRules.from_base())
    assert list(found.paths) == ["t/c4"]
    assert found.removed["damaged_archive"] == 1
    assert 2_500 < found.removed["few_turns"] < 10_000
    (row,) = found.rejected_lines
    assert row["line"] == found.removed["few_turns"] + 6
    assert "breaks off" in row["excerpt"]


def test_a_plain_file_cut_in_a_line_loses_that_line(months, happy, read):
    months.thread()
    months.chain(happy)
    files = months.files()
    text = files["RC_2015-01"].read_bytes()
    files["RC_2015-01"].write_bytes(text + text[:50])
    found = read(files, RedditRules.from_base())
    assert list(found.paths) == ["t/c4"]
    (row,) = found.rejected_lines
    assert tuple(row.values()) == ("2015-01", "RC_2015-01", 6, "not_json", text[:50].decode())


@pytest.mark.parametrize("content", [b"<html>Not found</html>", b""])
def test_a_file_that_is_no_archive_is_rejected(months, happy, read, content):
    months.thread()
    months.chain(happy)
    path = months.folder / "RC_2015-02.zst"
    path.write_bytes(content)
    found = read(months.files() | {path.name: path}, RedditRules.from_base())
    assert list(found.paths) == ["t/c4"]
    assert [(row["line"], row["reason"]) for row in found.rejected_lines] == [(1, "damaged_archive")]


@pytest.mark.parametrize("content", ["", "\n", " \n\t\r\n\x0b\x0c"])
def test_a_month_without_a_line_is_a_month_without_a_line(months, happy, content):
    months.thread()
    months.chain(happy)
    months.files()
    (months.folder / "RC_2015-02").write_text(content, newline="")
    (months.folder / "RS_2015-03").write_text(content, newline="")
    found = months.read()
    assert list(found.paths) == ["t/c4"]
    lines = {row["month"]: row["n_in"] for row in found.filter_report if row["step"] == 1}
    assert lines == {"2015-01": 6, "2015-02": 0, "2015-03": 0}


@pytest.mark.parametrize("name", ["RC_2015-01", "RC_2015-01.gz", "RC_2015-01.xz"])
def test_nothing_but_an_empty_month_gives_empty_tables(tmp_path, read, name):
    path = tmp_path / name
    path.write_bytes(COMPRESS[path.suffix](b""))
    found = read({name: path}, RedditRules.from_base())
    assert not found.dialogues
    assert not found.removed


LINES = [
    ("{", "not_json"),
    ("not json", "not_json"),
    ("[" * 100_000, "not_json"),
    ('{"x": ' + "[" * 100_000, "not_json"),
    ("[]", "not_json"),
    ("null", "not_json"),
    ('"text"', "not_json"),
    ("12", "not_json"),
    ("{} {}", "not_json"),
    ("{}", "bad_field"),
    ('{"id": 1' + "0" * 50 + "}", "bad_field"),
    (json.dumps(GOOD)[:-1] + ",}", "not_json"),
    (json.dumps(GOOD) * 2, "not_json"),
    (json.dumps([GOOD]), "not_json"),
    (json.dumps(GOOD) + ",", "not_json"),
    (json.dumps(GOOD).replace('"', "'"), "not_json"),
    (json.dumps(GOOD).replace("two words", "two\twords"), "not_json"),
    (json.dumps(GOOD).replace("two words", "two \\x41"), "not_json"),
    (json.dumps(GOOD).replace("two words", "two \\u12"), "not_json"),
    ("\ufeff" + json.dumps(GOOD), "not_json"),
    ("\xa0" + json.dumps(GOOD), "not_json"),
    *(
        (json.dumps(GOOD)[:-1] + f', "{field}": {number}}}', "not_json")
        for field in ("score", "gilded")
        for number in ("01", "1.", ".5", "+1", "0x10", "1_000", "-")
    ),
    *((json.dumps(GOOD | {"score": float(number)}), "bad_field") for number in ("nan", "inf", "-inf")),
    *((json.dumps({k: v for k, v in GOOD.items() if k != field}), "bad_field") for field in (*NAMES, "body")),
    *((json.dumps(GOOD | {field: None}), "bad_field") for field in (*NAMES, "body")),
    *((json.dumps(GOOD | {field: 7}), "bad_field") for field in (*NAMES, "body")),
    *((json.dumps(GOOD | {field: {}}), "bad_field") for field in (*NAMES, "body")),
    *((json.dumps(GOOD | {field: ""}), "bad_field") for field in NAMES),
    *(
        (json.dumps(GOOD)[:-1] + f', "score": {score}}}', "bad_field")
        for score in ("1.5", "true", "false", "[]", "{}", '""', '"1.0"', '"+1"', '" 1"', '"1 "', '"one"', '"\u0661"')
    ),
    *(
        (json.dumps(GOOD)[:-1] + f', "score": {score}}}', "bad_field")
        for score in (2**63, -(2**63) - 1, f'"{2**63}"', 1e19, "1e400", '"--1"', '"1_000"', '"-"', '"1e2"')
    ),
    *((json.dumps(GOOD | {field: "cut \ud83d"}), "lone_surrogate") for field in (*NAMES, "body", "author")),
    *((json.dumps(GOOD | {"body": body}), "lone_surrogate") for body in ("\udc00", "\ude00\ud83d", "\ud83d\ud83d")),
    (json.dumps(GOOD | {"body": "cut \ud83d", "score": "x"}), "bad_field"),
    (json.dumps(GOOD)[:-1] + ', "id": 7}', "bad_field"),
]


@pytest.mark.parametrize(
    ("line", "rule"), LINES, ids=lambda value: ascii(value)[-60:] if isinstance(value, str) else value
)
def test_a_broken_line_is_rejected_and_the_rest_is_read(months, happy, line, rule):
    months.thread()
    months.chain(happy[:3])
    months.add("RC_2015-01", "  ")
    months.add("RC_2015-01", line)
    months.comment("c3", "c2", happy[3])
    months.add("RC_2015-01", "")
    months.comment("c4", "c3", happy[4])
    read = months.read()
    assert list(read.paths) == ["t/c4"]
    assert read.removed == {rule: 1, "submission": 1, "not_a_leaf": 4}
    assert [tuple(row.values()) for row in read.rejected_lines] == [("2015-01", "RC_2015-01", 5, rule, line[:200])]


@pytest.mark.parametrize(
    "change",
    [
        {
            "created_utc": "1420070400",
            "edited": 12.5,
            "gilded": float("nan"),
            "media": {"id": "y", "body": [{"score": "z"}]},
        },
        {"created_utc": 1420070400.0, "edited": False, "title": "cut \ud83d", "cut \udc00": 1},
        {"gilded": 10**400, "awards": 1e300, "nested": json.loads("[" * 60 + "]" * 60)},
        {"author": None},
        {"author": ["ann"]},
        {"score": "1"},
        {"score": "0012"},
        {"score": 1.0},
        {"score": 2**63 - 1},
        {"score": f"{2**63 - 1}"},
        {"score": 1e18},
        {"id": "\u0000"},
        {"subreddit": "\U0001f600"},
    ],
    ids=ascii,
)
def test_an_unusual_but_unambiguous_line_is_read(months, happy, change):
    months.thread()
    months.chain(happy[:4])
    months.comment("leaf", "c3", happy[4], **change)
    assert months.outcome() == (1, {})


@pytest.mark.parametrize(
    ("score", "kept"),
    [("1", True), ("1e2", True), ("10E-1", True), ("-0", False), ("-0.0", False), ('"-1"', False), ('"-0"', False)],
)
def test_a_score_may_be_written_in_many_ways(months, happy, score, kept):
    months.thread()
    months.chain(happy[:4])
    months.comment("leaf", "c3", happy[4], score="SCORE")
    months.lines["RC_2015-01"][-1] = months.lines["RC_2015-01"][-1].replace('"SCORE"', score)
    assert months.outcome() == ((1, {}) if kept else (0, {"leaf_score": 1}))


def test_of_a_duplicate_key_the_last_value_counts(months, happy):
    months.thread()
    months.chain(happy)
    lines = months.lines["RC_2015-01"]
    for position, first in enumerate(
        ('"body": "cut \\ud83d"', '"id": 7', '"score": -9', '"body": "[deleted]"', '"id": ""')
    ):
        lines[position] = "{" + first + ", " + lines[position][1:]
    lines[4] = lines[4].replace('"id": "c4"', '"\\u0069d": "\\u0063\\u0034"')
    assert list(months.read().paths) == ["t/c4"]


def test_the_content_of_strings_and_objects_is_no_field(months, happy):
    months.thread()
    trap = '", "id": "fake", "score": -9, "body": "gone'
    months.chain([f"{happy[0]} {trap}", *happy[1:]], flair=trap, media={"id": "fake", "body": "[deleted]", "score": -9})
    assert months.read(max_turns=5).paths == {"t/c4": ["c0", "c1", "c2", "c3", "c4"]}


def test_a_surrogate_pair_is_a_character(months, happy):
    months.thread()
    months.chain([f"{happy[0]} \U0001f600", *happy[1:]])
    read = months.read()
    assert "\\ud83d\\ude00" in months.lines["RC_2015-01"][0]
    assert read.dialogues[0]["turns"][0]["text"] == happy[0]
    assert read.removed == {"submission": 1, "not_a_leaf": 4}


RAW = {
    "latin": (b"\xff\xfe", "\\xff\\xfe"),
    "surrogate bytes": (b'{"id": "\xed\xa0\xbd"}', '{"id": "\\xed\\xa0\\xbd"}'),
    "overlong": (b'{"id": "\xc0\xaf"}', '{"id": "\\xc0\\xaf"}'),
    "no field that is read": (json.dumps(GOOD)[:-1].encode() + b', "x": "\xff"}', None),
    "a name": (json.dumps(GOOD)[:-1].encode() + b', "\xff": 1}', None),
    "nul": (b"\x00\x00", "\x00\x00"),
}


@pytest.mark.parametrize(("raw", "excerpt"), RAW.values(), ids=RAW)
def test_bytes_that_are_no_utf8_are_rejected(months, happy, read, raw, excerpt):
    months.thread()
    months.chain(happy)
    files = months.files()
    with files["RC_2015-01"].open("ab") as file:
        file.write(raw)
    found = read(files, RedditRules.from_base())
    assert list(found.paths) == ["t/c4"]
    (row,) = found.rejected_lines
    assert (row["line"], row["reason"]) == (6, "not_json")
    assert excerpt is None or row["excerpt"] == excerpt


@pytest.mark.parametrize("newline", [b"\r\n", b"\n\n", b"\n \t\r\n", b" \n  "])
@pytest.mark.parametrize("last", [True, False])
def test_lines_end_in_many_ways(months, happy, read, newline, last):
    months.thread()
    months.chain(happy[:3])
    months.add("RC_2015-01", "[broken")
    months.comment("c3", "c2", happy[3])
    months.comment("c4", "c3", happy[4])
    files = months.files()
    for path in files.values():
        path.write_bytes(newline.join(path.read_bytes().splitlines()) + newline * last)
    found = read(files, RedditRules.from_base())
    assert list(found.paths) == ["t/c4"]
    (row,) = found.rejected_lines
    assert row["excerpt"].strip() == "[broken"
    assert row["line"] == 1 + 3 * newline.count(b"\n")


def test_an_object_that_continues_in_the_next_line_is_two_broken_lines(months, happy):
    months.thread()
    months.chain(happy)
    months.add("RC_2015-01", json.dumps(GOOD | {"x": {"y": 1}}).replace(', "x"', '\n, "x"'))
    months.add("RC_2015-01", json.dumps(GOOD).replace('"body"', '\n"body"') + json.dumps(GOOD | {"id": "y"}))
    read = months.read()
    assert list(read.paths) == ["t/c4"]
    assert [(row["line"], row["reason"]) for row in read.rejected_lines] == [(n, "not_json") for n in (6, 7, 8, 9)]


SUBMISSIONS = [
    ({"id": "u"}, "bad_field"),
    ({"num_comments": 5}, "bad_field"),
    ({"id": 5, "num_comments": 4}, "bad_field"),
    ({"id": "", "num_comments": 4}, "bad_field"),
    ({"id": "u", "num_comments": None}, "bad_field"),
    ({"id": "u", "num_comments": True}, "bad_field"),
    ({"id": "u", "num_comments": "four"}, "bad_field"),
    ({"id": "\ud83d", "num_comments": 4}, "lone_surrogate"),
]


@pytest.mark.parametrize(("record", "rule"), SUBMISSIONS)
def test_a_broken_submission_is_rejected(months, happy, record, rule):
    months.thread()
    months.add("RS_2015-01", record)
    months.chain(happy)
    assert months.outcome() == (1, {rule: 1})


@pytest.mark.parametrize("num_comments", ["4", 4.0, 4])
def test_a_submission_may_state_its_comments_in_many_ways(months, happy, num_comments):
    months.thread(num_comments=num_comments, title="cut \ud83d")
    months.chain(happy)
    assert months.outcome(min_submission_comments=4) == (1, {})
    assert months.outcome(min_submission_comments=5) == (0, {"quiet_thread": 5})


def test_too_many_broken_lines_stop_the_run_and_name_the_file(months, happy, fast):
    months.thread("good", month="2015-02")
    months.chain(happy, month="2015-02", thread="good")
    for number in range(19):
        months.comment(f"x{number}")
    months.add("RC_2015-01", "{")
    assert fast(months.files(), RedditRules.from_base(), limits=Limits(reject_share=0.05)).removed["not_json"] == 1
    months.add("RC_2015-01", "{}")
    stopped = r"2 of the 21 lines of .*RC_2015-01 .*not_json: 1.*max_reject_share = 0.05"
    with pytest.raises(ValueError, match=stopped):
        fast(months.files(), RedditRules.from_base(), limits=Limits(reject_share=0.05))


def test_removed_comments_and_duplicates_stop_no_run(months, happy, fast):
    months.thread()
    months.chain(happy)
    months.chain(happy)
    months.chain(["[deleted]"] * 20, prefix="d")
    assert (
        fast(months.files(), RedditRules.from_base(), limits=Limits(reject_share=0.0)).removed["duplicate_comment"] == 5
    )


def test_the_report_explains_every_line_comment_and_path(months, happy):
    months.thread()
    months.thread("quiet", num_comments=1)
    months.thread("late", month="2015-02")
    months.chain(happy)
    months.comment("n", "c2", happy[4], score=-1)
    months.comment("q", thread="quiet")
    months.comment("o", thread="nowhere")
    for number, body in enumerate(["[deleted]", "> no", "short", f"{happy[0]} see http://a.com then?"]):
        months.comment(f"b{number}", "c3", body)
    months.chain(happy, month="2015-02", prefix="d", thread="late")
    months.add("RC_2015-02", "{")
    read = months.read()
    assert list(read.paths) == ["late/d4", "t/c4"]
    counts = {row["rule"]: (row["n_in"], row["n_removed"]) for row in read.filter_report if row["month"] == "2015-01"}
    assert counts["not_json"] == (14, 0)
    assert counts["submission"] == (14, 2)
    assert counts["deleted"] == (12, 1)
    assert counts["quote"] == (11, 1)
    assert counts["short_body"] == (10, 1)
    assert counts["no_submission"] == (9, 1)
    assert counts["quiet_thread"] == (8, 1)
    assert counts["not_a_leaf"] == (7, 4)
    assert counts["leaf_score"] == (3, 1)
    assert counts["link"] == (2, 1)
    assert counts["sentiment"] == (1, 0)


def test_months_are_found_by_name_and_other_files_ignored(tmp_path, caplog):
    names = ["RS_2015-02.xz", "RC_2015-02.zst", "RC_2014-12.bz2", "README.txt", "RC_2015-13.zst", "RC_2015-01.zst.part"]
    dumps = find_dumps({name: tmp_path / name for name in names})
    assert [(dump.month, dump.kind) for dump in dumps] == [("2014-12", "RC"), ("2015-02", "RC"), ("2015-02", "RS")]
    assert all(name in caplog.text for name in names[3:])


def test_no_month_of_comments_is_an_error_that_says_what_is_expected(tmp_path):
    with pytest.raises(InputDataError, match="expected RC_YYYY-MM"):
        find_dumps({"RS_2015-01.zst": tmp_path / "RS_2015-01.zst"})


def test_a_duplicate_month_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"RC_2015-01.bz2 and .*RC_2015-01.zst"):
        find_dumps({name: tmp_path / name for name in ("RC_2015-01.zst", "RC_2015-01.bz2")})


def test_a_missing_file_is_no_damage(tmp_path, fast):
    with pytest.raises(FileNotFoundError):
        fast({"RC_2015-01.zst": tmp_path / "RC_2015-01.zst"}, RedditRules.from_base())
