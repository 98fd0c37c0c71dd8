"""Imagination by a language model: personas, dialogues with them, and a critique of each dialogue.

What is hidden is drawn by the task's weights, not by the model. The critique names the user's last state, and the
task's outcomes say what it is worth: the model sets no reward.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from sage_dialog.config.tasks import Task
from sage_dialog.core.seeds import generator
from sage_dialog.dialogue import Message
from sage_dialog.imagination.partner import draw_values
from sage_dialog.imagination.protocols import Critique, ImaginedDialogue, Persona
from sage_dialog.llm.client import FailureCounter, LLMClient
from sage_dialog.llm.requests import NO_ANSWER, Request, RequestFailedError
from sage_dialog.roles.llm.parsing import UnreadableError, describe_json_error, json_values, strip_thoughts
from sage_dialog.roles.llm.prompts import Prompt, PromptFile, indent_lines, role_name

Parsed = TypeVar("Parsed")

_VERDICTS = ("keep", "rewrite", "drop")


class LLMImaginer:
    """Writes personas in words, and one dialogue with each.

    Args:
        client: the model.
        prompt: file with the sections [system], [personas], [dialogue] and [repair].
        personas_per_request: personas that one request describes, so that they differ from each other.
    """

    def __init__(self, client: LLMClient, prompt: PromptFile, personas_per_request: int = 8) -> None:
        if personas_per_request < 1:
            raise ValueError(f"personas_per_request = {personas_per_request}; it must be at least 1")
        client.check_caps("imaginer")
        self._client, self._group = client, personas_per_request
        example = {"description": "A chat.", "user": "guest"}
        self._prompt = Prompt(
            prompt,
            {
                "system": {},
                "personas": {**example, "profiles": [{"number": 1, "facts": "age: 30"}]},
                "dialogue": {
                    **example,
                    **{"goal": "They talk.", "agent": "host", "persona": "A guest.", "shared": "nothing"},
                    **{"hidden": "age: 30", "max_replies": 2},
                },
                "repair": {"error": "no JSON"},
            },
        )
        self.name = role_name(client.endpoint, self._prompt, {}, personas_per_request=personas_per_request)

    def personas(self, name: str, task: Task, count: int, seed: int) -> list[Persona]:
        """Return up to `count` personas; those whose request fails are left out.

        Raises:
            TooManyFailuresError: if more of them fail than `llm.max_failed_share`.
        """
        drawn = []
        for number in range(count):
            rng = generator(seed, "persona", name, number)
            drawn.append((f"{name}:{number}", draw_values(task.shared, rng), draw_values(task.hidden, rng)))
        groups = [drawn[start : start + self._group] for start in range(0, count, self._group)]
        requests = [self._personas_messages(task, group) for group in groups]
        self._client.log_estimate(self._request(messages, place) for place, messages in enumerate(requests))
        failures = FailureCounter("personas", count, self._client.max_failed_share)

        async def write(place: int) -> list[str] | str:
            size = len(groups[place])
            return await self._answer(requests[place], place, lambda response: _read_personas(response, size))

        found: list[Persona] = []
        for group, texts in zip(groups, self._client.map(write, range(len(groups))), strict=True):
            if isinstance(texts, str):
                for persona_id, _, _ in group:
                    failures.add(f"{persona_id}: {texts}")
                continue
            found += [Persona(*values, text) for values, text in zip(group, texts, strict=True)]
        return found

    def imagine(self, name: str, task: Task, personas: Sequence[Persona], seed: int) -> Iterator[ImaginedDialogue]:
        """Yield a dialogue with each persona; one that cannot be read twice has no messages.

        Raises:
            TooManyFailuresError: if more of them fail than `llm.max_failed_share`.
        """
        requests = [self._dialogue_messages(task, persona) for persona in personas]
        self._client.log_estimate(self._request(messages, place) for place, messages in enumerate(requests))
        failures = FailureCounter("imagined dialogues", len(personas), self._client.max_failed_share)

        async def write(place: int) -> tuple[Message, ...] | str:
            return await self._answer(requests[place], place, lambda response: _read_dialogue(response, task))

        for persona, written in zip(personas, self._client.map(write, range(len(requests))), strict=True):
            if isinstance(written, str):
                failures.add(f"{persona.id}: {written}")
                yield ImaginedDialogue((), {}, written)
            else:
                yield ImaginedDialogue(written, {})

    async def _answer(
        self, messages: list[dict[str, str]], sample: int, parse: Callable[[str], Parsed]
    ) -> Parsed | str:
        def request(messages: Sequence[Mapping[str, str]]) -> Request:
            return self._request(messages, sample)

        return await _answer(self._client, request, self._prompt, messages, parse)

    def _request(self, messages: Sequence[Mapping[str, str]], sample: int = 0) -> Request:
        """Return a request; equal ones, such as of two equal personas, are samples of their own."""
        return self._client.chat_request("imaginer", messages, sample=sample)

    def _personas_messages(self, task: Task, group: Sequence[tuple[str, Any, Any]]) -> list[dict[str, str]]:
        profiles = [
            {"number": number, "facts": _format_values({**shared, **hidden})}
            for number, (_, shared, hidden) in enumerate(group, 1)
        ]
        user = {"description": task.description, "user": task.user.name, "profiles": profiles}
        return self._messages("personas", user)

    def _dialogue_messages(self, task: Task, persona: Persona) -> list[dict[str, str]]:
        return self._messages("dialogue", _task_variables(task, persona) | {"max_replies": task.max_replies})

    def _messages(self, section: str, variables: Mapping[str, Any]) -> list[dict[str, str]]:
        return [
            {"role": "system", "content": self._prompt.render("system")},
            {"role": "user", "content": self._prompt.render(section, **variables)},
        ]


class LLMCritic:
    """Keeps, rewrites or drops a dialogue, and names the user's last state.

    Args:
        client: the model.
        prompt: file with the sections [system], [user] and [repair].
    """

    def __init__(self, client: LLMClient, prompt: PromptFile) -> None:
        client.check_caps("critic")
        self._client = client
        sides = {"agent": "host", "user": "guest"}
        example = {"description": "A chat.", "goal": "They talk.", "persona": "A guest.", "shared": "nothing"}
        self._prompt = Prompt(
            prompt,
            {
                "system": sides,
                "user": {
                    **{**example, "user": "guest", "hidden": "age: 30", "criteria": ["They are polite."]},
                    "dialogue": [{"number": 1, "speaker": "guest", "text": "Hello."}],
                    "variables": [{"name": "mood", "options": "good, bad"}],
                },
                "repair": {"error": "no JSON"},
            },
        )
        self.name = role_name(client.endpoint, self._prompt, {})

    def critique(
        self, name: str, task: Task, dialogues: Sequence[tuple[Persona, ImaginedDialogue]]
    ) -> Iterator[Critique]:
        """Yield the critique of each dialogue; one whose critique cannot be read twice is dropped.

        Raises:
            TooManyFailuresError: if more of them fail than `llm.max_failed_share`.
        """
        requests = [self._messages(task, persona, dialogue) for persona, dialogue in dialogues]
        self._client.log_estimate(self._request(messages) for messages in requests)
        failures = FailureCounter("critiques", len(dialogues), self._client.max_failed_share)

        async def judge(place: int) -> Critique | str:
            dialogue = dialogues[place][1]

            def parse(response: str) -> Critique:
                return _read_critique(response, task, dialogue)

            return await _answer(self._client, self._request, self._prompt, requests[place], parse)

        for (persona, _), found in zip(dialogues, self._client.map(judge, range(len(dialogues))), strict=True):
            if isinstance(found, str):
                failures.add(f"{persona.id}: {found}")
                found = Critique("drop", (f"no critique: {found}",), (), {})
            yield found

    def _request(self, messages: Sequence[Mapping[str, str]]) -> Request:
        return self._client.chat_request("critic", messages)

    def _messages(self, task: Task, persona: Persona, dialogue: ImaginedDialogue) -> list[dict[str, str]]:
        sides = {"user": task.user.name, "assistant": task.agent.name}
        variables = _task_variables(task, persona)
        del variables["agent"]
        return self._prompt.messages(
            {
                **variables,
                "criteria": task.criteria,
                "dialogue": [
                    {"number": number, "speaker": sides[message.role], "text": indent_lines(message.text)}
                    for number, message in enumerate(dialogue.messages, 1)
                ],
                "variables": [
                    {"name": variable, "options": ", ".join(options)}
                    for variable, options in _last_values(task).items()
                ],
            },
            {"agent": task.agent.name, "user": task.user.name},
        )


async def _answer(
    client: LLMClient,
    request: Callable[[Sequence[Mapping[str, str]]], Request],
    prompt: Prompt,
    messages: list[dict[str, str]],
    parse: Callable[[str], Parsed],
) -> Parsed | str:
    """Return the parsed response to a request, or the reason why there is none; a response is repaired once."""
    send: Callable[[Request], Awaitable[Any]] = client.request
    reason = ""
    messages = list(messages)
    for _ in range(2):
        try:
            response = await send(request(messages))
        except RequestFailedError as error:
            if error.reason not in NO_ANSWER:
                raise
            return str(error)
        try:
            return parse(response.text)
        except UnreadableError as error:
            reason = str(error)
        messages.append({"role": "assistant", "content": response.text})
        messages.append({"role": "user", "content": prompt.render("repair", error=reason)})
    return f"the reply cannot be used, nor could the one before it: {reason}"


def _read_personas(response: str, count: int) -> list[str]:
    texts = _object(response, "personas")["personas"]
    if not isinstance(texts, list) or not all(isinstance(text, str) and text.strip() for text in texts):
        raise UnreadableError("personas is no list of texts")
    if len(texts) != count:
        raise UnreadableError(f"it has {len(texts)} personas, and {count} were asked for")
    return [" ".join(text.split()) for text in texts]


def _read_dialogue(response: str, task: Task) -> tuple[Message, ...]:
    messages = _read_messages(_object(response, "messages")["messages"], task)
    replies = sum(message.role == "assistant" for message in messages)
    if not replies:
        raise UnreadableError(f"it has no message of the {task.agent.name}")
    if replies > task.max_replies:
        raise UnreadableError(f"it has {replies} messages of the {task.agent.name}; at most {task.max_replies} may be")
    return messages


def _read_critique(response: str, task: Task, dialogue: ImaginedDialogue) -> Critique:
    found = _object(response, "verdict")
    verdict, faults = found["verdict"], found.get("faults", [])
    if verdict not in _VERDICTS:
        raise UnreadableError(f"verdict is {verdict!r}, and must be one of {', '.join(_VERDICTS)}")
    if not isinstance(faults, list) or not all(isinstance(fault, str) for fault in faults):
        raise UnreadableError("faults is no list of texts")
    if verdict == "drop":
        return Critique("drop", tuple(faults), (), {})
    messages = dialogue.messages
    if verdict == "rewrite":
        messages = _read_messages(found.get("messages"), task)
        if [message.role for message in messages] != [message.role for message in dialogue.messages]:
            raise UnreadableError("messages has not the same speakers in the same order as the dialogue")
        if any(new != old for new, old in zip(messages, dialogue.messages, strict=True) if new.role == "assistant"):
            raise UnreadableError(f"a message of the {task.agent.name} is changed; only the {task.user.name}'s may be")
    return Critique(verdict, tuple(faults), messages, _read_state(found.get("last_state"), task))


def _read_messages(items: object, task: Task) -> tuple[Message, ...]:
    roles = {task.user.name: "user", task.agent.name: "assistant"}
    if not isinstance(items, list) or not items:
        raise UnreadableError("messages is no list, or an empty one")
    messages = []
    for number, item in enumerate(items, 1):
        if not isinstance(item, Mapping) or item.get("speaker") not in roles:
            raise UnreadableError(f"message {number} has no speaker that is {' or '.join(roles)}")
        text = item.get("text")
        if not isinstance(text, str) or not text.strip():
            raise UnreadableError(f"message {number} has no text")
        role = roles[item["speaker"]]
        if role != ("user", "assistant")[(number - 1) % 2]:
            raise UnreadableError(
                f"message {number} is the {item['speaker']}'s; they take turns, the {task.user.name} first"
            )
        messages.append(Message(role, " ".join(text.split())))
    return tuple(messages)


def _read_state(found: object, task: Task) -> dict[str, str]:
    if not isinstance(found, Mapping):
        raise UnreadableError("last_state is no JSON object")
    state = {}
    for variable, options in _last_values(task).items():
        if found.get(variable) not in options:
            raise UnreadableError(
                f"last_state.{variable} is {found.get(variable)!r}, and must be one of {', '.join(options)}"
            )
        state[variable] = str(found[variable])
    return state


def _last_values(task: Task) -> dict[str, list[str]]:
    """Return the variables on which the outcomes depend, with their possible values."""
    values = task.values
    return {name: sorted(values[name]) for outcome in task.outcomes for name in outcome.when}


def _object(response: str, key: str) -> dict[str, Any]:
    text = strip_thoughts(response)
    found = [value for value in json_values(text) if isinstance(value, dict) and key in value]
    if len(found) != 1:
        raise UnreadableError(f"it holds several objects with {key!r}" if found else describe_json_error(text))
    return dict(found[0])


def _task_variables(task: Task, persona: Persona) -> dict[str, Any]:
    return {
        "description": task.description,
        "goal": task.goal,
        "agent": task.agent.name,
        "user": task.user.name,
        "persona": indent_lines(persona.text),
        "shared": _format_values(persona.shared),
        "hidden": _format_values(persona.hidden),
    }


def _format_values(values: Mapping[str, str]) -> str:
    return ", ".join(f"{name}: {value}" for name, value in values.items()) or "nothing"
