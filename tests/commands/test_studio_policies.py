"""The policies of a project in the studio: adapters that share a base, whole models, and such with another base."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from block_writers import save_policy
from kedro.framework.startup import bootstrap_project
from studio_app import Client, said, studio_of

from sage_dialog.commands.project import Project
from sage_dialog.commands.studio_sources import PolicySource
from sage_dialog.core.policies import Policy, PolicyCard
from sage_dialog.datasets.external_policies import ExternalPolicies
from sage_dialog.inference.transformers.engine import TransformersEngine
from sage_dialog.studio.chat.conversation import Conversation
from sage_dialog.studio.chat.reply_view import view_reply
from sage_dialog.training.full_weights import full_adapter

SEED = 1


@pytest.fixture(scope="module")
def whole(policies: dict[str, Policy], tmp_path_factory: pytest.TempPathFactory) -> tuple[Policy, Path]:
    """A policy with all weights, and a complete model of somebody else, whose weights differ from all others."""
    import torch
    from transformers import AutoModelForCausalLM

    base = policies["sage_0"]
    model = AutoModelForCausalLM.from_pretrained(base.path)
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.01 * torch.randn_like(weight)
    path, theirs = tmp_path_factory.mktemp("sage_1"), tmp_path_factory.mktemp("another") / "theirs"
    shutil.copytree(base.path, theirs)
    model.save_pretrained(theirs)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.01 * torch.randn_like(weight)
    full_adapter(model).save_pretrained(path)
    revision = base.card.base_revision
    return Policy.write_card(path, PolicyCard("sage_1", "adapter", True, "sage_0", revision)), theirs


@pytest.fixture
def client(
    configured: Path,
    policies: dict[str, Policy],
    whole: tuple[Policy, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Client]:
    """A studio on the catalog; `sage_2` was trained on an earlier base."""
    stale = policies["sage_dpo"]
    earlier = PolicyCard("sage_2", "adapter", True, "sage_0", "0" * 64)
    shutil.copytree(stale.path, tmp_path / "sage_2")
    for policy in (*policies.values(), whole[0], Policy.write_card(tmp_path / "sage_2", earlier)):
        save_policy(policy, tmp_path / "data")
    monkeypatch.setenv("SAGE_DATA", str(tmp_path / "data"))
    project = Project(bootstrap_project(configured), "test")
    theirs = {"theirs": {"folder": str(whole[1]), "blocks": True}}
    project.catalog["external_policies"] = ExternalPolicies(policies=theirs)
    found = PolicySource(project, SEED, True, None).policies(None)
    with Client(replace(studio_of(tmp_path), policies=found, seed=SEED, candidates=2)) as client:
        yield client


def test_whole_models_talk_each_by_its_own_engine(
    client: Client, policies: dict[str, Policy], whole: tuple[Policy, Path]
) -> None:
    """Side by side with each other and with an adapter, a whole model says what it says alone."""
    found = client.studio.policies
    engines = {name: found.get(name).engine for name in ("sage_0", "sage_dpo", "sage_1", "theirs")}
    assert engines["sage_0"] == engines["sage_dpo"] and len(set(engines.values())) == 3
    alone = Conversation(
        TransformersEngine(policies["sage_0"], [whole[0]], SEED), "sage_1", True, found.get("sage_1").settings
    )
    replies = [view_reply(alone.say(text).text, True).words for text in ("x", "xx")]
    for beside in ("theirs", "sage_dpo", "sage_0"):
        talk = client.begin("x", policy="sage_1", beside=beside, blind="on")
        messages = said(client.step(talk, "say", text="xx"))
        dialogues = [messages[:4], messages[4:]]
        assert ["x", replies[0], "xx", replies[1]] in dialogues and dialogues[0] != dialogues[1], beside
    talk = client.begin("x", policy="sage_1")
    assert client.step(talk, "candidates").count("Go on with this one") == 2
    assert "2 of 2" in client.step(talk, "pick", candidate=2)


def test_only_a_policy_of_an_earlier_base_is_refused(client: Client) -> None:
    talk = client.post("/chat/new", policy="sage_2", text="x").headers["hx-redirect"]
    client.wait(talk)
    assert "belongs to base revision 0000" in client.get(f"{talk}/view").text
    assert len(said(client.get(f"{client.begin('x', policy='sage_dpo')}/view").text)) == 2
