import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from test_c_export import omni_scale_net
from tiny_models import TinyModel

from reidlab.deploy import estimate as module
from reidlab.deploy import parse_graph, vela
from reidlab.deploy.boards import BOARDS
from reidlab.deploy.choose import Candidate, choice, pareto_front
from reidlab.deploy.estimate import cross_validation, estimate, published
from reidlab.deploy.features import features
from reidlab.deploy.tflite_graph import Op
from reidlab.errors import InputError

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
import stm32_networks

H7, N6 = "STM32H747I-DISCO", "STM32N6570-DK"
OWN = ("osnet", "fdmobilenet", "st_fdmobilenet_v1")


@pytest.fixture(scope="module")
def fdmobilenet():
    return stm32_networks.graph_of("fdmobilenet", "0.25", "tf_flowers", "128x128x3")


def test_features_count_what_the_paper_counts(fdmobilenet):
    found = features(fdmobilenet)
    assert found.macs == pytest.approx(3.85e6, rel=0.003)  # the reference's 128 x 128 figure
    assert found.weight_bytes / 1024 == pytest.approx(128.32, abs=0.01)  # as published
    assert found.input_bytes == 3 * 128**2
    assert found.operators == 2 * 12 + 1  # stem, 11 separable ones, mean, classifier
    assert found.streamed_peak_bytes == found.input_bytes
    assert found.whole_peak_bytes == found.input_bytes + 64 * 64 * 8


def test_table_of_networks_is_what_the_benchmark_makes(fdmobilenet):
    rows = pd.read_csv(module.NETWORKS, dtype={"alpha": str}, keep_default_na=False)
    key = (rows["family"] == "fdmobilenet") & (rows["dataset"] == "tf_flowers") & (rows["resolution"] == "128x128x3")
    (row,) = rows[key].to_dict("records")
    assert {name: row[name] for name in stm32_networks.row_of(fdmobilenet)} == stm32_networks.row_of(fdmobilenet)


def test_published_weights_are_counted_exactly():
    rows = published()
    rows = rows[(rows["board"] == H7) & (rows["tool"] == "STM32Cube.AI 10.0.0")]
    np.testing.assert_allclose(rows["weight_bytes"] / 1024, rows["weights_flash_kib"], atol=0.006)


def test_errors_on_models_left_out_are_within_the_bounds():
    errors = cross_validation()
    own = errors[errors["network"].str.split().str[0].isin(OWN) & (errors["board"] == H7)]
    median = own.assign(size=own["error"].abs()).groupby("quantity")["size"].median()
    assert median["ram_kib"] <= 0.05 and median["flash_kib"] <= 0.05 and median["weights_kib"] <= 0.05
    assert median["latency_ms"] <= 0.15


def test_left_out_means_left_out(monkeypatch):
    """The estimate of a model does not move when its own published figures are changed."""
    before = module.calibration(H7, "STEdgeAI Core 3.0.0", "ram_kib").errors
    table = published().copy()
    table.loc[table["network"] == "fdmobilenet 0.25", "total_ram_kib"] *= 10
    monkeypatch.setattr(module, "published", lambda: table)
    after = module.calibration.__wrapped__(H7, "STEdgeAI Core 3.0.0", "ram_kib").errors
    own = before["network"] == "fdmobilenet 0.25"
    np.testing.assert_allclose(after["estimated"][own], before["estimated"][own])
    assert not np.allclose(after["estimated"][~own], before["estimated"][~own])


def test_estimates_have_intervals_that_hold_the_published_figures(fdmobilenet):
    found = estimate(fdmobilenet, features(fdmobilenet), H7)
    assert found.tool == "STEdgeAI Core 3.0.0" and found.outside == []
    for name, figure in (("ram_kib", 56.46), ("flash_kib", 158.27), ("latency_ms", 21.34)):
        one = found.figures[name]
        assert one.low < one.value < one.high and one.low <= figure <= one.high and one.coverage > 0.8
    assert found.learned_from == "fdmobilenet 0.25, tf_flowers, 128x128x3"
    older = estimate(fdmobilenet, features(fdmobilenet), H7, "STM32Cube.AI 10.0.0")
    assert older.figures["flash_kib"].value > found.figures["flash_kib"].value + 20  # ST's runtime shrank


def test_it_does_not_extrapolate_silently():
    net = TinyModel()
    pixels = net.tensor([1, 16, 16, 3], 1 / 255, -128)
    content = net.finish([pixels], [net.op("TANH", [pixels], net.tensor([1, 16, 16, 3], 1 / 128))])
    graph = parse_graph(content)
    found = estimate(graph, features(graph), H7)
    said = "; ".join(found.outside)
    assert "no published network has TANH" in said and "macs 0: published networks have" in said
    assert not found.learned_from
    assert all(np.isnan(figure.low) and np.isnan(figure.high) for figure in found.figures.values())


def test_operators_that_write_next_to_nothing_do_not_make_a_network_unlike(fdmobilenet):
    softmax = Op(len(fdmobilenet.ops), "SOFTMAX", fdmobilenet.outputs, (len(fdmobilenet.tensors),))
    scores = replace(fdmobilenet.tensors[fdmobilenet.outputs[0]], index=softmax.outputs[0])
    classifier = replace(
        fdmobilenet, tensors=[*fdmobilenet.tensors, scores], ops=[*fdmobilenet.ops, softmax], outputs=softmax.outputs
    )
    assert "SOFTMAX" not in set(" ".join(published()["kinds"]).split())
    assert not estimate(classifier, features(classifier), H7).outside


def test_boards_without_figures_and_unknown_tools_are_refused(fdmobilenet):
    for board in ("B-U585I-IOT02A", "STM32X"):
        with pytest.raises(InputError, match=f"board {board}: nothing is published .* choose from STM32F769I-DISCO"):
            estimate(fdmobilenet, features(fdmobilenet), board)
    with pytest.raises(InputError, match=r"tool STM32Cube\.AI 9: .* choose from .*STM32Cube\.AI 10"):
        estimate(fdmobilenet, features(fdmobilenet), H7, "STM32Cube.AI 9")


def test_peaks_by_hand():
    """48 bytes convolved to 128 and put through a sigmoid: both at once, or the larger where rows are streamed."""
    net = TinyModel()
    image, maps, made = (net.tensor([1, 4, 4, channels], 1 / 255, 0) for channels in (3, 8, 8))
    weights = net.tensor([8, 1, 1, 3], 1.0, data=np.ones(24))
    net.op(
        "CONV_2D", [image, weights, net.tensor([8], 1.0, dtype="int32", data=np.ones(8))], maps, strideH=1, strideW=1
    )
    content = net.finish([image], [net.op("LOGISTIC", [maps], made)])
    found = features(parse_graph(content))
    assert (found.whole_peak_bytes, found.streamed_peak_bytes) == (48 + 128, 128)
    assert (found.macs, found.weight_bytes, found.channels, found.operators) == (16 * 24, 24 + 32, 8, 2)
    assert (found.pointwise_outputs, found.other_outputs) == (128, 128)


def test_boards_have_room_or_not():
    assert BOARDS[H7].fits(331, 140) and not BOARDS[H7].fits(1420, 140) and BOARDS[H7].fits(None, 2048) is None
    assert BOARDS[H7].fits(None, 4096) is False
    assert BOARDS["STM32MP135F-DK2"].fits(10**6, 10**6)


def test_front_is_what_no_other_beats():
    front = pareto_front(pd.Series([1.0, 2.0, 3.0, 3.0]), pd.Series([0.5, 0.4, 0.9, 0.9]))
    assert front.tolist() == [True, False, True, True]


def test_choice_has_a_row_for_each_model_and_target(tmp_path):
    networks = []
    for name, seed, score in (("one", 3, 0.5), ("two", 4, 0.4)):
        model = tmp_path / f"{name}.tflite"
        model.write_bytes(omni_scale_net(seed)[1])
        figures = {
            "tflite int8": {"mAP": score, "ms_1_thread": 2.0},
            "emulated m7": {"instructions": 5000000, "ram_bytes": 2048, "flash_bytes": 4096},
        }
        networks.append(Candidate(name, model, figures, "unsure" if name == "two" else ""))
    networks.append(Candidate("three", model, {}))
    table = choice(networks)
    assert set(table["target"]) == {"C99, emulated m7", "this CPU, tflite int8", vela.ACCELERATOR, *BOARDS}
    rows = table[table["target"] == "this CPU, tflite int8"].set_index("model")
    assert rows["front"].to_dict() == {"one": True, "two": False} and rows["mAP"].to_dict() == {"one": 0.5, "two": 0.4}
    assert rows["note"].to_dict() == {"one": "measured", "two": "measured; unsure"}
    u5 = table[table["target"] == "B-U585I-IOT02A"].set_index("model")
    assert u5["latency_ms"].isna().all() and u5.loc[["one", "three"], "note"].tolist() == ["nothing published"] * 2
    assert u5["mAP"].isna().to_dict() == {"one": False, "two": False, "three": True}
    assert choice([]).empty


@pytest.mark.slow
def test_nine_of_ten_published_figures_lie_in_the_intervals_of_calibrations_without_their_network():
    """Neither the fit nor the width of an interval has seen the network whose figures it is held against."""
    table, inside = published(), []
    for _, rows in table.groupby(["board", "tool"]):
        for quantity, column in module.QUANTITIES.items():
            known = rows[rows[column].notna()]
            for network in known["network"].unique():
                others, own = known[known["network"] != network], known[known["network"] == network]
                if (found := module.calibrate(quantity, others.reset_index(drop=True))) is None:
                    continue
                for _, row in own.iterrows():
                    within = all(
                        others[name].min() / module.MARGIN <= row[name] <= others[name].max() * module.MARGIN
                        for name in module.RANGED
                    )
                    allowed = {*" ".join(others["kinds"]).split(), *module.FREE, *module.PADDING, "FULLY_CONNECTED"}
                    if within and {*row["kinds"].split()} <= allowed:
                        figure = found.figure(row["features"], trusted=True)
                        inside.append(figure.low <= row[column] <= figure.high)
    assert len(inside) > 250 and np.mean(inside) > 0.9
