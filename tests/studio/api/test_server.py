"""The API over HTTP, with OpenAI's client and with hostile ones."""

from __future__ import annotations

import json
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import uvicorn
from openai import APIStatusError, OpenAI
from scripted_engine import ScriptedEngine

from sage_dialog.config import SamplingConfig, Steering
from sage_dialog.inference.engine import FinishReason, Prompt, Sample
from sage_dialog.sac import Chain, Intent, render
from sage_dialog.studio import local_server
from sage_dialog.studio.api.served_policy import ServedPolicy
from sage_dialog.studio.api.server import MAX_BODY, make_app
from sage_dialog.studio.chat.conversation import Settings

CHAIN = Chain(Intent("sharing", "sad", ("home",)), Intent("empathy", "calm", ("home", "rain")), "Tell me more, friend.")
STATE = {"motivation": "sharing", "emotion": "sad", "topics": ["home"]}
ACTION = {"motivation": "empathy", "emotion": "calm", "topics": ["home", "rain"]}
LOST = [{"role": "user", "content": "I lost my keys."}]
Open = Callable[..., "Api"]


class Api:
    """A server of a scripted policy."""

    def __init__(self, engine: ScriptedEngine, blocks: bool) -> None:
        self.engine = engine
        sampling = SamplingConfig.from_base(max_new_tokens=50, top_k=100)
        settings = Settings(sampling=sampling, system_prompt="You listen.")
        self._thread = ServedPolicy(lambda: engine, "sage_7", blocks, settings, seed=3)
        self._listener = local_server.listen(0)
        self.port = self._listener.getsockname()[1]
        config = uvicorn.Config(
            make_app(self._thread), log_level="warning", lifespan="off", timeout_graceful_shutdown=1
        )
        self._server = uvicorn.Server(config)
        self._running = threading.Thread(target=self._server.run, kwargs={"sockets": [self._listener]})
        self._running.start()
        self.client = OpenAI(base_url=f"http://127.0.0.1:{self.port}/v1", api_key="none", max_retries=0)

    def create(self, messages: Any = LOST, **fields: Any) -> Any:
        return self.client.chat.completions.create(**{"model": "sage_7", "messages": messages, **fields})

    def post(self, body: bytes, **headers: str) -> tuple[int, bytes]:
        """Return status and body of the response to a raw request."""
        url = f"http://127.0.0.1:{self.port}/v1/chat/completions"
        try:
            with urllib.request.urlopen(urllib.request.Request(url, body, headers)) as response:
                return response.status, response.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    def close(self) -> None:
        self._thread.stop()
        self._server.should_exit = True
        self._running.join()
        self._thread.close()


@pytest.fixture
def api() -> Iterator[Open]:
    opened: list[Api] = []

    def make(reply: Callable[[str, Prompt, int], Any] = lambda *_: render(CHAIN), blocks: bool = True, **fields) -> Api:
        opened.append(Api(ScriptedEngine(reply, **fields), blocks))
        return opened[-1]

    yield make
    for each in opened:
        each.close()


def error_of(call: Callable[[], Any]) -> tuple[int, str | None, str | None, str]:
    """Return status, param, code and message of the error that a call ends with."""
    with pytest.raises(APIStatusError) as error:
        call()
    body = error.value.body
    assert isinstance(body, dict) and set(body) == {"message", "type", "param", "code"}
    return error.value.status_code, body["param"], body["code"], body["message"]


def joined(stream: Any, index: int = 0) -> tuple[str, dict[str, Any], list[str]]:
    """Return the content, the further fields and the finish reasons of a streamed reply."""
    content, fields, reasons = "", dict[str, Any](), []
    for chunk in stream:
        for choice in chunk.choices:
            if choice.index == index:
                content += choice.delta.content or ""
                fields |= choice.delta.model_extra or {}
                reasons += [choice.finish_reason] if choice.finish_reason else []
    return content, fields, reasons


def test_the_models_are_the_policy(api: Open) -> None:
    client = api().client
    assert [model.id for model in client.models.list()] == ["sage_7"]
    assert client.models.retrieve("sage_7").owned_by == "sage-dialog"
    assert error_of(lambda: client.models.retrieve("gpt-4o"))[0:3] == (404, "model", "model_not_found")


def test_a_reply_has_its_blocks_as_fields_and_can_be_sent_back(api: Open) -> None:
    server = api()
    reply = server.create()
    message = reply.choices[0].message
    assert (message.content, message.state, message.action) == (CHAIN.utterance, STATE, ACTION)
    assert (reply.choices[0].finish_reason, reply.usage.prompt_tokens) == ("stop", 6)
    for earlier in (message, message.model_dump(), {"role": "assistant", "content": render(CHAIN)}):
        server.create([*LOST, earlier, {"role": "user", "content": [{"type": "text", "text": "Thanks."}]}])
        assert server.engine.prompts("sage_7")[-1] == (
            {"role": "system", "content": "You listen."},
            LOST[0],
            {"role": "assistant", "content": render(CHAIN)},
            {"role": "user", "content": "Thanks."},
        )


@pytest.mark.parametrize("role", ["system", "developer"])
def test_a_system_message_replaces_the_policy_s(api: Open, role: str) -> None:
    server = api()
    for text, expected in (("You ask.", [{"role": "system", "content": "You ask."}]), ("", [])):
        server.create([{"role": role, "content": text}, *LOST])
        assert list(server.engine.prompts("sage_7")[-1]) == [*expected, *LOST]


@pytest.mark.parametrize(
    ("text", "blocks", "content", "fields"),
    [
        (render(CHAIN), True, CHAIN.utterance, {"state": STATE, "action": ACTION}),
        ("{u_motivation: sharing} Oh [no].", True, "{u_motivation: sharing} Oh [no].", {"state": None, "action": None}),
        (render(CHAIN)[:30], True, render(CHAIN)[:30], {"state": None, "action": None}),  # cut
        (render(CHAIN), False, render(CHAIN), {}),
        ("", True, "", {"state": None, "action": None}),
    ],
    ids=["blocks", "broken", "cut", "plain", "empty"],
)
def test_a_streamed_message_is_the_complete_one(
    api: Open, text: str, blocks: bool, content: str, fields: dict[str, Any]
) -> None:
    server = api(lambda *_: Sample(text, 9, FinishReason.LENGTH), blocks)
    whole = server.create().choices[0]
    assert (whole.message.content, whole.message.model_extra, whole.finish_reason) == (content, fields, "length")
    assert joined(server.create(stream=True)) == (content, fields, ["length"])


def test_the_usage_of_a_stream_is_its_last_event(api: Open) -> None:
    server = api()
    assert all(chunk.usage is None for chunk in server.create(stream=True))
    *_, last = server.create(stream=True, stream_options={"include_usage": True})
    words = len(render(CHAIN).split())
    assert last.choices == [] and (last.usage.completion_tokens, last.usage.total_tokens) == (words, words + 6)


def test_content_ends_before_a_stop_text(api: Open) -> None:
    server = api()
    for stop, content in (("more", "Tell me "), ([", f", "d."], "Tell me more"), ("u_motivation", CHAIN.utterance)):
        for n in (1, 2):
            choices = server.create(stop=stop, n=n).choices
            assert [choice.message.content for choice in choices] == [content] * n
            for index in range(n):
                assert joined(server.create(stop=stop, n=n, stream=True), index)[0] == content


def test_a_seed_decides_the_reply(api: Open) -> None:
    server = api(lambda _, prompt, j: f"{prompt.item} {j}", blocks=False)

    def texts(**fields: Any) -> list[str]:
        return [choice.message.content for choice in server.create(**fields).choices]

    assert texts(seed=1) == texts(seed=1) == [joined(server.create(seed=1, stream=True))[0]]
    assert texts(seed=1) != texts(seed=2)
    assert texts() != texts()
    assert texts(seed=1, n=3)[0] == texts(seed=1)[0] and len(set(texts(seed=1, n=3))) == 3


def test_fields_of_sampling_and_steering_reach_the_engine(api: Open) -> None:
    server = api()
    seen: list[tuple[SamplingConfig, Steering]] = []
    sample = server.engine.sample

    def record(policy, prompts, sampling, number=1, steering=None, on_text=None):
        seen.extend([(sampling, steering)] if prompts else [])
        return sample(policy, prompts, sampling, number, steering, on_text)

    server.engine.sample = record
    steering = {"boosts": {"a_motivation": {"humor": 4.0}}, "fixed": {"a_topic": ["home"], "u_emotion": None}}
    further = {"top_k": 5, "repetition_penalty": 1.1, "steering": steering}
    server.create(temperature=0.5, max_tokens=7, extra_body=further)
    values = SamplingConfig.from_base(temperature=0.5, top_k=5, repetition_penalty=1.1, max_new_tokens=7)
    assert seen.pop() == (values, Steering.model_validate(steering))
    server.create(temperature=0, max_completion_tokens=8)
    assert (seen[-1][0].temperature, seen[-1][0].top_k, seen[-1][0].max_new_tokens) == (1.0, 1, 8)
    assert not seen[-1][1]
    server.engine.window = 40
    server.create()  # no limit: what is left
    assert seen[-1][0].max_new_tokens == 34
    server.create(top_p=1, presence_penalty=0, tools=[], user="anna", logprobs=False, response_format={"type": "text"})


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"model": "gpt-4o"}, "model", "model_not_found"),
        ({"messages": []}, "messages", "invalid_value"),
        ({"messages": [*LOST, *LOST]}, "messages", None),
        ({"messages": [{"role": "assistant", "content": "Hi."}, *LOST]}, "messages", None),
        ({"messages": [*LOST, {"role": "system", "content": "Hm."}]}, "messages", None),
        ({"messages": [{"role": "user", "content": " "}]}, "messages", None),
        ({"messages": [{"role": "tool", "content": "x", "tool_call_id": "1"}]}, "messages", "invalid_value"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages", "invalid_value"),
        ({"temperature": 2.5}, "temperature", "invalid_value"),
        ({"temperature": "hot"}, "temperature", "invalid_value"),
        ({"max_tokens": 0}, "max_tokens", "invalid_value"),
        ({"max_tokens": 7, "max_completion_tokens": 7}, "max_tokens", None),
        ({"max_tokens": 1_000_000}, "messages", "context_length_exceeded"),
        ({"n": 99}, "n", "invalid_value"),
        ({"stop": [""]}, "stop", "invalid_value"),
        ({"stop": list("abcde")}, "stop", None),
        ({"top_p": 0.5}, "top_p", "unsupported_parameter"),
        ({"logprobs": True}, "logprobs", "unsupported_parameter"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools", "unsupported_parameter"),
        ({"stream_options": {"include_usage": True}}, "stream_options", None),
        ({"extra_body": {"colour": 1}}, "colour", "unknown_parameter"),
        ({"extra_body": {"steering": {"fixed": {"a_emotion": "x[y"}}}}, "steering", "invalid_value"),
        ({"extra_body": {"steering": {"boosts": {"a_mood": {"x": 1}}}}}, "steering", "invalid_value"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_cannot_be_honoured_is_refused_in_openai_s_form(
    shared: Api, fields: dict[str, Any], param: str, code: str | None, stream: bool
) -> None:
    if stream and "stream_options" in fields:
        return
    assert error_of(lambda: shared.create(stream=stream, **fields))[1:3] == (param, code)
    assert not shared.engine.requests


@pytest.fixture(scope="module")
def shared() -> Iterator[Api]:
    server = Api(ScriptedEngine(lambda *_: "never"), blocks=True)
    yield server
    server.close()


def test_steering_that_the_policy_cannot_follow_is_refused(api: Open) -> None:
    server = api(blocks=False, steering_error="it writes no blocks")
    refused = error_of(lambda: server.create(extra_body={"steering": {"fixed": {"a_emotion": "calm"}}}))
    assert refused == (400, "steering", "invalid_value", "steering: it writes no blocks")


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"{bad", 400),
        (b"\xff\xfe", 400),
        (b"[]", 400),
        (b"[" * 100_000, 400),
        (b'{"model": "sage_7", "messages": [{"role": "user", "content": "\\ud800"}]}', 400),
        (json.dumps({"model": "sage_7", "messages": [{"role": "user", "content": "a" * 1_000_000}]}).encode(), 413),
        (b"x" * (MAX_BODY + 1), 413),
    ],
    ids=["cut", "bytes", "list", "deep", "surrogate", "megabyte", "limit"],
)
def test_a_body_that_is_no_request_is_refused(shared: Api, body: bytes, status: int) -> None:
    found, response = shared.post(body)
    assert found == status and json.loads(response)["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "127.0.0.1.evil.example"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
    ],
)
def test_other_sites_have_no_access(shared: Api, headers: dict[str, str]) -> None:
    body = json.dumps({"model": "sage_7", "messages": LOST}).encode()
    assert shared.post(body, **headers)[0] in (400, 403)
    assert not shared.engine.requests


class SlowReply:
    """An engine's `sample` that writes words until it is stopped; counts them."""

    def __init__(self, engine: ScriptedEngine) -> None:
        self._sample = engine.sample
        self.words, self.running = 0, 0

    def __call__(self, policy, prompts, sampling, number=1, steering=None, on_text=None) -> Any:
        if not prompts or prompts[0].messages[-1]["content"] != "Go on.":
            return self._sample(policy, prompts, sampling, number, steering, on_text)
        self.running += 1
        try:
            while True:
                on_text("word ")
                self.words += 1
                time.sleep(0.005)
        finally:
            self.running -= 1


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_hangs_up_frees_the_engine(api: Open, stream: bool) -> None:
    server = api(blocks=False)
    server.engine.sample = slow = SlowReply(server.engine)
    body = json.dumps({"model": "sage_7", "messages": [{"role": "user", "content": "Go on."}], "stream": stream})
    clients = []
    for _ in range(3):  # one is served, two wait
        client = socket.create_connection(("127.0.0.1", server.port))
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n\r\n"
        client.sendall((head + body).encode())
        clients.append(client)
    while not slow.words:
        time.sleep(0.01)
    for client in clients:
        client.close()
    assert server.create().choices[0].message.content == render(CHAIN)
    assert slow.running == 0


def test_several_clients_at_once_get_their_own_replies(api: Open) -> None:
    server = api(lambda _, prompt, __: prompt.messages[-1]["content"].upper(), blocks=False)

    def reply(number: int) -> str:
        message = [{"role": "user", "content": f"number {number}"}]
        if number % 2:
            return joined(server.create(message, stream=True))[0]
        return server.create(message).choices[0].message.content

    with ThreadPoolExecutor(8) as clients:
        assert list(clients.map(reply, range(16))) == [f"NUMBER {number}" for number in range(16)]


def test_too_many_requests_are_refused_until_there_is_room(api: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sage_dialog.studio.engine_thread.MAX_WAITING", 1)
    server = api(blocks=False)
    server.engine.sample = SlowReply(server.engine)
    stream = server.create([{"role": "user", "content": "Go on."}], stream=True)
    next(iter(stream))
    assert error_of(server.create)[::2] == (503, "server_busy")
    stream.close()
    patient = server.client.with_options(max_retries=5).chat.completions
    assert patient.create(model="sage_7", messages=LOST).choices[0].message.content == render(CHAIN)


def test_a_failing_engine_is_an_error_and_the_next_request_is_served(api: Open) -> None:
    def reply(_, prompt: Prompt, __: int) -> str:
        if prompt.messages[-1]["content"] == "Fail.":
            raise RuntimeError("logits are not finite")
        return "Hm."

    server = api(reply, blocks=False)
    fail = [{"role": "user", "content": "Fail."}]
    assert error_of(lambda: server.create(fail))[::2] == (500, "engine_failed")
    with pytest.raises(Exception, match="logits are not finite"):
        list(server.create(fail, stream=True))
    assert server.create().choices[0].message.content == "Hm."


def test_the_server_stops_in_the_middle_of_a_reply(api: Open) -> None:
    server = api(blocks=False)
    server.engine.sample = slow = SlowReply(server.engine)
    stream = server.create([{"role": "user", "content": "Go on."}], stream=True)
    next(iter(stream))
    server.close()
    assert slow.running == 0
