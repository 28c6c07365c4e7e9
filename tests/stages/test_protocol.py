"""One protocol a test set: other sets by their own rule, thresholds with their distance, like compared with like."""

import numpy as np
import pandas as pd
import pytest
import torch

from reidlab.cli import main
from reidlab.errors import InputError
from reidlab.export.runtime import open_model
from reidlab.models import osnet_x0_25
from reidlab.run import File, Run
from reidlab.stages import compare, evaluate, export, matrix, predict

QUICK = ["evaluate.resamples=50", "evaluate.pictured_queries=0", "logger=none"]


def table_of(market, shift=0, identities=range(7, 13)):
    """The test crops of some identities of a Market-1501 folder as a table, their cameras moved on by `shift`."""
    rows = [
        {"path": str(file.relative_to(market)), "pid": int(file.name[:4]), "camid": int(file.name[6]) + shift,
         "split": split}
        for folder, split in (("query", "query"), ("bounding_box_test", "gallery"))
        for file in sorted((market / folder).glob("*.jpg")) if int(file.name[:4]) in identities
    ]  # fmt: skip
    return pd.DataFrame(rows)


@pytest.fixture(scope="module")
def places(market, tmp_path_factory):
    """Runs' folder, overrides, and two folders of data=csv whose test sets differ."""
    root = tmp_path_factory.mktemp("protocol")
    for name, identities in (("first", range(7, 12)), ("second", range(7, 11))):
        (root / name).mkdir()
        for part in ("query", "bounding_box_test"):
            (root / name / part).symlink_to(market / part)
        table_of(market, identities=identities).to_csv(root / name / "samples.csv", index=False)
    own = [f"data.root={market}", "data.size=[32,16]", "data.num_workers=0", "data.val_fraction=0", f"run.root={root}"]
    return root, [*own, *QUICK]


def scored(places, name, *more):
    return evaluate.run(Run.compose(["data=market1501", *places[1], f"run.name={name}", *more]))


def by_hand(run, exclude_same_camera):
    """mAP of the test images, one query at a time."""
    datamodule = run.datamodule()
    table = datamodule.samples.split("query", "gallery")
    values = evaluate.embed(run.network, datamodule, table, "cpu", "").values.numpy()
    queries, precisions = np.flatnonzero(table["split"] == "query"), []
    for query in queries:
        own, others = table.iloc[query], np.flatnonzero(table["split"] == "gallery")
        same = [table.iloc[i].pid == own.pid and table.iloc[i].camid == own.camid for i in others]
        others = others[~np.array(same)] if exclude_same_camera else others
        order = others[np.argsort(np.linalg.norm(values[others] - values[query], axis=1), kind="stable")]
        right = np.flatnonzero(table["pid"].to_numpy()[order] == own.pid)
        precisions.append(np.mean([(n + 1) / (place + 1) for n, place in enumerate(right)]))
    return np.mean(precisions)


@pytest.mark.parametrize(
    ("home", "own", "rules"),
    [("data.exclude_same_camera=true", "null", (True, True)), ("data.exclude_same_camera=false", "null", (False, True)),
     ("data.exclude_same_camera=true", "evaluate.exclude_same_camera=false", (False, False))],
)  # fmt: skip
def test_another_test_set_is_scored_by_its_own_rule(home, own, rules, places, market):
    run = scored(places, "rules", home, f"evaluate.also=[mtmc:{market}]", *([] if own == "null" else [own]))
    found = [run.results[row] for row in ("checkpoint", "checkpoint@mtmc")]
    expected = [by_hand(run, rule) for rule in rules]
    assert [result.figures["mAP"] for result in found] == pytest.approx(expected, abs=1e-6)
    assert [result.protocol["exclude_same_camera"] for result in found] == [*rules]
    assert by_hand(run, True) != pytest.approx(by_hand(run, False), abs=1e-3)


def test_two_test_sets_of_one_name_have_rows_and_columns_of_their_own(places):
    root, _ = places
    both = scored(places, "both", f"evaluate.also=['csv:{root}/first','csv:{root}/second']")
    rows = {row: result for row, result in both.results.items() if row.startswith("checkpoint@")}
    digests = {result.protocol["test"] for result in rows.values()}
    assert len(rows) == len(digests) == 2 and "checkpoint@csv" in rows
    single = scored(places, "single", f"evaluate.also=[csv:{root}/second]")
    table = matrix.transfer_matrix([both, single])
    assert list(table.columns) == ["market1501", *(f"csv {digest[:8]}" for digest in
                                                   (rows["checkpoint@csv"].protocol["test"], *(digests - {
                                                       rows["checkpoint@csv"].protocol["test"]})))]  # fmt: skip
    assert table.loc["single (not trained)"].isna().tolist() == [False, True, False]
    assert single.results["checkpoint@csv"].figures["mAP"] == table.iloc[1, 2] == table.iloc[0, 2]
    evaluated = single.results["checkpoint@csv"]
    again = scored(places, "single", f"evaluate.also=[csv:{root}/first]")
    assert again.results["checkpoint@csv"] == evaluated and len(again.results) == 3


def test_a_matrix_of_several_protocols_is_marked(places, capsys):
    one, other = scored(places, "one"), scored(places, "cosine", "evaluate.distance=cosine")
    table = matrix.run([one, other])
    assert table["protocol"].str.partition(",")[0].tolist() == ["distance=euclidean", "distance=cosine"]
    assert "different protocols" in capsys.readouterr().out
    assert "protocol" not in matrix.transfer_matrix([one, one])
    one.record({"checkpoint": {"top-1": 1.0}}, None, one.checkpoint)
    with pytest.raises(InputError, match="has no mAP"):
        matrix.transfer_matrix([one])


@pytest.fixture(scope="module")
def other(places):
    run = scored(places, "other")
    return run, run.results["checkpoint"]


@pytest.mark.parametrize(
    ("change", "message"),
    [({"distance": "cosine"}, "its distance is cosine, here it is euclidean"), ({"flip": True}, "its flip is True"),
     ({"exclude_same_camera": False}, "its exclude_same_camera is False"),
     ({"test": "x"}, "its test images are others"),
     (None, "protocol of its figures isn't recorded")],
)  # fmt: skip
def test_against_refuses_another_protocol(change, message, places, other):
    run, found = other
    run.record({"checkpoint": found.figures}, None if change is None else found.protocol | change, found.checkpoint)
    with pytest.raises(InputError, match=f"evaluate.against=other: .*{message}"):
        scored(places, "against", "evaluate.against=other")


def test_against_names_what_cannot_be_compared_before_anything_is_scored(places, tmp_path):
    scored(places, "known")
    with pytest.raises(InputError, match=r"did you mean known\?"):
        scored(places, "fresh", "evaluate.against=knwon")
    with pytest.raises(InputError, match=r"leave out evaluate\.file"):
        scored(places, "fresh", "evaluate.against=known", "evaluate.file=a.onnx")
    assert not (places[0] / "fresh").exists()


def test_a_threshold_of_one_distance_is_never_used_on_another(places, market):
    images = sorted((market / "query").glob("*.jpg"))[:2]
    run = scored(places, "threshold", "evaluate.wanted_fpr=0.1", "model.distance=cosine")
    assert run.verification["distance"] == "cosine" and compare.run(run, *images).threshold < 2
    assert "same" in pd.read_csv(predict.run(run, images[0]))
    export.run(run)
    assert "threshold" in metadata(run)
    run = scored(places, "threshold", "evaluate.wanted_fpr=0.1", "model.distance=cosine", "evaluate.distance=euclidean")
    assert run.verification["distance"] == "euclidean" and run.threshold("cosine") is None
    with pytest.raises(
        InputError, match=r"^evaluate\.distance=euclidean: .* model\.distance=euclidean .*run\.name=thres"
    ):
        compare.run(run, *images)
    asked = ["data=market1501", *places[1], "run.name=threshold"]
    with pytest.raises(
        InputError, match=r"on its cosine distance, but on the euclidean .*`reidlab evaluate run\.name=thr"
    ):
        compare.run(Run.compose([*asked, "model.distance=cosine"]), *images)
    by_the_other = compare.run(Run.compose([*asked, "model.distance=euclidean"]), *images)
    assert by_the_other.threshold == run.verification["threshold"] and by_the_other.measure == "euclidean"
    assert "same" not in pd.read_csv(predict.run(run, images[0]))
    export.run(run)
    assert "threshold" not in metadata(run) and metadata(run)["distance"] == "cosine"


def metadata(run):
    return open_model(run / File.ONNX).metadata


def test_the_checkpoint_and_its_own_file_are_scored_by_one_rule(places):
    for rule in ("data.exclude_same_camera=false", "evaluate.exclude_same_camera=false"):
        run = scored(places, "file", rule)
        export.run(run)
        run = scored(places, "file", rule, f"evaluate.file={run / File.ONNX}")
        own, file = (run.results[row] for row in ("checkpoint", "model.onnx"))
        assert file.figures["mAP"] == pytest.approx(own.figures["mAP"], abs=1e-4)
        rules = ("distance", "exclude_same_camera", "test")
        assert [file.protocol[name] for name in rules] == [own.protocol[name] for name in rules]


def test_a_threshold_of_few_identities_or_few_accepted_pairs_warns(places, capsys):
    run = scored(places, "few", "evaluate.wanted_fpr=0.001")
    verdict, said = run.verification, capsys.readouterr().out
    assert verdict["num_identity_pairs"] == 6 * 5 and verdict["threshold"] > 0
    assert "the threshold rests on 30 pairs of two identities (test), and this rate takes 1,000 or more" in said
    assert "data.val_identities" not in said  # which takes 33 identities of four times as many
    accepts = f"accepts {verdict['test_tpr']:.0%} of the test pairs of one identity"
    assert (accepts in said) == (verdict["test_tpr"] < 0.2)
    run = scored(places, "few", "evaluate.wanted_fpr=0.9")
    assert run.verification["test_tpr"] > 0.2 and "threshold" not in capsys.readouterr().out
    run = scored(places, "few", "evaluate.wanted_fpr=1e-9")
    verdict, said = run.verification, capsys.readouterr().out
    if verdict["test_tpr"] < 0.2:
        assert f"accepts {verdict['test_tpr']:.0%} of the test pairs of one identity" in said


def test_a_test_split_of_one_identity_has_figures_and_no_threshold(places, market, tmp_path, capsys):
    table_of(market, identities=[7]).to_csv(tmp_path / "samples.csv", index=False)
    more = ["data=csv", f"data.source.file={tmp_path}/samples.csv"]
    run = evaluate.run(Run.compose([*more, *places[1], "run.name=lone"]))
    assert run.results["checkpoint"].figures["mAP"] == 1 and run.verification == {}
    assert "no threshold is calibrated" in capsys.readouterr().out


def test_data_keeps_its_config_and_training_goes_on_from_it(market, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("REIDLAB_ROOT", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "conf" / "experiment").mkdir(parents=True)
    crops = tmp_path / "crops of (1), #2"
    crops.symlink_to(market)
    given = [
        "data=market1501",
        f"data.root={crops}",
        "model=fdmobilenet_x0_25",
        "data.size=[32,16]",
        "data.num_workers=0",
        "logger=none",
        "data.batch_size=8",
        "data.num_instances=2",
        "trainer.max_epochs=1",
        "trainer.accelerator=cpu",
    ]
    assert main(["data", *given, "run.name=2024_06"]) == 0
    assert main(["train", "run.name=2024_06", "data.val_fraction=0.34"]) == 0
    run = Run("2024_06")
    assert run["data.root"] == str(crops) and run["data.val_fraction"] == 0.34 and run.is_trained
    assert main(["evaluate", "run.name=2024_06", *QUICK]) == 0
    before = sorted(tmp_path.rglob("*"))
    capsys.readouterr()
    for command in ("evaluate", "export", "quantize", "deploy", "report", "serve"):
        assert main([command, "run.name=2024_60"]) == 2
        assert "did you mean 2024_06?" in capsys.readouterr().err
        assert main([command]) == 2
        error = capsys.readouterr().err
        assert (
            "run.name=synthetic-osnet_x0_25: no such run" in error and "2024_06" in error and "overwrite" not in error
        )
    image = str(next((market / "query").glob("*.jpg")))
    assert main(["predict", image, "run.name=2024_60"]) == main(["compare", image, image, "run.name=2024_60"]) == 2
    assert sorted(tmp_path.rglob("*")) == before


@pytest.fixture(scope="module")
def dead(small, tmp_path_factory):
    """Overrides of a network whose first convolution lets nothing through."""
    root = tmp_path_factory.mktemp("dead")
    network = osnet_x0_25(num_classes=10)
    torch.nn.init.zeros_(network.conv1.bn.weight)
    torch.nn.init.constant_(network.conv1.bn.bias, 1)
    torch.save({"state_dict": network.state_dict()}, root / "dead.pth")
    quick = ["evaluate.resamples=2", "evaluate.pictured_queries=0"]
    return [*small, "model=osnet_x0_25", f"model.weights={root}/dead.pth", f"run.root={root}", "run.name=dead", *quick]


def test_one_output_for_all_images_is_said(dead, capsys):
    evaluate.run(Run.compose(dead))
    assert "checkpoint: the network gives all images the same output" in capsys.readouterr().out


def test_more_neighbors_than_the_gallery_has_are_said(dead, capsys):
    more = ["evaluate.expansion.enabled=true", "evaluate.rerank.enabled=true", "evaluate.rerank.k1=500"]
    run = evaluate.run(Run.compose([*dead, *more]))
    said, count = capsys.readouterr().out, int(run.results["checkpoint"].figures["num_gallery"])
    assert f"evaluate.rerank.k1=500: the gallery has {count} images" in " ".join(said.split())
    assert "expansion.k" not in said and "rerank.k2" not in said


def test_rows_of_other_image_sizes_are_told_apart(dead, capsys):
    evaluate.run(Run.compose([*dead, "evaluate.same_camera=true"]))
    run = evaluate.run(Run.compose([*dead, "data.size=[64,32]"]))
    sizes = {row: result.protocol["size"] for row, result in run.results.items()}
    assert sizes["checkpoint"] == [64, 32] and sizes["checkpoint+same-camera"] == [32, 16]
    evaluate.print_results(run)
    said = " ".join(capsys.readouterr().out.split())
    assert "rows of images of several sizes, which don't compare: checkpoint 64 x 32" in said
