"""The offline selector and judge on real conversations, which their word lists were not written from."""

import csv
from pathlib import Path

import pytest

from sage_dialog.core.seeds import generator
from sage_dialog.dialogue import Message
from sage_dialog.roles.offline.judge import OfflineJudge
from sage_dialog.roles.offline.selector import OfflineSelector
from sage_dialog.roles.protocols import Choice, Comparison

REAL = Path(__file__).parents[3] / "shared" / "data" / "empathetic_dialogues" / "valid.csv"
OTHERS = 15

pytestmark = pytest.mark.skipif(not REAL.exists(), reason=f"needs the real EmpatheticDialogues split at {REAL}")


@pytest.fixture(scope="module")
def conversations() -> list[list[str]]:
    """800 conversations of at least four utterances, the speaker's first."""
    found: dict[str, list[str]] = {}
    with REAL.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            found.setdefault(row["conv_id"], []).append(row["utterance"].replace("_comma_", ","))
    return [utterances for utterances in found.values() if len(utterances) >= 4][:800]


def strangers(conversations: list[list[str]], number: int, size: int) -> list[list[str]]:
    drawn = generator(0, "strangers", number).choice(len(conversations), size=size + 1, replace=False)
    return [conversations[other] for other in drawn if other != number][:size]


def test_the_selector_finds_the_real_answer_among_others(conversations: list[list[str]]) -> None:
    choices = []
    for number, talk in enumerate(conversations):
        answers = [talk[1], *(other[1] for other in strangers(conversations, number, OTHERS))]
        choices.append(Choice(f"{number}", (Message("user", talk[0]),), tuple(dict.fromkeys(answers))))
    found = sum(picked == 0 for picked in OfflineSelector().select(choices))
    # Chance is 1 in 16; three times that is far beyond what 800 draws would give by luck.
    assert found / len(choices) > 3 / (OTHERS + 1)


def test_the_judge_prefers_the_real_listener(conversations: list[list[str]]) -> None:
    comparisons = []
    for number, talk in enumerate(conversations):
        (other,) = strangers(conversations, number, 1)
        real, stranger = (
            (
                Message("user", talk[0]),
                Message("assistant", listener[1]),
                Message("user", talk[2]),
                Message("assistant", listener[3]),
            )
            for listener in (talk, other)
        )
        comparisons.append(Comparison(real, stranger))
    votes = [verdict.vote for verdict in OfflineJudge().judge(comparisons)]
    assert votes.count("first") > 2 * votes.count("second")
