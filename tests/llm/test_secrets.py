"""The key is in the Authorization header and nowhere else, even where servers repeat it."""

import logging
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest
from faulty_server import FaultyServer
from live_program import request, texts
from pydantic import ValidationError

from sage_dialog.llm import event_loop as loop
from sage_dialog.llm.live_client import LiveClient
from sage_dialog.llm.requests import FailureReason, RequestFailedError, RequestRejectedError
from sage_dialog.llm.response_cache import ResponseCache

KEY = "sk-proj-Zebra7Quagga9Okapi3Tapir5Dugong1"
PARTS = {KEY[start : start + 8] for start in range(0, len(KEY) - 8)}
ECHO = {"error": {"message": "Incorrect API key provided: AUTHORIZATION, " + KEY, "code": "invalid_api_key"}}

Serve = Callable[..., FaultyServer]
MakeClient = Callable[..., LiveClient]


def holds_key(text: str | bytes) -> bool:
    text = text.decode("latin-1") if isinstance(text, bytes) else text
    return any(part in text for part in PARTS)


def traceback_of(error: BaseException) -> str:
    """Return the complete text of an error and its causes."""
    lines = traceback.TracebackException.from_exception(error, capture_locals=False).format(chain=True)
    chain: list[BaseException] = [error]
    while (before := chain[-1].__cause__ or chain[-1].__context__) is not None:
        chain.append(before)
    return "".join(lines) + "".join(repr(one) + str(one) + repr(vars(one)) for one in chain)


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    for name in ["", *logging.root.manager.loggerDict]:
        caplog.set_level(logging.DEBUG, name or None)
    for name in ("aiohttp", "openai", "httpx2", "httpcore2", "httpx", "sage_dialog"):
        caplog.set_level(logging.DEBUG, name)
    return caplog


def written(log: pytest.LogCaptureFixture) -> str:
    return "\n".join(
        f"{record.getMessage()} {record.__dict__} {record.exc_info and traceback_of(record.exc_info[1])}"
        for record in log.records
    )


def test_the_key_is_sent(serve: Serve, make_client: MakeClient) -> None:
    """The other tests search for a key that is in use."""
    server = serve()
    list(texts(make_client(server.url, api_key=f"{KEY}\n"), [1]))  # with a line break, as files end
    assert server.calls[0].headers["Authorization"] == f"Bearer {KEY}"


def test_a_user_and_a_password_in_an_address_are_sent_and_never_shown(serve: Serve, make_client: MakeClient) -> None:
    server = serve(script=["500"])
    client = make_client(server.url.replace("127", "user:pass-word@127"), attempts=1)
    with pytest.raises(RequestFailedError) as caught:
        loop.run(client.request(request(client, 1)))
    assert server.calls[0].headers["Authorization"].startswith("Basic ")
    assert "pass-word" not in traceback_of(caught.value) + client.servers[0].address


@pytest.mark.parametrize("status", [400, 401, 403, 404])
def test_a_refusal_that_repeats_the_key(
    serve: Serve, make_client: MakeClient, log: pytest.LogCaptureFixture, status: int
) -> None:
    client = make_client(serve(status=(status, ECHO)).url, api_key=KEY)
    with pytest.raises(RequestRejectedError, match=r"\[key\]") as caught:
        loop.run(client.request(request(client, 1)))
    assert not holds_key(traceback_of(caught.value))
    assert not holds_key(written(log))


@pytest.mark.parametrize("status", [429, 500])
def test_a_failure_that_repeats_the_key(
    serve: Serve,
    make_client: MakeClient,
    response_cache: ResponseCache,
    tmp_path: Path,
    log: pytest.LogCaptureFixture,
    status: int,
) -> None:
    client = make_client(serve(status=(status, ECHO)).url, api_key=KEY, attempts=3)
    with pytest.raises(RequestFailedError, match=r"\[key\]") as caught:
        loop.run(client.request(request(client, 1)))
    assert not holds_key(traceback_of(caught.value))
    assert not holds_key(written(log))
    assert sum(n for _, _, n in response_cache.failures()) == 3
    _no_file_holds_it(tmp_path)


def test_good_and_broken_responses_leave_no_key_on_disk(
    serve: Serve, make_client: MakeClient, response_cache: ResponseCache, tmp_path: Path, log: pytest.LogCaptureFixture
) -> None:
    server = serve(share=0.5)
    assert FailureReason.BUSY not in list(texts(make_client(server.url, api_key=KEY, attempts=30), range(30)))
    list(texts(make_client("http://127.0.0.1:9/v1", api_key=KEY, attempts=2), [99]))
    _no_file_holds_it(tmp_path)
    response_cache.close()
    _no_file_holds_it(tmp_path)
    assert log.records and not holds_key(written(log))


def test_the_key_is_in_no_representation_of_an_endpoint(make_client: MakeClient) -> None:
    client = make_client("http://127.0.0.1:9/v1", api_key=KEY)
    endpoint = client.endpoint
    for text in (repr(endpoint), str(endpoint), endpoint.model_dump_json(), repr(endpoint.model_dump()), repr(client)):
        assert not holds_key(text)


def test_the_key_is_not_in_the_error_of_an_invalid_key(make_client: MakeClient) -> None:
    with pytest.raises(ValidationError, match="check the environment variable") as caught:
        make_client("http://127.0.0.1:9/v1", api_key=f"{KEY} {KEY}")
    assert not holds_key(str(caught.value))


def _no_file_holds_it(folder: Path) -> None:
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert files
    for path in files:
        assert not holds_key(path.read_bytes()), path.name
