"""`kedro sage chat`: talk with a policy in the terminal, and steer it."""

from __future__ import annotations

import sys
from pathlib import Path

import click
from kedro.framework.cli.utils import env_option
from kedro.framework.startup import ProjectMetadata
from rich.console import Console

from sage_dialog.commands.project import Project, click_errors
from sage_dialog.config import SamplingConfig
from sage_dialog.core.hub_models import BASE

_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)


@click.command()
@env_option
@click.option("--policy", "name", help="A policy of the catalog.  [default: sage_dpo]")
@click.option("--base", type=_FOLDER, help="A model folder outside the catalog, in place of --policy.")
@click.option("--adapter", type=_FOLDER, help="With --base: a LoRA adapter on it.")
@click.option(
    "--blocks/--no-blocks",
    default=None,
    help="With --base and without a policy card: whether it writes state and action blocks.",
)
@click.option("--seed", type=click.IntRange(min=0), help="The same seed and lines give the same replies.")
@click.option("--temperature", type=click.FloatRange(min=0, min_open=True), help="[default: of evaluation.agent]")
@click.option("--top-k", type=click.IntRange(min=1), help="[default: of evaluation.agent]")
@click.pass_obj
def chat(
    metadata: ProjectMetadata,
    env: str | None,
    name: str | None,
    base: Path | None,
    adapter: Path | None,
    blocks: bool | None,
    seed: int | None,
    temperature: float | None,
    top_k: int | None,
) -> None:
    """Talk with a policy and steer it; /help lists the commands, Ctrl-D quits.

    Replies are streamed, after their state and action blocks. Sampling and steering follow evaluation.agent and
    evaluation.steering. Lines can also be piped in.
    """
    if base is None and (adapter is not None or blocks is not None):
        raise click.UsageError("--adapter and --blocks go with --base.")
    if base is not None and name is not None:
        raise click.UsageError("--policy and --base exclude each other.")
    project = Project(metadata, env)
    if base is not None:
        from sage_dialog.studio.chat.external_policies import external_policies

        with click_errors(ValueError, OSError):
            base_policy, policy = external_policies(base, adapter, blocks)
    else:
        policy = project.policy(name or "sage_dpo")
        base_policy = policy if name == BASE else project.policy(BASE)

    console, stderr = Console(highlight=False), Console(stderr=True, highlight=False)
    seed = project.parameters.seed if seed is None else seed
    with stderr.status("loading"):
        engine = project.engine(base_policy, [] if policy is base_policy else [policy], seed)

    from sage_dialog.studio.chat.completion import known_values
    from sage_dialog.studio.chat.conversation import Conversation, Settings
    from sage_dialog.studio.chat.terminal import Terminal, piped_lines, prompt_lines

    config = project.parameters.evaluation
    given = {"temperature": temperature, "top_k": top_k}
    overrides = {name: value for name, value in given.items() if value is not None}
    sampling = SamplingConfig.model_validate(config.agent.model_dump() | overrides)
    system_prompt = project.parameters.sac_augmentation.system_prompts.get("listener")
    settings = Settings(sampling=sampling, system_prompt=system_prompt)
    conversation = Conversation(engine, policy.name, policy.card.blocks, settings)
    if config.steering and not conversation.blocks:
        note = f"{policy.name} writes no state and action blocks, so evaluation.steering does not apply."
        stderr.print(note, markup=False, soft_wrap=True)
    else:
        with click_errors(ValueError, prefix="evaluation.steering: "), stderr.status("loading"):
            conversation.steer(config.steering)
    known = known_values(project.catalog.load("annotations")) if project.catalog.exists("annotations") else {}
    screen = Terminal(conversation, seed, project.parameters.self_play.candidates, known, console, stderr)
    if sys.stdin.isatty() and sys.stdout.isatty():
        history = Path(project.catalog.load("params:scratch")) / "chat_history"
        screen.greet()
        screen.run(prompt_lines(history, known), interactive=True)
    elif screen.run(piped_lines(), interactive=False):
        raise SystemExit(1)
