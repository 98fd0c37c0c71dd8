"""The chat's pages and requests."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from markupsafe import Markup
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response, StreamingResponse
from starlette.routing import Route

from sage_dialog.studio.app.chat.actions import ChatActions
from sage_dialog.studio.app.chat.presets import Presets
from sage_dialog.studio.app.chat.view import field_settings, steering_lines, talk_sides
from sage_dialog.studio.app.forms import Form, number_of, read_form, settings_of, text_of
from sage_dialog.studio.app.pages import page, render, style
from sage_dialog.studio.app.votes import ChatVotes
from sage_dialog.studio.chat.conversation import Settings
from sage_dialog.studio.chat.drawing import Drawing
from sage_dialog.studio.chat.files import conversation_record
from sage_dialog.studio.chat.reply_view import view_reply
from sage_dialog.studio.chat.talks import Talk

LATEST = 30
"""Conversations in the list."""
RETRY_MS = 500
"""Until a page that lost its connection opens another; browsers wait several seconds by default."""
NAMED = ("say", "resend", "again", "edit", "candidates")
"""Actions that draw a reply, by the settings on the page."""


class ChatPages:
    """Pages and requests of conversations.

    Args:
        known: values by field, to choose from.
        examples: messages to begin with.
        seed: the engine's, for saved conversations.
    """

    def __init__(
        self,
        actions: ChatActions,
        presets: Presets,
        votes: ChatVotes,
        known: Callable[[], Mapping[str, Sequence[str]]],
        examples: Callable[[], Sequence[str]],
        seed: int,
    ) -> None:
        self._actions, self._presets, self._votes = actions, presets, votes
        self._known, self._examples, self._seed = known, examples, seed

    def routes(self) -> list[Route]:
        """Return the routes of the chat."""
        steps: dict[str, Callable[[Talk, Form], None]] = {
            "say": lambda talk, form: self._actions.say(talk, text_of(form, "text")),
            "resend": lambda talk, form: self._actions.say_again(talk, text_of(form, "text")),
            "discard": lambda talk, form: self._actions.discard(talk),
            "again": lambda talk, form: self._actions.again(talk, number_of(form, "turn")),
            "edit": lambda talk, form: self._actions.edit(talk, number_of(form, "turn"), text_of(form, "text")),
            "candidates": lambda talk, form: self._actions.draw_candidates(talk),
            "pick": lambda talk, form: self._actions.pick(talk, number_of(form, "candidate")),
            "show": lambda talk, form: self._actions.show(talk, number_of(form, "turn")),
            "end": lambda talk, form: self._actions.end_at(talk, number_of(form, "turn")),
            "stop": lambda talk, form: self._actions.stop(talk),
            "vote": lambda talk, form: self._votes.vote(
                talk, text_of(form, "vote", 10), text_of(form, "comment"), text_of(form, "rater", 40)
            ),
        }
        return [
            Route("/chat", self._list),
            Route("/chat/new", self._new, methods=["POST"]),
            Route("/chat/row/{field}", self._row),
            Route("/chat/{id}", self._page),
            Route("/chat/{id}/view", self._view),
            Route("/chat/{id}/stream/{side:int}", self._stream),
            Route("/chat/{id}/settings", self._settings, methods=["POST"]),
            Route("/chat/{id}/preset/{action}", self._preset, methods=["POST"]),
            Route("/chat/{id}/delete", self._delete, methods=["POST"]),
            Route("/chat/{id}/conversation-{side:int}.jsonl", self._jsonl),
            Route("/chat/{id}/conversation.html", self._html),
            *(Route(f"/chat/{{id}}/{name}", self._step(name, step), methods=["POST"]) for name, step in steps.items()),
        ]

    async def _list(self, request: Request) -> Response:
        examples = await run_in_threadpool(self._examples)
        return page("chats.html.j2", tab="chat", names=self._actions.policies.names, examples=examples, **self._all())

    async def _new(self, request: Request) -> Response:
        form = await read_form(request)
        names = [name for field in ("policy", "beside") if (name := text_of(form, field, 200))]
        talk = self._actions.begin(names, "blind" in form)
        self._actions.say(talk, text_of(form, "text"))
        return Response(status_code=204, headers={"hx-redirect": f"/chat/{talk.id}"})

    async def _page(self, request: Request) -> Response:
        talk = self._talk(request)
        panel = Markup(await self._panel(talk))
        return page("chat.html.j2", tab="chat", **self._shown(talk), panel=panel, **self._all())

    async def _view(self, request: Request) -> Response:
        return self._talk_response(self._talk(request))

    def _step(self, name: str, step: Callable[[Talk, Form], None]) -> Callable[[Request], Awaitable[Response]]:
        async def respond(request: Request) -> Response:
            talk, form = self._talk(request), await read_form(request)
            if name in NAMED:
                self._change(talk, form)
            if name not in ("say", "resend", "discard", "stop", "vote") and len(talk.sides) > 1:
                raise HTTPException(409, "Two policies side by side go on together.")
            step(talk, form)
            return self._talk_response(talk)

        return respond

    async def _settings(self, request: Request) -> Response:
        talk, form = self._talk(request), await read_form(request)
        try:
            self._change(talk, form)
            values: dict[str, Any] = {"lines": steering_lines(talk.settings), "error": None}
        except ValueError as error:
            values = {"lines": [], "error": str(error)}
        return page("settings_note.html.j2", **values)

    async def _preset(self, request: Request) -> Response:
        talk, form, action = self._talk(request), await read_form(request), request.path_params["action"]
        if action == "use":
            settings = self._presets.get(text_of(form, "preset", 100)) or self._default(talk)
            self._actions.change(talk, settings, [])
        elif action == "save":
            self._change(talk, form)
            self._presets.save(text_of(form, "preset_name", 100), talk.settings)
        elif action == "delete":
            self._presets.delete(text_of(form, "preset", 100))
        else:
            raise HTTPException(404)
        return HTMLResponse(await self._panel(talk))

    async def _row(self, request: Request) -> Response:
        return page("boost_row.html.j2", field=request.path_params["field"], keyword="", weight=4.0)

    async def _delete(self, request: Request) -> Response:
        talk = self._talk(request)
        self._actions.stop(talk)
        self._actions.folder.delete(talk.id)
        return Response(status_code=204, headers={"hx-redirect": "/chat"})

    async def _stream(self, request: Request) -> Response:
        talk, side = self._talk(request), request.path_params["side"]
        if side >= len(talk.sides):
            raise HTTPException(404)
        events = _events(talk.sides[side].drawing, talk.hidden)
        return StreamingResponse(events, media_type="text/event-stream", headers={"x-accel-buffering": "no"})

    async def _jsonl(self, request: Request) -> Response:
        talk, number = self._talk(request), request.path_params["side"]
        if number >= len(talk.sides) or talk.hidden or not (turns := talk.sides[number].branches.turns()):
            raise HTTPException(409, "There is nothing to save yet, or the policies are hidden until a vote.")
        side = talk.sides[number]
        line = conversation_record(side.policy, side.blocks, self._seed, talk.settings, turns)
        name = f"{side.policy}-{talk.id}.jsonl"
        return _file(line.encode("utf-8", "replace"), name, "application/x-ndjson")

    async def _html(self, request: Request) -> Response:
        talk = self._talk(request)
        html = render("saved_chat.html.j2", **self._shown(talk), style=style())
        return _file(html.encode("utf-8", "replace"), f"chat-{talk.id}.html", "text/html")

    def _talk(self, request: Request) -> Talk:
        return self._actions.folder.get(request.path_params["id"])

    def _change(self, talk: Talk, form: Form) -> None:
        """Take the settings of the page. Raises ValueError if one is invalid."""
        names = [name for number in range(len(talk.sides)) if (name := text_of(form, f"policy{number}", 200))]
        self._actions.change(talk, settings_of(form, talk.settings), names)

    def _default(self, talk: Talk) -> Settings:
        return self._actions.policies.get(talk.sides[0].policy).settings

    def _talk_response(self, talk: Talk) -> Response:
        return page("talk.html.j2", **self._shown(talk))

    def _shown(self, talk: Talk) -> dict[str, Any]:
        ballot = self._votes.ballot(talk) if len(talk.sides) > 1 else None
        return {
            "talk": talk,
            "sides": talk_sides(talk),
            "number": self._actions.number,
            "rater": self._votes.rater,
            "ballot": ballot,
        }

    async def _panel(self, talk: Talk) -> str:
        known = await run_in_threadpool(self._known)  # reads a table the first time
        fields = field_settings(talk.settings, known)
        return render(
            "settings.html.j2",
            talk=talk,
            settings=talk.settings,
            fields=fields,
            names=self._actions.policies.names,
            presets=self._presets.names(),
            lines=steering_lines(talk.settings),
            error=None,
        )

    def _all(self) -> dict[str, Any]:
        return {"talks": self._actions.folder.latest(LATEST)}


def _file(content: bytes, name: str, media_type: str) -> Response:
    return Response(content, media_type=media_type, headers={"content-disposition": f'attachment; filename="{name}"'})


async def _events(drawing: Drawing | None, hidden: bool) -> AsyncIterator[str]:
    """Yield a reply as server-sent events, from its beginning: each connection gets all of it.

    An event `reply` has the `fields` so far, and a `text` that replaces the words from the place `at` on.

    Args:
        hidden: whether the fields, which would identify the policy, are left out.
    """
    yield f"retry: {RETRY_MS}\n\n"
    shown, fields = "", dict[str, str]()
    while drawing is not None:
        changed, finished = drawing.changed, drawing.finished
        view = view_reply(drawing.text, drawing.blocks)
        at = len(shown) if view.words.startswith(shown) else 0
        if hidden:
            view = replace(view, fields={})
        if view.words[at:] or view.fields != fields or at < len(shown):
            yield _event("reply", {"fields": view.fields, "at": at, "text": view.words[at:]})
        elif not drawing.begun:
            yield _event("waiting", {})
        shown, fields = view.words, view.fields
        if finished:
            break
        await changed.wait()
    yield _event("done", {})


def _event(name: str, data: Mapping[str, Any]) -> str:
    return f"event: {name}\ndata: {json.dumps(data)}\n\n"
