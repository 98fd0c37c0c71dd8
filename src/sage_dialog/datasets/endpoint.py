"""Catalog entries whose object may send requests to a server, through the run's response cache and budget."""

from __future__ import annotations

from abc import abstractmethod
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kedro.io import DatasetError

from sage_dialog.datasets.factory import FactoryDataset, format_error

if TYPE_CHECKING:
    from sage_dialog.config import Llm
    from sage_dialog.llm.budget import Budget
    from sage_dialog.llm.client import LLMClient
    from sage_dialog.llm.endpoint import Endpoint
    from sage_dialog.llm.response_cache import ResponseCache


class EndpointDataset(FactoryDataset):
    """Builds an object that may send requests to a server.

    Args:
        endpoint: the fields of `llm.endpoint.Endpoint`; None where no server is used.
        credentials: `api_key` of the endpoint.
    """

    subject: str
    """What cannot be built, for an error message."""
    place: str
    """Where to correct the entry, for an error message."""

    def __init__(self, endpoint: dict[str, Any] | None, credentials: dict[str, Any] | None) -> None:
        self._endpoint_fields = endpoint
        self._credentials = credentials
        self._llm: Llm | None = None
        self._budget: Budget | None = None
        self._client: LLMClient | None = None

    @property
    def uses_server(self) -> bool:
        return self._endpoint_fields is not None

    def load(self) -> Any:
        try:
            return self.build()
        except (ImportError, AttributeError, ValueError, TypeError, OSError) as error:
            # Without the cause, which may hold a key.
            raise DatasetError(f"{self.subject}: {format_error(error).rstrip('.')}. Correct {self.place}.") from None

    @abstractmethod
    def build(self) -> Any:
        """Return the object."""

    def bind_budget(self, llm: Llm, budget: Budget) -> None:
        self._llm, self._budget, self._client = llm, budget, None

    def model_fields(self) -> dict[str, Any]:
        """Return the endpoint's `model` where the entry does not name it."""
        return {}

    def make_client(
        self, endpoint: Endpoint, cache: ResponseCache, budget: Budget, max_failed_share: float
    ) -> LLMClient:
        """Return a client that sends each request by itself."""
        from sage_dialog.llm.live_client import LiveClient

        return LiveClient(endpoint, cache, budget, max_failed_share)

    def shared_client(self) -> LLMClient:
        """Return one client for the whole run, so that all loads share a rate limit."""
        from sage_dialog.config import Llm
        from sage_dialog.llm.budget import Budget

        if self._client is None:
            llm = self._llm or Llm.from_base()
            budget = self._budget or Budget(llm.caps, llm.role_caps, llm.prices)
            endpoint = self._endpoint(**self.model_fields())
            self._client = self.make_client(endpoint, _response_cache(llm.response_cache), budget, llm.max_failed_share)
        return self._client

    def _endpoint(self, **fields: Any) -> Endpoint:
        """Return the endpoint with its key and further fields.

        Raises:
            ValueError: if the key is missing or a field is invalid.
        """
        from sage_dialog.llm.endpoint import Endpoint

        fields = {**(self._endpoint_fields or {}), **fields}
        if self._credentials is not None:
            if not self._credentials.get("api_key"):
                variable = self._credentials.get("variable")
                named = f"{variable}, which" if variable else "that"
                raise ValueError(
                    f"it has no key; set the environment variable {named} its `credentials:` name in "
                    "conf/*/credentials.yml"
                )
            fields["api_key"] = self._credentials["api_key"]
        return Endpoint.model_validate(fields)


class EndpointGroup(FactoryDataset):
    """Builds several objects by name, each from its own entry."""

    entries: dict[str, EndpointDataset]

    @property
    def uses_server(self) -> bool:
        return any(entry.uses_server for entry in self.entries.values())

    def bind_budget(self, llm: Llm, budget: Budget) -> None:
        for entry in self.entries.values():
            entry.bind_budget(llm, budget)

    def _describe(self) -> dict[str, Any]:
        return {name: entry._describe() for name, entry in self.entries.items()}


@cache
def _response_cache(path: str) -> ResponseCache:
    """Return the response cache of this process, which holds a lock while it is open."""
    from sage_dialog.llm.response_cache import ResponseCache

    return ResponseCache(Path(path))
