"""`kedro sage chat`: talk with a policy in the terminal, and steer it."""

from __future__ import annotations

import sys
from pathlib import Path

import click
from kedro.framework.cli.utils import env_option
from kedro.framework.startup import ProjectMetadata
from kedro.io import DatasetError
from rich.console import Console

from sage_dialog.commands.project import Project, click_errors
from sage_dialog.commands.talking import example_messages, load_policy, policy_options, settings_of


@click.command()
@env_option
@policy_options
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
    hold_form: bool,
) -> None:
    """Talk with a policy and steer it; /help lists the commands, Ctrl-D quits.

    Replies are streamed, after their state and action blocks. Sampling and steering follow evaluation.agent and
    evaluation.steering. Lines can also be piped in.
    """
    project = Project(metadata, env)
    loaded = load_policy(project, name, base, adapter, blocks)
    console, stderr = Console(highlight=False), Console(stderr=True, highlight=False)
    seed = project.parameters.seed if seed is None else seed
    with stderr.status("loading"):
        engine = loaded.open_engine(seed)

    from sage_dialog.studio.chat.conversation import Conversation
    from sage_dialog.studio.chat.terminal.completion import known_values
    from sage_dialog.studio.chat.terminal.terminal import Terminal, piped_lines, prompt_lines

    settings, note = settings_of(project, loaded, temperature=temperature, top_k=top_k, hold_form=hold_form)
    if note:
        stderr.print(note, markup=False, soft_wrap=True)
    conversation = Conversation(engine, loaded.policy.name, loaded.policy.card.blocks, settings)
    with click_errors(ValueError, prefix="evaluation.steering, --hold-form: "), stderr.status("loading"):
        conversation.steer(settings.steering)
    try:
        known = known_values(project.catalog.load("annotations")) if project.catalog.exists("annotations") else {}
    except DatasetError as error:  # such as a table of an earlier version of the project
        known = {}
        reason = str(error).splitlines()[0]
        stderr.print(
            f"Tab completes no labels, because annotations cannot be read: {reason}", markup=False, soft_wrap=True
        )
    screen = Terminal(conversation, seed, project.parameters.self_play.candidates, known, console, stderr)
    if sys.stdin.isatty() and sys.stdout.isatty():
        history = Path(project.catalog.load("params:scratch")) / "chat_history"
        screen.greet(example_messages(project, 1))
        screen.run(prompt_lines(history, known), interactive=True)
    elif screen.run(piped_lines(), interactive=False):
        raise SystemExit(1)
