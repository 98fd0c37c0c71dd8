"""Annotator, selector and judges as catalog entries, so that an environment swaps them by configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from kedro.io import DatasetError
from kedro.utils import load_obj

from sage_dialog.datasets.endpoint import Asking, Made, told

if TYPE_CHECKING:
    from sage_dialog.config import Llm
    from sage_dialog.llm.budget import Budget
    from sage_dialog.llm.client import LLMClient

_WHERE = "conf/*/catalog_roles.yml"


class RoleDataset(Asking):
    """A role, made anew at each load.

    Args:
        role: dotted path of its class.
        args: keyword arguments of the class.
        endpoint: for a role behind a server, the fields of `llm.client.Endpoint`; without a `model` it is the one
            that the server has. The class gets an client for it as its first argument.
        mode: "live" asks by one call for each request, "batch" by the hosted batch API, for half the price.
        batch: for that mode, the fields of `llm.batch.BatchSettings`.
        credentials: `api_key` of the endpoint.
    """

    def __init__(
        self,
        *,
        role: str,
        args: dict[str, Any] | None = None,
        endpoint: dict[str, Any] | None = None,
        mode: Literal["live", "batch"] = "live",
        batch: dict[str, Any] | None = None,
        credentials: dict[str, Any] | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(endpoint, credentials)
        self._role = role
        self._args = args or {}
        self._mode = mode
        self._batch = batch or {}
        self._client: LLMClient | None = None
        self.metadata = metadata

    def bind_budget(self, llm: Llm, budget: Budget) -> None:
        """See `Made.bind_budget`."""
        super().bind_budget(llm, budget)
        self._client = None

    def load(self) -> Any:
        try:
            client = [self._asking()] if self.asks else []
            return load_obj(self._role)(*client, **self._args)
        except (ImportError, AttributeError, ValueError, TypeError, OSError) as error:
            raise DatasetError(
                f"no role can be made from {self._role} ({', '.join(self._args) or 'no arguments'}): {told(error)}. "
                f"Look at this entry in {_WHERE}."
            ) from None  # what led to it may hold a key

    def _asking(self) -> LLMClient:
        """One for the whole run, so that all its loads keep to the same pace."""
        if self._client is None:
            from sage_dialog.llm.batch_client import BatchClient, BatchSettings
            from sage_dialog.llm.live_client import LiveClient
            from sage_dialog.llm.server import served_model

            named = {} if (self._given or {}).get("model") else {"model": served_model(self._endpoint(model="unknown"))}
            parts = (self._endpoint(**named), *self._means())
            in_batches = self._mode == "batch"
            self._client = (
                BatchClient(*parts, BatchSettings.model_validate(self._batch)) if in_batches else LiveClient(*parts)
            )
        return self._client

    def _describe(self) -> dict[str, Any]:
        return {"role": self._role, "args": list(self._args)}  # values may be secrets


class RolePanel(Made):
    """Several roles of one kind, such as judges, in their order.

    Args:
        roles: by a name of yours, the arguments of `RoleDataset`.
    """

    def __init__(self, *, roles: dict[str, dict[str, Any]], metadata: dict[str, Any] | None = None) -> None:
        self._roles = {name: RoleDataset(**given) for name, given in roles.items()}
        self.metadata = metadata

    @property
    def asks(self) -> bool:
        """Whether any of them asks a server."""
        return any(role.asks for role in self._roles.values())

    def bind_budget(self, llm: Llm, budget: Budget) -> None:
        """See `Made.bind_budget`."""
        for role in self._roles.values():
            role.bind_budget(llm, budget)

    def load(self) -> list[Any]:
        roles = [role.load() for role in self._roles.values()]
        names = [role.name for role in roles]
        if twice := {name for name in names if names.count(name) > 1}:
            raise DatasetError(f"{', '.join(sorted(twice))} is here twice. Look at `roles:` of this entry in {_WHERE}.")
        return roles

    def _describe(self) -> dict[str, Any]:
        return {name: role._describe() for name, role in self._roles.items()}
