"""The engine that samples from policies as a catalog entry, so that an environment swaps it by configuration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from kedro.io import AbstractDataset, DatasetError
from kedro.utils import load_obj

if TYPE_CHECKING:
    from sage_dialog.generation.engine import Engine, OpenEngine
    from sage_dialog.policies import Policy


class EngineDataset(AbstractDataset[NoReturn, "OpenEngine"]):
    """What opens an engine for the policies of a node.

    Args:
        engine: dotted path of its class, which is imported when the first node opens it.
        args: keyword arguments of the class.
    """

    def __init__(
        self, *, engine: str, args: dict[str, Any] | None = None, metadata: dict[str, Any] | None = None
    ) -> None:
        self._engine = engine
        self._args = args or {}
        self.metadata = metadata

    def load(self) -> OpenEngine:
        return self._open

    def save(self, data: NoReturn) -> None:
        raise DatasetError(f"{self._engine} is an engine; nothing can be saved to it.")

    def _open(self, base: Policy, policies: Sequence[Policy], seed: int, threads: int | None) -> Engine:
        engine: Engine = load_obj(self._engine)(base, policies, seed, threads, **self._args)
        return engine

    def _exists(self) -> bool:
        return True

    def _describe(self) -> dict[str, Any]:
        return {"engine": self._engine, "args": list(self._args)}
