"""The stage, held against a loop that embeds image by image and ranks by the definition of average precision."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from reidlab.cli import main
from reidlab.errors import InputError
from reidlab.evaluation.outputs import Outputs
from reidlab.evaluation.retrieval import Retrieval
from reidlab.export import qdq
from reidlab.export.folding import deployable
from reidlab.export.steps import as_steps
from reidlab.models import osnet_x0_25
from reidlab.run import Run
from reidlab.stages import compare, evaluate, matrix, train

QUICK = ["data.num_workers=0", "evaluate.resamples=50", "evaluate.pictured_queries=0"]


def definition(embed, root, distance):
    """mAP and rank-1 of a Market-1501 folder, one query at a time, matches of the same camera left out."""

    def samples(folder):
        for file in sorted((root / folder).glob("*.jpg")):
            pid, camera = int(file.name[:4]), int(file.name[6])
            yield pid, camera, embed(file)

    gallery, precisions, hits = list(samples("bounding_box_test")), [], []
    for pid, camera, feature in samples("query"):
        others = [g for g in gallery if not (g[0] == pid and g[1] == camera)]
        order = np.argsort([distance(feature, g[2]) for g in others], kind="stable")
        right = np.array([others[i][0] == pid for i in order])
        precisions.append(np.mean([(n + 1) / (place + 1) for n, place in enumerate(np.flatnonzero(right))]))
        hits.append(right[0])
    return np.mean(precisions), np.mean(hits)


def figures(run):
    """Row -> figures of an evaluated run."""
    return {row: result.figures for row, result in run.results.items()}


@pytest.fixture
def checkpoint(tmp_path):
    """A network with weights of its own, saved as its authors' library does: prefixed, under `state_dict`."""
    torch.manual_seed(3)
    network = osnet_x0_25(num_classes=10)
    state = {f"module.{name}": tensor for name, tensor in network.state_dict().items()}
    torch.save({"state_dict": state, "epoch": 5}, tmp_path / "osnet.pth")
    return network.eval(), tmp_path / "osnet.pth"


@pytest.mark.parametrize("measure", ["euclidean", "cosine"])
def test_a_published_checkpoint_scores_as_the_definition_says(measure, checkpoint, market, tmp_path, capsys):
    network, file = checkpoint
    run = Run.compose(
        [
            "data=market1501", f"data.root={market}", "data.size=[64,32]", "data.num_workers=0", "model=osnet_x0_25",
            f"model.weights={file}", f"run.root={tmp_path}", "run.name=published", f"evaluate.distance={measure}",
            "evaluate.baselines=[untrained,color-histogram]", "evaluate.resamples=50", "evaluate.pictured_queries=1",
        ]
    )  # fmt: skip
    metrics = figures(evaluate.run(run))

    @torch.no_grad()
    def embed(path):
        pixels = np.asarray(Image.open(path).convert("RGB").resize((32, 64), Image.BILINEAR), np.float32) / 255
        pixels = (pixels - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
        return network(torch.tensor(pixels, dtype=torch.float32).permute(2, 0, 1)[None]).embedding[0].numpy()

    def distance(a, b):
        return np.linalg.norm(a - b) if measure == "euclidean" else 1 - a @ b / np.linalg.norm(a) / np.linalg.norm(b)

    mAP, rank_1 = definition(embed, market, distance)
    assert metrics["checkpoint"]["mAP"] == pytest.approx(mAP, abs=1e-6)
    assert metrics["checkpoint"]["rank-1"] == pytest.approx(rank_1)
    assert set(metrics) == {"checkpoint", "untrained", "color-histogram"}
    assert list(metrics["checkpoint"])[:8] == [
        "mAP", "rank-1", "rank-5", "rank-10", "rank-20", "mINP", "num_query", "num_gallery",
    ]  # fmt: skip
    assert metrics["checkpoint"]["num_query"] == 12 and metrics["checkpoint"]["num_gallery"] == 24
    assert "left out" in capsys.readouterr().out  # the classifier of the file

    place = tmp_path / "published" / "evaluate" / "checkpoint"
    rows = pd.read_csv(place / "per_query.csv")
    assert len(rows) == 12 and rows["AP"].mean() == pytest.approx(mAP, abs=1e-6)
    for picture in ("best", "median", "worst"):
        assert Image.open(place / f"{picture}.png").size[0] > 300


def test_queries_without_a_match_are_reported_and_left_out(market, tmp_path, capsys):
    rows = [
        {"path": file.relative_to(market), "pid": file.name[:4], "camid": file.name[6], "split": split}
        for folder, split in (("query", "query"), ("bounding_box_test", "gallery"), ("bounding_box_train", "train"))
        for file in sorted((market / folder).glob("*.jpg"))
        if not (split == "gallery" and file.name.startswith("0007"))
    ]
    file = tmp_path / "crops.csv"
    pd.DataFrame(rows).to_csv(file, index=False)
    overrides = ["data=csv", f"data.source.file={file}", f"data.root={market}", "data.size=[64,32]"]
    run = Run.compose([*QUICK, *overrides, f"run.root={tmp_path}", "run.name=lonely"])
    metrics = figures(evaluate.run(run))["checkpoint"]
    assert metrics["num_query"] == 10
    assert "left out, no match in the gallery: query/0007_c1" in capsys.readouterr().out
    table = pd.read_csv(tmp_path / "lonely" / "evaluate" / "checkpoint" / "per_query.csv")
    assert table.loc[table.pid == 7, "AP"].isna().all() and (table.loc[table.pid == 7, "num_matches"] == 0).all()


def test_training_names_the_folder_that_is_missing(market, tmp_path):
    for folder in ("query", "bounding_box_test"):
        shutil.copytree(market / folder, tmp_path / "test" / folder)
    given = ["data=market1501", f"data.root={tmp_path / 'test'}", "data.size=[64,32]"]
    run = Run.compose([*QUICK, *given, f"run.root={tmp_path}"])
    assert figures(evaluate.run(run))["checkpoint"]["num_query"] > 0
    with pytest.raises(InputError, match=r"no images to train on; train: .*bounding_box_train doesn't exist"):
        train.run(run)


def test_no_match_at_all_is_an_error(market, tmp_path):
    run = Run.compose(
        ["data=market1501", f"data.root={market}", "data.source.splits={train: null, query: query, "
         "gallery: bounding_box_train}", "data.size=[64,32]", "data.num_workers=0", f"run.root={tmp_path}"]
    )  # fmt: skip
    with pytest.raises(InputError, match="no query has a match"):
        evaluate.run(run)


def test_a_gallery_of_one_identity_is_said(tmp_path, capsys):
    crops = tmp_path / "crops"
    for file in (crops / pid / f"{image}.png" for pid in "ab" for image in range(3)):
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 32)).save(file)
    run = Run.compose([*QUICK, "data=folders", f"data.root={crops}", "data.size=[64,32]", f"run.root={tmp_path}"])
    evaluate.run(run)
    assert "checkpoint: the gallery holds one identity only" in capsys.readouterr().out
    assert any("can't be ranked: the gallery holds one identity" in note for note in run.datamodule().notes)


def test_an_unknown_baseline_is_named(market, tmp_path):
    run = Run.compose(
        ["data=market1501", f"data.root={market}", "data.size=[64,32]", "data.num_workers=0", f"run.root={tmp_path}",
         "evaluate.baselines=[histogram]"]
    )  # fmt: skip
    with pytest.raises(InputError, match="histogram is none; there are untrained and color-histogram"):
        evaluate.run(run)


@pytest.fixture(scope="module")
def scored(market, tmp_path_factory):
    """An evaluated run with every switch on, of the network's initial weights."""
    root = tmp_path_factory.mktemp("runs")
    overrides = [
        "data=market1501", f"data.root={market}", "data.size=[64,32]", "data.num_workers=0", f"run.root={root}",
        "run.name=all", "data.val_fraction=0.34", "data.val_identities=2",
        "evaluate.resamples=200", "evaluate.wanted_fpr=0.1",
    ]  # fmt: skip
    switches = [
        "evaluate.flip=true", "evaluate.expansion.enabled=true", "evaluate.rerank.enabled=true",
        "evaluate.rerank.k1=4", "evaluate.single_gallery_shot.enabled=true", f"evaluate.also=[mtmc:{market}]",
        "evaluate.same_camera=true", "evaluate.galleries=['second:*_c2s*']",
    ]  # fmt: skip
    evaluate.run(Run.compose([*overrides, *switches]))
    evaluate.run(
        Run.compose([*overrides, "run.name=again", "evaluate.against=all", "seed=1", "evaluate.pictured_queries=0"])
    )
    return root, [*overrides, *QUICK]


def test_every_switch_adds_its_own_row_beside_the_plain_one(scored, capsys, monkeypatch):
    rows = figures(Run(scored[0] / "all"))
    variants = ("flip", "expansion", "rerank", "same-camera", "gallery-second", "single-gallery-shot")
    assert list(rows) == ["checkpoint", *(f"checkpoint+{v}" for v in variants), "checkpoint@mtmc"]
    assert rows["checkpoint@mtmc"] == rows["checkpoint"]  # the same images under another name
    assert rows["checkpoint+rerank"] != rows["checkpoint"] and "mAP" not in rows["checkpoint+single-gallery-shot"]
    table = Run(scored[0] / "all").table()
    assert "[" in table.loc["checkpoint+rerank", "mAP"]
    monkeypatch.setenv("COLUMNS", "200")
    evaluate.print_results(Run(scored[0] / "all"))
    shown = capsys.readouterr().out
    assert all(f"checkpoint+{variant}" in shown for variant in variants)


def test_rankings_are_pictured_where_any_are_wanted(scored):
    pictures = {"worst.png", "median.png", "best.png"}
    drawn = (
        {file.name for file in (scored[0] / name / "evaluate" / "checkpoint").iterdir()} for name in ("all", "again")
    )
    assert [found & pictures for found in drawn] == [pictures, set()]


def test_a_part_of_the_gallery_scores_as_if_the_rest_were_not_there(scored, market, tmp_path):
    part = tmp_path / "market"
    shutil.copytree(market, part)
    for file in (part / "bounding_box_test").iterdir():
        if "_c2s" not in file.name:
            file.unlink()
    run = Run.compose([*scored[1], f"data.root={part}", "run.name=part"])
    alone = figures(evaluate.run(run))["checkpoint"]
    rows = figures(Run(scored[0] / "all"))
    assert rows["checkpoint+gallery-second"] == pytest.approx(alone) and alone["num_gallery"] < 24


def test_the_same_camera_counts_where_the_switch_says_so(scored):
    run = Run.compose([*scored[1], "evaluate.exclude_same_camera=false", "run.name=inclusive"])
    rows = figures(Run(scored[0] / "all"))
    assert rows["checkpoint+same-camera"] == figures(evaluate.run(run))["checkpoint"]


@pytest.mark.parametrize(
    ("pattern", "message"),
    [("*.png", "no gallery image's path fits '\\*.png'; they are like far/2.jpg"), ("far/*", "no query has a match")],
)
def test_a_part_of_the_gallery_without_images_or_matches_is_named(pattern, message):
    table = pd.DataFrame({"path": ["1.jpg", "far/2.jpg", "near/1.jpg"], "pid": [1, 2, 1], "camid": [1, 2, 2]})
    splits = ["query", "gallery", "gallery"]
    embeddings = Outputs(torch.eye(3), table.assign(split=splits))
    found = Retrieval.of(embeddings, ("query", "gallery"), "euclidean", True)
    assert found.within("near/*", "key").ranking.summary()["mAP"] == 1
    with pytest.raises(InputError, match=f"^key: {message}"):
        found.within(pattern, "key")


def test_two_runs_are_compared_query_by_query(scored):
    table = pd.read_csv(scored[0] / "again" / "evaluate" / "checkpoint" / "against_all.csv", index_col=0)
    one, two = (figures(Run(scored[0] / name))["checkpoint"] for name in ("all", "again"))
    assert table.loc["mAP", "difference"] == pytest.approx(two["mAP"] - one["mAP"])
    assert table.loc["mAP", "low"] <= table.loc["mAP", "difference"] <= table.loc["mAP", "high"]
    assert 0 < table.loc["mAP", "p_value"] <= 1


def test_a_run_on_other_queries_is_refused(scored, market):
    _, overrides = scored
    overrides = [o for o in overrides if "val_fraction" not in o and "run.name" not in o]
    splits = "data.source.splits={train: null, query: bounding_box_test, gallery: query}"
    with pytest.raises(InputError, match="its test images are others"):
        evaluate.run(Run.compose([*overrides, splits, "data.val_fraction=0", "run.name=c", "evaluate.against=all"]))


def test_two_images_are_judged_by_the_calibrated_threshold(scored, market, capsys):
    images = sorted((market / "query").glob("*.jpg"))
    calibration = json.loads((scored[0] / "all" / "verification.json").read_text())
    assert calibration["protocol"] == Run(scored[0] / "all").results["checkpoint"].protocol
    assert calibration["calibrated_on"] == "test" and calibration["threshold_low"] <= calibration["threshold"]
    run = Run.compose(scored[1])
    same = compare.run(run, images[0], images[0])
    assert same.same and same.distance == pytest.approx(0, abs=1e-4) and "the same" in str(same)
    pairs = [compare.run(run, images[0], image) for image in images[1:]]
    for verdict in pairs:
        assert verdict.same == (verdict.distance <= calibration["threshold"])
    with pytest.raises(InputError, match="no calibrated threshold"):
        compare.run(Run.compose([*scored[1], "run.name=absent"]), images[0], images[1])


def test_the_cross_domain_matrix_has_a_row_a_run(scored):
    table = matrix.transfer_matrix([Run(scored[0] / name) for name in ("all", "again")])
    assert list(table.index) == ["all (not trained)", "again (not trained)"]  # their weights are initial
    assert list(table) == ["market1501"]  # and not mtmc beside it: the same images are one test set, whatever its name
    assert matrix._rule({"test": "ab", "size": [32, 16], "distance": "cosine"}) == "distance=cosine"


def test_a_file_of_other_origin_scores_as_its_network_does(checkpoint, market, tmp_path, capsys):
    network, weights = checkpoint
    common = [*QUICK, "data=market1501", f"data.root={market}", "model=osnet_x0_25", f"run.root={tmp_path}",
              "run.name=foreign"]  # fmt: skip
    steps = as_steps(deployable(network, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]), (64, 32))
    (tmp_path / "theirs.onnx").write_bytes(qdq.float_onnx(steps, {}))
    assert main(["evaluate", f"model={tmp_path / 'theirs.onnx'}", *common]) == 0
    said = capsys.readouterr().out
    assert "float32 (B, 3, H, W), images of (64, 32), run by onnxruntime" in said
    assert "assumed: pixels scaled to [0, 1]" in said and "assumed: color order RGB" in said
    assert main(["evaluate", f"model={weights}", "data.size=[64,32]", *common]) == 0
    metrics = figures(Run(tmp_path / "foreign"))
    assert metrics["theirs.onnx"] == pytest.approx(metrics["osnet.pth"])
    for stage in (["export"], ["quantize"], ["predict", str(market)], ["enroll", str(market)]):
        assert main([*stage, f"run.root={tmp_path}", "run.name=foreign"]) == 2  # instead of a network of random weights
        assert f"is about {weights}, which was evaluated" in " ".join(capsys.readouterr().err.split())


def test_two_images_of_a_run_about_a_file_are_not_compared_and_it_is_said_why(checkpoint, market, tmp_path, capsys):
    common = [*QUICK, "data=market1501", f"data.root={market}", "data.size=[64,32]", "model=osnet_x0_25"]
    place, weights = [f"run.root={tmp_path}", "run.name=foreign"], checkpoint[1]
    assert main(["evaluate", f"model={weights}", *common, *place]) == 0
    images = sorted(map(str, (market / "query").glob("*.jpg")))[:2]
    assert main(["compare", *images, *place]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert f"is about {weights}, which was evaluated, and has no trained network" in said
    assert "run evaluate" not in said and "no calibrated threshold" not in said


@pytest.mark.parametrize("stage", ["evaluate", "export", "quantize"])
def test_damaged_weights_leave_no_run_folder(stage, market, tmp_path, capsys):
    (tmp_path / "torn.pth").write_bytes(b"PK\3\4 torn")
    common = [*QUICK, "data=market1501", f"data.root={market}", "data.size=[64,32]", "model=osnet_x0_25"]
    given = [f"model.weights={tmp_path / 'torn.pth'}", f"run.root={tmp_path}/runs", "run.name=new"]
    assert main([stage, *common, *given]) == 2
    assert "torn.pth" in capsys.readouterr().err and not (tmp_path / "runs" / "new").exists()


def test_a_distance_that_is_given_is_not_assumed(checkpoint, market, tmp_path, capsys):
    steps = as_steps(deployable(checkpoint[0], [0.5] * 3, [0.5] * 3), (64, 32))
    (tmp_path / "theirs.onnx").write_bytes(qdq.float_onnx(steps, {}))
    common = [*QUICK, "data=market1501", f"data.root={market}", f"run.root={tmp_path}", "run.name=foreign"]
    for given, words in (
        ([], "assumed: the euclidean distance, which theirs.onnx doesn't say; evaluate.distance says otherwise"),
        (["evaluate.distance=cosine"], "compared by the cosine distance, as evaluate.distance says"),
    ):
        run = Run.compose([*common, f"evaluate.file={tmp_path / 'theirs.onnx'}", "model.distance=euclidean", *given])
        evaluate.run(run)
        said = " ".join(capsys.readouterr().out.split())
        assert words in said and (not given or "assumed: the" not in said)


def test_an_evaluation_at_another_size_than_training_s_is_said(small, tmp_path, capsys):
    given = [*small, f"run.root={tmp_path}", "run.name=t", "trainer.max_epochs=1"]
    run = train.run(Run.compose(given))
    assert run.unlike_training == []
    capsys.readouterr()
    evaluate.run(Run.compose([*given, "data.size=[48,24]"]))
    height, width = run["data.size"]
    assert f"different settings, data.size: [{height}, {width}] -> [48, 24]" in capsys.readouterr().out
