"""Small policies, servers of them, and engines over these servers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import tiny_policies
from block_writers import END, TEMPLATE, TOKENIZERS, shared_block_writer

from sage_dialog.config import Caps, Price
from sage_dialog.core.policies import Policy
from sage_dialog.llm import event_loop as loop
from sage_dialog.llm.budget import Budget
from sage_dialog.llm.endpoint import Endpoint
from sage_dialog.llm.live_client import LiveClient
from sage_dialog.llm.response_cache import ResponseCache

base, adapters = tiny_policies.base, tiny_policies.adapters


@pytest.fixture(scope="session")
def block_policy(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Policy]:
    """A function from a kind of tokenizer to a policy that writes blocks; each kind is trained once."""
    return lambda kind: shared_block_writer(kind, tmp_path_factory)


@pytest.fixture(scope="module", params=TOKENIZERS)
def policy(request: pytest.FixtureRequest, block_policy: Callable[[str], Policy]) -> Policy:
    """A policy that writes blocks, with each kind of tokenizer."""
    return block_policy(request.param)


@pytest.fixture(scope="module")
def engine(policy: Policy) -> Any:
    """An engine with `policy`."""
    from sage_dialog.inference.transformers.engine import TransformersEngine

    return TransformersEngine(policy, [], seed=0, threads=1)


@pytest.fixture(scope="module")
def vocabulary(engine: Any) -> Any:
    """The vocabulary of `engine`."""
    return engine._policies._vocabulary


@pytest.fixture(scope="session")
def writer(block_policy: Callable[[str], Policy]) -> Policy:
    """A policy that writes blocks, with SentencePiece tokens."""
    return block_policy("pieces")


@pytest.fixture(scope="session")
def byte_vocabulary() -> Any:
    """A vocabulary in which each byte is a token."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    from sage_dialog.inference.vocabulary import Vocabulary

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({"<end>": END} | {letter: token for token, letter in enumerate(alphabet, 1)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return Vocabulary(PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>", chat_template=TEMPLATE))


@pytest.fixture
def serve(base: Policy) -> Iterator[Callable[..., Any]]:
    """A function that starts a server of the base or another policy, with arguments of `CompletionsServer`."""
    from completions_server import CompletionsServer

    from sage_dialog.inference.vllm.served_policies import served_name

    with ExitStack() as servers:
        yield lambda policy=base, name=None, **arguments: servers.enter_context(
            CompletionsServer(policy, name or served_name(policy), **arguments)
        )


@pytest.fixture
def open_engine(base: Policy, tmp_path: Path, short_waits: None) -> Iterator[Callable[..., Any]]:
    """A function that opens an engine over servers, with one response cache and short waits between attempts.

    Arguments: the policies, caps, prices, the endpoint's fields and the engine's arguments.
    """
    from sage_dialog.inference.vllm.completions_engine import CompletionsEngine

    with ExitStack() as stack:
        default_cache = ResponseCache(tmp_path / "responses.sqlite")
        stack.callback(default_cache.close)

        def open_over_http(
            *urls: str,
            response_cache: ResponseCache = default_cache,
            base: Policy = base,
            policies: tuple[Policy, ...] = (),
            seed: int = 0,
            caps: Caps | None = None,
            prices: Mapping[str, Price] | None = None,
            endpoint: dict[str, Any] | None = None,
            **engine_arguments: Any,
        ) -> CompletionsEngine:
            fields = {"base_urls": urls, "model": "policies", "concurrency": 8, "timeout_s": 20, **(endpoint or {})}
            client = LiveClient(
                Endpoint.model_validate(fields), response_cache, Budget(caps or Caps(), {}, prices or {})
            )
            stack.callback(lambda: loop.run(client.close()))
            return CompletionsEngine(base, policies, seed, client=client, **engine_arguments)

        yield open_over_http
