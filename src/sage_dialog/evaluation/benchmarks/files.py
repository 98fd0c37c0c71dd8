"""Benchmarks from local files: which there are, what each item says, how lm-eval is to ask it.

`NAME.jsonl` holds the items of a task, `NAME.examples.jsonl` worked examples to show before a question, and `NAME.yml`
how it is asked, in lm-eval's own keys. Without one, items are multiple choice (`multiple_choice.yml`). lm-eval's own
reader of such files imports the code that they name; here a file is data, and what would run code is refused.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.resources import files as package_files
from pathlib import Path, PurePosixPath
from typing import Any

ITEMS, EXAMPLES = "items", "examples"
DEFINITIONS = (".yml", ".yaml")
KEYS = (
    "description", "doc_to_choice", "doc_to_target", "doc_to_text", "fewshot_delimiter", "filter_list", "gen_prefix",
    "generation_kwargs", "metadata", "metric_list", "num_fewshot", "output_type", "repeats", "target_delimiter", "task",
)  # fmt: skip
"""What of lm-eval's keys a definition may hold: those that name no code, no data elsewhere and no hub."""

GENERATION = ("do_sample", "max_gen_toks", "temperature", "top_k", "top_p", "until")
"""What a definition may say of how answers are generated: transformers' `generate` takes much else, code included."""

Item = dict[str, Any]


@dataclass(frozen=True)
class LocalTask:
    """A task of local files: its definition, and items by split."""

    name: str
    definition: Mapping[str, Any]
    splits: Mapping[str, list[Item]]


def local_tasks(files: Mapping[str, Path], wanted: Iterable[str] | None) -> list[LocalTask]:
    """The tasks that lie in `files` and are wanted, in that order; all, sorted by name, where `wanted` is None.

    Raises:
        ValueError: naming the file, and the line or key, that is not right, and what to do.
    """
    there = sorted({_task(name) for name in files if name.endswith(".jsonl")})
    if alone := sorted(name for name in files if name.endswith(DEFINITIONS) and _task(name) not in there):
        raise ValueError(
            f"{alone[0]} says how items are asked, but there are none: put {_task(alone[0])}.jsonl beside it"
        )
    return [_local_task(name, files) for name in (there if wanted is None else wanted) if name in there]


def _task(file: str) -> str:
    stem = PurePosixPath(file).stem
    return stem.removesuffix(f".{EXAMPLES}")


def _local_task(name: str, files: Mapping[str, Path]) -> LocalTask:
    defined = [name + ending for ending in DEFINITIONS if name + ending in files]
    if len(defined) > 1:
        raise ValueError(f"{' and '.join(defined)} both say how {name} is asked; remove one")
    if f"{name}.jsonl" not in files:
        raise ValueError(f"{name}.{EXAMPLES}.jsonl are examples of nothing: put {name}.jsonl beside it")
    own = _definition(defined[0], files[defined[0]]) if defined else None
    splits = {
        split: _items(file, files[file], checked=own is None)
        for split, file in ((ITEMS, f"{name}.jsonl"), (EXAMPLES, f"{name}.{EXAMPLES}.jsonl"))
        if file in files
    }
    default = package_files(__package__).joinpath("multiple_choice.yml").read_text()
    return LocalTask(name, _read_yaml("multiple_choice.yml", default) if own is None else own, splits)


def _definition(file: str, path: Path) -> dict[str, Any]:
    """The keys of a task file, all of them harmless."""
    definition = _read_yaml(file, path.read_text(encoding="utf-8"))
    if unknown := sorted(set(definition) - set(KEYS)):
        why = "the items lie in a file beside it, and no code is run" if "include" not in unknown else "write it out"
        raise ValueError(f"{file}: {', '.join(unknown)} cannot stand here ({why}); there are {', '.join(KEYS)}")
    if definition.get("task", _task(file)) != _task(file):
        raise ValueError(f"{file} defines {definition['task']!r}; name the task as its file, or leave `task` out")
    if unknown := sorted(set(definition.get("generation_kwargs") or ()) - set(GENERATION)):
        raise ValueError(f"{file}: generation_kwargs has {', '.join(unknown)}, but takes {', '.join(GENERATION)} alone")
    for metric in definition.get("metric_list") or ():
        if not isinstance(metric, dict) or not isinstance(metric.get("metric"), str) or "hf_evaluate" in metric:
            raise ValueError(f"{file}: a metric is one of lm-eval's own, as {{metric: acc}}, without hf_evaluate")
    return definition


def _read_yaml(file: str, text: str) -> dict[str, Any]:
    import yaml

    try:
        read = yaml.safe_load(text)  # knows no tag such as !function, which in lm-eval names code
    except yaml.constructor.ConstructorError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else "?"
        raise ValueError(f"{file}, line {line}: {error.problem}; a task file is data and names no code") from None
    except yaml.YAMLError as error:
        raise ValueError(f"{file} is no YAML: {error}") from None
    if not isinstance(read, dict):
        raise ValueError(f"{file} holds no keys; docs/benchmarks.md shows what it may say")
    return read


def _items(file: str, path: Path, checked: bool) -> list[Item]:
    items = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            item = json.loads(line)
        except ValueError as error:
            raise ValueError(f"{file}, line {number} is no JSON: {error}") from None
        if not isinstance(item, dict):
            raise ValueError(f"{file}, line {number}: an item is a JSON object")
        if checked and (fault := _fault(item)):
            raise ValueError(f"{file}, line {number}: {fault}; or say how it is asked in {_task(file)}.yml")
        items.append(item)
    if not items:
        raise ValueError(f"{file} holds no item; fill or remove it")
    return items


def _fault(item: Item) -> str | None:
    """Why an item is no multiple choice, if it is none."""
    question, choices, answer = (item.get(key) for key in ("question", "choices", "answer"))
    if not isinstance(question, str) or not question.strip():
        return "`question` is no text"
    if not isinstance(choices, list) or len(choices) < 2 or not all(isinstance(one, str) and one for one in choices):
        return "`choices` are not two or more texts"
    if isinstance(answer, bool) or not isinstance(answer, int) or not 0 <= answer < len(choices):
        return f"`answer` is not the place of a choice, 0 to {len(choices) - 1}"
    return None
