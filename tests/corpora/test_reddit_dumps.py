"""Reading months: every format, every kind of dirt counted, and a report that explains every line."""

import bz2
import gzip
import json
import lzma

import pytest
import zstandard

from sage_dialog.corpora.compression import DamagedFileError, read_lines
from sage_dialog.corpora.reddit import read_dialogues
from sage_dialog.corpora.reddit.dumps import find_dumps
from sage_dialog.parameters import RedditRules

GOOD = {"id": "x", "parent_id": "t3_t", "link_id": "t3_t", "subreddit": "aww", "score": 1, "body": "two words"}


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
def test_every_format_reads_the_same(months, happy, suffix):
    months.thread()
    months.chain(happy * 3)
    plain = months.read()
    for path in list(months.folder.iterdir()):
        path.with_name(path.name + suffix).write_bytes(COMPRESS[suffix](path.read_bytes()))
        if suffix:
            path.unlink()
    months.lines.clear()
    assert months.read() == plain
    assert len(plain[0]) == 1


@pytest.mark.parametrize("suffix", [".zst", ".bz2", ".xz", ".gz"])
def test_a_cut_archive_gives_what_stands_before_the_cut(months, happy, suffix):
    months.thread()
    months.chain(happy)
    for number in range(40_000):
        months.comment(f"f{number}", body=f"filler {number * 7919 % 40_009:x}")
    files = months.files()
    whole = COMPRESS[suffix](files["RC_2015-01"].read_bytes())
    files.pop("RC_2015-01").unlink()
    (months.folder / f"RC_2015-01{suffix}").write_bytes(whole[: len(whole) * 9 // 10])
    months.lines.clear()
    dialogues, removed = months.read()
    assert [dialogue["dialogue_id"] for dialogue in dialogues] == ["c4"]
    assert removed["damaged_archive"] == 1
    assert 10_000 < removed["few_turns"] < 40_000


@pytest.mark.parametrize("cut", [0.3, 0.9])
def test_a_cut_frame_is_not_taken_for_the_end(tmp_path, cut):
    lines = [f"line {number * 7919 % 100_003:x}\n".encode() for number in range(100_000)]
    whole = COMPRESS[".zst"](b"".join(lines))
    path = tmp_path / "RC_2015-01.zst"
    path.write_bytes(whole)
    assert list(read_lines(path)) == lines
    path.write_bytes(whole[: int(len(whole) * cut)])
    read = []
    with pytest.raises(DamagedFileError, match=r"RC_2015-01.zst breaks off"):
        for line in read_lines(path):
            read.append(line)
    assert len(read) > cut * 50_000
    assert read == lines[: len(read)]


def test_a_plain_file_cut_in_a_line_loses_that_line(months, happy):
    months.thread()
    months.chain(happy)
    files = months.files()
    text = files["RC_2015-01"].read_bytes()
    files["RC_2015-01"].write_bytes(text + text[:50])
    dialogues, report = read_dialogues(files, RedditRules(max_reject_share=1))
    assert len(dialogues) == 1
    assert {row["rule"]: row["removed"] for row in report}["not_json"] == 1


def test_a_file_that_is_no_archive_is_counted_and_named(months, happy, caplog):
    months.thread()
    months.chain(happy)
    months.files()
    (months.folder / "RC_2015-02.zst").write_bytes(b"<html>Not found</html>")
    dialogues, removed = months.read()
    assert len(dialogues) == 1
    assert removed["damaged_archive"] == 1
    assert "RC_2015-02.zst breaks off" in caplog.text


@pytest.mark.parametrize(
    ("line", "rule"),
    [
        ("{", "not_json"),
        ("not json", "not_json"),
        ("[" * 100_000, "not_json"),
        ('{"id": 1' + "0" * 5000 + "}", "not_json"),
        ("[]", "bad_field"),
        ("null", "bad_field"),
        ("{}", "bad_field"),
        *((json.dumps({k: v for k, v in GOOD.items() if k != field}), "bad_field") for field in GOOD),
        *((json.dumps(GOOD | {field: None}), "bad_field") for field in GOOD if field != "score"),
        *((json.dumps(GOOD | {field: 7}), "bad_field") for field in GOOD if field != "score"),
        *((json.dumps(GOOD | {field: ""}), "bad_field") for field in ("id", "parent_id", "link_id", "subreddit")),
        *((json.dumps(GOOD | {"score": score}), "bad_field") for score in ("1", 1.5, True, [])),
        *((json.dumps(GOOD | {field: "cut \ud83d"}), "lone_surrogate") for field in GOOD if field != "score"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else value,
)
def test_a_broken_line_is_counted_by_its_reason_and_the_rest_is_read(months, happy, line, rule):
    months.thread()
    months.add("RC_2015-01", line)
    months.chain(happy)
    months.add("RC_2015-01", "  ")
    dialogues, removed = months.read()
    assert len(dialogues) == 1
    assert removed == {rule: 1, "submission": 1, "not_a_leaf": 4}


@pytest.mark.parametrize("raw", [b"\xff\xfe", b'{"id": "\xed\xa0\xbd"}'], ids=["latin", "surrogate bytes"])
def test_bytes_that_are_no_utf8_are_counted(months, happy, raw):
    months.thread()
    months.chain(happy)
    files = months.files()
    with files["RC_2015-01"].open("ab") as file:
        file.write(raw + b"\n")
    dialogues, report = read_dialogues(files, RedditRules(max_reject_share=1))
    assert len(dialogues) == 1
    assert {row["rule"]: row["removed"] for row in report}["not_json"] == 1


@pytest.mark.parametrize("record", [{"id": "u"}, {"id": 5, "num_comments": 4}, {"id": "u", "num_comments": "4"}])
def test_a_broken_submission_is_counted(months, happy, record):
    months.thread()
    months.add("RS_2015-01", record)
    months.chain(happy)
    dialogues, removed = months.read()
    assert len(dialogues) == 1
    assert removed["bad_field"] == 1


def test_a_surrogate_pair_is_a_character_and_a_stray_field_no_matter(months, happy):
    months.thread()
    months.chain([f"{happy[0]} \U0001f600", *happy[1:]], edited=12.5, created_utc="1420070400", author=None)
    dialogues, removed = months.read()
    assert dialogues[0]["turns"][0]["text"] == happy[0]
    assert removed == {"submission": 1, "not_a_leaf": 4}


def test_of_comments_with_the_same_id_the_first_holds(months, happy):
    months.thread()
    months.thread()
    months.chain(happy)
    months.comment("c4", "c3", "This is awful and I hate it.", month="2015-02")
    dialogues, removed = months.read()
    assert dialogues[0]["turns"][4]["text"] == happy[4]
    assert removed == {"duplicate_id": 2, "submission": 1, "not_a_leaf": 4}


def test_a_month_with_too_many_broken_lines_stops_the_run_by_name(months, happy):
    months.thread("good", month="2015-02")
    months.chain(happy, month="2015-02", thread="good")
    months.thread()
    for number in range(18):
        months.comment(f"x{number}")
    months.add("RC_2015-01", "{")
    assert months.read(max_reject_share=0.05)
    months.add("RC_2015-01", "{}")
    with pytest.raises(ValueError, match=r"2 of the 21 lines of Reddit month 2015-01 .*not_json: 1.*max_reject_share"):
        months.read(max_reject_share=0.05)


def test_the_report_explains_every_line_comment_and_path(months, happy, assert_explained):
    months.thread()
    months.thread("quiet", num_comments=1)
    months.thread("late", month="2015-02")
    months.chain(happy)
    months.comment("n", "c2", happy[4], score=-1)
    months.comment("q", thread="quiet")
    months.comment("o", thread="nowhere")
    for number, body in enumerate(["[deleted]", "> no", "short", "see http://a.com then"]):
        months.comment(f"b{number}", "c3", body)
    months.chain(happy, month="2015-02", prefix="d", thread="late")
    months.add("RC_2015-02", "{")
    dialogues, report = read_dialogues(months.files(), RedditRules(max_reject_share=1))
    assert_explained(report, dialogues)
    assert sorted(dialogue["dialogue_id"] for dialogue in dialogues) == ["c4", "d4"]
    counts = {row["rule"]: (row["came_in"], row["removed"]) for row in report if row["month"] == "2015-01"}
    assert counts["not_json"] == (14, 0)
    assert counts["submission"] == (14, 2)
    assert counts["no_submission"] == (12, 1)
    assert counts["quiet_thread"] == (11, 1)
    assert counts["deleted"] == (10, 1)
    assert counts["quote"] == (9, 1)
    assert counts["short_body"] == (8, 1)
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
    with pytest.raises(FileNotFoundError, match="expected RC_YYYY-MM"):
        find_dumps({"RS_2015-01.zst": tmp_path / "RS_2015-01.zst"})


def test_a_month_that_stands_there_twice_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"RC_2015-01.bz2 and .*RC_2015-01.zst"):
        find_dumps({name: tmp_path / name for name in ("RC_2015-01.zst", "RC_2015-01.bz2")})


def test_a_missing_file_is_no_damage(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_dialogues({"RC_2015-01.zst": tmp_path / "RC_2015-01.zst"}, RedditRules())
