"""Prompt files, and the form of a dialogue in a prompt.

A prompt file has sections, each headed by a line such as `[system]`; text before the first is a comment. A section is a
Jinja template. Utterances are inserted as data: templates and section headings in them have no effect.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import StrictUndefined, Template, TemplateError, TemplateSyntaxError
from jinja2.meta import find_undeclared_variables
from jinja2.sandbox import SandboxedEnvironment

from sage_dialog.dialogue import Message
from sage_dialog.llm.endpoint import Endpoint
from sage_dialog.llm.requests import remove_surrogates

PromptFile = Path | str | Mapping[str, str]
"""A path, or {"filepath": path}: the one key that Kedro makes absolute in a catalog entry."""

_HEADING = re.compile(r"^\[(\w+)\][ \t]*$", re.MULTILINE)
_CONTROL = re.compile(
    r"<\|[^|<>\n]{1,40}\|>|<｜[^｜<>\n]{1,40}｜>|<</?SYS>>|\[/?(?:INST|SYSTEM_PROMPT)\]"
    r"|</?(?:s|bos|eos|start_of_turn|end_of_turn|think|dialogue|conversation(?:_[ab])?|candidates)>",
    re.IGNORECASE,
)
_BRACKETS = re.compile(r"[<>\[\]|｜]")
_TEMPLATES = SandboxedEnvironment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)


class Prompt:
    """The sections of a prompt file.

    Args:
        file: the prompt file.
        sections: the required sections, each with example values of the variables that it must use. All are rendered
            once, so that errors come before the first call.

    Raises:
        ValueError: naming the file and what is wrong with it.
    """

    def __init__(self, file: PromptFile, sections: Mapping[str, Mapping[str, Any]]) -> None:
        if isinstance(file, Mapping) and set(file) != {"filepath"}:
            raise ValueError(f"prompt is {{filepath: …}}, not {{{', '.join(map(str, file))}}}")
        self.path = Path(file["filepath"] if isinstance(file, Mapping) else file)
        try:
            self.text = self.path.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"the prompt file {self.path} cannot be read: {error}") from error
        comment, *parts = _HEADING.split(self.text)
        names, bodies = parts[::2], parts[1::2]
        for name in sections:
            if names.count(name) != 1:
                raise ValueError(f"{self.path} needs one section [{name}], and has {names.count(name) or 'none'}")
        for name in names:
            if name not in sections:
                raise ValueError(f"{self.path}: no section is called [{name}]; there are {_list(sections)}")
        self._templates: dict[str, Template] = {}
        line = comment.count("\n")
        for name, body in zip(names, bodies, strict=True):
            self._templates[name] = self._template(name, "\n" * line + body, set(sections[name]))
            line += body.count("\n")
        for name, variables in sections.items():
            self.render(name, **variables)

    def render(self, section: str, /, **variables: Any) -> str:
        """Return a section with its variables filled in."""
        try:
            return self._templates[section].render(variables).strip()
        except (TemplateError, TypeError) as error:
            raise ValueError(f"{self.path}, section [{section}], cannot be filled in: {error}") from error

    def messages(self, user: Mapping[str, Any], system: Mapping[str, Any] | None = None) -> list[dict[str, str]]:
        """Return the sections [system] and [user] as chat messages, with their variables filled in."""
        return [
            {"role": "system", "content": self.render("system", **(system or {}))},
            {"role": "user", "content": self.render("user", **user)},
        ]

    def _template(self, section: str, body: str, variables: set[str]) -> Template:
        try:
            used = find_undeclared_variables(_TEMPLATES.parse(body)) - set(_TEMPLATES.globals)
            template = _TEMPLATES.from_string(body)
        except TemplateSyntaxError as error:
            raise ValueError(f"{self.path}, line {error.lineno}: {error}") from error
        if unknown := used - variables:
            has = f"it has {_list(variables)}" if variables else "it has none"
            raise ValueError(f"{self.path}, section [{section}], knows no variable {_list(unknown)}; {has}")
        if unused := variables - used:
            raise ValueError(f"{self.path}, section [{section}], must show {_list(unused)}")
        return template


def role_name(endpoint: Endpoint, prompt: Prompt, schema: Mapping[str, Any], **settings: Any) -> str:
    """Return model, prompt and a digest of all else that determines the answers: "gpt-5-mini judge 1a2b3c4d".

    The name is stored in tables and fingerprints; it contains no key and no server.
    """
    fingerprint_inputs = {
        "model": endpoint.model,
        "sampling": dict(endpoint.sampling),
        "prompt": prompt.text,
        "schema": schema if endpoint.json_schema else None,
        "settings": settings,
    }
    digest = hashlib.sha256(json.dumps(fingerprint_inputs, sort_keys=True, default=str).encode()).hexdigest()[:8]
    return f"{endpoint.model} {prompt.path.stem} {digest}"


def number_messages(dialogue: Sequence[Message]) -> list[dict[str, Any]]:
    """Return the messages of a dialogue for a template: number (from 1), speaker and text."""
    return [
        {"number": number, "speaker": message.role, "text": indent_lines(message.text)}
        for number, message in enumerate(dialogue, 1)
    ]


def indent_lines(text: str) -> str:
    """Return the text with all lines but the first indented, so that no line looks like another turn.

    Control tokens of chat templates, which a server may read as the end of the message, and tags of the prompts lose
    their brackets.
    """
    text = remove_surrogates(text)
    while _CONTROL.search(text):  # what is left of one may form another
        text = _CONTROL.sub(lambda found: _BRACKETS.sub("", found[0]), text)
    return "\n    ".join(line.strip() for line in text.splitlines() if line.strip())


def _list(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))
