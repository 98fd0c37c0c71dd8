"""Warnings about an annotator that labels few utterances."""

import pytest

from sage_dialog.config import Corpora
from sage_dialog.core.tables import DataFrame, from_rows
from sage_dialog.pipelines.sac_augmentation.nodes import annotate_dialogues
from sage_dialog.roles.label_coverage import label_warnings
from sage_dialog.roles.offline.annotator import OfflineAnnotator
from sage_dialog.schemas import ANNOTATIONS, CORPUS_DIALOGUES, DIALOGUES, TEXT_DUPLICATES


def annotations(
    annotator: str, motivations: int, emotions: int, topics: int, corpus: str = ""
) -> list[dict[str, object]]:
    """Return rows of 100 utterances, of which so many have each label."""
    return [
        {
            "dialogue_id": f"{corpus}d{turn}",
            "turn": 0,
            "role": "user",
            "motivation": "sharing" if turn < motivations else None,
            "emotion": "sad" if turn < emotions else None,
            "topics": ["roses", "garden"] if turn < topics else [] if turn % 2 else None,
            "text": "Hi.",
            "original_text": "Hi.",
            "kept_original": False,
            "annotator": annotator,
        }
        for turn in range(100)
    ]


def warnings(*rows: list[dict[str, object]]) -> list[str]:
    table: DataFrame = from_rows([row for several in rows for row in several], ANNOTATIONS)
    return list(label_warnings(table))


def test_labels_of_few_utterances_are_a_warning_that_names_the_annotator() -> None:
    assert warnings(annotations("lexicon", 100, 6, 19), annotations("model", 20, 90, 100)) == [
        "lexicon gives an emotion to 6.0 % of 100 utterances.",
        "lexicon gives topics to 19.0 % of 100 utterances.",
    ]


def test_a_corpus_is_no_annotator_but_what_annotates_its_dialogues_is() -> None:
    own = annotations("esconv", 0, 100, 0, "esconv/train/")
    annotated = annotations("lexicon", 100, 6, 100, "esconv/train/")
    assert warnings(own, annotated) == ["lexicon gives an emotion to 6.0 % of 100 utterances."]


def test_the_annotation_logs_the_warning(caplog: pytest.LogCaptureFixture) -> None:
    turn = {"comment_id": "c", "author": None, "text": "Quantum flux capacitors."}
    dialogue = {"dialogue_id": "d", "subreddit": "aww", "link_id": "t3_d", "month": "2015-01", "turns": [turn] * 2}
    rows = [dialogue | {"n_turns": 2, "mean_words": 3.0, "min_sentiment": 0.0}]
    none = from_rows([], CORPUS_DIALOGUES), from_rows([], TEXT_DUPLICATES)
    annotate_dialogues(from_rows(rows, DIALOGUES), *none, OfflineAnnotator(), Corpora.from_base())
    assert "offline-lexicon-annotator gives an emotion to 0.0 % of 2 utterances." in caplog.text


def test_no_utterance_is_no_warning() -> None:
    assert warnings() == []
