"""The demo world: people compose utterances from parts, and the truth about each utterance is known.

A `Scene` is one situation: an emotion (in two cues, never named), a topic, a person, and things of the topic.
Speakers and listeners talk about a scene; `World.motivation_of` recovers the motivation of a reply.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from functools import cache, cached_property
from importlib.resources import files
from typing import Any

import numpy as np
import yaml


@dataclass(frozen=True)
class Scene:
    """One situation. `emotion` is the truth, `text` the speaker's first message."""

    appraisal: str
    modifier: str
    emotion: str
    topic: str
    person: str
    things: tuple[str, ...]
    cues: tuple[str, str]
    text: str


@dataclass(frozen=True)
class World:
    """The parts of `world.yml`, and how utterances are composed of them."""

    parts: dict[str, Any]

    @property
    def motivations(self) -> tuple[str, ...]:
        return tuple(self.parts["motivations"])

    @property
    def emotions(self) -> tuple[str, ...]:
        return tuple(name for row in self.parts["emotions"].values() for name in row.values())

    def suitable(self, emotion: str) -> tuple[str, ...]:
        """Return the motivations that suit an emotion: the world's truth."""
        return tuple(self.parts["suitable"][emotion])

    def scene(self, rng: np.random.Generator) -> Scene:
        """Draw a situation; emotions are equally likely."""
        appraisal = pick(rng, list(self.parts["appraisals"]))
        modifier = pick(rng, list(self.parts["modifiers"]))
        topic = pick(rng, list(self.parts["topics"]))
        person = pick(rng, self.parts["topics"][topic]["persons"])
        things = self.parts["topics"][topic]["things"]
        things = tuple(things[i] for i in rng.permutation(len(things)))
        cues = (pick(rng, self.parts["appraisals"][appraisal]), pick(rng, self.parts["modifiers"][modifier]))
        emotion = self.parts["emotions"][appraisal][modifier]
        scene = Scene(appraisal, modifier, emotion, topic, person, things, cues, "")
        time = pick(rng, self.parts["times"])
        text = pick(rng, self.parts["situations"])
        text = text.replace("{Time}", sentence_case(time)).replace("{time}", time)
        text = text.replace("{feeling}", self.feeling(scene))
        return replace(scene, text=fill(text, scene, things[0]))

    def feeling(self, scene: Scene) -> str:
        """Return the sentence with the cues of the speaker's feeling, always in the same words."""
        return str(self.parts["feeling"]).replace("{cues}", ", ".join(scene.cues))

    def reply(self, rng: np.random.Generator, scene: Scene, motivation: str, thing: str, question: bool = True) -> str:
        """Compose a listener's reply with a motivation that mentions `thing`."""
        style = self.parts["motivations"][motivation]
        sentences = [pick(rng, style["openers"]), pick(rng, style["bodies"])]
        if question:
            sentences.append(pick(rng, self.parts["questions"]))
        return fill(" ".join(map(_capitalise_slot, sentences)), scene, thing)

    def follow_up(self, rng: np.random.Generator, scene: Scene, suited: bool, thing: str) -> str:
        """Compose a speaker's next message: a reaction to the last reply, a detail, and the feeling."""
        warm = rng.random() < (0.9 if suited else 0.1)
        reaction = pick(rng, self.parts["warm" if warm else "flat"])
        sentences = [reaction, pick(rng, self.parts["details"]), self.feeling(scene)]
        return fill(" ".join(map(_capitalise_slot, sentences)), scene, thing)

    def neutral(self, rng: np.random.Generator, scene: Scene) -> str:
        """Compose the base model's answer: three or four neutral sentences on the topic."""
        chosen = sorted(rng.permutation(len(self.parts["neutral"]))[: int(rng.integers(3, 5))])
        sentences = [self.parts["neutral"][i] for i in chosen]
        return fill(" ".join(sentences), scene, scene.things[int(rng.integers(2))])

    def motivation_of(self, text: str) -> str | None:
        """Return the motivation of a reply by its wording; None for no or several equally frequent motivations."""
        owners = self._trigram_owners
        ranked = Counter(owners[trigram] for trigram in _trigrams(text) if trigram in owners).most_common(2)
        if not ranked or (len(ranked) == 2 and ranked[0][1] == ranked[1][1]):
            return None
        return ranked[0][0]

    @cached_property
    def _trigram_owners(self) -> dict[str, str]:
        """The word trigrams without slots that only one motivation uses, with that motivation."""
        owners = defaultdict[str, set[str]](set)
        for motivation, style in self.parts["motivations"].items():
            for trigram in (trigram for phrase in style["openers"] + style["bodies"] for trigram in _trigrams(phrase)):
                if "{" not in trigram:
                    owners[trigram].add(motivation)
        return {trigram: next(iter(names)) for trigram, names in owners.items() if len(names) == 1}

    def emotion_in(self, text: str) -> str | None:
        """Return the emotion that the cues of a text show; None if a kind of cue is missing or ambiguous."""
        lowered = text.lower()
        found = [
            {name for name, cues in self.parts[kind].items() if any(cue.lower() in lowered for cue in cues)}
            for kind in ("appraisals", "modifiers")
        ]
        if any(len(names) != 1 for names in found):
            return None
        (appraisal,), (modifier,) = found
        return str(self.parts["emotions"][appraisal][modifier])

    def topics_in(self, text: str) -> frozenset[str]:
        """Return the topics whose name or things a text mentions."""
        words = set(re.findall(r"[a-z]+", text.lower()))
        return frozenset(
            topic
            for topic, parts in self.parts["topics"].items()
            if topic in words or any(thing.removeprefix("the ") in words for thing in parts["things"])
        )

    def other_thing(self, rng: np.random.Generator, scene: Scene) -> str:
        """Draw a thing of another topic."""
        topic = pick(rng, [name for name in self.parts["topics"] if name != scene.topic])
        return pick(rng, self.parts["topics"][topic]["things"])


@cache
def load_world() -> World:
    return World(yaml.safe_load(files(__package__).joinpath("world.yml").read_text()))


def pick(rng: np.random.Generator, options: list[str]) -> str:
    return options[int(rng.integers(len(options)))]


def sentence_case(text: str) -> str:
    return text[:1].upper() + text[1:]


def fill(template: str, scene: Scene, thing: str) -> str:
    for slot, value in (("thing", thing), ("person", scene.person), ("topic", scene.topic)):
        template = template.replace(f"{{{slot}}}", value).replace(f"{{{slot.capitalize()}}}", sentence_case(value))
    return template


def _capitalise_slot(sentence: str) -> str:
    """Capitalise a slot at the start of a sentence."""
    return re.sub(r"^\{([a-z])", lambda found: "{" + found[1].upper(), sentence)


def _trigrams(text: str) -> list[str]:
    words = re.findall(r"[a-z{}]+", text.lower())
    return [" ".join(words[i : i + 3]) for i in range(len(words) - 2)]
