"""`kedro sage export`: a policy as a folder that plain transformers, PEFT and vLLM load, with its model card."""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click
from kedro.framework.cli.utils import env_option

from sage_dialog.commands.policies import BASE, Project
from sage_dialog.core.paths import display_path

if TYPE_CHECKING:
    from kedro.framework.startup import ProjectMetadata

    from sage_dialog.core.policies import Policy


@click.command()
@env_option
@click.option("--policy", "name", default="sage_dpo", show_default=True, help="One of the catalog's, not the base.")
@click.option("--version", help="Of the policy.  [default: the latest]")
@click.option(
    "--to",
    "target",
    required=True,
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="The folder to write; it must be new or empty.",
)
@click.option("--merge", is_flag=True, help="Work the adapter into the base: one whole model, as large as the base.")
@click.option("--json", "as_json", is_flag=True, help="Say what was written as JSON.")
@click.pass_obj
def export(
    metadata: ProjectMetadata, env: str | None, name: str, version: str | None, target: Path, merge: bool, as_json: bool
) -> None:
    """Write a policy as a folder that others load.

    Without --merge it holds the adapter. One on a base from a hub names that base and its commit; a base of this
    machine is put beside it, into DIR/base. With --merge it is one whole model, which is what vLLM needs where the
    adapter changes experts.

    The folder has the tokenizer with its chat template, a generation config that samples as in evaluation, and a
    model card, README.md: versions of the data, recipe, and what was measured on these very weights. It appears whole
    or not at all.
    """
    target = target.absolute()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise click.UsageError(f"--to: {target} is there and not an empty folder; name a new one.")
    out = sys.stdout
    if as_json:  # alone on stdout, where the log goes otherwise
        click.get_current_context().with_resource(contextlib.redirect_stdout(sys.stderr))
    project = Project.open(metadata, env)
    policy, version = _policy(project, name, version)
    if policy.card.kind != "adapter":
        raise click.UsageError(f"--policy: {name} is the base, whole as it lies in {display_path(policy.path)}.")
    base = project.policy(BASE)

    from safetensors import SafetensorError

    from sage_dialog.commands.provenance import model_card
    from sage_dialog.config import SamplingConfig
    from sage_dialog.core.atomic_files import atomic_folder
    from sage_dialog.export.folder import export_policy
    from sage_dialog.export.model_card import FILE, render_model_card
    from sage_dialog.hooks.run_record import runs_at

    runs = runs_at(Path(metadata.project_path), env)
    card = model_card(project, runs, policy, version, merge, target, env or "local")
    try:
        sampling = SamplingConfig.model_validate(card.recipe["evaluation"]["agent"])
        with atomic_folder(target) as folder:
            export_policy(policy, base, sampling, merge, folder, target)
            (folder / FILE).write_text(render_model_card(card), encoding="utf-8")
    except (OSError, ValueError, SafetensorError) as error:
        raise click.ClickException(f"{name} was not exported: {error}") from error

    files = sorted(file for file in target.rglob("*") if file.is_file())
    size = sum(file.stat().st_size for file in files)
    if as_json:
        told = {
            "policy": name,
            "version": version,
            "revision": card.revision,
            "base": policy.card.base,
            "base_revision": policy.card.base_revision,
            "merged": merge,
            "folder": str(target),
            "files": [str(file.relative_to(target)) for file in files],
            "bytes": size,
            "evaluation": card.results.version if card.results else None,
        }
        click.echo(json.dumps(told, indent=2), file=out)
        return
    what = "merged into its base" if merge else f"an adapter on {policy.card.base}"
    click.echo(f"{name}, version {version}, {what}: {len(files)} files, {size / 1e6:,.1f} MB in {display_path(target)}")
    if card.results is None:
        click.echo("No evaluation in the catalog knows these weights, so the model card has no results.", err=True)


def _policy(project: Project, name: str, version: str | None) -> tuple[Policy, str]:
    """A policy of the catalog and its version."""
    from kedro.io import DatasetError

    from sage_dialog.commands.provenance import at, versions
    from sage_dialog.datasets.policy import PolicyDirectory

    entry = project.catalog.get(name)
    if not isinstance(entry, PolicyDirectory):
        return project.policy(name), ""
    if version is None:
        policy = project.policy(name)
        return policy, str(entry.resolve_load_version())
    if version not in (there := versions(entry)):
        found = f"there are {', '.join(there)}" if there else "there is none"
        raise click.UsageError(f"--version: {name} has no version {version}; {found}.")
    try:
        return at(entry, version).load(), version
    except DatasetError as error:
        raise click.ClickException(str(error)) from error
