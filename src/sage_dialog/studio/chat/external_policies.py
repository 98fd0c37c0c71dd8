"""Policies from outside the catalog: directories that transformers and PEFT wrote, with or without a card."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from sage_dialog.core.policies import CARD, Policy, PolicyCard, weights_revision


def external_policies(base: Path, adapter: Path | None, blocks: bool | None) -> tuple[Policy, Policy]:
    """A base and the policy to talk with: an adapter on it, or the base itself. Nothing is written to either folder.

    A folder without a `sage_policy.json` is taken at its owner's word: that the adapter belongs to the base, unless its
    card names another one, and by `blocks` whether it writes state and action blocks.

    Raises:
        ValueError: if a folder is not what it should be, or nothing tells whether the policy writes blocks.
    """
    given = adapter or base
    opened = _opened(given, "base" if adapter is None else "adapter", blocks)
    if adapter is None:
        return opened, opened
    under = _opened(base, "base", False)
    if not _has_card(adapter):
        opened = Policy(adapter, replace(opened.card, base=under.name, base_revision=under.card.base_revision))
    elif not _has_card(base):  # the adapter's card tells which base it was trained on
        under = Policy(base, replace(under.card, base_revision=weights_revision(base)))
    return under, opened


def _opened(path: Path, kind: str, blocks: bool | None) -> Policy:
    config = {"base": "config.json", "adapter": "adapter_config.json"}[kind]
    for needed in (config, "*.safetensors"):
        if not any(path.glob(needed)):
            raise ValueError(f"{path} is no {kind}: there is no {needed} in it")
    if _has_card(path):
        policy = Policy.open(path)
        if policy.card.kind != kind:
            raise ValueError(f"{path} is no {kind}: by its {CARD} it is a policy of the kind {policy.card.kind!r}")
        return policy if blocks is None else Policy(path, replace(policy.card, blocks=blocks))
    if blocks is None:
        raise ValueError(
            f"{path} has no {CARD}, so say whether it writes state and action blocks before it speaks: --blocks or "
            "--no-blocks"
        )
    name = re.sub(r"\W+", "_", path.resolve().name)  # PEFT takes no dots in an adapter's name
    return Policy(path, PolicyCard(name, kind, blocks, base=name, base_revision="not recorded"))


def _has_card(path: Path) -> bool:
    return (path / CARD).exists()
