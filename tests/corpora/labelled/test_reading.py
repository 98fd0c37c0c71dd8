"""Corpora in their published forms, written by hand: what is read, and what is left out and counted."""

import io
import json
import lzma
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from sage_dialog.config import Corpora
from sage_dialog.core.tables import to_rows
from sage_dialog.corpora.labelled import read_corpora
from sage_dialog.corpora.rejects import InputDataError

PROJECT = Path(__file__).parents[3]
REAL = PROJECT.parent / "shared" / "data"

Rows = list[dict[str, Any]]


@pytest.fixture
def read(tmp_path):
    """Dialogues and rejects of a corpus in hand-made files, given by folder and name."""

    def read_files(corpus: str, share: float = 1.0, **folders: dict[str, bytes | str]) -> tuple[Rows, Rows]:
        names = ("esconv", "dailydialog", "empathetic_dialogues", "empathetic_intents", "own_dialogues")
        paths: dict[str, dict[str, Path]] = {name: {} for name in names}
        for folder, files in folders.items():
            for name, content in files.items():
                path = tmp_path / folder / name
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(content.encode() if isinstance(content, str) else content)
                paths[folder][name] = path
        config = Corpora.from_base(read=[corpus], max_reject_share=share)
        dialogues, rejects = read_corpora(paths, config)
        return to_rows(dialogues), to_rows(rejects)

    return read_files


def talk(*turns: tuple[str, str, str | None], **more: Any) -> dict[str, Any]:
    dialog = [{"speaker": who, "text": text} | ({"strategy": move} if move else {}) for who, text, move in turns]
    return {"emotion_type": "anxiety", "problem_type": "job crisis", "dialog": dialog, **more}


def lines(*records: Any) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


def intents(row: dict[str, Any]) -> list[tuple[Any, ...]]:
    return [(turn["role"], turn["motivation"], turn["emotion"], turn["topics"]) for turn in row["turns"]]


def reasons(rejects: Rows) -> list[tuple[str, str, str]]:
    return [(row["unit"], row["record"], row["reason"]) for row in rejects]


ESCONV = talk(
    ("sys", "Hello. ", "Question"), ("sys", "How are you?", "Reflection of feelings"), ("usr", "Bad.\n", None)
)


def test_esconv_keeps_every_utterance_with_its_strategy_and_the_labels_of_the_conversation(read):
    scores = {"seeker": {"empathy": "4"}, "supporter": {}}
    found, rejects = read("esconv", esconv={"valid.jsonl": lines({**ESCONV, "survey_score": scores})})
    assert rejects == []
    (row,) = found
    assert (row["dialogue_id"], row["corpus"], row["split"]) == ("esconv/valid/0", "esconv", "valid")
    assert intents(row) == [
        ("assistant", "question", None, ["job crisis"]),
        ("assistant", "reflecting feelings", None, ["job crisis"]),
        ("user", None, "anxious", ["job crisis"]),
    ]
    assert [turn["text"] for turn in row["turns"]] == ["Hello.", "How are you?", "Bad."]
    assert [turn["motivation_source"] for turn in row["turns"]] == ["human", "human", None]
    assert {label["name"]: label["value"] for label in row["labels"]} == {
        "emotion_type": "anxiety",
        "problem_type": "job crisis",
        "seeker_empathy": "4",
    }


def test_esconv_as_one_list_is_read_too_and_the_failed_conversations_only_where_they_are_named(read):
    turns = [
        {"speaker": "speaker", "annotation": {"feedback": "4"}, "content": "Hey\n"},
        {"speaker": "listener", "annotation": {"strategy": "Direct Guidance"}, "content": "Rest."},
    ]
    whole = json.dumps([{"emotion_type": "anger", "problem_type": "x", "dialog": turns}])
    files = {"FailedESConv.json": whole, "ESConv.json": whole, "strategy.json": "[1]"}
    failed, _ = read("failed_esconv", esconv=files)
    assert [row["dialogue_id"] for row in failed] == ["failed_esconv/train/0"]
    assert failed[0]["turns"][0]["labels"] == [{"name": "feedback", "value": "4"}]
    assert intents(failed[0])[1] == ("assistant", "suggestion", None, ["x"])
    assert [row["dialogue_id"] for row in read("esconv", esconv=files)[0]] == ["esconv/train/0"]


def test_what_cannot_be_used_is_left_out_by_name(read):
    records = [
        ESCONV,
        talk(("usr", "Hi", None), ("usr", "Anyone?", None)),
        talk(("usr", "Hi", None), ("sys", "  ", "Question")),
        talk(("usr", "Hi", None), ("sys", "Hello", "Jokes")),
        talk(("usr", "Hi", None), ("bot", "Hello", None)),
        {"dialog": []},
        {"talk": 1},
    ]
    found, rejects = read("esconv", esconv={"train.jsonl.xz": lzma.compress((lines(*records) + "no json\n").encode())})
    assert [row["dialogue_id"] for row in found] == ["esconv/train/0", "esconv/train/3"]
    assert intents(found[1])[1] == ("assistant", None, None, ["job crisis"])
    assert reasons(rejects) == [
        ("dialogue", "train.jsonl.xz:2", "only the user speaks"),
        ("dialogue", "train.jsonl.xz:3", "an utterance without text"),
        ("dialogue", "train.jsonl.xz:5", "utterance 1 has a speaker that is neither seeker nor supporter"),
        ("dialogue", "train.jsonl.xz:6", "no utterances"),
        ("dialogue", "train.jsonl.xz:7", "no list named dialog"),
        ("dialogue", "train.jsonl.xz:8", "not a JSON object"),
        ("label", "train.jsonl.xz:4", "strategy 'Jokes' is not in the label map"),
    ]


def test_losing_many_dialogues_or_labels_is_an_error_that_names_the_first(read):
    lonely = talk(("usr", "Hi", None))
    with pytest.raises(InputDataError, match=r"esconv: 1 of 2 dialogues .*first: train.jsonl:2: only the user speaks"):
        read("esconv", 0.3, esconv={"train.jsonl": lines(ESCONV, lonely)})
    odd = talk(*[("usr", "Hi", None), ("sys", "Hello", "Jokes")] * 3)
    with pytest.raises(InputDataError, match=r"esconv: 3 of 12 labels .*'Jokes' is not in the label map.*label map of"):
        read("esconv", 0.2, esconv={"train.jsonl": lines(odd)})
    assert len(read("esconv", 0.3, esconv={"train.jsonl": lines(odd)})[0]) == 1


def test_a_corpus_without_files_is_an_error_that_names_the_entry(read):
    with pytest.raises(InputDataError, match=r"corpora.read names dailydialog.*docs/corpora.md"):
        read("dailydialog")
    with pytest.raises(InputDataError, match="esconv has no dialogue in its files"):
        read("esconv", esconv={"strategy.json": "[1]"})


def test_a_missing_split_is_a_warning(read, caplog):
    read("esconv", esconv={"valid.jsonl": lines(ESCONV)})
    assert "esconv has no training split here" in caplog.text
    caplog.clear()
    read("esconv", esconv={"train.jsonl": lines(ESCONV)})
    assert "esconv has no held-out split here" in caplog.text


DAILY = "Hi , Jim . __eou__ What ’ s up ? __eou__ A beer ! __eou__\n"
OTHER = "Bye . __eou__ See you . __eou__\n"


def daily_files(split: str) -> dict[str, str]:
    return {
        f"dialogues_{split}.txt": DAILY + OTHER,
        f"dialogues_act_{split}.txt": "1 2 3\n1 \n",
        f"dialogues_emotion_{split}.txt": "0 6 4\n0 4\n",
    }


def zipped(files: dict[str, str | bytes], folder: str = "") -> bytes:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        for name, content in files.items():
            file.writestr(folder + name, content)
    return archive.getvalue()


def test_dailydialog_is_read_from_its_texts(read):
    topics = {"dialogues_text.txt": OTHER + DAILY, "dialogues_topic.txt": "7\n1\n"}
    plain, rejects = read("dailydialog", dailydialog={**daily_files("train"), **topics})
    assert intents(plain[0]) == [
        ("user", "inform", "neutral", ["ordinary life"]),
        ("assistant", "question", "surprised", ["ordinary life"]),
        ("user", "directive", "happy", ["ordinary life"]),
    ]
    assert intents(plain[1]) == [("user", None, "neutral", ["health"]), ("assistant", None, "happy", ["health"])]
    why = "1 acts of 2 utterances; which belongs to which is unknown"
    assert reasons(rejects) == [("label", "dialogues_train.txt:2", why)] * 2


def test_the_published_archive_of_dailydialog_has_the_same_dialogues(read):
    topics = {"dialogues_text.txt": OTHER + DAILY, "dialogues_topic.txt": "7\n1\n"}
    inner = {f"{split}.zip": zipped(daily_files(split), f"{split}/") for split in ("train", "validation", "test")}
    archive = zipped({**topics, **inner, "__MACOSX/._dialogues_text.txt": "x"}, "ijcnlp_dailydialog/")
    found, _ = read("dailydialog", dailydialog={"ijcnlp_dailydialog.zip": archive})
    assert [row["dialogue_id"] for row in found] == [
        f"dailydialog/{split}/{number}" for split in ("train", "valid", "test") for number in (0, 1)
    ]
    assert found[4]["turns"][1]["topics"] == ["ordinary life"]
    with pytest.raises(InputDataError, match=r"cannot be read: .*. Fetch it again"):
        read("dailydialog", dailydialog={"ijcnlp_dailydialog.zip": archive[:-30]})


def test_dailydialog_in_json_lines_has_its_misaligned_labels_left_out(read):
    rows = [
        {"split": "validation", "utts": ["Hi .", "Hello ."], "acts": [1, 1], "emotions": [0, 4], "topic": 1},
        {"split": "train", "utts": ["Hi .", "Hey ."], "acts": [1], "emotions": [0], "topic": 1, "topic_conflict": True},
    ]
    found, rejects = read("dailydialog", dailydialog={"dailydialog.jsonl": lines(*rows)})
    assert [row["dialogue_id"] for row in found] == ["dailydialog/valid/0", "dailydialog/train/0"]
    assert intents(found[1]) == [("user", None, None, None), ("assistant", None, None, None)]
    assert len(rejects) == 4 and {row["unit"] for row in rejects} == {"label"}


HEADER = "conv_id,utterance_idx,context,prompt,speaker_idx,utterance,selfeval,tags"
EMPATHETIC = "\n".join(
    [
        HEADER,
        "hit:0_conv:0,1,sad,I lost my dog_comma_ again.,3,I lost my dog.,5|5|5_5|5|5,",
        'hit:0_conv:0,2,sad,I lost my dog_comma_ again.,4,"Oh_comma_ no!,5|5|5_5|5|5,',
        "hit:0_conv:0,3,sad,I lost my dog_comma_ again.,3,Yes.,5|5|5_5|5|5,",
        "hit:1_conv:2,1,joyful,P.,5,Only me.,5|5|5_5|5|5,",
        "",
    ]
)


@pytest.mark.parametrize(
    "silver",
    [
        {"silver.tsv": "hit:0_conv:0\t0\tnone\tsad\n" + "".join(
            f"hit:0_conv:0\t{row}\tx\t{label}\n" for row, label in ((1, "lonely"), (2, "sympathizing"), (3, "agreeing"))
        )},
        {"sad.csv": "Dialog_ID,Type,Actor,Text,Label\nhit:0_conv:0,situation,none,P,sad\n"
                    'hit:0_conv:0,utterance,speaker,"I, lost",lonely\n'
                    "hit:0_conv:0,utterance,listener,Oh,sympathizing\nhit:0_conv:0,utterance,speaker,Yes,agreeing\n"},
    ],
    ids=["tsv", "csv"],
)  # fmt: skip
def test_empathetic_dialogues_have_the_speakers_emotion_and_silver_intents(read, silver):
    found, rejects = read(
        "empathetic_dialogues", empathetic_dialogues={"train.csv": EMPATHETIC}, empathetic_intents=silver
    )
    (row,) = found
    assert row["dialogue_id"] == "empathetic_dialogues/train/hit:0_conv:0"
    assert [turn["text"] for turn in row["turns"]] == ["I lost my dog.", '"Oh, no!', "Yes."]
    assert intents(row) == [
        ("user", None, "sad", None),
        ("assistant", "sympathizing", None, None),
        ("user", "agreeing", "sad", None),
    ]
    assert [turn["motivation_source"] for turn in row["turns"]] == [None, "silver", "silver"]
    assert [turn["emotion_source"] for turn in row["turns"]] == ["human", None, "human"]
    assert ("dialogue", "train.csv:5", "only the user speaks") in reasons(rejects)


def test_empathetic_dialogues_are_read_without_intents(read, caplog):
    found, _ = read("empathetic_dialogues", empathetic_dialogues={"train.csv": EMPATHETIC})
    assert intents(found[0])[1] == ("assistant", None, None, None)
    assert "EmpatheticIntents is not here" in caplog.text


def test_own_dialogues_come_with_and_without_labels(read):
    record = {
        "id": "tea",
        "messages": [
            {"role": "user", "content": "Hi", "motivation": "Sharing", "emotion": "sad", "topics": ["keys", "Home"]},
            {"role": "assistant", "content": "Hello!", "motivation": "question", "source": "silver"},
        ],
    }
    bare = {"split": "test", "messages": [{"role": "user", "content": "A"}, {"role": "assistant", "content": "B"}]}
    bad = {**record, "split": "dev2"}
    guess = {**record, "messages": [{**record["messages"][0], "source": "me"}]}
    found, rejects = read("own", own_dialogues={"valid.jsonl": lines(record, bare, bad, record, guess)})
    assert [row["dialogue_id"] for row in found] == ["own/valid/tea", "own/test/valid.jsonl:2"]
    assert intents(found[0]) == [("user", "sharing", "sad", ["keys", "home"]), ("assistant", "question", None, None)]
    assert [turn["motivation_source"] for turn in found[0]["turns"]] == ["human", "silver"]
    assert intents(found[1]) == [("user", None, None, None), ("assistant", None, None, None)]
    assert [why for *_, why in reasons(rejects)] == [
        "a split that is none of train, valid, test: 'dev2'",
        "an id that was there before",
        "message 0 has a source of labels that is neither human nor silver",
    ]


def test_the_label_maps_of_the_project_name_only_labels_that_a_chain_can_hold():
    for path in sorted((PROJECT / "conf/base/labels").glob("*.yml")):
        for rules in yaml.safe_load(path.read_text()).values():
            for rule in (rule for by_role in rules.values() for rule in by_role):
                values = [value for value in (rule.get("values") or {}).values() if value is not None]
                assert all(value == value.lower() and not set(value) & set("{}[],:") for value in values), path


def test_a_label_map_that_is_none_is_refused():
    labels = Corpora.from_base().model_dump()["labels"]
    with pytest.raises(ValidationError, match="no YAML"):
        Corpora.from_base(labels={**labels, "own": "a: [b"})
    with pytest.raises(ValidationError, match="expected motivation, emotion and topics"):
        Corpora.from_base(labels={**labels, "own": "just text"})
    with pytest.raises(ValidationError, match="moods"):
        Corpora.from_base(labels={**labels, "own": "moods: {}"})


@pytest.mark.skipif(not REAL.exists(), reason=f"needs the real corpora at {REAL}")
def test_the_real_validation_split_of_esconv_is_read_whole():
    config = Corpora.from_base(read=["esconv"])
    files = {"valid.jsonl": REAL / "esconv" / "valid.jsonl"}
    dialogues, rejects = read_corpora({"esconv": files}, config)
    turns = [turn for row in to_rows(dialogues) for turn in row["turns"]]
    assert (len(dialogues), len(rejects)) == (195, 0)
    moves = [turn["motivation"] for turn in turns if turn["role"] == "assistant"]
    assert len(moves) == 2722 and None not in moves and len(set(moves)) == 8
    assert moves.count("question") == 549
