"""Command `dashboard`: a live page over run folders, for the browser of this machine alone."""

import importlib.util
import os
import socket
import sys
from pathlib import Path

from reidlab.console import log
from reidlab.dashboard.folders import run_folders
from reidlab.errors import InputError

APP = Path(__file__).with_name("app.py")
PAGE = Path(__file__).with_name("page.py")
HOST = "127.0.0.1"


def run(root: Path, port: int = 8501) -> None:
    """Serve the page over the runs in `root` until Ctrl-C; it reads and never writes.

    Raises InputError where Streamlit isn't installed, where there are no runs, or where the port is taken.
    """
    if importlib.util.find_spec("streamlit") is None:
        raise InputError("the dashboard needs Streamlit: pip install 'reidlab[dashboard]'")
    if not run_folders(root):
        raise InputError(f"{root}: no runs yet; `reidlab run experiment=demo` makes one")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except (OSError, OverflowError) as error:
            raise InputError(f"--port {port}: can't be used ({error}); choose another, e.g. --port 8502") from error
    log.info(f"dashboard: http://{HOST}:{port}  (Ctrl-C ends it)")
    os.execve(sys.executable, command(root, port), os.environ | {"PYTHONWARNINGS": "ignore"})


def command(root: Path, port: int) -> list[str]:
    """The command that starts Streamlit: on this machine alone, without usage statistics or file watching."""
    options = {
        "server.address": HOST,
        "server.port": port,
        "server.headless": "true",
        "server.fileWatcherType": "none",
        "browser.gatherUsageStats": "false",
        "client.toolbarMode": "minimal",
        "client.showErrorDetails": "none",
        "logger.level": "error",
        "runner.postScriptGC": "false",  # a search of all that is imported for garbage, at each click and refresh
    }
    flags = [f"--{name}={value}" for name, value in options.items()]
    return [sys.executable, "-m", "streamlit", "run", str(APP), *flags, "--", str(root)]
