"""The engine that samples from policies as a catalog entry, so that an environment swaps it by configuration."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from kedro.io import DatasetError
from kedro.utils import load_obj

from sage_dialog.datasets.endpoint import Asking, told

if TYPE_CHECKING:
    from sage_dialog.config import Llm
    from sage_dialog.core.policies import Policy
    from sage_dialog.inference.engine import Engine, OpenEngine
    from sage_dialog.llm.budget import Budget
    from sage_dialog.llm.live_client import LiveClient

_WHERE = "conf/*/catalog_generation.yml"


class EngineDataset(Asking):
    """What opens an engine for the policies of a node.

    Args:
        engine: dotted path of its class, which is imported when the entry is loaded or looked for.
        args: keyword arguments of the class. Where it has a pydantic model of them, its `arguments`, that says before a
            run which are wrong.
        endpoint: for an engine over servers, the fields of `llm.client.Endpoint` but `model`; the class gets a
            `client` of these servers among its keyword arguments.
        credentials: `api_key` of the endpoint.
    """

    makes = "engines"

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
        self._args = args or {}
        self._client: LiveClient | None = None
        self.metadata = metadata

    def bind_budget(self, llm: Llm, budget: Budget) -> None:
        """See `Made.bind_budget`."""
        super().bind_budget(llm, budget)
        self._client = None

    def load(self) -> OpenEngine:
        try:
            if self.asks:
                self._endpoint(**self._no_model())
            self._check(load_obj(self._engine))
        except (ImportError, AttributeError, TypeError, ValueError) as error:
            raise DatasetError(self._fault(error)) from None  # what led to it may hold a key
        return self._open

    def _check(self, engine: Any) -> None:
        """Whether the class takes what is given to it, as far as can be told without a policy."""
        if not isinstance(engine, type):
            return
        given = self._args | ({"client": None} if self.asks else {})
        inspect.signature(engine).bind(None, (), 0, None, **given)
        if form := getattr(engine, "arguments", None):
            form.model_validate(self._args)

    def _open(self, base: Policy, policies: Sequence[Policy], seed: int, threads: int | None) -> Engine:
        client = {"client": self._asking()} if self.asks else {}
        engine: Engine = load_obj(self._engine)(base, policies, seed, threads, **client, **self._args)
        return engine

    def _asking(self) -> LiveClient:
        """One for the whole run, so that all its engines keep to the same pace."""
        if self._client is None:
            from sage_dialog.llm.live_client import LiveClient

            self._client = LiveClient(self._endpoint(**self._no_model()), *self._means())
        return self._client

    def _no_model(self) -> dict[str, str]:
        if "model" in (self._given or {}):
            raise ValueError("model: policies are several models; their names on the servers go into args.names")
        return {"model": "policies"}

    def _fault(self, error: Exception) -> str:
        return f"no engine can be made from {self._engine}: {told(error)}. Look at this entry in {_WHERE}."

    def _describe(self) -> dict[str, Any]:
        return {"engine": self._engine, "args": list(self._args)}
