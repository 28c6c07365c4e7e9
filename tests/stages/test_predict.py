"""Predictions against the evaluation's own tables and against distances computed by hand."""

import os
import shutil
from pathlib import Path

import numpy as np
import onnx
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from onnx import TensorProto, helper
from PIL import Image

from reidlab import cli
from reidlab.config import SHIPPED
from reidlab.data import read_image
from reidlab.errors import InputError
from reidlab.files import file_hash, read_json, write_json
from reidlab.gallery.extraction import MANIFEST, decoded
from reidlab.run import File, Run
from reidlab.stages import enroll, evaluate, export, identify, predict, quantize, train


@pytest.fixture(scope="module")
def classes(tmp_path_factory):
    """The overrides of a run that tells drawn shapes, and a folder of eight of them."""
    root = tmp_path_factory.mktemp("predict")
    overrides = [
        *("data=shapes", f"data.root={root}/shapes", "data.source.images_per_class=12", "data.size=[32,32]"),
        *("data.batch_size=16", "data.num_workers=0", "model=fdmobilenet_x0_25", "trainer.max_epochs=1"),
        *("trainer.accelerator=cpu", "logger=none", f"run.root={root}/runs", "run.name=shapes"),
    ]
    train.run(Run.compose(overrides))
    some = root / "some"
    for label in ("circle", "star"):
        (some / label).mkdir(parents=True)
        for file in sorted((root / "shapes").rglob(f"{label}/*.png"))[:4]:
            (some / label / file.name).write_bytes(file.read_bytes())
    (some / "notes.txt").write_text("not an image")
    return [f"run.root={root}/runs", "run.name=shapes"], some


@pytest.fixture(scope="module")
def people(market, small, tmp_path_factory):
    root = tmp_path_factory.mktemp("people")
    overrides = [*small, f"run.root={root}", "run.name=people", "trainer.max_epochs=1"]
    train.run(Run.compose(overrides))
    return [f"run.root={root}", "run.name=people"], market


def by_hand(run, files):
    """What the network returns for image files, one at a time."""
    mean, std = (torch.tensor(value).view(3, 1, 1) for value in (run["model.mean"], run["model.std"]))
    rows = []
    for file in files:
        image = torch.from_numpy(read_image(file, tuple(run["data.size"]))).permute(2, 0, 1) / 255
        with torch.no_grad():
            rows.append(run.network(((image - mean) / std)[None]).embedding[0])
    return torch.stack(rows)


def test_the_classes_of_a_folder(classes, capsys):
    overrides, some = classes
    run = Run.resume([*overrides, "predict.k=3"])
    table = pd.read_csv(predict.run(run, some))
    files = sorted(some.rglob("*.png"))
    assert table["path"].unique().tolist() == [file.relative_to(some).as_posix() for file in files]
    assert table["rank"].tolist() == [1, 2, 3] * 8
    confidences = by_hand(run, files).sort(1, descending=True)
    names = np.array(["circle", "cross", "square", "star", "triangle"])
    assert table["class"].tolist() == names[confidences.indices[:, :3].flatten()].tolist()
    np.testing.assert_allclose(table["confidence"], confidences.values[:, :3].flatten(), atol=1e-5)
    assert "circle/0000.png" in capsys.readouterr().out
    with Image.open(run / File.PREDICT / "some.png") as picture:
        assert picture.width > 600


def test_several_files_and_folders_each_image_once(classes, tmp_path):
    overrides, some = classes
    elsewhere = tmp_path / "0000.png"
    shutil.copy(some / "star" / "0000.png", elsewhere)
    given = [elsewhere, some / "circle", some / "circle" / "0000.png"]
    assert cli.main(["predict", *map(str, given[:2]), "predict.k=1", *overrides, str(given[2])]) == 0
    table = pd.read_csv(Run.resume(overrides) / File.PREDICT / "0000_and_2_more.csv")
    files = [elsewhere, *sorted((some / "circle").glob("*.png"))]
    root = os.path.commonpath(files)
    assert table["path"].tolist() == [os.path.relpath(file, root) for file in files]
    alone = pd.concat(pd.read_csv(predict.run(Run.resume([*overrides, "predict.k=1"]), file)) for file in files)
    np.testing.assert_allclose(table["confidence"], alone["confidence"], atol=1e-5)
    day = shutil.copytree(some / "circle", tmp_path / "2026.11.30")
    assert predict.run(Run.resume(overrides), day).name == "2026.11.30.csv"
    with pytest.raises(InputError, match=r"predict\.out takes one source"):
        predict.run(Run.resume([*overrides, f"predict.out={tmp_path / 'out'}"]), *given)


def test_images_of_another_place_leave_those_of_one_name(classes, tmp_path):
    overrides, some = classes
    first, second = (shutil.copytree(some / kind, tmp_path / kind / "crops") for kind in ("star", "circle"))
    (second / "0000.png").unlink()
    run = Run.resume(overrides)
    files = [predict.run(run, place) for place in (first, second, first, second)]
    assert [file.name for file in files] == ["crops.csv", "crops-2.csv"] * 2
    assert all(file.with_suffix(".png").is_file() for file in files)
    assert [pd.read_csv(file)["path"].nunique() for file in files[:2]] == [4, 3]


def test_a_table_of_an_earlier_release_is_kept(classes, tmp_path):
    overrides, some = classes
    run, place = Run.resume(overrides), shutil.copytree(some / "star", tmp_path / "earlier")
    earlier = run.folder / File.PREDICT / "earlier.csv"
    earlier.parent.mkdir(exist_ok=True)
    earlier.write_text("path\n")
    assert [predict.run(run, place).name for _ in range(2)] == ["earlier-2.csv"] * 2
    assert earlier.read_text() == "path\n"


def test_names_that_no_table_of_names_could_hold(classes, tmp_path):
    overrides, some = classes
    below = tmp_path / os.fsdecode(b"caf\xe9") / "\u202acrops\u202c"
    shutil.copytree(some / "star", below)
    files = [predict.run(Run.resume(overrides), below) for _ in range(2)]
    assert files[0] == files[1] and files[0].name == "\ufffdcrops\ufffd.csv" and len(pd.read_csv(files[0])) >= 4


def test_a_bare_video_is_refused_with_the_layout_that_it_needs(classes, tmp_path):
    (tmp_path / "door.MP4").write_bytes(b"\0\0\0\x18ftypmp42")
    with pytest.raises(InputError, match=r"door\.MP4: a video without boxes; .* NAME/det/det\.txt"):
        predict.run(Run.resume(classes[0]), tmp_path / "door.MP4")


@pytest.mark.parametrize("place", ["..", ".", "../star/.."])
def test_the_folder_above_has_its_own_name(place, classes, monkeypatch):
    overrides, some = classes
    monkeypatch.chdir(some if place == "." else some / "star")
    assert predict.run(Run.resume(overrides), Path(place)).name == "some.csv"


def test_one_file_by_an_int8_model(classes, tmp_path):
    overrides, some = classes
    image = shutil.copy(some / "star" / "0001.png", tmp_path / "lone.png")
    quick = ["quantize.method=ptq", "quantize.max_drop=100", "quantize.formats=[tflite]", "quantize.threads=1"]
    run = Run.resume([*overrides, *quick])
    quantize.run(run)
    model = run / File.TFLITE_INT8
    command = ["predict", str(image), "predict.k=2", f"predict.model={model}", *overrides]
    assert cli.main(command) == 0
    table = pd.read_csv(run / File.PREDICT / "lone.csv")
    exact = by_hand(Run.resume(overrides), [some / "star" / "0001.png"])[0].max()
    assert len(table) == 2 and table["confidence"][0] == pytest.approx(float(exact), abs=0.1)
    theirs = SHIPPED / "data" / "models" / "flowers_fdmobilenet_x0_25_128" / File.TFLITE_INT8
    table = pd.read_csv(predict.run(Run.resume([*overrides, f"predict.model={theirs}"]), some / "star" / "0001.png"))
    assert set(table["class"]) <= {"daisy", "dandelion", "roses", "sunflowers", "tulips"}
    with pytest.raises(InputError, match=r"model_int8\.tflite: its classes are daisy, .*; those of data 'shapes' are"):
        evaluate.run(Run.resume([*overrides, f"evaluate.file={theirs}"]))


def test_the_ranked_gallery_of_a_query(people):
    overrides, market = people
    run = Run.resume([*overrides, "predict.k=4"])
    queries, gallery = (sorted((market / name).glob("*.jpg")) for name in ("query", "bounding_box_test"))
    table = pd.read_csv(predict.run(run, market / "query"))
    distances = torch.cdist(by_hand(run, queries).double(), by_hand(run, gallery).double())
    nearest = distances.topk(4, largest=False)
    assert table["found"].tolist() == [f"bounding_box_test/{gallery[i].name}" for i in nearest.indices.flatten()]
    np.testing.assert_allclose(table["distance"], nearest.values.flatten(), rtol=1e-3)
    assert table["pid"].tolist() == [int(gallery[i].name[:4]) for i in nearest.indices.flatten()]
    assert "same" not in table


def test_another_gallery_and_the_calibrated_threshold(people):
    overrides, market = people
    run = Run.resume([*overrides, "predict.k=50", f"predict.gallery={market}/bounding_box_train"])
    query = sorted((market / "query").glob("*.jpg"))[0]
    before = pd.read_csv(predict.run(run, query))
    assert len(before) == len(list((market / "bounding_box_train").glob("*.jpg"))) and "pid" not in before
    verdict = {"threshold": float(before["distance"][2]), "distance": "euclidean", "checkpoint": run.checkpoint}
    write_json(run / File.VERIFICATION, verdict)
    after = pd.read_csv(predict.run(run, query))
    assert after["same"].tolist() == [True] * 3 + [False] * (len(after) - 3)
    for other in ({"distance": "cosine"}, {"checkpoint": "0" * 16}):  # thresholds of something else
        write_json(run / File.VERIFICATION, verdict | other)
        assert "same" not in pd.read_csv(predict.run(run, query))
    (run / File.VERIFICATION).unlink()


def test_a_file_has_the_threshold_that_was_calibrated_for_it(people, tmp_path):
    overrides, market = people
    run = Run.resume([*overrides, "predict.k=9"])
    export.run(run)
    file, query = shutil.copy(run / File.ONNX, tmp_path / "theirs.onnx"), sorted((market / "query").glob("*.jpg"))[0]
    given = [*overrides, "predict.k=9", f"predict.model={file}"]
    darker = [*given, "evaluate.mean=[0.1,0.1,0.1]", "evaluate.std=[1,1,1]"]  # by these a file has another threshold

    def predicted(overrides):
        return pd.read_csv(predict.run(Run.resume(overrides), query))

    before = predicted(given)
    assert "same" not in before
    places = run / File.VERIFICATION, run / File.EVALUATE / "theirs.onnx" / File.VERIFICATION
    for place, nth, of in zip(places, (2, 5), (run.checkpoint, file_hash(Path(file))), strict=True):
        write_json(place, {"threshold": float(before["distance"][nth]), "distance": "euclidean", "checkpoint": of})
        assert predicted(given)["same"].sum() == nth + 1
        assert "same" not in predicted(darker)
    as_said = f"{of} by mean=[0.1, 0.1, 0.1] std=[1, 1, 1]"
    write_json(places[1], {"threshold": 1e9, "distance": "euclidean", "checkpoint": as_said})
    assert predicted(darker)["same"].all()
    for place in places:
        place.unlink()


def test_embeddings_in_a_folder_are_enrolled_as_they_are(people, tmp_path, capsys):
    overrides, market = people
    out, pattern = tmp_path / "out", r"predict.pattern='(?P<pid>\d+)_c(?P<camid>\d)'"
    given = [*overrides, f"predict.out={out}", "predict.precision=float32", "predict.shard_images=5", pattern]
    run, files = Run.resume(given), sorted((market / "query").glob("*.jpg"))
    assert predict.run(run, market / "query") == out
    table = pq.read_table(out)
    exact = by_hand(run, files).numpy()
    np.testing.assert_allclose(decoded(table), exact, rtol=1e-4, atol=1e-5)
    assert table["path"].to_pylist() == [file.name for file in files]
    gallery = enroll.run(Run.resume([*overrides, f"gallery.folder={tmp_path}/gallery"]), out)
    assert gallery.table()["pid"].tolist() == [file.name[:4] for file in files]
    assert gallery.table()["camid"].tolist() == [file.name[6] for file in files]
    np.testing.assert_allclose(gallery.embeddings(), exact, rtol=2e-3, atol=1e-3)
    assert cli.main(["predict", str(market / "query"), *given, "predict.threads=2"]) == 2
    assert f"{out}: holds embeddings by threads 1, not 2; choose another folder" in capsys.readouterr().err
    assert cli.main(["predict", str(market / "query"), *given[:-1], r"predict.pattern='(?P<pid>\d+)'"]) == 2
    assert r"holds embeddings by pattern (?P<pid>\d+)_c(?P<camid>\d), not (?P<pid>\d+); " in capsys.readouterr().err


MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
SETTINGS = [f"evaluate.mean={MEAN}", f"evaluate.std={STD}", "evaluate.color_order=BGR", "evaluate.output=Identity_1"]


@pytest.fixture
def of_two_outputs(tmp_path):
    """A file that takes images of any size, and says nothing of itself: their mean and their largest colors."""
    nodes = [
        helper.make_node(kind, ["pixels"], [f"{name}_4d"]) for kind, name in
        (("GlobalAveragePool", "Identity"), ("GlobalMaxPool", "Identity_1"))
    ]  # fmt: skip
    nodes += [helper.make_node("Flatten", [f"{name}_4d"], [name]) for name in ("Identity", "Identity_1")]
    given = helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ("n", 3, "h", "w"))
    made = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ("n", 3)) for name in ("Identity", "Identity_1")]
    graph = helper.make_graph(nodes, "g", [given], made)
    file = tmp_path / "two.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), file)
    return file


def largest_colors(files, size=(20, 10)):
    """What Identity_1 is of image files by `SETTINGS`."""
    pixels = np.stack([read_image(file, size)[..., ::-1] for file in files]) / 255
    return ((pixels - MEAN) / STD).max((1, 2))


def test_embeddings_of_a_file_are_by_the_settings_of_evaluate(people, of_two_outputs, tmp_path, capsys):
    overrides, market = people
    files = sorted((market / "query").glob("*.jpg"))
    given = [*overrides, f"predict.model={of_two_outputs}", "predict.precision=float32", "predict.shard_images=5",
             r"predict.pattern='(?P<pid>\d+)_c(?P<camid>\d)'", "evaluate.distance=cosine"]  # fmt: skip
    command = ["predict", str(market / "query"), f"predict.out={tmp_path}/out", *given]
    assert cli.main([*command, *SETTINGS, "data.size=[20,10]", "predict.processes=2"]) == 0
    said = capsys.readouterr().out
    assert "assumed: pixels" not in said and "color order" not in said
    assert "assumed: images of (20, 10), since the file takes any; data.size says otherwise" in said
    found = decoded(pq.read_table(tmp_path / "out"))
    np.testing.assert_allclose(found, largest_colors(files), rtol=1e-5, atol=1e-5)
    assert read_json(tmp_path / "out" / MANIFEST)["distance"] == "cosine"
    assert cli.main([*command, *SETTINGS[:3], "data.size=[20,10]"]) == 2
    assert "has 2 outputs" in capsys.readouterr().err
    for other in (["evaluate.output=Identity", *SETTINGS[:3]], SETTINGS[3:], ["evaluate.mean=[0,0,0]", *SETTINGS[1:]]):
        assert cli.main([*command, *other, "data.size=[20,10]"]) == 2
        assert "holds embeddings by checkpoint" in capsys.readouterr().err
    gallery = [f"gallery.folder={tmp_path}/gallery", f"gallery.model={of_two_outputs}", "evaluate.distance=cosine"]
    known = enroll.run(Run.resume([*overrides, *gallery, *SETTINGS, "data.size=[20,10]"]), tmp_path / "out")
    np.testing.assert_allclose(known.embeddings(), largest_colors(files), rtol=1e-3)
    with pytest.raises(InputError, match="embedded with checkpoint"):
        enroll.run(Run.resume([*overrides, *gallery[1:], f"gallery.folder={tmp_path}/new", "data.size=[20,10]",
                               "evaluate.output=Identity_1"]), tmp_path / "out")  # fmt: skip


def test_a_gallery_of_a_file_is_by_the_settings_of_evaluate(people, of_two_outputs, tmp_path):
    overrides, market = people
    files = sorted((market / "query").glob("*.jpg"))
    given = [*overrides, f"gallery.folder={tmp_path}/gallery", f"gallery.model={of_two_outputs}", "data.size=[20,10]",
             r"gallery.pattern='(?P<pid>\d+)'", "evaluate.distance=cosine", "gallery.threshold=0.1"]  # fmt: skip
    gallery = enroll.run(Run.resume([*given, *SETTINGS]), market / "query")
    np.testing.assert_allclose(gallery.embeddings(), largest_colors(files), rtol=1e-3)
    assert gallery.about["distance"] == "cosine" and gallery.about["size"] == [20, 10]
    whole = Run.resume([*given, *SETTINGS, "gallery.template=best"])
    assert all(answer.distance < 1e-3 for answer in identify.run(whole, market / "query").values())
    for other in (["evaluate.output=Identity", *SETTINGS[:3]], SETTINGS[3:], [*SETTINGS, "data.size=[40,20]"],
                  [*SETTINGS, "evaluate.distance=euclidean"]):  # fmt: skip
        for stage in (enroll, identify):
            with pytest.raises(InputError, match="enrolled with"):
                stage.run(Run.resume([*given, *other]), market / "query")


def test_what_was_said_of_the_runs_own_file_isnt_said_of_another(people, of_two_outputs, tmp_path, caplog):
    """Not by `predict`, nor where embeddings are stored, unless the command itself says it."""
    overrides, market = people
    other = shutil.copy(of_two_outputs, tmp_path / "other.onnx")
    place = [f"run.root={tmp_path}/runs", "run.name=about_a_file"]
    given = [*(o for o in overrides if not o.startswith("run.")), *place, f"evaluate.file={of_two_outputs}", *SETTINGS]
    Run.compose([*given, "data.size=[20,10]", "evaluate.distance=cosine"]).keep_config()
    with pytest.raises(InputError, match=r"other\.onnx: has 2 outputs"):
        predict.run(Run.resume([*place, f"predict.model={other}"]), market / "query")
    stored = Run.resume([*place, f"predict.model={other}", "evaluate.output=Identity", f"predict.out={tmp_path}/out"])
    predict.run(stored, market / "query")
    assert "assumed: color order RGB" in caplog.text
    files = sorted((market / "query").glob("*.jpg"))
    found = decoded(pq.read_table(tmp_path / "out"))
    np.testing.assert_allclose(found, np.stack([read_image(f, (20, 10)) for f in files]).mean((1, 2)) / 255, rtol=1e-2)
    same = Run.resume([*place, f"predict.model={of_two_outputs}", f"predict.out={tmp_path}/same"])
    predict.run(same, market / "query")
    np.testing.assert_allclose(decoded(pq.read_table(tmp_path / "same")), largest_colors(files), rtol=1e-2, atol=1e-2)


def test_settings_that_a_file_says_itself_change_nothing(people, tmp_path):
    """A gallery that the run's network began is asked by its own file, whether these are given too or not."""
    overrides, market = people
    run = export.run(Run.resume(overrides))
    place = [*overrides, f"gallery.folder={tmp_path}/gallery", r"gallery.pattern='(?P<pid>\d+)'"]
    enroll.run(Run.resume(place), market / "query")
    known = onnx.load(run / File.ONNX).metadata_props
    own = [f"evaluate.{entry.key}={entry.value}" for entry in known if entry.key in ("mean", "std", "color_order")]
    assert len(own) == 3
    for given in ([], own):
        asked = Run.resume([*place, *given, f"gallery.model={run / File.ONNX}", "gallery.threshold=9"])
        assert all(answer.distance < 0.2 for answer in identify.run(asked, market / "query").values())


def test_results_go_below_the_working_folder(people, tmp_path, monkeypatch):
    overrides, market = people
    monkeypatch.chdir(tmp_path)
    assert predict.run(Run.resume([*overrides, "predict.out=2024"]), market / "query") == tmp_path / "2024"
    assert enroll.run(Run.resume([*overrides, "gallery.folder=people", r"gallery.pattern='(?P<pid>\d+)'"]),
                      market / "query").place == str(tmp_path / "people")  # fmt: skip


def test_embeddings_of_classes_there_are_none(classes, tmp_path):
    overrides, some = classes
    with pytest.raises(InputError, match=r"its network classifies images; predict\.out"):
        predict.run(Run.resume([*overrides, f"predict.out={tmp_path}/out"]), some)


@pytest.mark.parametrize(
    ("place", "message"),
    [("none.jpg", "no such file or folder"), ("empty", "holds no image"), ("broken.png", "not a readable image")],
)
def test_what_is_no_image_is_named(place, message, classes, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.png").write_bytes(b"\x89PNG no more")
    with pytest.raises(InputError, match=f"{place}.*{message}"):
        predict.run(Run.resume(classes[0]), tmp_path / place)
