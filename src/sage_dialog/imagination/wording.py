"""What a message of a task's dialogue means, by its wording, and the blocks that say so."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

from sage_dialog.config.tasks import Sentences, Task
from sage_dialog.dialogue import Message
from sage_dialog.sac import Chain, Intent, render

_WORD = re.compile(r"[\w']+|\{\w+\}")
_LONGEST = 4
"""Words of the longest phrase by which a message is recognised."""


class Wording:
    """Recognises acts and replies of a task.

    An act is recognised by phrases of up to four words that no other act has: a policy may word it anew. A reply is
    recognised only by its whole wording, since the simulated user keeps to it.
    """

    def __init__(self, task: Task) -> None:
        self._task = task
        self._acts = _phrase_owners({name: act.says for name, act in task.acts.items()})

    def act(self, text: str) -> str | None:
        """Return the act of an agent's message; None where it has phrases of none, or of two equally often."""
        ranked = Counter(self._acts[phrase] for phrase in _phrases(text) if phrase in self._acts).most_common(2)
        if not ranked or (len(ranked) == 2 and ranked[0][1] == ranked[1][1]):
            return None
        return ranked[0][0]

    def replies(self, text: str, shared: Mapping[str, str]) -> list[tuple[str, str]]:
        """Return the replies that a user's message consists of or contains, with their wordings, in their order."""
        found = [
            (text.index(wording), name, wording)
            for name, reply in self._task.replies.items()
            for sentence in reply.says
            if (wording := sentence.format(**shared)) in text
        ]
        longest: list[tuple[int, str, str]] = []
        for start, name, wording in sorted(
            found, key=lambda each: (-len(each[2]), each[0])
        ):  # a wording in a longer one
            if all(start >= begin + len(other) or start + len(wording) <= begin for begin, _, other in longest):
                longest.append((start, name, wording))
        return [(name, wording) for _, name, wording in sorted(longest)]


def known_values(task: Task, replies: Iterable[str]) -> dict[str, str]:
    """Return what these replies reveal of the user; of a variable that changes, the latest value."""
    values: dict[str, str] = {}
    for name in replies:
        values |= task.replies[name].tells
    return {variable: values[variable] for variable in task.hidden if variable in values}


def with_blocks(
    task: Task, wording: Wording, messages: Sequence[Message], shared: Mapping[str, str]
) -> tuple[Message, ...]:
    """Return a dialogue whose agent messages have state and action blocks, as far as their acts are recognised.

    The state block has the motivation and emotion of the user's last message, and as topics everything that the user
    has revealed so far. No block names anything else that is hidden.
    """
    replies: list[str] = []
    state = Intent("asking")
    written = []
    for place, message in enumerate(messages):
        if message.role == "user":
            recognised = [name for name, _ in wording.replies(message.text, shared)]
            replies += recognised
            last = task.replies[recognised[-1]] if recognised else None
            motivation, emotion = (last.motivation, last.emotion) if last else ("asking" if place == 0 else None, None)
            state = Intent(motivation, emotion, tuple(known_values(task, replies).values()))
            written.append(message)
            continue
        act = wording.act(message.text)
        if act is None:
            written.append(message)
            continue
        chain = Chain(state, Intent(task.acts[act].motivation, None, task.acts[act].topics), message.text)
        written.append(Message("assistant", render(chain), message.text, chain))
    return tuple(written)


def _phrase_owners(sentences: Mapping[str, Sentences]) -> dict[str, str]:
    owners = defaultdict[str, set[str]](set)
    for name, wordings in sentences.items():
        for wording in wordings:
            for phrase in _phrases(wording):
                if "{" not in phrase:
                    owners[phrase].add(name)
    return {phrase: next(iter(names)) for phrase, names in owners.items() if len(names) == 1}


def _phrases(text: str) -> list[str]:
    words = _WORD.findall(text.lower())
    return [
        " ".join(words[start : start + size])
        for size in range(1, _LONGEST + 1)
        for start in range(len(words) - size + 1)
    ]
