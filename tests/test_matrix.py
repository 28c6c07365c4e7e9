"""Any crops through all stages: each step ends well, or in one line that says why it can't be."""

import itertools
import shutil

import pandas as pd
import pytest

from reidlab.cli import main
from reidlab.run import File, Row, Run

STAGES = ("data", "train", "evaluate", "export", "quantize", "deploy", "report", "compare", "predict")
PIXELS = {"plain": ([0, 0, 0], [1, 1, 1]), "imagenet": ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])}
DISTANCES = ("cosine", "euclidean")


def crops(root):
    """The drawn crops by identity: path, pid, camera."""
    for file in sorted(root.rglob("*.jpg")):
        pid, camera, *_ = file.stem.split("_")
        yield file, int(pid), int(camera[1])


def market_names(market, place):
    shutil.copytree(market, place)
    return ["data=market1501"]


def folders(market, place, camera=False):
    for file, pid, cam in crops(market):
        (place / f"person {pid}").mkdir(parents=True, exist_ok=True)
        shutil.copy(file, place / f"person {pid}" / f"{'cam' if camera else ''}{cam}-{file.stem[-9:]}.jpg")
    return ["data=folders"]


def folders_with_cameras(market, place):
    return [*folders(market, place, camera=True), r"data.source.camera='cam(?P<camid>\d+)'"]


def text_ids(market, place, one_camera=False):
    shutil.copytree(market, place)
    rows = [(f.relative_to(market), f"anna_{pid}", 1 if one_camera else cam) for f, pid, cam in crops(market)]
    pd.DataFrame(rows, columns=["path", "pid", "camid"]).to_csv(place / "samples.csv", index=False)
    return ["data=csv"]


def one_camera(market, place):
    return text_ids(market, place, one_camera=True)


def six_identities(market, place):
    for file, pid, _ in crops(market):
        if pid % 6 in (1, 2, 3):  # three to train on, three to test
            (place / file.parent.name).mkdir(parents=True, exist_ok=True)
            shutil.copy(file, place / file.parent.name)
    return ["data=market1501", "data.batch_size=4"]


LAYOUTS = {
    layout.__name__: layout
    for layout in (market_names, folders, folders_with_cameras, text_ids, one_camera, six_identities)
}


@pytest.fixture
def walk(market, small, tmp_path, capsys):
    """Runs stages in turn on a layout of the drawn crops; the status of each, and the line of each that failed."""

    def run(layout, pixels, distance, stages):
        place, (mean, std) = tmp_path / "crops", PIXELS[pixels]
        given = LAYOUTS[layout](market, place)
        settings = [
            *(override for override in small if not override.startswith(("data=", "data.root="))),
            *given,
            "model=fdmobilenet_x0_25",
            f"data.root={place}",
            "data.size=[64,32]",
            "trainer.max_epochs=1",
            f"model.mean={mean}".replace(" ", ""),
            f"model.std={std}".replace(" ", ""),
            f"model.distance={distance}",
            "evaluate.resamples=20",
            "evaluate.pictured_queries=1",
            "quantize.method=ptq",
            "quantize.images=8",
            "quantize.threads=1",
            "quantize.runtimes=[litert,onnxruntime]",
            "quantize.max_drop=100",
            "deploy.images=2",
            "deploy.cores=[]",
            f"run.root={tmp_path / 'runs'}",
            "run.name=t",
        ]
        first, second = map(str, sorted(place.rglob("*.jpg"))[:2])
        more = {"compare": [first, second], "predict": [first]}
        status, lines = {}, {}
        for stage in stages:
            status[stage] = main([stage, *more.get(stage, []), *settings])
            if status[stage]:
                lines[stage] = capsys.readouterr().err.strip().splitlines()[-1]
        return status, lines, tmp_path / "runs" / "t"

    return run


def check(layout, status, lines, folder):
    for stage, line in lines.items():
        assert status[stage] == 2 and line.startswith("reidlab: ") and "stopped by" not in line, f"{stage}: {line}"
    if layout == "one_camera" and "evaluate" in lines:  # by the default rule nothing is left to compare
        assert "exclude_same_camera" in lines["evaluate"]
        return
    assert not {"data", "train", "evaluate", "export"} & {*lines}, lines
    figures = Run(folder).results[Row.CHECKPOINT].figures
    assert 0 < figures["mAP"] <= 1 and figures["num_query"] > 0
    for stage, file in {"export": File.ONNX, "report": File.CARD, "deploy": File.C_SOURCE}.items():
        assert (folder / file).exists() == (status.get(stage, 1) == 0), stage


# Each layout, each normalization and each distance at least once; the slower stages on one of them.
DIAGONAL = [
    (layout, pixels, distance, STAGES if layout == "text_ids" else ("train", "evaluate", "export", "compare"))
    for layout, (pixels, distance) in zip(LAYOUTS, itertools.cycle(itertools.product(PIXELS, DISTANCES)), strict=False)
]


@pytest.mark.parametrize(("layout", "pixels", "distance", "stages"), DIAGONAL)
def test_the_diagonal(layout, pixels, distance, stages, walk):
    check(layout, *walk(layout, pixels, distance, stages))


@pytest.mark.slow
@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("pixels", PIXELS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_cell(layout, pixels, distance, walk):
    check(layout, *walk(layout, pixels, distance, STAGES))
