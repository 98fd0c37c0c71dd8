"""Measure what re-ranking by a critic and advantage-weighted fine-tuning gain over filtered behaviour cloning.

    python benchmarks/offline_rl.py              # about 5 minutes a seed
    python benchmarks/offline_rl.py --quick      # within 50 seconds: the stored results of a full run

Each seed runs `goal_demo` with the parameters of the project: its own imagined dialogues, base, policies and critic,
and new users of each task that every policy plays with. No parameter was tuned on these seeds. A killed benchmark
continues where it was: finished nodes of a seed are not repeated (`--data`), nor are finished seeds (`--results`).
Results that were made with other parameters than the present ones are refused.

p is of the exact two-sided sign test on the users of all seeds with whom one of two policies succeeds and the other
does not, by Holm's method for both policies. The calibration is the regression of realised returns on Q, on the
held-out dialogues of all seeds; its interval is of a bootstrap over dialogues.

`dealornodeal_p` is read from the data folder of a finished `negotiation_demo` (`--negotiation`) on the contexts of the
validation file: re-ranking against behaviour cloning, mean reward, by the paired permutation test of its
`negotiation_comparisons`.

The last line is one JSON object: `rerank_p`, `adapter_p` with the differences in success, `calibration_slope` with its
interval, `n` users, and `dealornodeal_p`. A figure that cannot be had is null, with the reason beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from finished_runs import below, by_key, differences, latest_parameters, latest_rows, save_json

from sage_dialog.core.tables import DataFrame, from_rows, to_rows
from sage_dialog.offline_rl.evaluation import ALL, goal_comparisons, goal_scores, value_calibration
from sage_dialog.schemas import ADVANTAGES, GOAL_ROLLOUTS

PROJECT = Path(__file__).resolve().parents[1]
SEEDS = (101, 102, 103)
REFERENCE, RERANK, ADAPTER = "goal_filtered", "goal_rerank", "goal_awr"
CONFIDENCE, REPLICATES = 0.95, 2000
USED = ("imagination", "offline_rl", "microworld.goal_base", "microworld.goal_documents", "imaginer")
"""The parameters, and the arguments of roles, on which results depend."""
USED_IN_NEGOTIATIONS = ("negotiation", "negotiation_rl", "microworld.negotiation_base")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument(
        "--results", type=Path, default=PROJECT / "benchmarks/results/offline_rl", help="results by seed"
    )
    parser.add_argument(
        "--data", type=Path, default=PROJECT / "data/offline_rl_benchmark", help="data folder of the runs"
    )
    parser.add_argument("--negotiation", type=Path, default=PROJECT / "data", help="data folder of negotiation_demo")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    options = parser.parse_args()
    configured = parameters()
    present = below(configured, USED)
    negotiated = negotiation_figures(options.results / "negotiation.json", options.negotiation, configured)
    stored = {}
    for seed in options.seeds:
        file = options.results / f"seed_{seed}.json"
        if not file.exists() and options.quick:
            print_figures({"quick": True, **negotiated}, f"{file} is missing; run the benchmark without --quick")
            return
        if not file.exists():
            run_seed(options.data / f"seed_{seed}", seed, present)
            save_json(file, results_of(options.data / f"seed_{seed}", seed, present))
        stored[seed] = json.loads(file.read_text())
        if changed := list(differences(stored[seed]["parameters"], present)):
            where = f"{file} was made with other parameters: {'; '.join(changed)}"
            if not options.quick:
                raise SystemExit(f"{where}. Name another --results, or remove the file to run the seed again")
            print_figures({"quick": True, **negotiated}, where)
            return
    if options.quick:
        print(f"stored results of a full run, in {options.results}; nothing was run")
    print_figures({"quick": options.quick, "stored": options.quick, **summarise(stored), **negotiated})


def parameters() -> dict[str, Any]:
    """Return all parameters, and the arguments of the imaginer, by dotted key; long texts by their sha256."""
    from kedro.framework.session import KedroSession
    from kedro.framework.startup import bootstrap_project

    bootstrap_project(PROJECT)
    with KedroSession.create(project_path=PROJECT) as session:
        context = session.load_context()
        catalog = context.config_loader["catalog"]
        values = {**context.config_loader["parameters"], "imaginer": catalog["imaginer"]}
    return by_key(values)


def run_seed(data: Path, seed: int, present: Mapping[str, Any]) -> None:
    """Run `goal_demo` with a seed, or the rest of it."""
    file = data / "parameters.json"
    if file.exists() and (changed := list(differences(json.loads(file.read_text()), present))):
        raise SystemExit(
            f"the run in {data} was begun with other parameters: {'; '.join(changed)}. Name another --data"
        )
    save_json(file, present)
    command = [sys.executable, "-m", "kedro", "run", "--pipelines", "goal_demo", "--only-missing-outputs"]
    environment = os.environ | {"SAGE_DATA": str(data), "PYTHONPATH": str(PROJECT / "src")}
    subprocess.run([*command, "--params", f"seed={seed}"], cwd=PROJECT, check=True, env=environment, stdout=sys.stderr)


def results_of(data: Path, seed: int, present: Mapping[str, Any]) -> dict[str, Any]:
    """Return the outcomes of every policy's dialogues and the critic's values of held-out dialogues."""
    dialogues = [
        {name: row[name] for name in ("policy", "task", "situation_id", "success", "reward", "replies", "unclear")}
        for row in latest_rows(data, "goal_rollouts")
    ]
    held_out = [
        {name: row[name] for name in ("dialogue_id", "task", "reply", "realised")}
        | {name: round(row[name], 5) for name in ("value", "action_value")}
        for row in latest_rows(data, "advantages")
        if row["split"] == "valid"
    ]
    columns = {
        name: {key: [row[key] for row in rows] for key in rows[0]}
        for name, rows in (("dialogues", dialogues), ("held_out", held_out))
    }
    return {"seed": seed, "parameters": present, **columns}


def summarise(stored: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    """Print the results of each seed and of all, and return the figures of all."""
    rollouts, advantages = rollouts_of(stored), advantages_of(stored)
    scores = to_rows(goal_scores(rollouts, CONFIDENCE, REPLICATES, 0))
    success = {(row["task"], row["policy"]): row for row in scores if row["statistic"] == "success"}
    policies, tasks = list(dict.fromkeys(rollouts["policy"])), [ALL, *dict.fromkeys(rollouts["task"])]
    seeds = rollouts["situation_id"].str.partition("/")[0]
    by_seed = rollouts.groupby([rollouts["policy"], seeds])["success"].mean()
    headings = "".join([f"{f'seed {seed}':>10}" for seed in stored] + [f"{task:>34}" for task in tasks])
    print(f"{'success':<18}{headings}")
    for policy in policies:
        shares = "".join(f"{by_seed[policy, str(seed)]:>10.3f}" for seed in stored)
        pooled = [success[task, policy] for task in tasks]
        cells = [f"{row['value']:.3f} [{row['low']:.3f}, {row['high']:.3f}] n {row['n']}" for row in pooled]
        print(f"{policy:<18}{shares}{''.join(f'{cell:>34}' for cell in cells)}")
    compared = rollouts[rollouts["policy"].isin([REFERENCE, RERANK, ADAPTER])]
    pairs = to_rows(goal_comparisons(compared, REFERENCE))
    for row in pairs:
        counts = f"{row['wins_a']} wins, {row['wins_b']} losses, n {row['n']}, p {row['p_holm']:.2g}"
        print(f"{row['policy_a']} against {REFERENCE}, {row['task']}: {counts}")
    calibration = to_rows(value_calibration(advantages, rollouts, CONFIDENCE, REPLICATES, 0))
    for row in calibration:
        slope = f"slope {row['slope']:.2f} [{row['slope_low']:.2f}, {row['slope_high']:.2f}], n {row['n']}"
        means = f"mean Q {row['mean_predicted']:.2f}, mean return {row['mean_realised']:.2f}"
        print(f"calibration, {row['task']}: {slope}; {means}")
    of_all = {row["policy_a"]: row for row in pairs if row["task"] == ALL}
    figures: dict[str, Any] = {"seeds": list(stored), "n": of_all[RERANK]["n"]}
    for name, policy in (("rerank", RERANK), ("adapter", ADAPTER)):
        figures[f"{name}_p"] = float(f"{of_all[policy]['p_holm']:.3g}")
        figures[f"{name}_difference"] = round(success[ALL, policy]["value"] - success[ALL, REFERENCE]["value"], 4)
    figures["calibration_slope"] = round(calibration[0]["slope"], 3)
    figures["calibration_interval"] = [round(calibration[0][key], 3) for key in ("slope_low", "slope_high")]
    figures["calibration_n"] = calibration[0]["n"]
    estimates = {
        policy: [round(success[ALL, policy][key], 4) for key in ("value", "low", "high")] for policy in policies
    }
    return figures | {"success": estimates}


def print_figures(figures: dict[str, Any], reason: str | None = None) -> None:
    """Print the last line; a figure that is missing is null, with the reason."""
    names = ("rerank_p", "adapter_p", "calibration_slope", "n")
    missing = {name: None for name in names if name not in figures}
    if missing:
        print(reason)
        missing["reason"] = reason
    print(json.dumps(figures | missing))


def negotiation_figures(file: Path, data: Path, configured: Mapping[str, Any]) -> dict[str, Any]:
    """Return the figures of Deal or No Deal, from a run on the validation contexts, or as they were stored."""
    used = below(latest_parameters(data, "negotiation_comparisons"), USED_IN_NEGOTIATIONS)
    if used.get("negotiation.contexts") == "valid":
        save_json(file, {"parameters": used, "comparisons": latest_rows(data, "negotiation_comparisons")})
    if not file.exists():
        reason = f"no run of negotiation_demo on the validation contexts in {data}"
        return {"dealornodeal_p": None, "dealornodeal_reason": reason}
    stored = json.loads(file.read_text())
    if changed := list(differences(stored["parameters"], configured)):
        reason = f"{file} was made with other parameters: {'; '.join(changed)}"
        return {"dealornodeal_p": None, "dealornodeal_reason": reason}
    (row,) = (
        row for row in stored["comparisons"] if row["statistic"] == "reward" and row["policy_a"] == "negotiation_rerank"
    )
    return {
        "dealornodeal_p": float(f"{row['p_holm']:.3g}"),
        "dealornodeal_difference": [round(row[key], 3) for key in ("difference", "low", "high")],
        "dealornodeal_n": row["n"],
    }


def rollouts_of(stored: Mapping[int, Mapping[str, Any]]) -> DataFrame:
    """Return the dialogues of all seeds, without their messages."""
    rows = [
        {**row, "situation_id": f"{seed}/{row['situation_id']}", "messages": [], "hidden": []}
        for seed, results in stored.items()
        for row in _rows(results["dialogues"])
    ]
    return from_rows([{**row, "value": None, "action_value": None} for row in rows], GOAL_ROLLOUTS)


def advantages_of(stored: Mapping[int, Mapping[str, Any]]) -> DataFrame:
    """Return the values of the held-out dialogues of all seeds."""
    rows = [
        {**row, "dialogue_id": f"{seed}/{row['dialogue_id']}", "split": "valid", "replies": row["reply"]}
        for seed, results in stored.items()
        for row in _rows(results["held_out"])
    ]
    return from_rows([{**row, "advantage": row["action_value"] - row["value"]} for row in rows], ADVANTAGES)


def _rows(columns: Mapping[str, list[Any]]) -> list[dict[str, Any]]:
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


if __name__ == "__main__":
    main()
