"""The dashboard: what it reads of run folders, whole, broken and hostile, and the page that Streamlit makes of it."""

import contextlib
import http.client
import io
import json
import os
import socket
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

from reidlab import cli, dashboard
from reidlab.dashboard import folders
from reidlab.errors import InputError
from reidlab.run import File, Row, Run

EVIL = "<img src=x onerror=alert(1)> ![p](http:\\evil) **b** [l](javascript:x) :red[r] $x$"


def make_run(folder, mAP=0.5, epochs=3, model="osnet_x0_25", finished=True):
    """A run folder as the stages leave it, without the network."""
    (folder / "evaluate" / "checkpoint").mkdir(parents=True)
    config = {
        "data": {"name": "drawn"},
        "model": {"name": model},
        "trainer": {"max_epochs": 9},
        "run": {"name": folder.name},
    }
    config["callbacks"] = {"best": {"dirpath": str(folder)}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    rows = [{"epoch": e, "train/loss": 2 / (e + 1), "val/mAP": mAP * e / epochs} for e in range(epochs)]
    pd.DataFrame(rows).to_csv(folder / "history.csv", index=False)
    if finished:
        (folder / "train.json").write_text(json.dumps({"finished": True, "parameters": 203_000}))
        metrics = {"checkpoint": {"mAP": mAP, "rank-1": 0.75, "num_query": 4}, "untrained": {"mAP": 0.06}}
        (folder / "metrics.json").write_text(json.dumps(metrics))
        (folder / "evaluate" / "checkpoint" / "intervals.json").write_text(json.dumps({"mAP": [mAP - 0.1, mAP + 0.1]}))
        for name in ("best", "roc", "worst"):
            Image.fromarray(np.full((8, 12, 3), 90, np.uint8)).save(folder / "evaluate/checkpoint" / f"{name}.png")
        pd.DataFrame({"path": ["a.jpg"], "AP": [0.5]}).to_csv(folder / "evaluate/checkpoint/worst.csv", index=False)
        (folder / "quantize").mkdir()
        parity = pd.DataFrame({"stage": ["checkpoint", "tflite int8"], "mAP": [mAP, mAP - 0.01]})
        parity.to_csv(folder / "quantize" / "parity.csv", index=False)
    return folder


@pytest.fixture
def runs(tmp_path):
    make_run(tmp_path / "good", 0.7)
    make_run(tmp_path / "better", 0.8, model="osnet_x1_0")
    make_run(tmp_path / "young", finished=False)
    return tmp_path


@pytest.fixture
def broken(runs):
    """The same with folders that were cut short, damaged, or made to harm."""
    (runs / "empty").mkdir()
    for name, file, content in [
        ("half-config", "config.yaml", b"data: {name: [\n"),
        ("no-mapping", "config.yaml", b"- 1\n- 2\n"),
        ("half-metrics", "metrics.json", b'{"checkpoint": {"mAP": 0.'),
        ("list-metrics", "metrics.json", b"[1, 2]"),
        ("deep-metrics", "metrics.json", b"[" * 100_000),
        ("binary-history", "history.csv", b"\x00\xff\xfe" * 50),
        ("no-epochs", "history.csv", b"a,b\n1,2\n"),
        ("half-picture", "evaluate/checkpoint/worst.png", b"\x89PNG\r\n\x1a\n\x00\x00"),
        ("half-table", "quantize/parity.csv", b'"a\n'),
        ("odd-counts", "metrics.json", b'{"checkpoint": {"mAP": 0.5, "num_query": 1e300, "num_gallery": 4.5}}'),
        ("infinite-counts", "metrics.json", b'{"checkpoint": {"mAP": 0.5, "num_query": Infinity}}'),
        ("odd-parameters", "train.json", b'{"finished": true, "parameters": "many"}'),
        ("odd-protocol", "metrics.json", b'{"checkpoint": {"mAP": 0.5, "made_by": {"protocol": 3}}}'),
        ("odd-digest", "metrics.json", b'{"checkpoint": {"mAP": 0.5, "made_by": {"protocol": {"test": [1]}}}}'),
        ("endless-history", "history.csv", b"epoch,val/mAP\ninf,0.5\n"),
        ("odd-intervals", "evaluate/checkpoint/intervals.json", b'{"mAP": ["x", 1], "rank-1": 3}'),
    ]:
        (make_run(runs / name) / file).write_bytes(content)
    evil = make_run(runs / EVIL.replace("/", "\N{FRACTION SLASH}"))
    (evil / "metrics.json").write_text(json.dumps({EVIL: {"mAP": 0.1, EVIL: 1}}))
    (runs / "loop").symlink_to(runs / "loop")
    (runs / "file.txt").write_text("no run")
    (runs / "notebooks").mkdir()
    return runs


def read(root):
    return [folders.read_run(folder) for folder in folders.run_folders(root)]


def test_the_leaderboard_is_sorted_and_says_how_far_runs_are(runs):
    table = folders.leaderboard(read(runs)).set_index("run")
    assert table.index.tolist() == ["better", "good", "young"]
    assert table.loc["good", ["mAP", "mAP 95 %", "rank-1", "parameters"]].tolist() == [
        0.7,
        "0.600 – 0.800",
        0.75,
        203000,
    ]
    assert table["state"].tolist() == ["trained", "trained", "epoch 3 of 9"]
    assert folders.leaderboard(read(runs), every_row=True)["row"].tolist().count("untrained") == 2


def test_a_training_by_time_has_no_number_of_epochs(runs):
    config = yaml.safe_load((runs / "young" / "config.yaml").read_text())
    config["trainer"]["max_time"] = 60
    (runs / "young" / "config.yaml").write_text(yaml.safe_dump(config))
    assert folders.read_run(runs / "young").state == "epoch 3"


def test_curves_grow_while_a_training_writes(runs):
    assert list(folders.curves(read(runs))) == ["val/mAP", "train/loss"]
    history = pd.read_csv(runs / "young" / "history.csv")
    pd.concat([history, history.tail(1).assign(epoch=3)]).to_csv(runs / "young" / "history.csv", index=False)
    course = folders.curves(read(runs))["val/mAP"]
    assert course.groupby("run")["epoch"].max().to_dict() == {"better": 3, "good": 3, "young": 4}


def test_two_runs_are_compared(runs):
    better, good, _ = read(runs)
    figures, changed = folders.compare(good, better)
    assert figures.set_index(["row", "figure"])["difference"].round(6).to_dict() == {
        ("checkpoint", "mAP"): 0.1, ("checkpoint", "rank-1"): 0.0, ("untrained", "mAP"): 0.0,
    }  # fmt: skip
    assert changed.values.tolist() == [["model.name", "osnet_x0_25", "osnet_x1_0"]]


def record(folder, digest, mAP, queries, row=Row.CHECKPOINT, checkpoint=None, **rules):
    """A row with its protocol, as stage `evaluate` records it."""
    protocol = {"distance": "euclidean", "exclude_same_camera": True, "test": digest} | rules
    Run.stored(folder).record({row: {"mAP": mAP, "num_query": queries, "num_gallery": 9}}, protocol, checkpoint)


def test_runs_on_different_test_splits_are_not_ranked_as_one(runs):
    for name, digest, mAP, queries in [
        ("a", "aa11" * 16, 0.5, 8),
        ("b", "bb22" * 16, 0.9, 2),
        ("c", "aa11" * 16, 0.6, 8),
    ]:
        record(make_run(runs / name), digest, mAP, queries)
    record(runs / "c", "bb22" * 16, 0.7, 2, Row.CHECKPOINT.on("elsewhere"))
    table = folders.leaderboard(read(runs))
    assert table["run"].tolist() == ["c", "a", "b", "better", "good", "young"]
    assert table["test split"].tolist()[:3] == ["drawn aa11aa11", "drawn aa11aa11", "drawn bb22bb22"]
    assert set(table["test split"][3:5]) == {"drawn, digest not recorded"} and pd.isna(table["test split"][5])
    assert table["num_query"].tolist()[:4] == [8, 8, 2, 4] and table["num_gallery"].tolist()[:3] == [9, 9, 9]
    assert table["protocol"][0] == "distance=euclidean, exclude_same_camera=True"
    every = folders.leaderboard(read(runs), every_row=True)
    assert every.loc[every["test split"] == "drawn bb22bb22", "row"].tolist() == ["checkpoint", "checkpoint@elsewhere"]


def test_rows_of_different_protocols_are_marked(runs):
    for name, rules in [("a", {}), ("b", {}), ("c", {"distance": "cosine", "test": "bb" * 32})]:
        record(make_run(runs / name), "aa" * 32, 0.5, 8, **rules)
    a, b, _, c, good, _ = read(runs)
    for other, expected in [(b, "same"), (c, "differ: distance, test"), (good, "not recorded")]:
        figures, _ = folders.compare(a, other)
        assert set(figures.loc[figures["row"] == "checkpoint", "protocols"]) == {expected}


def test_rows_of_a_file_that_was_made_anew_are_left_out_at_once(runs):
    folder = make_run(runs / "again")
    run = Run.stored(folder)
    run.write(File.TFLITE_INT8, b"first")
    run.record({Row.TFLITE_INT8: {"mAP": 0.5}}, files={Row.TFLITE_INT8: run / File.TFLITE_INT8})
    assert Row.TFLITE_INT8 in folders.read_run(folder).results
    run.write(File.TFLITE_INT8, b"another")
    assert folders.read_run(folder).stale == [Row.TFLITE_INT8]


def test_a_paired_comparison_is_of_the_present_checkpoints(runs):
    one, other = (Run.stored(make_run(runs / name)) for name in ("one", "other"))
    for run in (one, other):
        run.write(File.BEST, run.name)
    lines = f",difference,checkpoint,against\nmAP,0.1,{one.checkpoint},{other.checkpoint}\n"
    one.write(f"{File.EVALUATE}/{Row.CHECKPOINT}/against_other.csv", lines)
    shown = folders.paired(*(folders.read_run(run.folder) for run in (one, other)))
    assert shown.iloc[:, 1:].to_dict("list") == {"difference": [0.1]}
    other.write(File.BEST, "trained again")
    assert folders.paired(*(folders.read_run(run.folder) for run in (one, other))) is None


def test_rows_of_another_checkpoint_are_left_out_and_named(runs):
    folder = make_run(runs / "again")
    (folder / "checkpoints").mkdir()
    (folder / File.BEST).write_bytes(b"first")
    record(folder, "aa" * 32, 0.9, 8, checkpoint=Run.stored(folder).checkpoint)
    assert folders.read_run(folder).results["checkpoint"].figures["mAP"] == 0.9
    (folder / File.BEST).write_bytes(b"second")
    found = folders.read_run(folder)
    assert "checkpoint" not in found.results and found.stale == ["checkpoint"] and not found.problems


def test_what_is_broken_is_named(broken):
    problems = {run.name: " ".join(run.problems) for run in read(broken)}
    expected = {
        "empty": "config.yaml is missing", "half-config": "config.yaml", "no-mapping": "config.yaml",
        "half-metrics": "metrics.json", "list-metrics": "metrics.json", "deep-metrics": "metrics.json",
        "binary-history": "history.csv", "no-epochs": "history.csv", "odd-protocol": "metrics.json",
        "infinite-counts": "metrics.json",
    }  # fmt: skip
    assert {name: file in problems[name] for name, file in expected.items()} == dict.fromkeys(expected, True)
    assert problems["good"] == problems["half-picture"] == "" and "file.txt" not in problems
    assert "notebooks" not in problems
    board = folders.leaderboard(read(broken), every_row=True).set_index("run")
    assert set(board.loc[list(expected), "state"]) == {"broken"}
    assert board.loc["odd-counts", "num_gallery"] == 4 and pd.isna(board.loc["odd-counts", "num_query"])


@pytest.fixture
def page(monkeypatch):
    testing = pytest.importorskip("streamlit.testing.v1", reason="needs the dashboard extra")
    pytest.importorskip("streamlit.config").set_option("runner.postScriptGC", False)  # as `dashboard.command` does
    runner = pytest.importorskip("streamlit.runtime.scriptrunner.script_runner")
    monkeypatch.setattr(runner, "_clean_problem_modules", lambda: None)  # at each click it clears other tests' Keras

    def open_page(root):
        monkeypatch.setattr(sys, "argv", ["page.py", str(root)])
        return testing.AppTest.from_file(str(dashboard.PAGE), default_timeout=300).run()

    return open_page


def turn(shown, view):
    shown.session_state["view"] = view
    return shown.run()


def test_every_view_of_whole_runs(runs, page):
    shown = page(runs)
    assert not shown.exception and not shown.warning
    assert [table.value["run"].tolist() for table in shown.dataframe] == [["better", "good"], ["young"]]
    assert (shown.metric[0].label, shown.metric[0].value) == ("best mAP: better", "0.800")
    assert len(turn(shown, "Curves").get("vega_lite_chart")) == 2
    turn(shown, "Evaluation")
    assert len(shown.image) == 3 and [box.label for box in shown.expander] == ["worst as a table"]
    turn(shown, "Devices")
    assert shown.dataframe[0].value["stage"].tolist() == ["checkpoint", "tflite int8"]
    turn(shown, "Compare").selectbox(key="first").set_value("better")
    shown.selectbox(key="second").set_value("good").run()
    assert shown.dataframe[0].value["difference"].round(6).tolist() == [-0.1, 0.0, 0.0] and not shown.exception


def test_gaps_among_numbers_are_dashes(runs, page):
    file = runs / "good" / "quantize" / "parity.csv"
    before = file.read_text()
    file.write_text("stage,mAP,drop\ncheckpoint,0.7,\ntflite int8,0.6904,0.96\n")
    shown = turn(page(runs), "Devices")
    shown.selectbox[0].set_value("good").run()
    assert shown.dataframe[0].value["drop"].tolist() == ["–", "0.960"]
    file.write_text(before)


def test_tracks_of_a_released_network_are_no_run(tmp_path):
    (tmp_path / "demo_osnet_x0_25" / "track").mkdir(parents=True)
    (tmp_path / "demo_osnet_x0_25" / "reentry.html").touch()
    (tmp_path / "mine").mkdir()
    assert [folder.name for folder in folders.run_folders(tmp_path)] == ["mine"]


def test_every_view_of_broken_runs(broken, page):
    shown = page(broken)
    for view in ("Leaderboard", "Curves", "Evaluation", "Devices", "Compare"):
        turn(shown, view)
        assert not shown.exception, view
        for number in range(max([len(box.options) for box in shown.selectbox], default=0)):
            chosen = [box.options[(number + place) % len(box.options)] for place, box in enumerate(shown.selectbox)]
            for box, option in zip(shown.selectbox, chosen, strict=True):
                box.set_value(option)
            assert not shown.run().exception, (view, chosen)


def test_a_picture_of_hundreds_of_scans_is_named_and_not_shown(runs, page):
    buffer = io.BytesIO()
    Image.fromarray(np.full((8, 12, 3), 90, np.uint8)).save(buffer, "JPEG", progressive=True)
    whole = buffer.getvalue()
    scan = whole[whole.rindex(b"\xff\xda") : -2]
    for run in ("good", "better"):
        (runs / run / "evaluate" / "checkpoint" / "worst.png").write_bytes(whole[:-2] + 200 * scan + whole[-2:])
    shown = turn(page(runs), "Evaluation")
    assert len(shown.image) == 2 and ["more scans" in warning.value for warning in shown.warning] == [True]


def test_words_from_files_are_shown_as_they_are(broken, page):
    shown = page(broken)
    for element in [*shown.warning, *shown.caption, *shown.markdown]:
        assert "<img" not in element.value and "](" not in element.value and "**b" not in element.value


def test_nothing_is_written(broken, page):
    before = {p: p.lstat().st_mtime_ns for p in broken.rglob("*")}
    shown = page(broken)
    for view in ("Curves", "Evaluation", "Devices", "Compare"):
        turn(shown, view)
    assert {p: p.lstat().st_mtime_ns for p in broken.rglob("*")} == before


def test_what_starts_the_server_keeps_it_on_this_machine(runs):
    words = dashboard.command(runs, 8600)
    for flag in ("server.address=127.0.0.1", "server.port=8600", "browser.gatherUsageStats=false"):
        assert f"--{flag}" in words
    assert words[-1] == str(runs)


@pytest.fixture
def server(runs):
    """The process of the command, and the port at which it serves."""
    pytest.importorskip("streamlit", reason="needs the dashboard extra")
    with socket.socket() as probe:
        probe.bind((dashboard.HOST, 0))
        port = probe.getsockname()[1]
    argv = [sys.executable, "-m", "reidlab.cli", "dashboard", "--runs", str(runs), "--port", str(port)]
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL)
    try:
        for _ in range(1200):
            time.sleep(0.1)
            with contextlib.suppress(OSError):
                status(port, "/_stcore/health")
                break
        yield process, port
    finally:
        process.kill()
        process.wait()


def status(port, path, **headers):
    """What a GET with these headers is answered: its status."""
    connection = http.client.HTTPConnection(dashboard.HOST, port, timeout=60)
    try:
        connection.putrequest("GET", path, skip_host="Host" in headers)
        for name, value in headers.items():
            connection.putheader(name.replace("_", "-"), value)
        connection.endheaders()
        return connection.getresponse().status
    finally:
        connection.close()


def test_foreign_names_and_sites_are_refused_and_a_kill_frees_the_port(server):
    process, port = server
    websocket = {
        "Connection": "Upgrade", "Upgrade": "websocket", "Sec_WebSocket_Version": "13",
        "Sec_WebSocket_Key": "dGhlIHNhbXBsZSBub25jZQ==", "Sec_WebSocket_Protocol": "streamlit",
    }  # fmt: skip
    for host in (f"127.0.0.1:{port}", f"localhost:{port}", f"[::1]:{port}", "localhost"):
        assert status(port, "/", Host=host) == 200
        assert status(port, "/_stcore/stream", Host=host, Origin=f"http://{host}", **websocket) == 101
        assert status(port, "/_stcore/stream", Host=host, **websocket) == 101  # no browser
        for origin in ("http://evil.example", "null", "", f"http://127.0.0.1:{port + 1}", f"http://127.0.0.1:{port}.e"):
            assert status(port, "/_stcore/stream", Host=host, Origin=origin, **websocket) == 403, (host, origin)
            assert status(port, "/", Host=host, Origin=origin) == 403, (host, origin)
    for host in ("evil.example", f"evil.example:{port}", f"localhost.evil.example:{port}", "", "127.0.0.1@evil", "a b"):
        assert status(port, "/", Host=host) in (400, 403), host
        assert status(port, "/_stcore/stream", Host=host, Origin=f"http://{host}", **websocket) in (400, 403), host
    process.kill()
    process.wait()
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((dashboard.HOST, port))


def test_it_says_what_is_missing(tmp_path, runs, monkeypatch, capsys):
    assert cli.main(["dashboard", "--runs", str(tmp_path / "none")]) == 2
    assert "reidlab run experiment=demo" in capsys.readouterr().err
    with socket.socket() as taken, pytest.raises(InputError, match="--port"):
        taken.bind((dashboard.HOST, 0))
        taken.listen()
        dashboard.run(runs, taken.getsockname()[1])
    monkeypatch.setattr(dashboard.importlib.util, "find_spec", lambda name: None)
    assert cli.main(["dashboard", "--runs", str(runs)]) == 2
    assert "pip install 'reidlab[dashboard]'" in capsys.readouterr().err


def test_the_newest_run_and_the_best_on_its_split_are_shown_first(runs):
    for name, digest, mAP in (("a", "aa11" * 16, 0.5), ("b", "bb22" * 16, 0.9), ("c", "aa11" * 16, 0.4)):
        record(make_run(runs / name), digest, mAP, 8)
    for hour, name in enumerate(("good", "better", "young", "a", "b", "c")):
        for file in (runs / name).glob("*.*"):
            os.utime(file, (hour * 3600,) * 2)
    found = read(runs)
    assert folders.newest(found).name == "c" and folders.newest_and_best(found) == ["c", "a"]
    groups = folders.by_split(folders.leaderboard(found), found)
    assert [*groups] == ["drawn aa11aa11", "drawn bb22bb22", "drawn, digest not recorded", "not scored yet"]
    assert groups["drawn aa11aa11"]["run"].tolist() == ["a", "c"]
    assert folders.newest_and_best([run for run in found if run.name == "young"]) == ["young"]
