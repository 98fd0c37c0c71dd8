"""Detection of runs whose inputs descend from different contents of the same dataset."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from typing import NamedTuple

from sage_dialog.lineage.content import changed_files
from sage_dialog.lineage.formatting import format_names
from sage_dialog.lineage.records import InputRecord
from sage_dialog.lineage.run_folder import RunFolder


class Ancestor(NamedTuple):
    """A dataset that an input of a run was made from, or the input itself.

    Attributes:
        path: names and versions of the datasets made from it, the run's own input first; empty for that input itself.
    """

    name: str
    content: InputRecord
    path: tuple[tuple[str, str | None], ...]

    def __str__(self) -> str:
        if not self.path:
            return f"this run reads {self.content.version or 'its files as they are'}"
        version = self.content.version or "its files as they were"
        return f"{' from '.join(f'{name} {made}' for name, made in self.path)} was made from {version}"


class MixedDataset(NamedTuple):
    """A dataset in two contents among the ancestors of a run's inputs."""

    first: Ancestor
    second: Ancestor

    def __str__(self) -> str:
        files = changed_files(self.first.content.files, self.second.content.files)
        different = f" (different: {format_names(files)})" if files else ""
        return f"{self.first.name}: {self.first}; {self.second}{different}"


class Provenance:
    """The ancestors of versions by their run records. Each record is read once.

    Args:
        latest: the latest version of a dataset. A version counts as made like the latest one if that has the same
            content: what both were made from before may differ, and made no difference.
    """

    def __init__(self, runs: RunFolder, latest: Callable[[str], str | None] = lambda _: None) -> None:
        self.record = cache(runs.find)
        self._latest = cache(latest)

    def inputs(self, name: str, version: str) -> Iterator[tuple[str, InputRecord]]:
        """Yield the inputs of the node that wrote a version of a dataset; none without a record."""
        record = self.record(version)
        node = record.node_of(name) if record else None
        if record is None or node is None:
            return
        for each in record.nodes[node].inputs:
            read = record.reads.get(each) or record.output_as_input(each)
            if read is not None:
                yield each, read
            elif record.node_of(each):  # made by the same run, which was killed before it could record that
                yield each, InputRecord(version=record.run)

    def ancestors(self, inputs: Iterable[tuple[str, InputRecord]]) -> Iterator[Ancestor]:
        """Yield the inputs and everything that they were made from, the nearest first."""
        waiting = [Ancestor(name, read, ()) for name, read in inputs]
        seen: set[tuple[str, str | None]] = set()
        for each in waiting:  # breadth first: the loop appends to it
            version = self._equal_version(each.name, each.content)
            if version and (each.name, version) in seen:
                continue
            seen.add((each.name, version))
            yield each
            if version:
                path = (*each.path, (each.name, each.content.version))
                waiting += [Ancestor(name, read, path) for name, read in self.inputs(each.name, version)]

    def _equal_version(self, name: str, read: InputRecord) -> str | None:
        """Return the latest version of a dataset if it has this content, else the version itself."""
        latest = self._latest(name) if read.version and read.sha256 else None
        record = self.record(latest) if latest else None
        written = record.writes.get(name) if record else None
        return latest if written and written.sha256 == read.sha256 else read.version


def find_mixed_datasets(
    inputs: Mapping[str, InputRecord], runs: RunFolder, latest: Callable[[str], str | None] = lambda _: None
) -> list[MixedDataset]:
    """Return the datasets that the inputs of a run descend from in two different contents, the nearest first.

    What differs before a dataset that came out the same is no difference (see `Provenance`). Entries with a definition
    (roles, engines) may differ between stages. Versions without a record are taken to match.
    """
    first: dict[str, Ancestor] = {}
    mixed: dict[str, MixedDataset] = {}
    for each in Provenance(runs, latest).ancestors(sorted(inputs.items())):
        if each.content.definition is not None or each.content.content is None:
            continue
        one = first.setdefault(each.name, each)
        if each.name not in mixed and not one.content.equals(each.content):
            mixed[each.name] = MixedDataset(one, each)
    return list(mixed.values())
