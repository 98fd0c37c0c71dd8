"""Catalog entries that build an object at each load, such as a role or an engine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Self
from urllib.parse import urlsplit

from kedro.io import AbstractDataset, DatasetError

from sage_dialog.datasets.protocol import EntryState
from sage_dialog.lineage.content import content_of
from sage_dialog.lineage.masking import environment_secrets, mask_secrets, nested_texts

if TYPE_CHECKING:
    from sage_dialog.config import Llm
    from sage_dialog.llm.budget import Budget

FINGERPRINT_FIELDS = ("model", "sampling", "json_schema")
"""Fields of an endpoint on which its responses depend."""


class UnversionedDataset(AbstractDataset[Any, Any]):
    """An entry without versions and without code of its own."""

    def at_version(self, version: str) -> Self:
        return self

    def code_paths(self) -> list[str]:
        return []

    def explain_missing(self) -> str | None:
        return None

    def _exists(self) -> bool:
        return self.explain_missing() is None


class ReadOnlyDataset(UnversionedDataset):
    """An unversioned entry that nothing is saved to."""

    read_only = "nothing can be saved to this entry."
    """Why a save is refused."""

    def save(self, data: NoReturn) -> None:
        raise DatasetError(self.read_only)

    def describe_input(self) -> EntryState:
        return EntryState()

    def describe_output(self) -> None:
        return None

    def at_folder(self, current: Path, other: Path) -> Self:
        return self


class FactoryDataset(ReadOnlyDataset):
    """Builds an object at each load."""

    @property
    def uses_server(self) -> bool:
        """Whether the object sends requests to a server."""
        return False

    def bind_budget(self, llm: Llm, budget: Budget) -> None:
        """Set the budget of a run before it starts; all entries of the run that use servers share it."""

    def describe_input(self) -> EntryState:
        """Return the arguments of the entry that decide its behaviour, without secrets.

        Of an endpoint these are the fields on which responses depend, and the hosts of its servers.
        """
        arguments: dict[str, Any] = self._init_args  # type: ignore[attr-defined]  # kept by Kedro
        credentials = [inner for name, inner in _nested_items(arguments) if name == "credentials"]
        secrets = {*nested_texts(credentials), *environment_secrets()}
        definition = mask_secrets({"type": dotted_path(type(self))} | _fingerprint_inputs(arguments), secrets)
        return EntryState(definition=definition)

    def code_paths(self) -> list[str]:
        arguments = _nested_items(self._init_args)  # type: ignore[attr-defined]
        return [inner for name, inner in arguments if name in ("role", "engine") and isinstance(inner, str)]

    def explain_missing(self) -> str | None:
        try:
            self.load()
        except DatasetError as error:
            return str(error)
        return None


def dotted_path(cls: type) -> str:
    """Return the dotted path by which a class is imported."""
    return f"{cls.__module__}.{cls.__qualname__}"


def format_error(error: Exception) -> str:
    """Return the message of an error, without the input values of a validation, which may be secrets."""
    from pydantic import ValidationError

    if isinstance(error, ValidationError):
        return "; ".join(
            f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors(include_input=False)
        )
    return str(error)


def _fingerprint_inputs(value: Any) -> Any:
    """Return arguments without those that only say how servers are reached; of a file, its name and content hash."""
    if isinstance(value, list | tuple):
        return [_fingerprint_inputs(inner) for inner in value]
    if not isinstance(value, Mapping):
        return value
    if isinstance(path := value.get("filepath"), str) and Path(path).is_file():  # such as a prompt
        return {"file": Path(path).name, "sha256": content_of(Path(path)).sha256}
    left_out = ("credentials", "metadata", "batch")
    kept = {name: _fingerprint_inputs(inner) for name, inner in value.items() if name not in left_out}
    if endpoint := value.get("endpoint"):
        hosts = sorted({str(urlsplit(url).hostname) for url in endpoint.get("base_urls", ())})
        kept["endpoint"] = {name: endpoint[name] for name in FINGERPRINT_FIELDS if name in endpoint} | {"hosts": hosts}
    return kept


def _nested_items(value: Any) -> Iterator[tuple[str, Any]]:
    for name, inner in value.items() if isinstance(value, Mapping) else ():
        yield name, inner
        yield from _nested_items(inner)
