import hashlib

import numpy as np
import pandas as pd
import pytest
import pytorch_lightning as pl
import torch

from reidlab.data import datamodule as module
from reidlab.data.datamodule import ReidDataModule
from reidlab.data.images import read_image
from reidlab.data.samples import Samples
from reidlab.data.transforms import Augment, RandomErasing, RandomHorizontalFlip, RandomPadCrop
from reidlab.errors import InputError

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


@pytest.fixture
def people(tmp_path, write_image):
    """Ten training identities (pids 10, 20, ... 100) and two to test, four images each."""
    rows = []
    for pid in [*range(10, 110, 10), 7, 8]:
        for image in range(4):
            split = "train" if pid > 8 else ("query" if image == 0 else "gallery")
            rows.append((f"{pid}_{image}.png", pid, image % 2 + 1, split))
            write_image(tmp_path / rows[-1][0], size=(20, 10))
    return Samples(pd.DataFrame(rows, columns=["path", "pid", "camid", "split"]), tmp_path)


@pytest.fixture
def make(people):
    def build(**options):
        defaults = {"batch_size": 8, "num_instances": 2, "val_fraction": 0.2, "num_workers": 0, "eval_batch_size": 3}
        return ReidDataModule(lambda: people, (24, 12), MEAN, STD, **(defaults | options))

    return build


class Recorder(pl.LightningModule):
    """Learns nothing; keeps a hash of the images that each step saw, reseeding each epoch as a real task does."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen, self.shapes = [], []

    def on_train_epoch_start(self):
        torch.manual_seed(self.current_epoch)

    def training_step(self, batch, batch_idx):
        digest = hashlib.sha256(batch["image"].numpy().tobytes()).hexdigest()
        self.seen.append((self.current_epoch, tuple(batch["index"].tolist()), digest))
        return self.weight.sum()

    def validation_step(self, batch, batch_idx):
        self.shapes.append((batch["image"].shape, batch["image"].dtype, batch["is_query"].tolist()))

    def predict_step(self, batch, batch_idx):
        return batch["image"]

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def make_trainer(folder, **options):
    return pl.Trainer(
        accelerator="cpu",
        default_root_dir=folder,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        log_every_n_steps=1,
        **options,
    )


def test_training_batches(make, people):
    data = make()
    assert data.num_classes == len(data.classes) == 8 and set(data.classes) < set(range(10, 110, 10))
    for batch in data.train_dataloader():
        assert batch["image"].shape == (8, 3, 24, 12) and batch["image"].dtype == torch.uint8
        assert [data.classes[label] for label in batch["pid"]] == people.table["pid"][batch["index"].numpy()].tolist()
        assert batch["camid"].tolist() == people.table["camid"][batch["index"].numpy()].tolist()
        assert batch["pid"].unique().numel() == 4 and not batch["is_query"].any()
        first = read_image(people.files()[batch["index"][0]], (24, 12))
        assert np.array_equal(batch["image"][0].permute(1, 2, 0).numpy(), first)


def test_test_batches_are_queries_then_gallery_with_their_own_pids(make, people):
    batches = list(make(num_workers=1).test_dataloader())
    index = torch.cat([batch["index"] for batch in batches]).tolist()
    rows = people.split("query", "gallery")
    assert index == rows.index.tolist()
    assert torch.cat([batch["pid"] for batch in batches]).tolist() == rows["pid"].tolist()
    assert torch.cat([batch["is_query"] for batch in batches]).tolist() == [True] * 2 + [False] * 6


def test_validation_batches_are_people_that_training_never_sees(make):
    data = make()
    (val,) = {frozenset(torch.cat([batch["pid"] for batch in data.val_dataloader()]).tolist())}
    assert len(val) == 2 and not val & set(data.classes)


def test_preprocess_scales_augments_only_in_training_and_normalises(make):
    data = make(augment=RandomHorizontalFlip(p=1))
    pixels = torch.randint(256, (2, 3, 24, 12), dtype=torch.uint8)
    batch = {"image": pixels, "pid": torch.tensor([1, 2])}
    expected = (pixels / 255 - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    torch.testing.assert_close(data.preprocess(batch)["image"], expected)
    torch.testing.assert_close(data.preprocess(batch, training=True)["image"], expected.flip(-1))
    assert batch["image"] is pixels and data.preprocess(batch)["pid"] is batch["pid"]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_cache_changes_no_pixel(make, tmp_path, num_workers):
    plain, cached = make(num_workers=num_workers), make(num_workers=num_workers, cache=tmp_path / "cache")
    for ours, expected in zip(cached.train_dataloader(), plain.train_dataloader(), strict=True):
        assert all(torch.equal(ours[name], column) for name, column in expected.items())
    other = plain.samples.table.assign(path="10_0.png")
    assert torch.equal(next(iter(cached.loader(other)))["image"], next(iter(plain.loader(other)))["image"])
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_reduced_decoding_is_for_training_alone(make, people, write_image):
    for file in people.files():
        write_image(file.with_suffix(".jpg"), size=(100, 60))
    people.table["path"] = people.table["path"].str.replace("png", "jpg")
    full, reduced = make(), make(reduced_decode=True)
    pairs = [zip(getattr(full, name)(), getattr(reduced, name)(), strict=True)
             for name in ("train_dataloader", "val_dataloader", "test_dataloader")]  # fmt: skip
    same = [all(torch.equal(one["image"], two["image"]) for one, two in pair) for pair in pairs]
    assert same == [False, True, True]


def test_any_table_can_be_loaded(make, people):
    batch = next(iter(make().loader(people.table.iloc[[5, 2]])))
    assert batch["index"].tolist() == [5, 2]
    with pytest.raises(InputError, match="no images to load"):
        make().loader(people.table[:0])


def epochs_of(data, count):
    loader = data.train_dataloader()
    for epoch in range(count):
        loader.sampler.set_epoch(epoch)
        yield [batch["index"].tolist() for batch in loader]


def test_without_num_instances_all_images_are_shuffled(make):
    one, two = epochs_of(make(num_instances=None, val_fraction=0, batch_size=10), 2)
    assert sorted(np.ravel(one)) == sorted(np.ravel(two)) == list(range(40)) and one != two
    assert [one, two] == list(epochs_of(make(num_instances=None, val_fraction=0, batch_size=10), 2))
    with pytest.raises(InputError, match="batch_size=41 is more than the 40 training images"):
        make(num_instances=None, val_fraction=0, batch_size=41).train_dataloader()


@pytest.mark.parametrize("num_instances", [2, None])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_resumed_training_sees_what_an_unbroken_one_sees(make, tmp_path, num_instances, num_workers):
    augment = Augment(flip=RandomHorizontalFlip(), crop=RandomPadCrop(2), erasing=RandomErasing())
    options = {"num_instances": num_instances, "num_workers": num_workers, "augment": augment}

    unbroken = Recorder()
    make_trainer(tmp_path, max_epochs=3, enable_checkpointing=False).fit(unbroken, datamodule=make(**options))
    first = Recorder()
    trainer = make_trainer(tmp_path, max_epochs=1)
    trainer.fit(first, datamodule=make(**options))
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    second = Recorder()
    torch.rand(5)
    trainer = make_trainer(tmp_path, max_epochs=3, enable_checkpointing=False)
    trainer.fit(second, datamodule=make(**options), ckpt_path=tmp_path / "last.ckpt")

    assert first.seen + second.seen == unbroken.seen
    orders = [[index for epoch, index, _ in unbroken.seen if epoch == number] for number in range(3)]
    assert orders[0] != orders[1] != orders[2]


def test_lightning_validates_and_predicts_with_it(make, tmp_path):
    data, recorder = make(), Recorder()
    trainer = make_trainer(tmp_path, max_epochs=1, enable_checkpointing=False)
    trainer.fit(recorder, datamodule=data)
    assert recorder.shapes[0] == ((3, 3, 24, 12), torch.float32, [True, True, True])
    images = trainer.predict(recorder, dataloaders=data.loader(data.samples.split("query")))
    assert torch.cat(images).shape == (2, 3, 24, 12)


def test_training_without_validation(make, tmp_path):
    recorder = Recorder()
    trainer = make_trainer(tmp_path, max_epochs=1, enable_checkpointing=False)
    trainer.fit(recorder, datamodule=make(val_fraction=0))
    assert recorder.seen and not recorder.shapes


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_broken_image_is_named_in_one_line_even_by_a_worker(make, people, num_workers):
    file = people.files()[-1]
    file.write_bytes(file.read_bytes()[:50])
    with pytest.raises(InputError) as error:
        list(make(num_workers=num_workers).test_dataloader())
    assert str(error.value).startswith(f"{file}: not a readable image") and "\n" not in str(error.value)


def test_processes_share_evaluation_in_equal_parts(make, monkeypatch):
    parts = []
    for rank in range(3):
        monkeypatch.setattr(module, "distributed_process", lambda rank=rank: (rank, 3))
        parts.append([index for batch in make().test_dataloader() for index in batch["index"].tolist()])
    assert len(set(map(len, parts))) == 1 and set().union(*parts) == set(range(40, 48))


def test_the_source_is_read_once(people):
    calls = []
    data = ReidDataModule(lambda: calls.append(1) or people, (24, 12), MEAN, STD)
    data.prepare_data()
    data.setup("fit")
    data.setup("test")
    assert len(data.samples.table) == 48 and calls == [1]
