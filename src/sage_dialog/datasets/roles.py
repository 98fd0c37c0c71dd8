"""Annotator, selector and judges, as catalog entries that an environment can replace."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from kedro.io import DatasetError
from kedro.utils import load_obj

from sage_dialog.datasets.endpoint import EndpointDataset
from sage_dialog.datasets.factory import FactoryDataset, format_error

if TYPE_CHECKING:
    from sage_dialog.config import Llm
    from sage_dialog.llm.budget import Budget
    from sage_dialog.llm.client import LLMClient

_FILE = "conf/*/catalog_roles.yml"


class RoleDataset(EndpointDataset):
    """A role, built at each load.

    Args:
        role: dotted path of the class.
        args: keyword arguments of the class.
        endpoint: for a role on a server, the fields of `llm.endpoint.Endpoint`; `model` defaults to the one that the
            server has. The class gets an LLM client as its first argument.
        mode: "live" sends each request by itself, "batch" uses the hosted batch API at half the price.
        batch: for the mode "batch", the fields of `llm.batch.BatchSettings`.
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
        super().bind_budget(llm, budget)
        self._client = None

    def load(self) -> Any:
        try:
            client = [self._shared_client()] if self.uses_server else []
            return load_obj(self._role)(*client, **self._args)
        except (ImportError, AttributeError, ValueError, TypeError, OSError) as error:
            arguments = ", ".join(self._args) or "no arguments"
            raise DatasetError(
                f"no role can be made from {self._role} ({arguments}): {format_error(error)}. "
                f"Correct this entry in {_FILE}."
            ) from None  # the cause may hold a key

    def _shared_client(self) -> LLMClient:
        """Return one client for the whole run, so that its loads share a rate limit."""
        if self._client is None:
            from sage_dialog.llm.batch_client import BatchClient, BatchSettings
            from sage_dialog.llm.live_client import LiveClient
            from sage_dialog.llm.server import served_model

            has_model = (self._endpoint_fields or {}).get("model")
            model = {} if has_model else {"model": served_model(self._endpoint(model="unknown"))}
            parts = (self._endpoint(**model), *self._client_arguments())
            in_batches = self._mode == "batch"
            self._client = (
                BatchClient(*parts, BatchSettings.model_validate(self._batch)) if in_batches else LiveClient(*parts)
            )
        return self._client

    def _describe(self) -> dict[str, Any]:
        return {"role": self._role, "args": list(self._args)}  # values may be secrets


class RolePanel(FactoryDataset):
    """Several roles of one kind, such as judges, in their order.

    Args:
        roles: arguments of `RoleDataset` by a name of the user's.
    """

    def __init__(self, *, roles: dict[str, dict[str, Any]], metadata: dict[str, Any] | None = None) -> None:
        self._roles = {name: RoleDataset(**arguments) for name, arguments in roles.items()}
        self.metadata = metadata

    @property
    def uses_server(self) -> bool:
        return any(role.uses_server for role in self._roles.values())

    def bind_budget(self, llm: Llm, budget: Budget) -> None:
        for role in self._roles.values():
            role.bind_budget(llm, budget)

    def load(self) -> list[Any]:
        roles = [role.load() for role in self._roles.values()]
        names = [role.name for role in roles]
        if duplicates := {name for name in names if names.count(name) > 1}:
            raise DatasetError(
                f"{', '.join(sorted(duplicates))} is here twice. Rename one under `roles:` of this entry in {_FILE}."
            )
        return roles

    def _describe(self) -> dict[str, Any]:
        return {name: role._describe() for name, role in self._roles.items()}
