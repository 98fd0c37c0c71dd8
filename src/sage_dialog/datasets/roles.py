"""Annotator, selector and judges as catalog entries, so that an environment swaps them by configuration."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn

from kedro.io import AbstractDataset, DatasetError
from kedro.utils import load_obj

if TYPE_CHECKING:
    from sage_dialog.llm.asker import Asker
    from sage_dialog.llm.budget import Budget
    from sage_dialog.llm.journal import Journal
    from sage_dialog.parameters import Llm

_WHERE = "conf/*/catalog_roles.yml"


class _Made(AbstractDataset[NoReturn, Any]):
    """What is made at each load, and cannot be saved."""

    def missing(self) -> str | None:
        """What to tell the person whose role cannot be made; None where it can."""
        try:
            self.load()
        except DatasetError as error:
            return str(error)
        return None

    def save(self, data: NoReturn) -> None:
        raise DatasetError("this entry makes roles; nothing can be saved to it.")

    def _exists(self) -> bool:
        return self.missing() is None


class RoleDataset(_Made):
    """A role, made anew at each load.

    Args:
        role: dotted path of its class.
        args: keyword arguments of the class.
        endpoint: for a role behind a server, the fields of `llm.asker.Endpoint`; without a `model` it is the one
            that the server has. The class gets an asker for it as its first argument.
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
        self._role = role
        self._args = args or {}
        self._endpoint = endpoint
        self._mode = mode
        self._batch = batch or {}
        self._credentials = credentials
        self._llm: Llm | None = None
        self._budget: Budget | None = None
        self._asker: Asker | None = None
        self.metadata = metadata

    @property
    def asks(self) -> bool:
        """Whether it asks a server."""
        return self._endpoint is not None

    def equip(self, llm: Llm, budget: Budget) -> None:
        """Told by a hook, before a run, what it may spend; all roles of a run share one budget."""
        self._llm, self._budget, self._asker = llm, budget, None

    def load(self) -> Any:
        try:
            asker = [] if self._endpoint is None else [self._asking()]
            return load_obj(self._role)(*asker, **self._args)
        except (ImportError, AttributeError, ValueError, TypeError, OSError) as error:
            raise DatasetError(
                f"no role can be made from {self._role} ({', '.join(self._args) or 'no arguments'}): {_told(error)}. "
                f"Look at this entry in {_WHERE}."
            ) from None  # what led to it may hold a key

    def _asking(self) -> Asker:
        """One for the whole run, so that all its loads keep to the same pace."""
        if self._asker is None:
            from sage_dialog.llm.asker import Endpoint
            from sage_dialog.llm.batch import BatchAsker, BatchSettings
            from sage_dialog.llm.budget import Budget
            from sage_dialog.llm.client import Client
            from sage_dialog.llm.server import served_model
            from sage_dialog.parameters import Llm

            given = dict(self._endpoint or {})
            if self._credentials is not None:
                if not self._credentials.get("api_key"):
                    raise ValueError(
                        "it has no key; set the environment variable that its `credentials:` name in "
                        "conf/*/credentials.yml"
                    )
                given["api_key"] = self._credentials["api_key"]
            if not given.get("model"):
                given["model"] = served_model(Endpoint.model_validate(given | {"model": "unknown"}))
            endpoint = Endpoint.model_validate(given)
            llm = self._llm or Llm()
            budget = self._budget or Budget(llm.caps, llm.role_caps, llm.prices)
            parts = (endpoint, _journal(llm.journal), budget, llm.max_failed_share)
            in_batches = self._mode == "batch"
            self._asker = (
                BatchAsker(*parts, BatchSettings.model_validate(self._batch)) if in_batches else Client(*parts)
            )
        return self._asker

    def _describe(self) -> dict[str, Any]:
        return {"role": self._role, "args": list(self._args)}  # values may be secrets


class RolePanel(_Made):
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

    def equip(self, llm: Llm, budget: Budget) -> None:
        """See `RoleDataset.equip`."""
        for role in self._roles.values():
            role.equip(llm, budget)

    def load(self) -> list[Any]:
        roles = [role.load() for role in self._roles.values()]
        names = [role.name for role in roles]
        if twice := {name for name in names if names.count(name) > 1}:
            raise DatasetError(f"{', '.join(sorted(twice))} is here twice. Look at `roles:` of this entry in {_WHERE}.")
        return roles

    def _describe(self) -> dict[str, Any]:
        return {name: role._describe() for name, role in self._roles.items()}


@cache
def _journal(path: str) -> Journal:
    """One for this process: it holds a lock for as long as it is open."""
    from sage_dialog.llm.journal import Journal

    return Journal(Path(path))


def _told(error: Exception) -> str:
    """What an error says, without the values that were given, which may be secrets."""
    from pydantic import ValidationError

    if isinstance(error, ValidationError):
        return "; ".join(
            f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors(include_input=False)
        )
    return str(error)
