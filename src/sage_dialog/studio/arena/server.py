"""The arena's page over HTTP, on this machine alone. Imported only where a page is served."""

from __future__ import annotations

import errno
import secrets
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sage_dialog.studio.arena.session import NotAskedError, Session
from sage_dialog.studio.arena.vote_file import LONGEST_COMMENT, Vote, VoteFileError

ADDRESS = "127.0.0.1"
PAGE = Path(__file__).parent / "page"
LONGEST_BODY = 64 * 1024  # bytes; a comment of LONGEST_COMMENT characters, each escaped, is shorter
HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-store",
}


class PortTakenError(OSError):
    """Something else listens on the port."""


class _Given(BaseModel):
    model_config = ConfigDict(extra="forbid")

    ballot: str
    vote: Vote
    comment: str | None = Field(None, max_length=LONGEST_COMMENT)


class _Headers:
    """Puts HEADERS on every answer, errors included."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        await self._app(scope, receive, with_headers)


def make_app(session: Session, token: str) -> Starlette:
    """The page, what it shows as JSON, and the two things that it can do.

    Another site that is open in the same browser can do nothing here. A name of its own that leads to 127.0.0.1 (DNS
    rebinding) is refused by the Host header. What changes something needs `token`, which stands in the page, where
    other sites cannot read it, in a header, which they cannot send; and an Origin of this very address.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    templates = Environment(
        loader=PackageLoader("sage_dialog.studio.arena", "page"), autoescape=True, undefined=StrictUndefined
    )
    page = templates.get_template("index.html.j2").render(
        rater=session.rater, token=token, longest_comment=LONGEST_COMMENT
    )

    async def index(request: Request) -> Response:
        return HTMLResponse(page)

    async def state(request: Request) -> Response:
        return JSONResponse(session.state())

    async def vote(request: Request) -> Response:
        await _ours(request, token)
        try:
            given = _Given.model_validate_json(await _body(request))
        except ValidationError as error:
            raise HTTPException(422, f"This is no vote: {error.errors(include_input=False)[0]['msg']}.") from None
        session.vote(given.ballot, given.vote, given.comment)
        return JSONResponse(session.state())

    async def undo(request: Request) -> Response:
        await _ours(request, token)
        session.undo()
        return JSONResponse(session.state())

    return Starlette(
        routes=[
            Route("/", index),
            Route("/state", state),
            Route("/vote", vote, methods=["POST"]),
            Route("/undo", undo, methods=["POST"]),
            Mount("/page", StaticFiles(directory=PAGE)),
        ],
        middleware=[
            Middleware(_Headers),
            Middleware(TrustedHostMiddleware, allowed_hosts=[ADDRESS, "localhost"], www_redirect=False),
        ],
        exception_handlers={NotAskedError: _told(409), VoteFileError: _told(507)},
    )


def _told(status: int) -> Callable[[Request, Exception], Awaitable[Response]]:
    async def answer(request: Request, error: Exception) -> Response:
        return Response(str(error), status, media_type="text/plain")

    return answer


async def _ours(request: Request, token: str) -> None:
    """Raises HTTPException unless the page itself asks."""
    origin, site = request.headers.get("origin"), request.headers.get("sec-fetch-site")
    if origin != f"http://{request.headers['host']}" or site not in (None, "same-origin"):
        raise HTTPException(403, "Votes are taken from the arena's own page alone.")
    if not secrets.compare_digest(request.headers.get("x-arena-token", "").encode(), token.encode()):
        raise HTTPException(403, "This page is from an earlier start of the arena. Reload it.")


async def _body(request: Request) -> bytes:
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > LONGEST_BODY:
            raise HTTPException(413, "That is too long.")
    return body


def listen(port: int) -> socket.socket:
    """A socket that listens on this machine's own address; port 0 takes any that is free.

    Raises:
        PortTakenError: if something else listens there.
    """
    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # at once again after a kill
    try:
        listening.bind((ADDRESS, port))
        listening.listen()
    except OSError as error:
        listening.close()
        if error.errno == errno.EADDRINUSE:
            raise PortTakenError(f"port {port} is taken") from error
        raise
    return listening


def serve(session: Session, listening: socket.socket) -> None:
    """Answers until it is interrupted; returns then."""
    import uvicorn

    app = make_app(session, secrets.token_urlsafe(32))
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, server_header=False, lifespan="off", timeout_graceful_shutdown=1
    )
    try:
        uvicorn.Server(config).run(sockets=[listening])
    except KeyboardInterrupt:  # uvicorn passes it on when it has closed
        pass
    finally:
        listening.close()
