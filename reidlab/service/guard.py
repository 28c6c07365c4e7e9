"""The guard before the service's addresses: whose requests are answered, and what every answer carries."""

import hmac
import ipaddress
import socket
import time
import traceback
from pathlib import Path

from fastapi.responses import JSONResponse
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from reidlab.console import log
from reidlab.service.limits import Room
from reidlab.service.metrics import Metrics
from reidlab.untrusted import is_own_host, is_own_origin

OPEN = {"/", "/page.js", "/page.css", "/healthz"}  # without a token: they tell nothing of the gallery
KNOWN = OPEN | {"/identify", "/enroll", "/forget", "/metrics", "/openapi.json"}
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src blob: data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class Guard:
    """Refuses requests under a foreign name (DNS rebinding), of another site's page, or without the token, or too many.

    Args:
        app: that is guarded.
        token: that requests must carry; None for none.
        name: that the service was given to listen at.
        far: whether others are answered, too: under all addresses, and this machine's own name.
        room: for requests that bring something; more are refused before they are read.
        metrics: count what is answered.
    """

    def __init__(self, app: ASGIApp, token: str | None, name: str, far: bool, room: Room, metrics: Metrics) -> None:
        self.app, self.far, self.room, self.metrics = app, far, room, metrics
        self.names = {name.lower(), *([socket.gethostname().lower()] if far else [])} - {""}
        self.token = None if token is None else f"Bearer {token}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 403 or 401 to what is refused, and 500, without its cause, to a fault of the program."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        if scope["method"] == "HEAD":  # of which the server sends no content
            scope = {**scope, "method": "GET"}
        began, path, statuses = time.perf_counter(), scope["path"], []

        async def send_on(message: Message) -> None:
            if message["type"] == "http.response.start":
                statuses.append(message["status"])
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        try:
            headers = Headers(scope=scope)
            if refused := self._refusal(headers, path, scope["method"]):
                await refused(scope, receive, send_on)
            elif scope["method"] == "POST":
                with self.room.taken(int(headers["content-length"])):
                    await self.app(scope, receive, send_on)
            else:
                await self.app(scope, receive, send_on)
        except Exception as error:
            places = [
                f"{Path(frame.filename).name}:{frame.lineno}" for frame in traceback.extract_tb(error.__traceback__)
            ]
            log.error(f"a request was stopped by {type(error).__name__} in {places[-1]}")
            if not statuses:
                await JSONResponse({"error": "a fault of the service; see its log"}, 500)(scope, receive, send_on)
        path = path if path in KNOWN else "other"
        self.metrics.requests.labels(path, *map(str, statuses[:1])).inc()
        self.metrics.seconds.labels(path).observe(time.perf_counter() - began)

    def _refusal(self, headers: Headers, path: str, method: str) -> ASGIApp | None:
        host, origins = headers.get("host", ""), headers.getlist("origin")
        if not (self._is_own(host) and is_own_origin(origins, host, ("http", "https"))):
            return JSONResponse({"error": "a foreign name or site; open the service by this machine's own"}, 403)
        given = headers.get("authorization", "").encode("latin-1")
        if self.token is not None and path not in OPEN and not hmac.compare_digest(given, self.token):
            told = "that is not the service's token" if given else "send the service's token"
            return JSONResponse({"error": f"{told}: Authorization: Bearer TOKEN"}, 401, {"WWW-Authenticate": "Bearer"})
        length = "" if "transfer-encoding" in headers else headers.get("content-length", "")  # which it would override
        if method == "POST" and (full := self.room.refusal(length)):
            return JSONResponse({"error": full[1]}, full[0], {"Retry-After": "1"} if full[0] == 429 else None)
        return None

    def _is_own(self, host: str) -> bool:
        """Whether it is a name of this machine, or an address, which isn't foreign: a loopback, or any if `far`."""
        if is_own_host(host):
            return True
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdecimal() and not host.endswith("]") else host
        try:
            return ipaddress.ip_address(name.strip("[]")).is_loopback or self.far
        except ValueError:
            return name.lower() in self.names
