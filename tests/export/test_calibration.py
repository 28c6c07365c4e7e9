from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from reidlab.data import ReidDataModule, Samples
from reidlab.errors import InputError
from reidlab.export.calibration import CalibrationImages, ImageBatches, choose_images, unseen_images


def table(counts):
    pids = np.repeat(list(counts), list(counts.values()))
    return pd.DataFrame({"path": [f"{i}.png" for i in range(len(pids))], "pid": pids, "camid": 0, "split": "train"})


@pytest.mark.parametrize(("count", "per_identity"), [(3, {1: 1, 2: 1, 3: 1}), (7, {1: 3, 2: 1, 3: 3})])
def test_identities_are_served_in_turn(count, per_identity):
    chosen = choose_images(table({1: 50, 2: 1, 3: 9}), count, seed=0)
    assert chosen["pid"].value_counts().to_dict() == per_identity


def test_the_choice_is_fixed_by_the_seed_and_a_part_of_any_larger_choice():
    train = table(dict.fromkeys(range(20), 5))
    few, many = (set(choose_images(train, count, seed=1)["path"]) for count in (10, 40))
    assert few == set(choose_images(train, 10, seed=1)["path"]) and few < many
    assert few != set(choose_images(train, 10, seed=2)["path"])


def test_more_images_than_there_are_is_all():
    assert len(choose_images(table({1: 4, 2: 3}), 100, seed=0)) == 7


def test_no_training_images_is_an_input_error():
    with pytest.raises(InputError, match="calibration: the data set has no training images"):
        choose_images(table({}), 10, seed=0)
    with pytest.raises(InputError, match=r"quantize\.images=0"):
        choose_images(table({1: 2}), 0, seed=0)


def test_images_are_streamed_in_batches_and_none_is_made_up(write_samples):
    samples = write_samples(5)
    module = ReidDataModule(
        lambda: samples, size=(32, 16), mean=[0.5] * 3, std=[0.5] * 3, val_fraction=0, eval_batch_size=2, num_workers=0
    )
    images = CalibrationImages(ImageBatches(module, samples.table))
    batches = list(images)
    assert [batch.shape for batch in batches] == [(2, 32, 16, 3)] * 2 + [(1, 32, 16, 3)]
    assert np.array_equal(np.concatenate(batches) * 255, np.stack([*map(module.read, samples.table["path"])]))
    assert all(batch.dtype == np.float32 and batch.min() >= 0 and batch.max() <= 1 for batch in batches)
    assert all(np.array_equal(one, other) for one, other in zip(batches, images, strict=True))


@pytest.fixture
def write_samples(tmp_path):
    from PIL import Image

    def write(count):
        rows = table({1: count})
        for path in rows["path"]:
            Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 16, 3), np.uint8)).save(tmp_path / path)
        return Samples(rows, tmp_path)

    return write


def module_of(rows, **options):
    """A data module of identities whose images are never read."""
    samples = Samples(rows, Path())
    return ReidDataModule(lambda: samples, size=(32, 16), mean=[0.5] * 3, std=[0.5] * 3, **options)


def rows_of(identities, split):
    """Rows of identities with images of two cameras each."""
    pids = np.repeat(list(identities), 4)
    paths = [f"{split}{i}.png" for i in range(len(pids))]
    return pd.DataFrame({"path": paths, "pid": pids, "camid": [1, 1, 2, 2] * len(identities), "split": split})


def test_unseen_images_are_whole_validation_identities_that_can_be_retrieved():
    module = module_of(rows_of(range(1, 13), "train"), val_fraction=0.5)
    chosen, validation = unseen_images(module, 10), module.validation
    assert len(chosen) == 8 and set(chosen["split"]) == {"val_query", "val_gallery"}
    assert {*chosen["pid"]} == {*sorted(validation["pid"].unique())[:2]}
    pd.testing.assert_frame_equal(chosen, validation[validation["pid"].isin(chosen["pid"])])
    assert len(unseen_images(module, 1)) == 8  # of two identities


def test_without_a_validation_split_they_are_training_images_as_queries_and_gallery():
    chosen = unseen_images(module_of(rows_of(range(1, 4), "train"), val_fraction=0), 8)
    assert chosen["pid"].tolist() == [1] * 4 + [2] * 4
    assert chosen.groupby("pid")["split"].apply(set).tolist() == [{"val_query", "val_gallery"}] * 2


def test_identities_without_a_match_are_an_input_error():
    alone = module_of(table({1: 1, 2: 1}), val_fraction=0)
    with pytest.raises(InputError, match="no identity is both among the queries and in the gallery"):
        unseen_images(alone, 10)
