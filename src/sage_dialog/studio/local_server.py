"""An HTTP server that only this machine can reach, for the arena and the API."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable
from types import FrameType

import uvicorn
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.types import ASGIApp

ADDRESS = "127.0.0.1"

HOST_CHECK = Middleware(TrustedHostMiddleware, allowed_hosts=[ADDRESS, "localhost"], www_redirect=False)
"""Refuses a host name of another site that resolves to 127.0.0.1 (DNS rebinding)."""

MAX_DISCARDED = 64 * 1024 * 1024
"""Bytes of a body too long that are read, so that the client gets the refusal and no broken connection."""


class PortTakenError(OSError):
    """Another process listens on the port."""


def listen(port: int) -> socket.socket:
    """Return a socket that listens on this machine's own address; port 0 takes any free one.

    Raises:
        PortTakenError: if another process listens on the port.
    """
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # allows a restart right after a kill
    try:
        listener.bind((ADDRESS, port))
        listener.listen()
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise PortTakenError(f"port {port} is taken") from error
        raise
    return listener


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, on_exit: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_exit = on_exit

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._on_exit()
        super().handle_exit(sig, frame)


def serve(app: ASGIApp, listener: socket.socket, on_exit: Callable[[], None] = lambda: None) -> None:
    """Serve an application until interrupted; `on_exit` is called at once, and responses have a second to end."""
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, server_header=False, lifespan="off", timeout_graceful_shutdown=1
    )
    try:
        _Server(config, on_exit).run(sockets=[listener])
    except KeyboardInterrupt:  # raised again by uvicorn after its shutdown
        pass
    finally:
        listener.close()


async def read_body(request: Request, limit: int) -> bytes:
    """Return the body of a request. Raises HTTPException if it has more than `limit` bytes."""
    body, size = b"", 0
    async for chunk in request.stream():
        size += len(chunk)
        if size <= limit:
            body += chunk
        elif size > MAX_DISCARDED:
            break
    if size > limit:
        raise HTTPException(413, f"The request is too long: the limit is {limit:,} bytes.")
    return body


def is_own_origin(request: Request) -> bool:
    """Return whether a request comes from a page of this server, or from no page of a browser."""
    origin, site = request.headers.get("origin"), request.headers.get("sec-fetch-site")
    return origin in (None, f"http://{request.headers['host']}") and site in (None, "same-origin", "none")
