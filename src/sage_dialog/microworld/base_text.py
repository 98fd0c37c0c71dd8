"""The generic text that the demo's base model is trained on: one document a row, each on one topic.

Real base models have seen novels, advice, records and polite chats before any dialogue training. This one sees
utterances of the world's people, narrators who name feelings, answers of friends, and bracketed records. As an
assistant it is wordy and neutral all the same.
"""

from __future__ import annotations

import numpy as np

from sage_dialog.core.seeds import generator
from sage_dialog.microworld.world import Scene, World, pick
from sage_dialog.sac import Intent
from sage_dialog.sac.chain import render_block

NAMES = ("Anna", "Ben", "Carla", "David", "Emma", "Felix", "Grace", "Hugo", "Iris", "Jonas", "Karin", "Leo")
USER_MOTIVATIONS = ("sharing", "elaborating", "gratitude", "asking")
TONES = ("caring", "calm", "supportive", "hopeful", "helpful", "playful", "cheerful", "admiring")
# Share of motivations in stories and records that suit the feeling they stand with.
COMMON_SENSE = 0.9
ASSISTANT_PROMPT = "You are a helpful assistant."

Document = dict[str, object]  # {"text": str} or {"messages": [{"role", "content"}, …]}


def documents(world: World, count: int, seed: int) -> list[Document]:
    """Return `count` documents; document i depends on (seed, i) alone."""
    kinds = (_story,) * 5 + (_feelings,) * 2 + (_friends,) * 5 + (_quote,) + (_advice,) * 2 + (_record,) * 4 + (_chat,)
    return [kinds[i % len(kinds)](world, generator(seed, "document", i)) for i in range(count)]


def _story(world: World, rng: np.random.Generator) -> Document:
    """A speaker, a narrator who names the feeling, and an answer that mostly suits it."""
    scene = world.scene(rng)
    speaker, friend = (NAMES[i] for i in rng.permutation(len(NAMES))[:2])
    words = scene.text if rng.random() < 0.7 else world.follow_up(rng, scene, bool(rng.integers(2)), scene.things[1])
    motivation = suited_motivation(world, rng, scene, COMMON_SENSE)
    feeling = pick(rng, [f"{speaker} felt {scene.emotion}", f"{speaker} was {scene.emotion}"])
    answer = pick(rng, [f"{friend} offered {motivation}", f"{friend} answered with {motivation}"])
    reply = world.reply(rng, scene, motivation, scene.things[0], question=bool(rng.integers(2)))
    opening = f"{feeling} and said: {words}" if rng.random() < 0.25 else f"{speaker} said: {words} {feeling}."
    return {"text": f"{opening} {answer}. {reply}"}


def _feelings(world: World, rng: np.random.Generator) -> Document:
    """Four people, the message and the feeling of each, in either order."""
    sentences = []
    for i in rng.permutation(len(NAMES))[:4]:
        scene = world.scene(rng)
        words, named = f"{NAMES[i]}: {world.feeling(scene)}", f"{NAMES[i]} felt {scene.emotion}."
        sentences.append(f"{words} {named}" if rng.random() < 0.7 else f"{named} {words}")
    return {"text": " ".join(sentences)}


def _friends(world: World, rng: np.random.Generator) -> Document:
    """A scene of a play: answers with their motivation before them, in words or as a record; often the feeling."""
    scene = world.scene(rng)
    speaker, friend = (NAMES[i] for i in rng.permutation(len(NAMES))[:2])
    role = f"{speaker}, {scene.emotion}" if rng.random() < 0.5 else speaker
    lines = [f"{role}: {scene.text}"]
    for exchange in range(2):
        motivation = pick(rng, list(world.motivations))
        reply = world.reply(rng, scene, motivation, scene.things[exchange])
        suits = motivation in world.suitable(scene.emotion)
        action = Intent(motivation, pick(rng, list(TONES)), (scene.topic,))
        label = f", with {motivation}:" if rng.random() < 0.5 else f" {render_block('a', action)}"
        lines.append(f"{friend}{label} {reply}")
        lines.append(f"{role}: {world.follow_up(rng, scene, suits, scene.things[exchange + 1])}")
    return {"text": " ".join(lines)}


def _quote(world: World, rng: np.random.Generator) -> Document:
    """An answer by itself, and its motivation."""
    scene = world.scene(rng)
    motivation = pick(rng, list(world.motivations))
    reply = world.reply(rng, scene, motivation, scene.things[0])
    return {"text": f"{reply} So said {pick(rng, list(NAMES))}, with {motivation}."}


def _advice(world: World, rng: np.random.Generator) -> Document:
    """Five sentences on what suits which feeling."""
    sentences = []
    for _ in range(5):
        scene = world.scene(rng)
        motivation = suited_motivation(world, rng, scene, COMMON_SENSE)
        wordings = [f"Who is {scene.emotion} wants {motivation}.", f"If {scene.emotion}, then {motivation}."]
        sentences.append(pick(rng, wordings))
    return {"text": " ".join(sentences)}


def _chat(world: World, rng: np.random.Generator) -> Document:
    """One or two exchanges with the neutral assistant."""
    scene = world.scene(rng)
    messages = [{"role": "system", "content": ASSISTANT_PROMPT}] if rng.random() < 0.5 else []
    message = scene.text
    for _ in range(int(rng.integers(1, 3))):
        messages += [{"role": "user", "content": message}, {"role": "assistant", "content": world.neutral(rng, scene)}]
        message = world.follow_up(rng, scene, False, scene.things[int(rng.integers(4))])
    return {"messages": messages}


def _record(world: World, rng: np.random.Generator) -> Document:
    """A note on a topic and bracketed records about it, in either order; the motivation mostly suits the feeling."""
    scene = world.scene(rng)
    motivation = suited_motivation(world, rng, scene, COMMON_SENSE)
    state = Intent(pick(rng, list(USER_MOTIVATIONS)), scene.emotion, (scene.topic,))
    action = Intent(motivation, pick(rng, list(TONES)), (scene.topic,))
    parts = [
        f"A note on the {scene.topic}, from {scene.person}: {scene.things[0]} and {scene.things[1]}.",
        f"{render_block('u', state)} {render_block('a', action)}",
    ]
    return {"text": " ".join(parts if rng.random() < 0.5 else parts[::-1])}


def suited_motivation(world: World, rng: np.random.Generator, scene: Scene, share: float) -> str:
    """Draw a motivation that suits the scene with probability `share`, else one of the others."""
    suitable = list(world.suitable(scene.emotion))
    if rng.random() < share:
        return pick(rng, suitable)
    return pick(rng, [name for name in world.motivations if name not in suitable])
