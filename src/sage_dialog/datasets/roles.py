"""Annotator, selector and judge as catalog entries, so that an environment swaps them by configuration."""

from __future__ import annotations

from typing import Any, NoReturn

from kedro.io import AbstractDataset, DatasetError
from kedro.utils import load_obj


class RoleDataset(AbstractDataset[NoReturn, Any]):
    """A role, made anew at each load.

    Args:
        role: dotted path of its class.
        args: keyword arguments of the class.
    """

    def __init__(
        self, *, role: str, args: dict[str, Any] | None = None, metadata: dict[str, Any] | None = None
    ) -> None:
        self._role = role
        self._args = args or {}
        self.metadata = metadata

    def load(self) -> Any:
        try:
            return load_obj(self._role)(**self._args)
        except (ImportError, AttributeError, ValueError, TypeError) as error:
            raise DatasetError(
                f"no role can be made from {self._role} ({', '.join(self._args) or 'no arguments'}): {error}. Look at "
                "`role:` and `args:` of this entry in conf/*/catalog_roles.yml."
            ) from error

    def save(self, data: NoReturn) -> None:
        raise DatasetError(f"{self._role} is a role; nothing can be saved to it.")

    def missing(self) -> str | None:
        """What to tell the person whose role cannot be made; None where it can."""
        try:
            self.load()
        except DatasetError as error:
            return str(error)
        return None

    def _exists(self) -> bool:
        return self.missing() is None

    def _describe(self) -> dict[str, Any]:
        return {"role": self._role, "args": list(self._args)}  # values may be secrets
