"""Compare the data folders of two runs: the content of each table, the weights of each policy, the report.

    python benchmarks/compare_data.py data/before data/after --rename left_out=training_rejects --value sharer=speaker

Only the latest version of each dataset counts. Tables are compared by content, not by bytes: the same columns, in any
order, and the same rows in the same order. Weights are compared tensor by tensor, reports by the numbers in their
tables. Intended renames are options. The exit code is 1 if anything differs; the last line is one JSON object.
"""

from __future__ import annotations

import argparse
import html
import json
import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.numpy import load_file

IGNORED = ("runs", "scratch", "replays", "response_cache", "journal")
"""Folders that hold records and unfinished work, not results."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--rename", action="append", default=[], metavar="OLD=NEW", help="part of a dataset's name")
    parser.add_argument("--column", action="append", default=[], metavar="TABLE.OLD=NEW", help="a renamed column")
    parser.add_argument("--value", action="append", default=[], metavar="OLD=NEW", help="a renamed label in the texts")
    options = parser.parse_args()
    names, columns, values = (parse_pairs(items) for items in (options.rename, options.column, options.value))

    before = {rename(name, names): path for name, path in datasets(options.before).items()}
    after = datasets(options.after)
    differences = [f"{name}: only before" for name in sorted(before.keys() - after.keys())]
    added = sorted(after.keys() - before.keys())
    compared: Counter[str] = Counter()
    for name in sorted(before.keys() & after.keys()):
        kind, found = compare(name, before[name], after[name], columns, values)
        compared[kind] += 1
        differences += [f"{name}: {difference}" for difference in found]
    for line in (*differences, *(f"{name}: only after" for name in added)):
        print(line)
    print(json.dumps({**compared, "different": len(differences), "added": len(added)}))
    sys.exit(bool(differences))


def parse_pairs(items: list[str]) -> dict[str, str]:
    """Parse OLD=NEW items."""
    return dict(item.split("=", 1) for item in items)


def rename(name: str, names: Mapping[str, str]) -> str:
    for old, new in names.items():
        name = name.replace(old, new)
    return name


def datasets(folder: Path) -> dict[str, Path]:
    """Return the latest version of each dataset, or an unversioned raw file, by its name."""
    if not folder.is_dir():
        sys.exit(f"{folder} is not a folder.")
    found: dict[str, Path] = {}
    for layer in sorted(path for path in folder.iterdir() if path.is_dir() and path.name not in IGNORED):
        for entry in sorted(path for path in layer.iterdir() if not path.name.startswith(".")):
            versions = sorted(path for path in entry.iterdir() if path.is_dir()) if entry.is_dir() else []
            if versions and (versions[-1] / entry.name).exists():
                found[f"{layer.name}/{entry.name}"] = versions[-1] / entry.name
            elif entry.is_dir():
                files = (path for path in entry.rglob("*") if path.is_file() and not path.name.startswith("."))
                found |= {str(path.relative_to(folder)): path for path in files}
    return found


def compare(
    name: str, before: Path, after: Path, columns: Mapping[str, str], values: Mapping[str, str]
) -> tuple[str, list[str]]:
    """Return the kind of a dataset and the differences of the two versions."""
    if before.suffix == ".parquet":
        return "tables", list(table_differences(name, pq.read_table(before), pq.read_table(after), columns, values))
    if before.is_dir():
        return "policies", list(policy_differences(before, after))
    if before.suffix == ".html":
        return "reports", list(report_differences(before.read_text("utf-8"), after.read_text("utf-8")))
    return "files", [] if before.read_bytes() == after.read_bytes() else ["other bytes"]


def table_differences(
    name: str, before: pa.Table, after: pa.Table, columns: Mapping[str, str], values: Mapping[str, str]
) -> Iterator[str]:
    stem = Path(name).stem
    before = before.rename_columns([columns.get(f"{stem}.{column}", column) for column in before.column_names])
    if missing := sorted(set(before.column_names) - set(after.column_names)):
        yield f"columns only before: {', '.join(missing)}"
    if added := sorted(set(after.column_names) - set(before.column_names)):
        yield f"columns only after: {', '.join(added)}"
    if len(before) != len(after):
        yield f"{len(before)} rows before, {len(after)} after"
        return
    for column in before.column_names:
        if column not in after.column_names:
            continue
        one, other = before[column].to_pylist(), after[column].to_pylist()
        for row, (left, right) in enumerate(zip(one, other, strict=True)):
            if left != right and rename_label(left, values) != right and not (left != left and right != right):
                yield f"column {column}, row {row}: {left!r:.200} before, {right!r:.200} after"
                break


def rename_label(value: object, values: Mapping[str, str]) -> object:
    """Return a value with its label renamed, which is the whole text or the part before a colon."""
    if not isinstance(value, str):
        return value
    label, colon, rest = value.partition(":")
    return values.get(label, label) + colon + rest


def policy_differences(before: Path, after: Path) -> Iterator[str]:
    weights = {path.relative_to(before): path for path in sorted(before.rglob("*.safetensors"))}
    if not weights:
        yield "no weights before"
    for relative, path in weights.items():
        if not (after / relative).is_file():
            yield f"{relative} only before"
            continue
        one, other = load_file(path), load_file(after / relative)
        if one.keys() != other.keys():
            yield f"{relative}: other tensors"
        elif different := [key for key in sorted(one) if not np.array_equal(one[key], other[key])]:
            yield f"{relative}: {len(different)} of {len(one)} tensors differ, first {different[0]}"


def report_differences(before: str, after: str) -> Iterator[str]:
    one, other = (Counter(table_numbers(report)) for report in (before, after))
    if lost := one - other:
        yield f"numbers only before: {', '.join(f'{number} ({count})' for number, count in lost.most_common(20))}"
    if found := other - one:
        yield f"numbers only after: {', '.join(f'{number} ({count})' for number, count in found.most_common(20))}"


def table_numbers(report: str) -> list[str]:
    """Return the numbers in the cells of a report's tables."""
    cells = re.findall(r"<td[^>]*>(.*?)</td>", report, re.DOTALL)
    texts = (html.unescape(re.sub(r"<[^>]+>", " ", cell)) for cell in cells)
    return [number for text in texts for number in re.findall(r"\d[\d.,]*(?:e-?\d+)?", text)]


if __name__ == "__main__":
    main()
