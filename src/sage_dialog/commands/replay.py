"""`kedro sage replay`: repeat a run on its recorded inputs and compare the outputs (docs/reruns.md)."""

from __future__ import annotations

import contextlib
import json
import platform
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from kedro import runner
from kedro.framework.cli.utils import env_option
from kedro.framework.hooks import hook_impl
from kedro.framework.startup import ProjectMetadata
from kedro.io import DataCatalog, DatasetError
from kedro.pipeline import Pipeline
from rich.console import Console
from rich.text import Text

from sage_dialog.commands.project import CommandError, Project, command_errors, run_nodes
from sage_dialog.commands.runs import json_option, open_runs
from sage_dialog.commands.status import params_option
from sage_dialog.core.paths import display_path
from sage_dialog.datasets.protocol import TrackedDataset
from sage_dialog.hooks.recording import DISTRIBUTION
from sage_dialog.hooks.run_record import REPLAY_OF
from sage_dialog.lineage.content import changed_files
from sage_dialog.lineage.environment import git_state, installed_extras, package_versions
from sage_dialog.lineage.formatting import format_value, tree_differences
from sage_dialog.lineage.records import RunRecord
from sage_dialog.lineage.replay_plan import (
    CannotReplayError,
    environment_changes,
    merge_trees,
    parameter_overrides,
    plan_replay,
)
from sage_dialog.lineage.staleness import is_covered

if TYPE_CHECKING:  # imports pyarrow
    from sage_dialog.lineage.output_diff import Difference

FOLDER = "replays"
"""The folder of replayed outputs in the data folder: a copy of its layout for each run that was replayed."""


@dataclass(frozen=True)
class Comparison:
    """An output of a replay compared with that of the run.

    Attributes:
        difference: the first difference; None where there is none, or where the original is gone.
        kept: the path of the replayed output, if it was kept.
    """

    dataset: str
    identical: bool
    difference: Difference | None
    kept: Path | None


@click.command()
@click.argument("run")
@env_option(help="environment whose records are searched; the run is repeated in its own")
@click.option("--node", "nodes", multiple=True, help="replay only this node or namespace; can be repeated")
@params_option
@click.option("--changed-data", is_flag=True, help="go on although raw data has changed")
@click.option("--keep", is_flag=True, help="keep identical outputs, too")
@click.option("--yes", is_flag=True, help="do not ask for confirmation")
@json_option
@click.pass_obj
def replay(
    metadata: ProjectMetadata,
    run: str,
    env: str | None,
    nodes: tuple[str, ...],
    params: dict[str, Any],
    changed_data: bool,
    keep: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Repeat RUN on its recorded inputs and parameters, and compare the outputs.

    RUN is an id, a unique beginning of one, a tag, or `latest`. Changes since the run (code, packages, roles,
    parameters) are listed first. Outputs are written to data/replays as new versions: the latest versions stay the
    latest, and nothing becomes stale. Identical outputs are removed afterwards.

    Exit code: 0 if all outputs are identical, 1 if some differ, 2 if the replay failed.
    """
    with contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext(), command_errors():
        prepared = _Replay(metadata, _load_original(metadata, env, run), nodes, params)
        if prepared.plan.changed_data and not changed_data:
            changes = "\n".join(f"  {change}" for change in prepared.plan.changed_data)
            raise CommandError(
                f"Raw data has changed; the run was not started:\n{changes}\n--changed-data uses the current data."
            )
        prepared.print()
        if not yes:
            click.confirm("Run it?", abort=True, err=as_json)
        comparisons = prepared.run(keep)
    if as_json:
        result = {
            "run": prepared.record.run,
            "replay": prepared.name,
            "changes": prepared.changes,
            "outputs": [asdict(one) | {"kept": str(one.kept) if one.kept else None} for one in comparisons],
        }
        click.echo(json.dumps(result, indent=1))
    else:
        _print_comparisons(comparisons)
    sys.exit(not all(one.identical for one in comparisons))


def _load_original(metadata: ProjectMetadata, env: str | None, run: str) -> RunRecord:
    """Return the record of a run, or for a replay, of the run that it repeats."""
    runs = open_runs(metadata, env)
    record = runs.load(run)
    if record.replay_of:
        record = runs.load(record.replay_of)
    if record.status == "running":
        raise CommandError(f"Run {record.run} is still running.")
    return record


def _conf_source(metadata: ProjectMetadata, record: RunRecord) -> str | None:
    """Return where the run read its configuration. Raises CommandError if that is gone."""
    if record.conf_source is None:
        return None
    source = Path(metadata.project_path) / record.conf_source
    if not source.exists():
        raise CommandError(
            f"Run {record.run} cannot be replayed: its configuration, {source}, no longer exists. Put it back there."
        )
    return str(source)


def _extras_changes(record: RunRecord, extras: Sequence[str]) -> list[str]:
    was = record.extras
    if was is None or was == tuple(extras):
        return []
    return [f"installed extras: were {', '.join(was) or 'none'}, are {', '.join(extras) or 'none'}"]


class _Replay:
    """A planned replay; `name` is the id of its run."""

    name: str

    def __init__(
        self, metadata: ProjectMetadata, record: RunRecord, nodes: Sequence[str], params: Mapping[str, Any]
    ) -> None:
        self._metadata = metadata
        self.record = record
        self._conf_source = _conf_source(metadata, record)
        current = Project(metadata, record.environment, conf_source=self._conf_source).recorded_parameters
        overrides = parameter_overrides(record.parameters, current, Project.unaffecting)
        self._params = merge_trees(overrides, params)
        self.project = Project(metadata, record.environment, self._params, self._conf_source)
        try:
            self.plan = plan_replay(record, self.project, nodes)
        except CannotReplayError as error:
            raise CommandError(f"Run {record.run} cannot be replayed: {error}") from None
        self._area = self.project.data / FOLDER / record.run
        git, packages = git_state(self.project.path), package_versions(DISTRIBUTION)
        self.changes = [
            *environment_changes(record, git, platform.python_version(), platform.platform(), packages),
            *_extras_changes(record, installed_extras(DISTRIBUTION)),
            *self.plan.changed_data,
            *self.plan.changes,
        ]
        for key, was, now in tree_differences(record.parameters, self.project.recorded_parameters):
            if not is_covered(key, Project.unaffecting):
                self.changes.append(f"parameter {key}: was {format_value(was)}, is {format_value(now)}")

    def print(self) -> None:
        """Print the plan."""
        click.echo(
            f"Replay of run {self.record.run} ({', '.join(self.record.selection.pipelines)}): "
            f"{len(self.plan.nodes)} nodes, {len(self.plan.pins)} inputs at their recorded versions."
        )
        for line in ("Changed since the run:", *(f"  {change}" for change in self.changes)) if self.changes else ():
            click.echo(line)

    def run(self, keep: bool) -> list[Comparison]:
        """Run and compare. Raises CommandError if the run fails."""
        # A mix of versions that the run was allowed to read is allowed again.
        params = {**self._params, "scratch": str(self._area / "scratch"), "mix_versions": True}
        token = REPLAY_OF.set(self.record.run)
        try:
            self.name = run_nodes(
                self._metadata,
                self.record.environment,
                params,
                _RedirectOutputs(self.project.data, self._area),
                conf_source=self._conf_source,
                pipeline_names=list(self.record.selection.pipelines),
                node_names=[node.name for node in self.plan.nodes],
                load_versions=dict(self.plan.pins),
                runner=getattr(runner, self.record.selection.runner)(),
            )
        finally:
            REPLAY_OF.reset(token)
        if not any(other.replay_of == self.record.run for other in self.project.runs.running()):
            shutil.rmtree(self._area / "scratch", ignore_errors=True)
        replayed = self.project.runs.load(self.name)
        return [self._compare(dataset, replayed, keep) for dataset in self.plan.outputs]

    def _compare(self, dataset: str, replayed: RunRecord, keep: bool) -> Comparison:
        from sage_dialog.lineage.output_diff import first_difference

        identical, difference = self.record.writes[dataset].sha256 == replayed.writes[dataset].sha256, None
        before, after = self._paths(dataset)
        if not identical and self._original_exists(dataset):
            difference = first_difference(before, after)
            identical = difference is None  # equal rows in different bytes
        if identical and not keep:
            _remove(after, self._area)
        return Comparison(dataset, identical, difference, after if after.exists() else None)

    def _original_exists(self, dataset: str) -> bool:
        """Return whether the output of the run exists unaltered."""
        written = self.record.writes[dataset]
        if written.version is None:
            return not changed_files(written.files, self.project.read(dataset).files)
        try:
            return self.project.content(dataset, written.version).sha256 == written.sha256
        except (OSError, ValueError):
            return False

    def _paths(self, dataset: str) -> tuple[Path, Path]:
        """Return the paths of an output of the run and of the replay."""
        version = self.record.writes[dataset].version
        entry = self.project.catalog[dataset]
        moved = entry.at_folder(self.project.data, self._area)
        if version is None:
            return entry.folder, moved.folder
        name = entry.versions_folder.name
        return entry.versions_folder / version / name, moved.versions_folder / self.name / name


class _RedirectOutputs:
    """A hook that moves the outputs of a run to another folder, so that the latest versions stay the latest."""

    def __init__(self, data: Path, area: Path) -> None:
        self._data, self._area = data, area

    @hook_impl(tryfirst=True)
    def before_pipeline_run(self, pipeline: Pipeline, catalog: DataCatalog) -> None:
        for name in sorted(pipeline.all_outputs()):
            entry = catalog.get(name)
            if isinstance(entry, TrackedDataset):
                try:
                    moved = entry.at_folder(self._data, self._area)
                except DatasetError as error:
                    raise CommandError(f"{name} cannot be replayed: {error}") from None
                vars(entry).update(vars(moved))  # in place: Kedro logs a warning for an entry that is replaced


def _remove(path: Path, area: Path) -> None:
    """Remove a replayed output, and folders that are empty then."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    with contextlib.suppress(OSError):
        for folder in path.parents:
            if folder.is_relative_to(area):
                folder.rmdir()


def _print_comparisons(comparisons: Sequence[Comparison]) -> None:
    console, width = Console(), max(len(one.dataset) for one in comparisons)
    for one in comparisons:
        line = Text(one.dataset.ljust(width + 2))
        line.append(*("identical", "green") if one.identical else ("different", "bold red"))
        console.print(line, soft_wrap=True)
        if not one.identical:
            console.print(Text(f"    {one.difference or 'the original no longer exists: compared by sha256'}"))
        if one.kept:
            console.print(Text(f"    replayed: {display_path(one.kept)}"), soft_wrap=True)
    console.print(f"{sum(one.identical for one in comparisons)} of {len(comparisons)} identical.", highlight=False)
