"""`kedro sage runs`, `show` and `diff`: the recorded runs, one run in detail, and two runs compared."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click
from kedro.framework.cli.utils import env_option

from sage_dialog.commands.console import format_duration, format_first, table

if TYPE_CHECKING:
    from kedro.framework.startup import ProjectMetadata

    from sage_dialog.lineage.record_diff import Difference
    from sage_dialog.lineage.records import InputRecord, RunFolder, RunRecord

LATEST = 20

json_option = click.option("--json", "as_json", is_flag=True, help="print JSON, for scripts")


@click.command()
@click.option("--all", "show_all", is_flag=True, help=f"list all runs, not only the latest {LATEST}")
@json_option
@env_option
@click.pass_obj
def runs(metadata: ProjectMetadata, show_all: bool, as_json: bool, env: str | None) -> None:
    """List the latest runs: start, duration, outcome, selection.

    Outcomes: done, failed, stopped (by a cap, a server, Ctrl-C), killed (the process is gone), running, and unknown
    (the run may be running on another machine).
    """
    folder = open_runs(metadata, env)
    names = folder.names()
    tags = _tags_by_run(folder)
    chosen = names if show_all else names[:LATEST]
    found = ((run, folder.find(run)) for run in chosen)
    if as_json:
        for run, record in found:
            click.echo(json.dumps(_summary(record, tags) if record else {"run": run, "outcome": "unreadable"}))
        return
    if not names:
        click.echo("No runs are recorded yet. Run `kedro run --pipelines demo`, which works on generated data.")
        return
    rows = []
    for run, record in found:
        if record is None:
            rows.append((run, "", "unreadable", "", ""))
        else:
            selection, labels = format_selection(record), ", ".join(tags.get(run, []))
            rows.append((run, _duration(record), record.status, selection, labels))
    console = _console()
    console.print(table("Runs, the latest first (UTC)", ("run", "took", "outcome", "what was run", "tags"), rows))
    if len(names) > len(chosen):
        console.print(f"{len(names) - len(chosen):,} earlier runs: --all", style="dim")


@click.command()
@click.argument("run", default="latest")
@json_option
@env_option
@click.pass_obj
def show(metadata: ProjectMetadata, run: str, as_json: bool, env: str | None) -> None:
    """Show a run: inputs and outputs with versions and digests, changed parameters, code, packages, cost.

    RUN is an id, a unique beginning of one, `latest` (the default), or a tag.
    """
    folder = open_runs(metadata, env)
    record = load_record(folder, run)
    tags = _tags_by_run(folder).get(record.run, [])
    if as_json:
        click.echo(json.dumps(record.model_dump(mode="json") | {"status": record.status, "tags": tags}, indent=1))
        return
    console = _console()
    for part in _sections(record, tags, _configured_parameters(metadata, record.environment)):
        console.print(part)


@click.command()
@click.argument("first")
@click.argument("second", default="latest")
@json_option
@env_option
@click.pass_context
def diff(context: click.Context, first: str, second: str, as_json: bool, env: str | None) -> None:
    """Compare two runs: parameters, inputs by content, code by definition, packages, outputs.

    FIRST and SECOND are ids, unique beginnings of ids, `latest` (the default of SECOND), or tags.

    Exit code: 0 if nothing differs, 1 if something does, 2 if it is unknown: a run does not exist, or the content of
    an input was not recorded.
    """
    from sage_dialog.lineage.record_diff import record_differences

    folder = open_runs(context.obj, env)
    try:
        one, other = (load_record(folder, run) for run in (first, second))
    except click.ClickException as error:
        error.show()
        context.exit(2)
    found = record_differences(one, other)
    if as_json:
        differences = [each._asdict() for each in found]
        click.echo(json.dumps({"first": one.run, "second": other.run, "differences": differences}, indent=1))
    else:
        console = _console()
        for part in _difference_tables(one, other, found):
            console.print(part)
    context.exit(1 if any(each.certain for each in found) else 2 if found else 0)


def open_runs(metadata: ProjectMetadata, env: str | None) -> RunFolder:
    """Return the run records of the project."""
    from sage_dialog.hooks.recording import run_folder_of_env

    return run_folder_of_env(metadata.project_path, env)


def load_record(folder: RunFolder, run: str) -> RunRecord:
    """Return a run record. Raises click.ClickException if there is none."""
    from sage_dialog.lineage.records import NoSuchRunError

    try:
        return folder.load(run)
    except NoSuchRunError as error:
        raise click.ClickException(str(error)) from None


def format_selection(record: RunRecord) -> str:
    """Return what was run, by the options of `kedro run`."""
    selection = record.selection
    parts = [", ".join(selection.pipelines).replace("__default__", "all stages")]
    for what, names in (
        ("nodes", selection.nodes),
        ("from nodes", selection.from_nodes),
        ("to nodes", selection.to_nodes),
        ("from", selection.from_inputs),
        ("to", selection.to_outputs),
        ("tags", selection.tags),
        ("namespaces", selection.namespaces),
    ):
        parts += [f"{what} {format_first(names)}"] if names else []
    if record.replay_of:  # its pins are the inputs of that run
        parts.append(f"replay of {record.replay_of}")
    else:
        parts += [f"{name} of {version}" for name, version in sorted(selection.load_versions.items())]
    parts += ["missing outputs only"] if selection.only_missing_outputs else []
    parts += [f"--env {record.environment}"] if record.environment not in ("base", "local") else []
    return "; ".join(parts)


def _console() -> Any:
    from rich.console import Console

    return Console()


def _tags_by_run(folder: RunFolder) -> dict[str, list[str]]:
    from sage_dialog.lineage.records import NoSuchRunError

    by_run: dict[str, list[str]] = {}
    try:
        for name, run in sorted(folder.tags().items()):
            by_run.setdefault(run, []).append(name)
    except NoSuchRunError as error:
        raise click.ClickException(str(error)) from None
    return by_run


def _seconds(record: RunRecord) -> float | None:
    """Return the duration of a run, so far for a running one; None for a killed one."""
    if record.ended is None and record.status != "running":
        return None
    ended = datetime.fromisoformat(record.ended) if record.ended else datetime.now(UTC)
    return (ended - datetime.fromisoformat(record.started)).total_seconds()


def _duration(record: RunRecord) -> str:
    seconds = _seconds(record)
    return "" if seconds is None else format_duration(seconds)


def _summary(record: RunRecord, tags: Mapping[str, list[str]]) -> dict[str, Any]:
    return {
        "run": record.run,
        "seconds": _seconds(record),
        "outcome": record.status,
        "what": format_selection(record),
        "environment": record.environment,
        "tags": tags.get(record.run, []),
        "error": record.error,
        "outputs": len(record.writes),
    }


def _sections(record: RunRecord, tags: list[str], configured: Mapping[str, Any] | None) -> Iterator[Any]:
    """Yield the parts of `show`."""
    git = record.git
    complete = sum({*node.outputs} <= {*record.writes} for node in record.nodes.values())
    tree = f"{len(git.changed)} files changed: {format_first(git.changed)}" if git and git.changed else "a clean tree"
    rows = {
        "run": record.run,
        "what": format_selection(record),
        "tags": ", ".join(tags),
        "outcome": record.status + (f": {record.error}" if record.error else ""),
        "took": _duration(record),
        "nodes": f"{complete} of {len(record.nodes)} with all their outputs",
        "runner": record.selection.runner,
        "code": f"{git.revision[:12]}, {tree}" if git else "not in a git repository",
        "definitions": f"{len(record.code):,} definitions of the project reached by the nodes",
        "python": f"{record.python}, {record.platform}",
        "process": f"{record.process.pid} on {record.process.host}",
    }
    yield table("Run", (), [row for row in rows.items() if row[1]])
    yield _parameter_table(record, configured)
    inputs = [(name, *_format_input(read)) for name, read in sorted(record.reads.items())]
    yield table("Inputs", ("dataset", "version", "content"), inputs)
    outputs = [(name, each.node, f"{each.bytes:,}", each.sha256[:16]) for name, each in sorted(record.writes.items())]
    yield table("Outputs", ("dataset", "node", "bytes", "sha256"), outputs)
    if record.spent:
        costs = [(who, f"{s.calls:,.0f}", f"{s.tokens:,.0f}", f"{s.money:,.2f}") for who, s in record.spent.items()]
        yield table("Cost", ("role", "calls", "tokens", "money"), costs)
    if record.answered:
        models = [(role, ", ".join(names)) for role, names in record.answered.items()]
        yield table("Models that replied", (), models)
    yield _package_table(record)


def _parameter_table(record: RunRecord, configured: Mapping[str, Any] | None) -> Any:
    from sage_dialog.lineage.formatting import flatten

    if configured is None:
        return "Parameters: listed by `--json`; the current configuration cannot be read.\n"
    recorded = flatten(record.parameters)
    rows = _changes(recorded, flatten(configured))
    if not rows:
        return f"Parameters: all {len(recorded)} as configured now.\n"
    return table("Parameters that differ from the current configuration", ("parameter", "in the run", "now"), rows)


def _package_table(record: RunRecord) -> Any:
    from sage_dialog.hooks.recording import DISTRIBUTION
    from sage_dialog.lineage.environment import package_versions, python_version

    recorded = {"python": record.python, **record.packages}
    rows = _changes(recorded, {"python": python_version(), **package_versions(DISTRIBUTION)})
    if not rows:
        return f"Packages: all {len(recorded)} in the versions installed now."
    return table("Packages in other versions than now", ("package", "in the run", "now"), rows)


def _changes(recorded: Mapping[str, Any], current: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    from sage_dialog.lineage.record_diff import ABSENT

    rows = [(name, recorded.get(name, ABSENT), current.get(name, ABSENT)) for name in sorted({*recorded, *current})]
    return [(name, str(was), str(now)) for name, was, now in rows if was != now]


def _difference_tables(one: RunRecord, other: RunRecord, found: list[Difference]) -> Iterator[Any]:
    from sage_dialog.lineage.record_diff import SECTIONS

    for section in SECTIONS:
        rows = [
            (each.name, each.first, each.second, "" if each.certain else "unknown")
            for each in found
            if each.section == section
        ]
        if rows:
            yield table(section, ("", one.run, other.run, ""), rows)
        elif section == "outputs":
            shared = len({*one.writes} & {*other.writes})
            yield f"\n{section}: {f'{shared} in both, all of the same content' if shared else 'none in both'}"
        else:
            yield f"\n{section}: the same"


def _configured_parameters(metadata: ProjectMetadata, env: str) -> dict[str, Any] | None:
    """Return the current parameters of an environment; None if they cannot be read."""
    from sage_dialog.hooks.recording import config_loader
    from sage_dialog.lineage.masking import mask_secrets

    try:
        return dict(mask_secrets(config_loader(metadata.project_path, env)["parameters"]))
    except Exception:  # whatever is wrong with the configuration, a record can still be shown
        return None


def _format_input(read: InputRecord) -> tuple[str, str]:
    """Return the version and the content of an input."""
    if read.files is not None:
        return "", f"{len(read.files)} files, {sum(file.bytes for file in read.files.values()):,} bytes"
    if read.definition is not None:
        tables = [f"{name} {version}" for name, version in read.definition.get("tables", {}).items()]
        return "", ", ".join([*_model_names(read.definition), *tables])
    return read.version or "", (read.sha256 or "")[:16]


def _model_names(definition: Mapping[str, Any]) -> Iterator[str]:
    """Yield the models and the class names in a definition."""
    for name, value in definition.items():
        if isinstance(value, Mapping):
            yield from _model_names(value)
        elif name in ("role", "engine", "model", "repo") and isinstance(value, str):
            yield value.rpartition(".")[2] if name in ("role", "engine") else value
