"""`kedro sage fetch`: corpora with a public address, checked by their hash; for the others what to do by hand."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click
from kedro.framework.cli.utils import env_option
from kedro.framework.startup import ProjectMetadata
from rich.console import Console

from sage_dialog.commands.console import empty_table
from sage_dialog.commands.project import Project
from sage_dialog.core.atomic_files import atomic_file
from sage_dialog.core.paths import display_path
from sage_dialog.corpora.labelled.origins import Origin, origins
from sage_dialog.datasets.raw_folder import GENERATED, RawFolder


@click.command()
@click.argument("corpora", nargs=-1, metavar="[CORPUS]...")
@env_option
@click.pass_obj
def fetch(metadata: ProjectMetadata, corpora: tuple[str, ...], env: str | None) -> None:
    """Fetch corpora of dialogues into their raw folders. Without a CORPUS, list all with their licences.

    A file is kept only if its sha256 is the one that docs/corpora.md names; one that is there already is not fetched
    again. By fetching a corpus you accept its licence. Corpora without a public address are fetched by hand: the
    command says from where.
    """
    known = origins()
    if unknown := [name for name in corpora if name not in known]:
        raise click.UsageError(f"{', '.join(unknown)}: no such corpus; there are {', '.join(known)}.")
    project = Project(metadata, env)
    if not corpora:
        _print_all(known, project)
        return
    by_hand = [name for name in corpora if known[name].url is None]
    for name in corpora:
        if name not in by_hand:
            _fetch(name, known[name], _folder(project, known[name]))
    if by_hand:
        steps = (f"{name} ({known[name].licence}): {known[name].by_hand}\nPut the files into "
                 f"{display_path(_folder(project, known[name]))}." for name in by_hand)  # fmt: skip
        raise click.ClickException("No public address to fetch from.\n" + "\n".join(steps))


def _fetch(name: str, origin: Origin, folder: Path) -> None:
    try:
        import pooch
    except ImportError:
        raise click.ClickException("pooch fetches files and is not installed: pip install '.[corpora]'") from None
    if (folder / GENERATED).exists():
        raise click.ClickException(
            f"{display_path(folder)} holds generated data. Keep real data elsewhere: SAGE_DATA=another/folder kedro "
            f"sage fetch {name}"
        )
    path = folder / str(origin.file)
    if not (path.is_file() and pooch.file_hash(str(path), "sha256") == origin.sha256):
        click.echo(f"Fetching {name} from {origin.url}", err=True)
        try:
            # Not pooch.retrieve: a killed one leaves a file that a reader of the folder may take for data.
            with atomic_file(path) as partial:
                pooch.HTTPDownloader(progressbar=sys.stderr.isatty())(origin.url, str(partial), None)
                found, size = pooch.file_hash(str(partial), "sha256"), partial.stat().st_size
                if found != origin.sha256:
                    raise click.ClickException(
                        f"{origin.url} has other bytes than published: {size:,} bytes with sha256 {found}, not "
                        f"{origin.sha256}. No file was kept."
                    )
        except click.ClickException:
            raise
        except Exception as error:  # of requests, urllib3, the disk: each has classes of its own
            hint = f" {origin.by_hand}" if origin.by_hand else ""
            raise click.ClickException(
                f"{name} cannot be fetched from {origin.url}: {_reason(error)}. Run the command again, or put "
                f"{origin.file} (sha256 {origin.sha256}) into {display_path(folder)} by hand.{hint}"
            ) from error
    click.echo(f"{name}: {display_path(path)} ({origin.licence})")


def _reason(error: Exception) -> str:
    if type(error).__name__ == "ChunkedEncodingError":  # of requests, whatever the encoding
        return "the connection was lost before the end of the file"
    return str(error).rstrip(".")


def _folder(project: Project, origin: Origin) -> Path:
    entry: Any = project.catalog.get(origin.entry)
    if not isinstance(entry, RawFolder) or not isinstance(entry.folder, Path):
        raise click.ClickException(f"The catalog entry {origin.entry} is no local folder.")
    return entry.folder


def _print_all(known: dict[str, Origin], project: Project) -> None:
    table = empty_table()
    for heading in ("corpus", "licence", "from", "into"):
        table.add_column(heading, overflow="fold")
    for name, origin in known.items():
        table.add_row(
            name,
            origin.licence,
            origin.url or f"by hand: kedro sage fetch {name}",
            str(display_path(_folder(project, origin))),
        )
    Console(highlight=False).print(table)
