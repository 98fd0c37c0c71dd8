"""The engine's catalog entry over servers: journal, budget and key come by the run, as the roles' do."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from kedro.framework.session import KedroSession
from kedro.io import DataCatalog, DatasetError, MemoryDataset
from kedro.pipeline import node, pipeline
from kedro.runner import ParallelRunner

from sage_dialog.datasets.engines import EngineDataset
from sage_dialog.hooks import InputsGate, RunRefused, RunStopped, SpendingLimit
from sage_dialog.llm.requests import StopsRunError

KEY = "sk-not-to-be-seen-0123456789"
ENGINE = "sage_dialog.generation.completions_engine.CompletionsEngine"
OpenSession = Callable[..., KedroSession]


def entry(**given: Any) -> EngineDataset:
    endpoint = {"base_urls": ["http://127.0.0.1:9/v1"]} | given.pop("endpoint", {})
    return EngineDataset(engine=ENGINE, endpoint=endpoint, **given)


def reading(engine: EngineDataset, llm: dict[str, Any]) -> tuple[DataCatalog, Any]:
    catalog = DataCatalog({"engine": engine, "params:llm": MemoryDataset(llm)})
    return catalog, pipeline([node(lambda engine: None, "engine", None, name="play")])


@pytest.fixture
def policies(tmp_path: Path) -> Iterator[Any]:
    torch = pytest.importorskip("torch")
    from block_writers import byte_level
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    from sage_dialog.policies import Policy, PolicyCard, weights_revision

    path = tmp_path / "sage_0"
    template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=byte_level(True), eos_token="<end>", pad_token="<end>", chat_template=template
    )
    tokenizer.save_pretrained(path)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=len(tokenizer), bos_token_id=None, eos_token_id=0, pad_token_id=0, **sizes)
    LlamaForCausalLM(config).save_pretrained(path)
    yield Policy.write_card(path, PolicyCard("sage_0", "base", False, "sage_0", weights_revision(path)))


def test_a_run_gives_it_journal_budget_and_key(policies: Any, tmp_path: Path) -> None:
    from completions_server import CompletionsServer

    from sage_dialog.generation.engine import Prompt
    from sage_dialog.generation.serving import served_name
    from sage_dialog.parameters import SamplingDials

    prompts = [Prompt(({"role": "user", "content": f"x{number}"},), (number,)) for number in range(5)]
    sampling = SamplingDials(max_new_tokens=4)
    with CompletionsServer(policies, served_name(policies)) as server:
        engine = entry(endpoint={"base_urls": [server.url]}, credentials={"api_key": KEY})
        llm = {"journal": str(tmp_path / "j.sqlite"), "role_caps": {"policy": {"calls": 3}}}
        catalog, flow = reading(engine, llm)
        SpendingLimit().before_pipeline_run(run_params={}, pipeline=flow, catalog=catalog)
        opened = engine.load()(policies, [], 0, 1)
        with pytest.raises(StopsRunError, match=r"llm\.role_caps\.policy\.calls = 3 is reached: the policy") as stopped:
            opened.sample("sage_0", prompts, sampling)
        with pytest.raises(RunStopped, match=r"^play stopped: llm\.role_caps"):
            SpendingLimit().on_node_error(stopped.value, flow.nodes[0])
        assert {headers["Authorization"] for headers in server.headers} == {f"Bearer {KEY}"}
        assert len(server.calls) == 3
        SpendingLimit().before_pipeline_run(run_params={}, pipeline=flow, catalog=catalog)  # another run
        assert len(engine.load()(policies, [], 0, 1).sample("sage_0", prompts, sampling)) == 5
        assert len(server.calls) == 5
    assert (tmp_path / "j.sqlite").exists()
    assert KEY not in repr(engine) + str(engine._describe())
    assert not any(KEY.encode() in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"credentials": {"api_key": None}}, "it has no key; set the environment variable"),
        ({"endpoint": {"model": "sage_1"}}, r"their names on the servers go into args\.names"),
        ({"endpoint": {"base_urls": []}}, "base_urls: Tuple should have at least 1 item"),
    ],
)
def test_what_cannot_be_asked_is_told_before_a_run(given: dict[str, Any], said: str) -> None:
    catalog, flow = reading(entry(**given), {})
    with pytest.raises(RunRefused, match=rf"engine: no engine can be made .*{said}.*catalog_generation\.yml"):
        InputsGate().before_pipeline_run(run_params={"only_missing_outputs": False}, pipeline=flow, catalog=catalog)


def test_a_wrong_argument_is_told_by_its_name(policies: Any, tmp_path: Path) -> None:
    engine = entry(args={"takes": {"topk": None}})
    catalog, flow = reading(engine, {"journal": str(tmp_path / "j.sqlite")})
    SpendingLimit().before_pipeline_run(run_params={}, pipeline=flow, catalog=catalog)
    with pytest.raises(DatasetError, match=r"no engine can be made .*topk: Extra inputs are not permitted"):
        engine.load()(policies, [], 0, 1)


def test_servers_are_asked_from_one_process(tmp_path: Path) -> None:
    catalog, flow = reading(entry(), {"journal": str(tmp_path / "j.sqlite")})
    with pytest.raises(RunRefused, match="ThreadRunner"):
        SpendingLimit().before_pipeline_run(
            run_params={"runner": ParallelRunner.__name__}, pipeline=flow, catalog=catalog
        )


def test_the_environment_vllm_has_policies_on_a_server(
    open_session: OpenSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_POLICY_URL", "http://127.0.0.1:7/v1")
    with open_session("vllm") as session:
        engine = session.load_context().catalog.get("engine")
    assert isinstance(engine, EngineDataset)
    assert engine.asks and engine.missing() is None
    assert engine._endpoint(model="any").base_urls == ("http://127.0.0.1:7/v1",)
