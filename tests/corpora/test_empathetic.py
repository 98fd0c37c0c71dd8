"""EmpatheticDialogues files, with the faults of the originals."""

import bz2
import gzip
import io
import logging
import lzma
import tarfile
from collections import Counter

import pyarrow as pa
import pytest
import zstandard

from sage_dialog import schemas
from sage_dialog.corpora.empathetic import COLUMNS, EMOTIONS, Situation, read_situations
from sage_dialog.corpora.rejects import InputDataError

HEADER = ",".join(COLUMNS)


def row(
    conv="hit:0_conv:0", index="1", emotion="sad", prompt="I lost my dog_comma_ again.", speaker="3", utterance="Oh."
):
    return f"{conv},{index},{emotion},{prompt},{speaker},{utterance},5|5|5_5|5|5,"


def csv_bytes(*rows):
    return "\n".join([HEADER, *rows, ""]).encode()


def tar_bytes(**members):
    """An archive; keyword arguments name its members, in a folder, with `__` for a dot."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        folder = tarfile.TarInfo("empatheticdialogues")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
        for name, content in members.items():
            member = tarfile.TarInfo(f"empatheticdialogues/{name.replace('__', '.')}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return archive.getvalue()


SPLITS_IN_TAR = {
    "test__csv": csv_bytes(row("c", prompt="C.")),
    "train__csv": csv_bytes(row("a", prompt="A."), "hit:0,1,sad,too few,3"),
    "valid__csv": csv_bytes(row("b", prompt="B.")),
}


@pytest.fixture
def read(tmp_path):
    """Situations and reasons from rows by split."""

    def read_rows(ending="\n", same_text="first", **splits):
        for split, rows in splits.items():
            (tmp_path / f"{split}.csv").write_bytes((ending.join([HEADER, *rows]) + ending).encode())
        situations, rejects = read_situations({path.name: path for path in tmp_path.iterdir()}, same_text)
        return situations, [(record.where, record.reason) for record in rejects]

    return read_rows


def test_a_conversation_is_one_situation(read):
    rows = [row(), row(index="2", speaker="4"), row("hit:0_conv:1", emotion="proud", prompt=" My son won! ")]
    situations, rejects = read(train=rows)
    assert situations == [
        Situation("hit:0_conv:0", "train", "sad", "I lost my dog, again."),
        Situation("hit:0_conv:1", "train", "proud", "My son won!"),
    ]
    assert rejects == []


def test_splits_come_in_order_and_some_may_be_missing(read):
    situations, _ = read(test=[row("a", prompt="A.")], train=[row("b", prompt="B.")])
    assert [(situation.situation_id, situation.split) for situation in situations] == [("b", "train"), ("a", "test")]


def test_windows_line_ends_are_line_ends(read):
    assert read(ending="\r\n", train=[row()])[0][0].text == "I lost my dog, again."


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (row(prompt="I lost, my dog"), "columns out of place"),
        ("hit:0_conv:0,1,sad,too few,3", "fewer than 8 columns"),
        ("", "fewer than 8 columns"),
        (row(emotion="hangry"), "none of the 32 emotions"),
        (row(emotion="Sad"), "none of the 32 emotions"),
        (row(prompt="  "), "an empty prompt"),
        (row(conv=""), "columns out of place"),
        (row(index="one"), "columns out of place"),
    ],
)
def test_a_malformed_line_is_rejected_by_place_and_reason(read, line, reason):
    situations, rejects = read(train=[row("good"), line])
    assert [situation.situation_id for situation in situations] == ["good"]
    ((where, why),) = rejects
    assert where == "train.csv:3"
    assert reason in why


def test_bytes_that_are_no_utf8_are_rejected(tmp_path):
    path = tmp_path / "train.csv"
    path.write_bytes(f"{HEADER}\n{row('good')}\n".encode() + b"hit:1,1,sad,caf\xe9,3,a,b,c\n")
    situations, rejects = read_situations({"train.csv": path})
    assert len(situations) == 1
    assert [(record.where, record.reason) for record in rejects] == [("train.csv:3", "not UTF-8")]


def test_a_conversation_with_one_good_row_is_kept(read):
    situations, rejects = read(train=["hit:0_conv:0,1,sad", row(index="2")])
    assert [situation.situation_id for situation in situations] == ["hit:0_conv:0"]
    assert len(rejects) == 1


def test_an_open_quote_does_not_swallow_the_next_line(read):
    rows = [
        row("a", prompt="A.", utterance='"Oh'),
        row("b", prompt='"He said ""no""_comma_ twice."'),
        row("c", prompt="C."),
    ]
    situations, rejects = read(valid=rows)
    assert [situation.text for situation in situations] == ["A.", 'He said "no", twice.', "C."]
    assert rejects == []


def test_a_ninth_column_of_candidate_replies_is_ignored(read):
    situations, rejects = read(valid=[row() + ",Oh no!|What, really?"])
    assert len(situations) == 1
    assert rejects == []


@pytest.mark.parametrize("change", [{"emotion": "proud"}, {"prompt": "I found my dog."}])
def test_rows_that_contradict_the_first_of_their_conversation_are_rejected(read, change):
    situations, rejects = read(train=[row(), row(index="2", **change)])
    assert situations == [Situation("hit:0_conv:0", "train", "sad", "I lost my dog, again.")]
    assert rejects == [("train.csv:3", "another emotion or prompt than its conversation's first row")]


@pytest.mark.parametrize("emotion", ["sad", "lonely"])
def test_of_situations_with_the_same_text_the_first_is_kept(read, emotion):
    duplicate = row("b", emotion=emotion, prompt=" i LOST my  dog_comma_ again.")
    situations, rejects = read(train=[row("a"), duplicate])
    assert [situation.situation_id for situation in situations] == ["a"]
    assert rejects == [("train.csv:3", "train situation with the text of an earlier one in train")]


def test_a_held_out_text_is_not_trained_on(read):
    situations, rejects = read(train=[row("a")], valid=[row("b")], test=[row("c")])
    assert [(situation.situation_id, situation.split) for situation in situations] == [("c", "test")]
    assert len(rejects) == 2


def test_conversations_with_the_same_text_may_be_kept_and_are_counted(read, caplog):
    train = [row("a"), row("b", emotion="lonely"), row("c", prompt="Another."), row("d")]
    situations, rejects = read(same_text="all", train=train, valid=[row("e")], test=[row("f"), row("a", prompt="x")])
    assert [(situation.situation_id, situation.split) for situation in situations] == [
        *(("b", "train"), ("c", "train"), ("d", "train")),
        *(("e", "valid"), ("f", "test"), ("a", "test")),
    ]
    assert rejects == [("train.csv:2", "train conversation with the id of an earlier one in test")]
    assert "2 train situations have a text that is also in the held-out split test" in caplog.text
    assert "1 valid situations have a text that is also in the held-out split test" in caplog.text


def test_situation_ids_never_collide(read):
    situations, rejects = read(train=[row("a", prompt="One.")], test=[row("a", prompt="Two.")])
    assert [(situation.split, situation.text) for situation in situations] == [("test", "Two.")]
    assert rejects == [("train.csv:2", "train conversation with the id of an earlier one in test")]


def test_counts_are_logged_by_reason(read, caplog):
    read(train=[row(), row("b", emotion="x"), row("c", emotion="y")])
    assert "2 rejected: a label that is none of the 32 emotions (first: train.csv:3)" in caplog.text


def test_a_file_with_other_columns_is_refused_by_name(tmp_path):
    path = tmp_path / "train.csv"
    path.write_text("text,emotion\nI am sad,sad\n")
    with pytest.raises(ValueError, match=r"train.csv is no EmpatheticDialogues file: its first line is 'text,emotion'"):
        read_situations({"train.csv": path})


@pytest.mark.parametrize(("name", "content"), [("train.csv", b""), ("train.csv.xz", b"<html>")])
def test_a_file_without_a_readable_line_is_refused_by_name(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"{name} is no EmpatheticDialogues file"):
        read_situations({name: path})


def test_a_truncated_file_yields_the_rows_before_the_cut(tmp_path):
    text = "\n".join([HEADER, *(row(f"c{n}", prompt=f"Situation {n * 7919 % 40_009:x}") for n in range(40_000))])
    whole = lzma.compress(text.encode())
    path = tmp_path / "train.csv.xz"
    path.write_bytes(whole[: len(whole) // 2])
    situations, rejects = read_situations({path.name: path})
    assert 1_000 < len(situations) < 40_000
    assert "breaks off" in rejects[-1].reason


def test_no_split_at_all_names_what_is_expected(tmp_path):
    with pytest.raises(InputDataError, match=r"\['notes.txt'\]: expected train.csv, valid.csv, test.csv"):
        read_situations({"notes.txt": tmp_path / "notes.txt"})


def test_a_duplicate_split_is_refused(tmp_path):
    with pytest.raises(ValueError, match="the same split"):
        read_situations({name: tmp_path / name for name in ("train.csv", "train.csv.xz")})


@pytest.mark.parametrize(
    ("ending", "compress"),
    [
        (".tar", bytes),
        (".tar.gz", gzip.compress),
        (".tgz", gzip.compress),
        (".tar.bz2", bz2.compress),
        (".tar.xz", lzma.compress),
        (".tar.zst", zstandard.ZstdCompressor().compress),
    ],
)
def test_the_published_archive_is_read_as_it_is(tmp_path, ending, compress, caplog):
    path = tmp_path / f"empatheticdialogues{ending}"
    path.write_bytes(compress(tar_bytes(**SPLITS_IN_TAR)))
    situations, rejects = read_situations({path.name: path})
    assert [(situation.situation_id, situation.split, situation.text) for situation in situations] == [
        ("a", "train", "A."),
        ("b", "valid", "B."),
        ("c", "test", "C."),
    ]
    assert [(record.where, record.reason) for record in rejects] == [("train.csv:3", "fewer than 8 columns")]
    assert list(tmp_path.iterdir()) == [path]
    assert "ignored" not in caplog.text


def test_members_of_an_archive_may_be_compressed(tmp_path):
    path = tmp_path / "empatheticdialogues.tar"
    path.write_bytes(tar_bytes(train__csv__gz=gzip.compress(csv_bytes(row("a")))))
    assert [situation.situation_id for situation in read_situations({path.name: path})[0]] == ["a"]


def test_members_that_are_no_splits_are_ignored_by_name(tmp_path, caplog):
    path = tmp_path / "empatheticdialogues.tar"
    path.write_bytes(tar_bytes(README=b"read me", **{"._train__csv": b"a file manager's"}, **SPLITS_IN_TAR))
    assert len(read_situations({path.name: path})[0]) == 3
    for name in ("README", "._train.csv"):
        assert f"{path} (empatheticdialogues/{name}) is no EmpatheticDialogues split" in caplog.text


def test_a_missing_split_is_logged(tmp_path, caplog):
    path = tmp_path / "train.csv"
    path.write_bytes(csv_bytes(row("a")))
    with caplog.at_level(logging.WARNING):
        read_situations({path.name: path})
    assert "no valid and no test split" in caplog.text


def test_a_split_in_an_archive_and_beside_it_is_refused_by_both_names(tmp_path):
    tar, plain = tmp_path / "empatheticdialogues.tar", tmp_path / "valid.csv.gz"
    tar.write_bytes(tar_bytes(**SPLITS_IN_TAR))
    plain.write_bytes(gzip.compress(csv_bytes(row("b"))))
    with pytest.raises(ValueError, match="the same split") as refusal:
        read_situations({path.name: path for path in (tar, plain)})
    assert f"{tar} (empatheticdialogues/valid.csv) and {plain} " in str(refusal.value)


@pytest.mark.parametrize("ending", [".tar", ".tar.gz"])
def test_an_archive_that_is_cut_is_refused_by_name(tmp_path, ending):
    path = tmp_path / f"empatheticdialogues{ending}"
    whole = tar_bytes(train__csv=csv_bytes(*(row(f"c{n}", prompt=f"{n}.") for n in range(5_000))))
    path.write_bytes((gzip.compress(whole) if ending == ".tar.gz" else whole)[:20_000])
    with pytest.raises(ValueError, match=f"empatheticdialogues{ending} cannot be read to its end"):
        read_situations({path.name: path})


def test_a_file_that_is_no_archive_is_refused_by_name(tmp_path):
    path = tmp_path / "empatheticdialogues.tar"
    path.write_bytes(b"<html>404</html>")
    with pytest.raises(ValueError, match=r"empatheticdialogues\.tar cannot be read"):
        read_situations({path.name: path})


def test_the_real_splits(shared):
    files = {path.name: path for path in shared("empathetic_dialogues").iterdir()}
    situations, rejects = read_situations(files)
    table = pa.Table.from_pylist([vars(situation) for situation in situations], schema=schemas.SITUATIONS)
    table.validate(full=True)
    assert len(set(table["situation_id"].to_pylist())) == table.num_rows
    assert set(table["emotion"].to_pylist()) == set(EMOTIONS)
    assert len(EMOTIONS) == 32
    splits = Counter(situation.split for situation in situations)
    reasons = Counter(record.reason for record in rejects)
    # The validation file has 2,770 conversations; a CSV reader finds 2,763, as open quotes swallow some.
    assert splits["valid"] + sum(count for reason, count in reasons.items() if reason.startswith("valid ")) == 2_770
    assert splits["train"] + sum(count for reason, count in reasons.items() if reason.startswith("train ")) == 19_544
    assert not any("_comma_" in situation.text for situation in situations)

    splits = Counter(situation.split for situation in read_situations(files, same_text="all")[0])
    assert splits["valid"] == 2_770  # as the paper counts it (§3.4)
    other = reasons["train conversation with the id of an earlier one in valid"]
    assert splits["train"] == 19_544 - other
