"""Benchmarks from local files: their tasks, items, and definitions for lm-eval.

`NAME.jsonl` holds the items of a task, `NAME.examples.jsonl` worked examples to show before a question, and `NAME.yml`
its definition, in lm-eval's own keys. Without a definition, items are multiple choice (`multiple_choice.yml`).
lm-eval's own reader of such files imports the code that they name; here a file is data, and keys that would run code
are errors.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.resources import files as package_files
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

ITEMS, EXAMPLES = "items", "examples"
DEFINITIONS = (".yml", ".yaml")
KEYS = (
    "description", "doc_to_choice", "doc_to_target", "doc_to_text", "fewshot_delimiter", "filter_list", "gen_prefix",
    "generation_kwargs", "metadata", "metric_list", "num_fewshot", "output_type", "repeats", "target_delimiter", "task",
)  # fmt: skip
"""The keys of lm-eval that a definition may have: those that name no code, no other data and no hub."""

GENERATION = ("do_sample", "max_gen_toks", "temperature", "top_k", "top_p", "until")
"""The `generation_kwargs` that a definition may have: transformers' `generate` takes others, some of which run code."""

Item = dict[str, Any]


@dataclass(frozen=True)
class LocalTask:
    """A task from local files: its definition, and its items by split."""

    name: str
    definition: Mapping[str, Any]
    splits: Mapping[str, list[Item]]


def local_tasks(files: Mapping[str, Path], wanted: Iterable[str] | None) -> list[LocalTask]:
    """Return the tasks of `files` that are wanted, in that order; all, sorted by name, if `wanted` is None.

    Raises:
        ValueError: naming the file, and the line or key, that is invalid, and what to do.
    """
    names = sorted({_task(name) for name in files if name.endswith(".jsonl")})
    if alone := sorted(name for name in files if name.endswith(DEFINITIONS) and _task(name) not in names):
        raise ValueError(f"{alone[0]} defines a task without items: put {_task(alone[0])}.jsonl in the same folder")
    return [_local_task(name, files) for name in (names if wanted is None else wanted) if name in names]


def _task(file: str) -> str:
    stem = PurePosixPath(file).stem
    return stem.removesuffix(f".{EXAMPLES}")


def _local_task(name: str, files: Mapping[str, Path]) -> LocalTask:
    defined = [name + ending for ending in DEFINITIONS if name + ending in files]
    if len(defined) > 1:
        raise ValueError(f"{' and '.join(defined)} both define {name}; remove one")
    if f"{name}.jsonl" not in files:
        raise ValueError(f"{name}.{EXAMPLES}.jsonl has no items: put {name}.jsonl in the same folder")
    own = _definition(defined[0], files[defined[0]]) if defined else None
    splits = {
        split: _items(file, files[file], checked=own is None)
        for split, file in ((ITEMS, f"{name}.jsonl"), (EXAMPLES, f"{name}.{EXAMPLES}.jsonl"))
        if file in files
    }
    default = package_files(__package__).joinpath("multiple_choice.yml").read_text()
    return LocalTask(name, _read_yaml("multiple_choice.yml", default) if own is None else own, splits)


def _definition(file: str, path: Path) -> dict[str, Any]:
    """Return the keys of a task file, all of them allowed."""
    definition = _read_yaml(file, path.read_text(encoding="utf-8"))
    if unknown := sorted(set(definition) - set(KEYS)):
        why = "items are in a file of their own, and no code is run" if "include" not in unknown else "write it out"
        raise ValueError(f"{file}: {', '.join(unknown)} are not allowed ({why}); allowed are {', '.join(KEYS)}")
    if definition.get("task", _task(file)) != _task(file):
        raise ValueError(f"{file} defines {definition['task']!r}; name the task as its file, or leave `task` out")
    if unknown := sorted(set(definition.get("generation_kwargs") or ()) - set(GENERATION)):
        raise ValueError(f"{file}: generation_kwargs has {', '.join(unknown)}; allowed are {', '.join(GENERATION)}")
    for metric in definition.get("metric_list") or ():
        if not isinstance(metric, dict) or not isinstance(metric.get("metric"), str) or "hf_evaluate" in metric:
            raise ValueError(f"{file}: a metric is one of lm-eval's own, as {{metric: acc}}, without hf_evaluate")
    return definition


def _read_yaml(file: str, text: str) -> dict[str, Any]:
    try:
        read = yaml.safe_load(text)  # knows no tag such as !function, which in lm-eval names code
    except yaml.constructor.ConstructorError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else "?"
        raise ValueError(f"{file}, line {line}: {error.problem}; a task file is data and names no code") from None
    except yaml.YAMLError as error:
        raise ValueError(f"{file} is not valid YAML: {error}") from None
    if not isinstance(read, dict):
        raise ValueError(f"{file} has no keys; docs/benchmarks.md shows them")
    return read


def _items(file: str, path: Path, checked: bool) -> list[Item]:
    items = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            item = json.loads(line)
        except ValueError as error:
            raise ValueError(f"{file}, line {number} is not valid JSON: {error}") from None
        if not isinstance(item, dict):
            raise ValueError(f"{file}, line {number}: an item is a JSON object")
        if checked and (fault := _fault(item)):
            raise ValueError(f"{file}, line {number}: {fault}; or define the task in {_task(file)}.yml")
        items.append(item)
    if not items:
        raise ValueError(f"{file} has no items; fill or remove it")
    return items


def _fault(item: Item) -> str | None:
    """Return why an item is not multiple choice; None if it is."""
    question, choices, answer = (item.get(key) for key in ("question", "choices", "answer"))
    if not isinstance(question, str) or not question.strip():
        return "`question` is not a text"
    if not isinstance(choices, list) or len(choices) < 2 or not all(isinstance(one, str) and one for one in choices):
        return "`choices` are not two or more texts"
    if isinstance(answer, bool) or not isinstance(answer, int) or not 0 <= answer < len(choices):
        return f"`answer` is not the index of a choice, 0 to {len(choices) - 1}"
    return None
