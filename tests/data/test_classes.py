import hashlib

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from reidlab.data import (
    ClassDataModule,
    ClassFolders,
    RandomResizedCrop,
    Samples,
    set_aside_images,
)
from reidlab.data.validate import class_summary, validate_classes
from reidlab.errors import InputError


def found(samples):
    return [(one.level, one.kind, one.where) for one in validate_classes(samples, progress=False)]


def splits_of(samples):
    return dict(zip(samples.table["path"], samples.table["split"], strict=True))


def test_each_class_is_divided_by_the_hash_of_seed_and_content(flowers):
    divided = set_aside_images(ClassFolders(flowers)(), {"test": 0.15, "val": 0.1}, seed=7)
    for label in ("rose", "class10", "class2"):
        files = sorted((flowers / label).iterdir(), key=lambda f: hashlib.sha256(b"7\t" + f.read_bytes()).hexdigest())
        expected = ["test"] * 3 + ["val"] * 2 + ["train"] * 15
        assert [splits_of(divided)[f"{label}/{file.name}"] for file in files] == expected


def test_names_and_the_validation_fraction_do_not_move_the_test_split(flowers, tmp_path_factory):
    def test_bytes(root, **fractions):
        samples = set_aside_images(ClassFolders(root)(), fractions, seed=0)
        return {(samples.root / path).read_bytes() for path in samples.split("test")["path"]}

    renamed = tmp_path_factory.mktemp("renamed")
    for number, file in enumerate(sorted(flowers.rglob("*.png"), key=lambda f: f.read_bytes())):
        (renamed / file.parent.name).mkdir(exist_ok=True)
        (renamed / file.parent.name / f"x{number}.png").write_bytes(file.read_bytes())
    there = test_bytes(flowers, test=0.2, val=0.1)
    assert there == test_bytes(renamed, test=0.2, val=0.0) == test_bytes(renamed, test=0.2)
    assert len(there) == 12
    other = set_aside_images(ClassFolders(flowers)(), {"test": 0.2}, seed=1)
    assert {(flowers / path).read_bytes() for path in other.split("test")["path"]} != there


def test_equal_images_of_a_class_stay_together(flowers):
    for number in range(20):
        (flowers / "rose" / f"copy{number}.png").write_bytes((flowers / "rose" / f"{number}.png").read_bytes())
    where = splits_of(set_aside_images(ClassFolders(flowers)(), {"test": 0.3, "val": 0.3}, seed=0))
    assert all(where[f"rose/copy{number}.png"] == where[f"rose/{number}.png"] for number in range(20))
    assert list(where.values()).count("test") == 6 + 6 + 12


def test_a_class_keeps_an_image_to_train_on_and_given_splits_are_kept(tmp_path):
    table = pd.DataFrame({"path": ["a", "b", "c"], "pid": [1, 2, 2], "camid": 0, "split": ["train", "train", "test"]})
    for name in "abc":
        (tmp_path / name).write_bytes(name.encode())
    divided = set_aside_images(Samples(table, tmp_path), {"test": 0.9, "val": 0.9}, seed=0)
    assert divided.table["split"].tolist() == ["train", "train", "test"]
    assert divided.notes == [
        "the test split is the data set's own; test_fraction=0.9 isn't used",
        "the test split has images of 1 of 2 classes",
        "no validation: no class has enough images for val_fraction=0.9; the last epoch is the result",
    ]


@pytest.mark.parametrize(("fraction", "noted"), [
    (0, []),
    (0.5, ["the val split has images of 2 of 3 classes"]),
    (0.2, ["no validation: no class has enough images for val_fraction=0.2; the last epoch is the result"]),
])  # fmt: skip
def test_classes_that_are_not_validated_are_noted(fraction, noted, tmp_path):
    table = pd.DataFrame({"path": [*"abcde"], "pid": [1, 1, 2, 2, 3], "camid": 0, "split": "train"})
    for name in "abcde":
        (tmp_path / name).write_bytes(name.encode())
    assert set_aside_images(Samples(table, tmp_path), {"val": fraction}, seed=0).notes == noted


@pytest.mark.parametrize("fractions", [{"test": 1.0}, {"test": -0.1}, {"test": 0.5, "val": 0.5}])
def test_fractions_that_leave_nothing_are_refused(fractions, flowers):
    with pytest.raises(InputError, match="fraction"):
        set_aside_images(ClassFolders(flowers)(), fractions, seed=0)


def test_batches(flowers):
    data = ClassDataModule(
        ClassFolders(flowers), (16, 16), (0, 0, 0), (1, 1, 1), test_fraction=0.2, val_fraction=0.1,
        batch_size=8, num_workers=0, enlarged=1.5,
    )  # fmt: skip
    assert data.num_classes == 3 and data.class_names == ["class2", "class10", "rose"]
    stored = next(iter(data.train_dataloader()))
    assert stored["image"].shape == (8, 3, 24, 24) and stored["image"].dtype == torch.uint8
    ready = data.preprocess(stored, training=True)["image"]
    assert ready.shape == (8, 3, 16, 16) and ready.min() >= 0 and ready.max() <= 1
    seen = {"train": data.train_dataloader(), "val": data.val_dataloader(), "test": data.test_dataloader()}
    for split, loader in seen.items():
        table = data.samples.table
        for batch in loader:
            rows = table.loc[batch["index"].tolist()]
            assert set(rows["split"]) == {split}
            assert [data.classes[label] for label in batch["pid"]] == rows["pid"].tolist()
    whole = next(iter(data.test_dataloader()))["image"]
    assert whole.shape[2:] == (16, 16)


def test_crops_grow_with_the_epochs_and_say_what_they_show(flowers):
    data = ClassDataModule(
        ClassFolders(flowers), (32, 32), (0, 0, 0), (1, 1, 1), batch_size=8, num_workers=0,
        progressive=[(0, 0.5), (0.6, 0.75), (0.8, 1)],
    )  # fmt: skip
    stored = next(iter(data.train_dataloader()))
    sides = []
    for epoch in range(10):
        data.progress = epoch / 10
        sides.append(data.preprocess(stored, training=True)["image"].shape[2])
    assert sides == [16] * 6 + [24] * 2 + [32] * 2
    torch.manual_seed(0)
    window = data.preprocess(stored, training=True)["window"]
    torch.manual_seed(0)
    assert torch.equal(window * 40, data.crop.draw(stored["image"]).float())


@pytest.mark.parametrize(("progressive", "crop"), [
    ([(0, 0)], RandomResizedCrop), ([(0.4, 1), (0, 0.75)], RandomResizedCrop), ([(0, 0.5)], None),
])  # fmt: skip
def test_sizes_that_no_crop_can_have_are_refused(progressive, crop, flowers):
    with pytest.raises(InputError, match=r"data\.progressive"):
        ClassDataModule(ClassFolders(flowers), (32, 32), (0, 0, 0), (1, 1, 1), progressive=progressive, crop=crop)


def test_decoded_images_are_the_same_batches(flowers, tmp_path_factory):
    options = {"test_fraction": 0.2, "batch_size": 8, "num_workers": 0}
    cache = tmp_path_factory.mktemp("cache")
    read, kept = (
        ClassDataModule(ClassFolders(flowers), (16, 16), (0, 0, 0), (1, 1, 1), cache=place, **options)
        for place in (None, cache)
    )
    for one, two in zip(read.train_dataloader(), kept.train_dataloader(), strict=True):
        assert torch.equal(one["index"], two["index"]) and torch.equal(one["image"], two["image"])
    assert len(list(cache.iterdir())) >= 1


def test_without_a_crop_training_reads_the_network_size(flowers):
    data = ClassDataModule(
        ClassFolders(flowers),
        (16, 16),
        (0, 0, 0),
        (1, 1, 1),
        crop=None,
        batch_size=4,
        num_workers=0,
    )
    assert next(iter(data.train_dataloader()))["image"].shape[2:] == (16, 16)
    data = ClassDataModule(ClassFolders(flowers), (16, 16), (0, 0, 0), (1, 1, 1), batch_size=400)
    with pytest.raises(InputError, match=r"data.batch_size=400 is more than the \d+ training images"):
        data.train_dataloader()
    assert isinstance(data.crop, RandomResizedCrop)


def test_the_validator_names_what_is_wrong_with_classes(flowers, write_image):
    samples = set_aside_images(ClassFolders(flowers)(), {"test": 0.2, "val": 0.1}, seed=0)
    assert found(samples) == []
    where = splits_of(samples)
    trained, tested = (next(p for p in where if where[p] == s and p.startswith("rose")) for s in ("train", "test"))
    (flowers / tested).write_bytes((flowers / trained).read_bytes())
    write_image(flowers / "class2/0.png", size=(64, 64)).write_bytes(b"\x89PNG nothing")
    table = samples.table.copy()
    table.loc[(table["pid"] == 2) & (table["split"] == "train"), "split"] = "test"
    kinds = found(Samples(table, flowers, names=samples.names))
    assert ("error", "unreadable image", "class2/0.png") in kinds
    assert ("error", "class without training images", "class class10") in kinds
    assert [kind for level, kind, _ in kinds if level == "warning"] == ["duplicate across splits"]
    lonely = table[(table["pid"] != 3) | (table["path"].isin([trained, tested]))]
    assert ("warning", "class with one image", "class rose") in found(Samples(lonely, flowers, names=samples.names))
    assert ("error", "empty split", "test") in found(Samples(samples.split("train"), flowers, names=samples.names))


def test_near_duplicates_of_training_images_are_named(flowers):
    samples = set_aside_images(ClassFolders(flowers)(), {"test": 0.2, "val": 0.1}, seed=0)
    trained, tested, validated = (samples.split(name)["path"].iloc[-1] for name in ("train", "test", "val"))
    with Image.open(flowers / trained) as image:
        smooth = image.resize((6, 5), Image.Resampling.BOX).resize((400, 360), Image.Resampling.BICUBIC)
    smooth.save(flowers / trained)
    smooth.resize((300, 290)).save(flowers / tested, format="JPEG", quality=50)
    smooth.transpose(Image.Transpose.ROTATE_180).save(flowers / validated)
    (finding,) = validate_classes(samples, progress=False)
    assert finding[:3] == ("warning", "near-duplicate across splits", tested)
    assert f"test; looks like {trained}" in finding.message


def test_summary_counts_classes(flowers):
    samples = set_aside_images(ClassFolders(flowers)(), {"test": 0.2, "val": 0.1}, seed=0)
    samples.table = samples.table.drop(index=samples.table.index[:2])
    summary = class_summary(samples)
    assert summary.loc["all"].tolist() == [3, 58, 18, 20]
    assert summary.index.tolist() == ["train", "val", "test", "all"]
    assert np.all(summary["classes"] == 3)
    assert summary["images"][:3].sum() == 58


def test_gray_and_exif_images_are_read_as_any_other(tmp_path):
    for label in "ab":
        (tmp_path / label).mkdir()
        for number in range(4):
            pixels = np.full((20, 20), 40 * number, np.uint8)
            Image.fromarray(pixels, mode="L").save(tmp_path / label / f"{number}.jpg")
    data = ClassDataModule(
        ClassFolders(tmp_path), (16, 16), (0, 0, 0), (1, 1, 1), test_fraction=0.3, batch_size=2,
        num_workers=0,
    )  # fmt: skip
    assert next(iter(data.test_dataloader()))["image"].shape[1] == 3
