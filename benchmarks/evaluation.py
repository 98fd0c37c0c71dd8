"""Measure time and memory of the evaluation from votes and rollouts, and their growth with the number of votes.

    python benchmarks/evaluation.py    # about a minute on two cores
    python benchmarks/evaluation.py --quick

Generated rollouts and votes, by seed: five policies on 2,500 situations, eight exchanges each, replies of 10 to 40
words with labels from a long tail; every pair of policies by two judges in both orders, which is 100,000 votes. The
nodes of the evaluation pipeline turn them into all tables and figures, and the report; once with a tenth of the
situations and once with all, each in a process of its own. Generating the data and importing libraries is not timed,
but counts towards the peak memory.

Goals: under 60 s and 1 GB at 100,000 votes. The last line is one JSON object; growth_10x is the ratio of the times of
ten times the votes.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from itertools import combinations
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parents[1]
POLICIES = ("sage_0", "sage_1", "sage_2", "sage_3", "sage_dpo")
JUDGES = ("judge one", "judge two")
PAIRS = tuple(combinations(POLICIES, 2))
EXCHANGES, CANDIDATES, LABELS, WORDS = 8, 16, 200, 5000
VOTES_A_SITUATION = 2 * len(JUDGES) * len(PAIRS)
SKIPPED = ("collect_rollouts", "describe_policies", "judge_pairs", "gather_votes", "draw_training", "score_benchmarks")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="1,000 and 10,000 votes")
    parser.add_argument("--votes", type=int, help=argparse.SUPPRESS)  # of a child process
    options = parser.parse_args()
    sys.path.insert(0, str(PROJECT / "src"))
    if options.votes:
        print(json.dumps(measure(options.votes)))
        return
    sizes = (1_000, 10_000) if options.quick else (10_000, 100_000)
    few, many = (run_child(votes) for votes in sizes)
    for votes, run in zip(sizes, (few, many), strict=True):
        slowest = sorted(run["nodes"].items(), key=lambda node: -node[1])[:4]
        nodes = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in slowest)
        total = f"{run['seconds']:.1f} s ({run['cpu_seconds']:.1f} s of CPU), peak memory {run['peak_rss_mb']:.0f} MB"
        print(f"{votes:>7,} votes: {total}; {nodes}")
    print(
        json.dumps(
            {
                "seconds": round(many["seconds"], 2),
                "peak_rss_mb": round(many["peak_rss_mb"], 1),
                "growth_10x": round(many["seconds"] / few["seconds"], 2),
                "cpu_seconds": round(many["cpu_seconds"], 2),
                "votes": sizes[1],
                "nodes": {name: round(seconds, 2) for name, seconds in many["nodes"].items()},
                "quick": options.quick,
            }
        )
    )


def run_child(votes: int) -> dict[str, Any]:
    command = [sys.executable, __file__, "--votes", str(votes)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def measure(votes: int) -> dict[str, Any]:
    """Return the seconds of each node and of all together, and the peak memory of the process."""
    # Imports take the same time for any number of votes and would hide the growth.
    import matplotlib.figure  # noqa: F401
    import scipy.stats  # noqa: F401
    import statsmodels.genmod.generalized_linear_model  # noqa: F401

    from sage_dialog.pipelines.evaluation import create_pipeline

    data = generate_data(votes // VOTES_A_SITUATION)
    seconds: dict[str, float] = {}
    cpu = time.process_time()
    for node in create_pipeline(POLICIES, iterations=1).nodes:
        if node.name not in SKIPPED and not node.name.startswith("rollout_"):
            start = time.perf_counter()
            data |= node.run({name: data[name] for name in node.inputs})
            seconds[node.name] = time.perf_counter() - start
    return {
        "seconds": sum(seconds.values()),
        "cpu_seconds": time.process_time() - cpu,
        "nodes": seconds,
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def generate_data(situations: int) -> dict[str, Any]:
    """Return the inputs of the nodes by name.

    They are built in small tables, so that Python's copies stay small, and joined to one, as the catalog loads them.
    """
    import pyarrow as pa

    from sage_dialog import schemas
    from sage_dialog.config import Evaluation
    from sage_dialog.core.seeds import generator
    from sage_dialog.core.tables import from_arrow, from_rows
    from sage_dialog.corpora.empathetic import EMOTIONS

    ids = [f"hit:{index}_conv:{index}" for index in range(situations)]
    drawn = generator(0, "emotions of situations").integers(0, len(EMOTIONS), situations)
    emotions = {situation: EMOTIONS[place] for situation, place in zip(ids, drawn, strict=True)}
    held_out = [{"situation_id": id_, "split": "test", "emotion": emotions[id_], "text": id_} for id_ in ids]
    cards = [
        {"policy": policy, "kind": "adapter" if rank else "base", "blocks": rank > 0, "revision": str(rank),
         "base": "sage_0", "base_revision": "0", "parent": None, "parent_revision": None}
        for rank, policy in enumerate(POLICIES)
    ]  # fmt: skip
    ranks = enumerate(POLICIES)
    dialogues = (dialogue(policy, rank, id_, emotions[id_]) for rank, policy in ranks for id_ in ids)
    rollouts = from_arrow(pa.concat_tables(dialogues).combine_chunks())
    return {
        "params:evaluation": Evaluation.from_base(pairs=PAIRS, exchanges=EXCHANGES),
        "params:seed": 0,
        "situations": from_rows(held_out, schemas.SITUATIONS),
        "policy_cards": from_rows(cards, schemas.POLICIES),
        "candidates_1": from_arrow(pa.concat_tables(search(id_, emotions[id_]) for id_ in ids).combine_chunks()),
        "judge_votes": from_arrow(generate_votes(ids)),
        "rollouts": rollouts,
        "trajectories_1": rollouts[rollouts["policy"] == "sage_1"].drop(columns="policy"),  # in place of a search
        **other_inputs(),
    }


def other_inputs() -> dict[str, Any]:
    """Return the other inputs of the report: roles, and empty tables of training and data processing."""
    from types import SimpleNamespace

    from sage_dialog import schemas
    from sage_dialog.core.tables import from_rows

    roles = {role: SimpleNamespace(name=f"offline {role}") for role in ("annotator", "selector")}
    return {
        **roles,
        "judges": [SimpleNamespace(name=judge) for judge in JUDGES],
        "training_figure": b"",
        "filter_figure": b"",
        "filter_report": from_rows([], schemas.FILTER_REPORT),
        "annotations": from_rows([], schemas.ANNOTATIONS),
        "benchmark_scores": from_rows([], schemas.BENCHMARK_SCORES),
        "latest_iteration_verdicts": from_rows([], schemas.ITERATION_VERDICTS),
        "latest_reference_results": from_rows([], schemas.REFERENCE_RESULTS),
        **{f"training_rejects_{policy}": from_rows([], schemas.TRAINING_REJECTS) for policy in POLICIES[1:]},
    }


def dialogue(policy: str, rank: int, situation: str, emotion: str) -> Any:
    """Return rows of `schemas.ROLLOUTS`; later policies predict emotions better and repeat openings more."""
    import pyarrow as pa

    from sage_dialog import schemas
    from sage_dialog.core.seeds import generator
    from sage_dialog.sac import Chain, Intent, render

    draw = generator(0, "dialogue", policy, situation)
    lengths = draw.integers(10, 41, EXCHANGES)
    words = draw.integers(0, WORDS, int(lengths.sum()))
    labels = draw.zipf(1.4, (EXCHANGES, 3)) % LABELS
    right, stock_openings = draw.random(EXCHANGES) < 0.3 + 0.1 * rank, draw.random(EXCHANGES) < 0.1 * rank
    rows, start = [row(policy, situation, 0, "user", f"This is what happened in {situation}.")], 0
    for place, length in enumerate(lengths):
        utterance = " ".join(f"word{number}" for number in words[start : start + length])
        start += length
        text = ("Oh dear, that is " if stock_openings[place] else "") + utterance + "?"
        read = emotion if right[place] else f"feeling {labels[place, 0]}"
        action = Intent(f"motivation {labels[place, 1]}", f"mood {labels[place, 2]}", ("topic",))
        content = render(Chain(Intent("sharing", read, ("topic",)), action, text)) if rank else text
        rows += [
            row(policy, situation, 2 * place + 1, "assistant", text, content),
            row(policy, situation, 2 * place + 2, "user", utterance),
        ]
    return pa.Table.from_pylist(rows[:-1], schema=schemas.ROLLOUTS)


def row(policy: str, situation: str, turn: int, role: str, text: str, content: str | None = None) -> dict[str, Any]:
    place = {"policy": policy, "situation_id": situation, "turn": turn, "outcome": "turn limit"}
    return {**place, "role": role, "text": text, "content": content or text}


def search(situation: str, emotion: str) -> Any:
    """Return the candidates of one situation's first two turns, as rows of `schemas.CANDIDATES`."""
    import pyarrow as pa

    from sage_dialog import schemas
    from sage_dialog.core.seeds import generator

    read = generator(0, "candidates", situation).random((2, CANDIDATES)) < 0.4
    rows = [
        {
            "situation_id": situation,
            "turn": 2 * place + 1,
            "candidate": index,
            "text": "A candidate " * 20,
            "utterance": "A candidate " * 10,
            "u_emotion": emotion if read[place, index] else f"feeling {index % 5}",
            "valid": True,
            "chosen": index == 0,
        }
        for place in (0, 1)
        for index in range(CANDIDATES)
    ]
    return pa.Table.from_pylist(rows, schema=schemas.CANDIDATES)


def generate_votes(situations: list[str]) -> Any:
    """Return rows of `schemas.JUDGE_VOTES`: later policies win more often; some votes change with the order."""
    import pyarrow as pa

    from sage_dialog import schemas
    from sage_dialog.core.seeds import generator

    tables = []
    for judge in JUDGES:
        for policy_a, policy_b in PAIRS:
            lead = 0.08 * (POLICIES.index(policy_b) - POLICIES.index(policy_a))
            draw = generator(0, "votes", judge, policy_a, policy_b).random((len(situations), 3))
            common = {
                "policy_a": policy_a,
                "policy_b": policy_b,
                "judge": judge,
                "raw_response": "The reason, in a sentence. " * 4,
            }
            rows = []
            for situation, (skill, flip, tie) in zip(situations, draw.tolist(), strict=True):
                vote = "tie" if tie < 0.3 else "b" if skill < 0.5 + lead else "a"
                other = "a" if vote == "b" else "b"
                for order, answer in (("ab", vote), ("ba", other if flip < 0.15 else vote)):
                    rows.append({"situation_id": situation, "order": order, "vote": answer, **common})
            tables.append(pa.Table.from_pylist(rows, schema=schemas.JUDGE_VOTES))
    return pa.concat_tables(tables).combine_chunks()


if __name__ == "__main__":
    main()
