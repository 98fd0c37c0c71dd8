"""The base class of all parameter models, and what their validators share.

A model holds types and ranges. Values and their comments stand in `conf/base`: a field has a default only where an
entry of a list or of a mapping with the user's own keys may leave it out.
"""

from __future__ import annotations

import copy
import difflib
import json
import re
from collections.abc import Iterable
from functools import cache, lru_cache
from typing import Annotated, Any, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError

from sage_dialog.core.paths import project_folder
from sage_dialog.core.recipe import recipe_pairs

_NESTED = {
    "RedditRules": "data_processing.rule_sets.paper",
    "LoraSettings": "sft.lora",
    "FineTuning": "sft.training",
    "SamplingConfig": "evaluation.agent",
    "Benchmarks": "evaluation.benchmarks",
    "BaseModelConfig": "microworld.base",
    "GameRules": "self_play",
}

Count = Annotated[int, Field(ge=1)]
Amount = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
PartialShare = Annotated[float, Field(ge=0, lt=1)]
PositiveShare = Annotated[float, Field(gt=0, le=1)]
Probability = Annotated[float, Field(gt=0, lt=1)]


class Config(BaseModel):
    """A frozen model that refuses unknown keys."""

    # Built at the first validation: most Kedro commands validate nothing.
    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    @classmethod
    def from_base(cls, **changes: Any) -> Self:
        """Return the values of `conf/base` with `changes`, for code that runs without a Kedro session."""
        name = cls.__name__
        path = _NESTED.get(name, re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower())
        values = _base_parameters()
        for key in path.split("."):
            values = values[key]
        return cls.model_validate({key: values[key] for key in cls.model_fields if key in values} | changes)


@cache
def _base_parameters() -> dict[str, Any]:
    """Return the parameters of `conf/base`, resolved as Kedro resolves them without an environment."""
    values: dict[str, Any] = {}
    iterations = yaml.safe_load((project_folder() / "conf/base/globals.yml").read_text("utf-8"))["iterations"]
    for file in sorted((project_folder() / "conf/base").glob("parameters*.yml")):
        text = (
            file.read_text("utf-8").replace("${globals:data}", "data").replace("${globals:iterations}", str(iterations))
        )
        text = text.replace("${recipe_pairs:${iterations}}", json.dumps(recipe_pairs(iterations)))
        values |= yaml.safe_load(re.sub(r"(?<=: )\$\{text:(\S+)\}$", _quote_file, text, flags=re.MULTILINE))
    return values


def _quote_file(reference: re.Match[str]) -> str:
    return json.dumps((project_folder() / reference[1]).read_text("utf-8").strip())


def invalid(why: str) -> PydanticCustomError:
    """Return an error that a validator raises with this message."""
    return PydanticCustomError("invalid", "{why}", {"why": why})


def read_mapping(text: str, otherwise: str) -> dict[str, Any]:
    """Return the mapping that a text holds as YAML, or raise `invalid`.

    Args:
        otherwise: what is wrong with YAML that is no mapping.
    """
    try:
        values = _parse_yaml(text)
    except yaml.YAMLError as error:
        raise invalid(f"no YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise invalid(otherwise)
    return copy.deepcopy(values)


@lru_cache(64)
def _parse_yaml(text: str) -> Any:  # a command validates its parameters several times
    return yaml.safe_load(text)


def suggestion(word: str, known: Iterable[str]) -> str:
    """Return ", did you mean X?" for the nearest known word, or a full stop if none is near."""
    near = difflib.get_close_matches(word, known, n=1)
    return f", did you mean {near[0]}?" if near else "."
