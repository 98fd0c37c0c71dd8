"""Policies from outside with blocks: played, steered, judged and described as policies of the project."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants
from kedro.io import DatasetError
from scripted_engine import ScriptedEngine

from sage_dialog import schemas
from sage_dialog.config import Evaluation, SacAugmentation, SamplingConfig, Steering
from sage_dialog.core.policies import CARD, Policy, PolicyCard, weights_revision
from sage_dialog.core.tables import DataFrame, from_rows, to_rows
from sage_dialog.datasets.external_policies import ExternalPolicies
from sage_dialog.inference.engine import Engine, Prompt
from sage_dialog.inference.external_policies import ExternalPolicyEngine
from sage_dialog.pipelines.evaluation.nodes import (
    collect_rollouts,
    describe_policies,
    judge_pairs,
    parse_blocks,
    play_external_models,
)
from sage_dialog.roles.offline.judge import OfflineJudge
from sage_dialog.sac import BlockForm, Chain, Intent, parse, render

torch = pytest.importorskip("torch")
pytest.importorskip("peft")

SAMPLING = SamplingConfig.from_base(temperature=1.0, top_k=20, max_new_tokens=90)
EVALUATION = Evaluation.from_base(
    agent=SAMPLING,
    user=SAMPLING,
    exchanges=1,
    pairs=(("whole", "lora"),),
    steering=Steering(fixed={"a_emotion": "calm"}),
)
FORM = "(u_motivation: <u_motivation>, u_emotion: <u_emotion>) [x_motivation: <a_motivation>, x_emotion: <a_emotion>] "
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def situations(number: int = 6) -> DataFrame:
    rows = [
        {"situation_id": f"s{n}", "split": "test", "emotion": "sad", "text": "x" * (n % 3 + 1)} for n in range(number)
    ]
    return from_rows(rows, schemas.SITUATIONS)


@pytest.fixture(scope="module")
def folders(block_policy: Callable[[str], Policy], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A whole model and an adapter on it as others publish them: without our card, the adapter with a stray pickle."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    whole = tmp_path_factory.mktemp("outside") / "Their-Model.v1"
    shutil.copytree(block_policy("words").path, whole)
    (whole / CARD).unlink()
    lora = whole.with_name("their-lora")
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(whole), LoraConfig(r=2, target_modules=["q_proj"]))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.05, generator=torch.Generator().manual_seed(0))
    model.save_pretrained(lora)
    (lora / "training_args.bin").write_bytes(b"a pickle")
    return {"whole": whole, "lora": lora}


class Opened:
    """Opens engines in process, and counts them."""

    def __init__(self) -> None:
        self.engines: list[tuple[str, list[str]]] = []

    def __call__(self, base: Policy, policies: Sequence[Policy], seed: int, threads: int | None) -> Engine:
        from sage_dialog.inference.transformers.engine import TransformersEngine

        self.engines.append((base.name, [policy.name for policy in policies]))
        return TransformersEngine(base, policies, seed, threads=1)


def play(entry: ExternalPolicies, base: Policy, user: Policy, engine: Any, scratch: Path) -> DataFrame:
    mix = SacAugmentation.from_base(system_prompts={"listener": "x", "speaker": "xx"})
    inputs = (base, user, situations(), engine, {}, entry.load(), EVALUATION, mix, 0, None, str(scratch))
    return play_external_models(*inputs)


def test_adapters_and_whole_models_are_played_steered_judged_and_described_as_policies(
    folders: dict[str, Path], block_policy: Callable[[str], Policy], tmp_path: Path
) -> None:
    words = block_policy("words")
    base = Policy(words.path, PolicyCard("sage_0", "base", True, "sage_0", words.card.base_revision))
    user = Policy(folders["lora"], PolicyCard("sage_1", "adapter", True, "sage_0", words.card.base_revision))
    entry = ExternalPolicies(
        policies={
            "whole": {"folder": str(folders["whole"]), "blocks": True},
            "lora": {"folder": str(folders["lora"]), "base": {"folder": str(folders["whole"])}, "blocks": True},
            "ours": {"folder": str(folders["lora"]), "base": "sage_0", "blocks": True},
        }
    )
    assert entry.explain_missing() is None
    opened = Opened()
    rollouts = play(entry, base, user, opened, tmp_path)
    assert opened.engines == [
        *(("whole", []), ("sage_0", ["sage_1"])),
        ("sage_0", ["lora", "sage_1"]),  # the same weights under another path: one engine
        ("sage_0", ["ours", "sage_1"]),
    ]
    rows = to_rows(rollouts)
    by_policy = {name: [row for row in rows if row["policy"] == name] for name in ("whole", "lora", "ours")}
    texts = {name: [row["content"] for row in of] for name, of in by_policy.items()}
    assert texts["whole"] != texts["lora"] == texts["ours"]  # the adapter has an effect, whichever base it was given
    written = [row for row in rows if row["role"] == "assistant" and row["a_emotion"] is not None]
    assert len(written) > 9 and {row["a_emotion"] for row in written} == {"calm"}  # evaluation.steering applies

    cards = describe_policies({}, entry.load(), sage_0=base)
    described = {row["policy"]: row for row in to_rows(cards)}
    assert described["whole"]["revision"] == weights_revision(folders["whole"])
    assert described["lora"]["revision"] == weights_revision(folders["lora"])
    assert [described[name]["kind"] for name in ("whole", "lora")] == ["base", "adapter"]
    assert all(described[name]["blocks"] for name in by_policy)
    everything = collect_rollouts(rollouts, sage_0=rollouts[rollouts["policy"] == "whole"].drop(columns="policy"))
    replies = parse_blocks(everything, cards)
    assert (replies[replies["policy"] == "lora"]["a_emotion"] == "calm").sum() > 2
    votes = judge_pairs(EVALUATION, [OfflineJudge()], everything)
    assert len(votes) == 2 * 6

    first = describe_policies({}, entry.load(), sage_0=base)
    weights = folders["whole"] / "model.safetensors"
    shutil.copy(weights, tmp_path / "kept")
    try:
        weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\0\1")
        assert not describe_policies({}, entry.load(), sage_0=base).equals(first), "other weights are another policy"
    finally:
        shutil.copy(tmp_path / "kept", weights)


def test_blocks_of_another_form_are_read_by_its_grammar(tmp_path: Path, folders: dict[str, Path]) -> None:
    """The policy reads and writes its own form; the simulated user, the tables and the judges see ours."""

    def reply(policy: str, prompt: Prompt, j: int) -> str:
        if policy == "sage_1":
            return render(Chain(Intent("sharing"), Intent("sharing"), "And then?"))
        if len(prompt.messages) > 2:
            return "no blocks at all"
        return "(u_motivation: sharing, u_emotion: sad) [x_motivation: humor, x_emotion: null] Ha! Why?"

    played = EVALUATION.model_copy(update={"exchanges": 2, "steering": Steering()})
    engine = ScriptedEngine(reply)
    entry = ExternalPolicies(
        policies={
            "theirs": {
                "folder": str(folders["whole"]),
                "blocks": True,
                "block_form": FORM,
                "system_prompt": "Be kind.",
            }
        }
    )
    base = Policy(folders["whole"], PolicyCard("sage_0", "base", False, "sage_0", "0"))
    mix = SacAugmentation.from_base(system_prompts={"listener": "x", "speaker": "xx"})
    user = Policy(folders["lora"], PolicyCard("sage_1", "adapter", True, "sage_0", "0"))
    opener = lambda *_: engine  # noqa: E731
    rollouts = play_external_models(
        base, user, situations(1), opener, {}, entry.load(), played, mix, 0, None, str(tmp_path)
    )
    rows = to_rows(rollouts)
    ours = render(Chain(Intent("sharing", "sad"), Intent("humor"), "Ha! Why?"))
    assert [row["content"] for row in rows if row["role"] == "assistant"] == [ours, "no blocks at all"]
    assert [row["text"] for row in rows][1:3] == ["Ha! Why?", "And then?"]
    assert rows[1]["u_emotion"] == "sad" and rows[1]["a_motivation"] == "humor" and rows[1]["a_emotion"] is None
    second = engine.prompts("theirs")[1]
    assert second[0] == {"role": "system", "content": "Be kind."}
    assert second[2]["content"] == reply("theirs", Prompt((), ()), 0), "it reads what it wrote"
    assert not any("(u_motivation" in message["content"] for one in engine.prompts("sage_1") for message in one)
    replies = to_rows(parse_blocks(rollouts, describe_policies({}, entry.load(), sage_0=base)))
    assert [row["invalid_reason"] is None for row in replies] == [True, False]


def test_a_policy_with_a_form_of_its_own_is_not_steered_and_not_streamed_in_pieces() -> None:
    text = "(u_motivation: a, u_emotion: b) [x_motivation: c, x_emotion: d] Hi"
    engine = ExternalPolicyEngine(
        "theirs", BlockForm(FORM), ScriptedEngine(lambda *_: text), ScriptedEngine(lambda *_: "-")
    )
    pieces: list[str] = []
    prompt = Prompt(({"role": "user", "content": "x"},), ("one",))
    (samples,) = engine.sample("theirs", [prompt], SAMPLING, 2, on_text=pieces.append)
    assert pieces == [samples[0].text] and isinstance(parse(samples[1].text), Chain)
    assert engine.sample("sage_1", [prompt], SAMPLING)[0][0].text == "-"
    with pytest.raises(ValueError, match=r"theirs cannot be steered: its blocks have a form of their own"):
        engine.sample("theirs", [], SAMPLING, steering=Steering(fixed={"a_emotion": "sad"}))


@pytest.mark.parametrize(
    ("policy", "reason"),
    [
        ({}, "state with `blocks: true` or `false`"),
        ({"blocks": True}, "neither a `repo` on a hub, nor a local `folder`"),
        ({"blocks": True, "repo": "a/b", "revision": "main"}, "needs a commit as `revision`"),
        ({"blocks": True, "folder": "LORA"}, "it is an adapter, so name its base"),
        ({"blocks": True, "folder": "WHOLE", "base": "sage_0"}, r"holds no adapter: there is no adapter_config\.json"),
        ({"blocks": True, "folder": "LORA", "base": "sage_9"}, "base is sage_0, or has folder, repo, revision"),
        ({"blocks": False, "folder": "WHOLE", "block_form": FORM}, "it has a block_form, and `blocks: false`"),
        ({"blocks": True, "folder": "WHOLE", "block_form": "(<a_mood>) "}, "block_form: <a_mood> is not a field"),
    ],
)
def test_an_invalid_policy_is_refused_before_a_run(
    folders: dict[str, Path], policy: dict[str, Any], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    places = {"WHOLE": str(folders["whole"]), "LORA": str(folders["lora"])}
    entry = ExternalPolicies(policies={"theirs": {key: places.get(str(value), value) for key, value in policy.items()}})
    with pytest.raises(DatasetError, match=rf"the external policy theirs cannot be used: .*{reason}"):
        entry.load()
    assert reason.split(".")[0].split("\\")[0] in (entry.explain_missing() or "")


def test_unknown_keys_and_names_are_refused() -> None:
    with pytest.raises(DatasetError, match=r"external policy a: unknown 'repository'; known: base, block_form"):
        ExternalPolicies(policies={"a": {"repository": "x/y"}})
    with pytest.raises(DatasetError, match=r"'a\.b' names an external policy"):
        ExternalPolicies(policies={"a.b": {}})


def test_an_exported_adapter_names_its_base_and_a_hub_commit_is_an_identity(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    for repo, folder in (("them--whole", "whole"), ("them--lora", "lora")):
        shutil.copytree(folders[folder], tmp_path / "hub" / f"models--{repo}" / "snapshots" / COMMIT)
    source = {"repo": "them/whole", "revision": COMMIT}
    adapter = {"repo": "them/lora", "revision": COMMIT, "blocks": True, "base": source}
    policies = {"whole": {**source, "blocks": True}, "lora": adapter}
    loaded = ExternalPolicies(policies=policies).load()
    base, policy = loaded["whole"].resolve(Policy(tmp_path, PolicyCard("sage_0", "base", False, "sage_0", "0")))
    assert base == policy and (policy.name, policy.card.base, policy.revision()) == ("whole", "them/whole", COMMIT)
    base, policy = loaded["lora"].resolve(policy)
    assert policy.card.base_revision == COMMIT and policy.revision() == weights_revision(folders["lora"])
    assert "lora was trained on" in caplog.text and "is played on them/whole" in caplog.text

    exported = tmp_path / "exported"
    shutil.copytree(folders["lora"], exported)
    (exported / CARD).write_text(json.dumps(vars(PolicyCard("sage_3", "adapter", True, "sage_0", "another"))))
    (external,) = (
        ExternalPolicies(policies={"theirs": {"folder": str(exported), "base": "sage_0", "blocks": True}})
        .load()
        .values()
    )
    with pytest.raises(ValueError, match=r"an adapter on base revision another, but sage_0 is 0; name its own base"):
        external.resolve(Policy(tmp_path, PolicyCard("sage_0", "base", False, "sage_0", "0")))
