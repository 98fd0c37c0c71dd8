"""Whether the inputs of a run belong together: no dataset stands behind them in two different contents."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from sage_dialog.lineage.records import Read, RunFolder, RunRecord

_NAMED = 4  # mixes told one by one


class Behind(NamedTuple):
    """A dataset that stands behind an input of the run."""

    name: str
    read: Read
    through: tuple[tuple[str, str | None], ...]
    """The datasets on the way to it with their versions, the run's own input first; empty of that input itself."""


class Mix(NamedTuple):
    """One dataset in two contents."""

    one: Behind
    other: Behind

    def __str__(self) -> str:
        return f"{self.one.name}: {_told(self.one)}; {_told(self.other)}"


class Provenance:
    """What stands behind a version, as far as records tell. Each record is read once."""

    def __init__(self, runs: RunFolder) -> None:
        self._runs = runs
        self._records: dict[str, RunRecord | None] = {}

    def record(self, run: str) -> RunRecord | None:
        """The record of a run, None where there is none that can be read."""
        if run not in self._records:
            self._records[run] = self._runs.find(run)
        return self._records[run]

    def inputs(self, name: str, version: str) -> Iterator[tuple[str, Read]]:
        """What the node read that wrote this version of a dataset; nothing where no record tells."""
        record = self.record(version)
        node = next((node for node in record.nodes.values() if name in node.outputs), None) if record else None
        if record is None or node is None:
            return
        made = {output for other in record.nodes.values() for output in other.outputs}
        for each in node.inputs:
            if each in made and each not in record.reads:  # by the same run
                written = record.writes.get(each)
                yield each, Read(version=record.run, sha256=written.sha256 if written else None)
            elif read := record.reads.get(each):
                yield each, read

    def behind(self, reads: Mapping[str, Read]) -> Iterator[Behind]:
        """Every dataset behind these inputs, themselves included, the nearest first."""
        waiting = [Behind(name, read, ()) for name, read in sorted(reads.items())]
        met: set[tuple[str, str | None]] = set()
        while waiting:
            further = []
            for each in waiting:
                if (key := (each.name, each.read.version)) in met and each.read.version:
                    continue
                met.add(key)
                yield each
                if each.read.version:
                    through = (*each.through, key)
                    further += [Behind(name, read, through) for name, read in self.inputs(each.name, each.read.version)]
            waiting = further


def mixes(reads: Mapping[str, Read], runs: RunFolder) -> list[Mix]:
    """The datasets that stand behind the inputs of a run in two different contents, those nearest to it first.

    What is made at each load (roles, engines) may differ from stage to stage; versions that no record tells of are
    taken to belong.
    """
    first: dict[str, Behind] = {}
    found: dict[str, Mix] = {}
    for each in Provenance(runs).behind(reads):
        if each.read.made is not None or each.read.content is None:
            continue
        one = first.setdefault(each.name, each)
        if each.name not in found and _content(one) != _content(each):
            found[each.name] = Mix(one, each)
    return list(found.values())


def told(found: Iterable[Mix]) -> str:
    """What is mixed, and what to do about it."""
    named = [str(mix) for mix in found]
    more = [f"and {len(named) - _NAMED} more"] if len(named) > _NAMED else []
    return "\n".join(
        [
            "This run would mix versions of one lineage, nothing was run:",
            *(f"  {line}" for line in [*named[:_NAMED], *more]),
            "`kedro sage refresh`, with the --params of the newer one, makes anew what stands on the older; "
            "--load-versions NAME:VERSION,… takes versions that belong together (`kedro sage show RUN` names them); "
            "--params mix_versions=true runs it all the same.",
        ]
    )


def _told(behind: Behind) -> str:
    version = behind.read.version or "its files as they were"
    if not behind.through:
        return f"this run reads {version}"
    through = " from ".join(f"{name} {version}" for name, version in behind.through)
    return f"{through} was made from {version}"


def _content(behind: Behind) -> str:
    return json.dumps(behind.read.content, sort_keys=True)
