"""Galleries over HTTP: a service that identifies, enrolls and forgets, with limits, and a page to try it."""

import importlib.util
import ipaddress
import socket
from pathlib import Path

from reidlab.console import log
from reidlab.errors import InputError
from reidlab.gallery import Gallery
from reidlab.service.limits import Limits

__all__ = ["Limits", "read_token", "serve"]
NEEDED = ("fastapi", "uvicorn", "python_multipart", "prometheus_client")
LAST_PORT = 65_535
SHORTEST_TOKEN = 16


def serve(
    gallery: Gallery,
    limits: Limits | None = None,
    *,
    threshold: float | None = None,
    k: int = 5,
    host: str = "127.0.0.1",
    port: int = 8000,
    token: str | None = None,
) -> None:
    """Serve a gallery until Ctrl-C or SIGTERM, which answer what was accepted before they end it.

    Raises InputError where a package is missing, the port is taken, the gallery has no model or no threshold, or where
    other machines could reach it without a token.

    Args:
        gallery: with a model.
        limits: on size, number and time of requests.
        threshold: up to which an image shows an identity; the calibrated one if left out.
        k: nearest identities to list, where a request doesn't say.
        host: name or address to listen at.
        port: of it; 0 for any that is free.
        token: that requests must carry; None for this machine alone.
    """
    if missing := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
        raise InputError(f"the service needs {', '.join(missing)}: pip install 'reidlab[service]'")
    if gallery.model is None:
        raise InputError(f"{gallery.place}: opened without a model; use Gallery.open(folder, reidlab.load(RUN))")
    threshold = gallery.threshold if threshold is None else threshold
    limits = limits or Limits()
    with _listen(host, port) as listening:
        address, port = listening.getsockname()[:2]
        alone = ipaddress.ip_address(address).is_loopback
        if not alone and token is None:
            raise InputError(f"--host {host}: other machines reach it; give --token-file FILE, or listen at 127.0.0.1")
        from reidlab.service.app import create_app
        from reidlab.service.connections import answer

        app = create_app(gallery, gallery.model, threshold, k, limits, token, host, not alone)
        log.info(f"{gallery!r} at http://{f'[{address}]' if ':' in address else address}:{port}; Ctrl-C stops it")
        answer(app, listening, limits.timeout_s)


def read_token(file: Path) -> str:
    """The token in a file, without the white space around it; InputError where it is short or can't be a header."""
    try:
        token = file.read_text("ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--token-file {file}: not readable as text ({type(error).__name__})") from error
    if len(token) < SHORTEST_TOKEN or not token.isprintable() or " " in token:
        raise InputError(
            f"--token-file {file}: give {SHORTEST_TOKEN} or more letters and digits, "
            "e.g. python -c 'import secrets; print(secrets.token_urlsafe())'"
        )
    return token


def _listen(host: str, port: int) -> socket.socket:
    if not 0 <= port <= LAST_PORT:
        raise InputError(f"port {port}: give one from 0 to {LAST_PORT}, e.g. --http-port 8010")
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        *kind, _, address = found[0]
        listening = socket.socket(*kind)  # with TCP named: asyncio sends small answers at once for such alone
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
    except (OSError, OverflowError, UnicodeError) as error:
        raise InputError(
            f"http://{host}:{port} can't be used ({error}); choose another, e.g. --http-port 8010"
        ) from error
    return listening
