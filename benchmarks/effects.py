"""Measure the effect of each part of the recipe in the generated world, with and without it, by exact tests.

    python benchmarks/effects.py --runs data           # on a finished demo: about 10 minutes on two cores
    python benchmarks/effects.py --runs a b c          # on several, pooled; each is a data folder
    python benchmarks/effects.py                       # runs a demo first: 10 minutes more
    python benchmarks/effects.py --quick               # under 50 seconds; a smoke test

    chain          sage_1_plain against sage_1      dialogues of the run, by the offline judge and by the world's truth
    refinement     sage_1 against sage_2, sage_3
    DPO            sage_3 against sage_dpo
    instructions   sage_1 trained with and without the mix's instructions: equally many steps on the same other rows,
                   with the same random numbers, once for each of `--trainings` seeds a run; scored by the world's
                   multiple choice questions, which no row answers

p of the first three is the exact two-sided sign test on the decided situations of all runs. For instructions it is the
same test on the questions that one side answers correctly in more trainings than the other. Trainings share their
questions, so each question counts once. The test is conditional on these trainings; the printed scores show how much
trainings differ. Holm's adjustment is over all rows of the table. `--quick` without a run has no dialogues and measures
instructions only.
The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from finished_runs import latest_policy, latest_rows, latest_table
from microworld_seeds import pool, run_demo

from sage_dialog.config import Benchmarks, Sft
from sage_dialog.core.tables import to_rows
from sage_dialog.evaluation.benchmarks.scores import Score, benchmark_scores
from sage_dialog.evaluation.bootstrap import Bootstrap
from sage_dialog.evaluation.statistics import holm, proportion_interval, sign_test
from sage_dialog.microworld.questions import multiple_choice
from sage_dialog.microworld.world import load_world

PROJECT = Path(__file__).resolve().parents[1]
PAIRS = {
    ("sage_1_plain", "sage_1"): "chain",
    ("sage_1", "sage_2"): "refinement, once",
    ("sage_2", "sage_3"): "refinement, again",
    ("sage_3", "sage_dpo"): "DPO",
}
CONFIDENCE, REPLICATES = 0.95, 4000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, nargs="+", help="data folders of finished demos")
    parser.add_argument("--trainings", type=int, default=3, help="seeds a run and side")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--keep", type=Path, help="folder of the trained policies; finished trainings in it are not repeated"
    )
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep or Path(temporary)
        runs = options.runs or [_run_demo(folder / "data", options.quick)]
        pairs = _pair_effects(runs)
        questions = _questions(Path(temporary), 40 if options.quick else 400)
        config = _training_config(options.quick)
        trained = [
            _score_sides(run, seed, questions, config, options.threads, folder / f"run_{place}_seed_{seed}")
            for place, run in enumerate(runs)
            for seed in range(1 if options.quick else options.trainings)
        ]
    rows = _instruction_effects(trained)
    for row, adjusted in zip([*pairs, *rows], holm([row["p"] for row in [*pairs, *rows]]), strict=True):
        row["p_adjusted"] = adjusted
    _print_effects(pairs, rows)
    print(json.dumps({"pairs": pairs, "instructions": rows, "seconds": time.monotonic() - start}))


def _run_demo(data: Path, quick: bool) -> Path:
    """Run a demo; a quick one up to the training data only."""
    if not quick:
        return run_demo(data, 0, "test", quick=False)
    command = [sys.executable, "-m", "kedro", "run", "--env", "test", "--pipelines", "demo"]
    command += ["--to-outputs", "sage_0,sft_conversations"]
    env = os.environ | {"SAGE_DATA": str(data), "PYTHONPATH": str(PROJECT / "src")}
    subprocess.run(command, cwd=PROJECT, check=True, env=env, stdout=subprocess.DEVNULL)
    return data


def _training_config(quick: bool) -> Sft:
    import yaml

    config = Sft.model_validate(yaml.safe_load((PROJECT / "conf/base/parameters_sft.yml").read_text())["sft"])
    return (
        config.model_copy(update={"training": config.training.model_copy(update={"max_steps": 30})})
        if quick
        else config
    )


def _pair_effects(runs: list[Path]) -> list[dict[str, Any]]:
    """Return the wins of the policy with a part of the recipe over the one without it."""
    votes = {
        place: [row for name in ("win_rates", "truth_win_rates") for row in latest_rows(run, name)]
        for place, run in enumerate(runs)
        if any(run.glob("08_reporting/truth_win_rates.parquet"))
    }
    rows = []
    for row in pool(votes):
        if effect := PAIRS.get((row["a"], row["b"])):
            decided = row["wins_a"] + row["wins_b"]
            low, high = proportion_interval(row["wins_b"], decided, CONFIDENCE) if decided else (0.0, 1.0)
            share = row["wins_b"] / decided if decided else None
            p = sign_test(row["wins_a"], row["wins_b"])
            rows.append({"effect": effect, **row, "p": p, "share": share, "low": low, "high": high})
    return sorted(rows, key=lambda row: list(PAIRS.values()).index(row["effect"]))


def _questions(folder: Path, count: int) -> dict[str, Path]:
    """Write the multiple choice questions and return the files by name."""
    files = {}
    for name, content in multiple_choice(load_world(), count, seed=0).items():
        files[name] = folder / name
        files[name].write_bytes(content)
    return files


def _score_sides(
    run: Path, seed: int, questions: dict[str, Path], config: Sft, threads: int, scratch: Path
) -> dict[str, list[Score]]:
    """Return the scores of the base and of both sides of one training."""
    from sage_dialog.evaluation.benchmarks.scoring import score_policies
    from sage_dialog.training.sft import fine_tune

    base, mix = latest_policy(run, "sage_0"), latest_table(run, "sft_conversations")
    assert base, "the demo has run"
    sides = {"without": mix[mix["source"] != "instructions"], "with": mix}
    if len(sides["without"]) == len(mix):
        raise SystemExit(f"{run}: its mix has no instructions to compare")
    side_scores: dict[str, list[Score]] = {}
    steps = config.training.max_steps or int(config.training.epochs * -(-len(mix) // config.training.batch_size))
    training = config.training.model_copy(update={"max_steps": steps})
    for side, rows in sides.items():
        *_, policy = fine_tune("sage_1", base, None, rows, training, config.lora, seed, scratch / side, True, threads)
        policies = {"sage_0": base, "sage_1": policy}
        benchmarks = Benchmarks.from_base(policies=("sage_0", "sage_1") if side == "with" else ("sage_1",))
        scores = score_policies(base, policies, questions, benchmarks, seed, threads)
        side_scores |= {side: scores["sage_1"], **({"base": scores["sage_0"]} if side == "with" else {})}
        print(
            seed, side, {score.task: round(score.score, 3) for score in scores["sage_1"]}, file=sys.stderr, flush=True
        )
    return side_scores


def _instruction_effects(trained: list[dict[str, list[Score]]]) -> list[dict[str, Any]]:
    """Return, by task, the accuracy with and without instructions over all trainings."""
    rows = []
    for place, score in enumerate(trained[0]["base"]):
        means = {side: _mean([sides[side][place] for sides in trained]) for side in ("base", "without", "with")}
        bootstrap = Bootstrap(CONFIDENCE, REPLICATES, 0)
        _, compared = to_rows(benchmark_scores({side: [means[side]] for side in ("without", "with")}, bootstrap))
        pairs = list(zip(means["without"].items or (), means["with"].items or (), strict=True))
        lost, won = sum(a > b for a, b in pairs), sum(a < b for a, b in pairs)
        rows.append(
            {"effect": "instructions", "task": score.task, "n": score.n, "trainings": len(trained)}
            | {side: mean.score for side, mean in means.items()}
            | {key: compared.get(key) for key in ("relative", "low", "high")}
            | {"lost": lost, "won": won, "p": sign_test(lost, won)}
            | {"each": [(sides["without"][place].score, sides["with"][place].score) for sides in trained]}
        )
    return rows


def _mean(scores: list[Score]) -> Score:
    """Return the mean score; its items are the shares of correct answers."""
    items = tuple(sum(values) / len(scores) for values in zip(*(score.items or () for score in scores), strict=True))
    return replace(scores[0], items=items, score=sum(items) / len(items))


def _print_effects(pairs: list[dict[str, Any]], rows: list[dict[str, Any]]) -> None:
    if pairs:
        print(f"\n{'effect':<20}{'judge':<22}{'without':<14}{'with':<10}{'n':>5}{'wins':>14}   share of the decided")
    for row in pairs:
        wins = f"{row['wins_a']}/{row['ties']}/{row['wins_b']}"
        share = "–" if row["share"] is None else f"{row['share']:.2f} [{row['low']:.2f}, {row['high']:.2f}]"
        print(
            f"{row['effect']:<20}{row['judge']:<22}{row['a']:<14}{row['b']:<10}{row['n']:>5}{wins:>14}   {share:<20}"
            f"p {row['p']:.2g}, adjusted {row['p_adjusted']:.2g}"
        )
    print("\ninstructions, accuracy" + 26 * " " + "base  without   with   with relative to without")
    for row in rows:
        each = "; ".join(f"{without:.3f} {with_:.3f}" for without, with_ in row["each"])
        ratio = "–" if row["low"] is None else f"{row['relative']:+.1%} [{row['low']:+.1%}, {row['high']:+.1%}]"
        print(
            f"  {row['task']:<12}{row['n']:>5} questions, {row['trainings']} trainings {row['base']:>8.3f} "
            f"{row['without']:>8.3f} {row['with']:>6.3f}   {ratio:<28}lost {row['lost']} won {row['won']}  "
            f"p {row['p']:.2g}, adjusted {row['p_adjusted']:.2g}  each training, without and with: {each}"
        )


if __name__ == "__main__":
    main()
