"""Catalog entries whose object may send requests to a server, through the run's response cache and budget."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sage_dialog.datasets.factory import FactoryDataset

if TYPE_CHECKING:
    from sage_dialog.config import Llm
    from sage_dialog.llm.budget import Budget
    from sage_dialog.llm.endpoint import Endpoint
    from sage_dialog.llm.response_cache import ResponseCache


class EndpointDataset(FactoryDataset):
    """Builds an object that may send requests to a server.

    Args:
        endpoint: the fields of `llm.endpoint.Endpoint`; None where no server is used.
        credentials: `api_key` of the endpoint.
    """

    def __init__(self, endpoint: dict[str, Any] | None, credentials: dict[str, Any] | None) -> None:
        self._endpoint_fields = endpoint
        self._credentials = credentials
        self._llm: Llm | None = None
        self._budget: Budget | None = None

    @property
    def uses_server(self) -> bool:
        return self._endpoint_fields is not None

    def bind_budget(self, llm: Llm, budget: Budget) -> None:
        self._llm, self._budget = llm, budget

    def _endpoint(self, **fields: Any) -> Endpoint:
        """Return the endpoint with its key and further fields.

        Raises:
            ValueError: if the key is missing or a field is invalid.
        """
        from sage_dialog.llm.endpoint import Endpoint

        fields = {**(self._endpoint_fields or {}), **fields}
        if self._credentials is not None:
            if not self._credentials.get("api_key"):
                raise ValueError(
                    "it has no key; set the environment variable that its `credentials:` name in conf/*/credentials.yml"
                )
            fields["api_key"] = self._credentials["api_key"]
        return Endpoint.model_validate(fields)

    def _client_arguments(self) -> tuple[ResponseCache, Budget, float]:
        """Return what an LLM client takes beside its endpoint."""
        from sage_dialog.config import Llm
        from sage_dialog.llm.budget import Budget

        llm = self._llm or Llm()
        return (
            _response_cache(llm.response_cache),
            self._budget or Budget(llm.caps, llm.role_caps, llm.prices),
            llm.max_failed_share,
        )


@cache
def _response_cache(path: str) -> ResponseCache:
    """Return the response cache of this process, which holds a lock while it is open."""
    from sage_dialog.llm.response_cache import ResponseCache

    return ResponseCache(Path(path))
