"""The parts of the service, without a process: room, jobs that wait together, faults."""

import asyncio
import threading

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="needs the service extra")

from starlette.datastructures import Headers

from reidlab.errors import InputError
from reidlab.gallery import EVERYWHERE, Gallery
from reidlab.service.desk import BATCH, Desk, Job
from reidlab.service.guard import Guard
from reidlab.service.limits import MIB, Limits, Room
from reidlab.service.metrics import Metrics
from reidlab.service.uploads import Upload


def test_room():
    room = Room(Limits(max_request_mib=2, max_waiting=2, max_waiting_mib=3))
    for length, status in (("", 411), ("-1", 411), ("1.5", 411), ("0x10", 411), ("9" * 21, 413), ("0" * 5000, 413)):
        assert room.refusal(length)[0] == status, length
    assert room.refusal(str(2 * MIB)) is None and room.refusal(str(2 * MIB + 1))[0] == 413
    with room.taken(2 * MIB):
        assert room.refusal(str(MIB)) is None and room.refusal(str(MIB + 1))[0] == 429
        with pytest.raises(ValueError), room.taken(1):
            assert room.refusal("0")[0] == 429
            raise ValueError
        assert room.refusal("0") is None
    assert (room.requests, room.size) == (0, 0)
    tight = Room(Limits(max_request_mib=2, max_waiting_mib=1))
    assert tight.refusal(str(2 * MIB)) is None  # one is always accepted


class Slow:
    """A model whose embeddings are means of images; it waits for `go`, and remembers how many it was given."""

    name, checkpoint, size, distance, verdict = "slow", "a" * 16, (1, 1), "euclidean", {}

    def __init__(self):
        self.go, self.given = threading.Event(), []

    def __call__(self, images):
        assert self.go.wait(60)
        self.given.append(len(images))
        return np.stack([image.mean((0, 1)) for image in images]).astype(np.float32)


def picture(value):
    return np.full((1, 1, 3), value, np.uint8)


def test_what_waits_is_answered_together_and_in_order(tmp_path):
    model = Slow()
    gallery = Gallery.open(tmp_path / "gallery", model)
    gallery.enroll_embeddings(np.array([[1, 1, 1], [9, 9, 9]]), ["one", "nine"])
    observed = []
    desk = Desk(gallery, model, 0.5, observed.append)

    def ask(value, k=1, count=1):
        return desk.ask(Job(lambda: [picture(value)] * count, count, question=(k, EVERYWHERE)))

    def broken():
        raise InputError("image 1: broken")

    first = ask(1)
    early = [ask(9), desk.ask(Job(broken, 1, question=(1, EVERYWHERE))), ask(5, k=2), ask(1, count=3)]
    change = desk.ask(
        Job(lambda: [picture(5)], 1, change=lambda gallery, found: gallery.enroll_embeddings(found, ["five"]))
    )
    late, given_up = [ask(5), ask(5, count=BATCH), ask(1)], ask(3)
    assert given_up.cancel()
    model.go.set()
    desk.close()
    assert [found.pid for found in first.result()] == ["one"]
    assert [found.pid for found in early[0].result()] == ["nine"]
    with pytest.raises(InputError, match="image 1"):
        early[1].result()
    (answer,) = early[2].result()
    assert answer.pid is None and [found.pid for found in answer.candidates] == ["one", "nine"]
    assert [found.pid for found in early[3].result()] == ["one"] * 3
    assert change.result() == 1
    assert [[found.pid for found in job.result()] for job in late] == [["five"], ["five"] * BATCH, ["one"]]
    assert model.given == observed and sum(observed) == 1 + 5 + 1 + 1 + BATCH + 1
    assert max(observed) == BATCH and observed[-3:] == [1, BATCH, 1]


@pytest.mark.parametrize(
    ("name", "far", "answered", "refused"),
    [
        ("vm", False, ["vm", "VM:8000", "127.0.1.1:8000", "[::1]", "localhost"], ["10.0.0.1", "evil", "", "vm.evil"]),
        ("", False, ["127.0.0.1"], ["", ":80", "vm"]),
        ("vm", True, ["vm", "10.0.0.1:80", "[2001:db8::1]:80"], ["evil.example", ""]),
    ],
)
def test_names_of_this_machine(name, far, answered, refused):
    guard = Guard(None, None, name, far, Room(Limits()), Metrics())
    assert {host: guard._refusal(Headers({"host": host}), "/", "GET") is None for host in [*answered, *refused]} == (
        dict.fromkeys(answered, True) | dict.fromkeys(refused, False)
    )


def test_names_that_look_alike_are_one():
    upload = Upload((), None, {"pid": ["Jose\u0301 ", "Jos\u00e9"]}, 0)
    assert upload.text("pid") == ["Jos\u00e9"] * 2


def test_a_fault_is_told_without_its_words(monkeypatch):
    from reidlab.service import guard

    async def faulty(scope, receive, send):
        raise RuntimeError("Jane Doe")

    said, sent = [], []
    monkeypatch.setattr(guard.log, "error", said.append)
    room = Room(Limits())
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/enroll",
        "headers": [(b"host", b"localhost"), (b"content-length", b"5")],
    }

    async def send(message):
        sent.append(message)

    asyncio.run(Guard(faulty, None, "", False, room, Metrics())(scope, None, send))
    assert sent[0]["status"] == 500 and b"Jane" not in sent[1]["body"]
    assert len(said) == 1 and "RuntimeError" in said[0] and "Jane" not in said[0] and room.requests == 0
