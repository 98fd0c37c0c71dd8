"""`kedro sage export`: a policy as a folder for transformers, PEFT, vLLM and llama.cpp, with its model card."""

from __future__ import annotations

import contextlib
import json
import shlex
import sys
from pathlib import Path

import click
from kedro.framework.cli.utils import env_option
from kedro.framework.startup import ProjectMetadata
from kedro.io import DatasetError

from sage_dialog.commands.project import Project, click_errors
from sage_dialog.config import SamplingConfig
from sage_dialog.core.atomic_files import atomic_folder
from sage_dialog.core.hub_models import BASE, is_on_hub
from sage_dialog.core.paths import display_path
from sage_dialog.core.policies import Policy
from sage_dialog.export.gguf import FORMATS, convert_to_gguf, find_converter


@click.command()
@env_option
@click.option("--policy", "name", default="sage_dpo", show_default=True, help="A policy of the catalog, not the base.")
@click.option("--version", help="Version of the policy.  [default: the latest]")
@click.option(
    "--to",
    "target",
    required=True,
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="The folder to write, new or empty.",
)
@click.option("--merge", is_flag=True, help="Merge the adapter into the base: a complete model of the same size.")
@click.option(
    "--gguf",
    "number_format",
    type=click.Choice(FORMATS),
    help="Merge, and also convert the model for llama.cpp, in this number format.",
)
@click.option(
    "--converter",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="llama.cpp's convert_hf_to_gguf.py.  [default: the one on PATH]",
)
@click.option(
    "--upload",
    "repository",
    metavar="OWNER/NAME",
    help="Upload the folder to a new or empty repository of the hub, private, with the token in HF_TOKEN.",
)
@click.option("--public", is_flag=True, help="Let anyone read the uploaded repository.")
@click.option("--json", "as_json", is_flag=True, help="Print what was written as JSON.")
@click.pass_obj
def export(
    metadata: ProjectMetadata,
    env: str | None,
    name: str,
    version: str | None,
    target: Path,
    merge: bool,
    number_format: str | None,
    converter: Path | None,
    repository: str | None,
    public: bool,
    as_json: bool,
) -> None:
    """Write a policy to a folder that plain libraries load.

    Without --merge the folder has the adapter, which names its base and commit on the hub; a base of this machine is
    copied to DIR/base. With --merge it has one complete model, which vLLM needs for adapters on experts; with --gguf
    the same model also as one file for llama.cpp.

    The folder also has the tokenizer with its chat template, a generation config with the sampling of the evaluation,
    and a model card, README.md: versions of the data, recipe, and results of these weights. It is written atomically.
    """
    from sage_dialog.export.hub import check_repository_name, create_repository, hub_token, upload_folder

    target = target.absolute()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise click.UsageError(f"--to: {target} exists and is not an empty folder. Name a new one.")
    if (converter and not number_format) or (public and not repository):
        raise click.UsageError("--converter is for --gguf, and --public for --upload.")
    merge = merge or number_format is not None
    command = token = None
    with click_errors(OSError, ValueError, prefix="Nothing was exported: "):
        if number_format:
            command = find_converter(converter)
        if repository:
            check_repository_name(repository)
            token = hub_token()
    out = sys.stdout
    if as_json:  # the log goes to stderr
        click.get_current_context().with_resource(contextlib.redirect_stdout(sys.stderr))
    project = Project(metadata, env)
    policy, version = _load_policy(project, name, version)
    if policy.card.kind != "adapter":
        raise click.UsageError(f"--policy: {name} is the base, complete in {display_path(policy.path)}.")
    base = project.policy(BASE)
    if repository and not merge and not is_on_hub(base.card):
        raise click.UsageError("--upload: the base is on this machine only. Give --merge, for a complete model.")

    from safetensors import SafetensorError

    from sage_dialog.commands.provenance import build_model_card
    from sage_dialog.export.folder import export_policy
    from sage_dialog.export.model_card import FILE, render_model_card

    gguf = f"{Path(name).name}-{number_format}.gguf" if number_format else None
    card = build_model_card(project, policy, version, merge, gguf, target, env or "local")
    if repository and token:
        with click_errors(OSError, ValueError, prefix=f"{name} was not exported: "):
            create_repository(repository, token, public)
    with click_errors(OSError, ValueError, SafetensorError, prefix=f"{name} was not exported: "):
        sampling = SamplingConfig.from_base(**card.recipe["evaluation"]["agent"])
        with atomic_folder(target) as folder:
            export_policy(policy, base, sampling, merge, folder, target)
            if command and number_format and gguf:
                convert_to_gguf(command, folder, number_format, folder / gguf)
            (folder / FILE).write_text(render_model_card(card), encoding="utf-8")

    files = sorted(file for file in target.rglob("*") if file.is_file())
    size = sum(file.stat().st_size for file in files)
    address = None
    if repository and token:
        retry = f"hf upload {repository} {shlex.quote(str(target))}"
        with click_errors(
            OSError, ValueError, prefix=f"{name} was exported, but not uploaded; upload it by `{retry}`. "
        ):
            address = upload_folder(target, repository, token, f"{name}, version {version}")
    if as_json:
        written = {
            "policy": name,
            "version": version,
            "revision": card.revision,
            "base": policy.card.base,
            "base_revision": policy.card.base_revision,
            "merged": merge,
            "gguf": gguf,
            "uploaded": address,
            "folder": str(target),
            "files": [str(file.relative_to(target)) for file in files],
            "bytes": size,
            "evaluation": card.results.version if card.results else None,
        }
        click.echo(json.dumps(written, indent=2), file=out)
        return
    what = "merged into its base" if merge else f"an adapter on {policy.card.base}"
    click.echo(f"{name}, version {version}, {what}: {len(files)} files, {size / 1e6:,.1f} MB in {display_path(target)}")
    if address:
        click.echo(f"Uploaded, {'public' if public else 'private'}: {address}")
    if card.results is None:
        click.echo("The catalog has no evaluation of these weights, so the model card has no results.", err=True)


def _load_policy(project: Project, name: str, version: str | None) -> tuple[Policy, str]:
    """Return a policy of the catalog and its version."""
    if version is None or not project.is_versioned(name):
        return project.policy(name), project.latest(name) or ""
    if version not in (versions := project.versions(name)):
        existing = f"there are {', '.join(versions)}" if versions else "there are no versions"
        raise click.UsageError(f"--version: {name} has no version {version}; {existing}.")
    with click_errors(DatasetError):
        return project.load_version(name, version), version
