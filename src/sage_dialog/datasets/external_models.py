"""Models of others as a catalog entry, evaluated beside the policies."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from kedro.io import DatasetError

from sage_dialog.datasets.endpoint import Asking, Made, told

if TYPE_CHECKING:
    from sage_dialog.config import Llm
    from sage_dialog.inference.external_models import ExternalModel
    from sage_dialog.llm.budget import Budget


class ExternalModels(Made):
    """Models behind chat APIs by a name of yours, which `evaluation.pairs` may then name like a policy's.

    Args:
        models: by name, the arguments of `_ExternalModel`.
    """

    makes = "models"

    def __init__(self, *, models: dict[str, dict[str, Any]], metadata: dict[str, Any] | None = None) -> None:
        if odd := [name for name in models if not re.fullmatch(r"[A-Za-z0-9_.-]+", str(name))]:
            raise DatasetError(f"{odd[0]!r} names a model; names are of letters, digits, '.', '_' and '-'.")
        try:
            self.models = {name: _ExternalModel(name, **given) for name, given in models.items()}
        except TypeError as error:
            raise DatasetError(f"no outside models: {error}") from None
        self.metadata = metadata

    @property
    def asks(self) -> bool:
        """Whether there are any."""
        return bool(self.models)

    def bind_budget(self, llm: Llm, budget: Budget) -> None:
        """See `Made.bind_budget`."""
        for model in self.models.values():
            model.bind_budget(llm, budget)

    def load(self) -> dict[str, ExternalModel]:
        return {name: model.load() for name, model in self.models.items()}

    def _describe(self) -> dict[str, Any]:
        return {"models": sorted(self.models)}


class _ExternalModel(Asking):
    """One of them.

    Args:
        endpoint: the fields of `llm.client.Endpoint`; its `sampling` says how the model is sampled.
        credentials: `api_key` of the endpoint.
        system prompt: its system message; null takes that of the policies, an empty one leaves it out.
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
        self._preamble = system_prompt
        self._model: ExternalModel | None = None

    def bind_budget(self, llm: Llm, budget: Budget) -> None:
        """See `Made.bind_budget`."""
        super().bind_budget(llm, budget)
        self._model = None

    def load(self) -> ExternalModel:
        if self._model is None:  # one for the whole run, so that all its loads keep to the same pace
            from sage_dialog.inference.external_models import ExternalModel
            from sage_dialog.llm.live_client import LiveClient

            try:
                client = LiveClient(self._endpoint(), *self._means())
            except ValueError as error:
                raise DatasetError(
                    f"the outside model {self._name} cannot be asked: {told(error)}. Look at `external_models` in "
                    "conf/*/catalog_evaluation.yml."
                ) from None  # what led to it may hold a key
            self._model = ExternalModel(self._name, client, self._preamble)
        return self._model

    def _describe(self) -> dict[str, Any]:
        return {"name": self._name}
