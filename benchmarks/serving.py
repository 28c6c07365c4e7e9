"""What a run's servers do at ten times their capacity: Triton, or the service of a gallery.

    python benchmarks/serving.py runs/NAME [--times 10] [--seconds 120] [--clients 16]
    python benchmarks/serving.py runs/NAME --gallery [--times 10] [--seconds 120] [--clients 32]

Triton is also given malformed requests, and killed; the tests do that to the service.

The clients run on the same machine and share its cores. Capacity is what `--clients` get that each wait for an answer;
then requests come at `--times` that rate, whether answered or not. Every answer is compared with the file's own.
"""

import argparse
import asyncio
import contextlib
import functools
import http.client
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType

import cv2
import grpc
import numpy as np
import onnxruntime
import pandas as pd
from tritonclient.grpc import service_pb2

from reidlab.config import resolve_path
from reidlab.console import print_table
from reidlab.deploy.server import SERVED, serving
from reidlab.errors import InputError
from reidlab.export.model import Model
from reidlab.files import write_atomic, write_json
from reidlab.gallery import Gallery
from reidlab.run import File, Run, provenance

HTTP_PORT, GRPC_PORT = 8800, 8801
IDENTITIES, IMAGES = 1000, 10  # of each, in the served gallery
THRESHOLD = 0.2
CONNECTIONS = 256  # that overload the service
MOST_WAITING = 2000  # requests that the clients have under way at once
JSON = '{{"inputs":[{{"name":"{}","shape":{},"datatype":"{}","data":{}}}]}}'


class Asker:
    """A client over gRPC with serialized requests, which costs the machine little; it counts how they end."""

    def __init__(self, file: Path, count: int = 64):
        session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
        (given,), (made,) = session.get_inputs(), session.get_outputs()
        images = np.random.default_rng(0).random((count, *given.shape[1:]), np.float32)
        self.expected = session.run([made.name], {given.name: images})[0]
        self.name = given.name
        self.requests = [_request(given.name, image[None]).SerializeToString() for image in images]
        channel = grpc.insecure_channel(f"127.0.0.1:{GRPC_PORT}")
        self.call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        self.ends: Counter[str] = Counter()
        self.latencies_ms: list[float] = []

    def ask(self, number: int) -> None:
        """One request, and its end."""
        began = time.perf_counter()
        self._end(self.call.future(self.requests[number], timeout=60), number, began)

    def pour(self, rate: float, seconds: float) -> int:
        """Requests at a rate, answered or not; how many they were."""
        free, began, sent = threading.Semaphore(MOST_WAITING), time.perf_counter(), 0
        while (now := time.perf_counter() - began) < seconds:
            while sent < now * rate:
                free.acquire()
                number, start = sent % len(self.requests), time.perf_counter()
                future = self.call.future(self.requests[number], timeout=60)
                future.add_done_callback(lambda f, n=number, t=start: (self._end(f, n, t), free.release()))
                sent += 1
            time.sleep(0.001)
        for _ in range(MOST_WAITING):
            free.acquire()
        return sent

    def _end(self, future: grpc.Future, number: int, began: float) -> None:
        try:
            answer = service_pb2.ModelInferResponse.FromString(future.result())
        except grpc.RpcError as error:
            full = "maximum queue size" in error.details().lower()
            self.ends["refused, queue full" if full else f"failed: {error.code().name}"] += 1
            return
        self.latencies_ms.append(1000 * (time.perf_counter() - began))
        embedding, expected = np.frombuffer(answer.raw_output_contents[0], np.float32), self.expected[number]
        right = np.linalg.norm(embedding - expected) <= 1e-3 * np.linalg.norm(expected)
        self.ends["right" if right else "wrong"] += 1


def main(argv: list[str] | None = None) -> int:
    """Measure, print the table and write it into the run folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="a run folder; for Triton, with deploy=nvidia")
    parser.add_argument("--gallery", action="store_true", help="the service of a gallery, in place of Triton")
    parser.add_argument("--times", type=float, default=10, help="the overload, in parts of the capacity")
    parser.add_argument("--seconds", type=float, default=120, help="that it lasts")
    parser.add_argument("--clients", type=int, help="that measure the capacity; default: 16, of a gallery 32")
    args = parser.parse_args(argv)
    try:
        run = Run(args.run)
        load = args.times, args.seconds, args.clients or (32 if args.gallery else 16)
        rows = [*(measure_gallery(run, *load) if args.gallery else measure(run / File.TRITON, *load))]
    except InputError as error:
        print(f"serving: {error}", file=sys.stderr)
        return 2
    name = "gallery" if args.gallery else "serving"
    table = pd.DataFrame(rows, columns=["what", "figure"]).set_index("what")
    print_table(table, f"{run.name}: {name} under {args.times:g} times its capacity")
    place = (resolve_path("runs") / run.name if run.is_released else run.folder) / "benchmarks"
    write_json(place / f"{name}.json", provenance())
    print(write_atomic(place / f"{name}.csv", table.to_csv()))
    return 0


def measure(repository: Path, times: float, seconds: float, clients: int) -> Iterator[tuple[str, str]]:
    """Rows of what was found; a server is started, overloaded, given nonsense, killed and started again."""
    asker = Asker(repository / SERVED / "1" / "model.onnx")
    with serving(repository, HTTP_PORT, GRPC_PORT) as server:
        capacity = _capacity(asker, clients)
        yield "capacity, requests/s", f"{capacity:.0f}"
        yield "latency at capacity, median and 99 %, ms", _quantiles(asker.latencies_ms)
        asker.ends.clear(), asker.latencies_ms.clear()
        memory: list[np.ndarray] = []
        over = threading.Event()
        watch = threading.Thread(target=_watch, args=(server.pid, memory, over))
        watch.start()
        began = time.perf_counter()
        sent = asker.pour(times * capacity, seconds)
        lasted = time.perf_counter() - began
        over.set()
        watch.join()
        yield "overload, requests/s", f"{sent / lasted:.0f} for {lasted:.0f} s"
        for end, count in sorted(asker.ends.items()):
            yield f"overload: {end}", f"{count} ({count / lasted:.0f}/s)"
        yield "latency of answers under overload, median and 99 %, ms", _quantiles(asker.latencies_ms)
        parts = [memory[int(part * (len(memory) - 1))] for part in (0.1, 0.25, 0.5, 0.75, 1)]
        for what, column in zip(("memory", "shared memory"), np.transpose(parts), strict=True):
            yield f"{what} at 10, 25, 50, 75, 100 % of it, MiB", ", ".join(f"{mib:.0f}" for mib in column)
        for protocol, ends in (("HTTP", _nonsense_http(asker)), ("gRPC", _nonsense_grpc(asker))):
            yield f"malformed over {protocol}", ", ".join(f"{count} {end}" for end, count in sorted(ends.items()))
        yield "memory, shared memory after them, MiB", ", ".join(f"{mib:.0f}" for mib in _memory_mib(server.pid))
        asker.ends.clear()
        asker.ask(0)
        yield "the next request", next(iter(asker.ends))
        _post(JSON.format(asker.name, f"[{2**40},3,4,4]", "FP32", "[0.5]"))
        yield "a shape of 2**40 images over HTTP", f"the server ended with {server.wait(60)}"
    began = time.perf_counter()
    asker = Asker(repository / SERVED / "1" / "model.onnx")
    with serving(repository, HTTP_PORT, GRPC_PORT):
        asker.ask(0)
        yield "started again after a kill", f"{next(iter(asker.ends))} after {time.perf_counter() - began:.1f} s"


def _capacity(asker: Asker, clients: int, seconds: float = 10) -> float:
    """Requests a second that clients get answered, each waiting for its answer before it asks again."""

    def client(number: int) -> int:
        end, count = time.perf_counter() + seconds, 0
        while time.perf_counter() < end:
            asker.ask((number + count) % len(asker.requests))
            count += 1
        return count

    with ThreadPoolExecutor(clients) as pool:
        return sum(pool.map(client, range(clients))) / seconds


def _nonsense_grpc(asker: Asker) -> Counter[str]:
    """Requests that are cut, and ones with other shapes, types and sizes than the model's; how they ended."""
    whole = service_pb2.ModelInferRequest.FromString(asker.requests[0])
    bodies = [asker.requests[0][:cut] for cut in np.linspace(0, len(asker.requests[0]) - 1, 40).astype(int)]
    for change in (
        lambda r: r.inputs[0].shape.append(7),
        lambda r: r.inputs[0].shape.__setitem__(0, 2**40),
        lambda r: r.inputs[0].shape.__setitem__(0, -1),
        lambda r: r.inputs[0].shape.__setitem__(0, 65),
        lambda r: setattr(r.inputs[0], "datatype", "BYTES"),
        lambda r: setattr(r.inputs[0], "datatype", "X" * 10**6),
        lambda r: setattr(r.inputs[0], "name", "other"),
        lambda r: setattr(r, "model_name", "../../etc"),
        lambda r: setattr(r, "model_version", "9" * 40),
        lambda r: r.inputs.append(r.inputs[0]),
        lambda r: r.raw_input_contents.__setitem__(0, r.raw_input_contents[0][:-1]),
        lambda r: r.raw_input_contents.__setitem__(0, b"\xff" * len(r.raw_input_contents[0])),
        lambda r: r.raw_input_contents.__setitem__(0, bytes(10**8)),
        lambda r: r.raw_input_contents.append(b""),
    ):
        request = service_pb2.ModelInferRequest()
        request.CopyFrom(whole)
        change(request)
        bodies.append(request.SerializeToString())
    ends: Counter[str] = Counter()
    for body in bodies:
        try:
            asker.call(body, timeout=60)
            ends["answered"] += 1
        except grpc.RpcError as error:
            ends["without an end" if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED else "refused"] += 1
    return ends


def _nonsense_http(asker: Asker) -> Counter[str]:
    """The same over HTTP, with bodies that are no JSON, and ones shorter than they say."""
    entry = functools.partial(JSON.format, asker.name)
    whole = entry("[1,3,4,4]", "FP32", str([0.5] * 48))
    bodies = [whole[:cut] for cut in np.linspace(0, len(whole) - 1, 40).astype(int)]
    bodies += [
        entry(shape, "FP32", "[0.5]") for shape in ("[]", "[1]", "[-1,3,4,4]", "[0,3,4,4]", '["a"]', "null", "{}")
    ]
    bodies += [entry("[1]", kind, "[0.5]") for kind in ("", "FP99", "BYTES", "X" * 10**6)]
    bodies += ["[" * 10**5, '{"inputs":' * 10**5, "\0\xff" * 1000, "0" * 10**8, '{"inputs":[]}', "null"]
    lengths = [{"Inference-Header-Content-Length": size} for size in ("-1", "9" * 30, "x", "7")]
    lengths += [{"Content-Length": size} for size in ("1000", str(2**40))]
    return Counter([*map(_post, bodies), *(_post(whole, length) for length in lengths)])


def _post(body: str, headers: Mapping[str, str] = MappingProxyType({})) -> str:
    """How a request over HTTP ended."""
    connection = http.client.HTTPConnection("127.0.0.1", HTTP_PORT, timeout=5)
    try:
        connection.request("POST", f"/v2/models/{SERVED}/infer", body.encode("latin-1"), dict(headers))
        return "answered" if connection.getresponse().status == 200 else "refused"
    except TimeoutError:
        return "waited for the rest, then closed"
    except (OSError, http.client.HTTPException):
        return "cut off"
    finally:
        connection.close()


class Visitor:
    """Clients of a gallery's service, who count how their requests end.

    Args:
        gallery: that is served, to compare the answers with.
        port: of the service.
    """

    def __init__(self, gallery: Gallery, port: int, count: int = 64):
        draw = np.random.default_rng(0)
        self.port, self.requests, pixels = port, [], []
        for _ in range(count):
            coarse = draw.integers(0, 256, (8, 4, 3), np.uint8)
            file = cv2.imencode(".jpg", cv2.resize(coarse, (64, 128)))[1].tobytes()
            pixels.append(cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_COLOR_RGB))
            body = (
                b'--X\r\nContent-Disposition: form-data; name="image"; filename="x"\r\n\r\n' + file + b"\r\n--X--\r\n"
            )
            head = f"POST /identify HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
            self.requests.append(f"{head}Content-Type: multipart/form-data; boundary=X\r\n\r\n".encode() + body)
        self.expected = gallery.identify(pixels, threshold=THRESHOLD)
        self.ends: Counter[str] = Counter()
        self.latencies_ms: list[float] = []

    async def ask_in_turn(self, clients: int, seconds: float) -> float:
        """Clients that each wait for an answer before they ask again; answers a second."""
        self.ends.clear(), self.latencies_ms.clear()
        end = time.perf_counter() + seconds

        async def client(number: int) -> None:
            async with self._connection() as ask:
                while time.perf_counter() < end:
                    await ask(number % len(self.requests))
                    number += 1

        await asyncio.gather(*map(client, range(clients)))
        return len(self.latencies_ms) / seconds

    async def pour(self, rate: float, seconds: float) -> int:
        """Requests at a rate, each on the first connection that is free; how many they were."""
        self.ends.clear(), self.latencies_ms.clear()
        began, sent = time.perf_counter(), 0

        async def client() -> None:
            nonlocal sent
            async with self._connection() as ask:
                while (due := sent / rate) < seconds and time.perf_counter() - began < seconds:
                    sent += 1
                    await asyncio.sleep(max(0, began + due - time.perf_counter()))
                    await ask(sent % len(self.requests))

        await asyncio.gather(*(client() for _ in range(CONNECTIONS)))
        return sent

    @contextlib.asynccontextmanager
    async def _connection(self):
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)

        async def ask(number: int) -> None:
            began = time.perf_counter()
            try:
                writer.write(self.requests[number])
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                body = await reader.readexactly(int(head.partition(b"content-length: ")[2].split()[0]))
            except (OSError, asyncio.IncompleteReadError) as error:
                self.ends[f"failed: {type(error).__name__}"] += 1
                return
            status = head.split()[1].decode()
            if status == "200":
                self.latencies_ms.append(1000 * (time.perf_counter() - began))
            self.ends[self._end(number, json.loads(body)) if status == "200" else status] += 1

        yield ask
        writer.close()

    def _end(self, number: int, told: Mapping) -> str:
        (answer,), known = told["answers"], self.expected[number]
        pairs = [(near["pid"], near["distance"]) for near in answer["nearest"]]
        distances = [found.distance for found in known.candidates]
        right = [pid for pid, _ in pairs] == [found.pid for found in known.candidates] and answer["pid"] == known.pid
        return "right" if right and np.allclose([d for _, d in pairs], distances, atol=1e-5) else "wrong"


def measure_gallery(run: Run, times: float, seconds: float, clients: int) -> Iterator[tuple[str, str]]:
    """Rows of what was found; a gallery is filled, served by the command, asked and overloaded."""
    with tempfile.TemporaryDirectory() as place:
        gallery = Gallery.open(place, Model.of(run))
        draw, (one,) = np.random.default_rng(0), gallery.model([np.zeros((*gallery.model.size, 3), np.uint8)])
        centers = draw.standard_normal((IDENTITIES, 1, len(one)))
        people = (centers + 0.3 * draw.standard_normal((IDENTITIES, IMAGES, len(one)))).reshape(-1, len(one))
        gallery.enroll_embeddings(people, np.repeat(np.arange(IDENTITIES), IMAGES))
        argv = ["serve", "--gallery", place, "--http-port", str(HTTP_PORT), f"gallery.threshold={THRESHOLD}"]
        argv += [f"run.root={run.folder.parent}", f"run.name={run.name}"]
        server = subprocess.Popen([sys.executable, "-m", "reidlab.cli", *argv], stdout=subprocess.DEVNULL)
        try:
            yield from _visit(Visitor(gallery, HTTP_PORT), server, times, seconds, clients)
        finally:
            began = time.perf_counter()
            server.terminate()
            server.wait(60)
        yield "ended by SIGTERM", f"after {time.perf_counter() - began:.1f} s"


def _visit(
    visitor: Visitor, server: subprocess.Popen, times: float, seconds: float, clients: int
) -> Iterator[tuple[str, str]]:
    while server.poll() is None:
        with contextlib.suppress(OSError):
            asyncio.run(visitor.ask_in_turn(1, 2))
            break
        time.sleep(0.2)
    capacity = 0.0
    for count in (1, clients):
        capacity = asyncio.run(visitor.ask_in_turn(count, 20))
        yield (
            f"{count} clients, answers/s",
            f"{capacity:.0f} ({', '.join(f'{n} {end}' for end, n in visitor.ends.items())})",
        )
        yield f"{count} clients, latency, median and 99 %, ms", _quantiles(visitor.latencies_ms)
    memory: list[np.ndarray] = []
    over = threading.Event()
    watch = threading.Thread(target=_watch, args=(server.pid, memory, over))
    watch.start()
    began = time.perf_counter()
    sent = asyncio.run(visitor.pour(times * capacity, seconds))
    lasted = time.perf_counter() - began
    over.set()
    watch.join()
    yield "overload, requests/s", f"{sent / lasted:.0f} of {times * capacity:.0f} wanted, for {lasted:.0f} s"
    for end, count in sorted(visitor.ends.items()):
        yield f"overload: {end}", f"{count} ({count / lasted:.0f}/s)"
    yield "latency of answers under overload, median and 99 %, ms", _quantiles(visitor.latencies_ms)
    parts = [memory[int(part * (len(memory) - 1))][0] for part in (0, 0.1, 0.25, 0.5, 0.75, 1)]
    yield "memory at 0, 10, 25, 50, 75, 100 % of it, MiB", ", ".join(f"{mib:.0f}" for mib in parts)


def _request(name: str, images: np.ndarray) -> service_pb2.ModelInferRequest:
    given = service_pb2.ModelInferRequest.InferInputTensor(name=name, datatype="FP32", shape=images.shape)
    return service_pb2.ModelInferRequest(model_name=SERVED, inputs=[given], raw_input_contents=[images.tobytes()])


def _watch(pid: int, memory: list[np.ndarray], over: threading.Event) -> None:
    while not over.wait(1):
        memory.append(_memory_mib(pid))


def _memory_mib(pid: int) -> np.ndarray:
    """Memory of a process and of those below it: their own, and what they share with each other."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    kib = {line.split()[0]: int(line.split()[1]) for line in lines[1:]}
    threads = Path(f"/proc/{pid}/task").glob("*/children")
    below = [_memory_mib(int(child)) for thread in threads for child in thread.read_text().split()]
    return sum(below, np.array([kib["Pss:"] - kib["Pss_Shmem:"], kib["Pss_Shmem:"]]) / 1024)


def _quantiles(latencies_ms: list[float]) -> str:
    return ", ".join(f"{np.quantile(latencies_ms, q):.0f}" for q in (0.5, 0.99)) if latencies_ms else "none"


if __name__ == "__main__":
    sys.exit(main())
