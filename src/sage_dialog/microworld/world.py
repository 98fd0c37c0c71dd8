"""The demo world: its people compose what they say from parts, and its truth is known.

A `Scene` is one situation: an emotion (shown by two cues, never named), a topic, a person, the things
talked about. Speakers and listeners speak about a scene; `World.motivation_of` reads a reply back.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Scene:
    """One situation of the world. `emotion` is the truth, `text` its first telling."""

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
    """The parts of `world.yml`, and how they are put together."""

    parts: dict[str, Any]
    _phrase_owner: dict[str, str] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_phrase_owner", _distinctive_trigrams(self.parts["motivations"]))

    @property
    def motivations(self) -> tuple[str, ...]:
        return tuple(self.parts["motivations"])

    @property
    def emotions(self) -> tuple[str, ...]:
        return tuple(name for row in self.parts["emotions"].values() for name in row.values())

    def suitable(self, emotion: str) -> tuple[str, ...]:
        """The motivations that suit an emotion: the world's truth."""
        return tuple(self.parts["suitable"][emotion])

    def scene(self, rng: np.random.Generator) -> Scene:
        """A new situation, each emotion as likely as any other."""
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
        """The sentence that shows what a speaker feels, the same words whenever it is said."""
        return str(self.parts["feeling"]).replace("{cues}", ", ".join(scene.cues))

    def reply(self, rng: np.random.Generator, scene: Scene, motivation: str, thing: str, asks: bool = True) -> str:
        """A listener's reply that carries a motivation and speaks about `thing`."""
        style = self.parts["motivations"][motivation]
        said = [pick(rng, style["openers"]), pick(rng, style["bodies"])]
        if asks:
            said.append(pick(rng, self.parts["questions"]))
        return fill(" ".join(map(_capitalised_slots, said)), scene, thing)

    def follow_up(self, rng: np.random.Generator, scene: Scene, suited: bool, thing: str) -> str:
        """A speaker's next words: a reaction to the last reply, news, and the feeling once more."""
        warm = rng.random() < (0.9 if suited else 0.1)
        said = [
            pick(rng, self.parts["warm" if warm else "flat"]),
            pick(rng, self.parts["details"]),
            self.feeling(scene),
        ]
        return fill(" ".join(map(_capitalised_slots, said)), scene, thing)

    def neutral(self, rng: np.random.Generator, scene: Scene) -> str:
        """The base model's answer to anything: three or four neutral sentences on the topic."""
        chosen = sorted(rng.permutation(len(self.parts["neutral"]))[: int(rng.integers(3, 5))])
        sentences = [self.parts["neutral"][i] for i in chosen]
        return fill(" ".join(sentences), scene, scene.things[int(rng.integers(2))])

    def motivation_of(self, text: str) -> str | None:
        """The motivation a reply carries, read from its wording; None where none or several stand out alike."""
        votes: dict[str, int] = {}
        for trigram in _trigrams(text):
            if owner := self._phrase_owner.get(trigram):
                votes[owner] = votes.get(owner, 0) + 1
        ranked = sorted(votes.items(), key=lambda item: -item[1])
        if not ranked or (len(ranked) > 1 and ranked[0][1] == ranked[1][1]):
            return None
        return ranked[0][0]

    def emotion_in(self, text: str) -> str | None:
        """The one emotion that the cues of a text show; None where a kind of cue is missing or there are two."""
        said = text.lower()
        shown = [
            {name for name, cues in self.parts[kind].items() if any(cue.lower() in said for cue in cues)}
            for kind in ("appraisals", "modifiers")
        ]
        if any(len(names) != 1 for names in shown):
            return None
        (appraisal,), (modifier,) = shown
        return str(self.parts["emotions"][appraisal][modifier])

    def topics_in(self, text: str) -> frozenset[str]:
        """The topics whose name or things a text mentions."""
        words = set(re.findall(r"[a-z]+", text.lower()))
        return frozenset(
            topic
            for topic, parts in self.parts["topics"].items()
            if topic in words or any(thing.removeprefix("the ") in words for thing in parts["things"])
        )

    def other_thing(self, rng: np.random.Generator, scene: Scene) -> str:
        """A thing of another topic."""
        topic = pick(rng, [name for name in self.parts["topics"] if name != scene.topic])
        return pick(rng, self.parts["topics"][topic]["things"])


@cache
def load_world() -> World:
    import yaml

    return World(yaml.safe_load(files(__package__).joinpath("world.yml").read_text()))


def pick(rng: np.random.Generator, options: list[str]) -> str:
    return options[int(rng.integers(len(options)))]


def sentence_case(text: str) -> str:
    return text[:1].upper() + text[1:]


def fill(template: str, scene: Scene, thing: str) -> str:
    for slot, value in (("thing", thing), ("person", scene.person), ("topic", scene.topic)):
        template = template.replace(f"{{{slot}}}", value).replace(f"{{{slot.capitalize()}}}", sentence_case(value))
    return template


def _capitalised_slots(sentence: str) -> str:
    """A sentence that begins with a slot begins with a capital."""
    return re.sub(r"^\{([a-z])", lambda found: "{" + found[1].upper(), sentence)


def _trigrams(text: str) -> list[str]:
    words = re.findall(r"[a-z{}]+", text.lower())
    return [" ".join(words[i : i + 3]) for i in range(len(words) - 2)]


def _distinctive_trigrams(motivations: dict[str, dict[str, list[str]]]) -> dict[str, str]:
    """Word trigrams without slots that only one motivation uses, and whose they are."""
    owners: dict[str, set[str]] = {}
    for motivation, style in motivations.items():
        for phrase in style["openers"] + style["bodies"]:
            for trigram in _trigrams(phrase):
                if "{" not in trigram:
                    owners.setdefault(trigram, set()).add(motivation)
    return {trigram: next(iter(names)) for trigram, names in owners.items() if len(names) == 1}
