"""A base model of a hub as a catalog entry, in place of one trained here."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from kedro.io import DatasetError

from sage_dialog.core.hub_models import base_files, check_available, hub_base
from sage_dialog.core.policies import Policy
from sage_dialog.datasets.factory import FactoryDataset
from sage_dialog.datasets.protocol import EntryState


class HubBase(FactoryDataset):
    """`sage_0` from a hub, at a commit. A load fetches what the local cache lacks and reads no weights.

    The check before a run fetches at most the configuration, and so finds a wrong name, a missing licence or no
    network; the first node that needs the weights fetches them.

    Args:
        repo: name on the hub, such as `mistralai/Mixtral-8x7B-Instruct-v0.1`.
        revision: the commit, 40 hexadecimal digits; null is refused when the entry is used.
        folder: a local folder with the files of that commit, used in place of the hub.
    """

    def __init__(
        self, *, repo: str, revision: str | None, folder: str | None = None, metadata: dict[str, Any] | None = None
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
            check_available(self._repo, self._revision, self._folder)
        except (ValueError, OSError) as error:
            return self._format_error(error)
        return None

    def _format_error(self, error: Exception) -> str:
        return (
            f"the base {self._repo} is not available: {error}. Where the hub asks for an account, set HF_TOKEN; "
            "without a network, fill the cache elsewhere or set `folder:` (docs/recipes.md)."
        )

    def _describe(self) -> dict[str, Any]:
        return {"repo": self._repo, "revision": self._revision, "folder": self._folder}
