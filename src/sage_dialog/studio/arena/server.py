"""HTTP server of the arena's page, bound to this machine's own address."""

from __future__ import annotations

import secrets
import socket
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from pydantic import BaseModel, Field, ValidationError
from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sage_dialog.studio import local_server
from sage_dialog.studio.arena.session import BallotError, Session
from sage_dialog.studio.arena.vote_file import MAX_COMMENT, Vote, VoteFileError

PAGE = Path(__file__).parent / "page"
MAX_BODY = 64 * 1024  # bytes; more than MAX_COMMENT escaped characters
HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-store",
}


class _VoteRequest(BaseModel, extra="forbid"):
    ballot: str
    vote: Vote
    comment: str | None = Field(None, max_length=MAX_COMMENT)


class _Headers:
    """Add HEADERS to every response, including errors."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        await self._app(scope, receive, with_headers)


def make_app(session: Session, token: str) -> Starlette:
    """Return the application: the page, its state as JSON, vote and undo.

    Other sites that are open in the same browser have no access. A host name of their own that resolves to 127.0.0.1
    (DNS rebinding) is refused by the Host header. Changes require `token` in a header, which only the page holds, and
    an Origin of this very address.
    """
    templates = Environment(
        loader=PackageLoader("sage_dialog.studio.arena", "page"), autoescape=True, undefined=StrictUndefined
    )
    page = templates.get_template("index.html.j2").render(rater=session.rater, token=token, max_comment=MAX_COMMENT)

    async def index(request: Request) -> Response:
        return HTMLResponse(page)

    async def state(request: Request) -> Response:
        return JSONResponse(session.state())

    async def vote(request: Request) -> Response:
        _check_origin(request, token)
        try:
            sent = _VoteRequest.model_validate_json(await local_server.read_body(request, MAX_BODY))
        except ValidationError as error:
            raise HTTPException(422, f"Invalid vote: {error.errors(include_input=False)[0]['msg']}.") from None
        session.vote(sent.ballot, sent.vote, sent.comment)
        return JSONResponse(session.state())

    async def undo(request: Request) -> Response:
        _check_origin(request, token)
        session.undo()
        return JSONResponse(session.state())

    async def refuse(request: Request, error: Exception) -> Response:
        return Response(str(error), 409 if isinstance(error, BallotError) else 507, media_type="text/plain")

    return Starlette(
        routes=[
            Route("/", index),
            Route("/state", state),
            Route("/vote", vote, methods=["POST"]),
            Route("/undo", undo, methods=["POST"]),
            Mount("/page", StaticFiles(directory=PAGE)),
        ],
        middleware=[Middleware(_Headers), local_server.HOST_CHECK],
        exception_handlers={BallotError: refuse, VoteFileError: refuse},
    )


def _check_origin(request: Request, token: str) -> None:
    """Raise HTTPException unless the request comes from the page itself."""
    origin, site = request.headers.get("origin"), request.headers.get("sec-fetch-site")
    if origin != f"http://{request.headers['host']}" or site not in (None, "same-origin"):
        raise HTTPException(403, "Votes are accepted from the arena's own page only.")
    if not secrets.compare_digest(request.headers.get("x-arena-token", "").encode(), token.encode()):
        raise HTTPException(403, "This page is from an earlier start of the arena. Reload it.")


def serve(session: Session, listener: socket.socket) -> None:
    """Serve the page until interrupted."""
    local_server.serve(make_app(session, secrets.token_urlsafe(32)), listener)
