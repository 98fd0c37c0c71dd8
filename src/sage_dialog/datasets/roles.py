"""Annotator, selector and judges, as catalog entries that an environment can replace."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from kedro.io import DatasetError
from kedro.utils import load_obj

from sage_dialog.datasets.endpoint import EndpointDataset, EndpointGroup

if TYPE_CHECKING:
    from sage_dialog.llm.budget import Budget
    from sage_dialog.llm.client import LLMClient
    from sage_dialog.llm.endpoint import Endpoint
    from sage_dialog.llm.response_cache import ResponseCache

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

    place = f"this entry in {_FILE}"

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
        self.subject = f"no role can be made from {role} ({', '.join(self._args) or 'no arguments'})"
        self._mode = mode
        self._batch = batch or {}
        self.metadata = metadata

    def build(self) -> Any:
        client = [self.shared_client()] if self.uses_server else []
        return load_obj(self._role)(*client, **self._args)

    def model_fields(self) -> dict[str, Any]:
        from sage_dialog.llm.server import served_model

        has_model = (self._endpoint_fields or {}).get("model")
        return {} if has_model else {"model": served_model(self._endpoint(model="unknown"))}

    def make_client(
        self, endpoint: Endpoint, cache: ResponseCache, budget: Budget, max_failed_share: float
    ) -> LLMClient:
        from sage_dialog.llm.batch_client import BatchClient, BatchSettings

        if self._mode == "live":
            return super().make_client(endpoint, cache, budget, max_failed_share)
        return BatchClient(endpoint, cache, budget, max_failed_share, BatchSettings.model_validate(self._batch))

    def _describe(self) -> dict[str, Any]:
        return {"role": self._role, "args": list(self._args)}  # values may be secrets


class RolePanel(EndpointGroup):
    """Several roles of one kind, such as judges, in their order.

    Args:
        roles: arguments of `RoleDataset` by a name of the user's.
    """

    def __init__(self, *, roles: dict[str, dict[str, Any]], metadata: dict[str, Any] | None = None) -> None:
        self.entries = {name: RoleDataset(**arguments) for name, arguments in roles.items()}
        self.metadata = metadata

    def load(self) -> list[Any]:
        roles = [entry.load() for entry in self.entries.values()]
        names = [role.name for role in roles]
        if duplicates := {name for name in names if names.count(name) > 1}:
            raise DatasetError(
                f"{', '.join(sorted(duplicates))} is here twice. Rename one under `roles:` of this entry in {_FILE}."
            )
        return roles
