"""Catalog entries that make something at each load; what asks servers does so by one journal and one budget."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from kedro.io import AbstractDataset, DatasetError

if TYPE_CHECKING:
    from sage_dialog.llm.asker import Endpoint
    from sage_dialog.llm.budget import Budget
    from sage_dialog.llm.journal import Journal
    from sage_dialog.parameters import Llm


class Made(AbstractDataset[NoReturn, Any]):
    """What is made at each load, and cannot be saved."""

    makes = "roles"

    @property
    def asks(self) -> bool:
        """Whether it asks a server."""
        return False

    def equip(self, llm: Llm, budget: Budget) -> None:
        """Told by a hook, before a run, what it may spend; all that ask in a run share one budget."""

    def missing(self) -> str | None:
        """What to tell the person whose entry makes nothing; None where it does."""
        try:
            self.load()
        except DatasetError as error:
            return str(error)
        return None

    def save(self, data: NoReturn) -> None:
        raise DatasetError(f"this entry makes {self.makes}; nothing can be saved to it.")

    def _exists(self) -> bool:
        return self.missing() is None


class Asking(Made):
    """What may ask a server.

    Args:
        endpoint: the fields of `llm.asker.Endpoint`; None where nothing is asked.
        credentials: `api_key` of the endpoint.
    """

    def __init__(self, endpoint: dict[str, Any] | None, credentials: dict[str, Any] | None) -> None:
        self._given = endpoint
        self._credentials = credentials
        self._llm: Llm | None = None
        self._budget: Budget | None = None

    @property
    def asks(self) -> bool:
        """Whether it asks a server."""
        return self._given is not None

    def equip(self, llm: Llm, budget: Budget) -> None:
        """See `Made.equip`."""
        self._llm, self._budget = llm, budget

    def _endpoint(self, **more: Any) -> Endpoint:
        """The endpoint with its key, and further fields.

        Raises:
            ValueError: if there is no key, or a field is not right.
        """
        from sage_dialog.llm.asker import Endpoint

        given = {**(self._given or {}), **more}
        if self._credentials is not None:
            if not self._credentials.get("api_key"):
                raise ValueError(
                    "it has no key; set the environment variable that its `credentials:` name in conf/*/credentials.yml"
                )
            given["api_key"] = self._credentials["api_key"]
        return Endpoint.model_validate(given)

    def _means(self) -> tuple[Journal, Budget, float]:
        """What an asker needs beside its endpoint."""
        from sage_dialog.llm.budget import Budget
        from sage_dialog.parameters import Llm

        llm = self._llm or Llm()
        return _journal(llm.journal), self._budget or Budget(llm.caps, llm.role_caps, llm.prices), llm.max_failed_share


@cache
def _journal(path: str) -> Journal:
    """One for this process: it holds a lock for as long as it is open."""
    from sage_dialog.llm.journal import Journal

    return Journal(Path(path))


def told(error: Exception) -> str:
    """What an error says, without the values that were given, which may be secrets."""
    from pydantic import ValidationError

    if isinstance(error, ValidationError):
        return "; ".join(
            f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors(include_input=False)
        )
    return str(error)
