"""Catalog entries that make something at each load; what asks servers does so by one response cache and one budget."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import urlsplit

from kedro.io import AbstractDataset, DatasetError

from sage_dialog.lineage.content import content_of
from sage_dialog.lineage.masking import masked, of_environment, texts_in

if TYPE_CHECKING:
    from sage_dialog.config import Llm
    from sage_dialog.llm.budget import Budget
    from sage_dialog.llm.endpoint import Endpoint
    from sage_dialog.llm.response_cache import ResponseCache


DECIDES = ("model", "sampling", "json_schema")
"""Fields of an endpoint that another reply may follow from."""


class Made(AbstractDataset[NoReturn, Any]):
    """What is made at each load, and cannot be saved."""

    makes = "roles"

    @property
    def asks(self) -> bool:
        """Whether it asks a server."""
        return False

    def bind_budget(self, llm: Llm, budget: Budget) -> None:
        """Told by a hook, before a run, what it may spend; all that ask in a run share one budget."""

    def revision(self) -> dict[str, Any]:
        """What decides how it works, as far as its catalog entry says: as JSON has it, without any secret.

        Of an endpoint that is what decides a reply, and the hosts of its servers.
        """
        given: dict[str, Any] = self._init_args  # type: ignore[attr-defined]  # of the entry, as Kedro keeps them
        secrets = {*_credentials_in(given), *of_environment()}
        revision: dict[str, Any] = masked({"type": _dotted(type(self))} | _deciding(given), secrets)
        return revision

    def classes(self) -> list[str]:
        """Dotted paths of what does the work behind this entry."""
        return [_dotted(type(self)), *_named_in(self._init_args, ("role", "engine"))]  # type: ignore[attr-defined]

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
        endpoint: the fields of `llm.client.Endpoint`; None where nothing is asked.
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

    def bind_budget(self, llm: Llm, budget: Budget) -> None:
        """See `Made.bind_budget`."""
        self._llm, self._budget = llm, budget

    def _endpoint(self, **more: Any) -> Endpoint:
        """The endpoint with its key, and further fields.

        Raises:
            ValueError: if there is no key, or a field is not right.
        """
        from sage_dialog.llm.endpoint import Endpoint

        given = {**(self._given or {}), **more}
        if self._credentials is not None:
            if not self._credentials.get("api_key"):
                raise ValueError(
                    "it has no key; set the environment variable that its `credentials:` name in conf/*/credentials.yml"
                )
            given["api_key"] = self._credentials["api_key"]
        return Endpoint.model_validate(given)

    def _means(self) -> tuple[ResponseCache, Budget, float]:
        """What an client needs beside its endpoint."""
        from sage_dialog.config import Llm
        from sage_dialog.llm.budget import Budget

        llm = self._llm or Llm.from_base()
        return (
            _response_cache(llm.response_cache),
            self._budget or Budget(llm.caps, llm.role_caps, llm.prices),
            llm.max_failed_share,
        )


def _deciding(given: Any) -> Any:
    """An entry's arguments without what only says how, or by whose leave, servers are reached."""
    if isinstance(given, list | tuple):
        return [_deciding(inner) for inner in given]
    if not isinstance(given, Mapping):
        return given
    kept = {name: _deciding(inner) for name, inner in given.items() if name not in ("credentials", "metadata", "batch")}
    if isinstance(path := given.get("filepath"), str) and Path(path).is_file():  # such as a prompt: its words decide
        return {"file": Path(path).name, "sha256": content_of(Path(path)).sha256}
    if endpoint := given.get("endpoint"):
        hosts = sorted({str(urlsplit(url).hostname) for url in endpoint.get("base_urls", ())})
        kept["endpoint"] = {name: endpoint[name] for name in DECIDES if name in endpoint} | {"hosts": hosts}
    return kept


def _credentials_in(given: Any) -> Iterator[str]:
    for name, inner in given.items() if isinstance(given, Mapping) else ():
        yield from texts_in(inner) if name == "credentials" else _credentials_in(inner)


def _named_in(given: Any, names: tuple[str, ...]) -> Iterator[str]:
    for name, inner in given.items() if isinstance(given, Mapping) else ():
        if name in names and isinstance(inner, str):
            yield inner
        yield from _named_in(inner, names)


def _dotted(of: type) -> str:
    return f"{of.__module__}.{of.__qualname__}"


@cache
def _response_cache(path: str) -> ResponseCache:
    """One for this process: it holds a lock for as long as it is open."""
    from sage_dialog.llm.response_cache import ResponseCache

    return ResponseCache(Path(path))


def told(error: Exception) -> str:
    """What an error says, without the values that were given, which may be secrets."""
    from pydantic import ValidationError

    if isinstance(error, ValidationError):
        return "; ".join(
            f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors(include_input=False)
        )
    return str(error)
