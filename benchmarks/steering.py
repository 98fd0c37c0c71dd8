"""Measure effect, strength and cost of steering, and of a held form.

    python benchmarks/steering.py                      # on the policies of the finished demo in data/
    python benchmarks/steering.py --data DIR --policy sage_dpo
    python benchmarks/steering.py --quick              # within 50 seconds; without a demo, on a model trained here

Situations are test situations, replies are sampled as in evaluation; intervals are 95 %, over situations. The benchmark
prints the rates of each field with a boost of `a_motivation`, the block compliance with fixed values, the reply
compliance by the offline annotator, the CPU time of steered against unsteered sampling, and the share of replies to
everyday openings, which no training text holds, whose blocks parse with a free and with a held form. The last line is
one JSON object: `valid_held` is the lowest share of a policy, `valid_free` the highest.

Adapters are merged into the base: the shares are the same in half the time, and what steering adds is compared with the
least time that a reply can take. --quick measures validity on all openings, all else on fewer situations, reply
compliance with every fourth topic, and the cost on fewer replies.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from finished_runs import latest_policy, latest_rows

from sage_dialog.config import BaseModelConfig, BlockField, SamplingConfig, Steering
from sage_dialog.core.policies import Policy
from sage_dialog.core.seeds import generator, sample_ids
from sage_dialog.core.tables import to_rows
from sage_dialog.dialogue import Message, agent_view
from sage_dialog.evaluation.replies.form import everyday_openings, form_validity
from sage_dialog.evaluation.replies.steering_eval import UNSTEERED, Opening, Setting, play_grid, steering_eval
from sage_dialog.evaluation.statistics import Estimate, clustered_share
from sage_dialog.inference.engine import Prompt
from sage_dialog.microworld.world import load_world, pick
from sage_dialog.roles.offline.annotator import OfflineAnnotator
from sage_dialog.roles.offline.lexicon import read_lexicon
from sage_dialog.sac import Chain, Intent, parse, render
from sage_dialog.sac.grammar import FIELDS, FieldValue

PROJECT = Path(__file__).resolve().parents[1]
KEYWORD = "humor"
BOOSTS = (0.0, 2.0, 4.0, 8.0)
SAMPLING = SamplingConfig.from_base(temperature=1.0, top_k=8, max_new_tokens=96)  # as conf/base evaluates
FIXED_VALUES: dict[str, dict[str, Any]] = {
    "a_motivation humor": {"a_motivation": "humor"},
    "a_motivation null": {"a_motivation": None},
    "a_emotion never seen": {"a_emotion": "wistful"},
    "u_emotion proud": {"u_emotion": "proud"},
    "a_topic two": {"a_topic": ("garden", "concert")},
    "a_topic none": {"a_topic": ()},
    "all six": {
        **{"u_motivation": "sharing", "u_emotion": "proud", "u_topic": ("garden",)},
        **{"a_motivation": "humor", "a_emotion": "playful", "a_topic": ("garden",)},
    },
}

Replies = list[list[Chain | None]]
"""The replies to each situation; None where the blocks do not parse."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("SAGE_DATA", PROJECT / "data")))
    parser.add_argument("--policy", default="sage_1")
    parser.add_argument("--situations", type=int, default=200)
    parser.add_argument("--samples", type=int, default=4, help="replies to a situation where rates are measured")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    situations, samples = (40, 2) if options.quick else (options.situations, options.samples)

    from transformers.utils import logging

    from sage_dialog.inference.transformers.engine import TransformersEngine

    logging.set_verbosity_error()
    folder = tempfile.TemporaryDirectory()  # until the end: weights are loaded when the first reply is sampled
    chosen, base = latest_policy(options.data, options.policy), latest_policy(options.data, "sage_0")
    if chosen and base:
        texts, label = _situations(options.data, situations), options.policy
        others = sorted({path.name for path in (options.data / "06_models").glob("sage_*")} - {base.name, label})
        opened = (latest_policy(options.data, other) for other in others)
        policies = [chosen, *(policy for policy in opened if policy and policy.card.blocks)]
        known = _training_texts(options.data)
    elif options.quick:
        base, known = _train_small_model(Path(folder.name), options.threads)
        texts = _scenes(situations)
        policies, label = [], "a model trained here"
    else:
        parser.error(f"{options.data} holds no policy {options.policy!r}; run `make demo`, or name a --data that does")
    engine = TransformersEngine(base, policies, seed=0, threads=options.threads, merge_adapters=True)
    name = (policies or [base])[0].name
    system_prompt = _listener_prompt() if policies else None
    prompts = [
        Prompt(agent_view([Message("user", text)], system_prompt), ("steering", place))
        for place, text in enumerate(texts)
    ]

    def replies(steering: Steering | None, samples: int = 1) -> Replies:
        sampled = engine.sample(name, prompts, SAMPLING, samples, steering)
        parsed_rows = [[parse(sample.text) for sample in row] for row in sampled]
        return [[chain if isinstance(chain, Chain) else None for chain in row] for row in parsed_rows]

    print(f"{label}: {len(texts)} situations; temperature {SAMPLING.temperature:g}, top-k {SAMPLING.top_k}")
    with_blocks = [policy.name for policy in policies] or [name]
    if seen := [text for text in everyday_openings()[1] if text.lower() in known]:
        raise SystemExit(f"a training text holds the opening {seen[0]!r}, so it measures nothing")
    validity = {each: _validity(engine, each, system_prompt) for each in with_blocks}
    figures = {
        "policy": label,
        "valid_held": min(shares["held"][0] for shares in validity.values()),
        "valid_free": max(shares["free"][0] for shares in validity.values()),
        "validity": validity,
        "situations": len(texts),
        "samples": samples,
        "rates": _rates(lambda steering: replies(steering, samples)),
        "block_compliance": _block_compliance(replies),
        "steering_eval": _reply_compliance(engine, name, prompts, texts, every_topic=4 if options.quick else 1),
        "cost": _cost(engine, name, prompts, *((8, 3) if options.quick else (16, 15))),
    }
    print(json.dumps(figures))


def _validity(engine: Any, name: str, system_prompt: str | None) -> dict[str, list[float]]:
    """Measure the share of replies to everyday openings whose blocks parse."""
    rows = to_rows(form_validity(engine, name, SAMPLING, system_prompt, 0.95))
    shares = {
        "held" if row["hold_form"] else "free": [round(row[end], 4) for end in ("share", "low", "high")] for row in rows
    }
    print(f"blocks parse on everyday openings, {name} ({rows[0]['n']} replies)")
    for form, share in shares.items():
        print(f"  {form:<46}{_format_interval(share):>22}")
    return shares


def _training_texts(data: Path) -> str:
    """Return all texts that the base and the policies were trained on, in lower case."""
    tables = [*data.glob("01_raw/base_corpus.parquet"), *data.glob("05_model_input/*.parquet")]
    return _in_lower_case(row for table in tables for row in latest_rows(data, table.stem))


def _in_lower_case(rows: Iterable[Any]) -> str:
    return "\n".join(json.dumps(row, ensure_ascii=False, default=str).lower() for row in rows)


def _rates(replies: Callable[[Steering | None], Replies]) -> dict[str, Any]:
    """Measure the share of the keyword in a_motivation, and of each other field's most frequent value, by boost."""
    at = {boost: replies(Steering(boosts={"a_motivation": {KEYWORD: boost}})) for boost in BOOSTS}
    most_frequent = {
        field: Counter(value_of(chain, field) for row in at[0.0] for chain in row if chain).most_common(1)[0][0]
        for field in FIELDS
    } | {"a_motivation": KEYWORD}
    rates = {
        field: {
            f"{boost:g}": _share(at[boost], lambda chain, field=field: value_of(chain, field) == most_frequent[field])
            for boost in BOOSTS
        }
        for field in FIELDS
    }
    parsed = {f"{boost:g}": _share(at[boost], lambda chain: True, of_all=True) for boost in BOOSTS}
    print(f"\nshare of replies, by boost of {KEYWORD!r} in a_motivation{''.join(f'{boost:>22g}' for boost in BOOSTS)}")
    for field, shares in [*rates.items(), ("blocks parse", parsed)]:
        what = f"{field}: {_format_value(most_frequent[field])}" if field in most_frequent else field
        print(f"  {what:<46}{''.join(f'{_format_interval(share):>22}' for share in shares.values())}")
    return {**rates, "parse": parsed}


def _block_compliance(replies: Callable[[Steering | None], Replies]) -> dict[str, dict[str, list[float]]]:
    """Measure the share of replies that parse, and among these of replies with the fixed values."""
    compliance = {}
    print(f"\n{'given values':<48}{'blocks parse':>22}{'of these comply':>22}")
    for what, given in {"none": {}, **FIXED_VALUES}.items():
        steered = replies(Steering(fixed=given))
        parsed = _share(steered, lambda chain: True, of_all=True)
        complied = _share(steered, lambda chain, g=given: all(value_of(chain, field) == g[field] for field in g))
        compliance[what] = {"parse": parsed, "taken": complied}
        print(f"  {what:<46}{_format_interval(parsed):>22}{_format_interval(complied):>22}")
    return compliance


def value_of(chain: Chain, field: str) -> FieldValue:
    """Return the value of a chain in a field of the blocks."""
    intent = chain.state if field.startswith("u_") else chain.action
    return {"motivation": intent.motivation, "emotion": intent.emotion, "topic": intent.topics}[field[2:]]


def _reply_compliance(
    engine: Any, name: str, prompts: Sequence[Prompt], texts: Sequence[str], every_topic: int
) -> dict[str, list[float]]:
    """Measure how often the offline annotator gives a reply its fixed value, against unsteered replies."""
    annotator = OfflineAnnotator()
    openings = [
        Opening(str(place), text, prompt) for place, (text, prompt) in enumerate(zip(texts, prompts, strict=True))
    ]
    labels: dict[BlockField, list[str]] = {
        "a_motivation": sorted(annotator.labels["motivation"]),
        "a_topic": sorted(annotator.labels["topic"])[::every_topic],
    }
    settings = [Setting(field, (label,)) for field, values in labels.items() for label in values]
    rows = play_grid(engine, name, openings, [UNSTEERED, *settings], SAMPLING, annotator)
    scores = {}
    for score in steering_eval(rows, 0.95):
        if not score.labels:
            scores[f"{score.field} given"] = _round_estimate(score.reply)
            scores[f"{score.field} unsteered"] = _round_estimate(score.reply_unsteered)
    values = " and ".join(
        f"{len(values)} of {len(annotator.labels[field[2:]])} {field}" for field, values in labels.items()
    )
    print(f"\nreplies in which the offline annotator reads a given value ({values}), {len(texts)} of each")
    for what, share in scores.items():
        print(f"  {what:<46}{_format_interval(share):>22}")
    return scores


def _cost(engine: Any, name: str, prompts: Sequence[Prompt], rows: int, repeats: int) -> dict[str, Any]:
    """Measure the share of CPU time that steering adds, sampling the same replies, 16 a row, with and without it.

    The replies are greedy replies to one situation, so that fixing their own values, or boosts of weight 0, leave
    them unchanged.
    """
    greedy = SAMPLING.model_copy(update={"top_k": 1})
    for prompt in prompts:
        ((reply,),) = engine.sample(name, [prompt], greedy)
        if isinstance(chain := parse(reply.text), Chain):
            break
    else:
        raise SystemExit(f"{name} writes no blocks that parse")
    batch = [Prompt(prompt.messages, ("cost", place)) for place in range(rows)]
    held = greedy.model_copy(update={"hold_form": True})
    sides = {
        "unsteered": (greedy, None),
        "boosts": (greedy, Steering(boosts={"a_motivation": {KEYWORD: 0.0}, "a_topic": {"garden": 0.0}})),
        "given": (greedy, Steering(fixed={"a_emotion": chain.action.emotion})),
        "held form": (held, None),
    }
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    for sampling, steering in sides.values():  # builds the guide, which the engine keeps, and its states
        engine.sample(name, batch[:1], sampling, 16, steering)
    for _ in range(repeats):
        for side, (sampling, steering) in sides.items():
            start = time.process_time()
            sampled = engine.sample(name, batch, sampling, 16, steering)
            seconds[side].append(time.process_time() - start)
            assert {sample.text for row in sampled for sample in row} == {reply.text}
    cost: dict[str, list[float]] = {}
    print()
    for side in ("boosts", "given", "held form"):
        added = [steered / plain - 1 for steered, plain in zip(seconds[side], seconds["unsteered"], strict=True)]
        low, middle, high = statistics.quantiles(added, n=4)
        cost[side] = [round(middle, 4), round(low, 4), round(high, 4)]
        print(f"CPU time added by {side:<10}{middle:+.1%}, quartiles {low:+.1%} and {high:+.1%}")
    tokens = 16 * rows * (reply.tokens + 1)
    speed = {side: round(tokens / statistics.median(seconds[side])) for side in sides}
    rates = ", ".join(f"{side} {rate:,}" for side, rate in speed.items())
    print(f"{16 * rows} replies, {repeats} times; tokens per CPU-second: {rates}")
    return {**cost, "tokens_per_second": speed, "replies": 16 * rows, "repeats": repeats}


def _share(replies: Replies, holds: Callable[[Chain], bool], of_all: bool = False) -> list[float]:
    """Return a share with its interval, among the replies that parse or among all."""
    rows = [[chain for chain in row if chain or of_all] for row in replies]
    hits = [sum(chain is not None and holds(chain) for chain in row) for row in rows]
    return _round_estimate(clustered_share(hits, [len(row) for row in rows], 0.95))


def _round_estimate(share: Estimate) -> list[float]:
    return [round(share.value, 4), round(share.low, 4), round(share.high, 4)]


def _format_interval(share: Sequence[float]) -> str:
    return f"{share[0]:.3f} [{share[1]:.3f}, {share[2]:.3f}]"


def _format_value(value: object) -> str:
    return f"[{', '.join(value)}]" if isinstance(value, tuple) else str(value)


def _listener_prompt() -> str:
    return (PROJECT / "conf/base/system_prompts/listener.txt").read_text().strip()


def _situations(data: Path, count: int) -> list[str]:
    texts = {row["situation_id"]: row["text"] for row in latest_rows(data, "situations") if row["split"] == "test"}
    return [texts[chosen] for chosen in sample_ids(list(texts), count, 0, "steering")]


def _scenes(count: int) -> list[str]:
    return [load_world().scene(generator(0, "held-out scene", place)).text for place in range(count)]


def _train_small_model(folder: Path, threads: int) -> tuple[Policy, str]:
    """Train a small model from scratch on one reply to each of 4,000 generated scenes, of a random motivation.

    Returns:
        The model, and its training texts in lower case.
    """
    from sage_dialog.microworld.base_model import train_base

    world, tones = load_world(), read_lexicon("annotator")["tones"]

    def dialogue(number: int) -> dict[str, object]:
        rng = generator(0, "dialogue", number)
        scene, motivation = world.scene(rng), pick(rng, list(world.motivations))
        utterance = world.reply(rng, scene, motivation, scene.things[0])
        state, action = (
            Intent(*labels, (scene.topic,)) for labels in (("sharing", scene.emotion), (motivation, tones[motivation]))
        )
        content = render(Chain(state, action, utterance))
        return {"messages": [{"role": "user", "content": scene.text}, {"role": "assistant", "content": content}]}

    print("no finished demo: a small model is trained here, which takes about 15 seconds", file=sys.stderr)
    config = BaseModelConfig.from_base(
        vocabulary=900, layers=2, hidden=64, experts=2, expert_hidden=64, steps=300, batch_size=16
    )
    dialogues = [dialogue(number) for number in range(4000)]
    trained = train_base(dialogues, config, 0, folder, threads)
    policy = dataclasses.replace(trained, card=dataclasses.replace(trained.card, blocks=True))
    return policy, _in_lower_case(dialogues)


if __name__ == "__main__":
    main()
