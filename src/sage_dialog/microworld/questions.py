"""Multiple choice about the world: what the base model knows, and what dialogue training may make it forget.

Questions are texts to continue, in the wording of the base model's documents (`base_text`); no policy is trained to
answer them. Each has four choices, of which one is right, in an order drawn by seed.
"""

from __future__ import annotations

import json

import numpy as np

from sage_dialog.core.seeds import generator
from sage_dialog.microworld.base_text import NAMES
from sage_dialog.microworld.world import World, pick

CHOICES = 4
Question = tuple[str, str, list[str]]  # question, right choice, other choices


def multiple_choice(world: World, count: int, seed: int) -> dict[str, bytes]:
    """Return `count` questions of each kind as JSON lines; `answer` is the index of the right choice."""
    kinds = {"feelings": _feelings, "advice": _advice, "replies": _replies, "offers": _offers}
    rows = {"topics": [_topics(world, generator(seed, "multiple choice", number)) for number in range(count)]}
    for name, kind in kinds.items():
        draws = [generator(seed, "multiple choice", name, number) for number in range(count)]
        rows[name] = [_shuffle(rng, *kind(world, rng)) for rng in draws]
    return {f"{name}.jsonl": "".join(json.dumps(row) + "\n" for row in found).encode() for name, found in rows.items()}


def _topics(world: World, rng: np.random.Generator) -> dict[str, object]:
    """The thing that goes with a topic."""
    topics = list(world.parts["topics"])
    order = rng.permutation(len(topics))[:CHOICES]
    choices = [pick(rng, world.parts["topics"][topics[i]]["things"]) for i in order]
    answer = int(rng.integers(CHOICES))
    question = f"Name a thing that goes with the {topics[order[answer]]}."
    return {"question": question, "choices": choices, "answer": answer}


def _feelings(world: World, rng: np.random.Generator) -> Question:
    """The feeling that two cues show; the other choices share the first cue, the second, or none."""
    scene, emotions = world.scene(rng), world.parts["emotions"]
    appraisal = pick(rng, [name for name in world.parts["appraisals"] if name != scene.appraisal])
    modifier = pick(rng, [name for name in world.parts["modifiers"] if name != scene.modifier])
    others = [emotions[scene.appraisal][modifier], emotions[appraisal][scene.modifier], emotions[appraisal][modifier]]
    name = pick(rng, list(NAMES))
    return f"{name}: {world.feeling(scene)} {name} felt", scene.emotion, others


def _advice(world: World, rng: np.random.Generator) -> Question:
    """The motivation that suits a named feeling."""
    emotion = world.scene(rng).emotion
    return f"Who is {emotion} wants", *_suitable(world, rng, emotion)


def _replies(world: World, rng: np.random.Generator) -> Question:
    """The motivation of a reply."""
    motivation = pick(rng, list(world.motivations))
    scene = world.scene(rng)
    others = _draw(rng, [name for name in world.motivations if name != motivation])
    reply = world.reply(rng, scene, motivation, scene.things[0])
    return f"{reply} So said {pick(rng, list(NAMES))}, with", motivation, others


def _offers(world: World, rng: np.random.Generator) -> Question:
    """The motivation that suits a feeling in cues alone, which takes both of the steps above."""
    scene = world.scene(rng)
    speaker, friend = _draw(rng, list(NAMES))[:2]
    return f"{speaker} said: {scene.text} {friend} offered", *_suitable(world, rng, scene.emotion)


def _suitable(world: World, rng: np.random.Generator, emotion: str) -> tuple[str, list[str]]:
    """Draw a motivation that suits a feeling, and others that do not."""
    suitable = world.suitable(emotion)
    return pick(rng, list(suitable)), _draw(rng, [name for name in world.motivations if name not in suitable])


def _draw(rng: np.random.Generator, names: list[str]) -> list[str]:
    return [names[i] for i in rng.permutation(len(names))[: CHOICES - 1]]


def _shuffle(rng: np.random.Generator, question: str, right: str, others: list[str]) -> dict[str, object]:
    choices = [right, *others]
    shuffled = [choices[i] for i in rng.permutation(len(choices))]
    return {"question": question, "choices": shuffled, "answer": shuffled.index(right)}
