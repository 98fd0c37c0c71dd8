"""Measure the effect of the recipe in the generated world, over several seeds.

    python benchmarks/microworld_seeds.py              # seeds 0, 1, 2: about 25 minutes on two cores
    python benchmarks/microworld_seeds.py --seeds 3 4 --split valid
    python benchmarks/microworld_seeds.py --rl         # the same, and sage_rl in place of the recipe's pairs (conf/rl)
    python benchmarks/microworld_seeds.py --quick      # one seed at test size: a smoke test

Each seed generates its own world and trains the base and all policies on it. The benchmark prints the win rates of
each seed and of all seeds pooled, by the offline judge and by the world's truth, and the truth's scores of the replies
of each policy; `state kept` is the share of replies that read the same emotion as the reply before. The last line is
one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

from finished_runs import latest_rows, latest_version

PROJECT = Path(__file__).parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--split", choices=["valid", "test"], default="test", help="valid to tune on, test to report")
    parser.add_argument("--rl", action="store_true", help="train sage_rl and evaluate it by the pairs of conf/rl")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--keep", type=Path, help="data folder of the runs; seeds finished in it are not repeated")
    options = parser.parse_args()
    if options.rl and options.quick:
        parser.error("--rl has no test size; leave out --quick")
    seeds = options.seeds[:1] if options.quick else options.seeds
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep or Path(temporary)
        runs = {seed: run_demo(folder / f"seed_{seed}", seed, options.split, options.quick) for seed in seeds}
        if options.rl:
            for seed, run in runs.items():
                run_self_play_rl(run, seed, options.split)
        tables = ("win_rates", "truth_win_rates")
        win_rates = {seed: [row for name in tables for row in latest_rows(run, name)] for seed, run in runs.items()}
        scores = {seed: latest_rows(run, "truth_scores") for seed, run in runs.items()}
        emotions = {seed: latest_rows(run, "emotion_accuracy") for seed, run in runs.items()}
        failures = {seed: latest_rows(run, "failure_modes") for seed, run in runs.items()}
        kept = {seed: state_kept(latest_rows(run, "rollouts")) for seed, run in runs.items()}
    pooled = pool(win_rates)
    statistics = _mean_scores({seed: rows + kept[seed] for seed, rows in scores.items()})
    _print_pairs(win_rates, pooled)
    _print_scores(statistics)
    emotion_shares = {
        f"{row['policy']} seed {seed}": [round(row[key], 3) for key in ("accuracy", "low", "high")]
        for seed, rows in emotions.items()
        for row in rows
        if row["exchange"] == 1
    }
    parse_shares = {
        f"{row['policy']} seed {seed}": [round(1 - row[key], 3) for key in ("share", "high", "low")]
        for seed, rows in failures.items()
        for row in rows
        if row["failure"] == "broken_blocks"
    }
    _print_shares("emotion read at the first exchange (share, low, high; chance 0.031)", emotion_shares)
    _print_shares("replies whose blocks parse (share, low, high)", parse_shares)
    figures = {"seeds": seeds, "split": options.split, "pairs": pooled, "truth": statistics}
    figures |= {"emotion_first": emotion_shares, "blocks_parse": parse_shares}
    print(json.dumps(figures))


def run_demo(data: Path, seed: int, split: str, quick: bool) -> Path:
    """Run the demo with a seed unless it has finished, and return its data folder."""
    if latest_version(data, "truth_win_rates") is None:
        run_pipeline(data, "demo", seed, split, *(["--env", "test"] if quick else []))
    return data


def run_self_play_rl(data: Path, seed: int, split: str) -> None:
    """Train `sage_rl` after a demo unless it was evaluated, and evaluate it."""
    if any(row["policy_b"] == "sage_rl" for row in latest_rows(data, "truth_win_rates")):
        return
    run_pipeline(data, "self_play_rl", seed, split, "--only-missing-outputs")
    run_pipeline(data, "demo_evaluation", seed, split, "--env", "rl")


def run_pipeline(data: Path, pipeline: str, seed: int, split: str, *options: str) -> None:
    command = [sys.executable, "-m", "kedro", "run", "--pipelines", pipeline, *options]
    command += ["--params", f"seed={seed},evaluation.split={split}"]
    subprocess.run(command, cwd=PROJECT, check=True, env=os.environ | {"SAGE_DATA": str(data)})


def pool(win_rates: dict[int, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Return the counts of each judge and pair over all seeds, with the exact two-sided sign test.

    `p_adjusted` is by Holm's method for all pairs of the judge.
    """
    from scipy.stats import binomtest

    from sage_dialog.evaluation.statistics import holm

    counts: dict[tuple[str, str, str], list[int]] = defaultdict(lambda: [0, 0, 0])
    for rows in win_rates.values():
        for row in rows:
            pair_counts = counts[row["judge"], row["policy_a"], row["policy_b"]]
            for index, key in enumerate(("wins_a", "ties", "wins_b")):
                pair_counts[index] += row[key]
    pooled = []
    for (judge, a, b), (wins_a, ties, wins_b) in counts.items():
        p = binomtest(wins_b, wins_a + wins_b).pvalue if wins_a + wins_b else 1.0
        row = {"judge": judge, "a": a, "b": b, "n": wins_a + ties + wins_b, "p": float(f"{p:.2g}")}
        pooled.append(row | {"wins_a": wins_a, "ties": ties, "wins_b": wins_b})
    for judge in {row["judge"] for row in pooled}:
        of_judge = [row for row in pooled if row["judge"] == judge]
        for row, adjusted in zip(of_judge, holm([row["p"] for row in of_judge]), strict=True):
            row["p_adjusted"] = float(f"{adjusted:.2g}")
    return pooled


def state_kept(rollouts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return for each reply but a dialogue's first whether it reads the emotion that the reply before read."""
    rows, before = [], {}
    for row in sorted(rollouts, key=lambda row: row["turn"]):
        if row["role"] != "assistant" or row["u_emotion"] is None:
            continue
        dialogue = row["policy"], row["situation_id"]
        if dialogue in before:
            value = float(row["u_emotion"] == before[dialogue])
            rows.append({"policy": row["policy"], "statistic": "state kept", "exchange": row["turn"], "value": value})
        before[dialogue] = row["u_emotion"]
    return rows


def _mean_scores(scores: dict[int, list[dict[str, Any]]]) -> dict[str, dict[str, float]]:
    """Return the mean of each truth statistic by policy over all seeds; `suitable first` is of exchange 1 alone."""
    values: dict[tuple[str, str], list[float]] = defaultdict(list)
    for rows in scores.values():
        for row in rows:
            values[row["policy"], row["statistic"]].append(row["value"])
            if row["statistic"] == "suitable" and row["exchange"] == 1:
                values[row["policy"], "suitable first"].append(row["value"])
    means: dict[str, dict[str, float]] = defaultdict(dict)
    for (policy, statistic), numbers in values.items():
        means[policy][statistic] = round(sum(numbers) / len(numbers), 3)
    return dict(means)


def _print_pairs(win_rates: dict[int, list[dict[str, Any]]], pooled: list[dict[str, Any]]) -> None:
    headings = "".join(f"{f'seed {seed}':>16}" for seed in win_rates)
    print(f"\n{'judge':<22}{'a':<14}{'b':<10}{headings}{'all':>16}  p (Holm)")
    for row in pooled:
        cells = []
        for rows in win_rates.values():
            (of_seed,) = (
                found
                for found in rows
                if (found["judge"], found["policy_a"], found["policy_b"]) == (row["judge"], row["a"], row["b"])
            )
            cells.append(f"{of_seed['wins_a']}/{of_seed['ties']}/{of_seed['wins_b']}")
        cells.append(f"{row['wins_a']}/{row['ties']}/{row['wins_b']}")
        counts = "".join(f"{cell:>16}" for cell in cells)
        print(f"{row['judge']:<22}{row['a']:<14}{row['b']:<10}{counts}{row['p_adjusted']:>10.2g}")
    print("wins of a / ties / wins of b; p: exact two-sided sign test over all seeds, adjusted for a judge's pairs")


def _print_scores(statistics: dict[str, dict[str, float]]) -> None:
    names = sorted({name for means in statistics.values() for name in means})
    print("\nworld truth, share of replies")
    for name in names:
        shares = "  ".join(f"{policy} {means[name]:.2f}" for policy, means in statistics.items() if name in means)
        print(f"  {name:<24}{shares}")


def _print_shares(title: str, shares: dict[str, list[float]]) -> None:
    print(f"\n{title}")
    for name, (share, low, high) in shares.items():
        print(f"  {name:<24}{share:.3f} [{low:.3f}, {high:.3f}]")


if __name__ == "__main__":
    main()
