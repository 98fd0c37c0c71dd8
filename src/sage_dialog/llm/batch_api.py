"""The hosted batch API (`/v1/files`, `/v1/batches`) of one server: its calls and its files."""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Container, Mapping, Sequence
from typing import Any, Final

import openai
from openai.types import Batch

from sage_dialog.llm.requests import FailureReason, Request, RequestFailedError, RequestRejectedError
from sage_dialog.llm.server import Answer, Server

logger = logging.getLogger(__name__)

ENDED = ("completed", "failed", "expired", "cancelled")
_PATH: Final = "/v1/chat/completions"  # independent of the base URL
_SDK_RETRIES = 5
_QUEUE_FULL = "token_limit_exceeded"  # the account's limit on tokens in batches


class BatchApi:
    """Calls to the batch API. A batch's metadata holds this project's name for it, by which `find` finds it."""

    def __init__(self, server: Server, completion_window: str) -> None:
        self.server = server
        self._window = completion_window

    async def upload(self, name: str, content: bytes) -> str:
        """Upload a batch's file and return its id."""
        return (await self._call(self._sdk.files.create(file=(f"{name}.jsonl", content), purpose="batch"))).id

    async def create(self, name: str, file_id: str, *, may_exist: bool) -> str:
        """Create a batch and return its id.

        Args:
            may_exist: look for the batch first, because an attempt whose answer was lost may have created it.
        """
        if may_exist and (found := await self.find(name)):
            return found.id
        created = await self._call(
            self._sdk.with_options(max_retries=0).batches.create(
                input_file_id=file_id,
                endpoint=_PATH,
                completion_window=self._window,  # type: ignore[arg-type]
                metadata={"sage": name},
            )
        )
        return created.id

    async def find(self, name: str) -> Batch | None:
        """Return the batch of this name; None if the server has none."""

        async def search() -> Batch | None:
            async for batch in self._sdk.batches.list(limit=100):
                if batch.metadata and batch.metadata.get("sage") == name:
                    return batch
            return None

        return await self._call(search())

    async def retrieve(self, batch_id: str) -> Batch:
        """Return the state of a batch."""
        return await self._call(self._sdk.batches.retrieve(batch_id))

    async def lines(self, batch: Batch) -> list[bytes]:
        """Return the lines of both files of a batch that has ended."""
        files = [file for file in (batch.output_file_id, batch.error_file_id) if file]
        return [
            line for file in files for line in (await self._call(self._sdk.files.content(file))).content.split(b"\n")
        ]

    def parse_answer(self, batch: Batch, line: Mapping[str, Any] | None) -> Mapping[str, Any]:
        """Return the body of one request's answer.

        Raises:
            RequestFailedError: if there is none.
            RequestRejectedError: if there never will be one, or the batch was cancelled.
        """
        line = line or {}
        response, error = line.get("response"), line.get("error")
        if isinstance(response, Mapping):
            body, status = response.get("body"), response.get("status_code")
            if status == 200 and isinstance(body, Mapping):
                return {**body, "seconds": 0.0}  # unknown
            if isinstance(status, int) and status != 200:
                raise self.server.status_failure(status, body if isinstance(body, str) else json.dumps(body))
            raise RequestFailedError(FailureReason.BROKEN, "its line holds no answer")
        code = error.get("code") if isinstance(error, Mapping) else None
        if batch.status == "cancelled":
            raise RequestRejectedError(
                f"the batch {batch.id} was cancelled at {self.server.address}. Its responses are saved; the same "
                "command requests the rest."
            )
        if code == "batch_expired" or (error is None and batch.status == "expired"):
            raise RequestFailedError(FailureReason.EXPIRED, f"not done within {self._window}")
        if code == "request_timeout":
            raise RequestFailedError(FailureReason.TIMED_OUT, "in a batch")
        detail = self.server.redact(json.dumps(error)) if error else "the batch has no line"
        raise RequestFailedError(FailureReason.BROKEN, detail)

    def rejection(self, batch: Batch) -> RequestRejectedError:
        """Return the error of a batch that failed before any of its requests was sent."""
        faults = (batch.errors and batch.errors.data) or []
        reasons = "; ".join(
            f"{f'line {fault.line}: ' if fault.line else ''}{self.server.redact(fault.message or str(fault.code))}"
            for fault in faults[:5]
        )
        hint = " Lower max_requests, or wait for other batches of the account." if queue_is_full(batch) else ""
        return RequestRejectedError(
            f"{self.server.address} refused the batch {batch.id}: {reasons or 'no reason'}.{hint}"
        )

    @property
    def _sdk(self) -> openai.AsyncOpenAI:
        return self.server.sdk().with_options(max_retries=_SDK_RETRIES)

    async def _call(self, call: Awaitable[Answer]) -> Answer:
        """Return the answer to a call of the batch API, with the errors of `Server.convert_errors`."""
        try:
            answer = await self.server.convert_errors(call)
        except RequestRejectedError as error:
            if error.status != 404:
                raise
            hint = "It has no such batch or file, or no batch API at all; for a server without one set `mode: live`."
            raise RequestRejectedError(f"{error} {hint}", error.status) from None
        if isinstance(answer, str):
            raise RequestFailedError(FailureReason.BROKEN, "its answer is no JSON")
        return answer


def queue_is_full(batch: Batch) -> bool:
    """Return whether a batch failed because of the account's limit on tokens in batches."""
    return any(fault.code == _QUEUE_FULL for fault in (batch.errors and batch.errors.data) or [])


def request_line(request: Request, body: Mapping[str, Any]) -> bytes:
    """Return a request as a line of a batch's file.

    Args:
        body: the request's body as the server takes it.
    """
    line = {"custom_id": request.key, "method": "POST", "url": _PATH, "body": body}
    return json.dumps(line).encode() + b"\n"


def parse_lines(batch_id: str | None, keys: Container[str], lines: Sequence[bytes]) -> dict[str, Mapping[str, Any]]:
    """Return the lines of a batch's files by custom id, which is the key of a request."""
    answers: dict[str, Mapping[str, Any]] = {}
    invalid = 0
    for line in filter(bytes.strip, lines):
        try:
            answer = json.loads(line)
            new = answer["custom_id"] in keys and answer["custom_id"] not in answers
        except (ValueError, TypeError, KeyError):
            new = False
        if new:
            answers[answer["custom_id"]] = answer
        invalid += not new
    if invalid:
        logger.warning("batch %s: %d lines are ignored: malformed, repeated, or of other requests", batch_id, invalid)
    return answers
