"""The catalog entry of the engine, in process and on servers."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from kedro.framework.session import KedroSession
from kedro.io import DataCatalog, MemoryDataset
from kedro.pipeline import node, pipeline
from kedro.runner import ParallelRunner

from sage_dialog.config import Llm
from sage_dialog.datasets.engines import EngineDataset
from sage_dialog.hooks.budget import RunBudget
from sage_dialog.hooks.errors import RunRefused, RunStopped
from sage_dialog.hooks.inputs import InputValidation
from sage_dialog.llm.requests import StopRunError

KEY = "sk-not-to-be-seen-0123456789"
ENGINE = "sage_dialog.inference.vllm.completions_engine.CompletionsEngine"
IN_PROCESS = "sage_dialog.inference.transformers.engine.TransformersEngine"
OpenSession = Callable[..., KedroSession]


def entry(**given: Any) -> EngineDataset:
    endpoint = {"base_urls": ["http://127.0.0.1:9/v1"]} | given.pop("endpoint", {})
    return EngineDataset(engine=ENGINE, endpoint=endpoint, **given)


def reading(engine: EngineDataset, llm: dict[str, Any]) -> tuple[DataCatalog, Any]:
    parameters = Llm.from_base().model_dump() | llm
    catalog = DataCatalog({"engine": engine, "params:llm": MemoryDataset(parameters)})
    return catalog, pipeline([node(lambda engine: None, "engine", None, name="play")])


@pytest.fixture
def policies(tmp_path: Path) -> Iterator[Any]:
    torch = pytest.importorskip("torch")
    from block_writers import byte_level
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    from sage_dialog.core.policies import Policy, PolicyCard, weights_revision

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


def test_a_run_sets_response_cache_budget_and_key(policies: Any, tmp_path: Path) -> None:
    from completions_server import CompletionsServer

    from sage_dialog.config import SamplingConfig
    from sage_dialog.inference.engine import Prompt
    from sage_dialog.inference.vllm.served_policies import served_name

    prompts = [Prompt(({"role": "user", "content": f"x{number}"},), (number,)) for number in range(5)]
    sampling = SamplingConfig.from_base(max_new_tokens=4, top_k=100)
    with CompletionsServer(policies, served_name(policies)) as server:
        engine = entry(endpoint={"base_urls": [server.url]}, credentials={"api_key": KEY})
        llm = {"response_cache": str(tmp_path / "j.sqlite"), "role_caps": {"policy": {"calls": 3}}}
        catalog, flow = reading(engine, llm)
        RunBudget().before_pipeline_run(run_params={}, pipeline=flow, catalog=catalog)
        opened = engine.load()(policies, [], 0, 1)
        with pytest.raises(StopRunError, match=r"llm\.role_caps\.policy\.calls = 3 is reached: the policy") as stopped:
            opened.sample("sage_0", prompts, sampling)
        with pytest.raises(RunStopped, match=r"^play stopped: llm\.role_caps"):
            RunBudget().on_node_error(stopped.value, flow.nodes[0])
        assert {headers["Authorization"] for headers in server.headers} == {f"Bearer {KEY}"}
        assert len(server.calls) == 3
        RunBudget().before_pipeline_run(run_params={}, pipeline=flow, catalog=catalog)  # another run
        assert len(engine.load()(policies, [], 0, 1).sample("sage_0", prompts, sampling)) == 5
        assert len(server.calls) == 5
    assert (tmp_path / "j.sqlite").exists()
    assert KEY not in repr(engine) + str(engine._describe())
    assert not any(KEY.encode() in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"credentials": {"api_key": None}}, "it has no key; set the environment variable"),
        ({"endpoint": {"model": "sage_1"}}, r"their names on the servers go into args\.names"),
        ({"endpoint": {"base_urls": []}}, "base_urls: Tuple should have at least 1 item"),
        ({"args": {"supports": {"topk": None}}}, r"supports\.topk: Extra inputs are not permitted"),
        ({"args": {"names": ["sage_1"]}}, "names: Input should be a valid dictionary"),
        ({"args": {"window": 0}}, "window: Input should be greater than 0"),
        ({"args": {"widnow": 4096}}, "unexpected keyword argument 'widnow'"),
    ],
)
def test_an_invalid_entry_is_refused_before_a_run(given: dict[str, Any], error: str) -> None:
    pytest.importorskip("transformers")
    catalog, flow = reading(entry(**given), {})
    with pytest.raises(RunRefused, match=rf"engine: no engine can be made .*{error}.*catalog_generation\.yml"):
        InputValidation().before_pipeline_run(
            run_params={"only_missing_outputs": False}, pipeline=flow, catalog=catalog
        )


@pytest.mark.parametrize(
    ("args", "error"),
    [
        ({"device": "gpu"}, "device: Input should be 'auto', 'cpu' or 'cuda'"),
        ({"device": "cuda:1"}, "device: Input should be 'auto', 'cpu' or 'cuda'"),
        ({"memory_gb": 0}, "memory_gb: Input should be greater than 0"),
    ],
)
def test_invalid_arguments_of_the_engine_in_process_are_named(args: dict[str, Any], error: str) -> None:
    pytest.importorskip("torch")
    from sage_dialog.inference.transformers.engine import TransformersEngine

    assert error in str(EngineDataset(engine=IN_PROCESS, args=args).explain_missing())
    with pytest.raises(ValueError, match=next(iter(args))):
        TransformersEngine(None, [], 0, **args)  # type: ignore[arg-type]
    assert EngineDataset(engine=IN_PROCESS, args={"device": "cpu", "memory_gb": 0.5}).explain_missing() is None


class Faulty:
    """An engine whose own code is at fault."""

    def __init__(self, base: Any, policies: Any, seed: int, threads: int | None) -> None:
        raise TypeError("no weights of this kind")


def test_an_error_within_an_engine_is_not_attributed_to_its_entry() -> None:
    faulty = EngineDataset(engine=f"{__name__}.Faulty")
    with pytest.raises(TypeError, match="no weights of this kind"):
        faulty.load()(None, [], 0, None)


def test_the_parallel_runner_is_refused_with_servers(tmp_path: Path) -> None:
    catalog, flow = reading(entry(), {"response_cache": str(tmp_path / "j.sqlite")})
    with pytest.raises(RunRefused, match="Leave out --runner"):
        RunBudget().before_pipeline_run(run_params={"runner": ParallelRunner.__name__}, pipeline=flow, catalog=catalog)


def test_an_environment_of_vllm_has_roles_on_a_server_or_policies(
    open_session: OpenSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_POLICY_URL", "http://127.0.0.1:7/v1")
    with open_session("vllm_policies") as session:
        catalog = session.load_context().catalog
        engine, annotator = catalog.get("engine"), catalog.get("annotator")
    assert isinstance(engine, EngineDataset)
    assert engine.uses_server and engine.explain_missing() is None and not annotator.uses_server
    assert engine._endpoint(model="any").base_urls == ("http://127.0.0.1:7/v1",)
    with open_session("vllm") as session:
        catalog = session.load_context().catalog
        engine, annotator = catalog.get("engine"), catalog.get("annotator")
    assert annotator.uses_server and not engine.uses_server


def test_both_can_be_combined_in_a_new_environment(configured: Path, tmp_path: Path) -> None:
    (both := tmp_path / "conf/servers").mkdir(parents=True)
    shutil.copytree(configured / "conf/base", tmp_path / "conf/base")
    for file in (path for env in ("vllm", "vllm_policies") for path in (configured / "conf" / env).glob("*.yml")):
        shutil.copy(file, both)
    with KedroSession.create(tmp_path, conf_source=str(tmp_path / "conf"), env="servers") as session:
        catalog = session.load_context().catalog
    assert all(catalog.get(name).uses_server for name in ("engine", "annotator", "selector", "judges"))
