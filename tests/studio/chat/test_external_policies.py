"""Policies from folders that are not in the catalog."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from sage_dialog.core.policies import Policy, PolicyCard, weights_revision
from sage_dialog.studio.chat.external_policies import external_policies


def directory(path: Path, config: str, card: PolicyCard | None = None) -> Path:
    path.mkdir(parents=True)
    (path / config).write_text("{}")
    (path / "model.safetensors").write_bytes(path.name.encode())
    if card is not None:
        Policy.write_card(path, card)
    return path


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return directory(tmp_path / "Big-7B.v1", "config.json")


def adapter(tmp_path: Path, card: PolicyCard | None = None) -> Path:
    return directory(tmp_path / "lora-1.5", "adapter_config.json", card)


def test_the_user_states_whether_an_adapter_without_a_card_writes_blocks(base: Path, tmp_path: Path) -> None:
    loaded_base, policy = external_policies(base, adapter(tmp_path), blocks=True)
    assert (loaded_base.name, loaded_base.card.kind, loaded_base.card.blocks) == ("Big_7B_v1", "base", False)
    assert (policy.name, policy.card.kind, policy.card.blocks) == ("lora_1_5", "adapter", True)
    assert policy.card.base_revision == loaded_base.card.base_revision
    assert not any(path.name == "sage_policy.json" for path in tmp_path.rglob("*"))


def test_a_base_alone_is_the_policy(base: Path) -> None:
    loaded_base, policy = external_policies(base, None, blocks=False)
    assert loaded_base is policy and policy.card.kind == "base" and not policy.card.blocks


def test_the_card_of_an_adapter_names_its_base(base: Path, tmp_path: Path) -> None:
    card = PolicyCard("mine", "adapter", True, "big", weights_revision(base))
    loaded_base, policy = external_policies(base, adapter(tmp_path, card), blocks=None)
    assert policy.card == card and loaded_base.card.base_revision == card.base_revision
    another = adapter(tmp_path / "of another", replace(card, base_revision="0" * 64))
    loaded_base, policy = external_policies(base, another, blocks=False)
    assert loaded_base.card.base_revision != policy.card.base_revision  # which the engine refuses
    assert not policy.card.blocks


def test_existing_cards_are_kept(tmp_path: Path) -> None:
    base = directory(tmp_path / "base", "config.json", PolicyCard("sage_0", "base", False, "sage_0", "1"))
    card = PolicyCard("sage_1", "adapter", True, "sage_0", "2")
    loaded_base, policy = external_policies(base, adapter(tmp_path, card), blocks=None)
    assert (loaded_base.card.base_revision, policy.card.base_revision) == ("1", "2")


def test_an_invalid_directory_is_refused(base: Path, tmp_path: Path) -> None:
    lora = adapter(tmp_path)
    for arguments, reason in (
        ((lora, None, True), "lora-1.5 is no base: it has no config.json"),
        ((base, base, True), "Big-7B.v1 is no adapter: it has no adapter_config.json"),
        ((base, lora, None), "state whether it writes state and action blocks"),
        ((base, None, None), "state whether it writes state and action blocks"),
    ):
        with pytest.raises(ValueError, match=reason):
            external_policies(*arguments)
    (lora / "model.safetensors").rename(lora / "adapter_model.bin")
    with pytest.raises(ValueError, match=r"no \*\.safetensors"):
        external_policies(base, lora, blocks=True)
