"""What data modules of identities and of classes have in common, on one of identities."""

import hashlib
import warnings

import numpy as np
import pytest
import pytorch_lightning as pl
import torch

from reidlab.data import datamodule as module
from reidlab.data import read_image
from reidlab.data.identities import ReidDataModule
from reidlab.data.transforms import Augment, RandomErasing, RandomHorizontalFlip, RandomPadCrop
from reidlab.errors import InputError
from reidlab.training.images import LightningImages

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)  # of the fixture `make`


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


def test_preprocess_scales_augments_only_in_training_and_normalizes(make):
    data = make(augment=RandomHorizontalFlip(p=1))
    pixels = torch.randint(256, (2, 3, 24, 12), dtype=torch.uint8)
    batch = {"image": pixels, "pid": torch.tensor([1, 2])}
    expected = (pixels / 255 - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    torch.testing.assert_close(data.preprocess(batch)["image"], expected)
    torch.testing.assert_close(data.preprocess(batch, training=True)["image"], expected.flip(-1))
    assert batch["image"] is pixels and data.preprocess(batch)["pid"] is batch["pid"]


def test_a_cache_takes_no_reduced_images_and_says_so(make, tmp_path):
    said = "data.reduced_decode=true isn't used: data.cache holds the images decoded in full"
    assert said in make(cache=tmp_path / "cache", reduced_decode=True).notes
    for options in ({"cache": tmp_path / "cache"}, {"reduced_decode": True}, {}):
        assert said not in make(**options).notes


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_cache_changes_no_pixel(make, tmp_path, num_workers):
    plain, cached = make(num_workers=num_workers), make(num_workers=num_workers, cache=tmp_path / "cache")
    for ours, expected in zip(cached.train_dataloader(), plain.train_dataloader(), strict=True):
        assert all(torch.equal(ours[name], column) for name, column in expected.items())
    other = plain.samples.table.assign(path="10_0.png")
    assert torch.equal(next(iter(cached.loader(other)))["image"], next(iter(plain.loader(other)))["image"])
    assert len(list((tmp_path / "cache").iterdir())) == 1


@pytest.mark.parametrize("threads", [2, 3, 64])
@pytest.mark.parametrize("batch", [1, 5])
def test_threads_read_what_a_loop_over_the_files_reads(threads, batch, make, write_image, monkeypatch):
    data = make(eval_batch_size=batch)
    write_image(data.samples.root / "7_0.png", size=(9, 31))  # another size than the rest
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    table, seen = data.test, torch.cat([found["image"] for found in data.test_dataloader()])
    expected = [read_image(data.samples.root / path, (24, 12)) for path in table["path"]]
    assert torch.equal(seen.permute(0, 2, 3, 1), torch.from_numpy(np.stack(expected)))


@pytest.mark.parametrize(
    ("accelerator", "given", "expected"), [(False, None, 0), (True, None, 2), (True, 0, 0), (False, 3, 3)]
)
def test_worker_processes_read_beside_an_accelerator_unless_told(accelerator, given, expected, make, monkeypatch):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: accelerator)
    assert make(num_workers=given).test_dataloader().num_workers == expected


def test_more_workers_than_processors_are_no_matter_for_a_warning(make, monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda process: {0}, raising=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(list(make(num_workers=2).test_dataloader())) > 0


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


@pytest.mark.parametrize("num_instances", [2, None])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_resumed_training_sees_what_an_unbroken_one_sees(make, tmp_path, num_instances, num_workers):
    augment = Augment(flip=RandomHorizontalFlip(), crop=RandomPadCrop(2), erasing=RandomErasing())
    options = {"num_instances": num_instances, "num_workers": num_workers, "augment": augment}

    unbroken = Recorder()
    trainer = make_trainer(tmp_path, max_epochs=3, enable_checkpointing=False)
    trainer.fit(unbroken, datamodule=LightningImages(make(**options)))
    first = Recorder()
    trainer = make_trainer(tmp_path, max_epochs=1)
    trainer.fit(first, datamodule=LightningImages(make(**options)))
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    second = Recorder()
    torch.rand(5)
    trainer = make_trainer(tmp_path, max_epochs=3, enable_checkpointing=False)
    trainer.fit(second, datamodule=LightningImages(make(**options)), ckpt_path=tmp_path / "last.ckpt")

    assert first.seen + second.seen == unbroken.seen
    orders = [[index for epoch, index, _ in unbroken.seen if epoch == number] for number in range(3)]
    assert orders[0] != orders[1] != orders[2]


def test_lightning_validates_and_predicts_with_it(make, tmp_path):
    data, recorder = make(), Recorder()
    trainer = make_trainer(tmp_path, max_epochs=1, enable_checkpointing=False)
    trainer.fit(recorder, datamodule=LightningImages(data))
    assert recorder.shapes[0] == ((3, 3, 24, 12), torch.float32, [True, True, True])
    images = trainer.predict(recorder, dataloaders=data.loader(data.samples.split("query")))
    assert torch.cat(images).shape == (2, 3, 24, 12)


def test_training_without_validation(make, tmp_path):
    recorder = Recorder()
    trainer = make_trainer(tmp_path, max_epochs=1, enable_checkpointing=False)
    trainer.fit(recorder, datamodule=LightningImages(make(val_fraction=0)))
    assert recorder.seen and not recorder.shapes


@pytest.mark.parametrize(("num_workers", "threads"), [(0, 1), (0, 3), (1, 1)])
def test_a_broken_image_is_named_in_one_line_even_by_a_worker(make, people, num_workers, threads, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
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
    data.setup()
    data.setup()
    assert len(data.samples.table) == 48 and calls == [1]
