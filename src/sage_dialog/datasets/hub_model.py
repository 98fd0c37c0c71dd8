"""A base model of a hub as a catalog entry, in place of one that was trained here."""

from __future__ import annotations

from typing import Any

from kedro.io import DatasetError

from sage_dialog.core.hub_models import can_be_had, hub_base
from sage_dialog.core.policies import Policy
from sage_dialog.datasets.endpoint import Made


class HubBase(Made):
    """`sage_0` from a hub, at a commit. Loading fetches what the local cache lacks and reads no weights.

    Looking whether it is there, as a run does before its first node, fetches its configuration at most: a wrong name,
    a missing licence or no network shows then, and the weights come with the first node that needs them.

    Args:
        repo: name on the hub, such as `mistralai/Mixtral-8x7B-Instruct-v0.1`.
        revision: its commit, 40 hexadecimal digits; null is refused when the entry is used.
        folder: where the files of that very commit lie already; the hub is not asked then.
    """

    makes = "a base from a hub"

    def __init__(
        self, *, repo: str, revision: str | None, folder: str | None = None, metadata: dict[str, Any] | None = None
    ) -> None:
        self._repo, self._revision, self._folder = repo, revision, folder
        self.metadata = metadata

    def load(self) -> Policy:
        try:
            return hub_base(self._repo, self._revision, self._folder)
        except (ValueError, OSError) as error:
            raise DatasetError(self._told(error)) from error

    def missing(self) -> str | None:
        """See `Made.missing`."""
        try:
            can_be_had(self._repo, self._revision, self._folder)
        except (ValueError, OSError) as error:
            return self._told(error)
        return None

    def _told(self, error: Exception) -> str:
        return (
            f"the base {self._repo} cannot be had: {error}. Where the hub asks for an account, set HF_TOKEN; without a "
            "network, fill the cache elsewhere or name a `folder:` (docs/recipes.md)."
        )

    def _describe(self) -> dict[str, Any]:
        return {"repo": self._repo, "revision": self._revision, "folder": self._folder}
