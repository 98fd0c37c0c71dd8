"""`kedro sage runs`, `show` and `diff`: what was run, what it read and wrote, and what two runs have otherwise."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import click
from kedro.framework.cli.utils import env_option

if TYPE_CHECKING:
    from kedro.framework.startup import ProjectMetadata
    from rich.console import Group

    from sage_dialog.lineage.differences import Difference
    from sage_dialog.lineage.records import Read, RunFolder, RunRecord

LATEST = 20

as_json = click.option("--json", "as_json", is_flag=True, help="as JSON, for scripts")


@click.command()
@click.option("--all", "everything", is_flag=True, help=f"all runs, not only the latest {LATEST}")
@as_json
@env_option
@click.pass_obj
def runs(metadata: ProjectMetadata, everything: bool, as_json: bool, env: str | None) -> None:
    """The latest runs: when, how long, what became of them, and what was run.

    A run is done, failed, stopped (by a cap, a server, Ctrl-C), killed (its process is gone), running, or unknown: it
    may be under way on another machine.
    """
    folder = runs_in(metadata, env)
    names = folder.names()
    tags = _tags_by_run(folder)
    chosen = names if everything else names[:LATEST]
    found = ((run, folder.find(run)) for run in chosen)
    if as_json:
        for run, record in found:
            click.echo(json.dumps(_in_short(record, tags) if record else {"run": run, "outcome": "unreadable"}))
        return
    if not names:
        click.echo("No run is recorded yet. `kedro run --pipelines demo` makes one, with a generated world.")
        return
    from rich.console import Console

    console = Console()
    console.print(_runs_table(found, tags))
    if len(names) > len(chosen):
        console.print(f"{len(names) - len(chosen):,} earlier ones: --all", style="dim")


@click.command()
@click.argument("run", default="latest")
@as_json
@env_option
@click.pass_obj
def show(metadata: ProjectMetadata, run: str, as_json: bool, env: str | None) -> None:
    """What a run did: its inputs with their versions, its outputs with their digests, code, packages, cost.

    RUN is its name, a beginning of it that no other run has, `latest` (the default), or a tag.
    """
    folder = runs_in(metadata, env)
    record = one_run(folder, run)
    tags = _tags_by_run(folder).get(record.run, [])
    if as_json:
        click.echo(json.dumps(record.model_dump(mode="json") | {"fate": record.fate, "tags": tags}, indent=1))
        return
    from rich.console import Console

    console = Console()
    for part in _sections(record, tags, _configured(metadata, record.environment)):
        console.print(part)


@click.command()
@click.argument("first")
@click.argument("second", default="latest")
@as_json
@env_option
@click.pass_context
def diff(context: click.Context, first: str, second: str, as_json: bool, env: str | None) -> None:
    """What two runs have otherwise: parameters, inputs by content, code by definition, packages, outputs.

    FIRST and SECOND are names, beginnings of names that no other run has, `latest` (the default of SECOND), or tags.

    Ends with 0 where nothing differs, 1 where something does, 2 where it cannot be told: a run is not there, or the
    content of an input is not known.
    """
    from sage_dialog.lineage.differences import differences

    folder = runs_in(context.obj, env)
    try:
        one, other = (one_run(folder, run) for run in (first, second))
    except click.ClickException as error:
        error.show()
        context.exit(2)
    found = differences(one, other)
    if as_json:
        click.echo(
            json.dumps(
                {"first": one.run, "second": other.run, "differences": [each._asdict() for each in found]}, indent=1
            )
        )
    else:
        from rich.console import Console

        console = Console()
        for part in _differences(one, other, found):
            console.print(part)
    context.exit(1 if any(each.certain for each in found) else 2 if found else 0)


def runs_in(metadata: ProjectMetadata, env: str | None) -> RunFolder:
    """The records of the project that the command was called in."""
    from sage_dialog.hooks.run_record import runs_at

    return runs_at(metadata.project_path, env)


def one_run(folder: RunFolder, run: str) -> RunRecord:
    """Raises click.ClickException with what there is where no run goes by this name."""
    from sage_dialog.lineage.records import NoSuchRunError

    try:
        return folder.read(run)
    except NoSuchRunError as error:
        raise click.ClickException(str(error)) from None


def in_words(record: RunRecord) -> str:
    """What was run, as `kedro run` would be told."""
    asked = record.selection
    parts = [", ".join(asked.pipelines).replace("__default__", "all stages")]
    for what, names in (
        ("nodes", asked.nodes),
        ("from nodes", asked.from_nodes),
        ("to nodes", asked.to_nodes),
        ("from", asked.from_inputs),
        ("to", asked.to_outputs),
        ("tags", asked.tags),
        ("namespaces", asked.namespaces),
    ):
        parts += [f"{what} {_few(names)}"] if names else []
    if not record.replay_of:  # which is pinned to the versions of its run
        parts += [f"{name} of {version}" for name, version in sorted(asked.load_versions.items())]
    parts += ["what was missing"] if asked.only_missing_outputs else []
    parts += [f"replay of {record.replay_of}"] if record.replay_of else []
    parts += [f"--env {record.environment}"] if record.environment not in ("base", "local") else []
    return "; ".join(parts)


def long(seconds: float) -> str:
    """A duration as people say it."""
    whole = timedelta(seconds=round(seconds))
    hours, minutes = divmod(whole.seconds // 60 + whole.days * 1440, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {whole.seconds % 60:02} s" if minutes else f"{seconds:.1f} s"


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
    """How long it took, or has taken so far; None of one that was killed."""
    if record.ended is None and record.fate != "running":
        return None
    ended = datetime.fromisoformat(record.ended) if record.ended else datetime.now(UTC)
    return (ended - datetime.fromisoformat(record.started)).total_seconds()


def _in_short(record: RunRecord, tags: Mapping[str, list[str]]) -> dict[str, Any]:
    return {
        "run": record.run,
        "seconds": _seconds(record),
        "outcome": record.fate,
        "what": in_words(record),
        "environment": record.environment,
        "tags": tags.get(record.run, []),
        "error": record.error,
        "outputs": len(record.writes),
    }


def _runs_table(found: Iterable[tuple[str, RunRecord | None]], tags: Mapping[str, list[str]]) -> Group:
    rows = []
    for run, record in found:
        if record is None:
            rows.append((run, "", "unreadable", "", ""))
            continue
        seconds = _seconds(record)
        took = long(seconds) if seconds is not None else ""
        rows.append((run, took, record.fate, in_words(record), ", ".join(tags.get(run, []))))
    return table("Runs, the latest first (UTC)", ("run", "took", "outcome", "what was run", "tags"), rows)


def _sections(record: RunRecord, tags: list[str], configured: Mapping[str, Any] | None) -> Iterator[Any]:
    """What `show` prints, for people."""
    seconds = _seconds(record)
    git = record.git
    whole = sum({*node.outputs} <= {*record.writes} for node in record.nodes.values())
    changed = f", {len(git.changed)} files changed: {_few(git.changed)}" if git and git.changed else ", a clean tree"
    what = {
        "run": record.run,
        "what": in_words(record),
        "tags": ", ".join(tags),
        "outcome": record.fate + (f": {record.error}" if record.error else ""),
        "took": long(seconds) if seconds is not None else "",
        "nodes": f"{whole} of {len(record.nodes)} with all their outputs",
        "runner": record.selection.runner,
        "code": f"{git.revision[:12]}{changed}" if git else "not in a git repository",
        "definitions": f"{len(record.code):,} of the project's, that the nodes can reach",
        "python": f"{record.python}, {record.platform}",
        "process": f"{record.process.pid} on {record.process.host}",
    }
    yield table("The run", (), [row for row in what.items() if row[1]])
    yield _parameters(record, configured)
    yield table(
        "Inputs",
        ("dataset", "version", "content"),
        [(name, *_told(read)) for name, read in sorted(record.reads.items())],
    )
    yield table(
        "Outputs",
        ("dataset", "node", "bytes", "sha256"),
        [(name, each.node, f"{each.bytes:,}", each.sha256[:16]) for name, each in sorted(record.writes.items())],
    )
    if record.spent:
        rows = [(who, f"{s.calls:,.0f}", f"{s.tokens:,.0f}", f"{s.money:,.2f}") for who, s in record.spent.items()]
        yield table("Cost", ("role", "calls", "tokens", "money"), rows)
    if record.answered:
        yield table("Models that replied", (), [(role, ", ".join(said)) for role, said in record.answered.items()])
    yield _packages(record)


def _parameters(record: RunRecord, configured: Mapping[str, Any] | None) -> Any:
    from rich.text import Text

    from sage_dialog.lineage.differences import ABSENT, dotted

    if configured is None:
        return Text("Parameters: `--json` has them all; the configuration as it is now cannot be read.\n")
    then, now = dotted(record.parameters), dotted(configured)
    rows = [
        (name, str(then.get(name, ABSENT)), str(now.get(name, ABSENT)))
        for name in sorted({*then, *now})
        if then.get(name, ABSENT) != now.get(name, ABSENT)
    ]
    if not rows:
        return Text(f"All {len(then)} parameters are as the configuration has them now.\n")
    return table("Parameters otherwise than in the configuration now", ("parameter", "in the run", "now"), rows)


def _packages(record: RunRecord) -> Any:
    from rich.text import Text

    from sage_dialog.lineage import environment as surroundings

    now = {"python": surroundings.python(), **surroundings.packages()}
    then = {"python": record.python, **record.packages}
    rows = [
        (name, then.get(name, "–"), now.get(name, "–"))
        for name in sorted({*then, *now})
        if then.get(name) != now.get(name)
    ]
    if not rows:
        return Text(f"All {len(then)} packages have the versions that are installed now.")
    return table("Packages of other versions than now", ("package", "in the run", "now"), rows)


def _differences(one: RunRecord, other: RunRecord, found: list[Difference]) -> Iterator[Any]:
    from rich.text import Text

    from sage_dialog.lineage.differences import SECTIONS

    for section in SECTIONS:
        rows = [
            (each.name, each.first, each.second, "" if each.certain else "cannot be told")
            for each in found
            if each.section == section
        ]
        if rows:
            yield table(section, ("", one.run, other.run, ""), rows)
        elif section == "outputs":
            both = sorted({*one.writes} & {*other.writes})
            yield Text(
                f"\n{section}: {len(both)} in both, all of the same content" if both else f"\n{section}: none in both"
            )
        else:
            yield Text(f"\n{section}: the same")


def _configured(metadata: ProjectMetadata, env: str) -> dict[str, Any] | None:
    """The parameters of an environment as the configuration has them now."""
    from kedro.framework.project import settings

    from sage_dialog.lineage.masking import masked

    try:
        loader = settings.CONFIG_LOADER_CLASS(
            str(metadata.project_path / settings.CONF_SOURCE), env=env, **settings.CONFIG_LOADER_ARGS
        )
        return dict(masked(loader["parameters"]))
    except Exception:  # a missing environment, a broken file: whatever it is, it does not keep a record from being read
        return None


def _told(read: Read) -> tuple[str, str]:
    if read.files is not None:
        return "", f"{len(read.files)} files, {sum(file.bytes for file in read.files.values()):,} bytes"
    if read.made is not None:
        tables = [f"{name} {version}" for name, version in read.made.get("tables", {}).items()]
        return "", ", ".join([*_leaves(read.made), *tables])
    return read.version or "", (read.sha256 or "")[:16]


def _leaves(made: Mapping[str, Any]) -> Iterator[str]:
    """The models and classes that stand in what made something, shortened to their own names."""
    for name, value in made.items():
        if isinstance(value, Mapping):
            yield from _leaves(value)
        elif name in ("role", "engine", "model", "repo") and isinstance(value, str):
            yield value.rpartition(".")[2] if name in ("role", "engine") else value


def _few(names: Iterable[str], at_most: int = 3) -> str:
    every = list(names)
    return ", ".join(every[:at_most]) + (", …" if len(every) > at_most else "")


def table(title: str, headings: Iterable[str], rows: Iterable[Iterable[str]]) -> Group:
    """For the terminal. Cells are text, never markup: they come from data and from the command line."""
    from rich import box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    headings = tuple(headings)
    made = Table(
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0),
        show_header=bool(headings),
    )
    for number, heading in enumerate(headings or ("", "")):
        made.add_column(heading, no_wrap=number == 0, overflow="fold")
    for row in rows:
        made.add_row(*(Text(str(cell)) for cell in row))
    return Group(Text(f"\n{title}", style="bold"), made)
