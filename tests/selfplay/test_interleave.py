"""Sampling in one thread while the selector runs in others, and errors of either side."""

from __future__ import annotations

import threading

import pytest

from sage_dialog.roles.protocols import Choice
from sage_dialog.selfplay.search import search

WAIT_S = 120.0  # timeout of a test that hangs
TEXTS = [f"My bike was stolen, for the {n}. time." for n in range(6)]


class FailedError(Exception):
    pass


@pytest.fixture
def run_search(policies, situations, search_config, tmp_path):
    def run(engine, chooser, at_once: int = 2, shard_size: int = 2, situation_texts=TEXTS):
        config = search_config.model_copy(update={"shards_at_once": at_once, "shard_size": shard_size, "redraws": 0})
        system_prompts = {"listener": "You listen.", "speaker": "You share."}
        players = policies["agent"], policies["user"]
        return search(
            engine, *players, situations(situation_texts), config, system_prompts, chooser, 0, tmp_path / "scratch"
        )

    return run


def test_one_shard_is_sampled_while_the_selector_chooses_for_another(run_search, engine, selector, say) -> None:
    """The selector waits for samples of the second shard, so that sequential shards would never end."""
    sampled_second, overlapped = threading.Event(), []

    def reply(policy, prompt, j):
        if prompt.item[-2] == "train-2":
            sampled_second.set()
        return say(f"{policy} {j}.")

    def wait(choice: Choice) -> bool:
        if choice.item == "agent/train-0/1":
            overlapped.append(sampled_second.wait(WAIT_S))
        return False

    run_search(engine(reply), selector(rejects=wait))
    assert overlapped == [True]


def test_selections_of_several_shards_run_concurrently(run_search, engine, selector, say) -> None:
    barrier = threading.Barrier(3, timeout=WAIT_S)

    def wait(choice: Choice) -> bool:
        barrier.wait()
        return False

    run_search(
        engine(lambda *_: say("Yes.")), selector(rejects=wait), at_once=3, shard_size=1, situation_texts=TEXTS[:3]
    )
    assert not barrier.broken


def test_only_the_callers_thread_uses_the_engine(run_search, engine, selector, say) -> None:
    sampling, selecting = set(), set()

    def reply(policy, prompt, j):
        sampling.add(threading.get_ident())
        return say("Yes.")

    def record_thread(choice: Choice) -> bool:
        selecting.add(threading.get_ident())
        return False

    run_search(engine(reply), selector(rejects=record_thread))
    assert sampling == {threading.get_ident()}
    assert selecting and selecting.isdisjoint(sampling)


def test_shards_at_once_is_a_limit(run_search, engine, selector, say) -> None:
    started: list[str] = []

    def reply(policy, prompt, j):
        if policy == "agent" and prompt.item[-1] == 1 and j == 0:
            started.append(prompt.item[-2])
        return say("Yes.")

    seen: list[int] = []

    def record_count(choice: Choice) -> bool:
        seen.append(len(started))
        return False

    run_search(engine(reply), selector(rejects=record_count), at_once=1, shard_size=2)
    assert seen == [2] * 6 + [4] * 6 + [6] * 6  # three turns of two dialogues each


def test_a_failing_selector_ends_the_run_and_finished_shards_stay(run_search, engine, selector, say) -> None:
    def fail(choice: Choice) -> bool:
        if choice.item == "agent/train-4/1":
            raise FailedError
        return False

    with pytest.raises(FailedError):
        run_search(engine(lambda *_: say("Yes.")), selector(rejects=fail))
    second_run = engine(lambda *_: say("Yes."))
    _, trajectories = run_search(second_run, selector())
    assert "train-4" in (played := {prompt.item[-2] for policy, prompt, _ in second_run.requests if policy == "agent"})
    assert not {"train-0", "train-1"} & played
    assert len(trajectories) == len(TEXTS) * 6


def test_a_failing_engine_waits_for_running_selections(run_search, engine, selector, say) -> None:
    failing, answered = threading.Event(), []

    def reply(policy, prompt, j):
        if prompt.item[-2] == "train-2":
            failing.set()
            raise FailedError
        return say("Yes.")

    def wait_for_failure(choice: Choice) -> bool:
        failing.wait(WAIT_S)
        answered.append(choice.item)
        return False

    threads = threading.active_count()
    with pytest.raises(FailedError):
        run_search(engine(reply), selector(rejects=wait_for_failure))
    assert answered == ["agent/train-0/1", "agent/train-1/1"]
    assert threading.active_count() <= threads
