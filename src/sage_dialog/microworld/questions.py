"""Multiple choice about the world: what the base model knows of it, and what training on dialogues may cost.

Asked as text to go on with, in words that stand in the base model's pages (`base_text`); no policy has been trained to
answer such questions. Each has four choices of which one is right, in an order drawn by seed.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from sage_dialog.core.seeds import generator
from sage_dialog.microworld.base_text import NAMES
from sage_dialog.microworld.world import World, pick

if TYPE_CHECKING:
    import numpy as np

CHOICES = 4
Asked = tuple[str, str, list[str]]  # question, right choice, others


def multiple_choice(world: World, count: int, seed: int) -> dict[str, bytes]:
    """`count` questions of each kind as JSON lines; `answer` is the index of the right choice."""
    kinds = {"feelings": _feelings, "advice": _advice, "replies": _replies, "offers": _offers}
    rows = {"topics": [_topics(world, generator(seed, "multiple choice", number)) for number in range(count)]}
    for name, asked in kinds.items():
        draws = [generator(seed, "multiple choice", name, number) for number in range(count)]
        rows[name] = [_shuffled(rng, *asked(world, rng)) for rng in draws]
    return {f"{name}.jsonl": "".join(json.dumps(row) + "\n" for row in found).encode() for name, found in rows.items()}


def _topics(world: World, rng: np.random.Generator) -> dict[str, object]:
    """Which of four things goes with a topic."""
    topics = list(world.parts["topics"])
    order = rng.permutation(len(topics))[:CHOICES]
    choices = [pick(rng, world.parts["topics"][topics[i]]["things"]) for i in order]
    answer = int(rng.integers(CHOICES))
    question = f"Name a thing that goes with the {topics[order[answer]]}."
    return {"question": question, "choices": choices, "answer": answer}


def _feelings(world: World, rng: np.random.Generator) -> Asked:
    """Which feeling two cues show; the other choices share one of the cues, the other, and none."""
    scene, emotions = world.scene(rng), world.parts["emotions"]
    appraisal = pick(rng, [name for name in world.parts["appraisals"] if name != scene.appraisal])
    modifier = pick(rng, [name for name in world.parts["modifiers"] if name != scene.modifier])
    others = [emotions[scene.appraisal][modifier], emotions[appraisal][scene.modifier], emotions[appraisal][modifier]]
    name = pick(rng, list(NAMES))
    return f"{name}: {world.feeling(scene)} {name} felt", scene.emotion, others


def _advice(world: World, rng: np.random.Generator) -> Asked:
    """What helps somebody who feels so: the feeling is named."""
    emotion = world.scene(rng).emotion
    return f"Who is {emotion} wants", *_suitable(world, rng, emotion)


def _replies(world: World, rng: np.random.Generator) -> Asked:
    """How a reply was meant."""
    motivation = pick(rng, list(world.motivations))
    scene = world.scene(rng)
    others = _drawn(rng, [name for name in world.motivations if name != motivation])
    reply = world.reply(rng, scene, motivation, scene.things[0])
    return f"{reply} So said {pick(rng, list(NAMES))}, with", motivation, others


def _offers(world: World, rng: np.random.Generator) -> Asked:
    """What helps somebody whose cues show a feeling that nobody names: it takes both of the steps above."""
    scene = world.scene(rng)
    speaker, friend = _drawn(rng, list(NAMES))[:2]
    return f"{speaker} said: {scene.text} {friend} offered", *_suitable(world, rng, scene.emotion)


def _suitable(world: World, rng: np.random.Generator, emotion: str) -> tuple[str, list[str]]:
    """One motivation that suits a feeling, and others that do not."""
    suitable = world.suitable(emotion)
    return pick(rng, list(suitable)), _drawn(rng, [name for name in world.motivations if name not in suitable])


def _drawn(rng: np.random.Generator, names: list[str]) -> list[str]:
    return [names[i] for i in rng.permutation(len(names))[: CHOICES - 1]]


def _shuffled(rng: np.random.Generator, question: str, right: str, others: list[str]) -> dict[str, object]:
    choices = [right, *others]
    shuffled = [choices[i] for i in rng.permutation(len(choices))]
    return {"question": question, "choices": shuffled, "answer": shuffled.index(right)}
