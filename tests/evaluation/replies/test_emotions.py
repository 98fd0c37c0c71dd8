"""Free emotion words as labels, confusions, and guesses in k, on dialogues counted by hand."""

from collections.abc import Callable

import pandas as pd
import pytest

from sage_dialog import schemas
from sage_dialog.core.tables import DataFrame, from_rows, to_rows
from sage_dialog.corpora.empathetic import EMOTIONS
from sage_dialog.evaluation.replies.emotion_labels import emotion_labels, read_emotion_labels
from sage_dialog.evaluation.replies.emotions import (
    UNMAPPED,
    UNNAMED,
    emotion_accuracy,
    emotion_confusion,
    emotion_top_k,
    majority_share,
    mapped_emotions,
    read_emotions,
    unmapped_emotions,
)
from sage_dialog.evaluation.statistics import proportion_interval
from sage_dialog.sac import Chain, Intent, render

Replies = Callable[..., DataFrame]


def reply(emotion: str | None) -> str:
    return render(Chain(Intent("sharing", emotion), Intent("comfort", "calm"), "Oh."))


BROKEN = "{u_motivation: sharing, u_emotion: afraid Oh."
LISTS = "version = 7\ndegrees = 'very'\n[labels]\n" + "\n".join(f"{label} = '{label}ly'" for label in EMOTIONS)


@pytest.fixture
def labelled() -> DataFrame:
    emotions = {"s1": "Afraid", "s2": "joyful", "s3": "joyful", "s4": "lonely"}
    rows = [
        {"situation_id": id_, "split": "train" if id_ == "s4" else "test", "emotion": emotion, "text": id_}
        for id_, emotion in emotions.items()
    ]
    return from_rows(rows, schemas.SITUATIONS)


@pytest.mark.parametrize(
    ("word", "label"),
    [
        ("afraid", "afraid"), ("worried", "anxious"), ("Very Sad", "sad"), ("a bit very nervous", "anxious"),
        ("looking forward", "anticipating"), ("gratitude", "grateful"),
        ("upset", None), ("sadly", None), ("sad and lonely", None), ("very", None), ("a bit", None), (None, None),
    ],
)  # fmt: skip
def test_words_are_mapped_by_the_lists_only(word: str | None, label: str | None) -> None:
    assert emotion_labels().label(word) == label


def test_the_lists_know_every_label_by_itself() -> None:
    assert sorted(emotion_labels().labels) == sorted(EMOTIONS)
    assert all(emotion_labels().label(label) == label for label in EMOTIONS)


def test_ambiguous_or_incomplete_lists_are_refused() -> None:
    assert read_emotion_labels(LISTS).version == 7
    with pytest.raises(ValueError, match="'afraidly' is in the lists of 'afraid' and 'angry'"):
        read_emotion_labels(LISTS.replace("'angryly'", "'angryly, afraidly'"))
    with pytest.raises(ValueError, match="bored: give each of the 32 labels"):
        read_emotion_labels(LISTS + "\nbored = 'tired'")
    with pytest.raises(ValueError, match="sad: give each of the 32 labels"):
        read_emotion_labels(LISTS.replace("\nsad = 'sadly'", ""))


def test_emotion_accuracy_by_hand(replies_of: Replies, labelled: DataFrame) -> None:
    replies = replies_of(
        sage_1={"s1": [reply("afraid"), reply("angry")], "s2": [reply("joyful")], "s3": [BROKEN, reply("joyful")]},
        sage_0={"s1": ["Oh."], "s2": ["Oh."], "s3": ["Oh."]},
    )
    rows = to_rows(emotion_accuracy(read_emotions(replies, labelled), labelled, 0.95))
    # Labels are compared in lower case; a broken reply is wrong; s2 ended before exchange 2.
    assert [(row["policy"], row["exchange"], row["n"], row["correct"]) for row in rows] == [
        ("sage_1", 1, 3, 2),
        ("sage_1", 2, 2, 1),
    ]
    assert rows[0]["accuracy"] == pytest.approx(2 / 3)
    assert (rows[0]["low"], rows[0]["high"]) == pytest.approx(proportion_interval(2, 3, 0.95))
    assert {row["chance"] for row in rows} == {1 / 3}


def test_a_played_situation_without_label_is_named(replies_of: Replies, labelled: DataFrame) -> None:
    with pytest.raises(ValueError, match="sage_1 played situation 's9'"):
        read_emotions(replies_of(sage_1={"s9": ["Oh."]}), labelled)


def test_majority_share_is_of_the_split(labelled: DataFrame) -> None:
    assert majority_share(labelled, "test") == pytest.approx(2 / 3)
    assert majority_share(labelled, "train") == 1.0
    with pytest.raises(ValueError, match="no valid situation"):
        majority_share(labelled, "valid")


def test_mapped_emotions_by_hand(replies_of: Replies, labelled: DataFrame) -> None:
    replies = replies_of(
        sage_1={
            "s1": [reply("scared")], "s2": [reply("upset"), reply("happy")], "s3": [BROKEN], "s4": [reply("joyful")]
        }
    )  # fmt: skip
    readings = read_emotions(replies, labelled)
    first, second = to_rows(mapped_emotions(readings, 0.95))
    counts = ("exchange", "n", "named", "mapped", "correct")
    # Word for word nothing would be right; "upset" is named and in no list, what is broken is not named.
    assert [first[key] for key in counts] == [1, 4, 3, 2, 1]
    assert [second[key] for key in counts] == [2, 1, 1, 1, 1]
    assert (first["coverage"], first["accuracy"]) == (2 / 3, 1 / 4)
    assert (first["coverage_low"], first["coverage_high"]) == proportion_interval(2, 3, 0.95)
    assert (first["low"], first["high"]) == proportion_interval(1, 4, 0.95)
    assert first["mapping"] == emotion_labels().version
    assert to_rows(unmapped_emotions(readings)) == [{"policy": "sage_1", "emotion": "upset", "n": 5, "count": 1}]
    assert emotion_accuracy(readings, labelled, 0.95)["correct"][0] == 0


def test_coverage_of_a_policy_that_names_nothing_is_null(replies_of: Replies, labelled: DataFrame) -> None:
    readings = read_emotions(replies_of(p={"s1": [BROKEN], "s2": [reply(None)]}), labelled)
    (row,) = to_rows(mapped_emotions(readings, 0.95))
    assert (row["named"], row["coverage"], row["coverage_low"], row["accuracy"]) == (0, None, None, 0.0)


def test_confusion_by_hand(replies_of: Replies, labelled: DataFrame) -> None:
    replies = replies_of(
        # The second exchange is not counted: the label describes the situation.
        sage_1={"s1": [reply("scared"), reply("angry")], "s2": [reply("upset")], "s3": [reply("glad")], "s4": [BROKEN]}
    )
    rows = to_rows(emotion_confusion(read_emotions(replies, labelled), 0.95))
    assert [(row["label"], row["predicted"], row["count"], row["n"]) for row in rows] == [
        ("afraid", "afraid", 1, 1),
        ("lonely", UNNAMED, 1, 1),
        ("joyful", "joyful", 1, 2),
        ("joyful", UNMAPPED, 1, 2),
    ]
    assert (rows[2]["share"], rows[2]["low"], rows[2]["high"]) == (0.5, *proportion_interval(1, 2, 0.95))


def test_a_policy_that_ignores_the_user_is_exposed(replies_of: Replies, labelled: DataFrame) -> None:
    always = replies_of(p={situation: [reply("happy")] for situation in ("s1", "s2", "s3", "s4")})
    readings = read_emotions(always, labelled)
    # Its accuracy is the share of that label; it predicts the same for every label.
    assert mapped_emotions(readings, 0.95)["accuracy"][0] == 0.5
    assert set(emotion_confusion(readings, 0.95)["predicted"]) == {"joyful"}


def candidates_of(emotions: dict[str, list[str | None]], turn: int = 1) -> DataFrame:
    rows = [
        {"situation_id": id_, "turn": turn, "candidate": index, "text": "", "u_emotion": emotion, "valid": True,
         "chosen": index == 0}
        for id_, named in emotions.items()
        for index, emotion in enumerate(named)
    ]  # fmt: skip
    return from_rows(rows, schemas.CANDIDATES)


def accuracies(table: DataFrame, **of: object) -> list[object]:
    return [row["accuracy"] for row in to_rows(table) if all(row[key] == value for key, value in of.items())]


def test_guesses_are_ranked_by_how_many_candidates_name_them(labelled: DataFrame) -> None:
    drawn = {
        "s1": ["sad", "sad", "scared", "fear", "fearful"],  # three words for afraid come before one for sad
        "s2": ["angry", "angry", "upset", "upset", "glad", None],  # joyful is third, after a word of no list
        "s4": ["angry"],
    }
    table = emotion_top_k({"sage_1": candidates_of(drawn)}, labelled, 0.95)
    rows = to_rows(table)
    assert accuracies(table) == [1 / 3, 2 / 3, 2 / 3]  # k of 1, 3, 5
    assert {(row["n"], row["candidates"], row["emotions"]) for row in rows} == {(3, 4.0, 2.0)}
    assert [row["chance"] for row in rows] == [1 / 3, 1.0, 1.0]  # of three labels


def test_a_tie_counts_as_the_share_of_orders_that_are_right(labelled: DataFrame) -> None:
    drawn = {"s1": ["afraid", "sad", "angry", "joyful"]}
    assert accuracies(emotion_top_k({"p": candidates_of(drawn)}, labelled, 0.95)) == [1 / 4, 3 / 4, 1.0]


def test_only_first_replies_count_and_situations_searched_before_have_their_own_rows(labelled: DataFrame) -> None:
    first = candidates_of({"s1": ["afraid"], "s2": ["sad"]})
    later = candidates_of({"s1": ["sad"] * 9}, turn=3)
    second = candidates_of({"s2": ["joyful"], "s4": ["sad"]})
    third = candidates_of({"s1": ["afraid"], "s3": ["sad"]})
    searched = {"sage_1": pd.concat([first, later]), "sage_2": second, "sage_3": third}
    rows = emotion_top_k(searched, labelled, 0.95)
    assert accuracies(rows, policy="sage_1", k=1) == [0.5]
    assert accuracies(rows, policy="sage_2", k=1, searched_before=False) == [0.0]
    assert accuracies(rows, policy="sage_2", k=1, searched_before=True) == [1.0]
    assert accuracies(rows, policy="sage_3", k=1, searched_before=True) == [1.0]


def test_a_searched_situation_without_label_is_named(labelled: DataFrame) -> None:
    with pytest.raises(ValueError, match="sage_1 searched situation 's9'"):
        emotion_top_k({"sage_1": candidates_of({"s9": ["sad"]})}, labelled, 0.95)
