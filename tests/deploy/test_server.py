"""The Triton repository, served by a real tritonserver and asked by the real client."""

import contextlib
import json
import socket
import subprocess
import sys
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnxruntime
import pytest
from test_nvidia import SIZE, composed, folder, settings  # noqa: F401
from trained_like import soft_images

from reidlab.cli import main
from reidlab.deploy.server import ENVIRONMENT, INSTALL, SERVED, serving
from reidlab.errors import InputError
from reidlab.run import Run

HTTP = pytest.importorskip("tritonclient.http")
GRPC = pytest.importorskip("tritonclient.grpc")
HERE = any(ENVIRONMENT.glob("lib/*/site-packages/pytriton/tritonserver/bin/tritonserver"))


def installed(test):
    """Mark a test that starts the server, which takes some seconds."""
    return pytest.mark.slow(pytest.mark.skipif(not HERE, reason=f"no Triton server; `{INSTALL}`")(test))


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def ask(kind, url, images, name="input"):
    with kind.InferenceServerClient(url) as client:
        given = kind.InferInput(name, list(images.shape), "FP32")
        given.set_data_from_numpy(images)
        return client.infer(SERVED, [given]).as_numpy("embedding")


@pytest.fixture(scope="module")
def images():
    return soft_images(64, SIZE).astype(np.float32).transpose(0, 3, 1, 2) / 255


@pytest.fixture(scope="module")
def expected(folder, images):  # noqa: F811
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    made = session.run(None, {"input": images})[0]
    assert np.linalg.norm(made[1:] - made[:-1], axis=1).min() > 0.01 * np.linalg.norm(made, axis=1).max()
    return made


@pytest.fixture(scope="module")
def urls(folder):  # noqa: F811
    ports = free_ports(2)
    with serving(folder / "triton", *ports):
        yield {HTTP: f"127.0.0.1:{ports[0]}", GRPC: f"127.0.0.1:{ports[1]}"}


@installed
@pytest.mark.parametrize("kind", [HTTP, GRPC], ids=["http", "grpc"])
@pytest.mark.parametrize("batch", [1, 33])
def test_embeddings_are_those_of_the_file(urls, kind, batch, images, expected):
    found = ask(kind, urls[kind], images[:batch])
    np.testing.assert_allclose(found, expected[:batch], atol=1e-5 * np.abs(expected).max())


@installed
@pytest.mark.parametrize("kind", [HTTP, GRPC], ids=["http", "grpc"])
def test_malformed_requests_are_refused_and_the_next_is_served(urls, kind, images, expected):
    with kind.InferenceServerClient(urls[kind]) as client:
        for shape, name, type_, what in (
            ((65, 3, *SIZE), "input", "FP32", "batch-size must be <= 64"),
            ((1, 3, 8, 8), "input", "FP32", "unexpected shape"),
            ((1, 3, *SIZE), "picture", "FP32", "unexpected inference input"),
            ((1, 3, *SIZE), "input", "INT8", "data-type|datatype"),
        ):
            given = kind.InferInput(name, list(shape), type_)
            given.set_data_from_numpy(np.zeros(shape, np.float32 if type_ == "FP32" else np.int8))
            with pytest.raises(Exception, match=what):
                client.infer(SERVED, [given])
    bad = images[:1].copy()
    bad[0, 0, 0, 0] = np.nan
    with pytest.raises(Exception, match="not finite"):
        ask(kind, urls[kind], bad)
    np.testing.assert_allclose(ask(kind, urls[kind], images[:1]), expected[:1], atol=1e-4)


@installed
def test_garbage_over_http_is_refused(urls, images, expected):
    import http.client

    for body in (b"", b"{", b'{"inputs": [{"name": "input"}]}', bytes(range(256)) * 10):
        connection = http.client.HTTPConnection(urls[HTTP], timeout=10)
        connection.request("POST", f"/v2/models/{SERVED}/infer", body)
        assert connection.getresponse().status in (400, 500)
        connection.close()
    np.testing.assert_allclose(ask(HTTP, urls[HTTP], images[:1]), expected[:1], atol=1e-4)


@installed
def test_overload_loses_no_answer_and_mixes_none_up(urls, images, expected):
    """Four hundred requests from sixteen clients: each gets its own embedding, or is told that the queue is full."""

    def one(number):
        place = number % len(images)
        try:
            return place, ask(GRPC, urls[GRPC], images[place : place + 1])
        except Exception as error:
            return place, str(error)

    with ThreadPoolExecutor(16) as clients:
        answers = list(clients.map(one, range(400)))
    served = [(place, answer) for place, answer in answers if isinstance(answer, np.ndarray)]
    refused = [answer for _, answer in answers if isinstance(answer, str)]
    assert len(served) >= 200 and all("maximum queue size" in answer.lower() for answer in refused)
    for place, answer in served:
        np.testing.assert_allclose(answer[0], expected[place], atol=1e-4 * np.abs(expected).max())


@installed
def test_it_can_be_killed_and_started_again(folder, images, expected):  # noqa: F811
    ports = free_ports(2)
    with serving(folder / "triton", *ports) as server:
        server.kill()
        server.wait()
        with pytest.raises(OSError):
            ask(HTTP, f"127.0.0.1:{ports[0]}", images[:1])
    with serving(folder / "triton", *ports):
        np.testing.assert_allclose(ask(HTTP, f"127.0.0.1:{ports[0]}", images[:1]), expected[:1], atol=1e-4)


@installed
def test_truncated_and_oversized_requests_are_refused(urls, images, expected):
    from tritonclient.grpc import service_pb2

    given = service_pb2.ModelInferRequest.InferInputTensor(name="input", datatype="FP32", shape=images[:1].shape)
    whole = service_pb2.ModelInferRequest(
        model_name=SERVED, inputs=[given], raw_input_contents=[images[:1].tobytes()]
    ).SerializeToString()
    grpc = pytest.importorskip("grpc")
    with grpc.insecure_channel(urls[GRPC]) as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        for body in [*(whole[:cut] for cut in range(0, len(whole), len(whole) // 20)), bytes(10**7), whole + bytes(9)]:
            with pytest.raises(grpc.RpcError) as error:
                call(body, timeout=30)
            assert error.value.code() is not grpc.StatusCode.DEADLINE_EXCEEDED
    np.testing.assert_allclose(ask(GRPC, urls[GRPC], images[:1]), expected[:1], atol=1e-4)


@installed
def test_a_crash_of_the_server_is_followed_by_a_start_and_a_kill_by_its_end(folder, images, expected, tmp_path):  # noqa: F811
    """Triton ends of a JSON request with a shape of more bytes than there are; killing the command ends both."""
    http_port, grpc_port = free_ports(2)
    serve = (
        f"from pathlib import Path; from reidlab.deploy.server import serve; serve(Path({str(folder / 'triton')!r}), "
    )
    with (tmp_path / "log").open("w") as words:
        command = subprocess.Popen(
            [sys.executable, "-c", f"{serve}{http_port}, {grpc_port})"], stdout=words, stderr=words
        )

    def answer():
        for _ in range(600):
            try:
                return ask(HTTP, f"127.0.0.1:{http_port}", images[:1])
            except Exception:  # not there, or not ready
                assert command.poll() is None
                time.sleep(0.2)

    try:
        np.testing.assert_allclose(answer(), expected[:1], atol=1e-4)
        entry = {"name": "input", "shape": [2**40, 3, *SIZE], "datatype": "FP32", "data": [0.5]}
        with contextlib.suppress(OSError):
            urllib.request.urlopen(
                f"http://127.0.0.1:{http_port}/v2/models/{SERVED}/infer", json.dumps({"inputs": [entry]}).encode(), 30
            )
        np.testing.assert_allclose(answer(), expected[:1], atol=1e-4)
        assert "starting it again" in (tmp_path / "log").read_text()
    finally:
        command.kill()
        command.wait()
    for _ in range(300):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", http_port)):
                return
        time.sleep(0.1)
    pytest.fail("the server outlives the command")


@installed
def test_broken_repository_is_said_in_one_line(folder, tmp_path):  # noqa: F811
    import shutil

    place = shutil.copytree(folder / "triton", tmp_path / "triton")
    (place / SERVED / "1" / "model.onnx").write_bytes(b"no model")
    with pytest.raises(InputError, match=r"tritonserver ended with 1: "), serving(place, *free_ports(2)):
        pass


def test_without_repository_or_server_it_says_what_to_run(folder, tmp_path):  # noqa: F811
    with pytest.raises(InputError, match="no Triton repository; run `reidlab deploy deploy=nvidia`"), serving(tmp_path):
        pass
    with (
        pytest.raises(InputError, match="no Triton server; run `reidlab serve --install`"),
        serving(folder / "triton", environment=tmp_path),
    ):
        pass


def test_command_says_what_is_missing(tmp_path, capsys):
    Run.compose([f"run.root={tmp_path}", "run.name=none"]).keep_config()
    assert main(["serve", f"run.root={tmp_path}", "run.name=none"]) == 2
    assert "no Triton repository; run `reidlab deploy deploy=nvidia` first" in capsys.readouterr().err
