"""External models on a failing server: the same situations and user as policies, cached responses, judged alike."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from faulty_server import FaultyServer
from kedro.io import DatasetError
from live_program import MODEL
from scripted_engine import ScriptedEngine

from sage_dialog import schemas
from sage_dialog.config import Caps, Evaluation, Llm, SacAugmentation, SamplingConfig
from sage_dialog.core.policies import Policy, PolicyCard
from sage_dialog.core.tables import DataFrame, from_rows, to_rows
from sage_dialog.datasets.external_models import ExternalModels
from sage_dialog.hooks.errors import RunRefused
from sage_dialog.hooks.validation import validate_parameters
from sage_dialog.inference.engine import Prompt
from sage_dialog.llm.budget import Budget
from sage_dialog.llm.requests import StopRunError
from sage_dialog.pipelines.evaluation.nodes import (
    collect_rollouts,
    describe_policies,
    describe_replies,
    judge_pairs,
    parse_blocks,
    play_external_models,
)
from sage_dialog.roles.offline.judge import OfflineJudge
from sage_dialog.sac import Chain, Intent, render

SAMPLING = {
    "agent": SamplingConfig.from_base(max_new_tokens=20, top_k=100),
    "user": SamplingConfig.from_base(max_new_tokens=20, top_k=100),
}
EVALUATION = Evaluation.from_base(**SAMPLING, exchanges=2, pairs=(("sage_0", "theirs"),), one_question=False)


def answer(body: dict[str, Any]) -> str:
    return f"I heard you say: {body['messages'][-1]['content']}"


@pytest.fixture
def server(short_waits: None) -> Iterator[FaultyServer]:
    with FaultyServer(reply=answer, share=0.2, latency_s=0.002) as running:
        yield running


def share(policy: str, prompt: Prompt, sample: int) -> str:
    """Script of the simulated user: a reply with the number of messages before it."""
    assert policy == "sage_1"
    return render(Chain(Intent(), Intent("sharing"), f"Then {len(prompt.messages)} followed."))


@pytest.fixture
def players(tmp_path: Path) -> dict[str, Policy]:
    policies = {}
    for name, kind in (("sage_0", "base"), ("sage_1", "adapter")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(name.encode())
        policies[name] = Policy.write_card(
            tmp_path / name, PolicyCard(name, kind, kind == "adapter", "sage_0", "revision")
        )
    return policies


def situations() -> DataFrame:
    rows = [
        {"situation_id": f"s{n}", "split": "test", "emotion": "sad", "text": f"My bike was stolen, for the {n}. time."}
        for n in range(12)
    ]
    return from_rows(rows, schemas.SITUATIONS)


def external_entry(server: FaultyServer, tmp_path: Path, caps: Caps | None = None, **more: Any) -> ExternalModels:
    endpoint = {"base_urls": [server.url], "model": MODEL, "sampling": {"max_tokens": 50}, "timeout_s": 10}
    entry = ExternalModels(models={"theirs": {"endpoint": endpoint, **more}})
    llm = Llm.from_base(response_cache=str(tmp_path / f"{len(list(tmp_path.iterdir()))}.sqlite"))
    entry.bind_budget(llm, Budget(caps or Caps(), {}, {}))
    return entry


def play(
    entry: ExternalModels, players: dict[str, Policy], scratch: Path, user: ScriptedEngine | None = None
) -> DataFrame:
    mix = SacAugmentation.from_base(system_prompts={"listener": "Listen.", "speaker": "Share."})
    engine = user or ScriptedEngine(share)
    return play_external_models(
        *(
            players["sage_0"],
            players["sage_1"],
            situations(),
            lambda *_: engine,
            entry.load(),
            {},
            EVALUATION,
            mix,
            0,
            None,
        ),
        str(scratch),
    )


def test_it_plays_with_the_same_user_and_every_reply_of_a_failing_server_is_valid(server, players, tmp_path) -> None:
    rollouts = play(external_entry(server, tmp_path), players, tmp_path / "scratch")
    assert list(rollouts.columns) == schemas.ROLLOUTS.names
    assert set(rollouts["policy"]) == {"theirs"}
    for situation in to_rows(situations()):
        rows = [row for row in to_rows(rollouts) if row["situation_id"] == situation["situation_id"]]
        texts = [row["text"] for row in rows]
        first = f"I heard you say: {situation['text']}"
        assert texts == [situation["text"], first, "Then 3 followed.", "I heard you say: Then 3 followed."]
        assert {row["outcome"] for row in rows} == {"turn limit"}
    assert {call.outcome for call in server.calls} > {"reply"}  # the server failed in between


def test_its_system_prompt_is_that_of_the_policies_by_default(server, players, tmp_path) -> None:
    bodies: list[Any] = []
    server.reply = lambda body: bodies.append(body["messages"][0]) or "Yes."
    play(external_entry(server, tmp_path), players, tmp_path / "a")
    assert {message["content"] for message in bodies} == {"Listen."}
    bodies.clear()
    play(external_entry(server, tmp_path, system_prompt="Be brief."), players, tmp_path / "b")
    assert {message["content"] for message in bodies} == {"Be brief."}
    bodies.clear()
    play(external_entry(server, tmp_path, system_prompt=""), players, tmp_path / "c")
    assert {message["role"] for message in bodies} == {"user"}


def test_finished_dialogues_are_reused_unless_the_model_changes(server, players, tmp_path) -> None:
    first = play(external_entry(server, tmp_path), players, tmp_path / "scratch")
    user = ScriptedEngine(share)
    assert play(external_entry(server, tmp_path), players, tmp_path / "scratch", user).equals(first)
    assert user.requests == []
    entry = external_entry(server, tmp_path, system_prompt="Be brief.")
    play(entry, players, tmp_path / "scratch", user)
    assert len(user.requests) == 12


def test_a_cap_holds_for_it(server, players, tmp_path) -> None:
    with pytest.raises(StopRunError, match=r"llm\.caps\.calls"):
        play(external_entry(server, tmp_path, Caps(calls=5)), players, tmp_path / "scratch")


def test_it_is_judged_and_described_like_a_policy(server, players, tmp_path) -> None:
    entry = external_entry(server, tmp_path)
    theirs = play(entry, players, tmp_path / "scratch")
    ours = theirs.drop(columns="policy")
    rollouts = collect_rollouts(theirs, sage_0=ours, sage_1=ours)
    votes = judge_pairs(EVALUATION, [OfflineJudge()], rollouts)
    assert len(votes) == 2 * 12 and set(votes["policy_b"]) == {"theirs"}
    cards = describe_policies(entry.load(), {}, **players)
    card = to_rows(cards)[-1]
    assert card == card | {"policy": "theirs", "kind": "external", "base": MODEL, "blocks": False}
    statistics = describe_replies(rollouts, parse_blocks(rollouts, cards), EVALUATION)[2]
    assert set(statistics["policy"]) == {"sage_0", "sage_1", "theirs"}


def test_without_external_models_the_table_is_empty_and_no_engine_opens(players, tmp_path) -> None:
    def fail(*_: Any) -> Any:
        raise AssertionError("an engine was opened")

    mix = SacAugmentation.from_base(system_prompts={"listener": "Listen."})
    inputs = (players["sage_0"], players["sage_1"], situations(), fail, {}, {})
    assert play_external_models(*inputs, EVALUATION, mix, 0, None, str(tmp_path)).empty


def test_pairs_may_name_it_and_its_name_differs_from_those_of_policies(open_session: Any) -> None:
    with open_session() as session:
        shipped_parameters = session.load_context().config_loader["parameters"]
    pairs = {"evaluation": shipped_parameters["evaluation"] | {"pairs": [["theirs", "sage_dpo"]]}}
    with pytest.raises(RunRefused, match="no policy is called 'theirs'"):
        validate_parameters(shipped_parameters | pairs)
    validate_parameters(shipped_parameters | pairs, external_models=("theirs",))
    with pytest.raises(RunRefused, match="sage_1 names a policy and an external model"):
        validate_parameters(shipped_parameters, external_models=("sage_1",))
    with pytest.raises(RunRefused, match="theirs names an external model and an external policy"):
        validate_parameters(shipped_parameters, external_models=("theirs", "theirs"))


def test_an_invalid_entry_is_an_error_without_the_key() -> None:
    with pytest.raises(DatasetError, match="'a/b' names a model"):
        ExternalModels(models={"a/b": {"endpoint": {}}})
    entry = ExternalModels(
        models={"theirs": {"endpoint": {"base_urls": []}, "credentials": {"api_key": "sk-secret-of-mine"}}}
    )
    message = entry.explain_missing()
    assert message is not None and "the external model theirs cannot be used" in message
    assert "sk-secret" not in message + str(entry)
