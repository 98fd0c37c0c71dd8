"""Models and adapters on a hub, at a commit, or in a local folder: fetched once, without files that can run code."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Literal

from sage_dialog.core.policies import Policy, PolicyCard, weights_revision

BASE = "sage_0"
"""The policy that all others are adapters on."""
USER = "sage_1"
"""The policy that plays the user in self-play and in the evaluation."""

TOKENIZER_FILES = [
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template*",
    "vocab.json",
    "merges.txt",
]
"""File patterns of a tokenizer, chat template included."""

_SMALL_FILES = ["config.json", "generation_config.json", *TOKENIZER_FILES]
FILES = [*_SMALL_FILES, "*.safetensors", "*.safetensors.index.json"]
"""File patterns that are fetched."""

NOT_FETCHED = ["consolidated*", "*/*"]
"""Patterns of the same weights in another layout, and of folders with other formats."""

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_FILES = [ADAPTER_CONFIG, "adapter_model.safetensors"]
"""Files of an adapter that are fetched; the tokenizer is the base's."""

INDEX = "model.safetensors.index.json"
Kind = Literal["base", "adapter"]
_COMMIT = re.compile(r"[0-9a-f]{40}")


def hub_base(repo: str | None, revision: str | None, folder: str | Path | None = None) -> Policy:
    """Return a base model of a hub at a commit, or of a local folder, with a card, which neither has.

    Files that the local cache lacks are fetched: weights as safetensors, tokenizer, configuration.

    Args:
        repo: name on the hub; not used without a revision.
        revision: the commit, 40 hexadecimal digits; a branch or a tag may be another model tomorrow. None with a
            folder: a base of its own, known by the sha256 of its weights and named after the folder.
        folder: a local folder with these files, used in place of the hub's cache.

    Raises:
        ValueError: if `revision` is no commit, or no `repo` is given for it.
        OSError: if the base is neither in the cache (or `folder`) nor on the hub, with the reason.
    """
    path = _find("base", repo, revision, folder)
    known = (path.resolve().name, _local_revision(path)) if revision is None else (str(repo), revision)
    return Policy(path, PolicyCard(BASE, "base", False, *known, licence=_licence(path)))


def hub_adapter(repo: str | None, revision: str | None, folder: str | Path | None = None) -> Path:
    """Return the folder of an adapter on a hub at a commit, or a local one; arguments and errors as of `hub_base`."""
    return _find("adapter", repo, revision, folder)


def _find(kind: Kind, repo: str | None, revision: str | None, folder: str | Path | None) -> Path:
    from huggingface_hub import snapshot_download

    if revision is None and folder is not None:
        local = Path(folder)
        if fault := _fault(local, kind):
            raise FileNotFoundError(f"{folder} holds no {kind}: {fault}")
        return local
    repo, commit = _commit(repo, revision)
    path = Path(folder) if folder is not None else _cached(repo, commit, kind)
    if path is None:
        files = FILES if kind == "base" else ADAPTER_FILES
        path = Path(snapshot_download(repo, revision=commit, allow_patterns=files, ignore_patterns=NOT_FETCHED))
    if fault := _fault(path, kind):
        place = f"{repo} at {commit} cannot be used" if folder is None else f"{folder} does not hold {repo}"
        raise FileNotFoundError(f"{place}: {fault}")
    return path


def base_files(folder: Path) -> dict[str, Path]:
    """Return the files of a base in a local folder by name."""
    found = {path.name: path for pattern in FILES for path in folder.glob(pattern) if path.is_file()}
    return {name: path for name, path in sorted(found.items()) if not name.startswith("consolidated")}


def is_on_hub(card: PolicyCard) -> bool:
    """Return whether the base of a policy is on a hub: its revision is a commit, not a sha256 of weights."""
    return _COMMIT.fullmatch(card.base_revision) is not None


def small_files(repo: str | None, revision: str | None, folder: str | Path | None = None) -> Path:
    """Return a folder with the configuration and the tokenizer of a base; fetch no weights.

    Raises:
        ValueError, OSError: as `hub_base`, which will find the base unless this is raised.
    """
    if folder is not None:
        return hub_base(repo, revision, folder).path
    repo, commit = _commit(repo, revision)
    if path := _cached(repo, commit):
        return path
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(repo, revision=commit, allow_patterns=_SMALL_FILES, ignore_patterns=NOT_FETCHED))


def _commit(repo: str | None, revision: str | None) -> tuple[str, str]:
    if repo is None:
        raise ValueError("it has neither a `repo` on a hub, nor a local `folder` with `revision: null`")
    if revision is None or not _COMMIT.fullmatch(revision):
        raise ValueError(
            f"{repo} needs a commit as `revision`, 40 hexadecimal digits (found {revision!r}); see "
            f"https://huggingface.co/{repo}/commits"
        )
    return repo, revision


def _licence(folder: Path) -> str | None:
    """Return the licence that a model card names at its head, as hubs have it; None without one."""
    card = folder / "README.md"
    head = card.read_text("utf-8", "replace").split("---", 2) if card.is_file() else []
    found = re.search(r"^license:\s*(\S.*?)\s*$", head[1], re.MULTILINE) if len(head) == 3 and not head[0] else None
    return found[1].strip("\"'") if found else None


def _local_revision(folder: Path) -> str:
    """Return the sha256 of the weights, read once for as long as their sizes and times stay."""
    weights = sorted(folder.glob("*.safetensors"))
    return _read_revision(folder.resolve(), tuple((file.stat().st_size, file.stat().st_mtime_ns) for file in weights))


@cache
def _read_revision(folder: Path, files: tuple[tuple[int, int], ...]) -> str:
    return weights_revision(folder)


def _cached(repo: str, commit: str, kind: Kind = "base") -> Path | None:
    """Return the folder of the complete model in the hub's cache, without a request; None where it is not there."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        path = Path(snapshot_download(repo, revision=commit, local_files_only=True))
    except LocalEntryNotFoundError:
        return None
    return None if _fault(path, kind) else path


def _fault(path: Path, kind: Kind) -> str | None:
    """Return why a folder is no complete base or adapter; None where it is one."""
    if kind == "adapter":
        absent = next((name for name in ADAPTER_FILES if not (path / name).is_file()), None)
        return None if absent is None else f"there is no {absent} in it"
    if not (path / "config.json").is_file():
        adapter = "; it is an adapter, so name its base" if (path / ADAPTER_CONFIG).is_file() else ""
        return f"there is no config.json in it{adapter}"
    if (path / INDEX).is_file():
        names = sorted(set(json.loads((path / INDEX).read_text())["weight_map"].values()))
        if missing := [name for name in names if not (path / name).is_file()]:
            return f"of the weights {len(missing)} of {len(names)} files are missing, such as {missing[0]}"
    elif not (path / "model.safetensors").is_file():
        return f"there are no weights in it (model.safetensors, or {INDEX} and what it names)"
    if not (path / "tokenizer_config.json").is_file():
        return "there is no tokenizer in it (tokenizer_config.json)"
    return None
