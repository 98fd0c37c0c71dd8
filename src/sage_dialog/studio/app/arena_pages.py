"""The arena's page and its requests: the next ballot, votes and undo."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field, ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from sage_dialog.studio.app.forms import read_form, text_of
from sage_dialog.studio.app.pages import page
from sage_dialog.studio.app.votes import Rater
from sage_dialog.studio.arena.session import Session
from sage_dialog.studio.arena.vote_file import MAX_COMMENT, Vote
from sage_dialog.studio.local_server import read_body

MAX_BODY = 64 * 1024  # bytes; more than MAX_COMMENT escaped characters


class _VoteRequest(BaseModel, extra="forbid"):
    ballot: str
    vote: Vote
    comment: str | None = Field(None, max_length=MAX_COMMENT)


class ArenaPages:
    """The arena of a rater, who is named at the start or on the page."""

    def __init__(self, rater: Rater) -> None:
        self._rater = rater

    def routes(self) -> list[Route]:
        """Return the routes of the arena."""
        return [
            Route("/arena", self._page),
            Route("/arena/rater", self._enter, methods=["POST"]),
            Route("/arena/state", self._state),
            Route("/arena/vote", self._vote, methods=["POST"]),
            Route("/arena/undo", self._undo, methods=["POST"]),
        ]

    async def _page(self, request: Request) -> Response:
        try:
            session = self._rater.session()
            missing = None
        except ValueError as error:
            session, missing = None, str(error)
        values: dict[str, Any] = {"rater": self._rater.name, "voting": session is not None, "missing": missing}
        return page("arena.html.j2", tab="arena", max_comment=MAX_COMMENT, **values)

    async def _enter(self, request: Request) -> Response:
        self._rater.enter(text_of(await read_form(request), "rater", 100))
        if request.headers.get("hx-request") == "true":
            return Response(status_code=204, headers={"hx-redirect": "/arena"})
        return RedirectResponse("/arena", 303)

    async def _state(self, request: Request) -> Response:
        return JSONResponse(self._session().state())

    async def _vote(self, request: Request) -> Response:
        session = self._session()
        try:
            sent = _VoteRequest.model_validate_json(await read_body(request, MAX_BODY))
        except ValidationError as error:
            raise HTTPException(422, f"Invalid vote: {error.errors(include_input=False)[0]['msg']}.") from None
        session.vote(sent.ballot, sent.vote, sent.comment)
        return JSONResponse(session.state())

    async def _undo(self, request: Request) -> Response:
        session = self._session()
        session.undo()
        return JSONResponse(session.state())

    def _session(self) -> Session:
        session = self._rater.session()
        if session is None:
            raise HTTPException(409, "Nobody votes yet: enter a name first.")
        return session
