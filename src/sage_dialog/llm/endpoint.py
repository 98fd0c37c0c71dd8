"""`Endpoint`: a language model and the servers that have it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator


class Endpoint(BaseModel):
    """A model and its servers, as `conf/*/catalog_roles.yml` states them."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    base_urls: tuple[str, ...] = Field(
        min_length=1, description="each as the SDK takes it, with /v1; all share the load"
    )
    model: str = Field(min_length=1, description="the model's name on the servers; part of the cache key")
    api_key: SecretStr = Field(SecretStr("none"), description="by `credentials:`; servers without keys take any")
    concurrency: int = Field(16, ge=1, description="limit on concurrent calls to each server")
    requests_per_minute: float | None = Field(None, gt=0, description="rate limit over all servers")
    tokens_per_minute: float | None = Field(None, gt=0, description="rate limit over all servers, prompt and response")
    timeout_s: float = Field(600, gt=0, description="seconds without a byte of the answer until a call fails")
    attempts: int = Field(10, ge=1, description="attempts at a call whose failure is temporary")
    max_invalid_responses: int = Field(3, ge=1, description="truncated, empty, filtered or refused ones until failure")
    json_schema: bool = Field(True, description="the servers enforce a JSON schema; else the prompt alone states it")
    sampling: Mapping[str, Any] = Field({}, description="fields of the request's body: temperature, max_tokens, …")

    @field_validator("base_urls")
    @classmethod
    def _are_addresses(cls, urls: tuple[str, ...]) -> tuple[str, ...]:
        for url in urls:
            try:
                parts = urlsplit(url)
                valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
            except ValueError:  # a port that is no number
                valid = False
            if not valid or any(letter.isspace() for letter in url):
                raise ValueError("not an address such as https://api.openai.com/v1 or http://127.0.0.1:8000/v1")
        return urls

    @field_validator("api_key")
    @classmethod
    def _fits_a_header(cls, key: SecretStr) -> SecretStr:
        if not all("!" <= letter <= "~" for letter in key.get_secret_value().strip()):
            raise ValueError("holds spaces or letters that no key has; check the environment variable it comes from")
        return SecretStr(key.get_secret_value().strip())
