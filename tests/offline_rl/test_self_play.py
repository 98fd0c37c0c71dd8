"""Returns from verdicts on a policy's own dialogues."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest

from sage_dialog.core.tables import DataFrame, from_rows
from sage_dialog.offline_rl.self_play import compare_dialogues, judged_dialogues
from sage_dialog.roles.protocols import Comparison, Verdict
from sage_dialog.schemas import TRAJECTORIES, VERDICTS

CHAIN = (
    "{u_motivation: sharing, u_emotion: sad, u_topic: [rain]} "
    "{a_motivation: comfort, a_emotion: warm, a_topic: [rain]} "
)


class LongerReplyJudge:
    """Prefers the longer first reply, and must not see blocks."""

    name = "longer"

    def __init__(self) -> None:
        self.read: list[Comparison] = []

    def judge(self, comparisons: Sequence[Comparison]) -> Iterator[Verdict]:
        self.read += comparisons
        for pair in comparisons:
            first, second = (len(dialogue[1].text) for dialogue in (pair.first, pair.second))
            yield Verdict("tie" if first == second else "first" if first > second else "second", "why")


def rollouts(replies: dict[str, str]) -> DataFrame:
    rows = []
    for name, reply in replies.items():
        messages = [("user", "It rains.", "It rains."), ("assistant", reply.removeprefix(CHAIN), reply)]
        messages.append(("user", "Bye.", "Bye."))
        rows += [
            {"situation_id": name, "turn": turn, "role": role, "text": text, "content": content, "outcome": "end"}
            for turn, (role, text, content) in enumerate(messages)
        ]
    return from_rows(rows, TRAJECTORIES)


PLAYED = rollouts(
    {f"a#1#{number}": CHAIN + "o" * length for number, length in enumerate((1, 2, 2, 5))}
    | {f"b#{number}": CHAIN + "o" * length for number, length in enumerate((3, 4, 7, 1))}
)


def test_dialogues_are_compared_within_their_situation_and_none_always_comes_first() -> None:
    judge = LongerReplyJudge()
    verdicts = compare_dialogues([judge], PLAYED)
    assert verdicts.groupby("situation_id").size().to_dict() == {"a#1": 6, "b": 6}
    pairs = {frozenset(pair) for pair in zip(verdicts["dialogue_a"], verdicts["dialogue_b"], strict=True)}
    assert len(pairs) == 12 and all(len({name.rpartition("#")[0] for name in pair}) == 1 for pair in pairs)
    first = verdicts["dialogue_a"].value_counts()
    assert first.between(1, 2).all() and len(first) == 8
    assert not any("u_motivation" in message.content for pair in judge.read for message in (*pair.first, *pair.second))


def test_a_reward_is_the_share_of_wins() -> None:
    verdicts = compare_dialogues([LongerReplyJudge()], PLAYED)
    found = judged_dialogues(PLAYED, verdicts, "Be kind.", 0.5, 0).set_index("dialogue_id")
    assert found["reward"].to_dict() == pytest.approx(
        {"a#1#0": 0, "a#1#1": 0.5, "a#1#2": 0.5, "a#1#3": 1, "b#0": 1 / 3, "b#1": 2 / 3, "b#2": 1, "b#3": 0}
    )
    assert found["success"].to_dict()["a#1#1"] is False and found["success"].to_dict()["b#1"] is True
    by_situation = found.groupby([name.rpartition("#")[0] for name in found.index])["split"].unique()
    assert sorted(split for (split,) in by_situation) == ["train", "valid"], "situations are held out as a whole"
    messages = found.loc["b#1", "messages"]
    assert [message["role"] for message in messages] == ["system", "user", "assistant"]
    assert messages[2]["content"].startswith("{u_motivation")


def test_the_side_on_which_a_dialogue_is_read_does_not_count() -> None:
    verdicts = compare_dialogues([LongerReplyJudge()], PLAYED)
    turned = verdicts.rename(columns={"dialogue_a": "dialogue_b", "dialogue_b": "dialogue_a"})[list(verdicts.columns)]
    turned["vote"] = turned["vote"].replace({"a": "b", "b": "a"})
    one, other = (judged_dialogues(PLAYED, each, None, 0.5, 0) for each in (verdicts, turned))
    assert one["reward"].tolist() == other["reward"].tolist()


def test_dialogues_without_a_verdict_or_with_broken_blocks_are_left_out(caplog: pytest.LogCaptureFixture) -> None:
    played = rollouts({"a#0": CHAIN + "o", "a#1": "{broken o", "a#2": CHAIN + "oo", "a#3": CHAIN + "ooo"})
    verdicts = compare_dialogues([LongerReplyJudge()], played)
    silent = (verdicts["dialogue_a"] == "a#2") | (verdicts["dialogue_b"] == "a#2")
    verdicts.loc[silent, "vote"] = "unreadable"
    found = judged_dialogues(played, verdicts, None, 0.0, 0)
    assert found["dialogue_id"].tolist() == ["a#0", "a#3"]
    assert found["reward"].tolist() == [0, 0.5], "the one with broken blocks was compared all the same"
    assert "2 of 4 dialogues" in caplog.text
    with pytest.raises(ValueError, match=r"no dialogue is left .* rl_verdicts"):
        judged_dialogues(played, from_rows([], VERDICTS), None, 0.0, 0)
