"""Models behind chat APIs as a catalog entry, evaluated beside the policies."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from kedro.io import DatasetError

from sage_dialog.datasets.endpoint import EndpointDataset
from sage_dialog.datasets.factory import FactoryDataset, format_error

if TYPE_CHECKING:
    from sage_dialog.config import Llm
    from sage_dialog.inference.external_models import ExternalModel
    from sage_dialog.llm.budget import Budget


class ExternalModels(FactoryDataset):
    """Models behind chat APIs, which `evaluation.pairs` may name like policies.

    Args:
        models: arguments of `_ExternalModel` by a name of the user's.
    """

    def __init__(self, *, models: dict[str, dict[str, Any]], metadata: dict[str, Any] | None = None) -> None:
        if invalid := [name for name in models if not re.fullmatch(r"[A-Za-z0-9_.-]+", str(name))]:
            raise DatasetError(f"{invalid[0]!r} names a model; use letters, digits, '.', '_' and '-' only.")
        try:
            self.models = {name: _ExternalModel(name, **arguments) for name, arguments in models.items()}
        except TypeError as error:
            raise DatasetError(f"invalid external model: {error}") from None
        self.metadata = metadata

    @property
    def uses_server(self) -> bool:
        return bool(self.models)

    def bind_budget(self, llm: Llm, budget: Budget) -> None:
        for model in self.models.values():
            model.bind_budget(llm, budget)

    def load(self) -> dict[str, ExternalModel]:
        return {name: model.load() for name, model in self.models.items()}

    def _describe(self) -> dict[str, Any]:
        return {"models": sorted(self.models)}


class _ExternalModel(EndpointDataset):
    """One external model.

    Args:
        endpoint: the fields of `llm.endpoint.Endpoint`, `sampling` included.
        credentials: `api_key` of the endpoint.
        system_prompt: the system message; null takes that of the policies, an empty text leaves it out.
    """

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
        self._system_prompt = system_prompt
        self._model: ExternalModel | None = None

    def bind_budget(self, llm: Llm, budget: Budget) -> None:
        super().bind_budget(llm, budget)
        self._model = None

    def load(self) -> ExternalModel:
        if self._model is None:  # one for the whole run, so that its loads share a rate limit
            from sage_dialog.inference.external_models import ExternalModel
            from sage_dialog.llm.live_client import LiveClient

            try:
                client = LiveClient(self._endpoint(), *self._client_arguments())
            except ValueError as error:
                raise DatasetError(
                    f"the external model {self._name} cannot be used: {format_error(error)}. Correct `external_models` "
                    "in conf/*/catalog_evaluation.yml."
                ) from None  # the cause may hold a key
            self._model = ExternalModel(self._name, client, self._system_prompt)
        return self._model

    def _describe(self) -> dict[str, Any]:
        return {"name": self._name}
