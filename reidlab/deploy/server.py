"""A real Triton server on this machine, without a container: the one inside the `nvidia-pytriton` wheel.

It runs in an environment of its own, since it needs an older numpy. It has the Python back end only.
"""

import contextlib
import os
import shutil
import subprocess
import sys
import sysconfig
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from reidlab.config import root
from reidlab.console import log
from reidlab.errors import InputError

ENVIRONMENT = root() / ".cache" / "triton"
PACKAGES = Path(__file__).parent / "triton" / "requirements.lock"  # made by `make lock`
SERVED = "reid_python"
INSTALL = "reidlab serve --install"


def serve(repository: Path, http_port: int = 8000, grpc_port: int = 8001) -> None:
    """Serve the Python model of a Triton repository, such as that of `deploy=nvidia`, until interrupted.

    A server that crashes, as Triton does of some malformed requests, is started again.
    """
    ended = -1
    while ended:
        with serving(repository, http_port, grpc_port) as server:
            log.info(f"{SERVED} at http://127.0.0.1:{http_port} and grpc://127.0.0.1:{grpc_port}; Ctrl-C stops it")
            ended = server.wait()
        log.warning(f"tritonserver ended with {ended}" + ("; starting it again" if ended else ""))


def install(environment: Path = ENVIRONMENT) -> None:
    """Create the virtual environment that the server needs, of the packages whose hashes are known."""
    pip = [str(environment / "bin" / "python"), "-m", "pip", "install", "--quiet"]
    for command in (
        [sys.executable, "-m", "venv", str(environment)],
        [*pip, "--require-hashes", "--only-binary=:all:", "-r", str(PACKAGES)],
    ):
        try:
            subprocess.run(command, check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise InputError(f"{environment}: {error}; the server isn't installed") from error


@contextlib.contextmanager
def serving(
    repository: Path,
    http_port: int = 8000,
    grpc_port: int = 8001,
    environment: Path = ENVIRONMENT,
    timeout_s: float = 120,
) -> Iterator[subprocess.Popen]:
    """Run a server of the repository's Python model while the block lasts; it is ready when the block begins.

    Raises InputError, with the last error in the server's log, where it ends or isn't ready in time.

    Args:
        repository: with the model `reid_python`.
        http_port: of this machine.
        grpc_port: likewise.
        environment: see `install`.
        timeout_s: until it is ready.
    """
    if not (repository / SERVED / "config.pbtxt").is_file():
        raise InputError(f"{repository}: no Triton repository; run `reidlab deploy deploy=nvidia` first")
    packages = environment / "lib" / f"python{sysconfig.get_python_version()}" / "site-packages"
    triton = packages / "pytriton" / "tritonserver"
    if not (triton / "bin" / "tritonserver").is_file():
        raise InputError(f"{environment}: no Triton server; run `{INSTALL}` (about 400 MB)")
    with TemporaryDirectory(prefix="reidlab-triton-") as place:
        backend = Path(place) / "backends" / "python"
        backend.mkdir(parents=True)
        stub = triton / "python_backend_stubs" / sysconfig.get_python_version() / "triton_python_backend_stub"
        for file in (*(triton / "backends" / "python").glob("*.*"), stub):
            (backend / file.name).symlink_to(file)
        libraries = [sysconfig.get_config_var("LIBDIR"), os.environ.get("LD_LIBRARY_PATH", "")]
        command = [
            *(("setpriv", "--pdeathsig", "TERM") if shutil.which("setpriv") else ()),  # it ends with this process
            str(triton / "bin" / "tritonserver"), f"--model-repository={repository}",
            f"--backend-directory={backend.parent}", "--model-control-mode=explicit", f"--load-model={SERVED}",
            "--http-address=127.0.0.1", f"--http-port={http_port}",
            "--grpc-address=127.0.0.1", f"--grpc-port={grpc_port}", "--allow-metrics=false",
        ]  # fmt: skip
        variables = os.environ | {
            "LD_LIBRARY_PATH": os.pathsep.join(filter(None, libraries)),
            "PATH": f"{environment / 'bin'}{os.pathsep}{os.environ.get('PATH', '')}",
            "PYTHONPATH": str(packages),
        }
        lines = Path(place) / "log"
        with lines.open("wb") as words:
            server = subprocess.Popen(command, env=variables, stdout=words, stderr=subprocess.STDOUT)
        try:
            _wait_ready(server, f"http://127.0.0.1:{http_port}/v2/models/{SERVED}/ready", timeout_s, lines)
            yield server
        finally:
            server.terminate()
            try:
                server.wait(40)
            except subprocess.TimeoutExpired:
                server.kill()


def _wait_ready(server: subprocess.Popen, url: str, timeout_s: float, lines: Path) -> None:
    end = time.monotonic() + timeout_s
    while server.poll() is None and time.monotonic() < end:
        with contextlib.suppress(urllib.error.URLError, OSError), urllib.request.urlopen(url, timeout=2):
            return
        time.sleep(0.2)
    words = [line for line in lines.read_text(errors="replace").splitlines() if "error:" in line.lower()]
    state = "isn't ready in time" if server.poll() is None else f"ended with {server.returncode}"
    raise InputError(f"tritonserver {state}: {' '.join(words[-1:])[:300]}")
