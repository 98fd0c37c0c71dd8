"""Labels that a corpus has are taken; what has none goes to the annotator; held-out dialogues are not annotated."""

from typing import Any

import pytest

from sage_dialog import schemas
from sage_dialog.config import Corpora, SacAugmentation
from sage_dialog.core.tables import from_rows, to_rows
from sage_dialog.corpora.rejects import InputDataError
from sage_dialog.pipelines.sac_augmentation.nodes import annotate_dialogues
from sage_dialog.roles.protocols import LabelledUtterance, RejectedDialogue
from sage_dialog.sac import Intent
from sage_dialog.training_data.mix import training_mix
from sage_dialog.training_data.sources import SourceReader


class Annotator:
    """Labels every utterance alike, in other words, and rejects dialogues that hold the word `bad`."""

    name = "test-annotator"

    def __init__(self) -> None:
        self.seen: list[list[str]] = []

    def annotate(self, dialogues):
        for dialogue in dialogues:
            self.seen.append([message.text for message in dialogue])
            if any("bad" in message.text for message in dialogue):
                yield RejectedDialogue("bad words", "no")
            else:
                yield tuple(
                    LabelledUtterance(Intent("guess", "calm", ()), message.text.upper()) for message in dialogue
                )


def turn(role: str, text: str, motivation=None, emotion=None, topics=None) -> dict[str, Any]:
    values = {"motivation": motivation, "emotion": emotion, "topics": topics}
    sources = {f"{field}_source": "human" if value else None for field, value in values.items()}
    return {"role": role, "text": text, **values, **sources, "labels": []}


def dialogue(name: str, *turns: dict[str, Any], split: str = "train") -> dict[str, Any]:
    return {"dialogue_id": f"c/{split}/{name}", "corpus": "c", "split": split, "labels": [], "turns": list(turns)}


LABELLED = dialogue(
    "labelled",
    turn("user", "Hi", emotion="sad", topics=["keys"]),
    turn("assistant", "Oh.", "question", topics=["keys"]),
    turn("assistant", "Really?", "reassurance", topics=["home"]),
)
BARE = dialogue("bare", turn("user", "Hey"), turn("assistant", "Yes."))


def annotated(*rows: dict[str, Any], missing: str = "dialogues", removed: tuple[str, ...] = ()):
    annotator = Annotator()
    duplicates = [
        {"dialogue_id": name, "source": "c", "split": "train", "kind": "exact", "overlap": 1.0, "copy_of": "x",
         "copy_source": "c", "copy_split": "test", "removed": True} for name in removed
    ]  # fmt: skip
    tables = annotate_dialogues(
        from_rows([], schemas.DIALOGUES),
        from_rows(rows, schemas.CORPUS_DIALOGUES),
        from_rows(duplicates, schemas.TEXT_DUPLICATES),
        annotator,
        Corpora.from_base(missing_labels=missing),
    )
    return annotator, *map(to_rows, tables)


def labels(row: dict[str, Any]) -> tuple[Any, ...]:
    fields = ("motivation", "emotion", "topics")
    return row["role"], row["text"], *((row[field], row[f"{field}_source"]) for field in fields)


def test_labels_of_the_corpus_are_taken_and_the_rest_goes_to_the_annotator(caplog):
    annotator, rows, rejects = annotated(LABELLED, BARE)
    assert annotator.seen == [["Hey", "Yes."]]
    assert [labels(row) for row in rows] == [
        ("user", "Hi", (None, None), ("sad", "human"), (["keys"], "human")),
        ("assistant", "Oh. Really?", ("question", "human"), (None, None), (["keys", "home"], "human")),
        ("user", "Hey", ("guess", "annotator"), ("calm", "annotator"), ([], None)),
        ("assistant", "Yes.", ("guess", "annotator"), ("calm", "annotator"), ([], None)),
    ]
    assert [row["annotator"] for row in rows] == ["c", "c", "test-annotator", "test-annotator"]
    assert [row["turn"] for row in rows] == [0, 1, 0, 1]
    assert all(row["text"] == row["original_text"] and not row["kept_original"] for row in rows)
    assert rejects == []
    assert "c: 1 labels of utterances differ from the first of the same turn" in caplog.text


def test_the_annotator_fills_in_missing_labels_where_it_is_asked_to():
    annotator, rows, _ = annotated(LABELLED, missing="labels")
    assert annotator.seen == [["Hi", "Oh. Really?"]]
    assert [labels(row) for row in rows] == [
        ("user", "Hi", ("guess", "annotator"), ("sad", "human"), (["keys"], "human")),
        ("assistant", "Oh. Really?", ("question", "human"), ("calm", "annotator"), (["keys", "home"], "human")),
    ]


def test_a_dialogue_that_the_annotator_rejects_keeps_the_labels_of_its_corpus():
    bad = dialogue("bad", turn("user", "bad", emotion="sad"), turn("assistant", "Oh."))
    none = dialogue("none", turn("user", "bad"), turn("assistant", "Oh."))
    _, rows, rejects = annotated(bad, none, missing="labels")
    assert [(row["dialogue_id"], row["emotion"]) for row in rows] == [("c/train/bad", "sad"), ("c/train/bad", None)]
    assert [row["dialogue_id"] for row in rejects] == ["c/train/none"]


def test_held_out_dialogues_and_their_copies_are_not_trained_on():
    held_out = [
        dialogue(split, turn("user", "Hi"), turn("assistant", "Yo"), split=split) for split in ("valid", "test")
    ]
    annotator, rows, rejects = annotated(LABELLED, BARE, *held_out, removed=("c/train/bare",))
    assert {row["dialogue_id"] for row in rows} == {"c/train/labelled"}
    assert annotator.seen == [] and rejects == []


def test_a_source_of_the_mix_can_be_one_corpus():
    other = {**LABELLED, "dialogue_id": "d/train/1", "corpus": "d"}
    _, rows, _ = annotated(LABELLED, other)
    reader = SourceReader(from_rows(rows, schemas.ANNOTATIONS), {}, None)
    prompts = {"listener": "", "speaker": "", "instructions": ""}

    def mixed(of: str) -> list[str]:
        mix = [{"name": "one", "kind": "listener", "of": of}]
        config = SacAugmentation.model_validate({"mix": mix, "system_prompts": prompts, "blend": None})
        return [row["conversation_id"] for row in to_rows(training_mix(reader, config, 0, "chain")[0])]

    assert mixed("d/*") == ["one:d/train/1"]
    assert sorted(mixed("*")) == ["one:c/train/labelled", "one:d/train/1"]
    with pytest.raises(
        InputDataError, match=r"source 'one' of the mix: no annotated .* matches e/\*; ids begin with c, d"
    ):
        mixed("e/*")
