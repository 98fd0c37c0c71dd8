"""Reddit months of the demo world in Pushshift's format: threads with replies, branches and the noise of real dumps."""

from __future__ import annotations

import bz2
import json
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import zstandard

from sage_dialog.core.seeds import generator
from sage_dialog.microworld.base_text import suited_motivation
from sage_dialog.microworld.world import Scene, World, pick

MONTHS = ("2012-01", "2012-02", "2012-03")
MONTH_START = (1325376000, 1328054400, 1330560000, 1333238400)
SUBREDDITS = ("CasualConversation", "offmychest", "happy", "self")
# Listeners mostly suit the feeling and stay on the topic; search has room to improve on them.
SUITED_SHARE = 0.7
ON_TOPIC_SHARE = 0.8
QUESTION_SHARE = 0.7

NOISE = (
    "[deleted]",
    "[removed]",
    "lol",
    "> so you say\n\nI think that is a great point and I hope it goes well for all of you.",
    "See https://example.org/a/b for a great list of good things and happy people, my friends.",
    "I love this [so] much and I am glad that you are all here with me today, good friends.",
    "THIS IS THE GREATEST thing I have seen all week and I am so happy for you and yours.",
    "yes yes yes yes that is so good and I love it more than I can say, my good friend.",
    "Das ist ja wirklich eine wunderbare Geschichte und ich freue mich sehr mit dir und den anderen.",
    "I am a bot, bleep, bloop. Someone has linked to this thread from another place on this site.",
)


@dataclass
class _Months:
    """Lines by file, filled thread by thread; ids count up in base 36."""

    comments: dict[str, list[str]] = field(default_factory=lambda: {month: [] for month in MONTHS})
    submissions: dict[str, list[str]] = field(default_factory=lambda: {month: [] for month in MONTHS})
    next_id: int = 36**5

    def new_id(self) -> str:
        self.next_id += 1
        return np.base_repr(self.next_id, 36).lower()


def months(world: World, threads: int, seed: int) -> dict[str, bytes]:
    """Return `RC_*` and `RS_*` files of three months by name: two zstd with a 2 GiB window and one bz2.

    The text of thread i depends on (seed, i) alone. Some threads cross the end of a month.
    """
    dump = _Months()
    for number in range(threads):
        _thread(world, generator(seed, "thread", number), number, dump)
    files = {}
    for number, month in enumerate(MONTHS):
        rng = generator(seed, "broken lines", month)
        for prefix, lines in (("RC", dump.comments[month]), ("RS", dump.submissions[month])):
            text = "".join(line + "\n" for line in _add_broken_lines(rng, lines)).encode()
            suffix, packed = ("bz2", bz2.compress(text)) if number == 1 else ("zst", _zstandard(text))
            files[f"{prefix}_{month}.{suffix}"] = packed
    return files


def _thread(world: World, rng: np.random.Generator, number: int, dump: _Months) -> None:
    scene = world.scene(rng)
    start = int(rng.integers(MONTH_START[0], MONTH_START[-1] - 40_000))
    thread = _Thread(dump, rng, pick(rng, list(SUBREDDITS)), dump.new_id(), start)
    thread.submit(f"What is on your mind about the {scene.topic}?")
    speaker, listener = f"user{2 * number}", f"user{2 * number + 1}"
    opening = f"{scene.text} {pick(rng, world.parts['thanks'])}"
    parent = thread.comment(opening, speaker, f"t3_{thread.link}")
    for turn in range(1, int(rng.integers(5, 8))):
        if turn % 2:
            if rng.random() < 0.15:  # a branch of one comment
                thread.comment(_reply(world, rng, scene)[0], f"user{number}b{turn}", parent)
            text, suited = _reply(world, rng, scene)
            parent = thread.comment(text, listener, parent)
        else:
            parent = thread.comment(world.follow_up(rng, scene, suited, scene.things[turn % 4]), speaker, parent)
        if rng.random() < 0.08:
            thread.comment(pick(rng, list(NOISE)), f"stray{number}", parent)
        if rng.random() < 0.01:  # a parent missing from the dumps
            thread.comment(_reply(world, rng, scene)[0], f"late{number}", f"t1_{dump.new_id()}x")


def _reply(world: World, rng: np.random.Generator, scene: Scene) -> tuple[str, bool]:
    motivation = suited_motivation(world, rng, scene, SUITED_SHARE)
    on_topic = rng.random() < ON_TOPIC_SHARE
    thing = pick(rng, list(scene.things)) if on_topic else world.other_thing(rng, scene)
    text = world.reply(rng, scene, motivation, thing, question=rng.random() < QUESTION_SHARE)
    return text, on_topic and motivation in world.suitable(scene.emotion)


@dataclass
class _Thread:
    dump: _Months
    rng: np.random.Generator
    subreddit: str
    link: str
    clock: int

    def submit(self, title: str) -> None:
        record = {"id": self.link, "title": title, "selftext": "", "author": "host", "subreddit": self.subreddit}
        self._write(self.dump.submissions, record | {"score": 10, "num_comments": 9, "over_18": False})

    def comment(self, body: str, author: str, parent: str) -> str:
        """Write one comment and return its full name, the parent of its replies."""
        self.clock += int(self.rng.integers(60, 6000))
        name = self.dump.new_id()
        record = {
            "id": name,
            "link_id": f"t3_{self.link}",
            "parent_id": parent,
            "author": author,
            "body": body,
            "subreddit": self.subreddit,
            "score": int(self.rng.choice([-2, 0, 1, 2, 5, 12], p=[0.02, 0.03, 0.4, 0.3, 0.2, 0.05])),
            "edited": False,
        }
        self._write(self.dump.comments, record)
        return f"t1_{name}"

    def _write(self, months: dict[str, list[str]], record: dict[str, Any]) -> None:
        month = max(i for i in range(len(MONTHS)) if self.clock >= MONTH_START[i])
        created: int | str = str(self.clock) if self.rng.random() < 0.1 else self.clock
        months[MONTHS[month]].append(json.dumps(record | {"created_utc": created}))


def _add_broken_lines(rng: np.random.Generator, lines: list[str]) -> list[str]:
    """Add an unreadable line after about one line in 200."""
    broken = ('{"id": "c0', "not json at all", '{"id": null, "body": 3}', "\x00\x00")
    kept: list[str] = []
    for line in lines:
        kept.append(line)
        if rng.random() < 0.005:
            kept.append(pick(rng, list(broken)))
    return kept


def _zstandard(text: bytes) -> bytes:
    parameters = zstandard.ZstdCompressionParameters.from_level(3, window_log=31)
    compressor = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    return compressor.compress(text) + compressor.flush()
