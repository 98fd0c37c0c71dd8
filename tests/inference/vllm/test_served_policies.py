"""Which policies servers have: adapters loaded at run time, names, and what is said where one is missing."""

from __future__ import annotations

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


def test_no_server_is_told_with_the_command_that_starts_one(
    open_engine: Open, base: Policy, adapters: tuple[Policy, ...]
) -> None:
    engine = open_engine("http://127.0.0.1:9/v1", policies=adapters)
    with pytest.raises(RequestRejectedError, match=r"127\.0\.0\.1:9/v1 does not list its models") as refusal:
        engine.sample("sage_0", prompts_of(5), FREE)
    command = str(refusal.value).splitlines()[-1]
    assert command.split() == [
        *("VLLM_ALLOW_RUNTIME_LORA_UPDATING=True", "vllm", "serve", str(base.path)),
        *("--served-model-name", served_name(base), "--max-model-len", "96", "--generation-config", "vllm"),
        *("--host", "127.0.0.1", "--port", "9", "--enable-lora", "--max-loras", "2", "--max-lora-rank", "8"),
    ]


@pytest.mark.parametrize(
    ("url", "where"),
    [
        ("http://localhost:8001/v1", "--host 127.0.0.1 --port 8001"),
        ("http://[::1]:8001/v1", "--host 127.0.0.1 --port 8001"),
        ("http://me:secret@gpu.example/v1", "--host gpu.example --port 80"),
        ("https://gpu.example/v1", "--host gpu.example --port 443"),
    ],
)
def test_the_command_is_for_the_address_that_is_asked(open_engine: Open, base: Policy, url: str, where: str) -> None:
    moved = Policy(base.path.with_name("my policies"), base.card)
    shutil.copytree(base.path, moved.path, dirs_exist_ok=True)
    engine = open_engine(url, base=moved, window=64)
    said = engine._served._command(engine._client.servers[0])
    arguments = shlex.split(said.splitlines()[-1])
    assert arguments[2] == str(moved.path)
    assert where in said and "--max-model-len 64" in said and "secret" not in said
    assert "lora" not in said


@pytest.mark.parametrize("looks", [["429", "500", "reset"], ["", "500", "reset", "503"]])
def test_what_passes_is_survived_before_the_first_request_too(
    serve: Serve, open_engine: Open, adapters: tuple[Policy, Policy], looks: list[str]
) -> None:
    server = serve(looks=looks)
    open_engine(server.url, policies=adapters).sample("sage_1", prompts_of(5), FREE)
    assert [name for name, _ in server.loaded] == [served_name(adapters[0])]
    assert server.looked == (len(looks) + 1 if looks[0] == "" else len(looks) + 2)


@pytest.mark.parametrize("looks", [["401"], ["", "401"], ["500"] * 3, ["", "500", "500", "500"]])
def test_no_server_is_started_for_what_another_server_would_not_mend(
    serve: Serve, open_engine: Open, adapters: tuple[Policy, Policy], looks: list[str]
) -> None:
    engine = open_engine(serve(looks=looks).url, policies=adapters, endpoint={"attempts": 3})
    with pytest.raises(
        RequestRejectedError, match="Check the key" if "401" in looks else "the server failed"
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


def test_a_new_version_of_a_policy_is_not_taken_for_the_old_one(
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


def test_names_of_ones_own_are_served_already_and_revisions_still_kept_apart(
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


def test_a_server_that_loads_no_adapters_is_told_with_the_command(
    serve: Serve, open_engine: Open, adapters: tuple[Policy, Policy]
) -> None:
    with pytest.raises(
        RequestRejectedError, match=r"(?s)did not load the adapter sage_1-.*RUNTIME_LORA.*--enable-lora"
    ):
        open_engine(serve(loads=False).url, policies=adapters).sample("sage_1", prompts_of(5), FREE)


def test_what_servers_may_take_is_documented() -> None:
    documented = (Path(__file__).parents[3] / "docs/generation.md").read_text()
    assert [name for name in ServerFeatures.model_fields if f"`{name}`" not in documented] == []
