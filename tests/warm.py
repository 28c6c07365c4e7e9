"""Processes that begin with the packages of others imported, and nothing of reidlab: they are forked from one that has.

    python warm.py SOCKET               what is forked; it ends with the process that started it
    python -S warm.py SOCKET WORDS...   as `python WORDS...`, where these are `-c CODE` or `-m MODULE`, and what follows

The second has the folder, environment, streams and exit status of the process that it stands for; killed, it takes that
one with it.
"""

import contextlib
import json
import os
import signal
import socket
import sys
from pathlib import Path

PACKAGES = (
    "cv2", "hydra", "ipykernel.kernelapp", "ipywidgets", "jinja2", "matplotlib.backends.backend_agg",
    "PIL.Image", "pytorch_lightning", "safetensors.torch", "scipy.optimize", "torchmetrics",
)  # fmt: skip


def ask(place, words):
    """Have the words run, and end as they do."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(place)
        given = json.dumps([words, str(Path.cwd()), dict(os.environ)]).encode()
        socket.send_fds(connection, [len(given).to_bytes(8, "big")], [0, 1, 2])
        connection.sendall(given)
        status = int(connection.makefile().read() or 1)
    if status < 0:
        os.kill(os.getpid(), -status)
    return status


def serve(place):
    """Wait to be asked; only the processes that are forked return, with the words that they are to run."""
    import importlib

    for name in PACKAGES:
        importlib.import_module(name)
    if (threads := Path("/proc/self/task")).is_dir():
        assert len(list(threads.iterdir())) == 1, "a package began a thread, which forked processes lack: they hang"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(place)
        server.listen()
        server.settimeout(1)
        parent = os.getppid()
        while os.getppid() == parent:
            with contextlib.suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG) != (0, 0):
                    pass
            with contextlib.suppress(TimeoutError), server.accept()[0] as connection:
                if not os.fork():
                    server.close()
                    return answer(connection)
    os._exit(0)


def answer(connection):
    """Fork once more: one returns, the other waits for it and tells how it ended."""
    import select

    connection.setblocking(True)
    size, streams, *_ = socket.recv_fds(connection, 8, 3)
    with connection.makefile("rb") as file:
        words, folder, environment = json.loads(file.read(int.from_bytes(size, "big")))
    alive, held = os.pipe()
    if child := os.fork():
        os.close(held)
        asked = connection in select.select([alive, connection], [], [])[0]  # closed at the other end
        if asked:
            os.kill(child, signal.SIGKILL)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if not asked:
            connection.sendall(str(status).encode())
        os._exit(0)
    connection.close()
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    return words


def begin(words):
    """Be the process of `python WORDS...`."""
    import runpy
    import types

    kind, what, *more = words
    sys.path[0] = ""
    sys.argv[:] = [kind, *more]
    if kind == "-m":
        return runpy.run_module(what, run_name="__main__", alter_sys=True)
    sys.modules["__main__"] = main = types.ModuleType("__main__")
    exec(compile(what, "<string>", "exec"), main.__dict__)


if __name__ == "__main__":
    if sys.argv[2:]:
        sys.exit(ask(sys.argv[1], sys.argv[2:]))
    begin(serve(sys.argv[1]))
