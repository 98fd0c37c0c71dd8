"""The engine that samples from policies, as a catalog entry that an environment can replace."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from kedro.utils import load_obj

from sage_dialog.datasets.endpoint import EndpointDataset

if TYPE_CHECKING:
    from sage_dialog.core.policies import Policy
    from sage_dialog.inference.engine import OpenEngine, PolicyEngine


class EngineDataset(EndpointDataset):
    """Loads a function that opens an engine for the policies of a node.

    Args:
        engine: dotted path of the class.
        args: keyword arguments of the class, checked before a run by the pydantic model `arguments` of the class if it
            has one.
        endpoint: for an engine on servers, the fields of `llm.endpoint.Endpoint` except `model`; the class gets a
            client of these servers as the keyword argument `client`.
        credentials: `api_key` of the endpoint.
    """

    place = "this entry in conf/*/catalog_generation.yml"

    def __init__(
        self,
        *,
        engine: str,
        args: dict[str, Any] | None = None,
        endpoint: dict[str, Any] | None = None,
        credentials: dict[str, Any] | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(endpoint, credentials)
        self._engine = engine
        self.subject = f"no engine can be made from {engine}"
        self._args = args or {}
        self.metadata = metadata

    def build(self) -> OpenEngine:
        """Return the function, once the arguments fit the signature and the model of the class; opens no policy."""
        if self.uses_server:
            self._endpoint(**self.model_fields())
        engine = load_obj(self._engine)
        if isinstance(engine, type):
            arguments = self._args | ({"client": None} if self.uses_server else {})
            inspect.signature(engine).bind(None, (), 0, None, **arguments)
            if model := getattr(engine, "arguments", None):
                model.model_validate(self._args)
        return self._open

    def _open(self, base: Policy, policies: Sequence[Policy], seed: int, threads: int | None) -> PolicyEngine:
        client = {"client": self.shared_client()} if self.uses_server else {}
        engine: PolicyEngine = load_obj(self._engine)(base, policies, seed, threads, **client, **self._args)
        return engine

    def model_fields(self) -> dict[str, Any]:
        if "model" in (self._endpoint_fields or {}):
            raise ValueError("model: policies are several models; their names on the servers go into args.names")
        return {"model": "policies"}

    def _describe(self) -> dict[str, Any]:
        return {"engine": self._engine, "args": list(self._args)}
