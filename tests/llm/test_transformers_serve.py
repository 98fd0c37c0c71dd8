"""Against a server that is not ours: `transformers serve` with a tiny random model."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest

from sage_dialog.config import Caps, SamplingConfig
from sage_dialog.core.policies import Policy, PolicyCard, weights_revision
from sage_dialog.llm.budget import Budget
from sage_dialog.llm.endpoint import Endpoint
from sage_dialog.llm.live_client import LiveClient
from sage_dialog.llm.requests import FailureReason, RequestFailedError, RequestRejectedError
from sage_dialog.llm.response_cache import ResponseCache

START_S = 120
WORDS = ["<end>", "system", "user", "assistant", *(f"w{number}" for number in range(40))]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of two layers that knows forty words; where it is sampled, one word in 44 is its last."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    path = tmp_path_factory.mktemp("model")
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>", pad_token="<end>")
    fast.chat_template = (
        "{% for message in messages %}{{ message['role'] }} {{ message['content'] }} {% endfor %}"
        "{% if add_generation_prompt %}assistant {% endif %}"
    )
    fast.save_pretrained(path)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(WORDS), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=128, bos_token_id=None, eos_token_id=0, pad_token_id=0,
    )  # fmt: skip
    llama = LlamaForCausalLM(config)
    llama.generation_config.update(do_sample=True, top_k=0)
    llama.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def url(model: Path) -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [Path(sys.executable).with_name("transformers"), "serve", str(model), "--host", "127.0.0.1"]
    command += ["--port", str(port), "--device", "cpu"]
    alone = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    server = subprocess.Popen(command, env=os.environ | alone, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        until = time.monotonic() + START_S
        while True:
            try:
                urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
                break
            except (URLError, OSError):
                if server.poll() is not None or time.monotonic() > until:
                    server.kill()
                    pytest.fail(f"transformers serve did not start:\n{server.communicate()[0].decode()[-3000:]}")
                time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.kill()
        server.wait()


@pytest.mark.slow
def test_a_repeated_request_is_answered_by_the_cache(tmp_path: Path, url: str, model: Path) -> None:
    response_cache = ResponseCache(tmp_path / "responses.sqlite")
    sampling = {"temperature": 1.5, "max_tokens": 100}
    endpoint = Endpoint(base_urls=(url,), model=str(model), concurrency=4, sampling=sampling, max_invalid_responses=5)
    client = LiveClient(endpoint, response_cache, Budget(Caps(calls=60), {}, {}))

    async def text_of(number: int) -> str | FailureReason:
        request = client.chat_request("judge", [{"role": "user", "content": f"w1 w2 w{number}"}])
        try:
            return (await client.request(request)).text
        except RequestFailedError as error:  # truncated or empty five times
            return error.reason

    numbers = range(3, 9)
    first = dict(zip(numbers, client.map(text_of, numbers), strict=True))
    replies = {number: text for number, text in first.items() if not isinstance(text, FailureReason)}
    assert replies and set(" ".join(replies.values()).split()) <= set(WORDS)
    assert set(first.values()) - set(replies.values()) <= {FailureReason.TRUNCATED, FailureReason.EMPTY}
    (spent,) = response_cache.usage()
    assert (spent.responses, spent.hits) == (len(replies), 0)
    assert spent.completion_tokens >= sum(len(text.split()) for text in replies.values())

    assert dict(zip(replies, client.map(text_of, replies), strict=True)) == replies
    (second,) = response_cache.usage()
    assert (second.responses, second.hits, second.failures) == (spent.responses, len(replies), spent.failures)


def test_a_model_that_it_does_not_have_stops_the_run(tmp_path: Path, url: str) -> None:
    client = LiveClient(
        Endpoint(base_urls=(url,), model="nobody/nothing"),
        ResponseCache(tmp_path / "responses.sqlite"),
        Budget(Caps(), {}, {}),
    )
    with pytest.raises(RequestRejectedError, match="refused the request"):
        list(client.map(client.request, [client.chat_request("judge", [{"role": "user", "content": "w1"}])]))


def test_policies_are_sampled_from_it_as_text(tmp_path: Path, url: str, model: Path) -> None:
    """It takes one sample at a time, and neither top-k nor a repetition penalty."""
    from sage_dialog.inference.engine import FinishReason, Prompt
    from sage_dialog.inference.vllm.completions_engine import CompletionsEngine

    base = Policy.write_card(model, PolicyCard("sage_0", "base", False, "sage_0", weights_revision(model)))
    response_cache = ResponseCache(tmp_path / "responses.sqlite")
    client = LiveClient(
        Endpoint(base_urls=(url,), model="policies", concurrency=1), response_cache, Budget(Caps(), {}, {})
    )
    none = {"top_k": None, "repetition_penalty": None, "logprobs": False}
    takes = {"token_prompts": False, "token_ids": False, "n": False, **none}
    engine = CompletionsEngine(base, [], 0, client=client, names={"sage_0": str(model)}, supports=takes)
    prompts = [Prompt(({"role": "user", "content": f"w1 w2 w{number}"},), (number,)) for number in range(3)]
    sampling, pieces = SamplingConfig.from_base(temperature=1.5, max_new_tokens=30, top_k=100), []
    replies = engine.sample("sage_0", prompts, sampling, samples=3, on_text=pieces.append)
    samples = [sample for row in replies for sample in row]
    assert [len(row) for row in replies] == [3, 3, 3]
    assert len({sample.text for sample in samples}) == 9
    assert {word for sample in samples for word in sample.text.split()} <= {word for word in WORDS if word != "<end>"}
    assert {sample.finish_reason for sample in samples} == {FinishReason.STOP, FinishReason.LENGTH}
    assert max(sample.tokens for sample in samples) == 30
    assert "".join(pieces) == replies[0][0].text
    assert engine.sample("sage_0", prompts, sampling, samples=3) == replies
    assert response_cache.usage()[0].responses == 9
    response_cache.drop()
    assert engine.sample("sage_0", prompts, sampling, samples=3) == replies  # it keeps to its seed

    wants_more = CompletionsEngine(
        base, [], 0, client=client, names={"sage_0": str(model)}, supports={**takes, "n": True}
    )
    with pytest.raises(RequestRejectedError, match="1 of 3 samples"):
        wants_more.sample("sage_0", prompts, sampling, samples=3)
