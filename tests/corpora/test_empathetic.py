"""EmpatheticDialogues files, with the dirt that the originals have."""

import lzma
from collections import Counter

import pyarrow as pa
import pytest

from sage_dialog import schemas
from sage_dialog.corpora.empathetic import COLUMNS, EMOTIONS, Situation, read_situations
from sage_dialog.corpora.set_aside import count_reasons

HEADER = ",".join(COLUMNS)


def row(conv="hit:0_conv:0", index="1", emotion="sad", prompt="I lost my dog_comma_ again.", speaker="3", said="Oh."):
    return f"{conv},{index},{emotion},{prompt},{speaker},{said},5|5|5_5|5|5,"


@pytest.fixture
def read(tmp_path):
    """Situations and reasons from rows by split."""

    def read_rows(ending="\n", **splits):
        for split, rows in splits.items():
            (tmp_path / f"{split}.csv").write_bytes((ending.join([HEADER, *rows]) + ending).encode())
        situations, set_aside = read_situations({path.name: path for path in tmp_path.iterdir()})
        return situations, [(record.where, record.reason) for record in set_aside]

    return read_rows


def test_a_conversation_is_one_situation(read):
    rows = [row(), row(index="2", speaker="4"), row("hit:0_conv:1", emotion="proud", prompt=" My son won! ")]
    situations, set_aside = read(train=rows)
    assert situations == [
        Situation("hit:0_conv:0", "train", "sad", "I lost my dog, again."),
        Situation("hit:0_conv:1", "train", "proud", "My son won!"),
    ]
    assert set_aside == []


def test_splits_come_in_order_and_need_not_all_be_there(read):
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
def test_a_malformed_line_is_set_aside_by_place_and_reason(read, line, reason):
    situations, set_aside = read(train=[row("good"), line])
    assert [situation.situation_id for situation in situations] == ["good"]
    ((where, why),) = set_aside
    assert where == "train.csv:3"
    assert reason in why


def test_bytes_that_are_no_utf8_are_set_aside(tmp_path):
    path = tmp_path / "train.csv"
    path.write_bytes(f"{HEADER}\n{row('good')}\n".encode() + b"hit:1,1,sad,caf\xe9,3,a,b,c\n")
    situations, set_aside = read_situations({"train.csv": path})
    assert len(situations) == 1
    assert [(record.where, record.reason) for record in set_aside] == [("train.csv:3", "not UTF-8")]


def test_a_conversation_with_one_good_row_is_kept(read):
    situations, set_aside = read(train=["hit:0_conv:0,1,sad", row(index="2")])
    assert [situation.situation_id for situation in situations] == ["hit:0_conv:0"]
    assert len(set_aside) == 1


def test_an_open_quote_does_not_swallow_the_next_line(read):
    rows = [row("a", prompt="A.", said='"Oh'), row("b", prompt='"He said ""no""_comma_ twice."'), row("c", prompt="C.")]
    situations, set_aside = read(valid=rows)
    assert [situation.text for situation in situations] == ["A.", 'He said "no", twice.', "C."]
    assert set_aside == []


def test_a_ninth_column_of_candidate_replies_is_no_matter(read):
    situations, set_aside = read(valid=[row() + ",Oh no!|What, really?"])
    assert len(situations) == 1
    assert set_aside == []


@pytest.mark.parametrize("change", [{"emotion": "proud"}, {"prompt": "I found my dog."}])
def test_rows_that_contradict_the_first_of_their_conversation_are_set_aside(read, change):
    situations, set_aside = read(train=[row(), row(index="2", **change)])
    assert situations == [Situation("hit:0_conv:0", "train", "sad", "I lost my dog, again.")]
    assert set_aside == [("train.csv:3", "another emotion or prompt than its conversation's first row")]


@pytest.mark.parametrize("emotion", ["sad", "lonely"])
def test_of_situations_with_the_same_text_the_first_stays(read, emotion):
    again = row("b", emotion=emotion, prompt=" i LOST my  dog_comma_ again.")
    situations, set_aside = read(train=[row("a"), again])
    assert [situation.situation_id for situation in situations] == ["a"]
    assert set_aside == [("train.csv:3", "train situation with the text of an earlier one in train")]


def test_a_held_out_text_is_not_trained_on(read):
    situations, set_aside = read(train=[row("a")], valid=[row("b")], test=[row("c")])
    assert [(situation.situation_id, situation.split) for situation in situations] == [("c", "test")]
    assert len(set_aside) == 2


def test_situation_ids_never_collide(read):
    situations, set_aside = read(train=[row("a", prompt="One.")], test=[row("a", prompt="Two.")])
    assert [(situation.split, situation.text) for situation in situations] == [("test", "Two.")]
    assert set_aside == [("train.csv:2", "train conversation with the id of an earlier one in test")]


def test_counts_are_logged_by_reason(read, caplog):
    read(train=[row(), row("b", emotion="x"), row("c", emotion="y")])
    assert "2 set aside: a label that is none of the 32 emotions (first: train.csv:3)" in caplog.text


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


def test_a_cut_archive_gives_what_stands_before_the_cut(tmp_path):
    text = "\n".join([HEADER, *(row(f"c{n}", prompt=f"Situation {n * 7919 % 40_009:x}") for n in range(40_000))])
    whole = lzma.compress(text.encode())
    path = tmp_path / "train.csv.xz"
    path.write_bytes(whole[: len(whole) // 2])
    situations, set_aside = read_situations({path.name: path})
    assert 1_000 < len(situations) < 40_000
    assert "breaks off" in set_aside[-1].reason


def test_no_split_at_all_names_what_is_expected(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"\['notes.txt'\]: expected train.csv, valid.csv, test.csv"):
        read_situations({"notes.txt": tmp_path / "notes.txt"})


def test_a_split_that_stands_there_twice_is_refused(tmp_path):
    with pytest.raises(ValueError, match="the same split"):
        read_situations({name: tmp_path / name for name in ("train.csv", "train.csv.xz")})


def test_the_real_splits(shared):
    folder = shared("empathetic_dialogues")
    situations, set_aside = read_situations({path.name: path for path in folder.iterdir()})
    table = pa.Table.from_pylist([vars(situation) for situation in situations], schema=schemas.SITUATIONS)
    table.validate(full=True)
    assert len(set(table["situation_id"].to_pylist())) == table.num_rows
    assert set(table["emotion"].to_pylist()) == set(EMOTIONS)
    assert len(EMOTIONS) == 32
    splits = Counter(situation.split for situation in situations)
    reasons = count_reasons(set_aside)
    # The validation file has 2,770 conversations; a CSV reader finds 2,763, as open quotes swallow some.
    assert splits["valid"] + sum(count for reason, count in reasons.items() if reason.startswith("valid ")) == 2_770
    assert splits["train"] + sum(count for reason, count in reasons.items() if reason.startswith("train ")) == 19_544
    assert not any("_comma_" in situation.text for situation in situations)
