"""The cost of running an exported file, measured in a process of its own, where nothing else takes time or memory."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from reidlab.errors import InputError
from reidlab.export.backends import RUNTIMES
from reidlab.export.runtime import open_model

RUNS, WARM_UP, SECONDS = 20, 3, 0.3  # at least so many calls, for at least so long
KIB, MIB = 1024, 1024**2
LIBRARIES = dict(zip(RUNTIMES, ("ai_edge_litert.interpreter", "onnxruntime", "openvino"), strict=True))


def cost(file: Path, runtime: str, threads: int) -> dict[str, float]:
    """Size, latency of one image with 1 thread and with `threads`, and peak memory with 1 thread."""
    settings = [(1, 1)] if threads == 1 else [(1, 1), (threads, 1)]
    found = measure(file, runtime, settings)
    return {
        "size_kib": file.stat().st_size / KIB,
        "memory_mib": found["memory_mib"],
        **{f"ms_{n}_thread{'s' if n > 1 else ''}": ms for (n, _), ms in zip(settings, found["ms"], strict=True)},
    }


def measure(file: Path, runtime: str, settings: Sequence[tuple[int, int]] = ((1, 1),)) -> dict:
    """Median milliseconds of a prepared batch for each (threads, batch), and peak MiB of the first.

    The memory doesn't include the process with the runtime's library.
    """
    command = [sys.executable, "-m", "reidlab.export.cost", str(file), runtime, json.dumps([*settings])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise InputError(
            f"{file}: {runtime} fails on it ({(done.stderr.strip().splitlines() or ['no reason given'])[-1]})"
        )
    return json.loads(done.stdout.splitlines()[-1])


def latency_ms(embed: Callable, images: np.ndarray) -> float:
    """Median time of a call on a batch, after some calls to warm up."""
    times: list[float] = []
    end = time.perf_counter() + SECONDS
    while len(times) < WARM_UP + RUNS or time.perf_counter() < end:
        start = time.perf_counter()
        embed(images)
        times.append(time.perf_counter() - start)
    return float(np.median(times[WARM_UP:]) * 1e3)


def _measure_here(file: str, runtime: str, settings: Sequence[tuple[int, int]]) -> dict:
    __import__(LIBRARIES[runtime])
    before, times, memory = _reset_peak(), [], float("nan")
    random = np.random.default_rng(0)
    for threads, batch in settings:
        embedder = open_model(file, runtime=runtime, threads=threads)
        height, width = (n if n > 0 else default for n, default in zip(embedder.size, (256, 128), strict=True))
        images = random.integers(0, 256, (batch, height, width, 3), np.uint8)
        times.append(latency_ms(embedder.embed, embedder.prepare(images)))
        if before and len(times) == 1:
            memory = (_memory("VmHWM") - before) / MIB
        del embedder  # with its threads
    return {"ms": times, "memory_mib": memory}


def _reset_peak() -> int | None:
    """Bytes resident now, from which the peak is counted on; None where the system doesn't tell."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
        return _memory("VmRSS")
    except OSError:
        return None


def _memory(entry: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * KIB for line in lines if line.startswith(entry))


if __name__ == "__main__":
    file, runtime, settings = sys.argv[1:]
    print(json.dumps(_measure_here(file, runtime, json.loads(settings))))
