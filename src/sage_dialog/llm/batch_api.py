"""The hosted batch API (`/v1/files`, `/v1/batches`) of one server: its calls, and what its files say."""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Container, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeVar

from sage_dialog.llm.requests import FailureReason, Request, RequestFailedError, RequestRejectedError
from sage_dialog.llm.server import Server

if TYPE_CHECKING:
    import openai
    from openai.types import Batch

logger = logging.getLogger(__name__)

ENDED = ("completed", "failed", "expired", "cancelled")
_PATH: Final = "/v1/chat/completions"  # as batches name it, whatever the base URL is
_SDK_RETRIES = 5
_QUEUE_FULL = "token_limit_exceeded"  # the account has as many tokens in batches as it may

Answer = TypeVar("Answer")


class BatchApi:
    """A batch carries this project's name for it in its metadata, by which it is found again."""

    def __init__(self, server: Server, completion_window: str) -> None:
        self.server = server
        self._window = completion_window

    async def upload(self, name: str, content: bytes) -> str:
        """Puts a batch's file on the server; the file's id."""
        file = await self._call(self._sdk.files.create(file=(f"{name}.jsonl", content), purpose="batch"))
        return file.id

    async def begin(self, name: str, file_id: str, again: bool) -> str:
        """Creates a batch, unless that has been tried and was done after all."""
        if again and (found := await self.find(name)):
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
        """A batch that the server may have."""

        async def look() -> Batch | None:
            async for found in self._sdk.batches.list(limit=100):
                if found.metadata and found.metadata.get("sage") == name:
                    return found
            return None

        return await self._call(look())

    async def retrieve(self, batch_id: str) -> Batch:
        """How far the server is with a batch."""
        return await self._call(self._sdk.batches.retrieve(batch_id))

    async def lines(self, state: Batch) -> list[bytes]:
        """Of both files of a batch that has ended."""
        files = [file for file in (state.output_file_id, state.error_file_id) if file]
        return [
            line for file in files for line in (await self._call(self._sdk.files.content(file))).content.split(b"\n")
        ]

    def read(self, batch_id: str | None, keys: Container[str], lines: Sequence[bytes]) -> dict[str, Mapping[str, Any]]:
        """The lines of a batch's files, by custom ids, which are keys of its requests."""
        answers: dict[str, Mapping[str, Any]] = {}
        wrong = 0
        for line in filter(bytes.strip, lines):
            try:
                answer = json.loads(line)
                new = answer["custom_id"] in keys and answer["custom_id"] not in answers
            except (ValueError, TypeError, KeyError):
                new = False
            if new:
                answers[answer["custom_id"]] = answer
            wrong += not new
        if wrong:
            logger.warning(
                "batch %s: %d lines are left out: broken, repeated, or of no request that it had", batch_id, wrong
            )
        return answers

    def answer(self, state: Batch, line: Mapping[str, Any] | None) -> Mapping[str, Any]:
        """The body of one request's answer.

        Raises:
            RequestFailedError: if there is none.
            RequestRejectedError: if there will never be one, or somebody cancelled the batch.
        """
        line = line or {}
        response, error = line.get("response"), line.get("error")
        if isinstance(response, Mapping):
            body, status = response.get("body"), response.get("status_code")
            if status == 200 and isinstance(body, Mapping):
                return {**body, "seconds": 0.0}  # how long it took is not known
            if isinstance(status, int) and status != 200:
                said = body.get("error") if isinstance(body, Mapping) else body
                code = said.get("code") if isinstance(said, Mapping) else None
                raise self.server.turned_down(status, str(code), json.dumps(said))
            raise RequestFailedError(FailureReason.BROKEN, "its line holds no answer")
        code = error.get("code") if isinstance(error, Mapping) else None
        if state.status == "cancelled":
            raise RequestRejectedError(
                f"the batch {state.id} was cancelled at {self.server.address}. What it brought is kept; the same "
                "command asks for the rest."
            )
        if code == "batch_expired" or (error is None and state.status == "expired"):
            raise RequestFailedError(FailureReason.EXPIRED, f"not done within {self._window}")
        if code == "request_timeout":
            raise RequestFailedError(FailureReason.TIMED_OUT, "in a batch")
        raise RequestFailedError(
            FailureReason.BROKEN, self.server.said(json.dumps(error)) if error else "the batch has no line"
        )

    def refusal(self, state: Batch) -> RequestRejectedError:
        """Of a batch that failed before any of its requests was asked."""
        faults = (state.errors and state.errors.data) or []
        said = "; ".join(
            f"{f'line {fault.line}: ' if fault.line else ''}{self.server.said(fault.message or str(fault.code))}"
            for fault in faults[:5]
        )
        hint = " Lower most_requests, or wait for other batches of the account." if queue_is_full(state) else ""
        return RequestRejectedError(f"{self.server.address} refused the batch {state.id}: {said or 'no reason'}.{hint}")

    @property
    def _sdk(self) -> openai.AsyncOpenAI:
        return self.server.sdk().with_options(max_retries=_SDK_RETRIES)

    async def _call(self, call: Awaitable[Answer]) -> Answer:
        """What the server answers to a call of the batch API.

        Raises:
            RequestFailedError: if it may do better the next time.
            RequestRejectedError: if not.
        """
        import openai

        try:
            answer = await call
        except openai.NotFoundError as error:
            failure: Exception = RequestRejectedError(
                f"{self.server.address} has no such batch or file, or no batch API at all (404): "
                f"{self.server.said(error)}. Look at base_urls and the key; a server without one takes `mode: live`."
            )
        except openai.APIError as error:
            failure = self.server.failure(error)
        else:
            if not isinstance(answer, str):
                return answer
            failure = RequestFailedError(FailureReason.BROKEN, "its answer is no JSON")
        raise failure  # and not from the SDK's error, whose request and text may hold the key


def queue_is_full(state: Batch) -> bool:
    """Whether a batch failed because the account has too much in others."""
    return any(fault.code == _QUEUE_FULL for fault in (state.errors and state.errors.data) or [])


def line_of(request: Request) -> bytes:
    """Of a batch's file: one request."""
    line = {"custom_id": request.key, "method": "POST", "url": _PATH, "body": request.body()}
    return json.dumps(line).encode() + b"\n"
