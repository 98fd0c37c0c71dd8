"""A base model of a hub or a local folder as a catalog entry, in place of one trained here."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from kedro.io import DatasetError

from sage_dialog.core.hub_models import base_files, hub_base, small_files
from sage_dialog.core.policies import Policy
from sage_dialog.datasets.factory import FactoryDataset
from sage_dialog.datasets.protocol import EntryState


class HubBase(FactoryDataset):
    """`sage_0` from a hub, at a commit, or from a local folder. A load fetches what the local cache lacks.

    The check before a run fetches at most configuration and tokenizer, and so finds a wrong name, a missing licence, no
    network, or a chat template that cannot be trained; the first node that needs the weights fetches them.

    Args:
        repo: name on the hub, such as `mistralai/Mixtral-8x7B-Instruct-v0.1`.
        revision: the commit, 40 hexadecimal digits. Null with a folder: the base is that folder's, whatever hub it came
            from, known by the sha256 of its weights; null without one is refused when the entry is used.
        folder: a local folder with the files of that commit, used in place of the hub.
    """

    def __init__(
        self,
        *,
        repo: str | None = None,
        revision: str | None = None,
        folder: str | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        self._repo, self._revision, self._folder = repo, revision, folder
        self.metadata = metadata

    def load(self) -> Policy:
        try:
            return hub_base(self._repo, self._revision, self._folder)
        except (ValueError, OSError) as error:
            raise DatasetError(self._format_error(error)) from error

    def describe_input(self) -> EntryState:
        """Return the arguments, and for a local folder its files, which may change under the same commit."""
        state = super().describe_input()
        files = base_files(Path(self._folder)) if self._folder is not None else None
        return replace(state, files=files)

    def explain_missing(self) -> str | None:
        try:
            folder = small_files(self._repo, self._revision, self._folder)
        except (ValueError, OSError) as error:
            return self._format_error(error)
        return _template_fault(folder)

    def _format_error(self, error: Exception) -> str:
        return (
            f"the base {self._repo or self._folder} is not available: {error}. Where the hub asks for an account, set "
            "HF_TOKEN; without a network, fill the cache elsewhere or set `folder:` (docs/recipes.md)."
        )

    def _describe(self) -> dict[str, Any]:
        return {"repo": self._repo, "revision": self._revision, "folder": self._folder}


@cache
def _template_fault(folder: Path) -> str | None:
    """Return why no policy can be trained on the base in a folder; None where one can."""
    from sage_dialog.inference.chat_format import load_tokenizer
    from sage_dialog.training.chat_templates import training_format

    try:
        training_format(load_tokenizer(folder))
    except (ValueError, OSError) as error:
        return str(error)
    return None
