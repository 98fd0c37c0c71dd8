"""Training conversations and preference pairs from played dialogues."""

from __future__ import annotations

import pyarrow as pa
import pytest

from sage_dialog import schemas
from sage_dialog.selfplay.choices import Choices
from sage_dialog.selfplay.tables import candidates_table, trajectories_table
from sage_dialog.training_data.preference_pairs import preference_pairs
from sage_dialog.training_data.refinement import refinement_mix

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


def choices_of(*turns: tuple[str, int, list[tuple[str, str | None, bool, bool]]]) -> pa.Table:
    """CANDIDATES: of each turn its situation, its number, and what candidates say, do, are (valid, chosen)."""
    rows = [
        {
            **dict.fromkeys(schemas.CANDIDATES.names),
            **{"situation_id": situation, "turn": turn, "candidate": at, "text": f"{{{action}}} {words}"},
            **{"utterance": words, "a_motivation": action, "a_emotion": action and "calm"},
            **{"valid": valid, "chosen": chosen},
        }
        for situation, turn, candidates in turns
        for at, (words, action, valid, chosen) in enumerate(candidates)
    ]
    return pa.Table.from_pylist(rows, schema=schemas.CANDIDATES)


def test_what_is_liked_is_chosen_more_often_than_by_chance() -> None:
    joke, comfort, broken = ("Lol.", "humor"), ("There.", "comfort"), ("Hm", "humor", False, False)
    turns = [(f"s{n}", 1, [(*joke, True, n == 9), (*comfort, True, n != 9), broken]) for n in range(10)]
    choices = Choices(choices_of(*turns, ("s10", 1, [(*joke, True, False)] * 9)))  # where none was chosen
    row = {"a_emotion": "calm"}
    assert choices.action_preference({**row, "a_motivation": "comfort"}) == pytest.approx((9 + 1) / (5 + 1) * 11 / 11)
    assert choices.action_preference({**row, "a_motivation": "humor"}) == pytest.approx((1 + 1) / (5 + 1))
    assert choices.action_preference({**row, "a_motivation": "never shown"}) == 1
    assert choices.action_preference({"a_motivation": None, "a_emotion": None}) == 1


def test_candidates_that_say_the_same_were_shown_once() -> None:
    turn = [("Lol.", "humor", True, False)] * 3 + [("There.", "comfort", True, True)]
    action_preference = Choices(choices_of(("s0", 1, turn))).action_preference
    assert action_preference({"a_motivation": "humor", "a_emotion": None}) == pytest.approx(1 / 1.5)
    assert action_preference({"a_motivation": "comfort", "a_emotion": None}) == pytest.approx(2 / 1.5)


def judged() -> tuple[pa.Table, pa.Table]:
    """Four dialogues of an exchange: in s0 others had to be drawn, s1 and s3 have the action chosen most often."""
    likes = {"s0": "comfort", "s1": "comfort", "s2": "humor", "s3": "comfort"}
    turns = []
    for situation, action in likes.items():
        other = "humor" if action == "comfort" else "comfort"
        drawn = [("Good.", action, True, True), ("Bad.", other, True, False)]
        turns.append((situation, 1, [("Dull.", "advice", True, False)] * 2 + drawn if situation == "s0" else drawn))
    rows = [
        {
            **dict.fromkeys(schemas.TRAJECTORIES.names),
            **{"situation_id": situation, "turn": turn, "role": role, "text": "Good.", "content": "Good."},
            "outcome": "turn limit",
        }
        for situation in likes
        for turn, role in enumerate(("user", "assistant"))
    ]
    return choices_of(*turns), pa.Table.from_pylist(rows, schema=schemas.TRAJECTORIES)


@pytest.mark.parametrize(
    ("share", "best"), [(0.5, {"s1", "s3"}), (0.75, {"s1", "s2", "s3"}), (1.0, {"s0", "s1", "s2", "s3"})]
)
def test_the_dialogues_judged_best_are_learned_from(share: float, best: set[str]) -> None:
    candidates, trajectories = judged()
    mix = refinement_mix(trajectories, sft_conversations(8), None, 1.0, 0, candidates, share)
    played = [row["conversation_id"] for row in mix.to_pylist() if row["source"] == "trajectories"]
    assert played == sorted(best)  # in the order of the table
    assert mix.num_rows == 2 * len(best)  # as many of the first mix as are learned from


def test_among_equals_the_seed_decides_and_one_is_always_left() -> None:
    candidates, trajectories = judged()

    def best(seed: int) -> list[str]:
        mix = refinement_mix(trajectories, sft_conversations(1), None, 0.0, seed, candidates, 0.01)
        return mix["conversation_id"].to_pylist()

    assert best(0) == best(0) and {tuple(best(seed)) for seed in range(12)} == {("s1",), ("s3",)}
    with pytest.raises(ValueError, match="best_share ranks dialogues by the choices among their candidates"):
        refinement_mix(trajectories, sft_conversations(1), None, 0.0, 0, best_share=0.5)


def test_the_worst_are_those_whose_actions_the_selector_chose_least() -> None:
    good, joke, advice = ("Good.", "comfort"), ("Lol.", "humor"), ("Try it.", "advice")
    turns = [(f"s{n}", 1, [(*advice, True, n == 3), (*joke, True, False), (*good, True, n != 3)]) for n in range(4)]
    turns[0][2].append(("Hm.", "humor", False, False))  # not valid, so no reply at all
    candidates = choices_of(*turns)
    _, trajectories = judged()

    def rejected(negatives: int | None, kind: str = "worst") -> list[list[str]]:
        rows = preference_pairs(candidates, trajectories, None, 0, negatives, kind).to_pylist()
        return [[row["rejected"] for row in rows if row["situation_id"] == f"s{n}"] for n in range(4)]

    said = {"humor": "{humor} Lol.", "advice": "{advice} Try it.", "comfort": "{comfort} Good."}
    assert rejected(1) == [[said["humor"]]] * 4
    assert rejected(2) == [[said["humor"], said["advice"]]] * 3 + [[said["humor"], said["comfort"]]]
    assert rejected(None) == rejected(2) != rejected(1, "random")


def test_among_equally_bad_ones_the_seed_decides() -> None:
    turn = [("Good.", None, True, True), *((f"Bad {n}.", None, True, False) for n in range(4))]
    candidates, trajectories = choices_of(("s0", 1, turn)), judged()[1]
    drawn = {
        preference_pairs(candidates, trajectories, None, seed, 1, "worst")["rejected"][0].as_py() for seed in range(20)
    }
    assert len(drawn) == 4
