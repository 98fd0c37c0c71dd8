"""`kedro sage runs`, `show` and `diff`: the recorded runs, one run in detail, and two runs compared."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import click
from kedro.framework.cli.utils import env_option
from kedro.framework.startup import ProjectMetadata
from rich.console import Console

from sage_dialog.commands.console import format_duration, format_first, table
from sage_dialog.commands.project import click_errors, command_errors
from sage_dialog.hooks.errors import with_environment
from sage_dialog.hooks.recording import DISTRIBUTION, config_loader, run_folder
from sage_dialog.hooks.validation import explain_missing_environment, explain_remote_data
from sage_dialog.lineage.environment import package_versions
from sage_dialog.lineage.formatting import flatten
from sage_dialog.lineage.masking import mask_secrets
from sage_dialog.lineage.record_diff import ABSENT, SECTIONS, Difference, record_differences
from sage_dialog.lineage.records import Hardware, InputRecord, RunRecord
from sage_dialog.lineage.run_folder import NoSuchRunError, RunFolder

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
        demo = with_environment("`kedro run --pipelines demo`", env)
        click.echo(f"No runs are recorded yet. Run {demo}, which works on generated data.")
        return
    rows = [
        (run, _duration(record), record.status, format_selection(record), ", ".join(tags.get(run, [])))
        if record
        else (run, "", "unreadable", "", "")
        for run, record in found
    ]
    console = Console()
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
    with click_errors(NoSuchRunError):
        record = folder.load(run)
    tags = _tags_by_run(folder).get(record.run, [])
    if as_json:
        click.echo(json.dumps(record.model_dump(mode="json") | {"status": record.status, "tags": tags}, indent=1))
        return
    console = Console()
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
    folder = open_runs(context.obj, env)
    with command_errors():
        one, other = folder.load(first), folder.load(second)
    found = record_differences(one, other)
    if as_json:
        differences = [each._asdict() for each in found]
        click.echo(json.dumps({"first": one.run, "second": other.run, "differences": differences}, indent=1))
    else:
        console = Console()
        for part in _difference_tables(one, other, found):
            console.print(part)
    context.exit(1 if any(each.certain for each in found) else 2 if found else 0)


def open_runs(metadata: ProjectMetadata, env: str | None) -> RunFolder:
    """Return the run records of the project.

    Raises:
        click.ClickException: if the environment does not exist, or its data folder is not local.
    """
    loader = config_loader(metadata.project_path, env)
    if missing := explain_missing_environment(loader):
        raise click.ClickException(missing)
    if remote := explain_remote_data(loader["globals"]):
        raise click.ClickException(remote)
    return run_folder(metadata.project_path, loader["globals"])


def format_selection(record: RunRecord) -> str:
    """Return what was run, by the options of `kedro run`."""
    selection = record.selection
    parts = [", ".join(selection.pipelines).replace("__default__", "all stages")]
    for option in ("nodes", "from_nodes", "to_nodes", "from_inputs", "to_outputs", "tags", "namespaces"):
        if names := getattr(selection, option):
            what = option.removesuffix("_inputs").removesuffix("_outputs").replace("_", " ")
            parts.append(f"{what} {format_first(names)}")
    if record.replay_of:  # its pins are the inputs of that run
        parts.append(f"replay of {record.replay_of}")
    else:
        parts += [f"{name} of {version}" for name, version in sorted(selection.load_versions.items())]
    parts += ["missing outputs only"] if selection.only_missing_outputs else []
    parts += [f"--env {record.environment}"] if record.environment not in ("base", "local") else []
    return "; ".join(parts)


def _tags_by_run(folder: RunFolder) -> dict[str, list[str]]:
    by_run: dict[str, list[str]] = {}
    with click_errors(NoSuchRunError):
        for name, run in sorted(folder.tags().items()):
            by_run.setdefault(run, []).append(name)
    return by_run


def _seconds(record: RunRecord) -> float | None:
    """Return the duration of a run, so far for a running one; None for a killed one."""
    if record.ended is None and record.status != "running":
        return None
    ended = datetime.fromisoformat(record.ended) if record.ended else datetime.now(UTC)
    return (ended - datetime.fromisoformat(record.started)).total_seconds()


def _duration(record: RunRecord) -> str:
    return "" if (seconds := _seconds(record)) is None else format_duration(seconds)


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
        "extras": ", ".join(record.extras or ()),
        "hardware": _format_hardware(record.hardware),
        "configuration": record.conf_source if record.conf_source not in (None, "conf") else "",
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


def _format_hardware(hardware: Hardware | None) -> str:
    if hardware is None:
        return ""
    driver = f", driver {hardware.driver}" if hardware.driver else ""
    return f"{hardware.device}{driver}, {hardware.threads} threads of torch"


def _parameter_table(record: RunRecord, configured: Mapping[str, Any] | None) -> Any:
    if configured is None:
        return "Parameters: listed by `--json`; the current configuration cannot be read.\n"
    recorded = flatten(record.parameters)
    if rows := _changes(recorded, flatten(configured)):
        return table("Parameters that differ from the current configuration", ("parameter", "in the run", "now"), rows)
    return f"Parameters: all {len(recorded)} as configured now.\n"


def _package_table(record: RunRecord) -> Any:
    recorded = {"python": record.python, **record.packages}
    if rows := _changes(recorded, {"python": platform.python_version(), **package_versions(DISTRIBUTION)}):
        return table("Packages in other versions than now", ("package", "in the run", "now"), rows)
    return f"Packages: all {len(recorded)} in the versions installed now."


def _changes(recorded: Mapping[str, Any], current: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    rows = [(name, recorded.get(name, ABSENT), current.get(name, ABSENT)) for name in sorted({*recorded, *current})]
    return [(name, str(was), str(now)) for name, was, now in rows if was != now]


def _difference_tables(one: RunRecord, other: RunRecord, found: list[Difference]) -> Iterator[Any]:
    for section in SECTIONS:
        of_section = [each for each in found if each.section == section]
        rows = [(each.name, each.first, each.second, "" if each.certain else "unknown") for each in of_section]
        if rows:
            yield table(section, ("", one.run, other.run, ""), rows)
        elif section == "outputs":
            shared = len({*one.writes} & {*other.writes})
            yield f"\n{section}: {f'{shared} in both, all of the same content' if shared else 'none in both'}"
        else:
            yield f"\n{section}: the same"


def _configured_parameters(metadata: ProjectMetadata, env: str) -> dict[str, Any] | None:
    """Return the current parameters of an environment; None if they cannot be read."""
    try:
        return dict(mask_secrets(config_loader(metadata.project_path, env)["parameters"]))
    except Exception:  # an invalid configuration must not hide the record
        return None


def _format_input(read: InputRecord) -> tuple[str, str]:
    """Return the version and the content of an input."""
    parts = []
    if read.definition is not None:
        tables = [f"{name} {version}" for name, version in read.definition.get("tables", {}).items()]
        parts += [*_model_names(read.definition), *tables]
    if read.files is not None:
        parts.append(f"{len(read.files)} files, {sum(file.bytes for file in read.files.values()):,} bytes")
    if read.version is None:
        return "", ", ".join(parts)
    return read.version or "", (read.sha256 or "")[:16]


def _model_names(definition: Mapping[str, Any]) -> Iterator[str]:
    """Yield the models and the class names in a definition."""
    for name, value in definition.items():
        if isinstance(value, Mapping):
            yield from _model_names(value)
        elif name in ("role", "engine", "model", "repo") and isinstance(value, str):
            yield value.rpartition(".")[2] if name in ("role", "engine") else value
