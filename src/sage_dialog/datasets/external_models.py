"""Models behind chat APIs as a catalog entry, evaluated beside the policies."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, cast

from kedro.io import DatasetError

from sage_dialog.datasets.endpoint import EndpointDataset, EndpointGroup

if TYPE_CHECKING:
    from sage_dialog.inference.external_models import ExternalModel
    from sage_dialog.llm.live_client import LiveClient


class ExternalModels(EndpointGroup):
    """Models behind chat APIs, which `evaluation.pairs` may name like policies.

    Args:
        models: arguments of `_ExternalModel` by a name of the user's.
    """

    def __init__(self, *, models: dict[str, dict[str, Any]], metadata: dict[str, Any] | None = None) -> None:
        if invalid := [name for name in models if not re.fullmatch(r"[A-Za-z0-9_.-]+", str(name))]:
            raise DatasetError(f"{invalid[0]!r} names a model; use letters, digits, '.', '_' and '-' only.")
        try:
            self.entries = {name: _ExternalModel(name, **arguments) for name, arguments in models.items()}
        except TypeError as error:
            raise DatasetError(f"invalid external model: {error}") from None
        self.metadata = metadata

    def load(self) -> dict[str, ExternalModel]:
        return {name: entry.load() for name, entry in self.entries.items()}


class _ExternalModel(EndpointDataset):
    """One external model.

    Args:
        endpoint: the fields of `llm.endpoint.Endpoint`, `sampling` included.
        credentials: `api_key` of the endpoint.
        system_prompt: the system message; null takes that of the policies, an empty text leaves it out.
    """

    place = "`external_models` in conf/*/catalog_evaluation.yml"

    def __init__(
        self,
        name: str,
        *,
        endpoint: dict[str, Any],
        credentials: dict[str, Any] | None = None,
        system_prompt: str | None = None,
    ) -> None:
        super().__init__(endpoint, credentials)
        self._name = name
        self.subject = f"the external model {name} cannot be used"
        self._system_prompt = system_prompt

    def build(self) -> ExternalModel:
        from sage_dialog.inference.engine import ROLE
        from sage_dialog.inference.external_models import ExternalModel

        client = cast("LiveClient", self.shared_client())
        client.check_caps(ROLE)
        return ExternalModel(self._name, client, self._system_prompt)

    def _describe(self) -> dict[str, Any]:
        return {"name": self._name}
