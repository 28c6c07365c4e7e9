"""Galleries on a vector database: Milvus by its URL, as milvus-lite serves it, Qdrant over HTTP and in a folder."""

import itertools
import json
import math
import sys
import threading
import time
from concurrent import futures
from http.server import BaseHTTPRequestHandler, HTTPServer, ThreadingHTTPServer
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from made_up import fake_model, people

from reidlab.errors import InputError
from reidlab.gallery import Gallery, Where, server
from reidlab.metrics import top_k

NUMBER = itertools.count()
ODD = [
    'quo"te',
    "o'clock",
    'x" or 1 == 1 or pid == "',
    "back\\slash",
    "100%_",
    "日本 😀",
    "{p}",
    "a" * 3000,
]


@pytest.fixture(scope="module")
def milvus_port(tmp_path_factory):
    pytest.importorskip("pymilvus", reason="pip install 'reidlab[milvus]'")
    served = pytest.importorskip("milvus_lite.adapter.grpc.server", reason="pip install 'reidlab[milvus]'")
    running, db, port = served.start_server_in_thread(str(tmp_path_factory.mktemp("milvus") / "all.db"), port=0)
    impatient = SimpleNamespace(time=time.time, sleep=lambda seconds: time.sleep(seconds / 100))
    with pytest.MonkeyPatch.context() as patched:  # it sleeps half a second before it asks for an index that is there
        patched.setattr("pymilvus.client.grpc_handler.time", impatient)
        yield port
    running.stop(grace=0)
    db.close()


@pytest.fixture(scope="module")
def qdrant_port():
    """Qdrant's interface over HTTP, answered by its client's own engine."""
    qdrant = pytest.importorskip("qdrant_client", reason="pip install 'reidlab[qdrant]'")
    models, engine, one = qdrant.models, qdrant.QdrantClient(":memory:"), threading.Lock()

    def answer(method, path, body):
        _, _, name, *rest = path.split("/")
        done = {"status": "completed", "operation_id": 1}
        if (method, rest) == ("GET", ["exists"]):
            return {"exists": engine.collection_exists(name)}
        if (method, rest) == ("GET", []):
            return json.loads(engine.get_collection(name).model_dump_json())
        if (method, rest) == ("PUT", []):
            return engine.create_collection(name, models.VectorParams(**body["vectors"]))
        if (method, rest) == ("PUT", ["index"]):
            assert models.CreateFieldIndex(**body).field_schema in ("keyword", "float")
            return done
        asked = {"filter": models.Filter(**body["filter"])} if body.get("filter") else {}
        if (method, rest) == ("PUT", ["points"]):
            engine.upsert(name, models.PointsBatch(**body).batch)
            return done
        if rest == ["points", "delete"]:
            engine.delete(name, models.FilterSelector(**asked))
            return done
        if rest == ["points", "count"]:
            return {"count": engine.count(name, count_filter=asked.get("filter"), exact=body["exact"]).count}
        if rest == ["points", "scroll"]:
            options = {key: body.get(key) for key in ("limit", "offset", "with_payload")}
            page, after = engine.scroll(name, asked.get("filter"), with_vectors=body["with_vector"], **options)
            return {"points": [json.loads(each.model_dump_json()) for each in page], "next_page_offset": after}
        assert rest == ["points", "query", "batch"]
        requests = [models.QueryRequest(**each) for each in body["searches"]]
        return [json.loads(each.model_dump_json()) for each in engine.query_batch_points(name, requests)]

    class Interface(BaseHTTPRequestHandler):
        def do_GET(self):
            body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or "{}")
            with one:
                found = answer(self.command, self.path.partition("?")[0], body)
            content = json.dumps({"result": found, "status": "ok", "time": 0}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_PUT = do_POST = do_GET

        def log_message(self, *_):
            pass

    running = ThreadingHTTPServer(("127.0.0.1", 0), Interface)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield running.server_port
    running.shutdown()


@pytest.fixture(params=["milvus", "qdrant", "qdrant+file"])
def url(request, tmp_path_factory):
    """The URL of a gallery that nobody has used."""
    name = f"people_{next(NUMBER)}"
    if request.param != "qdrant+file":
        return f"{request.param}://127.0.0.1:{request.getfixturevalue(request.param + '_port')}/{name}"
    pytest.importorskip("qdrant_client", reason="pip install 'reidlab[qdrant]'")
    return f"qdrant+file://{tmp_path_factory.mktemp('qdrant')}/{name}"


@pytest.fixture
def model():
    return fake_model()


def test_a_path_under_another_identity_is_told(url, model, capsys):
    gallery = Gallery.open(url, model)
    for _ in range(2):
        gallery.enroll_embeddings(np.eye(3), "abb", paths=["1.jpg", "2.jpg", "3.jpg"])
    assert capsys.readouterr().out == ""
    gallery.enroll_embeddings(np.eye(3)[[0, 1, 2, 0]], "bbab", paths=["1.jpg", "2.jpg", "3.jpg", ""])
    assert "2 images of other identities were replaced" in capsys.readouterr().out


def test_names_that_look_alike_are_one(url, model):
    gallery, (composed, apart) = Gallery.open(url, model), ("Jos\u00e9", "Jose\u0301")
    gallery.enroll_embeddings(np.eye(3), [composed, apart, "ann "], camids=[apart, composed, "x"])
    assert gallery.pids == [composed, "ann"]
    assert gallery.identify_embeddings(np.eye(3)[:1], where=Where([apart]), threshold=9)[0].pid == composed
    assert gallery.forget(apart) == 2 and gallery.forget(" ann") == 1


def test_names_that_an_older_gallery_spells_otherwise_can_be_forgotten(url, model, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("reidlab.gallery.gallery.label_of", lambda name: name)
        Gallery.open(url, model).enroll_embeddings(np.eye(3), ["Jose\u0301", "Jos\u00e9", "ann "])
    gallery = Gallery.open(url, model)
    assert gallery.forget("Jos\u00e9") == 2 and gallery.forget("ann ") == 1


def exact(queries, embeddings, k, distance):
    nobody = [torch.zeros(len(part), dtype=torch.int64) for part in (queries, embeddings)]
    pair = torch.from_numpy(queries), torch.from_numpy(embeddings)
    return top_k(*pair, *nobody, k=k, distance=distance, exclude_same_camera=False)


class Life(RuleBasedStateMachine):
    """A gallery on a server through any order of changes, beside a plain list of rows that is searched by `top_k`."""

    base: str

    @initialize(distance=st.sampled_from(["cosine", "euclidean"]), dim=st.integers(2, 9))
    def begin(self, distance, dim):
        self.url = f"{self.base}_{next(NUMBER)}"
        self.model, self.distance, self.dim, self.rows = fake_model(distance=distance), distance, dim, []
        self.gallery = Gallery.open(self.url, self.model, template="best")

    @rule(pids=st.lists(st.sampled_from("abcd"), max_size=12), seed=st.integers(0, 30), named=st.booleans())
    def enroll(self, pids, seed, named):
        draw = np.random.default_rng(seed)  # seeds recur, and with them whole embeddings: ties
        values = draw.integers(-3, 4, (len(pids), self.dim)).astype(np.float32)
        values[~values.any(1)] = 1
        paths = [f"{pid}{draw.integers(3)}" if named else "" for pid in pids]
        self.gallery.enroll_embeddings(values, pids, paths=paths)
        added = [*zip(paths, pids, map(tuple, values), strict=True)]
        added = [row for i, row in enumerate(added) if not row[0] or row[0] not in paths[i + 1 :]]
        self.rows = [row for row in self.rows if not row[0] or row[0] not in paths] + added

    @precondition(lambda self: self.rows)
    @rule(data=st.data())
    def forget(self, data):
        pid = data.draw(st.sampled_from([row[1] for row in self.rows]))
        assert self.gallery.forget(pid) == sum(row[1] == pid for row in self.rows)
        self.rows = [row for row in self.rows if row[1] != pid]

    @rule()
    def reload(self):
        self.gallery = Gallery.open(self.url, self.model, template="best")

    @rule()
    def change_from_elsewhere(self):
        Gallery.open(self.url, self.model).enroll_embeddings(np.ones((1, self.dim)), ["e"])
        self.rows.append(("", "e", (1.0,) * self.dim))

    @invariant()
    def equals_brute_force(self):
        if not hasattr(self, "gallery"):
            return
        table = self.gallery.table()
        assert len(self.gallery) == len(self.rows)
        assert sorted(zip(table["path"], table["pid"], strict=True)) == sorted(row[:2] for row in self.rows)
        assert self.gallery.pids == sorted({row[1] for row in self.rows})
        queries = np.random.default_rng(0).standard_normal((3, self.dim)).astype(np.float32)
        queries[2] = 1
        found = self.gallery.nearest(queries, 5)
        if not self.rows:
            assert (found.position == -1).all() and not self.gallery.identify_embeddings(queries)[0].candidates
            return
        expected = exact(queries, np.array([row[2] for row in self.rows], np.float32), 5, self.distance)
        n = expected.index.shape[1]
        np.testing.assert_allclose(found.distance[:, :n], expected.distance, atol=3e-7)
        assert (found.position[:, n:] == -1).all() and all(len({*line[:n]}) == n for line in found.position)
        stored = exact(queries, self.gallery.embeddings(), 5, self.distance)  # in the order of the table
        np.testing.assert_allclose(found.distance[:, :n], stored.distance, atol=1e-12)
        for query, answer in zip(queries, self.gallery.identify_embeddings(queries, 9), strict=True):
            order = exact(
                query[None], np.array([row[2] for row in self.rows], np.float32), len(self.rows), self.distance
            )
            nearest = {}
            for distance, row in zip(order.distance[0].tolist(), order.index[0].tolist(), strict=True):
                nearest.setdefault(self.rows[row][1], distance)
            assert {each.pid: pytest.approx(each.distance, abs=3e-7) for each in answer.candidates} == nearest
            assert [each.distance for each in answer.candidates] == sorted(each.distance for each in answer.candidates)


def test_any_order_of_changes_leaves_what_brute_force_finds(url):
    Life.base = url
    examples = 6 if url.startswith("qdrant:") else 15  # over HTTP each takes 0.8 s, with the engine that a folder has
    Life.TestCase.settings = settings(max_examples=examples, stateful_step_count=10, deadline=None)
    Life.TestCase().runTest()


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
@pytest.mark.parametrize("template", ["best", "mean", "medoid"])
def test_answers_are_those_of_a_folder(template, distance, url, tmp_path):
    values, pids = people(15, 6, spread=0.8)
    queries = people(15, 1, seed=5)[0]
    about = {"camids": [i % 3 for i in range(90)], "times": range(90), "paths": [f"{i}.jpg" for i in range(90)]}
    model = fake_model(distance=distance)
    ours, theirs = (Gallery.open(place, model, template=template) for place in (tmp_path, url))
    for gallery in (ours, theirs):
        gallery.enroll_embeddings(values, pids, **about)
    for where in (Where(), Where(["1", 2], 12, 48), Where(["9"]), Where([]), Where(since=100)):
        for mine, answer in zip(*(each.identify_embeddings(queries, 4, where) for each in (ours, theirs)), strict=True):
            assert [(e.pid, e.path, e.camid) for e in answer.candidates] == [
                (e.pid, e.path, e.camid) for e in mine.candidates
            ]
            np.testing.assert_allclose(
                [e.distance for e in answer.candidates], [e.distance for e in mine.candidates], atol=2e-3
            )  # a folder rounds to float16
    assert theirs.recall(queries) == {"recall@1": 1, "recall@10": 1}


def test_one_with_many_images_hides_nobody(url, model):
    gallery = Gallery.open(url, model, template="best")
    gallery.enroll_embeddings(np.eye(3)[[0] * 300 + [1, 2]], ["crowd"] * 300 + ["b", "c"])
    assert {each.pid for each in gallery.identify_embeddings(np.eye(3)[:1], 3)[0].candidates} == {"crowd", "b", "c"}


def test_names_with_any_characters(url, model):
    gallery = Gallery.open(url, model, template="best")
    values = np.random.default_rng(0).standard_normal((len(ODD), 16))
    gallery.enroll_embeddings(values, ODD, camids=ODD[::-1], paths=[f"{name}.jpg" for name in ODD])
    assert gallery.pids == sorted(ODD)
    for number, name in enumerate(ODD):
        (answer,) = gallery.identify_embeddings(values[number][None], 5, Where([ODD[::-1][number]]))
        assert [(e.pid, e.camid, e.path) for e in answer.candidates] == [(name, ODD[::-1][number], f"{name}.jpg")]
    for left, name in reversed([*enumerate(ODD)]):
        assert gallery.forget(name) == 1 and len(gallery) == left


def test_unknown_and_empty_cameras_differ(url, model):
    gallery = Gallery.open(url, model)
    gallery.enroll_embeddings(np.eye(3), "abc", camids=[None, "", "x"])
    table = gallery.table().set_index("pid")["camid"]
    assert pd.isna(table["a"]) and table["b"] == "" and table["c"] == "x"
    (answer,) = gallery.identify_embeddings(np.eye(3)[:1], where=Where([""]))
    assert [each.pid for each in answer.candidates] == ["b"]


def test_what_is_forgotten_is_in_no_answer_of_the_server(url, model):
    gallery, other = Gallery.open(url, model, template="best"), Gallery.open(url, model)
    values, pids = people(6, 3)
    gallery.enroll_embeddings(values, pids, paths=[f"{i}.jpg" for i in range(18)], camids=["c"] * 18)
    assert gallery.forget("p2") == 3
    for reader in (gallery, other, Gallery.open(url)):
        assert len(reader) == 15 and "p2" not in reader.pids and "p2" not in {*reader.table()["pid"]}
        assert not {"6.jpg", "7.jpg", "8.jpg"} & {*reader.table()["path"]}
        gone = values[6:9] / np.linalg.norm(values[6:9], axis=1, keepdims=True)
        assert (reader.embeddings() @ gone.T < 1 - 1e-6).all()
        for template in ("best", "mean", "medoid"):
            reader.template = template
            (answer,) = reader.identify_embeddings(values[6:7], 30, threshold=2)
            assert "p2" not in [each.pid for each in answer.candidates] and len(answer.candidates) == 5
    with pytest.raises(InputError, match="p2: nobody of that name"):
        gallery.forget("p2")


def test_several_clients_at_once_lose_nothing(url):
    def enroll(name):
        gallery = Gallery.open(url, fake_model())
        for number in range(6):
            gallery.enroll_embeddings(np.eye(4)[number % 4][None], [f"{name}{number}"], paths=[f"{number}.jpg"])
            gallery.enroll_embeddings(np.eye(4)[number % 4][None], [f"{name}{number}"])
        return len(gallery.pids)

    clients = ["x"] if url.startswith("qdrant+file") else ["x", "y", "z"]  # whose own engine is for one thread
    with futures.ThreadPoolExecutor(len(clients)) as pool:
        assert min(pool.map(enroll, clients)) >= 6
    gallery = Gallery.open(url, fake_model())
    assert gallery.pids == sorted(f"{name}{number}" for name in clients for number in range(6))
    assert len(gallery) == 6 + 6 * len(clients)


def test_one_that_another_client_has_begun_meanwhile(url, model):
    first, second = Gallery.open(url, model), Gallery.open(url, model)
    second.server.refresh = lambda: None  # sees no collection
    first.enroll_embeddings(np.eye(2), "ab")
    del second.server.refresh
    assert second.server.dim is None
    with pytest.raises(InputError):
        second.server.create(2)
    second.enroll_embeddings(np.eye(2), "cd")
    assert first.pids == [*"abcd"]


def test_a_server_that_keeps_what_it_should_forget_is_named(url, model, monkeypatch):
    gallery = Gallery.open(url, model)
    gallery.enroll_embeddings(np.eye(2), "ab")
    monkeypatch.setattr(gallery.server, "delete", lambda chosen: None)
    with pytest.raises(InputError, match="1 images of a are still there"):
        gallery.forget("a")


def test_expired_images_count_no_more_and_leave_with_the_next_change(url, model, monkeypatch):
    gallery, now = Gallery.open(url, model), time.time()
    gallery.enroll_embeddings(np.eye(2)[:1], ["short"], times=[now], keep_s=1000)
    gallery.enroll_embeddings(np.eye(2)[1:], ["new"], times=[now], keep_s=3000)
    monkeypatch.setattr(server, "time", SimpleNamespace(time=lambda: now + 2000))
    (answer,) = gallery.identify_embeddings(np.eye(2)[:1])
    assert [found.pid for found in answer.candidates] == ["new"] and len(gallery) == 2
    assert gallery.expire() == 1 and gallery.expire() == 0 and gallery.pids == ["new"]
    gallery.enroll_embeddings(np.eye(2)[:1], ["ever"])
    assert set(gallery.table()["expires"] == math.inf) == {True, False}


def test_an_image_enrolled_again_takes_its_place(url, model):
    gallery = Gallery.open(url, model)
    gallery.enroll_embeddings(np.eye(2), ["a", "b"], paths=["x.jpg", "y.jpg"])
    gallery.enroll_embeddings(np.eye(2)[::-1], ["c", "a"], paths=["y.jpg", "y.jpg"])
    assert sorted(gallery.table()[["path", "pid"]].to_numpy().tolist()) == [["x.jpg", "a"], ["y.jpg", "a"]]


def test_nothing_asked_and_nothing_enrolled(url, model):
    gallery = Gallery.open(url, model)
    assert len(gallery) == 0 and gallery.pids == [] and gallery.table().empty and gallery.expire() == 0
    assert gallery.identify_embeddings(np.eye(2))[0].pid is None
    assert gallery.enroll_embeddings(np.zeros((0, 4)), []) == 0
    gallery.enroll_embeddings(np.eye(4), "abcd")
    assert gallery.identify_embeddings(np.zeros((0, 4))) == [] and gallery.nearest(np.zeros((0, 4))).position.size == 0
    for pid in "abcd":
        gallery.forget(pid)
    assert len(gallery) == 0 and gallery.identify_embeddings(np.eye(4))[0].candidates == ()
    with pytest.raises(InputError, match="holds embeddings of 4 numbers, not 5"):
        gallery.enroll_embeddings(np.eye(5), "abcde")


def test_what_does_not_fit_is_refused(url, model):
    gallery = Gallery.open(url, model)
    gallery.enroll_embeddings(np.eye(4), "abcd")
    with pytest.raises(InputError, match=f"enrolled with checkpoint {'a' * 16}, not {'b' * 16}; enroll again"):
        Gallery.open(url, fake_model("b" * 16))
    with pytest.raises(InputError, match="enrolled with distance cosine, not euclidean"):
        Gallery.open(url, fake_model(distance="euclidean"))
    with pytest.raises(InputError, match="embeddings of 5 numbers: the gallery holds those of 4"):
        gallery.enroll_embeddings(np.eye(5), "abcde")
    with pytest.raises(InputError, match=r"embeddings \(1, 5\): expected \(Q, 4\)"):
        gallery.identify_embeddings(np.ones((1, 5)))
    with pytest.raises(InputError, match="longer than 65,535 bytes"):
        gallery.enroll_embeddings(np.eye(4), ["é" * 40_000, *"bcd"])
    with pytest.raises(InputError, match="indexes by its own settings"):
        gallery.build_index("hnsw")
    with pytest.raises(InputError, match="leave it out"):
        Gallery.open(url, model, precision="int8")
    assert gallery.pids == [*"abcd"]


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("redis://host/name", "a gallery on a server is qdrant://HOST:6333/NAME or milvus://HOST:19530/NAME"),
        ("qdrant://host:6333", "a gallery on a server is"),
        ("qdrant+ftp://host/name", "a gallery on a server is"),
        ("milvus://user:secret@host:19530/name", "leave user and token out of the URL"),
        ("milvus://host:19530/a-b", "'a-b' is no name of a collection"),
        ("qdrant://host:6333/", "'' is no name of a collection"),
    ],
)
def test_a_url_that_names_no_gallery(place, message, model):
    with pytest.raises(InputError, match=message) as raised:
        Gallery.open(place, model)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("kind", ["milvus", "qdrant"])
def test_without_its_client_it_says_what_to_install(kind, model, monkeypatch):
    monkeypatch.setitem(sys.modules, f"reidlab.gallery.{kind}", None)
    with pytest.raises(InputError, match=rf"pip install 'reidlab\[{kind}\]'"):
        Gallery.open(f"{kind}://127.0.0.1:9/people", model)


@pytest.mark.parametrize("kind", ["milvus", "qdrant"])
def test_a_server_that_is_not_there(kind, model, monkeypatch):
    module = pytest.importorskip(f"reidlab.gallery.{kind}", reason=f"pip install 'reidlab[{kind}]'")
    monkeypatch.setattr(module, "TIMEOUT_S", 2)
    with pytest.raises(InputError, match=f"{kind}://127.0.0.1:9/people: the server .* doesn't answer") as raised:
        Gallery.open(f"{kind}://127.0.0.1:9/people", model)
    assert "\n" not in str(raised.value)


def test_a_token_that_qdrant_refuses_and_one_that_it_gets(model, monkeypatch):
    pytest.importorskip("qdrant_client", reason="pip install 'reidlab[qdrant]'")
    keys = []

    class Guarded(BaseHTTPRequestHandler):
        def do_GET(self):
            keys.append(self.headers.get("api-key"))
            fits = keys[-1] == "right"
            answer = {"result": {"exists": False}, "status": "ok", "time": 0} if fits else {}
            self.send_response(200 if fits else 401)
            self.end_headers()
            self.wfile.write(json.dumps(answer).encode() if fits else b"Invalid API key or JWT")

        def log_message(self, *_):
            pass

    running = HTTPServer(("127.0.0.1", 0), Guarded)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    place = f"qdrant://127.0.0.1:{running.server_port}/people"
    try:
        monkeypatch.setenv("REIDLAB_GALLERY_TOKEN", "wrong-secret")
        with pytest.raises(InputError, match=r"401.*Invalid API key.*REIDLAB_GALLERY_TOKEN") as raised:
            Gallery.open(place, model)
        assert "wrong-secret" not in str(raised.value)
        monkeypatch.setenv("REIDLAB_GALLERY_TOKEN", "right")
        assert len(Gallery.open(place, model)) == 0
    finally:
        running.shutdown()
    assert {*keys} == {"wrong-secret", "right"}


def test_a_token_that_milvus_refuses(model, monkeypatch):
    module = pytest.importorskip("reidlab.gallery.milvus", reason="pip install 'reidlab[milvus]'")
    grpc = pytest.importorskip("grpc")

    class Refuses(grpc.ServerInterceptor):
        def intercept_service(self, continuation, details):
            def refuse(_, context):
                context.abort(grpc.StatusCode.UNAUTHENTICATED, "auth check failure, please check api key is correct")

            return grpc.unary_unary_rpc_method_handler(refuse)

    monkeypatch.setattr(module, "TIMEOUT_S", 2)
    running = grpc.server(futures.ThreadPoolExecutor(1), interceptors=[Refuses()])
    port = running.add_insecure_port("127.0.0.1:0")
    running.start()
    try:
        monkeypatch.setenv("REIDLAB_GALLERY_TOKEN", "wrong-secret")
        with pytest.raises(InputError, match=r"server.*REIDLAB_GALLERY_TOKEN") as raised:
            Gallery.open(f"milvus://127.0.0.1:{port}/people", model)
        assert "wrong-secret" not in str(raised.value) and "\n" not in str(raised.value)
    finally:
        running.stop(0)


def test_a_collection_of_something_else(milvus_port, model, tmp_path):
    from pymilvus import MilvusClient

    MilvusClient(f"http://127.0.0.1:{milvus_port}").create_collection("others", dimension=4)
    with pytest.raises(InputError, match="others is no gallery: it has no about"):
        Gallery.open(f"milvus://127.0.0.1:{milvus_port}/others", model)


def test_a_collection_of_something_else_in_qdrant(tmp_path, model):
    qdrant = pytest.importorskip("qdrant_client", reason="pip install 'reidlab[qdrant]'")
    from reidlab.gallery.qdrant import _local

    client = _local(str(tmp_path))
    for name, distance in (("dots", "Dot"), ("rows", "Euclid")):
        client.create_collection(name, vectors_config=qdrant.models.VectorParams(size=2, distance=distance))
        client.upsert(name, [qdrant.models.PointStruct(id=1, vector=[1, 2], payload={"about": "x"})])
    with pytest.raises(InputError, match="dots is no gallery"):
        Gallery.open(f"qdrant+file://{tmp_path}/dots", model)
    with pytest.raises(InputError, match="not a gallery of reidlab"):
        Gallery.open(f"qdrant+file://{tmp_path}/rows", model)
