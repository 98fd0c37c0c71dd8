"""The differences between two run records: selection, parameters, inputs, code, packages, outputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from sage_dialog.lineage.content import File
from sage_dialog.lineage.formatting import flatten
from sage_dialog.lineage.records import InputRecord, OutputRecord, RunRecord

SECTIONS = ("what was run", "parameters", "inputs", "code", "packages", "outputs")
ABSENT = "–"
_DIGITS = 8  # of a digest


class Difference(NamedTuple):
    """A difference between two runs.

    Attributes:
        certain: false where one of the runs did not record the content of an input or output.
    """

    section: str
    name: str
    first: str
    second: str
    certain: bool = True


def record_differences(first: RunRecord, second: RunRecord) -> list[Difference]:
    """Return the differences in the order of `SECTIONS`. Equal content in another version is none.

    For runs of different nodes, inputs, code and outputs are compared as far as both have them.
    """
    return [
        *_compare("what was run", _selection(first), _selection(second)),
        *_compare_hardware(first, second),
        *_compare_nodes(first, second),
        *_compare("parameters", flatten(first.parameters), flatten(second.parameters)),
        *_compare_inputs(first, second),
        *_compare_code(first, second),
        *_compare("packages", {"python": first.python, **first.packages}, {"python": second.python, **second.packages}),
        *_compare_outputs(first, second),
    ]


def _compare(
    section: str, first: Mapping[str, Any], second: Mapping[str, Any], text: Callable[[Any], str] = str
) -> Iterator[Difference]:
    for name in sorted({*first, *second}):
        if name not in first or name not in second or first[name] != second[name]:
            one, other = (text(side[name]) if name in side else ABSENT for side in (first, second))
            yield Difference(section, name, one, other)


def _selection(record: RunRecord) -> dict[str, Any]:
    """Return the options of a run. Pins are compared as inputs; the runner does not change results."""
    options = record.selection.model_dump(exclude={"load_versions", "runner"})
    texts = {name: ", ".join(value) if isinstance(value, tuple) else value for name, value in options.items() if value}
    if record.conf_source not in (None, "conf"):
        texts["configuration"] = record.conf_source
    return texts | {"environment": record.environment, "platform": record.platform}


def _compare_hardware(first: RunRecord, second: RunRecord) -> Iterator[Difference]:
    """Compare what both records have: a run without torch has no hardware, an earlier form no extras."""
    if first.hardware and second.hardware:
        yield from _compare("what was run", first.hardware.model_dump(), second.hardware.model_dump())
    if first.extras is not None and second.extras is not None:
        one, other = (", ".join(record.extras or ()) or ABSENT for record in (first, second))
        yield from _compare("what was run", {"extras": one}, {"extras": other})


def _compare_nodes(first: RunRecord, second: RunRecord) -> Iterator[Difference]:
    if set(first.nodes) != set(second.nodes):
        one = [name for name in first.nodes if name not in second.nodes]
        other = [name for name in second.nodes if name not in first.nodes]
        yield Difference("what was run", "nodes in one run only", ", ".join(one) or ABSENT, ", ".join(other) or ABSENT)


def _compare_code(first: RunRecord, second: RunRecord) -> Iterator[Difference]:
    if first.format != second.format:
        yield Difference("code", "form of the record", str(first.format), str(second.format), certain=False)
        return
    one, other = first.code, second.code
    if set(first.nodes) != set(second.nodes):
        changed = [name for name in set(one) & set(other) if one[name] != other[name]]
        if changed:
            one, other = ({name: side.code[name] for name in changed} for side in (first, second))
        else:  # a definition may be new to a node that both ran
            shared = set(first.nodes) & set(second.nodes)
            one, other = ({name: side.nodes[name].code for name in shared} for side in (first, second))
    yield from _compare("code", one, other, lambda digest: digest[:_DIGITS])


def _compare_inputs(first: RunRecord, second: RunRecord) -> Iterator[Difference]:
    for name in _shared(first, second, "inputs", {*first.reads, *second.reads}):
        one, other = (record.reads.get(name) or record.output_as_input(name) for record in (first, second))
        if one is None or other is None:
            yield Difference("inputs", name, _format_input(one), _format_input(other))
            continue
        described = one.definition is not None and other.definition is not None
        if one.definition is not None and other.definition is not None:
            yield from _compare("inputs", flatten({name: one.definition}), flatten({name: other.definition}))
        if one.files is not None and other.files is not None:
            yield from _compare_files(name, one.files, other.files)
        elif not described:
            certain = one.content is not None and other.content is not None
            if one.content != other.content if certain else one.version != other.version:
                yield Difference("inputs", name, _format_input(one), _format_input(other), certain)


def _compare_files(name: str, first: Mapping[str, File], second: Mapping[str, File]) -> Iterator[Difference]:
    for file in sorted({*first, *second}):
        one, other = first.get(file), second.get(file)
        certain = one is None or other is None or None not in (one.sha256, other.sha256)
        # Files on an object store have no digest: those of equal size and time count as equal.
        if one.sha256 != other.sha256 if one and other and certain else one != other:
            yield Difference("inputs", f"{name}/{file}", _format_file(one), _format_file(other), certain)


def _compare_outputs(first: RunRecord, second: RunRecord) -> Iterator[Difference]:
    for name in _shared(first, second, "outputs", {*first.writes, *second.writes}):
        one, other = first.writes.get(name), second.writes.get(name)
        if one is None or other is None or one.sha256 != other.sha256:
            texts = [_format_file(side) if side else "not written" for side in (one, other)]
            yield Difference("outputs", name, texts[0], texts[1])


def _shared(first: RunRecord, second: RunRecord, side: str, names: set[str]) -> list[str]:
    """Return those of the datasets that are inputs, or outputs, of nodes in both runs."""
    for record in (first, second):
        names = names & {name for node in record.nodes.values() for name in getattr(node, side)}
    return sorted(names)


def _format_file(file: File | OutputRecord | None) -> str:
    return f"{file.bytes:,} bytes, {(file.sha256 or 'unread')[:_DIGITS]}" if file else ABSENT


def _format_input(read: InputRecord | None) -> str:
    if read is None:
        return "not read"
    if read.version:
        return f"{read.version}, {(read.sha256 or 'unread')[:_DIGITS]}"
    return "files" if read.files is not None else "a definition" if read.definition is not None else "unknown"
