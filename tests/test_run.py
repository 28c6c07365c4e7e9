"""The run: what its folder holds, which of it belongs to the present checkpoint, and what its settings build."""

import json

import pytest
import torch

from reidlab.config import CLONE
from reidlab.errors import InputError
from reidlab.files import file_hash
from reidlab.run import INITIAL, File, Row, Run, Task, provenance


@pytest.fixture
def run(tmp_path):
    made = Run.compose(["experiment=smoke", f"run.root={tmp_path}", "run.name=mine"])
    made.keep_config()
    return made


def checkpoint(run, seed):
    """Weights in the place of the run's best checkpoint."""
    torch.manual_seed(seed)
    file = run / File.BEST
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"state_dict": run.untrained_network().state_dict() | {"seed": torch.tensor(seed)}}, file)
    return run.checkpoint


def test_rows_of_other_stages_stay(run):
    run.record({Row.CHECKPOINT: {"mAP": 0.5}, Row.UNTRAINED: {"mAP": 0.1}})
    run.record({Row.CHECKPOINT: {"mAP": 0.6}})
    assert {row: result.figures for row, result in run.results.items()} == {
        "checkpoint": {"mAP": 0.6},
        "untrained": {"mAP": 0.1},
    }


def test_the_table_has_rows_of_an_accuracy_alone(run):
    run.record({"checkpoint": {"mAP": 0.5, "num_query": 4}, "emulated m7": {"instructions": 7}})
    assert run.table().to_dict("index") == {"checkpoint": {"mAP": "0.500", "num_query": 4}}


def test_every_row_carries_its_checkpoint_and_its_protocol(run):
    protocol = {"distance": "cosine", "exclude_same_camera": True, "test": "ab" * 32}
    run.record({Row.ONNX: {"mAP": 0.5}}, protocol, run.checkpoint)
    stored = json.loads((run / File.METRICS).read_text())["onnx"]
    assert stored == {"mAP": 0.5, "made_by": {"checkpoint": INITIAL, "protocol": protocol, "data": "synthetic"}}
    assert run.results[Row.ONNX].protocol == protocol and run.results[Row.ONNX].checkpoint == INITIAL


def test_rows_and_threshold_of_another_checkpoint_are_not_the_runs(run):
    old = checkpoint(run, 1)
    run.record({Row.CHECKPOINT: {"mAP": 0.9}, Row.TFLITE_INT8: {"mAP": 0.8}}, {}, old)
    run.record({Row.UNTRAINED: {"mAP": 0.1}, "theirs.onnx": {"mAP": 0.4}})
    run.write(File.VERIFICATION, json.dumps({"threshold": 0.3, "distance": "cosine", "checkpoint": old}))
    assert run.threshold("cosine") == 0.3 and run.threshold("euclidean") is None and not run.stale_results
    assert checkpoint(run, 2) != old
    assert list(run.results) == ["untrained", "theirs.onnx"]
    assert run.stale_results == ["checkpoint", "tflite int8"]
    assert run.threshold("cosine") is None and run.verification == {}
    assert run.table()["mAP"].tolist() == ["0.100", "0.400"]


def test_figures_of_a_file_that_was_made_anew_are_not_the_runs(run):
    checkpoint(run, 1)
    rows = {Row.CHECKPOINT: {"mAP": 0.9}, Row.TFLITE_INT8: {"mAP": 0.8}, "emulated m7": {"instructions": 7}}
    file = run.write(File.TFLITE_INT8, b"by one method")
    run.record(rows, {}, run.checkpoint, dict.fromkeys([Row.TFLITE_INT8, "emulated m7"], file))
    assert list(run.results) == [*rows]
    run.write(File.TFLITE_INT8, b"by another")
    assert list(run.results) == ["checkpoint"] and run.stale_results == ["tflite int8", "emulated m7"]
    run.record({Row.TFLITE_INT8: {"mAP": 0.7}}, {}, run.checkpoint)  # by an earlier release, which noted no file
    assert list(run.results) == ["checkpoint", "tflite int8"]


def test_rows_of_several_sets_of_test_images_are_named(run):
    for row, test in (("checkpoint", "ab" * 32), ("onnx", "cd" * 32), ("checkpoint@other", "ef" * 32)):
        run.record({row: {"mAP": 0.5}}, {"test": test}, run.checkpoint)
    (line,) = run.incomparable
    assert line.startswith("rows of several sets of test images") and "checkpoint abababab, onnx cdcdcdcd" in line


def test_a_hash_of_digits_is_text(run):
    run.write(File.PARITY, "stage,checkpoint,mAP\ntflite,0123456789012345,0.5\nonnx,1234567890123e45,0.5\n")
    assert run.table_of(File.PARITY)["checkpoint"].tolist() == ["0123456789012345", "1234567890123e45"]


def test_rows_without_a_checkpoint_come_from_earlier_releases_and_count(run):
    run.write(File.METRICS, json.dumps({"checkpoint": {"mAP": 0.7}, "colour-histogram": {"mAP": 0.1}}))
    checkpoint(run, 1)
    assert run.results[Row.CHECKPOINT].figures == {"mAP": 0.7} and not run.stale_results


@pytest.mark.parametrize("content", ["[]", '{"checkpoint": 3}', "{", "null"])
def test_metrics_that_hold_something_else_are_named(run, content):
    run.write(File.METRICS, content)
    with pytest.raises(InputError, match=r"metrics\.json"):
        _ = run.results


def test_a_run_is_opened_by_its_name_or_its_path(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path.parent)
    assert Run(run.folder).config == run.config
    assert Run(str(run.folder)).folder == run.folder
    moved = tmp_path / "moved"
    run.folder.rename(moved)
    assert Run(moved).name == "moved" and Run(moved)["run.root"] == str(tmp_path)
    with pytest.raises(InputError, match=r"movde: no such run; did you mean moved\?"):
        Run(tmp_path / "movde")
    with pytest.raises(InputError, match="no such run"):
        Run("nobody")


def test_settings_are_plain_values(run):
    assert run["data.size"] == [64, 32] and type(run["data.size"]) is list
    assert run["data.about"]["license"] == "Apache-2.0" and run["no.such.key"] is None
    assert run.kind == ("person", "people")


def test_the_task_is_known_without_a_trained_network(run, tmp_path):
    assert run.task is Task.REID and not run.is_classifier
    flowers = Run.compose(["experiment=flowers_smoke", f"run.root={tmp_path}"])
    assert flowers.task is Task.CLASSIFICATION and flowers.task.figures[0] == "top-1"
    assert flowers.kind.several == "classes"


def test_the_network_is_the_checkpoints_else_the_given_weights_else_the_seeds(run, tmp_path):
    assert run.weights is None and run.checkpoint == INITIAL
    initial = run.untrained_network().state_dict()
    assert all(torch.equal(tensor, initial[name]) for name, tensor in run.network.state_dict().items())
    weights = CLONE / "data" / "models" / "demo_osnet_x0_25" / "checkpoints" / "best.ckpt"
    given = Run.compose(["experiment=smoke", f"run.root={tmp_path}", "run.name=given", f"model.weights={weights}"])
    assert given.weights == weights and given.checkpoint == file_hash(weights) and not given.is_trained
    checkpoint(given, 1)
    assert given.weights == given / File.BEST and given.is_trained


def of_a_resnet(tmp_path, *overrides, name="theirs"):
    small = ["experiment=smoke", "model=resnet18", f"run.root={tmp_path}", f"run.name={name}", *overrides]
    return Run.compose(small)


def test_another_head_is_refused_for_evaluation_with_the_settings_that_fit(tmp_path):
    theirs = of_a_resnet(tmp_path, "model.network.feat_dim=16", "model.network.projection=relu")
    file = tmp_path / "w.pth.tar"
    torch.save(theirs.untrained_network().state_dict(), file)
    ours = of_a_resnet(tmp_path, "model.network.feat_dim=16", f"model.weights={file}", name="ours")
    with pytest.raises(
        InputError, match=r"w\.pth\.tar: .*fc\.1\.weight.*would differ.*set model.network.projection=relu"
    ):
        _ = ours.network
    assert ours.load(ours.untrained_network(), file).unfit  # for training on it is said, not refused


def test_what_a_file_says_of_its_images_is_compared(tmp_path, capsys):
    run = of_a_resnet(tmp_path)
    state = run.untrained_network().state_dict()
    for std, warned in ((0.5, True), (None, False)):
        deviations = torch.tensor([std] * 3 if std else [0.229, 0.224, 0.225])
        means = torch.tensor([0.485, 0.456, 0.406])
        torch.save(state | {"pixel_mean": 255 * means, "pixel_std": 255 * deviations}, tmp_path / "w.pth")
        run.network_with(tmp_path / "w.pth")
        assert ("set model.std=[0.500,0.500,0.500]" in capsys.readouterr().out) == warned


def test_a_checkpoint_of_a_run_with_another_head_is_said(tmp_path, capsys):
    theirs, ours = (of_a_resnet(tmp_path, f"model.network.neck_feat={n}", name=n) for n in ("before", "after"))
    theirs.keep_config()
    checkpoint(theirs, 1)
    ours.network_with(theirs / File.BEST)
    assert "model.network.neck_feat before there, after here" in capsys.readouterr().out
    theirs.network_with(theirs / File.BEST)
    assert "other settings" not in capsys.readouterr().out


def test_an_unfinished_training_says_so(run, capsys):
    checkpoint(run, 1)
    (run / File.LAST).write_bytes((run / File.BEST).read_bytes())
    assert run.network and "its training isn't finished" in capsys.readouterr().out
    (run / File.TRAINING).write_text('{"finished": true}')
    again = Run(run.folder)
    assert again.network and "isn't finished" not in capsys.readouterr().out
    (run / File.TRAINING).unlink()
    (run / File.BEST).unlink()
    with pytest.raises(InputError, match=r"stopped before an epoch was validated; run `reidlab train"):
        _ = Run(run.folder).network


def test_opening_and_composing_write_nothing(tmp_path):
    run = Run.compose(["experiment=smoke", f"run.root={tmp_path}"])
    assert run.results == {} and run.training == {} and run.verification == {} and not list(tmp_path.iterdir())


def test_what_a_stage_reads_is_not_changed_by_it(run):
    before = run.config.copy()
    run.datamodule(size=[32, 16], cache=None)
    run["data.size"].append(3)
    assert run.config == before


def test_provenance_names_versions_and_machine():
    made_by = provenance()
    assert made_by["versions"]["torch"] and made_by["machine"]["cores"] >= 1


def test_earlier_releases_rows_stand_alone_or_not_at_all(run):
    run.write(File.METRICS, json.dumps({"checkpoint": {"mAP": 0.7}, "onnx": {"mAP": 0.6}, "untrained": {"mAP": 0.1}}))
    checkpoint(run, 1)
    assert list(run.results) == ["checkpoint", "onnx", "untrained"]
    run.record({Row.CHECKPOINT: {"mAP": 0.5}}, {}, run.checkpoint)
    assert list(run.results) == ["checkpoint", "untrained"] and run.stale_results == ["onnx"]


def test_another_checkpoint_is_another_network(run):
    checkpoint(run, 1)
    first = run.network
    assert run.network is first
    (run / File.BEST).unlink()
    checkpoint(run, 2)
    assert run.network is not first


def test_the_commands_of_later_stages_keep_what_they_were_given(tmp_path):
    stored = ["experiment=smoke", "seed=3", f"run.root={tmp_path}", "run.name=kept"]
    Run.compose(stored).keep_config()
    for stage, given in {
        "evaluate": ["evaluate.flip=true", "evaluate.also=[mtmc:a b]", "seed=3"],
        "deploy deploy=stm32": ["deploy=stm32", f"data.root={tmp_path}"],
        "export": [],
        "report": [f"evaluate.file={tmp_path}/theirs.tflite"],
    }.items():
        Run.resume([f"run.root={tmp_path}", "run.name=kept", *given]).note_command(stage)
    run = Run(tmp_path / "kept")
    assert run.noted_command("evaluate") == (
        "reidlab evaluate evaluate.flip=true 'evaluate.also=[mtmc:a b]' run.name=kept"
    )
    assert run.noted_command("deploy deploy=stm32") == "reidlab deploy deploy=stm32 data.root=... run.name=kept"
    assert run.noted_command("export") == "reidlab export run.name=kept" == run.command("export")
    assert run.noted_command("report") == "reidlab report evaluate.file=theirs.tflite run.name=kept"
    assert run.noted_command("quantize") == "reidlab quantize run.name=kept"
