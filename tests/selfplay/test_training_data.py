"""Training conversations and preference pairs from played dialogues."""

from __future__ import annotations

import pyarrow as pa
import pytest

from sage_dialog import schemas
from sage_dialog.selfplay.pairs import preference_pairs
from sage_dialog.selfplay.refinement import refinement_mix
from sage_dialog.selfplay.tables import candidates_table, trajectories_table

SITUATIONS = [(f"s{n}", f"Situation {n}.") for n in range(6)]


@pytest.fixture
def played(play, game, engine, selector, say):
    """Six dialogues with four candidates a turn; in s5 the agent never finds words."""

    def reply(policy, prompt, j):
        if "Situation 5" in prompt.messages[1]["content"]:
            return "garbage"
        if policy == "user":
            return say("And you? Sorry.")
        return ("garbage", say("Short."), say(f"Words {prompt.item}!"), say(f"Words {prompt.item}."))[
            j
        ]  # the last wins

    rules = game(selector=selector(), candidates=4, max_turns=5)
    dialogues = play(engine(reply), rules, SITUATIONS)
    return candidates_table(dialogues), trajectories_table(dialogues)


def sft_conversations(size: int) -> pa.Table:
    rows = [
        {
            "conversation_id": f"c{n}",
            "source": "listener",
            "messages": [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": f"Hello {n}."}],
        }
        for n in range(size)
    ]
    return pa.Table.from_pylist(rows, schema=schemas.SFT_CONVERSATIONS)


def test_a_trajectory_becomes_a_conversation_up_to_the_agents_last_words(played, say) -> None:
    mix = refinement_mix(played[1], sft_conversations(3), "You listen.", replay_share=0.0, seed=0)
    assert mix.schema == schemas.SFT_CONVERSATIONS
    assert mix["conversation_id"].to_pylist() == [f"s{n}" for n in range(5)]  # s5 is left out
    messages = mix["messages"][2].as_py()
    assert [message["role"] for message in messages] == ["system", "user", "assistant", "user", "assistant"]
    assert messages[0]["content"] == "You listen."
    assert messages[1]["content"] == "Situation 2."
    assert messages[2]["content"].startswith(say("Words ("))
    assert messages[3]["content"] == "And you?"


def test_the_replayed_share_is_drawn_by_seed_from_the_first_mix(played) -> None:
    def replayed(seed: int, share: float = 0.6) -> list[str]:
        rows = refinement_mix(played[1], sft_conversations(50), "You listen.", share, seed).to_pylist()
        return [row["conversation_id"] for row in rows if row["source"] == "listener"]

    assert len(replayed(0)) == 3  # 0.6 of five trajectories
    assert replayed(0) == replayed(0)
    assert len({tuple(replayed(seed)) for seed in range(4)}) == 4
    assert len(replayed(0, share=100.0)) == 50


def test_an_agent_that_never_spoke_is_an_error_that_says_what_to_do(play, game, engine, selector) -> None:
    dialogues = play(engine(lambda *_: "garbage"), game(selector=selector(), candidates=2), SITUATIONS)
    with pytest.raises(ValueError, match=r"spoke in none of 6 dialogues.*invalid_reason.*self_play.agent.temperature"):
        refinement_mix(trajectories_table(dialogues), sft_conversations(1), "You listen.", 0.5, seed=0)


def test_pairs_are_the_chosen_text_against_another_valid_one_that_says_something_else(played) -> None:
    candidates, trajectories = played
    pairs = preference_pairs(candidates, trajectories, "You listen.", seed=0)
    assert pairs.schema == schemas.DPO_PAIRS
    rows = pairs.to_pylist()
    assert [(row["situation_id"], row["turn"]) for row in rows] == [
        (f"s{n}", turn) for n in range(5) for turn in (1, 3)
    ]
    by_turn = {}
    for row in candidates.to_pylist():
        by_turn.setdefault((row["situation_id"], row["turn"]), []).append(row)
    for row in rows:
        turn = by_turn[row["situation_id"], row["turn"]]
        assert row["chosen"] == next(other["text"] for other in turn if other["chosen"])
        rejected = next(other for other in turn if other["text"] == row["rejected"])
        assert rejected["valid"] and not rejected["chosen"]
        assert row["chosen"] != row["rejected"]


def test_the_prompt_of_a_pair_is_what_the_agent_saw(played) -> None:
    candidates, trajectories = played
    row = preference_pairs(candidates, trajectories, "You listen.", seed=0).to_pylist()[1]
    said = [message for message in trajectories.to_pylist() if message["situation_id"] == "s0"]
    assert row["prompt"] == [
        {"role": "system", "content": "You listen."},
        {"role": "user", "content": "Situation 0."},
        {"role": "assistant", "content": said[1]["content"]},
        {"role": "user", "content": "And you?"},
    ]


def test_the_rejected_one_is_drawn_and_not_the_first(played) -> None:
    candidates, trajectories = played

    def rejected(seed: int) -> list[str]:
        return preference_pairs(candidates, trajectories, "You listen.", seed)["rejected"].to_pylist()

    assert rejected(0) == rejected(0)
    assert rejected(0) != rejected(1)
    draws = [text for seed in range(20) for text in rejected(seed)]
    short = [text.endswith("Short.") for text in draws]
    assert 0.35 < sum(short) / len(draws) < 0.65  # one of the two others
    assert 0.35 < sum(one != other for one, other in zip(short[::2], short[1::2], strict=True)) / len(draws[::2]) < 0.65


def test_of_several_rejected_ones_no_two_say_the_same(play, game, engine, selector, say) -> None:
    words = ("A word.", "B word.", "A word.", "C word.", "The longest of words.")

    def reply(policy, prompt, j):
        return say(words[j] if policy == "agent" else "And?", reads=f"mood {j}")

    dialogues = play(engine(reply), game(selector=selector(), candidates=5, max_turns=4), SITUATIONS[:3])
    tables = candidates_table(dialogues), trajectories_table(dialogues)

    def rejected(negatives: int | None) -> list[list[str]]:
        rows = preference_pairs(*tables, "You listen.", 0, negatives).to_pylist()
        turns = sorted({(row["situation_id"], row["turn"]) for row in rows})
        return [[row["rejected"][-7:] for row in rows if (row["situation_id"], row["turn"]) == turn] for turn in turns]

    assert [sorted(turn) for turn in rejected(None)] == [["A word.", "B word.", "C word."]] * 6
    assert rejected(3) == rejected(9) == rejected(None)
    assert [turn[:2] for turn in rejected(3)] == rejected(2) and [turn[:1] for turn in rejected(2)] == rejected(1)


def test_a_turn_whose_candidates_all_say_the_same_gives_no_pair(play, game, engine, selector, say) -> None:
    def reply(policy, prompt, j):
        same = say("Same.", reads=f"mood {j}")
        return same if policy == "user" or prompt.item[-1] == 1 else (same, say("Other."))[j]

    dialogues = play(engine(reply), game(selector=selector(), candidates=2, max_turns=4), SITUATIONS[:2])
    pairs = preference_pairs(candidates_table(dialogues), trajectories_table(dialogues), "You listen.", seed=0)
    assert pairs["turn"].to_pylist() == [3, 3]


def test_without_any_pair_the_error_says_what_to_turn(play, game, engine, selector, say) -> None:
    dialogues = play(engine(lambda *_: say("Same.")), game(selector=selector(), candidates=2), SITUATIONS[:1])
    with pytest.raises(ValueError, match=r"no agent turn gives a preference pair: 3 turns .*self_play.candidates"):
        preference_pairs(candidates_table(dialogues), trajectories_table(dialogues), "You listen.", seed=0)
