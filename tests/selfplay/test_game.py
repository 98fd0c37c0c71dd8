"""The candidate search, the outcomes of a dialogue, and the independence of dialogues."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from scripted_game import hashed_reply

from sage_dialog.inference.engine import FinishReason, Sample
from sage_dialog.roles.protocols import NoChoice
from sage_dialog.selfplay.game import Outcome

PROJECT = Path(__file__).parents[2]
SITUATIONS = [("a", "I lost my keys."), ("b", "I won a race."), ("c", "My dog is ill.")]


def one_of(samples: dict[int, object], say):
    """Return a script: the agent's candidates by index; the user always replies."""
    return lambda policy, prompt, j: samples[j] if policy == "agent" else say("I see.")


def test_invalid_candidates_are_kept_with_the_reason_and_not_offered(play, game, engine, selector, say) -> None:
    samples = {
        0: "no blocks at all",
        1: say("Good words."),
        2: say("   "),
        3: Sample(say("A long answer that never"), 50, FinishReason.LENGTH),
        4: say("Other good words."),
    }
    chooser = selector()
    (dialogue,) = play(engine(one_of(samples, say)), game(selector=chooser, candidates=5, max_turns=2), SITUATIONS[:1])
    assert set(chooser.choices_seen[0].candidates) == {"Good words.", "Other good words."}
    candidates, chosen = dialogue.candidates[1]
    assert [candidate.valid for candidate in candidates] == [False, True, False, False, True]
    assert candidates[0].invalid_reason is not None and candidates[0].invalid_reason.startswith("state block: ")
    assert [candidates[2].invalid_reason, candidates[3].invalid_reason] == ["empty utterance", "cut at the token limit"]
    assert chosen == 4
    assert dialogue.messages[1].content == say("Other good words.")


def test_equal_utterances_are_offered_once_and_the_first_of_them_is_chosen(play, game, engine, selector, say) -> None:
    samples = {
        0: say("Hi."),
        1: say("Hello there.", emotion="glad"),
        2: say("Hello there.", emotion="sad"),
        3: say("Hello there. "),
    }
    chooser = selector()
    (dialogue,) = play(engine(one_of(samples, say)), game(selector=chooser, candidates=4, max_turns=2), SITUATIONS[:1])
    assert sorted(chooser.choices_seen[0].candidates) == ["Hello there.", "Hi."]
    assert dialogue.candidates[1][1] == 1


def test_the_selector_sees_utterances_only_in_an_order_that_favours_no_candidate(
    play, game, engine, selector, say
) -> None:
    def orders(seed: int) -> list[tuple[str, ...]]:
        chooser = selector()
        scripted = engine(lambda policy, prompt, j: say(f"Answer {j}.") if policy == "agent" else say("I see."))
        play(scripted, game(selector=chooser, candidates=4, seed=seed), [(f"s{n}", "Hello.") for n in range(40)])
        assert all("{" not in message.text for choice in chooser.choices_seen for message in choice.history)
        return [choice.candidates for choice in chooser.choices_seen]

    first = orders(seed=1)
    assert first == orders(seed=1)
    assert first != orders(seed=2)
    first_offered = [order[0] for order in first]
    assert all(20 <= first_offered.count(f"Answer {j}.") <= 40 for j in range(4))  # of 120 turns, 30 expected


def test_choices_are_named_by_policy_situation_and_turn(play, game, engine, selector, say) -> None:
    chooser = selector()
    play(engine(lambda *_: say("Yes.")), game(selector=chooser, candidates=2, max_turns=4), SITUATIONS[:2])
    assert [choice.item for choice in chooser.choices_seen] == ["agent/a/1", "agent/b/1", "agent/a/3", "agent/b/3"]


def outcome_of(play, game, scripted, **rules) -> tuple[Outcome | None, int]:
    (dialogue,) = play(scripted, game(**rules), SITUATIONS[:1])
    return dialogue.outcome, len(dialogue.messages)


@pytest.mark.parametrize("max_turns", [2, 3, 6])
def test_turns_count_messages_with_the_situation(play, game, engine, say, max_turns: int) -> None:
    assert outcome_of(play, game, engine(lambda *_: say("Yes.")), max_turns=max_turns) == (
        Outcome.TURN_LIMIT,
        max_turns,
    )


@pytest.mark.parametrize(
    ("user_reply", "outcome"),
    [
        ("blocks", Outcome.NO_VALID_USER_BLOCKS),
        ("nothing", Outcome.EMPTY_USER_REPLY),
        ("no end", Outcome.CUT_USER_REPLY),
    ],
)
def test_invalid_replies_of_the_user_end_the_dialogue_after_some_attempts(
    play, game, engine, say, user_reply: str, outcome: Outcome
) -> None:
    replies = {
        "blocks": "{u_motivation",
        "nothing": say(""),
        "no end": Sample(say("and then"), 50, FinishReason.LENGTH),
    }
    scripted = engine(lambda policy, prompt, j: say("Yes.") if policy == "agent" else replies[user_reply])
    assert outcome_of(play, game, scripted, user_attempts=3) == (outcome, 2)
    items = [prompt.item for policy, prompt, _ in scripted.requests if policy == "user"]
    assert len(items) == len(set(items)) == 3


def test_a_valid_reply_at_the_second_attempt_continues_the_dialogue(play, game, engine, say) -> None:
    def reply(policy, prompt, j):
        return "garbage" if policy == "user" and prompt.item[-1] == 0 else say("Yes.")

    assert outcome_of(play, game, engine(reply)) == (Outcome.TURN_LIMIT, 6)


def test_a_farewell_ends_the_dialogue_with_the_users_words(play, game, engine, say) -> None:
    scripted = engine(lambda policy, prompt, j: say("Yes." if policy == "agent" else "Thank you. Goodbye."))
    assert outcome_of(play, game, scripted) == (Outcome.FAREWELL, 3)
    assert outcome_of(play, game, scripted, farewell_ends=False) == (Outcome.TURN_LIMIT, 6)


def test_a_farewell_of_the_agent_does_not_end_the_dialogue(play, game, engine, say) -> None:
    scripted = engine(lambda policy, prompt, j: say("Goodbye, take care!" if policy == "agent" else "Wait."))
    assert outcome_of(play, game, scripted) == (Outcome.TURN_LIMIT, 6)


def test_a_full_context_ends_the_dialogue_for_agent_and_user(play, game, engine, say) -> None:
    def full_for(who: str):
        return lambda policy, prompt, j: None if policy == who and len(prompt.messages) > 3 else say("Yes.")

    assert outcome_of(play, game, engine(full_for("agent"))) == (Outcome.CONTEXT_FULL, 3)
    assert outcome_of(play, game, engine(full_for("user"))) == (Outcome.CONTEXT_FULL, 4)


def test_without_a_valid_or_a_good_candidate_the_dialogue_ends_and_keeps_them(
    play, game, engine, selector, say
) -> None:
    scripted = engine(lambda policy, prompt, j: "garbage")
    (invalid,) = play(scripted, game(selector=selector(), candidates=3), SITUATIONS[:1])
    assert (invalid.outcome, len(invalid.messages)) == (Outcome.NO_VALID_CANDIDATE, 1)
    assert len(invalid.candidates[1][0]) == 3

    picky = selector(rejects=lambda choice: len(choice.history) > 1)
    (rejected,) = play(engine(lambda *_: say("Yes.")), game(selector=picky, candidates=3), SITUATIONS[:1])
    assert (rejected.outcome, len(rejected.messages)) == (Outcome.NO_GOOD_CANDIDATE, 3)
    assert rejected.candidates[3][1] is None

    unreadable = selector(rejects=lambda choice: True, no_choice=NoChoice.UNREADABLE)
    (dialogue,) = play(
        engine(lambda *_: say("Yes.")), game(selector=unreadable, candidates=3, redraws=2), SITUATIONS[:1]
    )
    assert (dialogue.outcome, len(unreadable.choices_seen)) == (Outcome.UNREADABLE_CHOICE, 1)


def test_where_no_candidate_is_good_others_are_drawn_and_all_are_kept(play, game, engine, selector, say) -> None:
    def reply(policy, prompt, j):
        redraw = prompt.item[5] if len(prompt.item) > 5 else 0
        return say(f"Take {redraw}, reply {j}." if policy == "agent" else "I see.")

    picky = selector(rejects=lambda choice: any("Take 0" in text for text in choice.candidates))
    (dialogue,) = play(engine(reply), game(selector=picky, candidates=2, max_turns=2, redraws=1), SITUATIONS[:1])
    assert dialogue.outcome == Outcome.TURN_LIMIT
    candidates, chosen = dialogue.candidates[1]
    replies = [f"Take {redraw}, reply {j}." for redraw in (0, 1) for j in (0, 1)]
    assert [candidate.utterance for candidate in candidates] == replies
    assert chosen in (2, 3) and dialogue.messages[1].text == candidates[chosen].utterance
    assert [set(choice.candidates) for choice in picky.choices_seen] == [set(replies[:2]), set(replies[2:])]
    assert len({choice.item for choice in picky.choices_seen}) == 2


def test_declined_candidates_and_invalid_redraws_are_no_good_candidate(play, game, engine, selector, say) -> None:
    def reply(policy, prompt, j):
        return "garbage" if len(prompt.item) > 5 else say(f"Reply {j}.")

    picky = selector(rejects=lambda choice: True)
    (dialogue,) = play(engine(reply), game(selector=picky, candidates=2, redraws=1), SITUATIONS[:1])
    assert dialogue.outcome == Outcome.NO_GOOD_CANDIDATE
    assert [candidate.valid for candidate in dialogue.candidates[1][0]] == [True, True, False, False]


def test_every_way_to_end_is_documented() -> None:
    section = (PROJECT / "docs/self-play.md").read_text().split("## The game")[1].split("\n## ")[0]
    documented = re.findall(r"^\| `([^`]+)` \|", section, re.MULTILINE)
    assert sorted(documented) == sorted(Outcome)


def test_an_evaluated_reply_with_invalid_blocks_stays_as_it_is(play, game, engine, say) -> None:
    broken = "{u_motivation: x} I hear you."
    scripted = engine(lambda policy, prompt, j: broken if policy == "agent" else say("I see."))
    (dialogue,) = play(scripted, game(max_turns=4), SITUATIONS[:1])
    assert dialogue.messages[1].text == dialogue.messages[1].content == broken
    assert dialogue.messages[1].chain is None
    assert scripted.prompts("user")[0][-1]["content"] == broken
    assert dialogue.outcome == Outcome.TURN_LIMIT


def test_an_empty_reply_of_an_evaluated_agent_ends_the_dialogue(play, game, engine, say) -> None:
    assert outcome_of(play, game, engine(lambda *_: say(" "))) == (Outcome.EMPTY_AGENT_REPLY, 2)


def test_a_plain_agent_needs_no_blocks_to_be_valid(play, game, engine, selector, say) -> None:
    scripted = engine(lambda policy, prompt, j: ("Hm.", "Plain words.")[j] if policy == "agent" else say("I see."))
    (dialogue,) = play(
        scripted, game(selector=selector(), candidates=2, max_turns=2, agent_blocks=False), SITUATIONS[:1]
    )
    assert dialogue.messages[1].text == dialogue.messages[1].content == "Plain words."


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 0, 1], [1, 2, 0]])
def test_a_dialogue_is_the_same_alone_and_beside_others(play, game, engine, selector, order: list[int]) -> None:
    rules = game(selector=selector(), candidates=4, max_turns=8)
    alone = {name: play(engine(hashed_reply), rules, [(name, text)])[0] for name, text in SITUATIONS}
    together = play(engine(hashed_reply), rules, [SITUATIONS[place] for place in order])
    assert {dialogue.situation_id: dialogue for dialogue in together} == alone


def test_a_dialogue_that_ends_early_does_not_change_the_others(play, game, engine, say) -> None:
    def reply(policy, prompt, j):
        opening = prompt.messages[1]["content"]
        return "garbage" if policy == "user" and "keys" in opening else say("Yes.", emotion=opening[-6:-1].strip())

    first, second, _ = play(engine(reply), game(max_turns=6), SITUATIONS)
    assert first.outcome == Outcome.NO_VALID_USER_BLOCKS
    assert [message.chain.state.emotion for message in second.messages[1::2]] == ["race"] * 3
