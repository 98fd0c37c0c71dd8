"""`kedro sage status` and `refresh` on the stages before training."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner, Result

from sage_dialog.commands.status import refresh, status

MIXED = {"sft_conversations", "mix_rejects", "sft_conversations_plain"}
HELLO = "sac_augmentation.system_prompts.listener=Hello."


def invoke(command, project, *options: str) -> Result:
    return CliRunner().invoke(command, ["--env", "test", *options], obj=project.metadata)


def statuses(project, *options: str) -> dict[str, dict]:
    result = invoke(status, project, "--json", *options)
    found = {one["dataset"]: one for one in json.loads(result.stdout)}
    assert result.exit_code == any(one["state"] in ("stale", "missing") for one in found.values()), result.stderr
    return found


def stale(project, *options: str) -> set[str]:
    return {name for name, one in statuses(project, *options).items() if one["state"] == "stale"}


def test_outputs_are_fresh_after_a_run_and_the_others_missing(project) -> None:
    found = statuses(project)
    states = {state: {name for name, one in found.items() if one["state"] == state} for state in ("fresh", "missing")}
    assert {"reddit_dumps", "world_truth", "dialogues", "annotations", *MIXED} <= states["fresh"]
    assert {"sage_1", "report"} <= states["missing"] and set(found) == states["fresh"] | states["missing"]
    assert "iteration_verdicts" not in found, "nobody has run kedro sage iterate"
    assert statuses(project, "--pipelines", "iterate_1")["iteration_verdicts"]["state"] == "missing"
    assert found["dialogues"]["run"] == project.runs.names()[0] and found["dialogues"]["stage"] == "data_processing"
    result = invoke(status, project)
    assert result.exit_code == 1 and "sft_conversations_plain" not in result.stdout
    assert "\nmicroworld\nmissing: base_corpus, " in result.stdout and "training_log_sage_1" not in result.stdout
    empty = result.stdout.partition("stages without outputs: ")[2].splitlines()[0].split(", ")
    assert {"sft", "preference", "evaluation"} <= set(empty) and not {"microworld", "data_processing"} & set(empty)
    assert "left out, as in `kedro sage status --env test --pipelines demo`" in result.stdout
    assert f"{len(states['missing'])} missing, {len(states['fresh'])} fresh. --all lists" in result.stdout
    everything = invoke(status, project, "--all").stdout
    assert all(name in everything for name in found)
    unchanged = invoke(refresh, project).stdout.strip()
    assert unchanged.endswith("Nothing is stale.") and f" and {len(states['missing']) - 3} more" in unchanged


@pytest.mark.slow
def test_the_exit_code_is_that_of_the_chosen_pipelines(project) -> None:
    complete = invoke(status, project, "--all", "--pipelines", "data_processing,sac_augmentation")
    assert complete.exit_code == 0 and "annotations" in complete.stdout and "sage_1" not in complete.stdout
    assert set(statuses(project, "--pipelines", "data_processing")) == {
        "dialogues", "filter_report", "rejected_lines", "filter_figure", "situations",
        "corpus_dialogues", "corpus_rejects", "text_duplicates",
    }  # fmt: skip
    assert stale(project, "--pipelines", "sac_augmentation", "--params", HELLO) == MIXED
    missing = invoke(status, project, "--pipelines", "sac_augmentation,sft")
    assert missing.exit_code == 1 and "`kedro sage refresh" not in missing.stdout
    assert "\nstages without outputs: sft\n" in missing.stdout and "can be left out" not in missing.stdout
    unknown = invoke(status, project, "--pipelines", "sac")
    assert unknown.exit_code == 2 and "No pipeline is called 'sac'" in unknown.stderr


@pytest.mark.slow
def test_refresh_runs_only_the_nodes_of_outputs_made_stale_by_a_parameter(project) -> None:
    assert stale(project, "--params", HELLO) == MIXED
    words = statuses(project, "--params", HELLO)["mix_rejects"]["reasons"][0]["words"]
    assert words.startswith("sac_augmentation.system_prompts.listener was ") and words.endswith(", is Hello.")
    before = project.runs.names()
    planned = invoke(refresh, project, "--params", HELLO, "--dry-run")
    assert planned.exit_code == 1 and words in planned.stdout
    assert invoke(refresh, project, "--params", HELLO).exit_code == 2, "not confirmed"
    assert project.runs.names() == before
    done = invoke(refresh, project, "--params", HELLO, "--yes")
    assert done.exit_code == 0 and "Nothing is stale any more." in done.stdout, done.output
    (run,) = set(project.runs.names()) - set(before)
    assert {output for node in project.runs.load(run).nodes.values() for output in node.outputs} == MIXED
    assert stale(project, "--params", HELLO) == set()
    assert stale(project) == MIXED, "they were made with other parameters than the configured ones"


def test_a_stage_repeated_with_equal_content_makes_nothing_stale(project) -> None:
    project.run(["data_processing"], "make_dialogues")
    found = statuses(project)
    assert found["dialogues"]["version"] == project.runs.names()[0] != found["annotations"]["version"]
    assert not any(one["state"] == "stale" for one in found.values())


def test_refresh_leaves_out_what_comes_out_the_same(project) -> None:
    """A threshold between two scores is another parameter, and gives the same dialogues."""
    descendants = {"filter_figure", "annotations", "annotation_rejects", *MIXED}
    threshold = ("--params", "data_processing.rule_sets.paper.min_sentiment=0.40001")
    made = {"dialogues", "filter_report", "rejected_lines"}
    assert stale(project, *threshold) >= made | descendants
    before = project.runs.names()
    done = invoke(refresh, project, *threshold, "--yes")
    assert done.exit_code == 0 and "Nothing is stale any more." in done.stdout, done.output
    assert "annotate_dialogues: dialogues is stale; left out if it comes out the same" in done.stdout
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("Left out, since their inputs came out")]
    assert "sac_augmentation.annotate_dialogues" in line and "make_dialogues" not in line
    (run,) = set(project.runs.names()) - set(before)
    assert made <= set(project.runs.load(run).writes) and not descendants & set(project.runs.load(run).writes)


@pytest.mark.slow
def test_refresh_goes_on_from_what_came_out_different(project) -> None:
    stricter = ("--params", "data_processing.rule_sets.paper.min_sentiment=0.6")
    done = invoke(refresh, project, *stricter, "--yes")
    assert done.exit_code == 0 and "Nothing is stale any more." in done.stdout, done.output
    assert not stale(project, *stricter)
    latest = statuses(project, *stricter)
    assert latest["annotations"]["version"] > latest["dialogues"]["version"]


def test_outputs_that_are_stale_only_because_of_others_share_a_line(project) -> None:
    threshold = ("--params", "data_processing.rule_sets.paper.min_sentiment=0.40001", "--pipelines")
    lines = invoke(status, project, *threshold, "data_processing,sac_augmentation").stdout.splitlines()
    listed = [line.split()[0] for line in lines if line.endswith("  stale")]
    assert listed == ["dialogues", "filter_report", "rejected_lines"]
    others = [line.partition(": ")[2] for line in lines if line.startswith("stale because of others")]
    assert set(others[0].split(", ")) == {"filter_figure", "text_duplicates"}, others
    assert "stale because of others: annotations, annotation_rejects, sft_conversations and 2 more" in lines


def test_an_added_raw_file_makes_outputs_stale(project) -> None:
    (project.data / "01_raw/instructions/more.json").write_text("[]")
    found = statuses(project)
    assert "instructions" not in found
    assert {name for name, one in found.items() if one["state"] == "stale"} == MIXED
    assert found["mix_rejects"]["reasons"][0]["words"] == "instructions has changed: more.json"


@pytest.mark.parametrize("command", [status, refresh])
def test_errors_have_exit_code_2(project, command) -> None:
    result = invoke(command, project, "--params", "self_play.turns=3")
    assert result.exit_code == 2 and "self_play.turns: unknown" in result.output
    result = invoke(command, project, "--env", "nowhere")
    assert result.exit_code == 2 and "nowhere" in result.stderr
