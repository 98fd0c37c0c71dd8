"""What differs between two runs: their parameters, inputs, code, packages and surroundings, and what they gave."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from sage_dialog.lineage.records import Read, RunRecord

SECTIONS = ("what was run", "parameters", "inputs", "code", "packages", "outputs")
ABSENT = "–"
_DIGITS = 8  # of a digest, as shown


class Difference(NamedTuple):
    """Something that one run has otherwise than the other, in words.

    `certain` is false of an input or output whose content one of the two does not know.
    """

    section: str
    name: str
    first: str
    second: str
    certain: bool = True


def differences(first: RunRecord, second: RunRecord) -> list[Difference]:
    """In the order of `SECTIONS`. The same content in another version, or made at another time, is no difference.

    Of runs of different nodes, inputs, code and outputs are compared as far as both have them.
    """
    return [
        *_values("what was run", _run(first), _run(second)),
        *_nodes(first, second),
        *_values("parameters", dotted(first.parameters), dotted(second.parameters)),
        *_inputs(first, second),
        *_code(first, second),
        *_values("packages", _packages(first), _packages(second)),
        *_outputs(first, second),
    ]


def dotted(tree: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """The leaves of a tree of parameters by dotted name; a list is a leaf."""
    leaves: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping) and value:
            leaves |= dotted(value, f"{path}{name}.")
        else:
            leaves[f"{path}{name}"] = value
    return leaves


def _values(section: str, first: Mapping[str, Any], second: Mapping[str, Any], short: int = 0) -> Iterator[Difference]:
    def told(value: Any) -> str:
        return str(value)[:short] if short else str(value)

    for name in sorted({*first, *second}):
        if name not in first or name not in second or first[name] != second[name]:
            one, other = (told(side[name]) if name in side else ABSENT for side in (first, second))
            yield Difference(section, name, one, other)


def _run(record: RunRecord) -> dict[str, Any]:
    """What a run was asked for and where it ran. Pins are told by the inputs, the runner changes no result."""
    asked = record.selection.model_dump(exclude={"load_versions", "runner"})
    shown = {name: ", ".join(value) if isinstance(value, tuple) else value for name, value in asked.items() if value}
    return shown | {"environment": record.environment, "platform": record.platform}


def _nodes(first: RunRecord, second: RunRecord) -> Iterator[Difference]:
    if set(first.nodes) != set(second.nodes):
        one, other = (
            ", ".join(name for name in side.nodes if name not in against.nodes) or ABSENT
            for side, against in ((first, second), (second, first))
        )
        yield Difference("what was run", "nodes of one alone", one, other)


def _code(first: RunRecord, second: RunRecord) -> Iterator[Difference]:
    if set(first.nodes) == set(second.nodes):
        yield from _values("code", first.code, second.code, short=_DIGITS)
        return
    both = set(first.code) & set(second.code)
    changed = [name for name in both if first.code[name] != second.code[name]]
    if changed:
        one, other = ({name: side.code[name] for name in changed} for side in (first, second))
    else:  # a definition may be new to a node that both ran
        shared = set(first.nodes) & set(second.nodes)
        one, other = ({name: side.nodes[name].code for name in shared} for side in (first, second))
    yield from _values("code", one, other, short=_DIGITS)


def _packages(record: RunRecord) -> dict[str, str]:
    return {"python": record.python, **record.packages}


def _inputs(first: RunRecord, second: RunRecord) -> Iterator[Difference]:
    for name in _of_both(first, second, "inputs", {*first.reads, *second.reads}):
        one, other = _as_read(first, name), _as_read(second, name)
        if one is None or other is None:
            yield Difference("inputs", name, _read(one), _read(other))
        elif one.made is not None and other.made is not None:
            yield from _values("inputs", dotted({name: one.made}), dotted({name: other.made}))
        elif one.files is not None and other.files is not None:
            yield from _files(name, one, other)
        elif one.content is None or other.content is None:
            if one.version != other.version:
                yield Difference("inputs", name, _read(one), _read(other), certain=False)
        elif one.content != other.content:
            yield Difference("inputs", name, _read(one), _read(other))


def _as_read(record: RunRecord, name: str) -> Read | None:
    """An input; what another run was given may be what this one made itself."""
    if name in record.reads or name not in record.writes:
        return record.reads.get(name)
    written = record.writes[name]
    return Read(version=written.version, sha256=None if written.files else written.sha256, files=written.files)


def _files(name: str, first: Read, second: Read) -> Iterator[Difference]:
    one, other = first.files or {}, second.files or {}
    for file in sorted({*one, *other}):
        a, b = one.get(file), other.get(file)
        if a is None or b is None or None in (a.sha256, b.sha256) or a.sha256 != b.sha256:
            told = [
                f"{each.bytes:,} bytes, {(each.sha256 or 'unread')[:_DIGITS]}" if each else ABSENT for each in (a, b)
            ]
            known = a is None or b is None or None not in (a.sha256, b.sha256)
            if known or a != b:  # remote files of the same size and time count as the same
                yield Difference("inputs", f"{name}/{file}", told[0], told[1], certain=known)


def _outputs(first: RunRecord, second: RunRecord) -> Iterator[Difference]:
    for name in _of_both(first, second, "outputs", {*first.writes, *second.writes}):
        one, other = first.writes.get(name), second.writes.get(name)
        if one is None or other is None or one.sha256 != other.sha256:
            told = [
                f"{each.bytes:,} bytes, {each.sha256[:_DIGITS]}" if each else "not written" for each in (one, other)
            ]
            yield Difference("outputs", name, told[0], told[1])


def _of_both(first: RunRecord, second: RunRecord, side: str, names: set[str]) -> list[str]:
    """Of these datasets those that nodes of both runs have."""
    theirs = [{name for node in record.nodes.values() for name in getattr(node, side)} for record in (first, second)]
    return sorted(names & theirs[0] & theirs[1])


def _read(read: Read | None) -> str:
    if read is None:
        return "not read"
    if read.version:
        return f"{read.version}, {(read.sha256 or 'unread')[:_DIGITS]}"
    return "files" if read.files is not None else "made at each load" if read.made is not None else "unknown"
