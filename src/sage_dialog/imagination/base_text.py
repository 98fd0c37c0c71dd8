"""Text from which a tiny base learns the language of tasks, and none of how to reach their goals.

A real base model has seen how people talk, and what words mean. This one sees chats in which both sides say any of a
task's sentences at random, with and without blocks, and messages with the block that describes them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sage_dialog.config.tasks import Task
from sage_dialog.core.seeds import generator
from sage_dialog.dialogue import Message, agent_view
from sage_dialog.imagination.partner import draw_values
from sage_dialog.imagination.rules import pick
from sage_dialog.imagination.wording import Wording, with_blocks
from sage_dialog.sac import Intent
from sage_dialog.sac.chain import render_block

Document = dict[str, object]  # {"text": str} or {"messages": [{"role", "content"}, …]}


def documents(tasks: dict[str, Task], count: int, seed: int) -> list[Document]:
    """Return `count` documents; document i depends on (seed, i) alone."""
    kinds = (_chat, _reading, _plan, _chat_with_blocks, _chat_with_blocks, _chat_with_blocks)
    names = list(tasks)
    made = []
    for i in range(count):
        rng = generator(seed, "task document", i)
        made.append(kinds[i % len(kinds)](tasks[names[(i // len(kinds)) % len(names)]], rng))
    return made


def _chat(task: Task, rng: np.random.Generator) -> Document:
    return _document(task, _messages(task, draw_values(task.shared, rng), rng))


def _chat_with_blocks(task: Task, rng: np.random.Generator) -> Document:
    """A chat with blocks: each state is that of the user's messages so far, and each action is any."""
    shared = draw_values(task.shared, rng)
    return _document(task, with_blocks(task, Wording(task), _messages(task, shared, rng), shared))


def _messages(task: Task, shared: dict[str, str], rng: np.random.Generator) -> list[Message]:
    """Return messages of both sides in random order; every other one of the user tells something."""
    replies, acts = list(task.replies), list(task.acts)
    telling = [name for name in replies if task.replies[name].tells]
    messages = [Message("user", pick(task.openings, rng).format(**shared))]
    for _ in range(int(rng.integers(1, task.max_replies + 1))):
        reply = pick(telling if telling and rng.random() < 0.5 else replies, rng)
        messages.append(Message("assistant", pick(task.acts[pick(acts, rng)].says, rng).format(**shared)))
        messages.append(Message("user", pick(task.replies[reply].says, rng).format(**shared)))
    return messages[:-1]


def _document(task: Task, messages: Sequence[Message]) -> Document:
    return {"messages": list(agent_view(messages, task.agent.system_prompt))}


def _reading(task: Task, rng: np.random.Generator) -> Document:
    """Messages of users, each with its state block."""
    shared, parts = draw_values(task.shared, rng), []
    for _ in range(4):
        reply = task.replies[pick(list(task.replies), rng)]
        state = Intent(reply.motivation, reply.emotion, tuple(reply.tells.values()))
        parts.append(f"{pick(reply.says, rng).format(**shared)} {render_block('u', state)}")
    return {"text": " ".join(parts)}


def _plan(task: Task, rng: np.random.Generator) -> Document:
    """Messages of agents, each after its action block."""
    shared, parts = draw_values(task.shared, rng), []
    for _ in range(4):
        act = task.acts[pick(list(task.acts), rng)]
        action = Intent(act.motivation, None, act.topics)
        parts.append(f"{render_block('a', action)} {pick(act.says, rng).format(**shared)}")
    return {"text": " ".join(parts)}
