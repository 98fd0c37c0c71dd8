"""The engine over HTTP: its requests, failures of servers, and errors for unsupported fields."""

from __future__ import annotations

import logging
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from sage_dialog.config import Caps, Price, SamplingConfig, Steering
from sage_dialog.core.policies import Policy
from sage_dialog.inference.engine import Prompt
from sage_dialog.llm.budget import CapReachedError
from sage_dialog.llm.completions import CompletionRequest, Continuation
from sage_dialog.llm.requests import RequestFailedError, RequestRejectedError
from sage_dialog.llm.response_cache import ResponseCache
from sage_dialog.sac import Chain, parse

pytest.importorskip("torch")

from completions_server import CompletionsServer
from sampling import PROMPTS, SAMPLING
from test_engines import FREE, prompts_of
from test_with_real_engine import run_search

from sage_dialog.inference.transformers.detokenizer import decode_tokens
from sage_dialog.inference.vllm.completions_engine import CompletionsEngine
from sage_dialog.inference.vllm.served_policies import served_name
from sage_dialog.inference.vllm.streaming import StreamedReply

KEY = "sk-proj-Zebra7Quagga9Okapi3Tapir5"
TESTS = Path(__file__).parent

Serve = Callable[..., CompletionsServer]
Open = Callable[..., CompletionsEngine]


def test_the_fields_of_a_request(serve: Serve, open_engine: Open) -> None:
    server = serve()
    engine = open_engine(server.url, endpoint={"sampling": {"top_p": 1.0, "seed": "never"}})
    engine.sample("sage_0", prompts_of(5), FREE, samples=3)
    (body,) = server.calls
    assert body.pop("seed") in range(2**31)
    assert body.pop("prompt")[:1] == [2]  # "user"
    assert body == {
        "model": server.name,
        "n": 3,
        "max_tokens": 24,
        "temperature": 1.1,
        "top_k": 20,
        "repetition_penalty": 1.1,
        "logprobs": 1,
        "return_token_ids": True,
        "stop_token_ids": [0],
        "top_p": 1.0,
    }


def test_unsupported_fields_are_left_out_with_one_warning_each(
    serve: Serve, open_engine: Open, caplog: pytest.LogCaptureFixture
) -> None:
    fields = ("top_k", "repetition_penalty", "logprobs", "n", "return_token_ids", "stop_token_ids", "seed")
    server = serve(rejected_fields=fields)
    supports = {
        **{"top_k": None, "repetition_penalty": None, "logprobs": False},
        **{"n": False, "token_ids": False, "seed": False},
    }
    engine = open_engine(server.url, supports=supports)
    for _ in range(2):
        (samples,) = engine.sample("sage_0", prompts_of(5), FREE, samples=4)
    assert len(samples) == 4 == len(server.calls)  # one entry of the response cache for each sample
    assert len({sample.text for sample in samples}) > 1
    assert {sample.log_probability for sample in samples} == {None}
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert [warning for warning in warnings if "sampling without" not in warning] == warnings[2:]
    (seedless,) = warnings[2:]
    assert "take no seed" in seedless and "gives other samples" in seedless


def test_another_name_of_a_field(serve: Serve, open_engine: Open) -> None:
    server = serve()
    open_engine(server.url, supports={"repetition_penalty": "repeat_penalty"}).sample("sage_0", prompts_of(5), FREE)
    assert server.calls[0]["repeat_penalty"] == 1.1 and "repetition_penalty" not in server.calls[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rejected_fields": ["top_k"]}, r"refused the request \(422\).*top_k.*`supports`"),
        ({"ignored_fields": ["n"]}, r"1 of 4 samples that `n` asked for.*`supports`"),
        ({"ignored_fields": ["return_token_ids"]}, "no token ids.*`supports`"),
        ({"ignored_fields": ["logprobs"]}, "no log-probabilities.*`supports`"),
        ({"max_model_len": 50}, "takes 50 tokens at once.*--max-model-len 96.*`window: 50`"),
        ({"name": "something-else"}, r"has no model sage_0-\w{12}; it has something-else"),
    ],
)
def test_an_unsupported_field_is_named(
    serve: Serve, open_engine: Open, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(RequestRejectedError, match=message):
        open_engine(serve(**arguments).url).sample("sage_0", prompts_of(5), FREE, samples=4)


def test_the_error_names_supports_only_where_it_helps(serve: Serve, open_engine: Open) -> None:
    with pytest.raises(RequestRejectedError, match=r"\(401\).*Check the key\.$"):
        open_engine(serve(faults=["401"]).url).sample("sage_0", prompts_of(5), FREE)


@pytest.mark.parametrize(
    ("choices", "n", "error", "message"),
    [
        ([], 1, RequestFailedError, "holds no choices"),
        (
            [{"text": "a", "finish_reason": "stop"}, {"text": "b"}],
            3,
            RequestFailedError,
            "ends before a choice of it does",
        ),
        (
            [{"text": "a", "finish_reason": "stop"}] * 2,
            1,
            RequestRejectedError,
            "gave 2 samples where one was asked for",
        ),
        (
            [{"text": "a", "finish_reason": "stop"}] * 2,
            3,
            RequestRejectedError,
            "gave 2 of 3 samples that `n` asked for",
        ),
    ],
)
def test_incomplete_responses_are_temporary_failures_and_too_few_samples_are_not(
    choices: list[dict[str, str]], n: int, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        CompletionRequest("policy", "sage_0", (1,), n=n).parse({"choices": choices}, 1, 1)


def test_the_fingerprint_has_the_versions_of_transformers_and_tokenizers(open_engine: Open) -> None:
    fingerprint_inputs = open_engine("http://127.0.0.1:9/v1").fingerprint_inputs
    assert (fingerprint_inputs["transformers"], fingerprint_inputs["tokenizers"]) == (
        version("transformers"),
        version("tokenizers"),
    )


@pytest.mark.parametrize("streamed", [None, []])
def test_temporary_faults_are_retried(serve: Serve, open_engine: Open, streamed: list[str] | None) -> None:
    expected = open_engine(serve().url).sample("sage_0", prompts_of(5, 9), FREE, samples=3)
    response_cache = open_engine("http://127.0.0.1:9/v1")._client.response_cache
    response_cache.drop()
    last = "half" if streamed is None else "early"
    server = serve(faults=["429", "half", "500", "reset", "no json", last])
    replies = open_engine(server.url).sample(
        "sage_0", prompts_of(5, 9), FREE, samples=3, on_text=None if streamed is None else streamed.append
    )
    assert replies == expected
    assert len(server.calls) == 8
    assert streamed is None or "".join(streamed) == replies[0][0].text


def test_a_server_that_stays_broken_ends_it(serve: Serve, open_engine: Open) -> None:
    engine = open_engine(serve(faults=["500"] * 3).url, endpoint={"attempts": 3})
    with pytest.raises(RequestFailedError, match="not now"):
        engine.sample("sage_0", prompts_of(5), FREE)


def test_a_retry_with_another_reply_than_the_streamed_one_is_an_error(serve: Serve, open_engine: Open) -> None:
    server = serve(faults=["half"], ignored_fields=["seed"])
    engine = open_engine(server.url, endpoint={"attempts": 2})
    with pytest.raises(RequestFailedError, match="another reply than the streamed one"):
        engine.sample("sage_0", prompts_of(9), FREE, on_text=lambda piece: None)


def test_known_responses_need_no_server(serve: Serve, open_engine: Open, adapters: tuple[Policy, Policy]) -> None:
    server = serve()
    first = open_engine(server.url, policies=adapters).sample("sage_1", prompts_of(5, 9), FREE, samples=3)
    pieces: list[str] = []
    unreachable = open_engine("http://127.0.0.1:9/v1", policies=adapters)
    assert unreachable.sample("sage_1", prompts_of(5, 9), FREE, samples=3, on_text=pieces.append) == first
    assert "".join(pieces) == first[0][0].text
    assert len(server.calls) == 2


@pytest.mark.slow
def test_after_a_kill_only_missing_samples_are_requested(
    serve: Serve, open_engine: Open, base: Policy, tmp_path: Path
) -> None:
    server = serve(latency_s=0.05)
    path = tmp_path / "killed.sqlite"
    command = [sys.executable, str(TESTS.parent / "sampling.py"), server.url, str(base.path), str(path)]
    environment = {**os.environ, "PYTHONPATH": str(TESTS.parents[2] / "src")}
    killed = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
    deadline = time.monotonic() + 240
    while server.responses < 5 and time.monotonic() < deadline:
        time.sleep(0.005)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    time.sleep(0.3)  # the server may still receive requests
    calls_before = len(server.calls)
    assert 5 <= calls_before < 40
    response_cache = ResponseCache(path)
    replies = open_engine(server.url, response_cache=response_cache).sample("sage_0", PROMPTS, SAMPLING)
    response_cache.close()
    assert 40 <= len(server.calls) <= 40 + 4  # four calls in flight
    assert replies == open_engine(server.url).sample("sage_0", PROMPTS, SAMPLING)


def test_the_dialogue_game_is_played_over_http(
    serve: Serve, open_engine: Open, adapters: tuple[Policy, Policy], tmp_path: Path
) -> None:
    server = serve()
    expected = run_search(open_engine(server.url, policies=adapters), *adapters, tmp_path / "whole", situations=5)
    calls_before = len(server.calls)
    assert {name for name, _ in server.loaded} == set(map(served_name, adapters))
    unreachable = open_engine("http://127.0.0.1:9/v1", policies=adapters)
    assert run_search(unreachable, *adapters, tmp_path / "anew", situations=5, shard_size=1) == expected
    assert calls_before == len(server.calls)


def test_caps_hold(serve: Serve, open_engine: Open) -> None:
    server = serve()
    with pytest.raises(CapReachedError, match=r"llm\.caps\.calls = 3 is reached"):
        open_engine(server.url, caps=Caps(calls=3)).sample("sage_0", prompts_of(*range(4, 12)), FREE)
    assert len(server.calls) == 3
    with pytest.raises(CapReachedError, match=r"llm\.caps\.tokens"):  # 16 replies of 24 tokens
        open_engine(server.url, caps=Caps(tokens=380)).sample("sage_0", prompts_of(20), FREE, samples=16)
    assert len(server.calls) == 3


def test_a_cap_on_money_holds_by_the_price_of_a_policy(
    serve: Serve, open_engine: Open, adapters: tuple[Policy, Policy]
) -> None:
    server = serve()
    cap = Caps(money=0.01)
    with pytest.raises(ValueError, match=r"llm\.caps\.money caps the cost of sage_0, but llm\.prices has no price"):
        open_engine(server.url, caps=cap).sample("sage_0", prompts_of(5), FREE)
    assert server.calls == []
    price = Price(prompt=0.0, completion=100.0)  # 24 tokens: 0.0024 at most
    for name in ("sage_0", server.name):
        calls_before = len(server.calls)
        engine = open_engine(server.url, caps=cap, prices={name: price}, policies=adapters)
        with pytest.raises(CapReachedError, match=r"llm\.caps\.money = 0\.01 is reached"):
            for number in range(40):
                engine.sample("sage_0", [*prompts_of(5)], FREE.model_copy(update={"temperature": 1 + number / 100}))
        assert calls_before + 4 <= len(server.calls) < calls_before + 40
        assert 0.0076 < engine._client.budget.spent()["money"] <= 0.01
        with pytest.raises(ValueError, match="caps the cost of sage_1"):
            engine.sample("sage_1", prompts_of(5), FREE)


def test_the_key_is_sent_and_is_in_no_log_error_or_file(
    serve: Serve, open_engine: Open, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    server = serve(faults=["500"])
    engine = open_engine(server.url, endpoint={"api_key": KEY})
    engine.sample("sage_0", prompts_of(5), FREE)
    assert {headers["Authorization"] for headers in server.headers} == {f"Bearer {KEY}"}
    server.rejected_fields = ["top_k"]
    with pytest.raises(RequestRejectedError) as refusal:
        engine.sample("sage_0", prompts_of(6), FREE)
    outputs = [caplog.text, str(refusal.value), repr(refusal.value.__context__), repr(engine.fingerprint_inputs)]
    assert not any(KEY in text for text in outputs)
    assert not any(KEY.encode() in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


def test_text_prompts_leave_the_servers_own_bos_to_it(serve: Serve, open_engine: Open, tmp_path: Path) -> None:
    """The template writes a BOS, and the tokenizer puts one before every text."""
    from tokenizers.processors import TemplateProcessing
    from transformers import AutoTokenizer

    from sage_dialog.core.policies import PolicyCard, weights_revision

    plain = serve().base
    path = tmp_path / "with bos"
    path.mkdir()
    for file in plain.path.iterdir():
        (path / file.name).write_bytes(file.read_bytes())
    tokenizer = AutoTokenizer.from_pretrained(path)
    tokenizer.add_special_tokens({"bos_token": "w0"})
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="w0 $A", special_tokens=[("w0", 4)])
    tokenizer.chat_template = "{{ bos_token }} " + tokenizer.chat_template
    tokenizer.save_pretrained(path)
    base = Policy.write_card(path, PolicyCard("sage_0", "base", False, "sage_0", weights_revision(path)))
    server = serve(base)
    supports = {"token_prompts": False}
    as_text = open_engine(server.url, base=base, supports=supports).sample("sage_0", prompts_of(5), FREE, samples=4)
    as_ids = open_engine(server.url, base=base).sample("sage_0", prompts_of(5), FREE, samples=4)
    text, ids = (call["prompt"] for call in server.calls)
    assert ids[:2] == [4, 2] and text.startswith(" user")
    assert as_text == as_ids


def prompts_of_lengths(count: int) -> list[Prompt]:
    return [Prompt(({"role": "user", "content": "x" * (1 + number)},), ("test", number)) for number in range(count)]


def test_a_steered_policy_writes_the_fixed_values(serve: Serve, open_engine: Open, writer: Policy) -> None:
    server = serve(writer)
    engine = open_engine(server.url, base=writer)
    sampling = SamplingConfig.from_base(temperature=1.0, top_k=50, max_new_tokens=120)
    steering = Steering(boosts={"u_motivation": {"humor": 5.0}}, fixed={"a_emotion": "calm", "a_topic": ["dogs"]})
    pieces: list[str] = []
    replies = engine.sample("sage_1", prompts_of_lengths(2), sampling, 4, steering, pieces.append)
    chains = [parse(sample.text) for samples in replies for sample in samples if sample.finished]
    assert len(chains) > 3
    assert all(isinstance(chain, Chain) for chain in chains)
    assert {(chain.action.emotion, chain.action.topics) for chain in chains} == {("calm", ("dogs",))}
    assert [chain.state.motivation for chain in chains].count("humor") > len(chains) / 2
    assert "".join(pieces) == replies[0][0].text
    assert engine.sample("sage_1", prompts_of_lengths(2), sampling, 4, steering) == replies
    calls_before = len(server.calls)
    assert (
        open_engine(server.url, base=writer).sample("sage_1", prompts_of_lengths(2), sampling, 4, steering) == replies
    )
    assert len(server.calls) == calls_before
    assert not any("logprobs" in call for call in server.calls)  # steered replies need none
    plain = engine.sample("sage_1", prompts_of_lengths(2), sampling, 4, Steering())
    assert len(server.calls) == calls_before + 2  # as without steering
    assert plain != replies


def test_a_continuation_is_streamed_with_the_spaces_of_the_whole_reply(writer: Policy) -> None:
    """SentencePiece's first token of a text loses its space, and a later one does not."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(writer.path)
    tokens = tokenizer("x So it is. Why? {é}", add_special_tokens=False)["input_ids"]
    text = decode_tokens(tokenizer, tokens)
    for cut in range(len(tokens)):
        pieces: list[str] = []
        listener = StreamedReply(tokenizer, pieces.append, tokens[:cut])
        for end in range(cut, len(tokens) + 1):
            listener.update({"choices": [{"index": 0, "text": "?", "token_ids": tokens[cut:end]}]})
        listener.end(Continuation("?", tokens[cut:], "stop"))
        assert "".join(pieces) == text[len(decode_tokens(tokenizer, tokens[:cut])) :]


def test_a_server_that_steers_gets_the_steering_in_the_request(serve: Serve, open_engine: Open, writer: Policy) -> None:
    server = serve(writer)
    steering = Steering(fixed={"a_emotion": "calm"})
    engine = open_engine(server.url, base=writer, supports={"steering": True})
    engine.sample("sage_1", prompts_of(2), FREE, 3, steering)
    (call,) = server.calls
    assert call["n"] == 3
    assert Steering.model_validate_json(next(iter(call["vllm_xargs"].values()))) == steering


HELD = FREE.model_copy(update={"hold_form": True, "max_new_tokens": 120})


def test_a_held_form_is_one_request_with_structured_outputs(serve: Serve, open_engine: Open, writer: Policy) -> None:
    server = serve(writer)
    engine = open_engine(server.url, base=writer)
    cut = FREE.model_copy(update={"hold_form": True, "max_new_tokens": 3})  # this server ignores the field
    rows = engine.sample("sage_1", prompts_of(2), cut, 3)
    (call,) = server.calls
    assert call["n"] == 3
    assert list(call["structured_outputs"]) == ["regex"]
    assert "u_motivation: " in call["structured_outputs"]["regex"]
    assert {sample.log_probability for row in rows for sample in row} == {None}  # it would be after the mask


def test_a_policy_without_blocks_gets_no_structured_outputs(serve: Serve, open_engine: Open) -> None:
    server = serve()
    open_engine(server.url).sample("sage_0", prompts_of(5), FREE.model_copy(update={"hold_form": True}))
    (call,) = server.calls
    assert "structured_outputs" not in call


def test_a_server_that_ignores_structured_outputs_is_an_error(serve: Serve, open_engine: Open, writer: Policy) -> None:
    engine = open_engine(serve(writer).url, base=writer)
    noise = HELD.model_copy(update={"temperature": 3.0, "top_k": 1000})
    with pytest.raises(RequestRejectedError, match=r"ignore `structured_outputs`.*false in the engine's `supports`"):
        engine.sample("sage_1", prompts_of(2), noise, 16)


@pytest.mark.slow
def test_without_structured_outputs_the_form_is_held_field_by_field(
    serve: Serve, open_engine: Open, writer: Policy
) -> None:
    server = serve(writer)
    engine = open_engine(server.url, base=writer, supports={"structured_outputs": False})
    noise = HELD.model_copy(update={"temperature": 3.0, "top_k": 1000, "repetition_penalty": 1.0})
    rows = engine.sample("sage_1", prompts_of(2), noise, 2, Steering(boosts={"a_motivation": {"humor": 9.0}}))
    chains = [parse(sample.text) for row in rows for sample in row]
    assert {type(chain) for chain in chains} == {Chain}
    assert not any("structured_outputs" in call for call in server.calls)
    assert len(server.calls) > 4


def test_a_server_that_steers_holds_the_form(serve: Serve, open_engine: Open, writer: Policy) -> None:
    server = serve(writer)
    open_engine(server.url, base=writer, supports={"steering": True}).sample("sage_1", prompts_of(2), HELD, 3)
    (call,) = server.calls
    assert call["vllm_xargs"] == {
        **{
            "sage_steering": Steering().model_dump_json(exclude={"boost_scale"}),
            "sage_max_label_length": HELD.max_label_length,
        },
        "sage_max_topics": HELD.max_topics,
    }
    assert "structured_outputs" not in call


def test_servers_that_have_no_way_to_hold_the_form_are_an_error(
    serve: Serve, open_engine: Open, writer: Policy
) -> None:
    supports = {"token_ids": False, "structured_outputs": False}
    engine = open_engine(serve(writer).url, base=writer, supports=supports)
    with pytest.raises(ValueError, match=r"cannot be made to hold the form.*`structured_outputs`"):
        engine.sample("sage_1", prompts_of(2), HELD)


def test_servers_without_token_ids_do_not_steer(serve: Serve, open_engine: Open, writer: Policy) -> None:
    engine = open_engine(serve(writer).url, base=writer, supports={"token_ids": False})
    with pytest.raises(ValueError, match=r"cannot be steered.*token_ids"):
        engine.sample("sage_1", prompts_of(2), FREE, steering=Steering(fixed={"a_emotion": "calm"}))


def test_seeds_give_every_sample_its_own_draws(serve: Serve, open_engine: Open) -> None:
    """Sixteen samples of one request, and of sixteen requests, differ."""
    server = serve()
    for n in (True, False):
        engine = open_engine(server.url, supports={"n": n})
        (samples,) = engine.sample("sage_0", prompts_of(9), FREE, samples=16)
        assert len({sample.text for sample in samples}) > 12
        assert all(math.isfinite(sample.log_probability) for sample in samples)
