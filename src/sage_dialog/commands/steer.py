"""`kedro sage steer`: the grid of the paper's Tables 3 to 5, and how well a policy follows steering."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import click
from kedro.framework.cli.utils import env_option
from kedro.framework.startup import ProjectMetadata
from pydantic import ValidationError
from rich.console import Console
from rich.table import Table
from rich.text import Text

from sage_dialog.commands.console import empty_table
from sage_dialog.commands.project import Project, click_errors
from sage_dialog.config import BlockField, BoostScale
from sage_dialog.core.paths import display_path
from sage_dialog.core.policies import Policy
from sage_dialog.core.seeds import sample_ids
from sage_dialog.core.tables import from_rows
from sage_dialog.datasets.roles import RoleDataset
from sage_dialog.dialogue import Message, agent_view
from sage_dialog.inference.engine import Prompt
from sage_dialog.llm.requests import RequestFailedError, StopRunError
from sage_dialog.studio.chat.terminal.completion import known_values
from sage_dialog.studio.chat.terminal.display import BLOCKS, FAULT
from sage_dialog.studio.visible_text import visible

if TYPE_CHECKING:
    from sage_dialog.evaluation.replies.steering_eval import Compliance, Opening, Row, Setting
    from sage_dialog.evaluation.statistics import Estimate

GRID = "steering_grid"
"""The catalog entry of the grid."""

FIELDS: dict[BlockField, str] = {"a_emotion": "emotions", "a_motivation": "motivations", "a_topic": "topics"}
MOST_FREQUENT = 5
"""Number of values of each field without lists."""
OFFLINE_ANNOTATOR = (
    "The offline annotator is a set of rules on word lists: what it reads shows nothing about language models."
)


@click.command()
@env_option
@click.option("--policy", default="sage_dpo", show_default=True, help="A policy of the catalog that writes blocks.")
@click.option("--situation", help="A user message, or the id of a situation.  [default: one drawn by seed]")
@click.option(
    "--situations", "number", type=click.IntRange(min=1), help="Number of held-out situations to draw by seed."
)
@click.option("--emotions", help='Separated by commas: "playful, pessimistic".')
@click.option("--motivations", help='Separated by commas: "humor, giving advice".')
@click.option("--topics", help='Sets of topics, separated by semicolons: "music; sport, health".')
@click.option("--boost", type=float, help="Boost each label by this weight instead of fixing the value.")
@click.pass_obj
def steer(
    metadata: ProjectMetadata,
    env: str | None,
    policy: str,
    situation: str | None,
    number: int | None,
    emotions: str | None,
    motivations: str | None,
    topics: str | None,
    boost: float | None,
) -> None:
    """Measure how well a policy follows steering: one reply for each value, and one without steering.

    Without lists, the values are the most frequent emotions, motivations and topics of the training data. Labels are
    converted to lower case, as in training. Sampling follows evaluation.agent.

    Each reply is scored twice: the value is in the action block, and the annotator reads it in the reply. All replies
    are written to the table `steering_grid`.
    """
    if situation is not None and number is not None:
        raise click.UsageError("--situation and --situations exclude each other.")
    given: dict[BlockField, str | None] = {"a_emotion": emotions, "a_motivation": motivations, "a_topic": topics}
    project = Project(metadata, env)
    agent = project.policy_or_external(policy)
    if not (agent.card.blocks if isinstance(agent, Policy) else agent.blocks):
        raise click.ClickException(f"{policy} writes no state and action blocks, so there is nothing to steer.")
    scale = project.parameters.evaluation.steering.boost_scale
    settings = _settings(_named(given) or _most_frequent(project), boost, scale)
    openings = _openings(project, situation, number or 1, project.system_prompt(agent))

    entry = project.catalog.get("annotator")
    if isinstance(entry, RoleDataset) and entry.uses_server:
        # A reply without labels has no score, so one failure among few replies must not stop the run.
        entry.bind_budget(project.llm.model_copy(update={"max_failed_share": 1.0}), project.budget)
    annotator = project.load("annotator")

    from sage_dialog.evaluation.replies.steering_eval import play_grid, steering_eval
    from sage_dialog.schemas import STEERING_GRID

    config = project.parameters.evaluation
    engine, _ = project.open_policy(agent)
    with click_errors(ValueError, RequestFailedError, StopRunError):
        rows = play_grid(engine, policy, openings, settings, config.agent, annotator)
    project.catalog.save(GRID, from_rows(rows, STEERING_GRID))

    console = Console(highlight=False)
    how = (
        "values fixed"
        if boost is None
        else f"labels boosted by {boost:g}{' (raw logits)' if scale == 'logits' else ''}"
    )
    named = f" ({visible(openings[0].situation_id)})" if openings[0].situation_id else ""
    console.print(
        Text(f"\n{policy}, {how}", style="bold").append(f"\n{visible(openings[0].text)}{named}", style="not bold")
    )
    console.print(grid_table(rows[: len(settings)]))
    scores = steering_eval(rows, config.confidence)
    console.print(score_table(scores, len(openings)))
    for note in _notes(rows, len(openings), annotator.name):
        console.print(note, style="dim", markup=False)
    path = display_path(project.catalog[GRID]._get_load_path())
    console.print(f"Written to {path}", markup=False, soft_wrap=True)


def _named(given: Mapping[BlockField, str | None]) -> list[tuple[BlockField, tuple[str, ...]]]:
    """Return the values in the lists, each a tuple of labels."""
    named: list[tuple[BlockField, tuple[str, ...]]] = []
    for field, text in given.items():
        if text is None:
            continue
        values = [_labels(part) for part in text.split(";")]
        if field != "a_topic":
            values = [(label,) for value in values for label in value]
        if not any(values):
            raise click.UsageError(f"--{FIELDS[field]} is empty.")
        named += [(field, value) for value in dict.fromkeys(values) if value]
    return named


def _labels(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(label for part in text.split(",") if (label := " ".join(part.split()).lower())))


def _most_frequent(project: Project) -> list[tuple[BlockField, tuple[str, ...]]]:
    """Return the most frequent values of each field in the annotations."""
    if not project.catalog.exists("annotations"):
        why = project.explain_missing("annotations")
        raise click.ClickException(
            f"No annotations to take values from: {why} Or name values with --emotions, --motivations, --topics."
        )
    known = known_values(project.load("annotations"))
    return [(field, (label,)) for field in FIELDS for label in known[field][:MOST_FREQUENT]]


def _settings(
    values: Sequence[tuple[BlockField, tuple[str, ...]]], boost: float | None, scale: BoostScale
) -> list[Setting]:
    """Return the settings of the grid, the first without steering. Raises UsageError for invalid labels."""
    from sage_dialog.evaluation.replies.steering_eval import UNSTEERED, Setting

    settings = [Setting(field, labels, boost, scale) for field, labels in values]
    faults = []
    for setting in settings:
        try:
            _ = setting.steering
        except ValidationError as error:
            faults += [f"--{FIELDS[setting.field or 'a_topic']}: {details['msg']}" for details in error.errors()]
    if faults:
        raise click.UsageError("\n".join(dict.fromkeys(faults)))
    return [UNSTEERED, *settings]


def _openings(project: Project, situation: str | None, number: int, system_prompt: str | None) -> list[Opening]:
    """Return the given situation, or held-out ones drawn by seed. The text of a situation seeds its replies."""
    from sage_dialog.evaluation.replies.steering_eval import Opening

    chosen: list[tuple[str | None, str]]
    if situation is not None and len(situation.split()) > 1:
        chosen = [(None, situation)]
    else:
        split = project.parameters.evaluation.split
        if not project.catalog.exists("situations"):
            why = project.explain_missing("situations")
            raise click.ClickException(
                f'There are no situations: {why} Write one: --situation "My dog died last week."'
            )
        situations = project.catalog.load("situations")
        if not situation:
            situations = situations[situations["split"] == split]
        texts = dict(zip(situations["situation_id"], situations["text"], strict=True))
        if situation is not None and situation not in texts:
            near = difflib.get_close_matches(situation, texts, n=1)
            meant = f"did you mean {near[0]}?" if near else "a message of your own needs more than one word."
            raise click.UsageError(f"--situation: no situation has the id {situation!r}; {meant}")
        seed = project.parameters.seed
        ids = [situation] if situation else sample_ids(list(texts), number, seed, "steering grid")
        if len(ids) < number:
            raise click.UsageError(f"--situations: there are {len(ids)} {split} situations, not {number}.")
        chosen = [(id_, texts[id_]) for id_ in ids]
    return [
        Opening(id_, text, Prompt(agent_view([Message("user", text)], system_prompt), ("steering grid", text)))
        for id_, text in chosen
    ]


def grid_table(rows: Sequence[Row]) -> Table:
    """Return the replies to one situation as a table for the terminal, with all texts escaped."""
    table = empty_table()
    for heading, style in (("value", "bold"), ("state", BLOCKS), ("action", BLOCKS), ("reply", "")):
        table.add_column(heading, style=style, overflow="fold")
    for heading in ("in block", "in reply"):
        table.add_column(heading, no_wrap=True)
    before = rows[0]["field"]
    for row in rows:
        if row["field"] != before:
            table.add_section()
            before = row["field"]
        value = Text("none", style="dim") if row["field"] is None else Text(visible(", ".join(row["labels"])))
        if row["field"]:
            value.append(f"\n{row['field'].removeprefix('a_')}", style="not bold dim")
        reply = Text(visible(row["text"] or "" if row.get("utterance") is None else row["utterance"]))
        if reason := row.get("invalid_reason"):
            reply.append(f" ({visible(reason)})", style=FAULT)
        intents = (Text(visible(_format_intent(row, prefix))) for prefix in ("u_", "a_"))
        table.add_row(value, *intents, reply, *_format_compliance(row))
    return table


def _format_intent(row: Row, prefix: str) -> str:
    if row.get(f"{prefix}topics") is None:
        return "–"
    labels = (row[f"{prefix}motivation"], row[f"{prefix}emotion"], ", ".join(row[f"{prefix}topics"]))
    return "\n".join(label or "–" for label in labels)


def _format_compliance(row: Row) -> Iterator[Text]:
    for score in (row.get("block_compliance"), row.get("reply_compliance")):
        if row["field"] is None:
            yield Text("")
        elif score is None:
            yield Text("–", style="dim")
        elif score in (0.0, 1.0):
            yield Text("yes" if score else "no", style="green" if score else "red")
        else:
            yield Text(f"{round(score * len(row['labels']))} of {len(row['labels'])}", style="yellow")


def score_table(scores: Sequence[Compliance], situations: int) -> Table:
    """Return the rates of a grid as a table for the terminal, by field and, for several situations, by value."""
    table = empty_table()
    table.add_column("value", overflow="fold")
    for heading in ("n", "block", "unsteered", "n", "reply", "unsteered"):
        table.add_column(heading, justify="right", no_wrap=True)
    values = Counter(score.field for score in scores)
    for score in scores:
        of_field = not score.labels or values[score.field] == 1
        if situations > 1 or of_field:
            name = ", ".join(score.labels) if score.labels else f"all {FIELDS[score.field]}"
            cells: list[str] = []
            for steered, unsteered in ((score.block, score.block_unsteered), (score.reply, score.reply_unsteered)):
                cells += [str(steered.n) if steered else "0"]
                cells += [_format_rate(steered, situations > 1), _format_rate(unsteered, False)]
            table.add_row(
                Text(visible(name)),
                *cells,
                style="" if score.labels else "bold",
                end_section=of_field and situations > 1,
            )
    return table


def _format_rate(share: Estimate | None, with_interval: bool) -> str:
    if share is None:
        return "–"
    return f"{share.value:.2f}" + (f" [{share.low:.2f}, {share.high:.2f}]" if with_interval else "")


def _notes(rows: Sequence[Row], situations: int, annotator: str) -> Iterator[str]:
    if situations > 1:
        yield f"The table shows the first of {situations} situations; the file has all."
    if broken := sum(row.get("utterance") is None for row in rows):
        yield f"Replies whose blocks do not parse: {broken} of {len(rows)}. They count 0 for block, nothing for reply."
    if unlabelled := sum(row.get("utterance") is not None and row.get("read_topics") is None for row in rows):
        yield f"Replies that the annotator did not label: {unlabelled} of {len(rows)}. They do not count for reply."
    yield f"block: value in the action block. reply: value read in the reply by {annotator}; – if it has no such label."
    if annotator.startswith("offline"):
        yield OFFLINE_ANNOTATOR
