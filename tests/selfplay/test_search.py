"""Tables of searches and rollouts, shard by shard, with and without a kill."""

from __future__ import annotations

import itertools
import os
import signal
import socket

import pandas as pd
import pytest
from scripted_game import hashed_reply

from sage_dialog.config import Evaluation, RlPlay, SamplingConfig, Steering
from sage_dialog.core.policies import Policy, PolicyCard
from sage_dialog.core.tables import from_rows, to_arrow, to_rows
from sage_dialog.schemas import CANDIDATES, TRAJECTORIES
from sage_dialog.selfplay.search import rollout, sample_dialogues, search, situation_of
from sage_dialog.selfplay.shards import Shards

SYSTEM_PROMPTS = {"listener": "You listen.", "speaker": "You share."}
EMPTY_TABLES = from_rows([], CANDIDATES), from_rows([], TRAJECTORIES)
TEXTS = [f"My friend got tickets to the big game and not me, for the {n}. time." for n in range(8)]


def columns(table):
    """Return names and types of the columns of a table or schema."""
    schema = to_arrow(table).schema if isinstance(table, pd.DataFrame) else table
    return [(field.name, field.type) for field in schema]


class StoppedError(Exception):
    pass


def stop() -> None:
    raise StoppedError


def stop_after(replies: int, reply, end):
    """Return a script like `reply` that calls `end` after a number of replies."""
    count = 0

    def scripted(*prompt):
        nonlocal count
        count += 1
        if count > replies:
            end()
        return reply(*prompt)

    return scripted


@pytest.fixture
def run_search(policies, situations, search_config, selector, tmp_path):
    """A function that runs a search over TEXTS and returns the rows of both tables."""

    def run(engine, scratch="scratch", seed=0, chooser=None, config=search_config, system_prompts=SYSTEM_PROMPTS):
        players, table = (policies["agent"], policies["user"]), situations(TEXTS)
        tables = search(
            engine, *players, table, config, system_prompts, chooser or selector(), seed, tmp_path / scratch
        )
        assert list(map(columns, tables)) == [columns(CANDIDATES), columns(TRAJECTORIES)]
        return tuple(map(to_rows, tables))

    return run


def test_tables_have_every_candidate_and_every_message(run_search, engine, search_config) -> None:
    candidates, messages = run_search(engine(hashed_reply))
    assert {row["situation_id"] for row in messages} == {f"train-{n}" for n in range(8)}
    replies = [row for row in messages if row["role"] == "assistant"]
    chosen = [row for row in candidates if row["chosen"]]
    assert [(row["situation_id"], row["turn"], row["content"]) for row in replies] == [
        (row["situation_id"], row["turn"], row["text"]) for row in chosen
    ]
    assert all(row["u_emotion"] == chosen[n]["u_emotion"] is not None for n, row in enumerate(replies))
    turns = {(row["situation_id"], row["turn"]) for row in candidates}
    assert len(candidates) == len(turns) * search_config.candidates
    assert {row["valid"] for row in candidates} == {True, False}
    assert all((row["invalid_reason"] is None) == row["valid"] for row in candidates)
    openings = [row for row in messages if row["turn"] == 0]
    assert {row["text"] for row in openings} == set(TEXTS)
    assert all(row["a_motivation"] is None and row["content"] == row["text"] for row in openings)


def test_similar_situations_have_their_own_dialogues(run_search, engine, say) -> None:
    def echo(policy, prompt, j):
        return say(f"You said: {prompt.messages[1]['content']}" if policy == "agent" else "Yes.")

    _, messages = run_search(engine(echo))
    first = {row["situation_id"]: row["text"] for row in messages if row["turn"] == 1}
    assert first == {f"train-{n}": f"You said: {text}" for n, text in enumerate(TEXTS)}


def test_shards_do_not_change_the_rows(run_search, engine, search_config) -> None:
    one = run_search(engine(hashed_reply))
    for size, at_once in itertools.product((1, 3, 8, 100), (1, 2, 3)):
        config = search_config.model_copy(update={"shard_size": size, "shards_at_once": at_once})
        assert run_search(engine(hashed_reply), scratch=f"{size}/{at_once}", config=config) == one


def test_the_number_of_shards_at_once_may_change_after_a_kill(run_search, engine, search_config) -> None:
    with pytest.raises(StoppedError):
        run_search(engine(stop_after(95, hashed_reply, stop)))
    resumed, uninterrupted = engine(hashed_reply), engine(hashed_reply)
    config = search_config.model_copy(update={"shards_at_once": 1})
    assert run_search(resumed, config=config) == run_search(uninterrupted, scratch="whole")
    assert 0 < len(resumed.requests) < len(uninterrupted.requests)


@pytest.mark.parametrize("replies", [0, 30, 70, 100])
def test_a_stopped_search_resumes(run_search, engine, replies: int) -> None:
    expected = run_search(engine(hashed_reply), scratch="whole")
    with pytest.raises(StoppedError):
        run_search(engine(stop_after(replies, hashed_reply, stop)), scratch="stopped")
    assert run_search(engine(hashed_reply), scratch="stopped") == expected
    repeated = engine(hashed_reply)
    assert run_search(repeated, scratch="stopped") == expected
    assert repeated.requests == []


def test_a_killed_search_leaves_only_complete_shards(run_search, engine, tmp_path) -> None:
    uninterrupted = engine(hashed_reply)
    expected = run_search(uninterrupted, scratch="whole")
    child = os.fork()
    if child == 0:
        try:
            run_search(
                engine(stop_after(95, hashed_reply, lambda: os.kill(os.getpid(), signal.SIGKILL))), scratch="killed"
            )
        finally:
            os._exit(1)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    finished = list((tmp_path / "killed").rglob("shard-*"))
    assert 0 < len(finished) < 3
    partial = finished[0].with_name(f".shard-00002.{socket.gethostname()}-{child}.partial")
    partial.mkdir()
    (partial / "candidates.parquet").write_bytes(b"PAR1")
    resumed = engine(hashed_reply)
    assert run_search(resumed, scratch="killed") == expected
    assert 0 < len(resumed.requests) < len(uninterrupted.requests)
    assert not partial.exists()


def test_other_inputs_never_reuse_these_shards(run_search, engine, selector, search_config) -> None:
    run_search(engine(hashed_reply))
    warmer = search_config.agent.model_copy(update={"temperature": 1.3})
    for change in (
        {"seed": 1},
        {"chooser": selector(name="another")},
        {"system_prompts": {**SYSTEM_PROMPTS, "listener": "You joke."}},
        {"config": search_config.model_copy(update={"agent": warmer})},
        {"config": search_config.model_copy(update={"max_turns": 4})},
        {"config": search_config.model_copy(update={"user_attempts": 1})},
        {"config": search_config.model_copy(update={"one_question": False})},
        {"config": search_config.model_copy(update={"steering": Steering(fixed={"a_topic": ("dogs",)})})},
        {"config": search_config.model_copy(update={"steering": Steering(fixed={"a_topic": ("dogs", "cats")})})},
    ):
        scripted = engine(hashed_reply)
        run_search(scripted, **change)
        assert scripted.requests, change


def test_a_retrained_policy_never_reuses_the_shards_of_the_old_one(run_search, engine, policies) -> None:
    run_search(engine(hashed_reply))
    policies["user"].path.mkdir()
    (policies["user"].path / "adapter_model.safetensors").write_bytes(b"other weights")
    scripted = engine(hashed_reply)
    run_search(scripted)
    assert scripted.requests


def test_another_chat_template_or_engine_never_reuses_these_shards(run_search, engine, policies) -> None:
    run_search(engine(hashed_reply))
    policies["agent"].path.mkdir()
    for change in ("template", "other template"):
        (policies["agent"].path / "chat_template.jinja").write_text(change)
        scripted = engine(hashed_reply)
        run_search(scripted)
        assert scripted.requests, change
    scripted = engine(hashed_reply, fingerprint_inputs={"threads": 2})
    run_search(scripted)
    assert scripted.requests


def test_shards_of_other_library_versions_are_not_reused(run_search, engine, monkeypatch) -> None:
    run_search(engine(hashed_reply))
    monkeypatch.setattr("sage_dialog.selfplay.search.version", lambda name: "another")
    scripted = engine(hashed_reply)
    run_search(scripted)
    assert scripted.requests


def test_the_slower_of_two_processes_keeps_the_shard_of_the_faster(tmp_path) -> None:
    for _ in range(2):
        Shards(tmp_path / "scratch").save(0, *EMPTY_TABLES)
    assert [path.name for path in (tmp_path / "scratch").glob("*shard*")] == ["shard-00000"]


def test_a_shard_is_on_the_disk_before_it_counts_as_finished(tmp_path, monkeypatch) -> None:
    """A power cut may lose a shard, but leaves none with empty files."""
    shards, flushed = Shards(tmp_path), []
    original_fsync = os.fsync

    def flush(descriptor: int) -> None:
        original_fsync(descriptor)
        if not shards.is_finished(0):
            flushed.append(os.fstat(descriptor).st_ino)

    monkeypatch.setattr(os, "fsync", flush)
    shards.save(0, *EMPTY_TABLES)
    shard = tmp_path / "shard-00000"
    assert {path.stat().st_ino for path in (shard, *shard.iterdir())} <= set(flushed)


def test_a_shard_that_cannot_be_written_leaves_nothing(tmp_path, monkeypatch) -> None:
    import pyarrow.parquet as pq

    def full(*_: object, **__: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(pq, "write_table", full)
    with pytest.raises(OSError, match="no space left"):
        Shards(tmp_path).save(0, *EMPTY_TABLES)
    assert not list(tmp_path.glob("*shard*")) and not Shards(tmp_path).is_finished(0)


def test_training_parameters_do_not_invalidate_the_shards(run_search, engine, search_config) -> None:
    run_search(engine(hashed_reply))
    scripted = engine(hashed_reply)
    run_search(scripted, config=search_config.model_copy(update={"replay_share": 0.9}))
    assert scripted.requests == []


def test_a_search_plays_train_situations_drawn_by_seed(
    policies, situations, search_config, selector, engine, tmp_path
) -> None:
    table = pd.concat([situations(TEXTS), situations(TEXTS, split="valid")])
    config = search_config.model_copy(update={"situations": 3})

    def played(seed: int) -> set[str]:
        _, trajectories = search(
            engine(hashed_reply),
            policies["agent"],
            policies["user"],
            table,
            config,
            SYSTEM_PROMPTS,
            selector(),
            seed,
            tmp_path,
        )
        return set(trajectories["situation_id"])

    assert played(0) == played(0)
    assert all(len(played(seed)) == 3 and played(seed) <= {f"train-{n}" for n in range(8)} for seed in range(3))
    assert len({frozenset(played(seed)) for seed in range(3)}) > 1


def test_a_table_without_train_situations_is_an_error_with_the_command(
    policies, situations, search_config, selector, engine, tmp_path
) -> None:
    with pytest.raises(ValueError, match=r"no train situation; run kedro run --pipelines data_processing"):
        search(
            engine(None),
            policies["agent"],
            policies["user"],
            situations([]),
            search_config,
            SYSTEM_PROMPTS,
            selector(),
            0,
            tmp_path,
        )


@pytest.fixture
def evaluation() -> Evaluation:
    sampling = SamplingConfig.from_base(max_new_tokens=50, top_k=100)
    return Evaluation.from_base(split="test", situations=4, exchanges=3, agent=sampling, user=sampling, pairs=())


def test_the_agent_is_steered_and_the_user_is_not(
    policies, situations, run_search, engine, say, evaluation, search_config, tmp_path
) -> None:
    steering = Steering(boosts={"a_motivation": {"humor": 4.0}})
    search_engine, rollout_engine = engine(hashed_reply), engine(lambda *_: say("Yes."))
    run_search(search_engine, config=search_config.model_copy(update={"steering": steering}))
    config = evaluation.model_copy(update={"steering": steering})
    held_out = situations(TEXTS, split="test")
    rollout(rollout_engine, policies["agent"], policies["user"], held_out, config, SYSTEM_PROMPTS, 0, tmp_path)
    for scripted in (search_engine, rollout_engine):
        assert set(map(repr, scripted.steered("agent"))) == {repr(steering)}
        assert not any(scripted.steered("user"))


def test_an_agent_without_blocks_is_not_steered_which_is_logged(
    policies, situations, engine, evaluation, tmp_path, caplog
) -> None:
    plain = Policy(tmp_path / "plain", PolicyCard("plain", "adapter", False, "sage_0", "base"))
    scripted, user = engine(lambda *_: "Yes."), policies["agent"]
    config = evaluation.model_copy(update={"steering": Steering(fixed={"a_emotion": "calm"})})
    with caplog.at_level("INFO", logger="sage_dialog"):
        rollout(scripted, plain, user, situations(TEXTS, split="test"), config, SYSTEM_PROMPTS, 0, tmp_path)
    assert scripted.steered("plain") and not any(scripted.steered("plain"))
    assert "plain writes no state and action blocks" in caplog.text


def test_policies_draw_the_same_numbers_in_rollouts_and_their_own_in_searches(
    policies, situations, engine, say, evaluation, search_config, selector, tmp_path
) -> None:
    """Compared policies use the same random numbers."""

    def drawn_items(play_with) -> set[tuple[object, ...]]:
        scripted = engine(lambda *_: say("Yes."))
        play_with(scripted)
        return {prompt.item for _, prompt, _ in scripted.requests}

    def run_rollout(agent):
        user, table = policies["user"], situations(TEXTS, split="test")
        return lambda scripted: rollout(scripted, agent, user, table, evaluation, SYSTEM_PROMPTS, 0, tmp_path)

    def run_search(agent):
        user, table, config = policies["user"], situations(TEXTS), search_config
        return lambda scripted: search(scripted, agent, user, table, config, SYSTEM_PROMPTS, selector(), 0, tmp_path)

    assert drawn_items(run_rollout(policies["agent"])) == drawn_items(run_rollout(policies["user"])) != set()
    assert drawn_items(run_search(policies["agent"])).isdisjoint(drawn_items(run_search(policies["user"])))


def test_a_rollout_plays_the_same_held_out_situations_for_every_policy(
    policies, situations, engine, say, evaluation, tmp_path
) -> None:
    def reply(policy, prompt, j):
        return "broken {blocks" if policy == "agent" and prompt.item[-1] == 3 else say("Yes.")

    def rows(agent):
        return rollout(
            engine(reply),
            agent,
            policies["user"],
            situations(TEXTS, split="test"),
            evaluation,
            SYSTEM_PROMPTS,
            0,
            tmp_path,
        )

    of_agent, of_user = rows(policies["agent"]), rows(policies["user"])
    assert columns(of_agent) == columns(TRAJECTORIES)
    assert of_agent["situation_id"].unique().tolist() == of_user["situation_id"].unique().tolist()
    assert len(of_agent) == 4 * 6
    third = [row for row in to_rows(of_agent) if row["turn"] == 3]
    assert {(row["text"], row["u_emotion"]) for row in third} == {("broken {blocks", None)}


@pytest.fixture
def run_dialogues(policies, situations, tmp_path):
    """A function that plays dialogues for offline reinforcement learning."""

    def run(engine, alternatives=2, scratch="scratch"):
        config = RlPlay.from_base(situations=None, dialogues=3, exchanges=2, alternatives=alternatives)
        players, table = (policies["agent"], policies["user"]), situations(TEXTS)
        tables = sample_dialogues(engine, *players, table, config, SYSTEM_PROMPTS, 0, tmp_path / scratch)
        return tuple(map(to_rows, tables))

    return run


def test_alternatives_are_drawn_beside_each_reply_and_change_nothing(run_dialogues, engine) -> None:
    candidates, messages = run_dialogues(engine(hashed_reply))
    assert {situation_of(row["situation_id"]) for row in messages} == {f"train-{n}" for n in range(8)}
    assert len({row["situation_id"] for row in messages}) == 3 * 8
    said = {(row["situation_id"], row["turn"]): row["content"] for row in messages if row["role"] == "assistant"}
    assert len({text for (name, _), text in said.items() if situation_of(name) == "train-0"}) > 1
    drawn = pd.DataFrame(candidates).groupby(["situation_id", "turn"])
    assert set(drawn.groups) == set(said) and set(drawn.size()) == {3}
    chosen = [row for row in candidates if row["chosen"]]
    assert {(row["situation_id"], row["turn"]): row["text"] for row in chosen} == said
    assert {row["candidate"] for row in chosen} == {0}
    assert run_dialogues(engine(hashed_reply), alternatives=1, scratch="other")[1] == messages


def test_stopped_dialogues_go_on_where_they_were(run_dialogues, engine, monkeypatch) -> None:
    monkeypatch.setattr("sage_dialog.selfplay.search.ROLLOUT_SHARD", 5)
    whole = run_dialogues(engine(hashed_reply), scratch="whole")
    with pytest.raises(StoppedError):
        run_dialogues(engine(stop_after(90, hashed_reply, stop)))
    resumed = engine(hashed_reply)
    assert run_dialogues(resumed) == whole
    assert 0 < len(resumed.prompts("agent")) < len({(r["situation_id"], r["turn"]) for r in whole[0]})
