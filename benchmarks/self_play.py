"""Measure the cost of a self-play search, its growth, and the speedup of several shards at once.

    python benchmarks/self_play.py                     # on the policies of the finished demo in data/
    python benchmarks/self_play.py --data DIR --situations 64 128 256
    python benchmarks/self_play.py --rows              # count rows that differ between shard sizes and after a kill
    python benchmarks/self_play.py --hold-form --agent sage_1   # does a search gain from blocks that always parse?
    python benchmarks/self_play.py --branching         # gain of computing what candidates write alike once
    python benchmarks/self_play.py --branching --data DIR --agent sage_1 --situations 4 --turns 4   # of a `make real`
    python benchmarks/self_play.py --quick             # within 50 seconds; without a demo, on a random model

    growth   whole searches of more and more situations: 12 turns, 16 candidates, the offline selector, shards of 32
    overlap  the same search with one and with several shards at once, and a selector with a fixed latency
    offline  the same with the offline selector, whose time must not grow
    rows     32 situations in shards of 1, 4 and 16, one to three at once; one search is killed and resumed
    branch   the same search in turn with every candidate computed by itself and with what several have written alike
             computed once: CPU seconds, and the share of their tokens that differ in what stands before them
    form     two searches of the largest number of situations with the turns and candidates of conf/base, with free and
             with held forms of agent and user: invalid candidates, and the chosen replies by the world's truth

The agent is `sage_2`, the user `sage_1`, sampling as in conf/base. Every search starts in an empty folder and ends with
its tables; memory is the peak of the process so far. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

PROJECT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(PROJECT / "src"))

from finished_runs import latest_policy, latest_table, latest_version  # noqa: E402

from sage_dialog import schemas  # noqa: E402
from sage_dialog.config import BaseModelConfig, SacAugmentation, SelfPlay  # noqa: E402
from sage_dialog.core.policies import Policy, PolicyCard, weights_revision  # noqa: E402
from sage_dialog.core.seeds import generator  # noqa: E402
from sage_dialog.core.tables import DataFrame, from_rows, to_rows  # noqa: E402
from sage_dialog.evaluation.statistics import Estimate, clustered_share  # noqa: E402
from sage_dialog.microworld.truth import ATTUNED, truth_scores  # noqa: E402
from sage_dialog.microworld.world import load_world  # noqa: E402
from sage_dialog.roles.offline.selector import OfflineSelector  # noqa: E402
from sage_dialog.roles.protocols import Choice, NoChoice  # noqa: E402
from sage_dialog.selfplay.search import SystemPrompts, search  # noqa: E402
from sage_dialog.settings import CONFIG_LOADER_ARGS  # noqa: E402

if TYPE_CHECKING:
    from sage_dialog.inference.engine import Engine

Tables = tuple[DataFrame, DataFrame]


class WaitingSelector(OfflineSelector):
    """The offline selector with the latency of a server."""

    def __init__(self, latency_s: float) -> None:
        self._latency_s = latency_s

    def select(self, choices: Sequence[Choice]) -> list[int | NoChoice]:
        time.sleep(self._latency_s)
        return super().select(choices)


class Bench:
    """The players, situations and parameters of all searches."""

    def __init__(self, engine: Engine, agent: Policy, user: Policy, situations: DataFrame, config: SelfPlay) -> None:
        import torch

        self._play = engine, agent, user, situations
        self.config, self.agent, self.threads = config, agent.name, torch.get_num_threads()
        raw = _load_parameters()["sac_augmentation"]
        self._system_prompts: SystemPrompts = (
            SacAugmentation.model_validate(raw).system_prompts if agent.card.blocks else {}
        )

    def set_branching(self, branching: bool) -> None:
        """Have the engine compute what several candidates have written alike once, or for each."""
        engine: Any = self._play[0]
        method = replace(engine._weights.method, branching=branching)
        engine._loaded[engine._active] = engine._weights._replace(method=method)

    def tokens(self, text: str) -> list[int]:
        engine: Any = self._play[0]
        ids: list[int] = engine._policies.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def search(
        self, selector: OfflineSelector | None = None, scratch: Path | None = None, **config: Any
    ) -> tuple[Tables, float]:
        """Return the tables of one search and its seconds."""
        with tempfile.TemporaryDirectory() as empty:
            start = time.perf_counter()
            arguments = self.config.model_copy(update=config), self._system_prompts, selector or OfflineSelector()
            tables = search(*self._play, *arguments, 0, scratch or Path(empty))
            return tables, time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("SAGE_DATA", PROJECT / "data")))
    parser.add_argument("--agent", default="sage_2")
    parser.add_argument("--situations", type=int, nargs="+", default=[64, 128, 256])
    parser.add_argument("--latency", type=float, default=4.0, help="seconds that the selector takes to answer")
    parser.add_argument("--rows", action="store_true", help="count rows that differ, and nothing else")
    parser.add_argument("--hold-form", action="store_true", help="compare free and held forms, and nothing else")
    parser.add_argument("--branching", action="store_true", help="measure what branching gains, and nothing else")
    parser.add_argument("--turns", type=int, default=12, help="messages of a dialogue")
    parser.add_argument("--killed", type=Path, help=argparse.SUPPRESS)  # the scratch folder of a search to be killed
    parser.add_argument("--threads", type=int, help="of torch; default: all cores, one with --quick")
    options = parser.parse_args()
    if options.quick and options.threads is None:  # batches are small
        options.threads = 1
    raw = _load_parameters()["self_play"]
    turns, candidates = (4, 4) if options.quick else (options.turns, 16)
    if options.hold_form:
        turns, candidates = raw["max_turns"], raw["candidates"]
    size = {"max_turns": turns, "candidates": candidates, "shard_size": 32, "shards_at_once": 2}
    config = SelfPlay.model_validate(raw | size | {"situations": None})
    with tempfile.TemporaryDirectory() as folder:
        bench = _open_bench(options, config, Path(folder), parser)
        if options.killed:
            bench.search(scratch=options.killed, **KILLED)
            return
        figures: dict[str, Any] = {"agent": options.agent, "turns": turns, "candidates": candidates}
        if options.hold_form:
            figures["form"] = _form(bench, options.data, max(options.situations))
        elif options.branching:
            figures["branching"] = _branching(bench, min(options.situations), repeats=3)
        elif options.rows:
            figures["rows"] = _rows(bench, options.data)
        else:
            bench.search(situations=1)  # warm-up
            latency, counts = (0.5, [2, 4]) if options.quick else (options.latency, sorted(options.situations))
            figures["growth"] = _growth(bench, counts)
            count = min(counts[-1], 64)
            figures["overlap"] = _overlap(bench, count, -(-count // 4), latency, (1, 2) if options.quick else (1, 2, 4))
            if not options.quick:
                figures["offline"] = _offline(bench, -(-count // 2), -(-count // 4), repeats=3)
    print(json.dumps({"quick": options.quick, "threads": options.threads, **figures}))


def _growth(bench: Bench, counts: Sequence[int]) -> dict[str, Any]:
    """Measure whole searches of increasing numbers of situations."""
    found: dict[str, Any] = {}
    print(f"{'situations':>10}{'seconds':>9}{'dialogues/min':>15}{'candidates/s':>14}{'valid':>8}{'peak MB':>9}")
    for count in counts:
        (candidates, trajectories), seconds = bench.search(situations=count)
        dialogues = len(trajectories["situation_id"].unique())
        figures = {
            "seconds": round(seconds, 1),
            "dialogues_per_min": round(60 * dialogues / seconds, 2),
            "candidates_per_s": round(len(candidates) / seconds, 2),
            "valid": round(float(candidates["valid"].mean()), 4),
            "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        }
        found[str(count)] = figures
        columns = zip(figures.values(), (9, 15, 14, 8, 9), strict=True)
        print(f"{count:>10}{''.join(f'{figure:>{width}}' for figure, width in columns)}")
    first, last = (found[str(count)]["seconds"] / count for count in (counts[0], counts[-1]))
    print(f"seconds a situation, {counts[-1]} against {counts[0]}: {last / first:.2f} times")
    return {"searches": found, "seconds_per_situation": round(last / first, 3)}


def _overlap(bench: Bench, count: int, shard_size: int, latency: float, at_once: Sequence[int]) -> dict[str, Any]:
    """Measure the seconds of one search by the number of shards at once, and check that the rows are equal."""
    print(f"\n{count} situations in shards of {shard_size}, a selector that answers after {latency:g} s")
    rows, seconds = [], {}
    for shards in at_once:
        selector = WaitingSelector(latency)
        found, taken = bench.search(selector, situations=count, shard_size=shard_size, shards_at_once=shards)
        rows.append(found)
        seconds[str(shards)] = round(taken, 1)
        print(f"  {shards} at once {taken:9.1f} s   {seconds[str(at_once[0])] / taken:5.2f} times as fast")
    assert all(one.equals(other) for tables in rows for one, other in zip(tables, rows[0], strict=True))
    one = seconds[str(at_once[0])]
    return {"latency_s": latency, "seconds": seconds, "speedup": {key: round(one / s, 2) for key, s in seconds.items()}}


def _offline(bench: Bench, count: int, shard_size: int, repeats: int) -> dict[str, Any]:
    """Measure the median ratio of seconds of two shards at once to one, with the offline selector."""
    taken: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(repeats):
        for shards, seconds in taken.items():
            seconds.append(bench.search(situations=count, shard_size=shard_size, shards_at_once=shards)[1])
    ratio = statistics.median(two / one for one, two in zip(taken[1], taken[2], strict=True))
    print(f"\noffline selector, two shards at once: {ratio:.3f} times the seconds of one at a time")
    return {"ratio": round(ratio, 3), "seconds": {key: [round(s, 1) for s in each] for key, each in taken.items()}}


def _branching(bench: Bench, count: int, repeats: int) -> dict[str, Any]:
    """Measure the median CPU seconds of a search with and without branching, whose rows must be equal."""
    taken: dict[bool, list[float]] = {False: [], True: []}
    tables: list[Tables] = []
    bench.search(situations=1)  # warm-up
    for _ in range(repeats):
        for branching, seconds in taken.items():
            bench.set_branching(branching)
            start = time.process_time()
            tables.append(bench.search(situations=count, shards_at_once=1)[0])
            seconds.append(time.process_time() - start)
    differ = sum(len(_different_rows(*both)) for both in zip(tables[0], tables[1], strict=True))
    distinct = _distinct_share(tables[1][0], bench.tokens)
    speedup = statistics.median(one / other for one, other in zip(taken[False], taken[True], strict=True))
    print(f"\n{count} situations: {distinct:.1%} of the candidates' tokens stand after a text of their own")
    print(f"computed once: {speedup:.2f} times as fast; {differ} rows differ")
    found = {"cpu_s": {str(key): [round(s, 1) for s in each] for key, each in taken.items()}, "differ": differ}
    return {"speedup": round(speedup, 2), "distinct_tokens": round(distinct, 3), "situations": count, **found}


def _distinct_share(candidates: DataFrame, tokens: Callable[[str], list[int]]) -> float:
    """Return the number of different beginnings of a turn's candidates, as a share of their tokens."""
    beginnings: set[tuple[Any, ...]] = set()
    total = 0
    for row in to_rows(candidates):
        ids = tokens(row["text"])
        total += len(ids)
        beginnings |= {(row["situation_id"], row["turn"], *ids[:length]) for length in range(len(ids))}
    return len(beginnings) / total


def _rows(bench: Bench, data: Path) -> dict[str, Any]:
    """Count the rows of a search that differ with other shard sizes, and after a kill.

    A batch of another shape rounds matrix products differently. A random number close to the boundary between two
    tokens may then select the other one, and the dialogue continues from there.
    """
    expected, _ = bench.search(situations=32, shard_size=16, shards_at_once=1)
    of = sum(len(each) for each in expected)
    print(f"rows of 32 situations, candidates and trajectories ({of} in all), that differ from those in shards of 16")
    found = {}
    for size, at_once, killed in ((16, 2, False), (4, 1, False), (4, 3, False), (4, 2, True), (1, 3, False)):
        label = f"shards of {size}, {at_once} at once{', killed' if killed else ''}"
        with tempfile.TemporaryDirectory() as folder:
            if killed:
                _kill_search(bench, Path(folder), data)
            config = {"situations": 32, "shard_size": size, "shards_at_once": at_once}
            other, _ = bench.search(scratch=Path(folder), **config)
        differ = [row for tables in zip(expected, other, strict=True) for row in _different_rows(*tables)]
        dialogues = sorted({row["situation_id"] for row in differ})
        found[label] = {"differ": len(differ), "of": of, "dialogues": len(dialogues)}
        print(f"  {label:<32}{len(differ):>6} in {len(dialogues)} dialogues {' '.join(dialogues)}")
        for name in dialogues:
            first = next(row for row in differ if row["situation_id"] == name)
            print(f"    from turn {first['turn']}, candidate {first.get('candidate', '-')}: {first['text'][-60:]!r}")
    return found


def _form(bench: Bench, data: Path, count: int) -> dict[str, Any]:
    """Compare searches of the same situations with free and with held forms; intervals are 95 %, over situations."""
    truth = latest_table(data, "world_truth")
    world, attuned, figures = load_world(), {}, {}
    for held in (False, True):
        form = {role: getattr(bench.config, role).model_copy(update={"hold_form": held}) for role in ("agent", "user")}
        (candidates, trajectories), seconds = bench.search(situations=count, **form)
        invalid = candidates.assign(broken=~candidates["valid"]).groupby("situation_id")["broken"].agg(["sum", "size"])
        scores = truth_scores(world, truth, trajectories.assign(policy=bench.agent))
        of_replies = scores[scores["statistic"] == ATTUNED].groupby("situation_id")["value"].agg(["sum", "size"])
        attuned[held] = of_replies["sum"].reindex(sorted(set(trajectories["situation_id"])), fill_value=0.0)
        found = {
            "seconds": round(seconds, 1),
            "candidates": len(candidates),
            "invalid": _interval(clustered_share(invalid["sum"], invalid["size"], 0.95)),
            "replies": int(of_replies["size"].sum()),
            "attuned": _interval(clustered_share(of_replies["sum"], of_replies["size"], 0.95)),
            "attuned_per_dialogue": round(float(attuned[held].mean()), 3),
            "outcomes": trajectories[trajectories["turn"] == 0]["outcome"].value_counts().to_dict(),
        }
        figures["held" if held else "free"] = found
        print(f"\n{'held' if held else 'free'} form, {count} situations")
        for what, figure in found.items():
            print(f"  {what:<22}{figure}")
    difference = attuned[True] - attuned[False]
    half = 1.96 * float(difference.std()) / math.sqrt(len(difference))
    gain = [round(float(difference.mean()) + side, 3) for side in (0, -half, half)]
    print(f"\nattuned replies of a dialogue, held against free, by situation: {gain[0]:+} [{gain[1]:+}, {gain[2]:+}]")
    return {**figures, "gain": gain, "situations": len(difference)}


def _interval(share: Estimate) -> list[float]:
    return [round(share.value, 4), round(share.low, 4), round(share.high, 4)]


KILLED = {"situations": 32, "shard_size": 4, "shards_at_once": 2}


def _kill_search(bench: Bench, scratch: Path, data: Path) -> None:
    """Run a search in a process of its own and kill it after its first shard."""
    command = [sys.executable, __file__, "--killed", str(scratch), "--data", str(data), "--agent", bench.agent]
    playing = subprocess.Popen([*command, "--threads", str(bench.threads)], stderr=subprocess.DEVNULL)
    while playing.poll() is None and not any(scratch.rglob("shard-*")):
        time.sleep(0.2)
    playing.kill()
    print(f"    killed ({playing.wait()}) with {len(list(scratch.rglob('shard-*')))} shards kept")


def _different_rows(one: DataFrame, other: DataFrame) -> list[dict[str, Any]]:
    """Return the rows that differ or that only one of the tables has."""
    first, others = (
        {(row["situation_id"], row["turn"], row.get("candidate")): row for row in to_rows(table)}
        for table in (one, other)
    )
    return [first.get(key) or others[key] for key in {**first, **others} if first.get(key) != others.get(key)]


def _load_parameters() -> dict[str, Any]:
    from kedro.config import OmegaConfigLoader

    return dict(OmegaConfigLoader(str(PROJECT / "conf"), env="base", **CONFIG_LOADER_ARGS)["parameters"])


def _open_bench(options: Any, config: SelfPlay, folder: Path, parser: argparse.ArgumentParser) -> Bench:
    """Return a bench on the demo's policies and situations; without a demo, on a random model and generated scenes."""
    from transformers.utils import logging

    from sage_dialog.inference.transformers.engine import TransformersEngine

    logging.set_verbosity_error()
    names = ("sage_0", "sage_1", options.agent)
    base, user, agent = (latest_policy(options.data, name) for name in names)
    if base and user and agent:
        situations = latest_table(options.data, "situations")
    elif options.quick:
        print("no finished demo: a random model without blocks plays", file=sys.stderr)
        base = user = agent = _random_model(folder)
        situations = _scenes(4)
        short = {"max_new_tokens": 32}
        config = config.model_copy(
            update={"agent": config.agent.model_copy(update=short), "user": config.user.model_copy(update=short)}
        )
    else:
        missing = ", ".join(name for name in names if latest_version(options.data, name) is None)
        parser.error(f"{options.data} holds no policy {missing}; run `make demo`, or name a --data that does")
    engine = TransformersEngine(base, [agent, user], seed=0, threads=options.threads)
    return Bench(engine, agent, user, situations, config)


def _scenes(count: int) -> DataFrame:
    world = load_world()
    rows = [
        {
            "situation_id": f"scene-{place}",
            "split": "train",
            "emotion": "sad",
            "text": world.scene(generator(0, "scene", place)).text,
        }
        for place in range(count)
    ]
    return from_rows(rows, schemas.SITUATIONS)


def _random_model(path: Path) -> Policy:
    """Return a random model of the demo's size whose vocabulary is 13 words, one of them the end token."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import MixtralConfig, MixtralForCausalLM, PreTrainedTokenizerFast

    words = ["<end>", "user", "assistant", "I", "you", "feel", "think", "hope", "home", "friend", "happy", "with", "so"]
    vocabulary = Tokenizer(models.WordLevel({word: place for place, word in enumerate(words)}, unk_token="so"))
    vocabulary.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=vocabulary, eos_token="<end>", pad_token="<end>")
    tokenizer.chat_template = (
        "{% for message in messages %}{{ message['role'] }} {{ message['content'] }} <end> {% endfor %}assistant"
    )
    tokenizer.save_pretrained(path)
    size = BaseModelConfig.from_base()
    torch.manual_seed(0)
    config = MixtralConfig(
        vocab_size=len(words),
        hidden_size=size.hidden,
        intermediate_size=size.expert_hidden,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.heads,
        num_local_experts=size.experts,
        num_experts_per_tok=2,
        max_position_embeddings=1024,
        bos_token_id=None,
        eos_token_id=0,
        pad_token_id=0,
    )
    MixtralForCausalLM(config).save_pretrained(path)
    return Policy.write_card(path, PolicyCard("sage_0", "base", False, "sage_0", weights_revision(path)))


if __name__ == "__main__":
    main()
