"""Who may read and change what: the browser that was given the token at the start, and no page of another site."""

from __future__ import annotations

import secrets
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qsl, urlencode

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",  # with less, a browser hides the Origin of a form
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-store",
}
NO_TOKEN = "Open the address that the terminal shows: its token is new at each start."


def new_token() -> str:
    """Return the token of a start."""
    return secrets.token_urlsafe(32)


class Headers:
    """Adds HEADERS to every response, errors included."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        await self._app(scope, receive, with_headers)


class Access:
    """Refuses requests without the token or from other sites.

    The address of the start has the token, which then becomes a cookie. Each port has a cookie of its own, because
    browsers send cookies to all ports of a host.
    """

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app, self._token = app, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer = self._answer(Request(scope)) if scope["type"] == "http" else None
        await (answer or self._app)(scope, receive, send)

    def _answer(self, request: Request) -> Response | None:
        """Return the response to a request that does not reach the application; None where it does."""
        cookie = f"sage-studio-{request.url.port or 80}"
        query = parse_qsl(request.url.query, keep_blank_values=True)
        given = dict(query).get("token")
        if given is not None and request.method == "GET" and self._is_token(given):
            rest = urlencode([(name, value) for name, value in query if name != "token"])
            response = RedirectResponse(request.url.path + (f"?{rest}" if rest else ""), 303)
            response.set_cookie(cookie, given, httponly=True, samesite="lax")
            return response
        if not self._is_token(_cookies(request).get(cookie, "")):
            return PlainTextResponse(NO_TOKEN, 403)
        if not _is_own(request):
            return PlainTextResponse("Pages of other sites have no access.", 403)
        return None

    def _is_token(self, given: str) -> bool:
        return secrets.compare_digest(given.encode("utf-8", "replace"), self._token.encode())


def _cookies(request: Request) -> dict[str, str]:
    try:
        return {name: morsel.value for name, morsel in SimpleCookie(request.headers.get("cookie", "")).items()}
    except CookieError:
        return {}


def _is_own(request: Request) -> bool:
    """Return whether a request comes from a page of the studio, or only opens one, such as by a link in a report."""
    origin, site = request.headers.get("origin"), request.headers.get("sec-fetch-site")
    own = f"http://{request.headers['host']}"
    if request.method not in ("GET", "HEAD"):
        return origin == own and site in (None, "same-origin")
    opens_page = request.headers.get("sec-fetch-mode") == "navigate"
    return origin in (None, own) and (site in (None, "same-origin", "none") or opens_page)
