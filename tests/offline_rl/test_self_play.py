"""Rewards of a policy's own replies, from comparisons with others that it draws."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from sage_dialog.core.tables import DataFrame, from_rows
from sage_dialog.corpora.rejects import InputDataError
from sage_dialog.offline_rl.self_play import compare_replies, rewarded_dialogues
from sage_dialog.roles.protocols import Choice, NoChoice
from sage_dialog.schemas import CANDIDATES, REPLY_COMPARISONS, TRAJECTORIES

CHAIN = (
    "{u_motivation: sharing, u_emotion: sad, u_topic: [rain]} "
    "{a_motivation: comfort, a_emotion: warm, a_topic: [rain]} "
)


class LongerReply:
    """Selects the longer reply; 13 letters are unreadable, and neither of two with an x is good."""

    name = "longer"

    def __init__(self) -> None:
        self.expected: int | None = None
        self.seen: list[Choice] = []

    def expect(self, choices: int) -> None:
        self.expected = choices

    def select(self, choices: Sequence[Choice]) -> list[int | NoChoice]:
        self.seen += choices
        return [self._select(choice.candidates) for choice in choices]

    def _select(self, candidates: Sequence[str]) -> int | NoChoice:
        if any(len(text) == 13 for text in candidates):
            return NoChoice.UNREADABLE
        if all("x" in text for text in candidates):
            return NoChoice.NONE_GOOD
        return max(range(2), key=lambda place: len(candidates[place]))


def played(dialogues: dict[str, Sequence[Sequence[str]]]) -> tuple[DataFrame, DataFrame]:
    """Return rollouts and candidates; each turn of the agent has its reply and what was drawn beside it."""
    rows, candidates = [], []
    for name, turns in dialogues.items():
        messages = [("user", "It rains.", "It rains.")]
        for drawn in turns:
            candidates += [
                {"situation_id": name, "turn": len(messages), "candidate": number, "text": text}
                | {"utterance": text.removeprefix(CHAIN), "valid": text.startswith(CHAIN), "chosen": number == 0}
                for number, text in enumerate(drawn)
            ]
            messages += [("assistant", drawn[0].removeprefix(CHAIN), drawn[0]), ("user", "Oh.", "Oh.")]
        rows += [
            {"situation_id": name, "turn": turn, "role": role, "text": text, "content": content, "outcome": "end"}
            for turn, (role, text, content) in enumerate(messages)
        ]
    return from_rows(rows, TRAJECTORIES), from_rows(candidates, CANDIDATES)


def replies(*lengths: int) -> list[str]:
    return [CHAIN + "o" * length for length in lengths]


def test_a_reply_is_compared_with_what_was_drawn_beside_it() -> None:
    selector = LongerReply()
    rollouts, candidates = played({"a#0": [[*replies(2, 1, 3, 2), "{broken o"], replies(4, 1, 3, 2)]})
    table = compare_replies(selector, rollouts, candidates, 0)
    assert table[["turn", "candidate", "vote"]].to_numpy().tolist() == [
        *([1, 1, "reply"], [1, 2, "candidate"], [1, 3, "tie"]),
        *([3, 1, "reply"], [3, 2, "reply"], [3, 3, "reply"]),
    ]
    assert set(table["selector"]) == {"longer"} and selector.expected == len(selector.seen) == 5, "a tie is not asked"
    assert [message.text for message in selector.seen[-1].history] == ["It rains.", "oo", "Oh."]
    assert not any("u_motivation" in message.content for choice in selector.seen for message in choice.history)
    assert len({choice.item for choice in selector.seen}) == 5


def test_neither_side_is_always_offered_first() -> None:
    selector = LongerReply()
    compare_replies(selector, *played({f"a#{number}": [replies(2, 1)] for number in range(40)}), 0)
    first = sum(choice.candidates[0] == "oo" for choice in selector.seen)
    assert 10 < first < 30


def test_a_reward_is_the_share_of_wins() -> None:
    rollouts, candidates = played(
        {
            "a#1#0": [replies(2, 2, 3), replies(5, 2, 3)],
            "a#1#1": [replies(1, 2, 3), [CHAIN + "x", CHAIN + "oo", CHAIN + "xx"]],
            "b#0": [replies(1, 2, 3), replies(13, 2, 3)],
            "b#1": [replies(3, 1, 2)],
        }
    )
    table = compare_replies(LongerReply(), rollouts, candidates, 0)
    found = rewarded_dialogues(rollouts, table, "Be kind.", 0.5, 0.5, 0).set_index("dialogue_id")
    assert {name: list(rewards) for name, rewards in found["reply_rewards"].items()} == {
        "a#1#0": [0.25, 1],  # a tie and a loss; two wins
        "a#1#1": [0, 0.25],  # two losses; a loss, and neither good
        "b#0": [0, 0.5],  # two losses; nothing readable
        "b#1": [1],
    }
    assert found["reward"]["a#1#0"] == 0.625 and found["success"]["a#1#0"] and not found["success"]["a#1#1"]
    by_situation = found.groupby([name.rpartition("#")[0] for name in found.index])["split"].unique()
    assert sorted(split for (split,) in by_situation) == ["train", "valid"], "situations are held out as a whole"
    messages = found.loc["b#1", "messages"]
    assert [message["role"] for message in messages] == ["system", "user", "assistant"]
    assert messages[2]["content"].startswith("{u_motivation")


def test_dialogues_that_nothing_can_be_learnt_from_are_dropped_up_to_a_share(caplog: pytest.LogCaptureFixture) -> None:
    rollouts, candidates = played(
        {"a#0": [replies(1, 2)], "a#1": [["{broken o", *replies(2)]], "a#2": [replies(13, 2)], "a#3": [replies(3, 2)]}
    )
    table = compare_replies(LongerReply(), rollouts, candidates, 0)
    found = rewarded_dialogues(rollouts, table, None, 0.0, 0.5, 0)
    assert dict(zip(found["dialogue_id"], found["reward"], strict=True)) == {"a#0": 0, "a#3": 1}
    assert "2 of 4 dialogues" in caplog.text
    with pytest.raises(InputDataError, match=r"2 of 4 dialogues .*max_dropped_share = 0.4 .*rl_comparisons"):
        rewarded_dialogues(rollouts, table, None, 0.0, 0.4, 0)
    with pytest.raises(InputDataError, match=r"4 of 4 dialogues"):
        rewarded_dialogues(rollouts, from_rows([], REPLY_COMPARISONS), None, 0.0, 1.0, 0)
