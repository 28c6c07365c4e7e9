"""HTTP/1.1 by uvicorn, for clients that may be slow, many, or hostile."""

import asyncio
import logging
import socket
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

MOST_CONNECTIONS = 512
MOST_HEADER_BYTES = 16 << 10
FULL = (
    b"HTTP/1.1 429 Too Many Requests\r\nContent-Type: application/json\r\nRetry-After: 1\r\nConnection: close\r\n"
    b'Content-Length: 33\r\n\r\n{"error":"too many connections"}\n'
)


class Impatient(H11Protocol):
    """A connection that ends where no whole request head arrives in time, and isn't begun where there are too many."""

    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Wait for the first request."""
        super().connection_made(transport)
        if len(self.connections) > MOST_CONNECTIONS:
            transport.write(FULL)
            transport.close()
        else:
            self._wait()

    def data_received(self, data: bytes) -> None:
        """Take a part of a request; once its head is complete, the service has its own limit on time."""
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete and self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def on_response_complete(self) -> None:
        """Wait for the next request, and for the rest of one that was refused before it had arrived."""
        super().on_response_complete()
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no more."""
        super().connection_lost(exc)
        if self._deadline is not None:
            self._deadline.cancel()

    def _wait(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = self.loop.call_later(self.config.timeout_keep_alive, self.transport.close)


def answer(app: FastAPI, listening: socket.socket, timeout_s: float) -> None:
    """Answer requests until SIGINT or SIGTERM, and then those that were accepted."""
    logging.getLogger("uvicorn.error").addFilter(lambda record: record.levelno >= logging.ERROR)
    config = uvicorn.Config(
        app,
        http=Impatient,
        ws="none",
        loop="asyncio",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=max(1, round(timeout_s)),
        h11_max_incomplete_event_size=MOST_HEADER_BYTES,
    )
    uvicorn.Server(config).run([listening])
