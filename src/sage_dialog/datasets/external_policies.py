"""Policies from a hub or a local folder as a catalog entry, played and judged beside those of the project."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kedro.io import DatasetError

from sage_dialog.core.hub_models import ADAPTER_FILES, base_files, hub_adapter, hub_base, small_files
from sage_dialog.datasets.factory import FactoryDataset
from sage_dialog.datasets.protocol import EntryState
from sage_dialog.sac import BlockForm

if TYPE_CHECKING:
    from sage_dialog.core.policies import Policy
    from sage_dialog.inference.external_policies import ExternalPolicy

PROJECT_BASE = "sage_0"
_SOURCE = frozenset({"repo", "revision", "folder"})
_FIELDS = frozenset({*_SOURCE, "base", "blocks", "block_form", "system_prompt"})


class ExternalPolicies(FactoryDataset):
    """Adapters and whole models that `evaluation.pairs`, chat and steering may name like policies.

    Args:
        policies: by a name of the user's: `repo` and `revision` (a commit) on a hub, or a local `folder`, known by the
            sha256 of its weights; `base` of an adapter, "sage_0" or the same three, and null for a whole model;
            `blocks`, whether it writes state and action blocks; `block_form`, the template of their text form where it
            is not ours; `system_prompt`, null for that of the policies.
    """

    def __init__(self, *, policies: dict[str, dict[str, Any]], metadata: dict[str, Any] | None = None) -> None:
        for name, given in policies.items():
            if not re.fullmatch(r"[A-Za-z0-9_-]+", str(name)):  # PEFT allows no dots in an adapter's name
                raise DatasetError(f"{name!r} names an external policy; use letters, digits, '_' and '-' only.")
            if unknown := sorted(set(given) - _FIELDS):
                raise DatasetError(
                    f"external policy {name}: unknown {unknown[0]!r}; known: {', '.join(sorted(_FIELDS))}."
                )
        self._policies = policies
        self.metadata = metadata

    def load(self) -> dict[str, ExternalPolicy]:
        return self._policies_by_name(small_files_only=False)

    def _policies_by_name(self, small_files_only: bool) -> dict[str, ExternalPolicy]:
        loaded = {}
        for name, given in self._policies.items():
            try:
                loaded[name] = _external_policy(name, small_files_only, **given)
            except (ValueError, TypeError, OSError) as error:
                raise DatasetError(
                    f"the external policy {name} cannot be used: {error}. Correct `external_policies` in "
                    "conf/*/catalog_evaluation.yml."
                ) from error
        return loaded

    def names(self) -> list[str]:
        return list(self._policies)

    def explain_missing(self) -> str | None:
        """Return what is wrong or missing; of whole models only configuration and tokenizer are fetched for that."""
        try:
            self._policies_by_name(small_files_only=True)
        except DatasetError as error:
            return str(error)
        return None

    def describe_input(self) -> EntryState:
        """Return the arguments, and the files of local folders, which may change."""
        files: dict[str, Path] = {}
        for name, given in self._policies.items():
            base = given.get("base")
            sources = {"": given} | ({"base/": base} if isinstance(base, dict) else {})
            for place, source in sources.items():
                if folder := source.get("folder"):
                    found = base_files(Path(folder)) or {
                        file: Path(folder) / file for file in ADAPTER_FILES if (Path(folder) / file).is_file()
                    }
                    files |= {f"{name}/{place}{file}": path for file, path in found.items()}
        return replace(super().describe_input(), files=files or None)

    def _describe(self) -> dict[str, Any]:
        return {"policies": self.names()}


def _external_policy(
    name: str,
    small_files_only: bool,
    *,
    repo: str | None = None,
    revision: str | None = None,
    folder: str | None = None,
    base: str | dict[str, Any] | None = None,
    blocks: bool | None = None,
    block_form: str | None = None,
    system_prompt: str | None = None,
) -> ExternalPolicy:
    from sage_dialog.inference.external_policies import ExternalPolicy

    if not isinstance(blocks, bool):
        raise ValueError("state with `blocks: true` or `false` whether it writes state and action blocks")
    if block_form is not None and not blocks:
        raise ValueError("it has a block_form, and `blocks: false`")
    try:
        form = None if block_form is None else BlockForm(block_form)
    except ValueError as error:
        raise ValueError(f"block_form: {error}") from error
    if base is None:
        adapter, own_base = None, _base(small_files_only, repo, revision, folder)
    else:
        if base != PROJECT_BASE and not (isinstance(base, dict) and set(base) <= _SOURCE):
            raise ValueError(f"base is {PROJECT_BASE}, or has {', '.join(sorted(_SOURCE))} of another; found {base!r}")
        own_base = None
        if isinstance(base, dict):
            own_base = _base(small_files_only, base.get("repo"), base.get("revision"), base.get("folder"))
        adapter = hub_adapter(repo, revision, folder)
    return ExternalPolicy(name, adapter, own_base, blocks, form, system_prompt)


def _base(small_files_only: bool, repo: str | None, revision: str | None, folder: str | None) -> Policy | None:
    if small_files_only:
        small_files(repo, revision, folder)
        return None
    return hub_base(repo, revision, folder)
