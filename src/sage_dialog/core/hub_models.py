"""Bases that lie on a hub, at a commit: fetched once, whole, and never anything that can run code."""

from __future__ import annotations

import json
import re
from pathlib import Path

from sage_dialog.core.policies import Policy, PolicyCard

BASE = "sage_0"
"""The policy on which every other one is an adapter."""

TOKENIZER_FILES = [
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template*",
    "vocab.json",
    "merges.txt",
]
"""Patterns of what a tokenizer is read from, its chat template included."""

FILES = ["config.json", "generation_config.json", "*.safetensors", "*.safetensors.index.json", *TOKENIZER_FILES]
"""Patterns of what is fetched of a base."""

NOT_FETCHED = ["consolidated*", "*/*"]
"""The same weights once more in another layout, and folders of further formats."""

INDEX = "model.safetensors.index.json"
_COMMIT = re.compile(r"[0-9a-f]{40}")


def hub_base(repo: str, revision: str | None, folder: str | Path | None = None) -> Policy:
    """The base `repo` of a hub at a commit, its card made up, since a hub's model has none.

    What the local cache lacks is fetched: weights as safetensors, tokenizer, configuration.

    Args:
        revision: the commit, 40 hexadecimal digits; a branch or a tag may be another model tomorrow.
        folder: where these files lie already, in place of the hub's cache.

    Raises:
        ValueError: if `revision` is no commit.
        OSError: if the base can be had neither from the cache (or `folder`) nor from the hub, with the reason.
    """
    commit = _commit(repo, revision)
    card = PolicyCard(BASE, "base", False, repo, commit)
    if folder is not None:
        if fault := _fault(Path(folder)):
            raise FileNotFoundError(f"{folder} does not hold {repo}: {fault}")
        return Policy(Path(folder), card)
    if (path := _cached(repo, commit)) is not None:
        return Policy(path, card)
    from huggingface_hub import snapshot_download

    path = Path(snapshot_download(repo, revision=commit, allow_patterns=FILES, ignore_patterns=NOT_FETCHED))
    if fault := _fault(path):
        raise FileNotFoundError(f"{repo} at {commit} cannot be used: {fault}")
    return Policy(path, card)


def is_on_hub(card: PolicyCard) -> bool:
    """Whether the base of a policy is one of a hub, at a commit; else its revision is the sha256 of its weights."""
    return _COMMIT.fullmatch(card.base_revision) is not None


def can_be_had(repo: str, revision: str | None, folder: str | Path | None = None) -> None:
    """Look for the base where `hub_base` will, but fetch no more than its configuration, a few kilobytes.

    Raises:
        ValueError, OSError: as `hub_base`.
    """
    commit = _commit(repo, revision)
    if folder is not None:
        hub_base(repo, revision, folder)
    elif _cached(repo, commit) is None:
        from huggingface_hub import hf_hub_download

        hf_hub_download(repo, "config.json", revision=commit)


def _commit(repo: str, revision: str | None) -> str:
    if revision is None or not _COMMIT.fullmatch(revision):
        raise ValueError(
            f"{repo} needs the commit it is pinned to, 40 hexadecimal digits (found {revision!r}); the hub shows it at "
            f"https://huggingface.co/{repo}/commits"
        )
    return revision


def _cached(repo: str, commit: str) -> Path | None:
    """Where the whole of it lies in the hub's cache; nobody is asked."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        path = Path(snapshot_download(repo, revision=commit, local_files_only=True))
    except LocalEntryNotFoundError:
        return None
    return None if _fault(path) else path


def _fault(path: Path) -> str | None:
    """Why a folder is no whole base, or None where it is one."""
    if not (path / "config.json").is_file():
        return "there is no config.json in it"
    if (path / INDEX).is_file():
        names = sorted(set(json.loads((path / INDEX).read_text())["weight_map"].values()))
        if missing := [name for name in names if not (path / name).is_file()]:
            return f"of the weights {len(missing)} of {len(names)} files are missing, such as {missing[0]}"
    elif not (path / "model.safetensors").is_file():
        return f"there are no weights in it (model.safetensors, or {INDEX} and what it names)"
    if not (path / "tokenizer_config.json").is_file():
        return "there is no tokenizer in it (tokenizer_config.json)"
    return None
