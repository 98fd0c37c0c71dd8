"""`Endpoint`: a language model and the servers that have it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator


class Endpoint(BaseModel):
    """A model and the servers that have it, as `conf/*/catalog_roles.yml` states them."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    base_urls: tuple[str, ...] = Field(
        min_length=1, description="each as the SDK takes it, with /v1; all share the load"
    )
    model: str = Field(min_length=1, description="the name that the servers know; with it replies are kept")
    api_key: SecretStr = Field(SecretStr("none"), description="by `credentials:`; servers without keys take any")
    concurrency: int = Field(16, ge=1, description="calls on their way to each server at most")
    requests_per_minute: float | None = Field(None, gt=0, description="to all servers together")
    tokens_per_minute: float | None = Field(None, gt=0, description="of prompts and replies, to all servers together")
    timeout_s: float = Field(600, gt=0, description="seconds until a call without an answer is given up")
    attempts: int = Field(10, ge=1, description="how often a call is sent that fails in a way that may pass")
    max_invalid_responses: int = Field(3, ge=1, description="how often a reply may be cut, empty, filtered or refused")
    json_schema: bool = Field(True, description="the servers keep to a JSON schema; else it is asked for in words")
    sampling: Mapping[str, Any] = Field({}, description="fields of the request's body: temperature, max_tokens, …")

    @field_validator("api_key")
    @classmethod
    def _fits_a_header(cls, key: SecretStr) -> SecretStr:
        if not all("!" <= letter <= "~" for letter in key.get_secret_value().strip()):
            raise ValueError("holds spaces or letters that no key has; look at the environment variable it comes from")
        return SecretStr(key.get_secret_value().strip())
