"""`kedro sage iterate`: self-play iteration by iteration, until the next policy is no better (docs/self-play.md)."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

import click
from filelock import FileLock, Timeout
from kedro.framework.cli.utils import env_option
from kedro.framework.startup import ProjectMetadata
from rich.console import Console

from sage_dialog.commands.console import table
from sage_dialog.commands.project import CommandError, Project, click_errors, command_errors, run_nodes
from sage_dialog.commands.status import params_option
from sage_dialog.core.tables import DataFrame, to_rows
from sage_dialog.datasets.endpoint import EndpointGroup
from sage_dialog.evaluation.judging.power import sign_test_power
from sage_dialog.evaluation.judging.stop_rule import deciding_judge
from sage_dialog.evaluation.report.formatting import p_value, percent
from sage_dialog.lineage.formatting import format_names
from sage_dialog.lineage.staleness import NodeSpec, OutputStatus, output_statuses

VERDICTS = "iteration_verdicts"
COLUMNS = ("a", "b", "n", "b wins", "ties", "a wins", "b's share", "p better", "p no better", "verdict")


@click.command()
@env_option
@params_option
@click.pass_obj
def iterate(metadata: ProjectMetadata, env: str | None, params: dict[str, Any]) -> None:
    """Run self-play iteration by iteration, until the next policy is no better.

    After each iteration the new policy and the one before play the situations of the valid split, and a judge compares
    them in both orders. Self-play goes on while exact tests call the new policy better (stop_rule), at most for
    `iterations`. What exists and is fresh is not made again, so that a killed command goes on where it was.
    """
    with command_errors():
        project = Project(metadata, env, params)
        lock = FileLock(project.runs.path / ".iterate.lock")
        try:
            with lock.acquire(timeout=0):
                verdicts = _iterate(metadata, env, params, project)
        except Timeout:
            raise CommandError(
                "Another `kedro sage iterate` runs on this data folder. Wait for its end; `kedro sage runs` shows it."
            ) from None
    console = Console()
    for line in closing_lines(verdicts, project, env):
        console.print(line, soft_wrap=isinstance(line, str), highlight=False)


def _iterate(metadata: ProjectMetadata, env: str | None, params: dict[str, Any], project: Project) -> DataFrame:
    """Run iterations up to the first whose policy is not better, and return the verdicts."""
    _check_first(project)
    for iteration in range(1, project.parameters.iterations + 1):
        pipeline, made = f"iterate_{iteration}", set[NodeSpec]()
        while nodes := nodes_to_run(project, iteration, made):
            click.echo(f"Iteration {iteration}: {', '.join(node.name for node in nodes)}")
            run_nodes(metadata, env, params, pipeline_names=[pipeline], node_names=[node.name for node in nodes])
            made |= {*nodes}
            project = Project(metadata, env, params)
        verdicts: DataFrame = project.load(VERDICTS)
        (row,) = to_rows(verdicts[verdicts["iteration"] == iteration])
        click.echo(f"Iteration {iteration}: {row['policy_b']} against {row['policy_a']}: {row['verdict']}.")
        if row["verdict"] != "better":
            break
    return verdicts


def nodes_to_run(project: Project, iteration: int, made: Collection[NodeSpec] = ()) -> list[NodeSpec]:
    """Return the nodes of an iteration and its verdict whose outputs are missing or stale, inputs first.

    An output that is stale only because an input is, is left out: it is made again if that input comes out different.

    Args:
        made: nodes that have run already; none runs twice.

    Raises:
        CommandError: if another run makes one of the outputs.
    """
    statuses = {status.dataset: status for status in output_statuses(project, project.runs)}
    nodes = []
    for node in project.registered[f"iterate_{iteration}"]:
        found = [statuses[output] for output in node.outputs]
        if running := next((one for one in found if one.state == "being made"), None):
            raise CommandError(f"Run {running.run} is making {running.dataset}. Wait for its end.")
        if node not in made and (any(map(_to_make, found)) or _lacks_verdict(project, node, iteration)):
            nodes.append(node)
    return nodes


def _to_make(status: OutputStatus) -> bool:
    return status.state == "missing" or any(reason.kind != "upstream" for reason in status.reasons)


def _lacks_verdict(project: Project, node: NodeSpec, iteration: int) -> bool:
    """Return whether a node gives the verdicts, and the latest ones end before this iteration."""
    return VERDICTS in node.outputs and len(project.load(VERDICTS)) < iteration


def _check_first(project: Project) -> None:
    """Check before the first iteration what its end needs, and print what the valid split can show.

    Raises:
        CommandError: if there is no valid situation, or no judge of the configured name.
    """
    rule, iterations = project.parameters.stop_rule, project.parameters.iterations
    panel = project.catalog.get("judges")
    if isinstance(panel, EndpointGroup) and panel.uses_server:
        panel.bind_budget(project.llm, project.budget)
    with click_errors(ValueError):
        judge = deciding_judge(project.load("judges"), rule.judge)
    made = {output for node in project.registered["self_play"] for output in node.outputs}
    inputs = {name for node in project.registered["self_play"] for name in node.inputs} - made
    for status in output_statuses(project, project.runs):
        if status.dataset in inputs and status.state == "stale":
            refresh = project.with_environment("`kedro sage refresh`")
            reasons = format_names([reason.words for reason in status.reasons], "; ")
            click.echo(f"{status.dataset} is stale ({reasons}) and is taken as it is; {refresh} makes it again.")
    if not project.catalog.exists("situations"):
        return  # the run says which pipeline makes them
    n = int((project.load("situations")["split"] == "valid").sum())
    if not n:
        command = project.with_environment("`kedro run --pipelines data_processing`")
        raise CommandError(f"The table situations has no situation of the valid split to judge on; {command} reads it.")
    n = min(n, rule.situations or n)
    power = sign_test_power(n, 0.5 + rule.margin, 1.0, 2 * rule.level)
    click.echo(
        f"At most {iterations} iterations, judged by {judge.name} on {n:,} situations of the valid split. If the judge "
        f"decides all of them, a policy with {percent(0.5 + rule.margin)} of the wins is found better with a "
        f"probability of {percent(power)}; ties make it less."
    )


def closing_lines(verdicts: DataFrame, project: Project, env: str | None) -> Iterator[Any]:
    """Yield the table of verdicts for the terminal, how to read it, and what to do next."""
    rows = to_rows(verdicts)
    last = rows[-1]
    yield table(
        f"Iterations, judged by {last['judge']} on the valid split",
        COLUMNS,
        [
            (
                *(row["policy_a"], row["policy_b"], row["n"], row["wins"], row["ties"], row["losses"]),
                "–" if row["win_rate"] is None else f"{row['win_rate']:.2f} [{row['low']:.2f}, {row['high']:.2f}]",
                *(p_value(row["p_better"]), p_value(row["p_no_better"]), row["verdict"]),
            )
            for row in rows
        ],
        right=COLUMNS[2:9],
    )
    yield (
        f"b's share is of the decided, with its interval. better: p better ≤ {last['level']:g}, the exact test of a "
        f"share of one half or less. no better: p no better ≤ {last['level_no_better']:.2g}, of one of "
        f"{percent(0.5 + last['margin'])} or more. No situation of the test split was played."
    )
    if last["judge"].startswith("offline"):
        yield "The offline judge is a set of rules on word lists: its verdicts show nothing about language models."
    steps = next_step(last, project.parameters.iterations, f"conf/{env or 'base'}/globals.yml")
    yield f"\n{project.with_environment(steps)}"


def next_step(last: dict[str, Any], iterations: int, file: str) -> str:
    """Return what the last verdict means and what to do, with commands in backticks.

    Args:
        file: where the number of iterations is set.
    """
    before, after, iteration = last["policy_a"], last["policy_b"], last["iteration"]
    go_on = (
        "`kedro run --pipelines preference` trains sage_dpo from {}, `kedro run --pipelines evaluation` compares all"
    )
    if last["verdict"] == "better":
        return (
            f"{after} is better than {before}, and is the last that `iterations: {iterations}` in {file} allows. "
            f"With a larger number `kedro sage iterate` goes on; or {go_on.format(after)}."
        )
    setting = "" if iteration == iterations else f"set `iterations: {iteration}` in {file}; then "
    fewer = ""
    if last["wins"] < last["losses"] and iteration > 1:
        fewer = (
            f" It won less than half of the decided: `iterations: {iteration - 1}` starts from {before} in its place."
        )
    if last["verdict"] == "no better":
        return (
            f"{after} is no better than {before}: self-play ends. As the paper, {setting}{go_on.format(after)}.{fewer}"
        )
    needed = f"about {last['needed']:,}" if last["needed"] else "more"
    return (
        f"Undecided: {last['n']:,} situations show neither that {after} is better nor that it is not; {needed} would "
        f"show {percent(0.5 + last['margin'])} of the wins, with the probability evaluation.power. Add situations to "
        f"the valid split, or train all {iterations} iterations without a test: `kedro run --pipelines self_play`. To "
        f"end here, {setting}{go_on.format(after)}.{fewer}"
    )
