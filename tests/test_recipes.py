"""conf/paper, conf/small and conf/real are valid, checked without weights, servers or network."""

import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import constants
from huggingface_hub.errors import LocalEntryNotFoundError
from huggingface_hub.utils import filter_repo_objects
from kedro.framework.session import KedroSession
from kedro.io import AbstractDataset, CatalogProtocol, DatasetError
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from sage_dialog.config import Llm, Parameters
from sage_dialog.core import hub_models as bases
from sage_dialog.core.policies import weights_revision
from sage_dialog.datasets.factory import FactoryDataset
from sage_dialog.datasets.hub_model import HubBase
from sage_dialog.hooks.validation import validate_parameters
from sage_dialog.llm.budget import Budget
from sage_dialog.pipeline_registry import register_pipelines

RECIPES = ("paper", "small")
COMMIT = "0123456789abcdef0123456789abcdef01234567"
MIXTRAL = [  # file names as on the hub
    ".gitattributes", "README.md", "config.json", "consolidated.00.pt", "generation_config.json",
    "model-00001-of-00019.safetensors", "model-00019-of-00019.safetensors", "model.safetensors.index.json",
    "special_tokens_map.json", "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "modeling_own.py",
    "pytorch_model.bin", "original/model.safetensors",
]  # fmt: skip


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The hub's cache of the test; connections are errors."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("a connection was attempted"))
    return tmp_path / "hub"


@pytest.fixture
def recipe(
    open_session: Callable[..., KedroSession],
    configured: Path,
    tmp_path: Path,
    offline: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[[str], tuple[CatalogProtocol, Parameters]]:
    """A function that returns the catalog and parameters of an environment, with dummy keys."""
    for name in (
        "SAGE_DATA",
        "SAGE_RAW",
        "SAGE_CORPUS",
        "SAGE_BASE",
        "VLLM_URL",
        "VLLM_MODEL",
        "OPENAI_MODEL",
        "OPENAI_BASE_URL",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", "not-a-key")
    (tmp_path / "conf").symlink_to(configured / "conf")
    monkeypatch.chdir(tmp_path)

    def load_recipe(env: str) -> tuple[CatalogProtocol, Parameters]:
        with open_session(env) as session:
            context = session.load_context()
            return context.catalog, validate_parameters(context.params, env)

    return load_recipe


TEMPLATE = (
    "{% for m in messages %}{{ m['role'] + ':' + m['content'] + '<end>' }}{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)


def folder_of(path: Path, without: str = "", template: str = TEMPLATE) -> Path:
    """Write the files of a base, with two empty shards and a tokenizer of one word."""
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel({"<end>": 0}, unk_token="<end>")), eos_token="<end>"
    )
    tokenizer.chat_template = template
    tokenizer.save_pretrained(path)
    shards = {f"layer.{number}": f"model-0000{number}-of-00002.safetensors" for number in (1, 2)}
    files = {name: "" for name in shards.values()} | {"config.json": "{}"}
    files[bases.INDEX] = json.dumps({"weight_map": shards})
    for name, text in files.items():
        (path / name).write_text(text)
    (path / without).unlink() if without else None
    return path


def cached(hub: Path, without: str = "") -> Path:
    return folder_of(hub / "models--org--tiny" / "snapshots" / COMMIT, without)


@pytest.mark.parametrize("env", RECIPES)
def test_every_dataset_of_the_pipelines_can_be_built(recipe: Callable[[str], Any], env: str) -> None:
    catalog, parameters = recipe(env)
    names = set().union(*(pipeline.datasets() for pipeline in register_pipelines().values()))
    for name in sorted(names):
        assert isinstance(catalog.get(name), AbstractDataset), name
    assert isinstance(catalog.get("sage_0"), HubBase)
    assert f"data/{env}/06_models" in catalog.get("sage_1")._filepath.as_posix()  # not in the folder of the demo
    assert parameters.scratch.startswith(f"data/{env}")


@pytest.mark.parametrize("env", RECIPES)
def test_configured_roles_and_engine_can_be_built(recipe: Callable[[str], Any], env: str, tmp_path: Path) -> None:
    catalog, _ = recipe(env)
    llm = Llm.from_base(response_cache=str(tmp_path / "responses.sqlite"))
    for name in ("annotator", "selector", "judges", "engine"):
        entry = catalog.get(name)
        assert isinstance(entry, FactoryDataset)
        entry.bind_budget(llm, Budget(llm.caps, llm.role_caps, llm.prices))
        assert entry.explain_missing() is None
    judges = {"paper": ["gpt-3.5-turbo", "mistralai/Mixtral-8x7B-Instruct-v0.1"], "small": ["gpt-5.4-mini"]}
    assert [judge.name.split(" judge ")[0] for judge in catalog.load("judges")] == judges[env]


@pytest.mark.parametrize("corpus", ["esconv", "empathetic_dialogues"])
def test_the_mix_of_real_is_of_one_corpus_and_keeps_its_labels_closed(
    recipe: Callable[[str], Any], corpus: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAGE_CORPUS", corpus)
    catalog, parameters = recipe("real")
    assert parameters.corpora.read == (corpus,)
    assert [(source.kind, source.of) for source in parameters.sac_augmentation.mix] == [
        ("listener", f"{corpus}/*"),
        ("speaker", f"{corpus}/*"),
    ]
    labels = parameters.corpora.labels[corpus]
    assert not labels.topics and list(labels.motivation) == ["assistant"] and list(labels.emotion) == ["user"]
    names = set().union(*(pipeline.datasets() for pipeline in register_pipelines().values()))
    assert all(isinstance(catalog.get(name), AbstractDataset) for name in names)
    assert catalog.get("esconv").folder.as_posix() == (Path.cwd() / "data/real/01_raw/esconv").as_posix()
    monkeypatch.setenv("SAGE_RAW", "/corpora")
    assert recipe("real")[0].get("esconv").folder == Path("/corpora/esconv")


@pytest.mark.parametrize("env", (*RECIPES, "real"))
def test_each_batch_divides_among_the_processes(recipe: Callable[[str], Any], env: str, configured: Path) -> None:
    _, parameters = recipe(env)
    launcher = parameters.launcher
    assert launcher.config is None or (configured / launcher.config).is_file()
    for training in (parameters.sft.training, parameters.self_play.training, parameters.preference):
        assert launcher.rows_at_once(training.batch_size) >= 1


def test_parameters_of_the_paper(recipe: Callable[[str], Any]) -> None:
    _, paper = recipe("paper")
    assert (paper.sft.training.epochs, paper.sft.lora.target_modules) == (5, ("q_proj", "v_proj"))
    assert (paper.self_play.candidates, paper.self_play.max_turns, paper.self_play.situations) == (
        16,
        12,
        None,
    )
    for sampled in (
        paper.self_play.agent,
        paper.self_play.user,
        paper.evaluation.agent,
        paper.evaluation.user,
    ):
        assert (sampled.temperature, sampled.top_k, sampled.repetition_penalty) == (1.1, 100, 1.1)
    tuned, refined, preferred = paper.sft.training, paper.self_play.training, paper.preference
    rows = [(config.learning_rate, config.batch_size, config.epochs) for config in (tuned, refined, preferred)]
    assert rows == [(5e-5, 256, 5), (5e-5, 256, 3), (1e-5, 64, 3)]
    assert [config.max_length for config in (tuned, refined, preferred)] == [2048, 2048, 4096]
    assert {config.lr_scheduler_type for config in (tuned, refined, preferred)} == {"cosine"}
    pairs = 6 * 19533 * (1 - preferred.held_out)
    assert round(preferred.warmup_ratio * preferred.epochs * pairs / preferred.batch_size) in range(20, 24)
    assert (tuned.warmup_ratio, refined.warmup_ratio, preferred.beta, preferred.loss_type) == (0, 0, 0.1, "sigmoid")
    assert (paper.sft.lora.r, paper.sft.lora.alpha, paper.launcher.num_processes) == (8, 16, 8)
    assert (paper.evaluation.split, paper.evaluation.exchanges, paper.evaluation.situations) == (
        "test",
        8,
        None,
    )
    assert (paper.preference.rejected, paper.preference.negatives, paper.preference.sft_weight) == (
        "random",
        1,
        1.0,
    )
    assert paper.data_processing.reddit.min_sentiment == 0.4
    assert [source.size for source in paper.sac_augmentation.mix] == [None, None]
    assert paper.sac_augmentation.blend and not (tuned.held_out or refined.held_out)
    assert (paper.preference.held_out, paper.preference.patience) == (0.01, 100)
    assert (
        yaml.safe_load(Path(paper.launcher.config).read_text())["deepspeed_config"]["offload_optimizer_device"] == "cpu"
    )
    assert paper.data_processing.same_text_situations == "all"
    for rules in (paper.self_play, paper.evaluation):
        assert (rules.user_attempts, rules.one_question, rules.farewell_ends) == (1, False, False)
        assert rules.steering.boost_scale == "logits"


def test_roles_of_the_paper_sample_at_the_temperature_of_its_scripts(recipe: Callable[[str], Any]) -> None:
    catalog, _ = recipe("paper")
    endpoints = [catalog.get(name)._init_args["endpoint"] for name in ("annotator", "selector")]
    endpoints += [judge["endpoint"] for judge in catalog.get("judges")._init_args["roles"].values()]
    assert [endpoint["sampling"]["temperature"] for endpoint in endpoints] == [0.8] * 4


def test_a_base_in_the_cache_is_a_policy(offline: Path) -> None:
    path = cached(offline)
    entry = HubBase(repo="org/tiny", revision=COMMIT)
    policy = entry.load()
    assert policy.path == path
    assert (policy.name, policy.card.kind, policy.card.base) == ("sage_0", "base", "org/tiny")
    assert policy.revision() == policy.card.base_revision == COMMIT
    assert entry.explain_missing() is None
    with pytest.raises(DatasetError, match="nothing can be saved"):
        entry.save(policy)


@pytest.mark.parametrize("without", ["config.json", "model-00002-of-00002.safetensors", "tokenizer_config.json"])
def test_an_incomplete_base_is_refused(offline: Path, without: str, tmp_path: Path) -> None:
    cached(offline, without)
    with pytest.raises(DatasetError, match=r"org/tiny is not available"):
        HubBase(repo="org/tiny", revision=COMMIT).load()
    copied_folder = folder_of(tmp_path / "copied", without)
    with pytest.raises(DatasetError, match=r"copied does not hold org/tiny: .*(config|missing, such as model-00002)"):
        HubBase(repo="org/tiny", revision=COMMIT, folder=str(copied_folder)).load()


def test_a_folder_replaces_the_hub(
    recipe: Callable[[str], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAGE_BASE", str(folder_of(tmp_path / "copied")))
    catalog, _ = recipe("paper")
    assert catalog.exists("sage_0")
    card = catalog.load("sage_0").card
    assert (card.base, len(card.base_revision)) == ("mistralai/Mixtral-8x7B-Instruct-v0.1", 40)
    assert bases.is_on_hub(card)


def test_a_folder_without_a_revision_is_a_base_of_its_own(offline: Path, tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "mine")
    entry = HubBase(repo="org/tiny", folder=str(folder))
    card = entry.load().card
    assert entry.explain_missing() is None
    assert (card.base, card.base_revision) == ("mine", weights_revision(folder)) and not bases.is_on_hub(card)
    (folder / "model-00001-of-00002.safetensors").write_text("other weights")
    assert entry.load().card.base_revision == weights_revision(folder) != card.base_revision
    (folder / "config.json").unlink()
    assert "mine holds no base: there is no config.json in it" in (entry.explain_missing() or "")
    assert "has neither a `repo` on a hub, nor a local `folder`" in (HubBase().explain_missing() or "")


@pytest.mark.parametrize("template", [None, "{% for m in messages %}{{ m['content'] }}{% endfor %}"])
def test_a_base_that_cannot_be_trained_is_refused_before_a_run(
    offline: Path, tmp_path: Path, template: str | None
) -> None:
    fault = HubBase(folder=str(folder_of(tmp_path / "mine", template=template))).explain_missing() or ""
    assert "a chat_template.jinja of yours" in fault and str(tmp_path) in fault


@pytest.mark.parametrize("revision", [None, "main", COMMIT[:12], COMMIT.upper()])
def test_a_revision_that_is_no_commit_is_refused(offline: Path, revision: str | None) -> None:
    entry = HubBase(repo="org/tiny", revision=revision)
    assert "40 hexadecimal digits" in (entry.explain_missing() or "")
    with pytest.raises(DatasetError, match=r"huggingface\.co/org/tiny/commits"):
        entry.load()


def test_without_cache_and_network_the_error_names_the_remedy(offline: Path) -> None:
    message = HubBase(repo="org/tiny", revision=COMMIT).explain_missing() or ""
    assert "org/tiny is not available" in message
    assert "folder:" in message


def test_no_file_that_can_run_code_is_downloaded(offline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    downloads = []

    def download(repo: str, *, local_files_only: bool = False, **options: Any) -> str:
        if local_files_only:
            raise LocalEntryNotFoundError("not there")
        downloads.append(options)
        return str(cached(offline))

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    HubBase(repo="org/tiny", revision=COMMIT).load()
    assert [options["revision"] for options in downloads] == [COMMIT]
    downloaded = filter_repo_objects(
        MIXTRAL, allow_patterns=downloads[0]["allow_patterns"], ignore_patterns=downloads[0]["ignore_patterns"]
    )
    assert sorted(set(MIXTRAL) - set(downloaded)) == [
        ".gitattributes", "README.md", "consolidated.00.pt", "modeling_own.py", "original/model.safetensors",
        "pytorch_model.bin",
    ]  # fmt: skip
