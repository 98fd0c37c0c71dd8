"""Sampling in one thread while the selector runs in others, and an orderly end after errors of either side."""

from __future__ import annotations

import threading

import pytest

from sage_dialog.roles.protocols import Choice
from sage_dialog.selfplay.search import search

WAIT_S = 20.0  # until a test that would hang fails
TEXTS = [f"My bike was stolen, for the {n}. time." for n in range(6)]


class FailedError(Exception):
    pass


@pytest.fixture
def searched(policies, situations, search_config, tmp_path):
    def run(engine, chooser, at_once: int = 2, shard_size: int = 2, situation_texts=TEXTS):
        config = search_config.model_copy(update={"shards_at_once": at_once, "shard_size": shard_size, "redraws": 0})
        system_prompts = {"listener": "You listen.", "speaker": "You share."}
        players = policies["agent"], policies["user"]
        return search(
            engine, *players, situations(situation_texts), config, system_prompts, chooser, 0, tmp_path / "scratch"
        )

    return run


def test_one_shard_is_sampled_while_the_selector_chooses_for_another(searched, engine, selector, say) -> None:
    """The selector answers for the first shard only when the second has been sampled: one by one, none would end."""
    sampled_second, overlapped = threading.Event(), []

    def reply(policy, prompt, j):
        if prompt.item[-2] == "train-2":
            sampled_second.set()
        return say(f"{policy} {j}.")

    def waits(choice: Choice) -> bool:
        if choice.item == "agent/train-0/1":
            overlapped.append(sampled_second.wait(WAIT_S))
        return False

    searched(engine(reply), selector(rejects=waits))
    assert overlapped == [True]


def test_selections_of_several_shards_run_concurrently(searched, engine, selector, say) -> None:
    together = threading.Barrier(3, timeout=WAIT_S)

    def waits(choice: Choice) -> bool:
        together.wait()
        return False

    searched(
        engine(lambda *_: say("Yes.")), selector(rejects=waits), at_once=3, shard_size=1, situation_texts=TEXTS[:3]
    )
    assert not together.broken


def test_only_the_callers_thread_uses_the_engine(searched, engine, selector, say) -> None:
    sampling, choosing = set(), set()

    def reply(policy, prompt, j):
        sampling.add(threading.get_ident())
        return say("Yes.")

    def notes(choice: Choice) -> bool:
        choosing.add(threading.get_ident())
        return False

    searched(engine(reply), selector(rejects=notes))
    assert sampling == {threading.get_ident()}
    assert choosing and choosing.isdisjoint(sampling)


def test_shards_at_once_is_a_limit(searched, engine, selector, say) -> None:
    begun: list[str] = []

    def reply(policy, prompt, j):
        if policy == "agent" and prompt.item[-1] == 1 and j == 0:
            begun.append(prompt.item[-2])
        return say("Yes.")

    seen: list[int] = []

    def counts(choice: Choice) -> bool:
        seen.append(len(begun))
        return False

    searched(engine(reply), selector(rejects=counts), at_once=1, shard_size=2)
    assert seen == [2] * 6 + [4] * 6 + [6] * 6  # three turns of two dialogues each


def test_a_failing_selector_ends_the_run_and_finished_shards_stay(searched, engine, selector, say) -> None:
    def fails(choice: Choice) -> bool:
        if choice.item == "agent/train-4/1":
            raise FailedError
        return False

    with pytest.raises(FailedError):
        searched(engine(lambda *_: say("Yes.")), selector(rejects=fails))
    again = engine(lambda *_: say("Yes."))
    _, trajectories = searched(again, selector())
    assert "train-4" in (played := {prompt.item[-2] for policy, prompt, _ in again.asked if policy == "agent"})
    assert not {"train-0", "train-1"} & played
    assert len(trajectories) == len(TEXTS) * 6


def test_a_failing_engine_waits_for_running_selections(searched, engine, selector, say) -> None:
    failing, answered = threading.Event(), []

    def reply(policy, prompt, j):
        if prompt.item[-2] == "train-2":
            failing.set()
            raise FailedError
        return say("Yes.")

    def slow(choice: Choice) -> bool:
        failing.wait(WAIT_S)
        answered.append(choice.item)
        return False

    threads = threading.active_count()
    with pytest.raises(FailedError):
        searched(engine(reply), selector(rejects=slow))
    assert answered == ["agent/train-0/1", "agent/train-1/1"]
    assert threading.active_count() <= threads
