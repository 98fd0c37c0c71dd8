"""Policies on servers: adapters loaded at run time, names, and errors for missing policies."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from sage_dialog.core.policies import Policy
from sage_dialog.llm.requests import RequestRejectedError

pytest.importorskip("torch")

from completions_server import CompletionsServer
from test_engines import FREE, prompts_of

from sage_dialog.inference.vllm.completions_engine import CompletionsEngine, ServerFeatures
from sage_dialog.inference.vllm.served_policies import served_name

Serve = Callable[..., CompletionsServer]
Open = Callable[..., CompletionsEngine]


def test_without_a_server_the_error_has_the_command_that_starts_one(
    open_engine: Open, base: Policy, adapters: tuple[Policy, ...]
) -> None:
    engine = open_engine("http://127.0.0.1:9/v1", policies=adapters)
    with pytest.raises(RequestRejectedError, match=r"127\.0\.0\.1:9/v1 does not list its models") as refusal:
        engine.sample("sage_0", prompts_of(5), FREE)
    command = str(refusal.value).splitlines()[-1]
    assert command.split() == [
        *("VLLM_ALLOW_RUNTIME_LORA_UPDATING=True", "vllm", "serve", str(base.path)),
        *("--served-model-name", served_name(base), "--max-model-len", "96"),
        *("--dtype", "float32", "--generation-config", "vllm"),
        *("--host", "127.0.0.1", "--port", "9", "--enable-lora", "--max-loras", "2", "--max-lora-rank", "8"),
    ]


def test_the_command_has_what_steering_and_seeds_need(open_engine: Open, base: Policy) -> None:
    def message(**supports: bool) -> str:
        engine = open_engine("http://127.0.0.1:9/v1", base=base, supports=supports)
        return engine._served._command(engine._client.servers[0])

    on_cpu = "On a server without a GPU add --no-enable-chunked-prefill --max-num-batched-tokens 2048"
    assert on_cpu in message() and on_cpu not in message(seed=False)
    module, name = "sage_dialog.inference.vllm.logits_processor", "SteeringProcessor"
    assert f"--logits-processors {module}:{name}" in message(steering=True)
    assert re.search(r"PYTHONPATH=\S*src ", message(steering=True))
    assert "logits" not in message() and "PYTHONPATH" not in message()
    assert f"class {name}" in Path(importlib.util.find_spec(module).origin).read_text()


def test_the_command_has_the_number_format_of_the_base(open_engine: Open, base: Policy, tmp_path: Path) -> None:
    shutil.copytree(base.path, tmp_path, dirs_exist_ok=True)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"dtype": "bfloat16"}))
    engine = open_engine("http://127.0.0.1:9/v1", base=Policy(tmp_path, base.card))
    assert "--dtype bfloat16 " in engine._served._command(engine._client.servers[0])


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("http://localhost:8001/v1", "--host 127.0.0.1 --port 8001"),
        ("http://[::1]:8001/v1", "--host 127.0.0.1 --port 8001"),
        ("http://me:secret@gpu.example/v1", "--host gpu.example --port 80"),
        ("https://gpu.example/v1", "--host gpu.example --port 443"),
    ],
)
def test_the_command_has_the_requested_address(open_engine: Open, base: Policy, url: str, address: str) -> None:
    moved = Policy(base.path.with_name("my policies"), base.card)
    shutil.copytree(base.path, moved.path, dirs_exist_ok=True)
    engine = open_engine(url, base=moved, window=64)
    message = engine._served._command(engine._client.servers[0])
    arguments = shlex.split(message.splitlines()[-1])
    assert arguments[2] == str(moved.path)
    assert address in message and "--max-model-len 64" in message and "secret" not in message
    assert "lora" not in message


@pytest.mark.parametrize("setup_faults", [["429", "500", "reset"], ["", "500", "reset", "503"]])
def test_temporary_faults_before_the_first_request_are_retried(
    serve: Serve, open_engine: Open, adapters: tuple[Policy, Policy], setup_faults: list[str]
) -> None:
    server = serve(setup_faults=setup_faults)
    open_engine(server.url, policies=adapters).sample("sage_1", prompts_of(5), FREE)
    assert [name for name, _ in server.loaded] == [served_name(adapters[0])]
    assert server.setup_requests == (len(setup_faults) + 1 if setup_faults[0] == "" else len(setup_faults) + 2)


@pytest.mark.parametrize("setup_faults", [["401"], ["", "401"], ["500"] * 3, ["", "500", "500", "500"]])
def test_other_failures_do_not_name_the_command_that_starts_a_server(
    serve: Serve, open_engine: Open, adapters: tuple[Policy, Policy], setup_faults: list[str]
) -> None:
    engine = open_engine(serve(setup_faults=setup_faults).url, policies=adapters, endpoint={"attempts": 3})
    with pytest.raises(
        RequestRejectedError, match="Check the key" if "401" in setup_faults else "the server failed"
    ) as refusal:
        engine.sample("sage_1", prompts_of(5), FREE)
    assert "vllm serve" not in str(refusal.value)


def test_adapters_are_loaded_once_on_every_server_under_a_name_of_their_revision(
    serve: Serve, open_engine: Open, adapters: tuple[Policy, Policy]
) -> None:
    servers = [serve(), serve()]
    for _ in range(2):
        engine = open_engine(*(server.url for server in servers), policies=adapters)
        engine.sample("sage_2", prompts_of(5, 6, 7, 8), FREE, samples=2)
    assert [server.loaded for server in servers] == [[(served_name(adapters[1]), str(adapters[1].path))]] * 2
    assert sum(len(server.calls) for server in servers) == 4
    assert {call["model"] for server in servers for call in server.calls} == {served_name(adapters[1])}


def test_a_new_version_of_a_policy_has_another_name_on_the_server(
    serve: Serve, open_engine: Open, adapters: tuple[Policy, Policy]
) -> None:
    server = serve()
    newer = Policy.open(adapters[1].path)
    newer = Policy(newer.path, type(newer.card)(**{**vars(newer.card), "name": "sage_1"}))
    first, second = (
        open_engine(server.url, policies=(policy,)).sample("sage_1", prompts_of(5), FREE, samples=3)
        for policy in (adapters[0], newer)
    )
    assert first != second
    assert len({name for name, _ in server.loaded}) == 2


def test_configured_names_load_nothing_and_keep_revisions_separate(
    serve: Serve, open_engine: Open, adapters: tuple[Policy, Policy]
) -> None:
    server = serve(name="mine")
    names = {"sage_0": "mine", "sage_1": "mine"}
    for policy in ("sage_0", "sage_1", "sage_1"):
        open_engine(server.url, policies=adapters, names=names).sample(policy, prompts_of(5), FREE)
    assert [call["model"] for call in server.calls] == ["mine", "mine"]
    with pytest.raises(RequestRejectedError, match=r"model theirs does not exist.*Check base_urls and model\.$"):
        open_engine(server.url, policies=adapters, names={**names, "sage_2": "theirs"}).sample(
            "sage_2", prompts_of(5), FREE
        )


def test_an_adapter_that_cannot_be_loaded_is_an_error_with_the_command(
    serve: Serve, open_engine: Open, adapters: tuple[Policy, Policy]
) -> None:
    with pytest.raises(
        RequestRejectedError, match=r"(?s)did not load the adapter sage_1-.*RUNTIME_LORA.*--enable-lora"
    ):
        open_engine(serve(loads_adapters=False).url, policies=adapters).sample("sage_1", prompts_of(5), FREE)


def test_every_server_feature_is_documented() -> None:
    documented = (Path(__file__).parents[3] / "docs/generation.md").read_text()
    assert [name for name in ServerFeatures.model_fields if f"`{name}`" not in documented] == []
