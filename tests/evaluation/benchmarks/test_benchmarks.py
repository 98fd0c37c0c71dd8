"""Benchmarks: local files as data, lm-eval's scores against a count by hand, policies compared item by item."""

from __future__ import annotations

import json
import logging
import re
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import lm_eval
import pandas as pd
import pytest
from lm_eval.tasks import TaskManager

from sage_dialog.config import Benchmarks
from sage_dialog.core.policies import Policy, PolicyCard, weights_revision
from sage_dialog.core.seeds import generator
from sage_dialog.core.tables import DataFrame, to_rows
from sage_dialog.evaluation.benchmarks import scoring as benchmarks
from sage_dialog.evaluation.benchmarks.files import local_tasks
from sage_dialog.evaluation.benchmarks.scores import Score, benchmark_scores, mean_of
from sage_dialog.evaluation.benchmarks.scoring import score_policies
from sage_dialog.evaluation.bootstrap import Bootstrap
from sage_dialog.pipelines.report.nodes import report_benchmarks

BOOTSTRAP = Bootstrap(0.95, 2000, 1)
Write = Callable[..., dict[str, Path]]


def scores_of(by_policy: dict[str, list[Score]], bootstrap: Bootstrap) -> list[dict[str, Any]]:
    return to_rows(benchmark_scores(by_policy, bootstrap))


@pytest.fixture(autouse=True)
def _a_few_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace lm-eval's own tasks, which take seconds to list, by three of them."""
    own = Path(lm_eval.__file__).parent / "tasks"
    manager = TaskManager(
        include_path=[own / name for name in ("hellaswag", "piqa", "mmlu/default")], include_defaults=False
    )
    monkeypatch.setattr(benchmarks, "_task_manager", lambda include_defaults: manager)


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write benchmark files; a list becomes JSON lines."""

    def made(**content: Any) -> dict[str, Path]:
        files = {}
        for name, value in content.items():
            name = name.replace("__", ".")
            text = value if isinstance(value, str) else "".join(json.dumps(row) + "\n" for row in value)
            files[name] = tmp_path / name
            files[name].write_text(text)
        return files

    return made


def quiz(count: int, name: str = "quiz") -> list[dict[str, Any]]:
    rows = []
    for number in range(count):
        rng = generator(0, name, number)
        words = [f"w{word}" for word in rng.permutation(40)[:7]]
        rows.append({"question": " ".join(words[:3]), "choices": words[3:], "answer": int(rng.integers(4))})
    return rows


@pytest.fixture(scope="module")
def policies(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Policy]:
    """A random Mixtral of a few thousand parameters, and an adapter with large weights."""
    import torch
    from peft import LoraConfig, get_peft_model
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import MixtralConfig, MixtralForCausalLM, PreTrainedTokenizerFast

    torch.set_num_threads(1)
    path = tmp_path_factory.mktemp("base")
    vocabulary = {word: number for number, word in enumerate(["<end>", "?", *(f"w{word}" for word in range(40))])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="?"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<end>", pad_token="<end>")
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }} <end> {% endfor %}"
    tokenizer.save_pretrained(path)
    torch.manual_seed(0)
    config = MixtralConfig(
        vocab_size=len(vocabulary), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, num_local_experts=4, num_experts_per_tok=2, max_position_embeddings=96,
        initializer_range=0.3, bos_token_id=None, eos_token_id=0, pad_token_id=0,
    )  # fmt: skip
    model = MixtralForCausalLM(config)
    model.save_pretrained(path)
    revision = weights_revision(path)
    base = Policy.write_card(path, PolicyCard("sage_0", "base", False, "sage_0", revision))
    experts = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
    lora = LoraConfig(
        r=4, lora_alpha=8, init_lora_weights=False, target_modules=["q_proj", "v_proj"], target_parameters=experts
    )
    path = tmp_path_factory.mktemp("adapter")
    get_peft_model(model, lora).save_pretrained(path)
    card = PolicyCard("sage_dpo", "adapter", True, "sage_0", revision, "sage_0", revision)
    return {"sage_0": base, "sage_dpo": Policy.write_card(path, card)}


def score_all(available: dict[str, Policy], files: dict[str, Path], **config: Any) -> dict[str, list[Score]]:
    return score_policies(available["sage_0"], available, files, Benchmarks.from_base(**config), seed=0, threads=1)


def test_scores_are_those_of_a_count_by_hand_without_a_network(
    policies: dict[str, Policy], write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    def refuse(*_: Any) -> None:
        raise AssertionError("a connection was attempted")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    rows = quiz(40)
    found = score_all(policies, write(quiz__jsonl=rows))
    assert list(found) == ["sage_0", "sage_dpo"]
    tokenizer = AutoTokenizer.from_pretrained(policies["sage_0"].path)
    for name, (score,) in found.items():
        model = AutoModelForCausalLM.from_pretrained(policies["sage_0"].path)
        model = model if name == "sage_0" else PeftModel.from_pretrained(model, policies[name].path)
        right = []
        for row in rows:
            with torch.no_grad():
                logits = model(**tokenizer(row["question"], return_tensors="pt")).logits[0, -1]
            choices = [float(logits[tokenizer(choice)["input_ids"][0]]) for choice in row["choices"]]
            right.append(float(choices.index(max(choices)) == row["answer"]))
        assert score.items == tuple(right)
        assert (score.task, score.metric, score.n, score.score) == ("quiz", "acc", 40, sum(right) / 40)
        p = score.score
        assert score.standard_error == pytest.approx((p * (1 - p) / 39) ** 0.5)
    assert found["sage_0"][0].items != found["sage_dpo"][0].items


def test_the_order_of_policies_and_of_tasks_changes_no_score(policies: dict[str, Policy], write: Write) -> None:
    files = write(quiz__jsonl=quiz(20), other__jsonl=quiz(12, "other"), quiz__examples__jsonl=quiz(9, "examples"))
    config = {"few_shot": {"quiz": 2}}
    first = score_all(policies, files, tasks=["quiz", "other"], **config)
    second = score_all(
        policies, files, tasks=["other", "quiz"], policies=["sage_dpo", "sage_0"], batch_size=1, **config
    )
    assert {policy: {score.task: score for score in found} for policy, found in first.items()} == {
        policy: {score.task: score for score in found} for policy, found in second.items()
    }
    assert [(score.task, score.few_shot) for score in first["sage_0"]] == [("quiz", 2), ("other", 0)]
    limited = score_all(policies, files, tasks=["other"], limit=5)["sage_0"][0]
    assert limited.items == {score.task: score for score in first["sage_0"]}["other"].items[:5]


def test_generated_answers_are_scored(policies: dict[str, Policy], write: Write) -> None:
    definition = """
        output_type: generate_until
        doc_to_text: "{{ question.strip() }}"
        doc_to_target: answer
        generation_kwargs: {until: ["<end>"], max_gen_toks: 2, do_sample: false}
        metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
        filter_list:
          - {name: first, filter: [{function: regex, regex_pattern: "(w[0-9]+)"}, {function: take_first}]}
    """
    rows = [{"question": f"w{number}", "answer": "w1"} for number in range(6)]
    (score,) = score_all(policies, write(say__jsonl=rows, say__yml=definition))["sage_0"]
    assert (score.metric, score.n, score.chance) == ("exact_match (first)", 6, None)
    assert set(score.items or ()) <= {0.0, 1.0}


def test_chance_is_that_of_each_question(policies: dict[str, Policy], write: Write) -> None:
    rows = [{**row, "choices": row["choices"][: 2 + 2 * (place % 2)], "answer": 0} for place, row in enumerate(quiz(5))]
    definition = """
        output_type: multiple_choice
        doc_to_text: question
        doc_to_choice: choices
        doc_to_target: answer
        metric_list: [{metric: acc}, {metric: acc_mutual_info}]
    """
    scores = score_all(policies, write(quiz__jsonl=rows, quiz__yml=definition))["sage_0"]
    assert {score.metric: score.chance for score in scores} == {
        "acc": pytest.approx((3 / 2 + 2 / 4) / 5), "acc_mutual_info": pytest.approx((3 / 2 + 2 / 4) / 5),
    }  # fmt: skip


def test_the_chat_template_changes_the_questions(policies: dict[str, Policy], write: Write) -> None:
    files = write(quiz__jsonl=quiz(30))
    plain, chat = (score_all(policies, files, chat_template=chat)["sage_0"][0] for chat in (False, True))
    assert plain.items != chat.items


def test_without_tasks_there_are_no_scores(policies: dict[str, Policy], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert score_all(policies, {}) == {}
    assert "No benchmark is configured" in caplog.text
    assert scores_of({}, BOOTSTRAP) == []


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"tasks": ["quizz"]}, "lm-eval has no 'quizz', and the benchmark files have no quizz.jsonl"),
        ({"tasks": ["hellaswagg"]}, "did you mean hellaswag"),
        ({"few_shot": {"other": 1}}, "'other' is not among the tasks, quiz"),
        ({"few_shot": {"quiz": 1}}, "put quiz.examples.jsonl in the same folder"),
        ({"tasks": ["quiz", "quiz"]}, "quiz is there twice"),
        ({"policies": ["sage_0", "sage_9"]}, "there is no 'sage_9', but sage_0, sage_dpo"),
    ],
)
def test_an_invalid_configuration_is_named(
    policies: dict[str, Policy], write: Write, config: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        score_all(policies, write(quiz__jsonl=quiz(3)), **config)


def test_without_a_hub_the_error_of_an_lm_eval_task_names_the_remedy(
    policies: dict[str, Policy], monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    def unreachable(*_: Any, **__: Any) -> None:
        raise ConnectionError("Couldn't reach the hub")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    with pytest.raises(RuntimeError, match=r"The items of piqa cannot be loaded.*or put piqa\.jsonl and piqa\.yml"):
        score_all(policies, {}, tasks=["piqa"])


def test_an_lm_eval_task_uses_its_own_definition(
    policies: dict[str, Policy], write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    rows = [{"goal": row["question"], "sol1": "w1", "sol2": "w2", "label": row["answer"] % 2} for row in quiz(12)]
    loaded_paths: list[str] = []

    def loaded(path: str, **_: Any) -> datasets.DatasetDict:
        loaded_paths.append(path)
        return datasets.DatasetDict({split: datasets.Dataset.from_list(rows) for split in ("train", "validation")})

    monkeypatch.setattr(datasets, "load_dataset", loaded)
    found = score_all(policies, write(quiz__jsonl=quiz(5)), tasks=["piqa", "quiz"], few_shot={"piqa": 1})
    assert loaded_paths == ["baber/piqa"]
    for scores in found.values():
        kept = [(score.task, score.metric, score.n, score.few_shot, score.items is not None) for score in scores]
        assert kept == [("piqa", "acc", 12, 1, True), ("piqa", "acc_norm", 12, 1, True), ("quiz", "acc", 5, 0, True)]
        assert [score.chance for score in scores] == [0.5, 0.5, 0.25]
    score_all(policies, write(piqa__jsonl=quiz(5)), tasks=["piqa"])
    assert loaded_paths == ["baber/piqa"], "a file of its name has priority"


QUESTION = [{"question": "w1", "choices": ["w2", "w3"], "answer": 0}]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"a__jsonl": QUESTION, "a__yml": "x: 1\nprocess_docs: !function evil.py"}, "a.yml, line 2.*names no code"),
        ({"a__jsonl": QUESTION, "a__yml": "process_docs: evil"}, "process_docs are not allowed"),
        ({"a__jsonl": QUESTION, "a__yml": "dataset_path: somebody/else"}, "dataset_path are not allowed"),
        ({"a__jsonl": QUESTION, "a__yml": "include: other.yml"}, "include are not allowed .write it out"),
        ({"a__jsonl": QUESTION, "a__yml": "metric_list: [{metric: x, hf_evaluate: true}]"}, "without hf_evaluate"),
        (
            {"a__jsonl": QUESTION, "a__yml": "generation_kwargs: {until: [w1], custom_generate: somebody/else}"},
            "generation_kwargs has custom_generate; allowed are",
        ),
        ({"a__jsonl": QUESTION, "a__yml": "task: b"}, "a.yml defines 'b'; name the task as its file"),
        ({"a__jsonl": QUESTION, "a__yml": "- 1"}, "has no keys"),
        ({"a__jsonl": QUESTION, "a__yml": "a: ["}, "a.yml is not valid YAML"),
        ({"a__jsonl": QUESTION, "a__yml": "task: a", "a__yaml": "task: a"}, "a.yml and a.yaml both define a"),
        ({"a__yml": "task: a"}, "put a.jsonl in the same folder"),
        ({"a__examples__jsonl": QUESTION}, "a.examples.jsonl has no items"),
        ({"a__jsonl": ""}, "a.jsonl has no items"),
        ({"a__jsonl": '{"question": "w1"\n'}, "a.jsonl, line 1 is not valid JSON"),
        ({"a__jsonl": "\n[1]\n"}, "a.jsonl, line 2: an item is a JSON object"),
        ({"a__jsonl": [*QUESTION, {**QUESTION[0], "answer": 2}]}, "line 2: `answer` is not the index .* 0 to 1"),
        ({"a__jsonl": [{**QUESTION[0], "answer": True}]}, "`answer` is not the index"),
        ({"a__jsonl": [{**QUESTION[0], "choices": ["w2"]}]}, "`choices` are not two or more"),
        ({"a__jsonl": [{**QUESTION[0], "question": " "}]}, "`question` is not a text; or define the task in a.yml"),
    ],
)
def test_invalid_files_are_named(write: Write, files: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        local_tasks(write(**files), None)


def test_a_metric_is_not_looked_for_on_a_hub(policies: dict[str, Policy], write: Write) -> None:
    definition = "output_type: multiple_choice\ndoc_to_text: question\nmetric_list: [{metric: somebody/else}]"
    with pytest.raises(ValueError, match=r"lm-eval has no metric 'somebody/else', but .*acc"):
        score_all(policies, write(a__jsonl=QUESTION, a__yml=definition))


def test_a_template_reaches_nothing_but_the_item(policies: dict[str, Policy], write: Write) -> None:
    reach = "{{ question.__class__.__mro__[1].__subclasses__() }}"
    definition = f"output_type: multiple_choice\ndoc_to_text: '{reach}'\ndoc_to_choice: choices\ndoc_to_target: answer"
    with pytest.raises(ValueError, match=r"access to attribute '__class__' .* unsafe"):
        score_all(policies, write(a__jsonl=QUESTION, a__yml=definition))


def test_wanted_tasks_come_in_the_order_of_the_configuration(write: Write) -> None:
    files = write(b__jsonl=QUESTION, a__jsonl=QUESTION, a__examples__jsonl=QUESTION)
    assert [task.name for task in local_tasks(files, None)] == ["a", "b"]
    assert [task.name for task in local_tasks(files, ["b", "hellaswag", "a"])] == ["b", "a"]
    assert set(local_tasks(files, ["a"])[0].splits) == {"items", "examples"}


def score(items: list[float], task: str = "quiz", **other: Any) -> Score:
    defaults = {
        "part_of": None,
        "metric": "acc",
        "standard_error": 0.1,
        "few_shot": 0,
        "higher_is_better": True,
        "chance": None,
    }
    mean = sum(items) / len(items)
    return Score(**{"task": task, "score": mean, "n": len(items), "items": tuple(items), **defaults, **other})


def test_a_comparison_is_paired_and_exact() -> None:
    before, after = [1.0] * 8 + [0.0] * 2, [1.0] * 2 + [0.0] * 6 + [1.0, 0.0]
    first, second = scores_of({"base": [score(before)], "final": [score(after)]}, BOOTSTRAP)
    assert first["against"] is None and first["score"] == 0.8
    assert (second["against"], second["lost"], second["won"]) == ("base", 6, 1)
    assert second["p_value"] == pytest.approx(2 * (1 + 7) / 2**7)  # 0 or 1 of 7 fair coins, both sides
    assert second["difference"] == pytest.approx(-0.5) and second["relative"] == pytest.approx(-0.625)
    assert -1 < second["low"] < -0.625 < second["high"] < 0.5


def test_pairing_narrows_the_interval() -> None:
    """The same two scores, on similar items and on different ones."""
    before = [1.0] * 60 + [0.0] * 40
    similar, different = [1.0] * 55 + [0.0] * 45, [0.0] * 45 + [1.0] * 55
    widths = []
    for after in (similar, different):
        row = scores_of({"base": [score(before)], "final": [score(after)]}, BOOTSTRAP)[1]
        assert row["relative"] == pytest.approx(55 / 60 - 1) and row["low"] < row["relative"] < row["high"]
        widths.append(row["high"] - row["low"])
    assert widths[0] < widths[1] / 2


def test_intervals_of_the_relative_difference_hold_their_level() -> None:
    """Coverage of the true relative difference over 400 simulated pairs of policies, within 95 % binomial bounds."""
    covered, truth = 0, 0.6 / 0.75 - 1
    bootstrap = Bootstrap(0.95, 400, 2)
    for number in range(400):
        rng = generator(0, "coverage", number)
        before = (rng.random(150) < 0.75).astype(float)
        after = before * (rng.random(150) < 0.72) + (1 - before) * (rng.random(150) < 0.24)  # 0.75·0.72 + 0.25·0.24
        row = scores_of({"a": [score(list(before))], "b": [score(list(after), few_shot=number)]}, bootstrap)[1]
        covered += row["low"] <= truth <= row["high"]
    assert 0.92 < covered / 400 < 0.98


def test_p_values_are_adjusted_for_configured_tasks_and_not_for_their_parts() -> None:
    worse = [1.0] * 4 + [0.0] * 6
    before = [score([1.0] * 10, task) for task in ("a", "b")] + [score([1.0] * 10, "part", part_of="b")]
    after = [score(worse, task) for task in ("a", "b")] + [score(worse, "part", part_of="b")]
    rows = [row for row in scores_of({"x": before, "y": after}, BOOTSTRAP) if row["policy"] == "y"]
    alone = 2 / 2**6
    assert [row["p_value"] for row in rows] == [alone] * 3
    assert [row.get("p_adjusted") for row in rows] == [2 * alone, 2 * alone, None]


def test_scores_without_items_or_without_a_ratio_have_no_interval() -> None:
    perplexity = score([3.0, 5.0], "ppl", higher_is_better=False)
    zero = score([0.0, 0.0], "zero")
    whole = replace(score([1.0, 0.0], "whole"), items=None)
    rows = scores_of({"a": [perplexity, zero, whole], "b": [perplexity, zero, whole]}, BOOTSTRAP)[3:]
    assert [(row.get("relative"), row.get("low"), row["p_value"]) for row in rows] == [
        (0.0, None, None),
        (None, None, 1.0),
        (0.0, None, None),
    ]


def test_items_count_only_where_the_score_is_their_mean() -> None:
    assert mean_of([1.0, 0.0], 0.5) == (1.0, 0.0)
    assert mean_of([1.0, 0.0], 0.6) is None
    assert mean_of([], 0.5) is None and mean_of([1.0, None], 0.5) is None


def test_a_group_is_scored_over_the_items_of_its_parts(
    policies: dict[str, Policy], write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = write(one__jsonl=quiz(10, "one"), two__jsonl=quiz(30, "two"))

    def group(name: str, manager: Any) -> dict[str, Any]:
        parts = [benchmarks._from_file(task, manager) for task in local_tasks(files, None)]
        from lm_eval.api.group import Group
        from lm_eval.config.group import GroupConfig

        means = [{"metric": "acc", "weight_by_size": True}]
        made = Group.from_config(GroupConfig(group=name, task=["one", "two"], aggregate_metric_list=means))
        tasks = {task: found for part in parts for task, found in part["tasks"].items()}
        for task in tasks.values():
            made.add(task)
        return {"tasks": tasks, "groups": {name: made}, "group_map": {name: ["one", "two"]}}

    monkeypatch.setattr(benchmarks, "_from_hub", group)
    found = {score.task: score for score in score_all(policies, {}, tasks=["mmlu"], few_shot={"mmlu": 0})["sage_0"]}
    assert {task: score.part_of for task, score in found.items()} == {"mmlu": None, "one": "mmlu", "two": "mmlu"}
    assert found["mmlu"].items == (found["one"].items or ()) + (found["two"].items or ())
    assert found["mmlu"].n == 40 and found["mmlu"].score == pytest.approx(sum(found["mmlu"].items or ()) / 40)


def test_the_report_shows_losses_and_no_parts_of_groups(contents: dict[str, Any]) -> None:
    def section(scores: DataFrame) -> str:
        return report_benchmarks(contents["params:evaluation"], scores)

    scores = contents["benchmark_scores"]
    text = section(pd.concat([scores, scores.assign(task="part", part_of="quiz")]))
    assert "<b>quiz</b>" not in text and "&lt;b&gt;quiz&lt;/b&gt;" in text
    cells = re.sub(r"<[^>]+>", " ", text.split("<tbody>")[1].split("</tbody>")[0]).split()
    assert cells[1:8] == ["acc", "sage_dpo", "10", "0.900", "±", "0.150", "0.500"]
    assert cells[8:13] == ["±", "0.150", "0.250", "-44.4", "%"]
    (mark, _) = re.findall('class="mark" x="([0-9.]+)%"', text.split("<tbody>")[1])[:2]
    assert mark == "25.0"
    assert "-44.4" in cells and cells[-4:] == ["4", "0", "0.12", "0.12"]
    assert "No benchmark was run." in section(scores[:0])
