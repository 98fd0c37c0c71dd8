"""`kedro sage replay`: a run again on the same inputs, and whether the same came out (docs/reruns.md)."""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import click
from kedro.framework.cli.utils import _split_params, env_option
from kedro.framework.hooks import hook_impl

from sage_dialog.commands.project_state import Project, Trouble, in_trouble
from sage_dialog.core.paths import display_path
from sage_dialog.lineage.replay_plan import Again, CannotReplayError, again, merged, overrides, surroundings
from sage_dialog.lineage.staleness import DECIDE_NOTHING, differences, other_files
from sage_dialog.lineage.staleness import shown as value

if TYPE_CHECKING:
    from kedro.framework.startup import ProjectMetadata
    from kedro.io import DataCatalog
    from kedro.pipeline import Pipeline

    from sage_dialog.lineage.compare import Difference
    from sage_dialog.lineage.records import RunRecord

FOLDER = "replays"
"""In the data folder: what replays made, laid out as that folder is, by the run that they repeat."""


@dataclass(frozen=True)
class Verdict:
    """Whether a replay has made of an output what the run had made, and where not."""

    dataset: str
    identical: bool
    difference: Difference | None
    kept: Path | None

    @property
    def words(self) -> str:
        """The first difference, or why it cannot be told."""
        if self.identical:
            return ""
        return str(self.difference) if self.difference else "what it was is not there any more, only its sha256"


@click.command()
@click.argument("run")
@env_option(help="where the run is looked for; it is repeated in its own environment")
@click.option("--node", "nodes", multiple=True, help="only this node of the run, or this namespace; may be given again")
@click.option("--params", default="", callback=_split_params, help="KEY=VALUE,… that are to be other than they were")
@click.option("--changed-data", is_flag=True, help="go on although raw data is not what it was")
@click.option("--keep", is_flag=True, help="keep what came out identical, too")
@click.option("--yes", is_flag=True, help="do not ask")
@click.option("--json", "as_json", is_flag=True, help="for scripts; with --yes")
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
    """Runs RUN again on the very inputs and parameters that it had, and compares what comes out.

    RUN is a run's name, a beginning of it, a tag, or `latest`. What is not as it was (code, packages, roles,
    parameters) is named before anything runs. What comes out lies in data/replays, as a version of its own: the latest
    versions stay what they are, and nothing becomes stale. What is identical is removed again.

    Exit code: 0 if all is identical, 1 if something differs, 2 if it could not run.
    """
    with contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext(), in_trouble():
        record = _record(metadata, env, run)
        prepared = _Replay(metadata, record, nodes, params)
        if prepared.again.changed and not changed_data:
            what = "\n".join(f"  {words}" for words in prepared.again.changed)
            raise Trouble(
                f"Raw data is not what it was, nothing was run:\n{what}\n--changed-data goes on with what it is."
            )
        _tell(prepared)
        if not yes:
            click.confirm("Run it?", abort=True, err=as_json)
        verdicts = prepared.run(keep)
    if as_json:
        click.echo(json.dumps(_as_json(prepared, verdicts), indent=1))
    else:
        _show(verdicts)
    sys.exit(not all(verdict.identical for verdict in verdicts))


def _record(metadata: ProjectMetadata, env: str | None, run: str) -> RunRecord:
    from sage_dialog.hooks.run_record import runs_at

    runs = runs_at(Path(metadata.project_path), env)
    record = runs.read(run)
    if record.replay_of:  # such as the latest, after a replay
        record = runs.read(record.replay_of)
    if record.fate == "running":
        raise Trouble(f"Run {record.run} is under way.")
    return record


class _Replay:
    """One run to be repeated, with everything that is known before."""

    def __init__(
        self, metadata: ProjectMetadata, record: RunRecord, nodes: Sequence[str], params: Mapping[str, Any]
    ) -> None:
        from sage_dialog.lineage.environment import git_of, machine, packages, python

        self._metadata = metadata
        self.record = record
        self.given = merged(overrides(record.parameters, Project(metadata, record.environment).parameters), params)
        self.project = Project(metadata, record.environment, self.given)
        try:
            self.again: Again = again(record, self.project, nodes)
        except CannotReplayError as error:
            raise Trouble(f"Run {record.run} cannot be repeated: {error}") from None
        self.area = self.project.data / FOLDER / record.run
        self.named = [
            *surroundings(record, git_of(self.project.path), python(), machine(), packages()),
            *self.again.changed,
            *self.again.named,
            *(
                f"parameter {key}: was {value(was)}, is {value(now)}"
                for key, was, now in differences(record.parameters, self.project.parameters)
                if key.partition(".")[0] not in DECIDE_NOTHING
            ),
        ]
        self.name = ""

    def run(self, keep: bool) -> list[Verdict]:
        """Raises Trouble if the run ends with an error."""
        from kedro import runner
        from kedro.framework.session import KedroSession

        from sage_dialog.hooks.run_record import REPLAY_OF

        # What the run read together, the replay may read together, too.
        given = {**self.given, "scratch": str(self.area / "scratch"), "mix_versions": True}
        token = REPLAY_OF.set(self.record.run)
        try:
            with KedroSession.create(
                project_path=self._metadata.project_path, env=self.record.environment, runtime_params=given
            ) as session:
                assert isinstance(session, KedroSession)
                session._hook_manager.register(_Aside(self.project.data, self.area))
                self.name = session.session_id
                session.run(
                    pipeline_names=list(self.record.selection.pipelines),
                    node_names=[node.name for node in self.again.nodes],
                    load_versions=dict(self.again.pins),
                    runner=getattr(runner, self.record.selection.runner)(),
                )
        except click.ClickException:
            raise
        except Exception as error:
            raise Trouble(f"The replay ended with an error: {error}") from error
        finally:
            REPLAY_OF.reset(token)
        others = [other for other in self.project.runs.under_way() if other.replay_of == self.record.run]
        if not others:  # they work there, too
            shutil.rmtree(self.area / "scratch", ignore_errors=True)
        return self._verdicts(keep)

    def _verdicts(self, keep: bool) -> list[Verdict]:
        from sage_dialog.lineage.compare import first_difference

        made = self.project.runs.read(self.name)
        verdicts = []
        for dataset in self.again.outputs:
            before, after = self.record.writes[dataset], made.writes[dataset]
            then, now = self._paths(dataset)
            same = before.sha256 == after.sha256
            there = not same and self._is_as_it_was(dataset)
            difference = first_difference(then, now) if there else None
            identical = same or (there and difference is None)  # the same rows may lie in other bytes
            if identical and not keep:
                _remove(now, self.area)
            verdicts.append(Verdict(dataset, identical, difference, now if now.exists() else None))
        return verdicts

    def _is_as_it_was(self, dataset: str) -> bool:
        """Whether what the run made is there still."""
        written = self.record.writes[dataset]
        if written.version is None:
            return not other_files(written.files, self.project.read(dataset).files)
        try:
            return self.project.content(dataset, written.version).sha256 == written.sha256
        except (OSError, ValueError):
            return False

    def _paths(self, dataset: str) -> tuple[Path, Path]:
        """Where the run has put an output, and where the replay has."""
        entry = self.project.versioned(dataset)
        if entry is None:
            folder = Path(self.project.catalog[dataset].folder)
            return folder, Path(aside(str(folder), self.project.data, self.area))
        then = Path(entry._get_versioned_path(str(self.record.writes[dataset].version)))
        moved = PurePosixPath(aside(str(entry._filepath), self.project.data, self.area))
        return then, Path(moved / self.name / moved.name)


class _Aside:
    """Lets a run write elsewhere than the run that it repeats, so that what is the latest stays so."""

    def __init__(self, data: Path, area: Path) -> None:
        self._data, self._area = data, area

    @hook_impl(tryfirst=True)
    def before_pipeline_run(self, pipeline: Pipeline, catalog: DataCatalog) -> None:
        from sage_dialog.datasets.atomic import AtomicMixin
        from sage_dialog.datasets.raw_folder import RawFolder

        for name in sorted(pipeline.all_outputs()):
            entry = catalog.get(name)
            if isinstance(entry, AtomicMixin):
                if entry._protocol != "file":
                    raise Trouble(f"{name} lies in {entry._filepath}; a replay can write to local folders only.")
                entry._filepath = PurePosixPath(aside(str(entry._filepath), self._data, self._area))
            elif isinstance(entry, RawFolder):
                entry.folder = Path(aside(str(entry.folder), self._data, self._area))


def aside(path: str, data: Path, area: Path) -> str:
    """The place in the area of a replay for what lies at `path`."""
    inner = Path(path).relative_to(data) if Path(path).is_relative_to(data) else Path(Path(path).name)
    return (area / inner).as_posix()


def _remove(made: Path, area: Path) -> None:
    """What a replay has made, and folders that are empty then."""
    if made.is_dir():
        shutil.rmtree(made)
    else:
        made.unlink()
    with suppress(OSError):
        for folder in made.parents:
            if not folder.is_relative_to(area):
                break
            folder.rmdir()


def _tell(prepared: _Replay) -> None:
    record = prepared.record
    click.echo(
        f"Run {record.run} of {', '.join(record.selection.pipelines)} again, nodes: {len(prepared.again.nodes)}, "
        f"inputs at their versions of then: {len(prepared.again.pins)}."
    )
    if prepared.named:
        click.echo("Not as it was:")
        for words in prepared.named:
            click.echo(f"  {words}")


def _show(verdicts: Sequence[Verdict]) -> None:
    from rich.console import Console
    from rich.text import Text

    console, width = Console(), max(len(verdict.dataset) for verdict in verdicts)
    for verdict in verdicts:
        line = Text(verdict.dataset.ljust(width + 2))
        line.append(*("identical", "green") if verdict.identical else ("different", "bold red"))
        console.print(line, soft_wrap=True)
        for words in (verdict.words, f"made now: {display_path(verdict.kept)}" if verdict.kept else ""):
            if words:
                console.print(Text(f"    {words}"), soft_wrap=True)
    number = sum(verdict.identical for verdict in verdicts)
    console.print(f"{number} of {len(verdicts)} identical.", highlight=False)


def _as_json(prepared: _Replay, verdicts: Sequence[Verdict]) -> dict[str, Any]:
    def told(verdict: Verdict) -> dict[str, Any]:
        found = verdict.difference
        return {
            "dataset": verdict.dataset,
            "identical": verdict.identical,
            "difference": vars(found) if found else None,
            "kept": str(verdict.kept) if verdict.kept else None,
        }

    return {
        "run": prepared.record.run,
        "replay": prepared.name,
        "not_as_it_was": prepared.named,
        "outputs": [told(verdict) for verdict in verdicts],
    }
