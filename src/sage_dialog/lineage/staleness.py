"""Which outputs are stale: what made them has changed since, or something before them has.

An output is made by a node from inputs, parameters and code. The record of the run that made its latest version says
which these were; where one of them is another now, the output is stale, and so is all that was made from it. What a run
would not make otherwise never makes anything stale: where it keeps unfinished work, what it may spend, wording.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol

from sage_dialog.lineage.code import digest

if TYPE_CHECKING:  # pydantic comes in with the records
    from sage_dialog.lineage.content import Content
    from sage_dialog.lineage.records import File, NodeRecord, Read, RunFolder, RunRecord, Written

DECIDE_NOTHING = frozenset({"scratch", "llm", "mix_versions"})
"""Parameters that say where work is kept, what may be spent, what is allowed: not what comes out."""

State = Literal["fresh", "stale", "missing", "no record", "being made"]
Kind = Literal["input", "parameter", "code", "altered", "together", "upstream"]

_RUNS_UNDER_WAY = 20  # latest records looked at for runs that have not written anything yet
_NAMED = 3  # things that one reason names
_SHOWN = 60  # characters of a value


@dataclass(frozen=True)
class NodeNow:
    """A node as it would run now; names of datasets without parameters."""

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    parameters: tuple[str, ...]


class Present(Protocol):
    """The project as it is at this moment."""

    @property
    def flows(self) -> Mapping[str, Sequence[NodeNow]]:
        """The registered pipelines."""

    @property
    def parameters(self) -> Mapping[str, Any]:
        """The whole tree, as records have it."""

    def is_versioned(self, dataset: str) -> bool: ...

    def latest(self, dataset: str) -> str | None:
        """The latest whole version."""

    def state(self, dataset: str, version: str) -> tuple[int, int] | None:
        """Bytes and time of change of a version; None where that is not known without reading it."""

    def content(self, dataset: str, version: str) -> Content: ...

    def read(self, dataset: str) -> Read:
        """What a run would read of an input without versions; an empty one where that makes nothing stale.

        So it is with tables of earlier runs: a mix may learn from what policies played that had learned from it, and if
        later tables made it stale, nothing would ever be fresh.
        """

    def code(self, node: NodeNow) -> Mapping[str, str]:
        """Every definition that it can reach, its roles' included."""


@dataclass(frozen=True)
class Reason:
    """Why an output is stale: what of it, and that in words."""

    kind: Kind
    what: str
    words: str


@dataclass(frozen=True)
class Standing:
    """An output at its latest version; `run` and `node` made it, `now` would make it again."""

    dataset: str
    state: State
    version: str | None = None
    run: str | None = None
    node: str | None = None
    reasons: tuple[Reason, ...] = ()
    note: str | None = None
    now: NodeNow | None = field(default=None, repr=False)

    def with_reason(self, *reasons: Reason) -> Standing:
        """Stale, for these reasons too."""
        state: State = self.state if self.state == "being made" else "stale"
        return replace(self, state=state, reasons=(*self.reasons, *reasons))


def standings(present: Present, runs: RunFolder) -> list[Standing]:
    """Every output of the registered pipelines, those first that others are made from.

    Only the records of current versions are opened, and the latest few for runs that are under way.
    """
    found = {standing.dataset: standing for standing in _Records(present, runs).each()}
    order = _in_order(found)
    changed = True
    while changed:  # down along inputs, and across to what the same node makes
        changed = False
        for dataset in order:
            standing = found[dataset]
            if standing.state == "fresh" and (reasons := tuple(_from_others(standing, found))):
                found[dataset] = standing.with_reason(*reasons)
                changed = True
    for dataset in order:  # what has reasons of its own may have stale inputs as well
        standing = found[dataset]
        known = {(reason.kind, reason.what) for reason in standing.reasons}
        more = [reason for reason in _from_others(standing, found) if (reason.kind, reason.what) not in known]
        if standing.state == "stale" and more:
            found[dataset] = standing.with_reason(*(reason for reason in more if reason.kind == "upstream"))
    return [found[dataset] for dataset in order]


def plan(found: Iterable[Standing], flows: Mapping[str, Sequence[NodeNow]]) -> list[tuple[str, list[str]]]:
    """The runs that make anew what is stale, and nothing else: of each a registered pipeline and nodes of it, in order.

    One run, where one pipeline has all these nodes.
    """
    runs: list[tuple[set[str], list[NodeNow]]] = []
    for standing in found:
        if standing.state != "stale" or standing.now is None:
            continue
        node = standing.now
        if any(node in nodes for _, nodes in runs):
            continue
        having = {name for name, nodes in flows.items() if node in nodes}
        if runs and (shared := runs[-1][0] & having):
            runs[-1] = (shared, [*runs[-1][1], node])
        else:
            runs.append((having, [node]))
    return [
        (min(sorted(names), key=lambda name: len(flows[name])), [node.name for node in nodes]) for names, nodes in runs
    ]


def differences(before: Any, after: Any, at: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Where two trees differ: dotted key, before, after; a key that is not there is None."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for key in dict.fromkeys((*before, *after)):
            yield from differences(before.get(key), after.get(key), f"{at}.{key}" if at else str(key))
    elif before != after:
        yield at, before, after


class _Records:
    """The outputs, each held against the record of what made it."""

    def __init__(self, present: Present, runs: RunFolder) -> None:
        self._now = present
        self._runs = runs
        self._opened: dict[str, RunRecord | None] = {}
        self._versions: dict[str, str | None] = {}
        self._reads: dict[str, Read] = {}
        self._codes: dict[NodeNow, Mapping[str, str]] = {}
        self._makers: dict[str, list[tuple[str, NodeNow]]] = {}
        for flow, nodes in sorted(present.flows.items(), key=lambda item: len(item[1])):
            for node in nodes:
                for output in node.outputs:
                    self._makers.setdefault(output, []).append((flow, node))
        self._making = dict(self._under_way())

    def each(self) -> Iterator[Standing]:
        for dataset in self._makers:
            if self._now.is_versioned(dataset):
                yield self._standing(dataset, self._latest(dataset))
            elif standing := self._of_raw_data(dataset):
                yield standing

    def _standing(self, dataset: str, version: str | None) -> Standing:
        making = self._making.get(dataset)
        if making and making != version:
            return Standing(dataset, "being made", version, making, note=f"by run {making}, which is under way")
        now = self._makers[dataset][0][1]
        if version is None:
            return Standing(dataset, "missing", now=now)
        record = self._record(version)
        if record is None:
            return Standing(dataset, "no record", version, now=now)
        name = record.writes[dataset].node if dataset in record.writes else _maker(record, dataset)
        if name is None or name not in record.nodes:
            return Standing(dataset, "no record", version, note=f"run {version} did not make it", now=now)
        now = self._node_now(dataset, record, name)
        known = Standing(dataset, "fresh", version, version, name, now=now)
        gone = [one for one in record.nodes[name].inputs if one in record.reads and self._is_gone(one, record)]
        if gone:
            known = replace(known, note=f"made from {', '.join(gone)}, which is not there any more")
        reasons = list(self._reasons(dataset, version, record, record.nodes[name], now))
        return known.with_reason(*reasons) if reasons else known

    def _of_raw_data(self, dataset: str) -> Standing | None:
        """A generated raw folder: it has no version, so the record is that of what was made with it.

        One whose files are others now holds data from outside, which nothing makes; so it is no output.
        """
        node = self._makers[dataset][0][1]
        for sibling in node.outputs:
            version = self._latest(sibling) if self._now.is_versioned(sibling) else None
            record = self._record(version) if version else None
            if version and record and (written := record.writes.get(dataset)):
                if other_files(written.files, self._read(dataset).files):
                    return None
                return replace(self._standing(dataset, version), version=None)
        return Standing(dataset, "being made", now=node) if dataset in self._making else None

    def _reasons(
        self, dataset: str, version: str, record: RunRecord, then: NodeRecord, now: NodeNow
    ) -> Iterator[Reason]:
        for one in then.inputs:
            if one in now.inputs and (words := self._changed_input(one, record)):
                yield Reason("input", one, words)
        for one in sorted(set(now.inputs) ^ set(then.inputs)):
            words = f"it is made from {one} now, too" if one in now.inputs else f"it is not made from {one} any more"
            yield Reason("input", one, words)
        for name in then.parameters:
            top = name.partition(".")[0]
            if top not in DECIDE_NOTHING:
                for key, was, is_now in differences(
                    _at(record.parameters, name), _at(self._now.parameters, name), name
                ):
                    yield Reason("parameter", key, f"{key} was {shown(was)}, is {shown(is_now)}")
        code = self._code(now)
        if digest(code) != then.code:
            changed = [name for name, value in code.items() if record.code.get(name) != value]
            yield Reason("code", now.name, _code_words(changed, record.code))
        if written := record.writes.get(dataset):
            yield from self._altered(dataset, version, written)

    def _changed_input(self, name: str, record: RunRecord) -> str | None:
        """How an input is another than the one that was read; None where it is the same, or gone."""
        read = record.reads.get(name)
        written = record.writes.get(name)
        if self._now.is_versioned(name):
            was = read.version if read else record.run
            latest = self._latest(name)
            if latest is None or was is None or latest == was:
                return None
            later = self._record(latest)
            known = later.writes.get(name) if later else None
            sha256 = read.sha256 if read else written.sha256 if written else None
            same = ", the same content" if known and sha256 and known.sha256 == sha256 else ""
            return f"{name} is of {latest} now, and was of {was}{same}"
        files = read.files if read else written.files if written else None
        now = self._read(name)
        if files is not None and now.files is not None:
            changed = other_files(files, now.files)
            return f"{name} has changed: {listed(changed)}" if changed else None
        if read and read.made is not None and now.made is not None:
            parts = [f"{key} was {shown(was)}, is {shown(new)}" for key, was, new in differences(read.made, now.made)]
            return f"{name} is another: {listed(parts, '; ')}" if parts else None
        return None

    def _altered(self, dataset: str, version: str, written: Written) -> Iterator[Reason]:
        state = self._now.state(dataset, version) if written.files is None else None
        if state is None or state == (written.bytes, written.modified_ns):
            return
        if self._now.content(dataset, version).sha256 != written.sha256:
            yield Reason("altered", dataset, "it has changed since it was written")

    def _node_now(self, dataset: str, record: RunRecord, name: str) -> NodeNow:
        """What would make it now: in the pipelines of its run, else in the smallest that has such a node."""
        makers = self._makers[dataset]
        of_run = [maker for maker in makers if maker[0] in record.selection.pipelines]
        then = set(record.nodes[name].inputs)
        fitting = [maker for maker in of_run or makers if set(maker[1].inputs) == then]
        return (fitting or of_run or makers)[0][1]

    def _is_gone(self, name: str, record: RunRecord) -> bool:
        return bool(record.reads[name].version) and self._now.is_versioned(name) and self._latest(name) is None

    def _under_way(self) -> Iterator[tuple[str, str]]:
        """By dataset, the run that is making it at this moment."""
        latest = {version for name in self._makers if self._now.is_versioned(name) and (version := self._latest(name))}
        for run in sorted({*self._runs.names()[:_RUNS_UNDER_WAY], *latest}):
            record = self._record(run)
            if record and not record.replay_of and record.fate == "running":
                for node in record.nodes.values():
                    for output in node.outputs:
                        if output not in record.writes:
                            yield output, run

    def _latest(self, dataset: str) -> str | None:
        if dataset not in self._versions:
            self._versions[dataset] = self._now.latest(dataset)
        return self._versions[dataset]

    def _record(self, run: str) -> RunRecord | None:
        if run not in self._opened:
            self._opened[run] = self._runs.find(run)
        return self._opened[run]

    def _read(self, dataset: str) -> Read:
        if dataset not in self._reads:
            self._reads[dataset] = self._now.read(dataset)
        return self._reads[dataset]

    def _code(self, node: NodeNow) -> Mapping[str, str]:
        if node not in self._codes:
            self._codes[node] = self._now.code(node)
        return self._codes[node]


def _from_others(standing: Standing, found: Mapping[str, Standing]) -> Iterator[Reason]:
    """What else is stale that it was made from, or is made with."""
    if standing.now is None:
        return
    above = [one for one in standing.now.inputs if one in found and found[one].state == "stale"]
    for one in above:
        yield Reason("upstream", one, f"{one} is stale")
    for one in standing.now.outputs if not above else ():
        if one != standing.dataset and one in found and found[one].state == "stale":
            yield Reason("together", one, f"it is made together with {one}, which is stale")


def _in_order(found: Mapping[str, Standing]) -> list[str]:
    """Datasets behind those they are made from; those of one node stand together."""
    order: dict[str, None] = {}

    def place(dataset: str, above: frozenset[str]) -> None:
        if dataset in order or dataset not in found or dataset in above:
            return
        maker = found[dataset].now
        for one in maker.inputs if maker else ():
            place(one, above | {dataset})
        for one in (*(maker.outputs if maker else ()), dataset):
            if one in found:
                order.setdefault(one)

    for dataset in found:
        place(dataset, frozenset())
    return list(order)


def _maker(record: RunRecord, dataset: str) -> str | None:
    return next((name for name, node in record.nodes.items() if dataset in node.outputs), None)


def other_files(before: Mapping[str, File] | None, after: Mapping[str, File] | None) -> list[str]:
    """Names of files that are not the same, by size and time, or else by content."""
    before, after = before or {}, after or {}
    return sorted(name for name in {*before, *after} if not _same_file(before.get(name), after.get(name)))


def _same_file(before: File | None, after: File | None) -> bool:
    if before is None or after is None:
        return False
    if before.bytes == after.bytes and before.modified_ns == after.modified_ns:
        return True
    return before.sha256 is not None and before.sha256 == after.sha256


def _at(tree: Mapping[str, Any], dotted: str) -> Any:
    value: Any = tree
    for key in dotted.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _code_words(changed: Collection[str], then: Mapping[str, str]) -> str:
    if not changed:
        return "its code uses less than it did"
    known = [name for name in changed if name in then]
    return f"code has changed: {listed(known or list(changed))}"


def listed(names: Sequence[str], between: str = ", ") -> str:
    """The first few, and how many more."""
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return printable(between.join(names[:_NAMED])) + more


def shown(value: Any) -> str:
    """A value in a reason, shortened."""
    text = printable("not there" if value is None else str(value))
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"


def printable(text: str) -> str:
    """A text on one line, without anything that a terminal would obey: names of files may hold it."""
    return "".join(letter if letter.isprintable() else " " if letter.isspace() else "�" for letter in text)
