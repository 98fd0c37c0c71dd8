"""Standard benchmarks of language models before and after training, run by lm-eval (paper Table 2)."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import torch
from datasets import Dataset
from jinja2.sandbox import SandboxedEnvironment
from lm_eval import utils
from lm_eval.api.registry import metric_registry
from lm_eval.evaluator import evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from peft import PeftModel
from transformers import AutoModelForCausalLM
from transformers.utils.logging import disable_progress_bar

from sage_dialog.config import Benchmarks
from sage_dialog.core.policies import Policy
from sage_dialog.core.seeds import derived_seed
from sage_dialog.evaluation.benchmarks.files import EXAMPLES, ITEMS, LocalTask, local_tasks
from sage_dialog.evaluation.benchmarks.scores import Score, mean_of
from sage_dialog.inference.policy_set import PolicySet

if TYPE_CHECKING:
    from transformers import PreTrainedModel

logger = logging.getLogger(__name__)
_task_manager = cache(TaskManager)


def score_policies(
    base: Policy,
    policies: Mapping[str, Policy],
    files: Mapping[str, Path],
    config: Benchmarks,
    seed: int,
    threads: int | None,
) -> dict[str, list[Score]]:
    """Return the scores of `config.policies`, in that order; {} if no task is configured and `files` hold none.

    A task is the one of its name in `files` (docs/benchmarks.md), else lm-eval's, whose items come from a hub or its
    cache.

    Raises:
        ValueError: if a policy, a task or a file is invalid, with what to do.
        RuntimeError: if the items of a task of lm-eval's own cannot be loaded.
    """
    if unknown := [name for name in config.policies if name not in policies]:
        raise ValueError(f"evaluation.benchmarks.policies: there is no {unknown[0]!r}, but {', '.join(policies)}")
    with _log_filters():
        tasks, parts = _tasks(files, config, seed)
        if not tasks:
            logger.warning("No benchmark is configured: evaluation.benchmarks.tasks is null, and there are no files.")
            return {}
        if threads is not None:
            torch.set_num_threads(threads)
        chosen = PolicySet(base, [policies[name] for name in config.policies])
        model = _model(base)
        scores = {}
        for name in config.policies:
            policy = chosen.policy(policies[name].name)
            peft = None
            if policy is base:
                scored = model
            elif policy.has_full_weights:  # lm-eval ties embeddings, which only a whole model lets it do
                scored = _adapted(_model(base), policy).merge_and_unload()
            else:
                scored = peft = _adapted(model, policy)
            lm = HFLM(pretrained=scored, tokenizer=chosen.tokenizer, batch_size=config.batch_size)
            scores[name] = _scores(lm, tasks, parts, config, seed)
            if peft is not None:
                model = peft.unload()
        return scores


@contextmanager
def _log_filters() -> Iterator[None]:
    """Silence lm-eval's warnings of a model and of items that are loaded already, as they are here."""
    loggers = [logging.getLogger(name) for name in ("lm_eval", "lm_eval.api.task", "lm_eval.evaluator")]
    levels = [found.level for found in loggers]
    disable_progress_bar()  # of the weights
    for found in loggers:
        found.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for found, level in zip(loggers, levels, strict=True):
            found.setLevel(level)


def _model(base: Policy) -> PreTrainedModel:
    """Load the base as `TransformersEngine` does, except for the attention, and over all GPUs."""
    gpu = torch.cuda.is_available()
    placed = {"device_map": "auto"} if gpu else {"experts_implementation": "eager"}
    dtype = torch.bfloat16 if gpu else torch.float32
    return AutoModelForCausalLM.from_pretrained(base.path, dtype=dtype, use_safetensors=True, **placed).eval()


def _adapted(model: PreTrainedModel, policy: Policy) -> PeftModel:
    return PeftModel.from_pretrained(model, policy.path, autocast_adapter_dtype=False).eval()


def _tasks(files: Mapping[str, Path], config: Benchmarks, seed: int) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the tasks as lm-eval's TaskManager returns them, and the configured group of each task that is in one."""
    local = {task.name: task for task in local_tasks(files, config.tasks)}
    names = list(local) if config.tasks is None else list(config.tasks)
    if not names:
        return {}, {}
    _sandbox_templates()
    elsewhere = [name for name in names if name not in local]
    # lm-eval's own tasks are fourteen thousand files, which take seconds to read.
    manager = _task_manager(include_defaults=bool(elsewhere))
    for name in elsewhere:
        if name not in manager.task_index:
            meant = get_close_matches(name, manager.all_tasks, 1)
            hint = f"did you mean {meant[0]}? " if meant else ""
            raise ValueError(
                f"evaluation.benchmarks.tasks: {hint}lm-eval has no {name!r}, and the benchmark files "
                f"have no {name}.jsonl"
            )
    if unknown := sorted(set(config.few_shot) - set(names)):
        raise ValueError(f"evaluation.benchmarks.few_shot: {unknown[0]!r} is not among the tasks, {', '.join(names)}")
    loaded: dict[str, Any] = {"tasks": {}, "groups": {}, "group_map": {}}
    parts: dict[str, str] = {}
    for name in names:
        found = _from_file(local[name], manager) if name in local else _from_hub(name, manager)
        for kind, by_name in found.items():
            if kind == "tasks" and (twice := sorted(set(by_name) & set(loaded["tasks"]))):
                raise ValueError(f"evaluation.benchmarks.tasks: {twice[0]} is there twice, once in {name}")
            loaded[kind].update(by_name)
        if name in found["groups"]:
            parts |= {part: name for part in (*found["tasks"], *found["groups"]) if part != name}
        for task in found["tasks"].values():
            if name in config.few_shot:
                task.set_config(key="num_fewshot", value=config.few_shot[name])
            elif task.get_config("num_fewshot") is None:
                task.set_config(key="num_fewshot", value=0)
            if name in local and task.get_config("num_fewshot") and EXAMPLES not in local[name].splits:
                file = f"{name}.{EXAMPLES}.jsonl"
                raise ValueError(f"{name}: to show examples before a question, put {file} in the same folder")
    return loaded, parts


def _sandbox_templates() -> None:
    """Render templates in a sandbox: a template could call any object, and a task file must not run code."""
    plain = utils.env
    utils.env = SandboxedEnvironment(
        loader=plain.loader, undefined=plain.undefined, keep_trailing_newline=plain.keep_trailing_newline
    )
    utils.env.filters.update(plain.filters)


def _from_file(task: LocalTask, manager: TaskManager) -> dict[str, Any]:
    """Load a task with its items from memory, so that no library looks for them elsewhere.

    lm-eval would look for an unknown metric on a hub, and run it.
    """
    for metric in task.definition.get("metric_list") or ():
        if metric["metric"] not in metric_registry:
            known = ", ".join(sorted(metric_registry))
            raise ValueError(f"benchmark {task.name}: lm-eval has no metric {metric['metric']!r}, but {known}")
    config = {
        **task.definition,
        "task": task.name,
        "test_split": ITEMS,
        "fewshot_split": EXAMPLES if EXAMPLES in task.splits else None,
        "custom_dataset": lambda **_: {split: Dataset.from_list(items) for split, items in task.splits.items()},
    }
    try:
        return dict(manager.load([config]))
    except Exception as error:  # of templates, metrics and filters, each with classes of its own
        raise ValueError(f"benchmark {task.name} cannot be loaded from its file: {error!r}") from error


def _from_hub(name: str, manager: TaskManager) -> dict[str, Any]:
    try:
        return {"groups": {}, "group_map": {}, **manager.load([name])}
    except Exception as error:  # of the network, the hub, its cache: each has classes of its own
        raise RuntimeError(
            f"The items of {name} cannot be loaded: {error!r}. Without access to the hub, fill its cache elsewhere "
            f"(HF_HOME), or put {name}.jsonl and {name}.yml among the benchmark files (docs/benchmarks.md)."
        ) from error


def _scores(lm: HFLM, tasks: dict[str, Any], parts: Mapping[str, str], config: Benchmarks, seed: int) -> list[Score]:
    for name, task in tasks["tasks"].items():
        task.set_fewshot_seed(derived_seed(seed, "few-shot examples", name) % 2**32)  # the same for each policy
    found = evaluate(
        lm,
        tasks,
        limit=config.limit,
        bootstrap_iters=1000,  # for standard errors of scores that are not means
        apply_chat_template=config.chat_template,
        fewshot_as_multiturn=config.chat_template,
    )
    return [score for name in found["results"] for score in _scores_of(name, found, tasks, parts)]


def _scores_of(name: str, found: Any, tasks: Mapping[str, Any], parts: Mapping[str, str]) -> Iterator[Score]:
    """Yield a task's or group's score by each metric and each filter of the answers."""
    leaves = _leaves(name, tasks["group_map"])
    for key, score in found["results"][name].items():
        metric, comma, read = key.partition(",")
        if not comma or metric.endswith("_stderr") or not isinstance(score, int | float):
            continue
        samples = [sample for task in leaves for sample in found["samples"][task] if sample["filter"] == read]
        error = found["results"][name].get(f"{metric}_stderr,{read}")
        yield Score(
            task=name,
            part_of=parts.get(name),
            metric=metric if read == "none" else f"{metric} ({read})",
            score=float(score),
            standard_error=float(error) if isinstance(error, int | float) else None,
            n=len(samples),
            few_shot=max(found["n-shot"][task] for task in leaves),
            higher_is_better=found["higher_is_better"].get(name, {}).get(metric) is not False,
            chance=_chance([tasks["tasks"][task] for task in leaves], metric, samples),
            items=mean_of([sample.get(metric) for sample in samples], float(score)),
        )


def _chance(tasks: Sequence[Any], metric: str, samples: Sequence[Mapping[str, Any]]) -> float | None:
    """Return the expected accuracy of guessing: the mean of one over the number of choices."""
    if not metric.startswith("acc") or any(task.get_config("output_type") != "multiple_choice" for task in tasks):
        return None
    # For acc_mutual_info, lm-eval scores each choice once more, without the question.
    choices = [len(sample["resps"]) // (1 + ("acc_mutual_info" in sample["metrics"])) for sample in samples]
    return fmean(1 / number for number in choices)


def _leaves(name: str, group_map: Mapping[str, Sequence[str]]) -> list[str]:
    if name not in group_map:
        return [name]
    return [leaf for child in group_map[name] for leaf in _leaves(child, group_map)]
