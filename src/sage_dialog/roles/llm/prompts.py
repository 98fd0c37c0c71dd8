"""Prompts kept as text files, and how a dialogue is shown in one.

A prompt file has sections, each headed by a line such as `[system]`; what stands before the first is a note to
whoever reads the file. A section is a Jinja template. What was said in a dialogue comes in as data: nothing in it
is read as a template or as a section.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import StrictUndefined, Template, TemplateError, TemplateSyntaxError
from jinja2.meta import find_undeclared_variables
from jinja2.sandbox import SandboxedEnvironment

from sage_dialog.dialogue import Message
from sage_dialog.llm.endpoint import Endpoint
from sage_dialog.llm.requests import remove_surrogates

PromptFile = Path | str | Mapping[str, str]
"""A path, or {"filepath": path}, the one key that Kedro makes absolute inside a catalog entry."""

_HEADING = re.compile(r"^\[(\w+)\][ \t]*$", re.MULTILINE)
_TEMPLATES = SandboxedEnvironment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)


class Prompt:
    """The sections of one prompt file.

    Args:
        file: where it is.
        sections: those that it must have, each with an example of the variables that it must use. All are rendered
            once with these, so that a fault shows before the first call.

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
        found = _HEADING.split(self.text)
        names = found[1::2]
        for name in sections:
            if names.count(name) != 1:
                raise ValueError(f"{self.path} needs one section [{name}], and has {names.count(name) or 'none'}")
        for name in names:
            if name not in sections:
                raise ValueError(f"{self.path}: no section is called [{name}]; there are {_listed(sections)}")
        self._templates: dict[str, Template] = {}
        line = found[0].count("\n")
        for name, body in zip(names, found[2::2], strict=True):
            self._templates[name] = self._template(name, "\n" * line + body, set(sections[name]))
            line += body.count("\n")
        for name, variables in sections.items():
            self.render(name, **variables)

    def render(self, section: str, /, **variables: Any) -> str:
        """A section with its variables filled in, without space around it."""
        try:
            return self._templates[section].render(variables).strip()
        except (TemplateError, TypeError) as error:
            raise ValueError(f"{self.path}, section [{section}], cannot be filled in: {error}") from error

    def messages(self, user: Mapping[str, Any], system: Mapping[str, Any] | None = None) -> list[dict[str, str]]:
        """How a conversation begins: the sections [system] and [user], with their variables filled in."""
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
            has = f"it has {_listed(variables)}" if variables else "it has none"
            raise ValueError(f"{self.path}, section [{section}], knows no variable {_listed(unknown)}; {has}")
        if unused := variables - used:
            raise ValueError(f"{self.path}, section [{section}], must show {_listed(unused)}")
        return template


def role_name(endpoint: Endpoint, prompt: Prompt, schema: Mapping[str, Any], **settings: Any) -> str:
    """Model, prompt, and a digest of all else that decides what the role answers, such as "gpt-5-mini judge 1a2b3c4d".

    Tables and fingerprints hold it, so it says nothing of keys and servers.
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


def numbered(dialogue: Sequence[Message]) -> list[dict[str, Any]]:
    """The utterances of a dialogue for a template: number (from 1), speaker and text."""
    return [
        {"number": number, "speaker": said.role, "text": shown(said.text)} for number, said in enumerate(dialogue, 1)
    ]


def shown(text: str) -> str:
    """An utterance as a prompt shows it: its lines after the first are set in, so that none passes for a turn."""
    return "\n    ".join(line.strip() for line in remove_surrogates(text).splitlines() if line.strip())


def _listed(names: Mapping[str, Any] | set[str]) -> str:
    return ", ".join(sorted(names))
