"""Policies outside the catalog: folders written by transformers and PEFT, with or without a card."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from sage_dialog.core.policies import CARD, Policy, PolicyCard, weights_revision


def external_policies(base: Path, adapter: Path | None, blocks: bool | None) -> tuple[Policy, Policy]:
    """Return a base and the policy to talk with: an adapter on it, or the base itself. Nothing is written.

    Without a `sage_policy.json` the adapter is taken to belong to the base, unless its card names another one, and
    `blocks` decides whether it writes state and action blocks.

    Raises:
        ValueError: if a folder is not a base or adapter, or `blocks` is needed and missing.
    """
    policy = _open(adapter or base, "base" if adapter is None else "adapter", blocks)
    if adapter is None:
        return policy, policy
    base_policy = _open(base, "base", False)
    if not _has_card(adapter):
        card = replace(policy.card, base=base_policy.name, base_revision=base_policy.card.base_revision)
        policy = Policy(adapter, card)
    elif not _has_card(base):  # the adapter's card names the base it was trained on
        base_policy = Policy(base, replace(base_policy.card, base_revision=weights_revision(base)))
    return base_policy, policy


def _open(path: Path, kind: str, blocks: bool | None) -> Policy:
    config = {"base": "config.json", "adapter": "adapter_config.json"}[kind]
    for needed in (config, "*.safetensors"):
        if not any(path.glob(needed)):
            raise ValueError(f"{path} is no {kind}: it has no {needed}")
    if _has_card(path):
        policy = Policy.open(path)
        if policy.card.kind != kind:
            raise ValueError(f"{path} is no {kind}: its {CARD} has the kind {policy.card.kind!r}")
        return policy if blocks is None else Policy(path, replace(policy.card, blocks=blocks))
    if blocks is None:
        raise ValueError(
            f"{path} has no {CARD}; state whether it writes state and action blocks with --blocks or --no-blocks"
        )
    name = re.sub(r"\W+", "_", path.resolve().name)  # PEFT allows no dots in an adapter's name
    return Policy(path, PolicyCard(name, kind, blocks, base=name, base_revision="not recorded"))


def _has_card(path: Path) -> bool:
    return (path / CARD).exists()
