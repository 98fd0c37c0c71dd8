"""`kedro sage export` writes folders that load elsewhere with the same logits, and a correct model card."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import yaml
from click.testing import CliRunner, Result
from fake_hub import running_hub
from kedro.config import OmegaConfigLoader
from kedro.io import Version
from safetensors.numpy import load_file, save_file

from sage_dialog import schemas, settings
from sage_dialog.commands.export import export
from sage_dialog.config import SamplingConfig
from sage_dialog.core.policies import Policy, PolicyCard, weights_revision
from sage_dialog.core.tables import from_rows
from sage_dialog.datasets.parquet import AtomicParquet
from sage_dialog.lineage.records import Git, InputRecord, OutputRecord, Process, RunRecord, Selection
from sage_dialog.lineage.run_folder import RunFolder

LONG_AGO = "2025-01-01T00.00.00.000Z"
OLD, THEN, LATER = (f"2026-01-0{day}T00.00.00.000Z" for day in (1, 2, 3))
TEMPLATE = "{% for m in messages %}{{ m['role'] }} {{ m['content'] }} <end> {% endfor %}"
MESSAGES = [{"role": "user", "content": "w1 w2 w3"}, {"role": "assistant", "content": "w4 w5"}]
PLAIN = """
import json, sys
sys.modules["sage_dialog"] = None  # no import of it succeeds
import torch
from peft import AutoPeftModelForCausalLM
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

torch.set_num_threads(1)
written = {}
for name, loader in (("adapter", AutoModelForCausalLM), ("adapter", AutoPeftModelForCausalLM),
                     ("merged", AutoModelForCausalLM)):
    tokenizer = AutoTokenizer.from_pretrained(name)
    ids = tokenizer.apply_chat_template(json.loads(sys.argv[1]), return_tensors="pt", return_dict=True)["input_ids"]
    with torch.no_grad():
        logits = loader.from_pretrained(name).eval()(input_ids=ids).logits
    how = GenerationConfig.from_pretrained(name)
    written[f"{name} {loader.__name__}"] = {
        "ids": ids.tolist(), "logits": logits.tolist(), "samples": [how.do_sample, how.top_k, how.top_p]}
for name in ("adapter", "merged"):
    card = open(f"{name}/README.md").read()
    exec(card.split("```python")[1].split("```")[0].replace("FOLDER", repr(name)))
    with torch.no_grad():
        logits = model.eval()(input_ids=ids).logits
    how = model.generation_config
    written[f"{name} by its card"] = {
        "ids": ids.tolist(), "logits": logits.tolist(), "samples": [how.do_sample, how.top_k, how.top_p]}
print(json.dumps(written))
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base with experts, an adapter on attention and experts, and a dense base with an adapter."""
    import torch
    from peft import LoraConfig, get_peft_model
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import (
        LlamaConfig,
        LlamaForCausalLM,
        MixtralConfig,
        MixtralForCausalLM,
        PreTrainedTokenizerFast,
    )

    torch.set_num_threads(1)
    place = tmp_path_factory.mktemp("made")
    vocabulary = {
        word: index for index, word in enumerate(["<end>", "user", "assistant", *(f"w{n}" for n in range(9))])
    }
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="user"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<end>", pad_token="<end>")
    tokenizer.chat_template = TEMPLATE
    size = {
        "vocab_size": len(vocabulary), "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 64, "initializer_range": 0.3,
        "eos_token_id": 0, "bos_token_id": None, "pad_token_id": 0,
    }  # fmt: skip
    torch.manual_seed(0)
    bases = {
        "experts": MixtralForCausalLM(MixtralConfig(**size, num_local_experts=2, num_experts_per_tok=2)),
        "dense": LlamaForCausalLM(LlamaConfig(**size)),
    }
    fused = {"experts": ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"], "dense": None}
    for name, model in bases.items():
        model.save_pretrained(place / name)
        tokenizer.save_pretrained(place / name)
        config = LoraConfig(
            r=4, lora_alpha=8, init_lora_weights=False, target_modules=["q_proj", "v_proj"],
            target_parameters=fused[name], base_model_name_or_path="sage_0",
        )  # fmt: skip
        get_peft_model(model, config).save_pretrained(place / f"{name}_adapter")
    return place


def policy(data: Path, weights: Path, version: str, card: PolicyCard) -> Policy:
    folder = data / "06_models" / card.name / version / card.name
    shutil.copytree(weights, folder, ignore=shutil.ignore_patterns("README.md"))
    return Policy.write_card(folder, card)


def keep(data: Path, name: str, version: str, rows: list[dict[str, Any]], schema: pa.Schema) -> None:
    entry = AtomicParquet(filepath=str(data / f"{name}.parquet"), version=Version(None, version))
    entry.save(from_rows(rows, schema))


def known(policy: str, revision: str) -> dict[str, Any]:
    return {"policy": policy, "kind": "adapter", "blocks": True, "revision": revision, "base": "sage_0",
            "base_revision": "r"}  # fmt: skip


def rates(judge: str, **changes: Any) -> dict[str, Any]:
    row = {"judge": judge, "policy_a": "sage_0", "policy_b": "sage_dpo", "n": 20, "wins_a": 3, "ties": 5, "wins_b": 12}
    row |= {"win_rate_b": 0.8, "low": 0.55, "high": 0.93, "p_value": 0.035, "p_adjusted": 0.07, "rule": "agreement"}
    return row | {"both_say_tie": 5, "inconsistent": 0, "unreadable": 0} | changes


@pytest.fixture
def data(made: Path, tmp_path: Path) -> Path:
    """`sage_dpo` came from the older of two `sage_3`, and was evaluated in the older of two evaluations."""
    data = tmp_path / "data"
    base = policy(data, made / "experts", OLD, PolicyCard("sage_0", "base", False, "sage_0", "r" * 64))
    adapter = made / "experts_adapter"
    start = policy(data, adapter, OLD, PolicyCard("sage_3", "adapter", True, "sage_0", "r" * 64, "sage_2", "2" * 64))
    card = PolicyCard("sage_dpo", "adapter", True, "sage_0", base.revision(), "sage_3", start.revision())
    dpo = policy(data, adapter, THEN, card)
    other = policy(data, adapter, LATER, PolicyCard("sage_3", "adapter", True, "sage_0", "r" * 64, "sage_2", "2" * 64))
    save_file({"more": np.ones(1)}, other.path / "more.safetensors")
    for version in (OLD, LATER):
        keep(data, "05_model_input/dpo_pairs", version, [], schemas.DPO_PAIRS)
    for version, revision in ((THEN, dpo.revision()), (LATER, "of other weights")):
        keep(data, "08_reporting/policy_cards", version, [known("sage_dpo", revision)], schemas.POLICIES)
        wins = 12 if version == THEN else 99
        turned = {"policy_a": "sage_dpo", "policy_b": "sage_1"}
        table = [
            rates("offline-rules-judge", wins_b=wins),
            rates("a | judge", wins_b=wins, **turned),
            rates("a | judge", policy_b="sage_2", n=777),
            rates("human:Ann", wins_b=wins),
        ]
        keep(data, "08_reporting/win_rates", version, table, schemas.WIN_RATES)
    return data


@pytest.fixture
def run(configured: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    monkeypatch.setenv("SAGE_DATA", str(data))
    return lambda *given: CliRunner().invoke(
        export, [str(part) for part in given], obj=SimpleNamespace(project_path=configured)
    )


def done(result: Result) -> Result:
    assert result.exit_code == 0, result.output
    return result


@pytest.mark.slow
def test_adapter_and_merged_model_load_without_this_project_with_equal_logits(
    run: Callable[..., Result], made: Path, tmp_path: Path
) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    done(run("--to", tmp_path / "adapter"))
    done(run("--to", tmp_path / "merged", "--merge"))
    plain = subprocess.run(
        [sys.executable, "-c", PLAIN, json.dumps(MESSAGES)], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert plain.returncode == 0, plain.stderr
    written = json.loads(plain.stdout)
    base = AutoModelForCausalLM.from_pretrained(made / "experts").eval()
    ids = torch.tensor(written["merged AutoModelForCausalLM"]["ids"])
    with torch.no_grad():
        without = base(input_ids=ids).logits
        expected = PeftModel.from_pretrained(base, made / "experts_adapter").eval()(input_ids=ids).logits
    assert (expected - without).abs().max() > 0.1
    assert len(written) == 5
    for name, one in written.items():
        assert (torch.tensor(one["logits"]) - expected).abs().max() < 1e-4, name
        assert one["samples"] == [True, 8, 1.0]  # conf/base, evaluation.agent
    assert not list(tmp_path.rglob("merged/adapter*"))
    front = yaml.safe_load((tmp_path / "merged" / "README.md").read_text().split("---")[1])
    assert front["library_name"] == "transformers" and "base_model" not in front  # it is on no hub
    assert not list(tmp_path.rglob("adapter/**/sage_policy.json"))
    for name in ("adapter", "merged"):  # whoever may read one of them may read them all
        assert len({file.stat().st_mode for file in (tmp_path / name).rglob("*") if file.is_file()}) == 1


def test_full_fine_tuning_is_exported_as_a_complete_model(made: Path, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    from sage_dialog.export.folder import export_policy
    from sage_dialog.training.full_weights import full_adapter

    shutil.copytree(made / "dense", tmp_path / "base")
    base = Policy.write_card(tmp_path / "base", PolicyCard("sage_0", "base", False, "sage_0", "r"))
    trained = full_adapter(AutoModelForCausalLM.from_pretrained(base.path)).eval()
    with torch.no_grad():
        for weight in trained.parameters():
            weight.add_(0.1 if weight.requires_grad else 0.0)
        expected = trained(input_ids=torch.arange(8)[None]).logits
    trained.save_pretrained(tmp_path / "adapter")
    policy = Policy.write_card(
        tmp_path / "adapter", PolicyCard("sage_1", "adapter", True, "sage_0", "r", "sage_0", "r")
    )
    (tmp_path / "out").mkdir()
    with pytest.raises(ValueError, match="give --merge"):
        export_policy(policy, base, SamplingConfig.from_base(top_k=100), False, tmp_path / "out", tmp_path / "out")
    export_policy(policy, base, SamplingConfig.from_base(top_k=100), True, tmp_path / "out", tmp_path / "out")
    with torch.no_grad():
        loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()(input_ids=torch.arange(8)[None]).logits
    assert (loaded - expected).abs().max() < 1e-4


def test_an_adapter_on_a_hub_base_names_it_with_its_commit(
    run: Callable[..., Result], data: Path, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAGE_BASE", str(made / "dense"))
    commit = "989aa7980e4cf806f80c7fef2b1adb7bc71aa306"
    repo = "Qwen/Qwen2.5-1.5B-Instruct"
    policy(data, made / "dense_adapter", THEN, PolicyCard("sage_1", "adapter", True, repo, commit, "sage_0", commit))
    written = json.loads(done(run("--env", "small", "--policy", "sage_1", "--to", tmp_path / "out", "--json")).stdout)
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == (repo, commit)
    assert (written["base"], written["base_revision"], written["merged"], written["evaluation"]) == (
        repo,
        commit,
        False,
        None,
    )
    assert "model.safetensors" not in written["files"] and "base/config.json" not in written["files"]
    card = (tmp_path / "out" / "README.md").read_text()
    assert yaml.safe_load(card.split("---")[1])["base_model"] == repo
    assert f"vllm serve {repo} --revision {commit}" in card
    assert "--max-lora-rank 8 " in card and "--generation-config FOLDER" in card  # of rank 4, which vLLM has not
    assert "It was trained with this system message" in card and "has the sampling of the recipe's evaluation" in card
    assert "the catalog has no evaluation of these weights" in card


def test_the_card_has_the_results_of_these_weights(run: Callable[..., Result], tmp_path: Path) -> None:
    done(run("--to", tmp_path / "out"))
    card = (tmp_path / "out" / "README.md").read_text().replace("\N{NO-BREAK SPACE}", " ")
    assert f"From the evaluation {THEN}" in card
    assert "| offline-rules-judge | sage\\_0 | 20 | 12 | 5 | 3 | 80 % [55 %, 93 %] | 0.035 | 0.07 |" in card
    assert "| a \\| judge | sage\\_1 | 20 | 3 | 5 | 12 | 20 % [7 %, 45 %] | 0.035 | 0.07 |" in card  # turned
    assert "| a person | sage\\_0 | 20 | 12 | 5 | 3 |" in card and "Ann" not in card
    assert "99" not in card.split("### Win rates")[1].split("n is of situations")[0] and "777" not in card
    offline = next(line for line in card.splitlines() if "Offline roles" in line)
    assert "judge offline-rules-judge" in offline and "a \\| judge" not in offline
    assert "never evidence about language models" in " ".join(card.split())
    assert "Formulaic replies" in card and "Posing as human" in card
    assert "It was trained and measured with" in card and "intervals of confidence 95 %" in card


def test_the_card_has_the_data_versions_of_that_time(run: Callable[..., Result], tmp_path: Path) -> None:
    done(run("--to", tmp_path / "out"))
    rows = [line for line in (tmp_path / "out" / "README.md").read_text().splitlines() if line.startswith("| sage_")]
    assert [row.split(" | ")[:2] for row in rows] == [
        ["| sage_2", "no longer in the catalog"], ["| sage_3", OLD], ["| sage_dpo", THEN]
    ]  # fmt: skip
    assert f"`dpo_pairs` {OLD}" in rows[2] and LATER not in "".join(rows)
    text = " ".join((tmp_path / "out" / "README.md").read_text().split())
    assert "Raw data (not versioned): empathetic_dialogues, instructions, reddit_dumps." in text
    assert "for sage_3, sage_dpo some are not recorded" in text and "the parameters of the environment `local`" in text


def test_the_card_takes_versions_and_parameters_from_run_records(
    run: Callable[..., Result], data: Path, configured: Path, tmp_path: Path
) -> None:
    loader = OmegaConfigLoader(str(configured / "conf"), env="test", **settings.CONFIG_LOADER_ARGS)
    for name, beta, top_k, read in ((THEN, 0.77, 5, {"sage_3": OLD, "dpo_pairs": LONG_AGO}), (LONG_AGO, 0.66, 4, {})):
        parameters = loader["parameters"]
        parameters["corpora"]["read"] = ["failed_esconv"] if name == LONG_AGO else ["dailydialog"]
        written = ("sage_dpo",) if name == THEN else ("dialogues", "corpus_dialogues")
        parameters["preference"]["beta"], parameters["evaluation"]["agent"]["top_k"] = beta, top_k
        record = RunRecord(
            run=name, started="", process=Process(host="h", pid=1, born=1.0), selection=Selection(pipelines=()),
            environment="test", parameters=parameters, git=Git(revision="c0ffee", changed=("a.py",)), python="",
            platform="", packages={}, nodes={}, code={},
            reads={dataset: InputRecord(version=version) for dataset, version in read.items()},
            writes={dataset: OutputRecord(version=name, node="", at="", bytes=0, modified_ns=0, sha256="")
                    for dataset in written},
        )  # fmt: skip
        RunFolder(data / "runs").begin(record)
    done(run("--to", tmp_path / "out"))
    card = (tmp_path / "out" / "README.md").read_text()
    assert "beta: 0.77" in card and "top_k: 5" in card and "min_mean_words: 15.0" in card
    assert f"`dpo_pairs` {LONG_AGO}" in card and "| trained by the code of commit | c0ffee, changed |" in card
    unrecorded = next(line for line in card.splitlines() if line.startswith("There is no record of"))
    assert "sft" in unrecorded and not {"preference", "data_processing", "evaluation"} & set(unrecorded.split(", "))
    assert json.loads((tmp_path / "out" / "generation_config.json").read_text())["top_k"] == 5
    assert "Raw data (not versioned): empathetic_dialogues, esconv, instructions, reddit_dumps." in card
    recipe = yaml.safe_load(card.split("```yaml")[1].split("```")[0])
    assert list(recipe["corpora"]["labels"]) == ["failed_esconv"]


def test_an_older_version_is_exported_by_name(run: Callable[..., Result], tmp_path: Path, data: Path) -> None:
    written = json.loads(done(run("--policy", "sage_3", "--version", OLD, "--to", tmp_path / "out", "--json")).stdout)
    assert written["version"] == OLD
    assert written["revision"] == weights_revision(data / "06_models/sage_3" / OLD / "sage_3")
    refused = run("--policy", "sage_3", "--version", "2025-01-01", "--to", tmp_path / "other")
    assert refused.exit_code == 2 and f"no version 2025-01-01; there are {LATER}, {OLD}" in refused.output


def test_json_output_has_nothing_that_libraries_print(
    run: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sage_dialog.export import folder

    genuine = folder.export_policy

    def loud(*given: Any) -> None:
        print("a warning")
        genuine(*given)

    monkeypatch.setattr(folder, "export_policy", loud)
    result = done(run("--to", tmp_path / "out", "--json"))
    assert json.loads(result.stdout)["policy"] == "sage_dpo" and "a warning" in result.stderr


def test_an_existing_folder_is_not_changed(run: Callable[..., Result], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    refused = run("--to", tmp_path / "out")
    assert refused.exit_code == 2 and "not an empty folder" in refused.output
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.txt"]


def test_a_failed_export_leaves_nothing(run: Callable[..., Result], data: Path, tmp_path: Path) -> None:
    weights = next((data / "06_models/sage_dpo").rglob("adapter_model.safetensors"))
    save_file({name: values * np.nan for name, values in load_file(weights).items()}, weights)
    failed = run("--to", tmp_path / "out", "--merge")
    assert failed.exit_code == 1 and "sage_dpo was not exported" in failed.output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data"]


def test_a_base_or_an_adapter_on_another_is_refused(run: Callable[..., Result], data: Path, tmp_path: Path) -> None:
    base = run("--policy", "sage_0", "--to", tmp_path / "out")
    assert base.exit_code == 2 and "is the base" in base.output
    card = next((data / "06_models/sage_0").rglob("sage_policy.json"))
    card.write_text(card.read_text().replace("r" * 64, "s" * 64))
    other = run("--to", tmp_path / "out")
    assert other.exit_code == 1 and "rrrrrrrrrrrr, but the base" in other.output
    missing = run("--policy", "sage_9", "--to", tmp_path / "out")
    assert missing.exit_code == 1 and "There is no policy 'sage_9'" in missing.output


CONVERTER = """
import pathlib, sys
model, _, out, _, number_format = sys.argv[1:]
files = {file.name for file in pathlib.Path(model).iterdir()}
assert {"model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"} <= files
assert not [name for name in files if name.startswith("adapter")]
pathlib.Path(out).write_bytes(b"GGUF" + number_format.encode())
"""


def test_gguf_is_converted_from_the_merged_model_and_the_card_says_what_it_lacks(
    run: Callable[..., Result], data: Path, tmp_path: Path
) -> None:
    (tmp_path / "convert.py").write_text(CONVERTER)
    rejects = [{"row": f"s{number} 1", "tokens": 800, "max_length": 700} for number in range(3)]
    keep(data, "07_model_output/training_rejects_sage_dpo", THEN, rejects, schemas.TRAINING_REJECTS)
    given = ("--to", tmp_path / "out", "--gguf", "q8_0", "--converter", tmp_path / "convert.py", "--json")
    written = json.loads(done(run(*given)).stdout)
    assert (written["gguf"], written["merged"], written["uploaded"]) == ("sage_dpo-q8_0.gguf", True, None)
    assert (tmp_path / "out" / "sage_dpo-q8_0.gguf").read_bytes() == b"GGUFq8_0"
    card = " ".join((tmp_path / "out" / "README.md").read_text().split())
    assert "llama-server --jinja -m FOLDER/sage_dpo-q8_0.gguf --temp 1.0 --top-k 8 --top-p 1" in card
    left_out = card.split("## What is left out")[1].split("## Recipe")[0]
    assert "Training of sage_dpo: 3 rows over `max_length` tokens." in left_out
    assert "Training of sage_3: not known" in left_out and "In `sage_dpo-q8_0.gguf`: the sampling" in left_out


def test_a_failed_conversion_or_a_missing_converter_leaves_nothing(
    run: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "convert.py").write_text("raise SystemExit('Model MixtralForCausalLM is not supported')")
    failed = run("--to", tmp_path / "out", "--gguf", "f16", "--converter", tmp_path / "convert.py")
    assert failed.exit_code == 1 and "sage_dpo was not exported: the converter" in failed.output
    assert "Model MixtralForCausalLM is not supported" in failed.output
    monkeypatch.setenv("PATH", str(tmp_path))
    missing = run("--to", tmp_path / "out", "--gguf", "f16")
    assert missing.exit_code == 1 and "there is no convert_hf_to_gguf.py on PATH" in missing.output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["convert.py", "data"]
    alone = run("--to", tmp_path / "out", "--converter", tmp_path / "convert.py")
    assert alone.exit_code == 2 and "--converter is for --gguf" in alone.output


def test_an_export_is_uploaded_with_the_token_of_the_environment(
    run: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setenv("HF_TOKEN", "hf_secretOfTheUser")
    with running_hub() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        local = run("--to", tmp_path / "adapter", "--upload", "someone/sage")
        assert local.exit_code == 2 and "the base is on this machine only" in local.output and not hub.repositories
        result = done(run("--to", tmp_path / "out", "--merge", "--upload", "someone/sage"))
        assert f"Uploaded, private: {hub.url}/someone/sage/commit/" in result.output
        repository = hub.repositories["someone/sage"]
        assert repository["private"] and repository["message"] == f"sage_dpo, version {THEN}"
        files = {file.name: file.read_bytes() for file in (tmp_path / "out").iterdir()}
        assert {".gitattributes": b"", **files} == repository["files"] and "README.md" in files

        again = run("--to", tmp_path / "again", "--merge", "--upload", "someone/sage")
        assert again.exit_code == 1 and f"has {len(files)} files already" in again.output
        assert not (tmp_path / "again").exists()
        outputs = "".join(one.output for one in (local, result, again))
        assert "hf_secret" not in outputs and set(hub.tokens) - {None} == {"Bearer hf_secretOfTheUser"}
