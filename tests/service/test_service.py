"""The service of a gallery: a real process of the command, asked over HTTP, also by hostile clients."""

import contextlib
import http.client
import io
import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

import reidlab
from reidlab import cli
from reidlab.files import write_json
from reidlab.gallery import Gallery, Where
from reidlab.run import File, Run
from reidlab.stages import train

pytest.importorskip("fastapi", reason="needs the service extra")
NAME = "Zoë O'Q-17"
SECRET = "a-token-of-more-than-16-characters"
BATCHED = 1e-5  # between distances of embeddings that were computed in batches of other sizes


@pytest.fixture(scope="module")
def trained(market, small, tmp_path_factory):
    """The overrides of a run with a threshold, its test files and its query files."""
    root = tmp_path_factory.mktemp("service")
    run = train.run(Run.compose([*small, f"run.root={root}", "run.name=people", "trainer.max_epochs=1"]))
    verdict = {"threshold": 5.0, "distance": run["model.distance"], "checkpoint": run.checkpoint}
    write_json(run / File.VERIFICATION, verdict)
    files, queries = (sorted((market / part).glob("*.jpg")) for part in ("bounding_box_test", "query"))
    return [f"run.root={root}", "run.name=people"], files, queries


class Service:
    """A process of `reidlab serve --gallery`, and what clients do to it."""

    def __init__(self, folder, overrides, temporary, *options, token=None):
        self.folder, self.token, self.temporary = folder, token, temporary
        temporary.mkdir(exist_ok=True)
        self.log = (temporary.parent / f"{temporary.name}.log").open("w+")
        argv = ["serve", "--gallery", str(folder), "--http-port", "0", *options, *overrides]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "reidlab.cli", *argv], stdout=self.log, stderr=subprocess.STDOUT,
            env=os.environ | {"TMPDIR": str(temporary), "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        for _ in range(1200):
            time.sleep(0.1)
            if found := re.search(r" at http://\S+:(\d+);", self.said()):
                self.port = int(found[1])
                with contextlib.suppress(OSError):
                    self.get("/healthz")
                    return
            assert self.process.poll() is None, self.said()
        raise TimeoutError(self.said())

    def said(self):
        return Path(self.log.name).read_text()

    def get(self, path, **headers):
        return self.request("GET", path, b"", headers)

    def post(self, path, parts, **headers):
        body, kind = form(parts)
        return self.request("POST", path, body, {"Content-Type": kind} | headers)

    def request(self, method, path, body, headers):
        """Status, headers and what JSON says."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            token = {"Authorization": f"Bearer {self.token}"} if self.token else {}
            connection.request(method, path, body, token | headers)
            answer = connection.getresponse()
            text = answer.read()
            is_json = answer.headers["Content-Type"].startswith("application/json")
            return answer.status, dict(answer.headers), json.loads(text) if is_json else text.decode()
        finally:
            connection.close()

    def identify(self, files, **fields):
        status, _, answer = self.post("/identify", [*map(image, files), *fields.items()])
        assert status == 200, answer
        return answer["answers"]

    def send(self, raw, rest=b"", between=lambda: None):
        """What a raw request is answered, b"" where the connection is closed without an answer."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=30) as connection:
            connection.sendall(raw)
            between()
            connection.sendall(rest)
            answer = b""
            with contextlib.suppress(ConnectionError):
                while part := connection.recv(65536):
                    answer += part
            return answer

    def stop(self, by=signal.SIGTERM):
        self.process.send_signal(by)
        self.process.wait(60)


def form(parts):
    """A multipart body: (name, text) or (name, bytes) for a file; and its type."""
    lines = []
    for name, value in parts:
        file = '; filename="Jane Doe.jpg"\r\nContent-Type: image/jpeg' if isinstance(value, bytes) else ""
        content = value if isinstance(value, bytes) else str(value).encode()
        lines += [f'--XyZ\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'.encode() + content]
    return b"\r\n".join([*lines, b"--XyZ--\r\n"]), "multipart/form-data; boundary=XyZ"


def raw_request(parts, path="/identify", **headers):
    body, kind = form(parts)
    named = {"Host": "localhost", "Content-Type": kind, "Content-Length": len(body), "Connection": "close"} | headers
    head = "".join(f"{name}: {value}\r\n" for name, value in named.items())
    return f"POST {path} HTTP/1.1\r\n{head}\r\n".encode() + body


def image(file):
    return "image", Path(file).read_bytes()


def png_bomb(width, height):
    """A small file of a large image."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rows = zlib.compress(bytes((width + 1) * min(height, 2000)), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def cut_png(kept):
    """A photograph-like PNG of which the end is missing."""
    noise = np.random.default_rng(0).integers(0, 256, (60, 40, 3), np.uint8)
    content = io.BytesIO()
    Image.fromarray(noise).save(content, "PNG")
    return content.getvalue()[: int(kept * content.tell())]


def as_told(found):
    """An identification as the service tells it."""
    nearest = [{"pid": c.pid, "distance": c.distance, "camid": c.camid, "time": c.time} for c in found.candidates]
    verdict = "nobody" if found.pid is None else "known"
    return {"verdict": verdict, "pid": found.pid, "distance": found.distance, "nearest": nearest}


@pytest.fixture(scope="module")
def model(trained):
    return reidlab.load(Run.resume(trained[0]).folder)


def enroll_all(folder, model, files):
    gallery = Gallery.open(folder, model, template="best")
    pids, cameras = [file.name[:4] for file in files], [file.name[6] for file in files]
    gallery.enroll(files, pids, camids=cameras, times=[float(number) for number in range(len(files))])
    return gallery


@pytest.fixture(scope="module")
def service(trained, model, tmp_path_factory):
    overrides, files, _ = trained
    place = tmp_path_factory.mktemp("served")
    enroll_all(place / "gallery", model, files)
    served = Service(place / "gallery", [*overrides, "gallery.template=best", "service.timeout_s=2"], place / "tmp")
    yield served
    served.process.kill()
    served.process.wait()


@pytest.fixture
def gallery(service, model):
    return Gallery.open(service.folder, model, template="best")


def test_answers_are_those_of_python(service, gallery, trained):
    queries = trained[2]
    for file in queries:
        assert service.identify([file], k=3) == [as_told(found) for found in gallery.identify([file], 3)]
    assert service.identify(queries) == [as_told(found) for found in gallery.identify(queries)]
    where = Where(["1"], since=2.0, until=9.0)
    (answer,) = service.identify(queries[:1], camera="1", since=2, until=9.0, k=1000)
    assert answer == as_told(gallery.identify(queries[:1], 1000, where)[0]) and answer["nearest"]
    (nobody,) = service.identify(queries[:1], since=1e9)
    assert nobody == {"verdict": "nobody", "pid": None, "distance": None, "nearest": []}
    status, _, answer = service.post("/identify", [image(queries[0])])
    assert status == 200 and answer["threshold"] == 5.0 and answer["measure"] == gallery.distance
    webp = io.BytesIO()
    Image.open(queries[0]).save(webp, "webp", lossless=True)
    pixels = np.asarray(Image.open(webp))
    assert service.post("/identify", [("image", webp.getvalue())])[2]["answers"] == [
        as_told(found) for found in gallery.identify([pixels])
    ]


@pytest.mark.parametrize("path", ["/", "/page.js", "/healthz", "/metrics", "/openapi.json", "/identify", "/nowhere"])
def test_head_is_answered_as_get_is_but_for_the_content(service, path):
    status, headers, _ = service.get(path)
    asked = service.send(f"HEAD {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
    head, _, content = asked.partition(b"\r\n\r\n")
    assert int(head.split()[1]) == status and content == b"" and headers["content-type"].encode() in head


def test_boxes_of_a_frame(service, gallery, trained):
    frame = np.concatenate([cv2.imread(str(file)) for file in trained[2][:4]], axis=1)[..., ::-1]
    boxes = [[0, 0, 16, 32], [-5.5, -3, 20, 99], [31.6, 0, 48.2, 32], [48, 0, 64, 32]]
    png = io.BytesIO()
    Image.fromarray(frame).save(png, "png")
    status, _, answer = service.post("/identify", [("frame", png.getvalue()), ("boxes", json.dumps(boxes))])
    expected = gallery.identify_embeddings(gallery.model.crops(frame, boxes))
    assert status == 200 and answer["answers"] == [as_told(found) for found in expected]
    assert service.post("/identify", [("frame", png.getvalue()), ("boxes", "[]")])[2]["answers"] == []


def test_many_at_once_are_embedded_together(service, gallery, trained):
    queries = trained[2] * 3
    expected = [as_told(found) for found in gallery.identify(queries)]
    with ThreadPoolExecutor(16) as pool:
        answers = [answers[0] for answers in pool.map(lambda file: service.identify([file]), queries)]
    for answer, right in zip(answers, expected, strict=True):
        assert [near["pid"] for near in answer["nearest"]] == [near["pid"] for near in right["nearest"]]
        told, known = ([near["distance"] for near in each["nearest"]] for each in (answer, right))
        np.testing.assert_allclose(told, known, rtol=BATCHED, atol=BATCHED)


def test_enrolled_and_forgotten_without_a_trace(service, gallery, trained):
    before = {file.name: file.read_bytes() for file in service.folder.iterdir()}
    crops = [image(file) for file in trained[2][:2]]
    assert service.post("/enroll", [*crops, ("pid", NAME), ("camid", "door 9"), ("time", "77.5")])[2] == {"enrolled": 2}
    stored = gallery.table().query("pid == @NAME")
    assert stored["path"].tolist() == ["", ""] and set(stored["camid"]) == {"door 9"} and set(stored["time"]) == {77.5}
    rows = gallery.store.rows(stored.index.to_numpy())
    codes = gallery.store.parts[-1].codes[-2:].tobytes()
    assert any(NAME.encode() in file.read_bytes() for file in service.folder.iterdir())
    (answer,) = service.identify(trained[2][:1])
    assert answer["pid"] == NAME and answer["distance"] < 0.1 and len(rows.position) == 2
    assert service.post("/forget", [("pid", NAME)])[2] == {"forgotten": 2}
    for file in service.folder.iterdir():
        content = file.read_bytes()
        assert NAME.encode() not in content and b"door 9" not in content
        assert codes[: len(codes) // 2] not in content and codes[len(codes) // 2 :] not in content
    assert NAME not in str(service.identify(trained[2][:1]))
    assert service.post("/forget", [("pid", NAME)])[0] == 404
    assert len(before) == len([*service.folder.iterdir()])
    each = [*crops, ("pid", "one"), ("pid", "two")]
    assert service.post("/enroll", [*each, ("time", "0"), ("keep_days", "30")])[0] == 422  # they would be over already
    assert service.post("/enroll", [*each, ("keep_days", "0.00001")])[2] == {"enrolled": 2}
    time.sleep(1)
    assert {"one", "two"}.isdisjoint(near["pid"] for near in service.identify(trained[2][:1], k=100)[0]["nearest"])
    gallery.expire()


def test_nothing_uploaded_is_stored_or_logged(service, gallery, trained):
    large = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (1200, 1200, 3), np.uint8)).save(large, "png")
    state = sorted((file.name, file.stat().st_mtime_ns) for file in service.folder.iterdir())
    assert service.post("/identify", [("image", large.getvalue())])[0] == 200
    assert sorted((file.name, file.stat().st_mtime_ns) for file in service.folder.iterdir()) == state
    assert [*service.temporary.iterdir()] == []
    assert len(service.said().splitlines()) == 1  # where it listens
    assert not re.search("Jane|Zo|door", service.said())


ONE = ("image", b"\xff\xd8\xff\xe0 no jpeg \xff\xd9")


@pytest.mark.parametrize(
    ("status", "parts"),
    [
        (422, []),
        (422, [ONE]),
        (422, [("image", b"\xff\xd8")]),
        *[(422, [("image", cut_png(kept))]) for kept in (0.3, 0.5, 0.95)],
        (415, [("image", b"%PDF-1.7\n1 0 obj <<>>")]),
        (415, [("image", b"")]),
        (415, [("image", b"GIF89a")]),
        (415, [("image", b"RIFF0000AVI ")]),
        (422, [("image", "text, no file")]),
        (422, [("pid", "x")]),
        (422, [("mistyped", "x")]),
        (413, [("image", png_bomb(60_000, 60_000))]),
        (413, [("image", png_bomb(6_000, 6_000))]),
        (413, [("image", b"\xff\xd8")] * 65),
        (413, [("image", bytes(17 << 20))]),
        (422, [ONE, ("k", "0")]),
        (422, [ONE, ("k", "1.5")]),
        (422, [ONE, ("k", "nan")]),
        (422, [ONE, ("k", "1" * 5000)]),
        (422, [ONE, ("k", "1"), ("k", "1")]),
        (422, [ONE, ("since", "inf")]),
        (422, [ONE, ("until", "soon")]),
        (422, [ONE, ("camera", "\x1b[2J")]),
        (422, [ONE, ("camera", "x" * 201)]),
        (422, [("frame", ONE[1])]),
        (422, [("boxes", "[[0,0,1,1]]")]),
        (422, [ONE, ("boxes", "[[0,0,1,1]]")]),
        *[
            (422, [("frame", png_bomb(9, 9)), ("boxes", boxes)])
            for boxes in (
                *("", "null", "3", "{}", "[1,2,3,4]", "[[1,2,3]]", "[[0,0,NaN,1]]", "[[0,0,Infinity,1]]"),
                *("[[0,0,1e999,1]]", '[["a",0,1,1]]', "[[true,0,1,1]]", "[" * 60_000, "[[5,5,1,1]]", "[[-9,-9,-1,-1]]"),
            )
        ],
        (413, [("frame", png_bomb(9, 9)), ("boxes", json.dumps([[0, 0, 9, 9]] * 65))]),
        (413, [("frame", png_bomb(9, 9)), ("boxes", json.dumps([[0, 0, 9, 9]] * 10_000))]),
        (413, [("frame", png_bomb(9, 9)), ("boxes", "[" + "0," * 10**6 + "0]")]),
        (413, [("pid", "x")] * 1000),
    ],
)  # fmt: skip
def test_uploads_that_are_refused(service, status, parts):
    got, _, answer = service.post("/identify", parts)
    assert (got, [*answer]) == (status, ["error"]), answer
    assert "\n" not in answer["error"] and len(answer["error"]) < 300 and str(service.folder) not in answer["error"]


@pytest.mark.parametrize(
    "parts",
    [
        *([("pid", pid)] for pid in ("", " ", "x" * 201, "a\x00b", "a\nb")),
        [],
        [("pid", "a"), ("pid", "b"), ("pid", "c")],
        [("pid", "a"), ("time", "nan")],
        [("pid", "a"), ("keep_days", "-1")],
        [("pid", "a"), ("camid", "b"), ("camid", "b")],
    ],
)
def test_names_that_are_refused(service, gallery, trained, parts):
    count = len(gallery)
    status, _, answer = service.post("/enroll", [*map(image, trained[2][:2]), *parts])
    assert status == 422 and "\n" not in answer["error"]
    assert len(gallery) == count
    assert service.post("/forget", parts)[0] in (404, 422)


def test_requests_that_are_no_forms(service, trained):
    def refused(status, method, path, body=b"", **headers):
        got, _, answer = service.request(method, path, body, {k.replace("_", "-"): v for k, v in headers.items()})
        assert got == status and [*answer] == ["error"], (got, answer)

    kind = "multipart/form-data; boundary=XyZ"
    refused(404, "GET", "/other")
    refused(404, "GET", "/../../etc/passwd")
    refused(405, "GET", "/identify")
    refused(405, "DELETE", "/forget")
    refused(415, "POST", "/identify", b"{}", Content_Type="application/json")
    refused(415, "POST", "/identify", b"x")
    refused(400, "POST", "/identify", b"x", Content_Type="multipart/form-data")
    refused(400, "POST", "/identify", b"no form", Content_Type=kind)
    refused(400, "POST", "/identify", form([image(trained[2][0])])[0][:-60] + b"\r\n--XyQ", Content_Type=kind)
    refused(400, "POST", "/identify", b"--XyZ\r\nContent-Disposition: form-data\r\n\r\nx\r\n--XyZ--", Content_Type=kind)
    refused(413, "POST", "/identify", b"", Content_Type=kind, Content_Length=str(1 << 40))
    refused(400, "POST", "/identify", form([image(trained[2][0])])[0], Content_Type=f"{kind}; charset=undefined")
    for length in (b"", b"Content-Length: 10\r\n"):  # which the chunks would override
        answer = service.send(
            b"POST /identify HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n" + length
            + b"Content-Type: multipart/form-data; boundary=XyZ\r\nConnection: close\r\n\r\n5\r\n--XyZ\r\n0\r\n\r\n"
        )  # fmt: skip
        assert answer.startswith(b"HTTP/1.1 411 ")


def test_clients_that_stop_halfway(service, trained):
    """Nothing that they leave open stays, and others are answered meanwhile."""
    whole = raw_request([image(trained[2][0])])
    began = time.monotonic()
    with ThreadPoolExecutor(40) as pool:
        nothing, half_head, half_body, too_long = (
            [pool.submit(service.send, raw) for _ in range(10)]
            for raw in (b"", whole[:60], whole[:-100], whole.replace(b"Content-Length: ", b"Content-Length: 1"))
        )
        time.sleep(0.5)
        assert service.identify(trained[2][:1])
    assert {end.result() for end in (*nothing, *half_head)} == {b""}
    assert all(end.result().startswith(b"HTTP/1.1 408 ") for end in (*half_body, *too_long))
    assert time.monotonic() - began < 60
    short = re.sub(rb"Content-Length: \d+", b"Content-Length: 100", whole)
    assert service.send(short).startswith(b"HTTP/1.1 400 ")
    for nonsense in (b"\0" * 1000, b"GET / HTTP/1.1\r\n" + b"X: " + b"y" * 100_000, b"\x16\x03\x01\x02\x00" * 50):
        assert service.send(nonsense).startswith(b"HTTP/1.1 4") or not service.send(nonsense)
    for _ in range(30):  # ends the connection at once
        with socket.create_connection(("127.0.0.1", service.port)) as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.sendall(whole[:-100])
    assert service.identify(trained[2][:1])
    assert accepted(service) == 0
    assert "Traceback" not in service.said() and "fault" not in service.said()


def accepted(service):
    figures = service.get("/metrics")[2]
    return float(re.search(r"^reidlab_accepted_requests (\S+)", figures, re.MULTILINE)[1])


def test_foreign_names_and_sites_are_refused(service):
    own = f"127.0.0.1:{service.port}"
    for host in (own, f"localhost:{service.port}", "localhost", "[::1]:80"):
        assert service.get("/", Host=host)[0] == 200
        assert service.get("/", Host=host, Origin=f"http://{host}")[0] == 200
    for host in ("evil.example", f"localhost.evil.example:{service.port}", "", "192.168.0.7", "127.0.0.1@evil"):
        assert service.get("/", Host=host)[0] == 403, host
    for origin in ("http://evil.example", "null", "", f"http://{own}.evil.example", f"http://{own[:-1]}"):
        assert service.post("/forget", [("pid", "0001")], Host=own, Origin=origin)[0] == 403, origin


def test_what_prometheus_and_clients_read(service, trained):
    from prometheus_client.parser import text_string_to_metric_families

    service.identify(trained[2][:1])
    service.get("/no/such/Jane")
    figures = {family.name: family for family in text_string_to_metric_families(service.get("/metrics")[2])}
    answered = {tuple(s.labels.values()): s.value for s in figures["reidlab_requests"].samples if "total" in s.name}
    assert answered["/identify", "200"] >= 1 and answered["other", "404"] >= 1
    assert figures["process_resident_memory_bytes"].samples[0].value > 1e7
    assert {*service.get("/openapi.json")[2]["paths"]} == {"/identify", "/enroll", "/forget", "/healthz", "/metrics"}
    _, headers, page = service.get("/")
    assert "default-src 'none'" in headers["content-security-policy"] and headers["cache-control"] == "no-store"
    assert not re.search(r"https?://|style=|onclick|<script>", page)


def test_enrolling_while_others_ask(service, gallery, trained):
    """Each answer is the one before or the one after a change, whose two images count both or neither."""
    (query,), crops = trained[2][3:4], [image(file) for file in trained[2][3:5]]
    old = service.identify([query], k=2)[0]
    service.post("/enroll", [*crops, ("pid", "new")])
    new = service.identify([query], k=2)[0]
    service.post("/forget", [("pid", "new")])
    over, seen = threading.Event(), []

    def ask():
        while not over.is_set():
            seen.append(service.identify([query], k=2)[0])

    askers = [threading.Thread(target=ask) for _ in range(3)]
    [asker.start() for asker in askers]
    for _ in range(10):
        assert service.post("/enroll", [*crops, ("pid", "new")])[2] == {"enrolled": 2}
        assert service.post("/forget", [("pid", "new")])[2] == {"forgotten": 2}
    over.set()
    [asker.join() for asker in askers]
    assert new["pid"] == "new" and old["pid"] != "new" and len(seen) > 10
    for answer in seen:
        like = new if answer["pid"] == "new" else old
        assert [near["pid"] for near in answer["nearest"]] == [near["pid"] for near in like["nearest"]]
        assert np.isclose(answer["distance"], like["distance"], rtol=BATCHED, atol=BATCHED)


@pytest.mark.slow
def test_a_full_queue(trained, model, tmp_path):
    """While one request that is accepted hasn't arrived, the next one is refused; then there is room again."""
    overrides, files, queries = trained
    enroll_all(tmp_path / "gallery", model, files)
    full = Service(tmp_path / "gallery", [*overrides, "service.max_waiting=1"], tmp_path / "tmp")
    whole, answers = raw_request([image(queries[0])]), []

    def meanwhile():
        while accepted(full) == 0:
            time.sleep(0.05)
        answers.append(full.post("/identify", [image(queries[0])]))

    try:
        assert full.send(whole[:-100], whole[-100:], meanwhile).startswith(b"HTTP/1.1 200 ")
        ((status, headers, answer),) = answers
        assert status == 429 and headers["retry-after"] == "1" and [*answer] == ["error"]
        assert full.identify(queries[:1])
        with ThreadPoolExecutor(8) as pool:
            ends = [*pool.map(lambda _: full.post("/identify", [image(queries[0])])[0], range(60))]
        assert {*ends} <= {200, 429} and 200 in ends
    finally:
        full.stop()


def test_a_gallery_that_is_gone_answers_nothing(service, gallery, trained):
    away = service.folder.with_name("away")
    service.folder.rename(away)
    try:
        assert service.post("/identify", [image(trained[2][0])])[0] == 503
        assert service.get("/healthz")[::2] == (503, {"ready": False})
    finally:
        away.rename(service.folder)
    assert service.get("/healthz")[::2] == (200, {"ready": True})
    assert service.identify(trained[2][:1])[0]["nearest"]


@pytest.mark.slow
def test_the_end_and_a_second_start(trained, model, tmp_path):
    """SIGTERM answers what was accepted, closes the port, and the next start finds what was enrolled."""
    overrides, files, queries = trained
    enroll_all(tmp_path / "gallery", model, files)
    first = Service(tmp_path / "gallery", overrides, tmp_path / "tmp")
    raw = raw_request([image(queries[0]), ("pid", "late")], "/enroll")

    def stop():
        while accepted(first) == 0:
            time.sleep(0.05)
        first.process.send_signal(signal.SIGTERM)
        for _ in range(200):
            time.sleep(0.05)
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", first.port), 1):
                continue
            return

    answer = first.send(raw[:-100], raw[-100:], stop)
    assert answer.startswith(b"HTTP/1.1 200 ") and answer.endswith(b'{"enrolled":1}')
    assert first.process.wait(60) == -signal.SIGTERM
    second = Service(tmp_path / "gallery", overrides, tmp_path / "tmp", "--http-port", str(first.port))
    try:
        assert second.port == first.port and second.identify(queries[:1])[0]["pid"] == "late"
        argv = ["serve", "--gallery", str(tmp_path / "gallery"), "--http-port", str(first.port), *overrides]
        assert cli.main(argv) == 2
    finally:
        second.stop()


@pytest.mark.slow
def test_killed_while_it_enrolls(trained, model, tmp_path):
    overrides, files, queries = trained
    gallery = enroll_all(tmp_path / "gallery", model, files)
    whole = len(gallery)
    for _ in range(2):
        served = Service(tmp_path / "gallery", overrides, tmp_path / "tmp")
        answered = []

        def enroll(served=served, answered=answered):
            with contextlib.suppress(OSError, http.client.HTTPException):
                while True:
                    served.post("/enroll", [*map(image, queries[:2]), ("pid", "new")])
                    answered.append(2)

        thread = threading.Thread(target=enroll)
        thread.start()
        while not answered:
            time.sleep(0.01)
        served.stop(signal.SIGKILL)
        thread.join()
        count = len(Gallery.open(tmp_path / "gallery"))
        assert count - whole in (sum(answered), sum(answered) + 2)
        whole = count


@pytest.mark.slow
def test_beyond_this_machine(trained, model, tmp_path, capsys):
    overrides, files, queries = trained
    enroll_all(tmp_path / "gallery", model, files)
    argv = ["serve", "--gallery", str(tmp_path / "gallery"), "--host", "0.0.0.0", "--http-port", "0", *overrides]
    for wrong, says in (
        (argv, "--token-file"),
        ([*argv, "--token-file", str(tmp_path / "none")], "not readable"),
        ([*argv, "--token-file", str(short := tmp_path / "short")], "16 or more"),
        (["serve", "--gallery", str(tmp_path / "g"), "--host", "no.such.invalid", *overrides], "can't be used"),
        (["serve", "--gallery", str(tmp_path / "g"), "--http-port", "99999", *overrides], "from 0 to 65535"),
    ):
        short.write_text("short") if says.startswith("16") else None
        assert cli.main(wrong) == 2
        assert says in capsys.readouterr().err
    (tmp_path / "token").write_text(f"{SECRET}\n")
    options = ["--host", "0.0.0.0", "--token-file", str(tmp_path / "token")]
    far = Service(tmp_path / "gallery", overrides, tmp_path / "tmp", *options, token=SECRET)
    try:
        assert far.identify(queries[:1])
        for host in ("192.168.0.7:80", "[2001:db8::1]:8000", socket.gethostname(), "localhost"):
            assert far.get("/metrics", Host=host)[0] == 200, host
        for host in ("evil.example", "192.168.0.7.evil.example", "1", ""):
            assert far.get("/metrics", Host=host)[0] == 403, host
        for given in (None, "wrong" * 5, SECRET[:-1], SECRET + "x", "\xff" * 20):
            far.token = given
            assert far.post("/forget", [("pid", "0001")])[0] == 401
            assert far.get("/metrics")[0] == 401 and far.get("/openapi.json")[0] == 401
            assert far.get("/healthz")[0] == 200 and far.get("/")[0] == 200
        assert SECRET not in far.said()
    finally:
        far.stop()


def test_what_it_needs(trained, tmp_path, capsys, monkeypatch):
    argv = ["serve", "--gallery", str(tmp_path / "gallery"), *trained[0]]
    (Run.resume(trained[0]) / File.VERIFICATION).rename(tmp_path / "verification.json")
    try:
        assert cli.main(argv) == 2 and "reidlab evaluate" in capsys.readouterr().err
    finally:
        (tmp_path / "verification.json").rename(Run.resume(trained[0]) / File.VERIFICATION)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert cli.main(argv) == 2 and "pip install 'reidlab[service]'" in capsys.readouterr().err
