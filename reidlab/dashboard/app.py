"""The server that `streamlit run` starts: the page, for the browser of this machine alone."""

import streamlit as st
from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocketClose

from reidlab.dashboard import PAGE
from reidlab.untrusted import is_own_host, is_own_origin


class OwnPageOnly:
    """Refuses requests and websockets under a foreign name (DNS rebinding), or from the page of another site."""

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 403 where `Host` isn't this machine, or `Origin`, which browsers add, isn't the same host."""
        if scope["type"] == "lifespan" or _is_own(Headers(scope=scope)):
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await WebSocketClose()(scope, receive, send)
        else:
            await PlainTextResponse("open http://127.0.0.1 or http://localhost", 403)(scope, receive, send)


def _is_own(headers: Headers) -> bool:
    host = headers.get("host", "")
    return is_own_host(host) and is_own_origin(headers.getlist("origin"), host)


app = st.App(PAGE, middleware=[Middleware(OwnPageOnly)])
