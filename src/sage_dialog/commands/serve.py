"""`kedro sage serve`: a policy behind an OpenAI-compatible API, for clients on this machine."""

from __future__ import annotations

from pathlib import Path

import click
from kedro.framework.cli.utils import env_option
from kedro.framework.startup import ProjectMetadata
from rich.console import Console

from sage_dialog.commands.project import Project, click_errors
from sage_dialog.commands.talking import load_policy, policy_options, settings_of

PORT = 4143


@click.command()
@env_option
@policy_options
@click.option(
    "--seed", type=click.IntRange(min=0), help="With it and the seed of a request, a reply is always the same."
)
@click.option("--port", type=click.IntRange(0, 65535), default=PORT, show_default=True, help="0 takes a free port.")
@click.pass_obj
def serve(
    metadata: ProjectMetadata,
    env: str | None,
    name: str | None,
    base: Path | None,
    adapter: Path | None,
    blocks: bool | None,
    seed: int | None,
    port: int,
    hold_form: bool,
) -> None:
    """Serve a policy to OpenAI clients that only this machine can reach; Ctrl-C stops.

    Endpoints: POST /v1/chat/completions, also streamed, and GET /v1/models. Any API key is accepted. Sampling, system
    prompt and steering are those of the chat where a request names none.
    """
    project = Project(metadata, env)
    loaded = load_policy(project, name, base, adapter, blocks)
    policy = loaded.policy
    seed = project.parameters.seed if seed is None else seed
    stderr = Console(stderr=True, highlight=False)

    from sage_dialog.studio import local_server
    from sage_dialog.studio.api.served_policy import ServedPolicy
    from sage_dialog.studio.api.server import make_app

    settings, note = settings_of(project, loaded, hold_form=hold_form)
    if note:
        stderr.print(note, markup=False, soft_wrap=True)
    try:
        listener = local_server.listen(port)
    except local_server.PortTakenError:
        raise click.ClickException(
            f"Port {port} is taken. Take another one: --port {port % 65535 + 1}, or --port 0 for any free one."
        ) from None
    except OSError as error:
        raise click.ClickException(f"Port {port} is not available: {error.strerror}.") from error
    with stderr.status("loading"), click_errors(ValueError, prefix="evaluation.steering, --hold-form: "):
        served = ServedPolicy(lambda: loaded.open_engine(seed), policy.name, policy.card.blocks, settings, seed)
    address = f"http://{local_server.ADDRESS}:{listener.getsockname()[1]}/v1"
    click.echo(f"{policy.name} answers at {address} (any API key). Ctrl-C stops.")
    try:
        local_server.serve(make_app(served), listener, served.stop)
    finally:
        served.close()
