"""Training conversations and preference pairs from the tables of a search."""

from __future__ import annotations

from typing import Any

import pytest

from sage_dialog import schemas
from sage_dialog.core.tables import DataFrame, from_rows, to_rows
from sage_dialog.sac import Chain, Intent, render
from sage_dialog.selfplay.choices import Choices
from sage_dialog.training_data.preference_pairs import preference_pairs
from sage_dialog.training_data.refinement import refinement_mix


def chained(text: str, reads: str = "sad") -> str:
    return render(Chain(Intent("sharing", reads, ("home",)), Intent("empathy", "supportive", ("home",)), text))


def search(situations: dict[str, list[list[tuple[str, str]]]]) -> tuple[DataFrame, DataFrame]:
    """Return candidates and trajectories of dialogues: per situation the candidates of each agent turn.

    A candidate is (utterance, emotion read); an empty utterance is invalid, and the last candidate is chosen.
    """
    candidates: list[dict[str, Any]] = []
    trajectories: list[dict[str, Any]] = []
    for number, (situation, turns) in enumerate(situations.items()):
        messages = [("user", f"Situation {number}.", f"Situation {number}.")]
        for drawn in turns:
            for place, (utterance, reads) in enumerate(drawn):
                row = {"situation_id": situation, "turn": len(messages), "candidate": place, "utterance": utterance}
                row |= {"text": chained(utterance, reads) if utterance else "garbage", "valid": bool(utterance)}
                candidates.append(row | {"chosen": bool(utterance) and place == len(drawn) - 1})
            utterance, reads = drawn[-1]
            if not utterance:
                break
            messages += [("assistant", utterance, chained(utterance, reads)), ("user", "And you?", chained("And you?"))]
        trajectories += [
            {"situation_id": situation, "turn": turn, "role": role, "text": text, "content": content, "outcome": "end"}
            for turn, (role, text, content) in enumerate(messages)
        ]
    return from_rows(candidates, schemas.CANDIDATES), from_rows(trajectories, schemas.TRAJECTORIES)


@pytest.fixture
def searched() -> tuple[DataFrame, DataFrame]:
    """Six dialogues with four candidates a turn; in s5 no candidate is valid."""

    def drawn(situation: int, turn: int) -> list[tuple[str, str]]:
        words = f"Words ({situation}, {turn})"
        return [("", ""), ("Short.", "sad"), (f"{words}!", "sad"), (f"{words}.", "sad")]

    dialogues = {f"s{number}": [drawn(number, turn) for turn in (1, 3)] for number in range(5)}
    return search(dialogues | {"s5": [[("", "")] * 4]})


def sft_conversations(size: int) -> DataFrame:
    rows = [
        {
            "conversation_id": f"c{n}",
            "source": "listener",
            "messages": [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": f"Hello {n}."}],
        }
        for n in range(size)
    ]
    return from_rows(rows, schemas.SFT_CONVERSATIONS)


def test_a_trajectory_becomes_a_conversation_up_to_the_agents_last_message(searched) -> None:
    mix = refinement_mix(searched[1], sft_conversations(3), "You listen.", replay_share=0.0, seed=0)
    assert dict(mix.dtypes) == dict(from_rows([], schemas.SFT_CONVERSATIONS).dtypes)
    assert list(mix["conversation_id"]) == [f"s{n}" for n in range(5)]  # s5 has no message of the agent
    messages = to_rows(mix)[2]["messages"]
    assert [message["role"] for message in messages] == ["system", "user", "assistant", "user", "assistant"]
    assert messages[0]["content"] == "You listen."
    assert messages[1]["content"] == "Situation 2."
    assert messages[2]["content"].startswith(chained("Words ("))
    assert messages[3]["content"] == "And you?"


def test_the_replayed_share_is_sampled_by_seed_from_the_first_mix(searched) -> None:
    def replayed(seed: int, share: float = 0.6) -> list[str]:
        mix = refinement_mix(searched[1], sft_conversations(50), "You listen.", share, seed)
        return list(mix.loc[mix["source"] == "listener", "conversation_id"])

    assert len(replayed(0)) == 3  # 0.6 of five trajectories
    assert replayed(0) == replayed(0)
    assert len({tuple(replayed(seed)) for seed in range(4)}) == 4
    assert len(replayed(0, share=100.0)) == 50


def test_dialogues_without_a_reply_are_an_error_with_the_parameters_to_change() -> None:
    trajectories = search({f"s{n}": [[("", "")] * 2] for n in range(6)})[1]
    with pytest.raises(ValueError, match=r"no message of the agent in 6 dialogues.*invalid_reason.*agent.temperature"):
        refinement_mix(trajectories, sft_conversations(1), "You listen.", 0.5, seed=0)


def test_pairs_are_the_chosen_text_against_another_valid_one_with_a_different_utterance(searched) -> None:
    candidates, trajectories = searched
    pairs = preference_pairs(candidates, trajectories, "You listen.", seed=0)
    assert dict(pairs.dtypes) == dict(from_rows([], schemas.DPO_PAIRS).dtypes)
    rows = to_rows(pairs)
    assert [(row["situation_id"], row["turn"]) for row in rows] == [
        (f"s{n}", turn) for n in range(5) for turn in (1, 3)
    ]
    for row in rows:
        same_turn = (candidates["situation_id"] == row["situation_id"]) & (candidates["turn"] == row["turn"])
        turn = to_rows(candidates[same_turn])
        assert row["chosen"] == next(other["text"] for other in turn if other["chosen"])
        rejected = next(other for other in turn if other["text"] == row["rejected"])
        assert rejected["valid"] and not rejected["chosen"]
        assert row["chosen"] != row["rejected"]


def test_the_prompt_of_a_pair_is_the_agents_view(searched) -> None:
    candidates, trajectories = searched
    row = to_rows(preference_pairs(candidates, trajectories, "You listen.", seed=0))[1]
    messages = to_rows(trajectories[trajectories["situation_id"] == "s0"])
    assert row["prompt"] == [
        {"role": "system", "content": "You listen."},
        {"role": "user", "content": "Situation 0."},
        {"role": "assistant", "content": messages[1]["content"]},
        {"role": "user", "content": "And you?"},
    ]


def test_the_rejected_candidate_is_drawn_by_seed(searched) -> None:
    def rejected(seed: int) -> list[str]:
        return list(preference_pairs(*searched, "You listen.", seed)["rejected"])

    assert rejected(0) == rejected(0)
    assert rejected(0) != rejected(1)
    draws = [text for seed in range(20) for text in rejected(seed)]
    short = [text.endswith("Short.") for text in draws]
    assert 0.35 < sum(short) / len(draws) < 0.65  # one of the two others
    assert 0.35 < sum(one != other for one, other in zip(short[::2], short[1::2], strict=True)) / len(draws[::2]) < 0.65


def test_the_rejected_candidates_of_a_turn_have_different_utterances() -> None:
    words = ("A word.", "B word.", "A word.", "C word.", "The longest of words.")
    turn = [(utterance, f"mood {number}") for number, utterance in enumerate(words)]
    tables = search({f"s{n}": [turn, turn] for n in range(3)})

    def rejected(negatives: int | None) -> list[list[str]]:
        pairs = preference_pairs(*tables, "You listen.", 0, negatives)
        return [[text[-7:] for text in texts] for _, texts in pairs.groupby(["situation_id", "turn"])["rejected"]]

    assert [sorted(turn) for turn in rejected(None)] == [["A word.", "B word.", "C word."]] * 6
    assert rejected(3) == rejected(9) == rejected(None)
    assert [turn[:2] for turn in rejected(3)] == rejected(2) and [turn[:1] for turn in rejected(2)] == rejected(1)


def test_a_turn_with_a_single_utterance_gives_no_pair() -> None:
    same, different = [("Same.", "mood 0"), ("Same.", "mood 1")], [("Other.", "sad"), ("Same.", "sad")]
    pairs = preference_pairs(*search({f"s{n}": [same, different] for n in range(2)}), "You listen.", seed=0)
    assert list(pairs["turn"]) == [3, 3]


def test_without_any_pair_the_error_names_the_parameter_to_change() -> None:
    tables = search({"s0": [[("Same.", "sad")] * 2] * 3})
    with pytest.raises(ValueError, match=r"no agent turn gives a preference pair: 3 turns .*self_play.candidates"):
        preference_pairs(*tables, "You listen.", seed=0)


def choices_of(*turns: tuple[str, int, list[tuple[str, str | None, bool, bool]]]) -> DataFrame:
    """Return CANDIDATES from turns of (situation, turn, candidates of (utterance, action, valid, chosen))."""
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
    return from_rows(rows, schemas.CANDIDATES)


def test_action_preference_compares_choices_with_chance() -> None:
    joke, comfort, broken = ("Lol.", "humor"), ("There.", "comfort"), ("Hm", "humor", False, False)
    turns = [(f"s{n}", 1, [(*joke, True, n == 9), (*comfort, True, n != 9), broken]) for n in range(10)]
    choices = Choices(choices_of(*turns, ("s10", 1, [(*joke, True, False)] * 9)))  # where none was chosen
    row = {"a_emotion": "calm"}
    assert choices.action_preference({**row, "a_motivation": "comfort"}) == pytest.approx((9 + 1) / (5 + 1) * 11 / 11)
    assert choices.action_preference({**row, "a_motivation": "humor"}) == pytest.approx((1 + 1) / (5 + 1))
    assert choices.action_preference({**row, "a_motivation": "never drawn"}) == 1
    assert choices.action_preference({"a_motivation": None, "a_emotion": None}) == 1


def test_candidates_with_the_same_utterance_count_once() -> None:
    turn = [("Lol.", "humor", True, False)] * 3 + [("There.", "comfort", True, True)]
    action_preference = Choices(choices_of(("s0", 1, turn))).action_preference
    assert action_preference({"a_motivation": "humor", "a_emotion": None}) == pytest.approx(1 / 1.5)
    assert action_preference({"a_motivation": "comfort", "a_emotion": None}) == pytest.approx(2 / 1.5)


def ranked_search() -> tuple[DataFrame, DataFrame]:
    """Four dialogues of one exchange: s0 needed further candidates; s1 and s3 have the action chosen most often."""
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
    return choices_of(*turns), from_rows(rows, schemas.TRAJECTORIES)


@pytest.mark.parametrize(
    ("share", "best"), [(0.5, {"s1", "s3"}), (0.75, {"s1", "s2", "s3"}), (1.0, {"s0", "s1", "s2", "s3"})]
)
def test_best_share_keeps_the_best_dialogues(share: float, best: set[str]) -> None:
    candidates, trajectories = ranked_search()
    mix = refinement_mix(trajectories, sft_conversations(8), None, 1.0, 0, candidates, share)
    assert list(mix.loc[mix["source"] == "trajectories", "conversation_id"]) == sorted(best)  # in the table's order
    assert len(mix) == 2 * len(best)  # as many of the first mix


def test_ties_are_broken_by_the_seed_and_one_dialogue_always_stays() -> None:
    candidates, trajectories = ranked_search()

    def best(seed: int) -> list[str]:
        mix = refinement_mix(trajectories, sft_conversations(1), None, 0.0, seed, candidates, 0.01)
        return list(mix["conversation_id"])

    assert best(0) == best(0) and {tuple(best(seed)) for seed in range(12)} == {("s1",), ("s3",)}
    with pytest.raises(ValueError, match="best_share ranks dialogues by their candidates"):
        refinement_mix(trajectories, sft_conversations(1), None, 0.0, 0, best_share=0.5)


def test_worst_takes_the_actions_that_the_selector_chose_least() -> None:
    good, joke, advice = ("Good.", "comfort"), ("Lol.", "humor"), ("Try it.", "advice")
    turns = [(f"s{n}", 1, [(*advice, True, n == 3), (*joke, True, False), (*good, True, n != 3)]) for n in range(4)]
    turns[0][2].append(("Hm.", "humor", False, False))  # not valid, so no reply at all
    candidates = choices_of(*turns)
    _, trajectories = ranked_search()

    def rejected(negatives: int | None, kind: str = "worst") -> list[list[str]]:
        pairs = preference_pairs(candidates, trajectories, None, 0, negatives, kind)
        return [list(pairs.loc[pairs["situation_id"] == f"s{n}", "rejected"]) for n in range(4)]

    texts = {"humor": "{humor} Lol.", "advice": "{advice} Try it.", "comfort": "{comfort} Good."}
    assert rejected(1) == [[texts["humor"]]] * 4
    assert rejected(2) == [[texts["humor"], texts["advice"]]] * 3 + [[texts["humor"], texts["comfort"]]]
    assert rejected(None) == rejected(2) != rejected(1, "random")


def test_ties_between_the_worst_are_broken_by_the_seed() -> None:
    turn = [("Good.", None, True, True), *((f"Bad {n}.", None, True, False) for n in range(4))]
    candidates, trajectories = choices_of(("s0", 1, turn)), ranked_search()[1]
    drawn = {preference_pairs(candidates, trajectories, None, seed, 1, "worst")["rejected"][0] for seed in range(20)}
    assert len(drawn) == 4
