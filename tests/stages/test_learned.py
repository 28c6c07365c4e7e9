"""Images that a network learned are held out from it no more."""

import hashlib
import shutil

import pandas as pd
import pytest

from reidlab.errors import InputError
from reidlab.files import read_json
from reidlab.run import File, Run
from reidlab.stages import evaluate, export, quantize, train


@pytest.fixture(scope="module")
def crops(market, tmp_path_factory):
    """One folder per identity."""
    root = tmp_path_factory.mktemp("crops")
    for file in sorted(market.glob("*/*.jpg")):
        (root / f"p{file.name[:4]}").mkdir(exist_ok=True)
        shutil.copy(file, root / f"p{file.name[:4]}" / f"{file.parent.name}_{file.name}")
    return root


def settings(small, crops, root, *more):
    rest = [o for o in small if not o.startswith(("data=", "data.root="))]
    given = ["data=folders", f"data.root={crops}", f"run.root={root}", "run.name=r", "model=fdmobilenet_x0_25"]
    return Run.compose([*given, *rest, "trainer.max_epochs=1", *more])


def sums(run, *splits):
    """SHA-256 of the images of some splits, by hashlib."""
    samples = run.datamodule().samples
    table = samples.table[samples.table["split"].isin(splits)]
    return {hashlib.sha256((samples.root / path).read_bytes()).hexdigest(): path for path in table["path"]}


HELD = ("query", "gallery", "val", "val_query", "val_gallery")


@pytest.fixture(scope="module")
def trained(small, crops, tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    run = train.run(settings(small, crops, root))
    export.run(run)
    return run


@pytest.mark.parametrize("change", ["data.source.seed=1", "data.source.test_fraction=0.7"])
def test_another_division_than_that_of_training_is_refused(change, small, crops, trained):
    run = settings(small, crops, trained.folder.parent, change)
    seen = {*sums(trained, "train")} & {*sums(run, *HELD)}
    assert seen, "the change moves nobody"
    expected = rf"learned {len(seen)} of the {len(sums(run, *HELD))} images"
    for stage in (evaluate, quantize):
        with pytest.raises(InputError, match=expected):
            stage.run(run)
    tested = rf"learned {len({*sums(trained, 'train')} & {*sums(run, *HELD[:2])})} of"
    for file in (File.BEST, File.ONNX):
        with pytest.raises(InputError, match=tested):
            evaluate.run(settings(small, crops, trained.folder.parent, change, f"evaluate.file={trained / file}"))
    assert not trained.has(File.METRICS)


def test_another_validation_split_chooses_nothing(small, crops, trained, tmp_path, capsys):
    """The run's own is refused; a file from elsewhere is tested, and gets its threshold there."""
    run = settings(small, crops, trained.folder.parent, "seed=1")
    seen = {*sums(trained, "train")} & {*sums(run, *HELD)}
    assert seen and not seen & {*sums(run, *HELD[:2])}
    with pytest.raises(InputError, match=rf"learned {len(seen)} of"):
        evaluate.run(run)
    here = settings(small, crops, tmp_path, "seed=1", f"evaluate.file={trained / File.ONNX}", "run.name=other")
    evaluate.run(here)
    assert f"model.onnx: learned {len(seen)} of the" in capsys.readouterr().out
    assert read_json(here / "evaluate" / "model.onnx" / "verification.json")["calibrated_on"] == "test"


def test_a_file_beside_another_tools_settings_has_noted_nothing(trained, tmp_path):
    (tmp_path / "config.yaml").write_text("model: [yolo")
    samples = trained.datamodule().samples
    assert not trained.learned(samples, samples.split("train"), tmp_path / "export" / "model.onnx").any()
    assert trained.learned(samples, samples.split("train")).all()


def test_a_folder_that_somebody_new_is_put_into_divides_people_anew(small, crops, trained, tmp_path):
    newcomer = tmp_path / "crops" / "a newcomer"
    shutil.copytree(crops, tmp_path / "crops")
    shutil.copytree(crops / "p0001", newcomer)
    for file in newcomer.iterdir():
        file.write_bytes(file.read_bytes() + b"0")  # other bytes, the same picture
    shutil.copytree(trained.folder, tmp_path / "r")
    run = settings(small, tmp_path / "crops", tmp_path)
    assert {*sums(trained, "train")} & {*sums(run, *HELD)}
    with pytest.raises(InputError, match=r"the network of .* learned \d+ of"):
        evaluate.run(run)
    (tmp_path / "r" / File.TRAINING).unlink()
    with pytest.raises(InputError, match=r"began with other images.*run\.overwrite=true"):
        train.run(run)


def test_copies_that_were_in_both_splits_when_it_was_trained_are_no_reason(small, crops, trained, tmp_path):
    """They are for `reidlab data` to find."""
    twice = tmp_path / "crops"
    shutil.copytree(crops, twice)
    run = settings(small, twice, tmp_path)
    train_image, test_image = (sorted(sums(run, split).values())[0] for split in ("train", "query"))
    shutil.copy(twice / train_image, twice / test_image)
    run = train.run(run)
    assert {*sums(run, "train")} & {*sums(run, "query")}
    assert {*pd.read_csv(run / File.LEARNED)["sha256"]} == {*sums(run, "train")} - {*sums(run, *HELD)}
    evaluate.run(run)
    assert "mAP" in read_json(run / File.METRICS)["checkpoint"]


def copied(crops, place, more):
    """The same pictures of other bytes."""
    shutil.copytree(crops, place)
    for file in place.glob("*/*"):
        file.write_bytes(file.read_bytes() + more)
    return place


def test_what_weights_and_teachers_learned_is_learned_through_generations(small, crops, trained, tmp_path):
    """A child and a grandchild of other images, and a student: each is refused where the first one's are tested."""
    others, third = (copied(crops, tmp_path / name, name.encode()) for name in ("crops", "third"))
    child = train.run(settings(small, others, tmp_path, f"model.weights={trained / File.BEST}", "run.name=child"))
    assert {*pd.read_csv(child / File.LEARNED)["sha256"]} == {*sums(child, "train")} | {*sums(trained, "train")}
    again = train.run(settings(small, others, tmp_path, f"model.weights={trained / File.BEST}", "run.name=child"))
    assert again.table_of(File.LEARNED).equals(child.table_of(File.LEARNED))
    follows = ["distill=standard", "distill.logits=0", f"distill.teacher={child.folder}", "run.name=student"]
    for given in ([f"model.weights={child / File.BEST}", "run.name=grandchild"], follows):
        run = train.run(settings(small, third, tmp_path, *given))
        for root, first in ((crops, trained), (others, child)):
            tested = settings(small, root, tmp_path, "data.source.seed=1", f"evaluate.file={run / File.BEST}")
            seen = {*sums(first, "train")} & {*sums(tested, *HELD[:2])}
            with pytest.raises(InputError, match=rf"learned {len(seen)} of the {len(sums(tested, *HELD[:2]))} images"):
                evaluate.run(tested)


def test_weights_of_unknown_origin_choose_no_int8_method_on_images_that_they_may_know(
    small, crops, trained, tmp_path, capsys
):
    weights = shutil.copy(trained / File.BEST, tmp_path / "theirs.ckpt")
    known, foreign = (
        settings(small, crops, tmp_path, f"model.weights={file}") for file in (trained / File.BEST, weights)
    )
    for run, unseen in ((trained, True), (known, True), (foreign, False)):
        datamodule = run.datamodule()
        assert (len(run.unseen(datamodule)) > 0) == unseen
        assert quantize._set_aside(run, datamodule).source == f"{'' if unseen else 'perhaps learned '}validation"
    train.run(foreign)
    assert "theirs.ckpt: nobody noted what it learned" in capsys.readouterr().out


def test_copies_among_training_images_do_not_keep_a_training_from_going_on(small, crops, trained, tmp_path):
    others = copied(crops, tmp_path / "crops", b"twice")
    given = small, others, tmp_path, f"model.weights={trained / File.BEST}"
    first, second, *_ = sums(settings(*given), "train").values()
    shutil.copy(others / first, others / second)
    run = train.run(settings(*given))
    (run / File.TRAINING).unlink()
    assert train.run(settings(*given)).training["finished"]
    (run / File.TRAINING).unlink()
    (others / second).write_bytes((others / second).read_bytes() + b"0")
    with pytest.raises(InputError, match="began with other images"):
        train.run(settings(*given))


@pytest.mark.parametrize("given", ["model.weights={}", "distill.teacher={}"])
def test_a_training_on_a_division_of_which_its_start_or_teacher_learned_is_refused(
    given, small, crops, trained, tmp_path
):
    more = ["distill=standard", "distill.logits=0"] if given.startswith("distill") else []
    file = trained.folder if more else trained / File.BEST
    run = settings(small, crops, tmp_path, "data.source.seed=1", *more, given.format(file))
    with pytest.raises(InputError, match=r"learned \d+ of the"):
        train.run(run)
    assert not run.has(File.LAST)
