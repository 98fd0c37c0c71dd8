"""The studio's application: chat, explorer and arena behind one address of this machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import escape
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from sage_dialog.config import OutcomeRule
from sage_dialog.studio.app.access import Access, Headers
from sage_dialog.studio.app.arena_pages import ArenaPages
from sage_dialog.studio.app.chat.actions import ChatActions, TalkBusyError
from sage_dialog.studio.app.chat.pages import ChatPages
from sage_dialog.studio.app.chat.presets import Presets
from sage_dialog.studio.app.explorer.pages import ExplorerPages
from sage_dialog.studio.app.pages import STATIC, page
from sage_dialog.studio.app.votes import ChatVotes, Rater
from sage_dialog.studio.arena.session import BallotError
from sage_dialog.studio.arena.vote_file import VoteNotSavedError
from sage_dialog.studio.chat.drawing import Drawer
from sage_dialog.studio.chat.policies import TalkPolicies
from sage_dialog.studio.chat.talks import NoSuchTalkError, TalkFolder
from sage_dialog.studio.engine_thread import BusyError, EngineThread
from sage_dialog.studio.explorer.tables import Tables
from sage_dialog.studio.local_server import HOST_CHECK

STATUSES: dict[type[Exception], int] = {
    TalkBusyError: 409,
    BallotError: 409,
    VoteNotSavedError: 507,
    BusyError: 503,
    NoSuchTalkError: 404,
    LookupError: 404,
    ValueError: 422,
}
"""Errors with a message for people, the more special ones first."""


@dataclass(frozen=True)
class Studio:
    """What the studio works with.

    Attributes:
        known: returns values by field to choose from.
        examples: returns messages to begin a conversation with.
        folder: for conversations and presets.
        dialogues: the folder of the dialogues that people voted on in the chat.
        candidates: how many are drawn.
        seed: the engine's.
        rule: how two answers of a judge are one outcome.
    """

    thread: EngineThread
    policies: TalkPolicies
    known: Callable[[], Mapping[str, Sequence[str]]]
    examples: Callable[[], Sequence[str]]
    tables: Tables
    rater: Rater
    folder: Path
    dialogues: Path
    candidates: int
    seed: int
    rule: OutcomeRule


def make_app(studio: Studio, token: str) -> Starlette:
    """Return the application. Pages of other sites that are open in the same browser have no access (`Access`)."""
    talks = TalkFolder(studio.folder / "conversations")
    actions = ChatActions(studio.policies, Drawer(studio.thread, studio.policies), talks, studio.candidates)
    votes = ChatVotes(studio.rater, talks, studio.dialogues, studio.seed)
    presets = Presets(studio.folder / "presets.json")
    chat = ChatPages(actions, presets, votes, studio.known, studio.examples, studio.seed)
    return Starlette(
        routes=[
            Route("/", _start),
            *chat.routes(),
            *ExplorerPages(studio.tables, studio.rule).routes(),
            *ArenaPages(studio.rater).routes(),
            Mount("/static", StaticFiles(directory=STATIC)),
        ],
        middleware=[
            Middleware(Headers),
            HOST_CHECK,
            Middleware(Access, token=token),
            Middleware(GZipMiddleware, compresslevel=3),
        ],
        exception_handlers={HTTPException: _refuse, **{kind: _refuse for kind in STATUSES}},
    )


async def _start(request: Request) -> Response:
    return RedirectResponse("/chat", 303)


async def _refuse(request: Request, error: Exception) -> Response:
    """Return an error: a text for a part of a page, or a page."""
    if isinstance(error, HTTPException):
        status, text = error.status_code, str(error.detail)
    else:
        status = next(status for kind, status in STATUSES.items() if isinstance(error, kind))
        text = str(error.args[0]) if error.args else str(error)
    if request.headers.get("accept", "").startswith("text/html") and "hx-request" not in request.headers:
        return page("error.html.j2", status, tab="", text=text)
    return HTMLResponse(str(escape(text)), status)
