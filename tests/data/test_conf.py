"""Every yaml of conf/data and conf/augment builds what training takes."""

import pytest
import torch
from omegaconf import OmegaConf

from reidlab import config
from reidlab.data import Augment, ImageDataModule
from reidlab.errors import InputError

DATA_SETS, AUGMENTS = config.choices("data"), config.choices("augment")


@pytest.mark.parametrize("name", DATA_SETS)
def test_every_data_set_is_built_from_its_name_and_root(name, tmp_path):
    cfg = config.compose([f"data={name}", f"data.root={tmp_path}/here"])
    data = config.instantiate(cfg.data)
    assert isinstance(data, ImageDataModule) and callable(data.source)
    assert data.name == name and str(data.root) == f"{tmp_path}/here"
    assert f"{tmp_path}/here" in OmegaConf.to_yaml(cfg.data.source)  # `data.root` moves what the source reads
    assert data.augment is not None and data.seed == cfg.seed


@pytest.mark.parametrize("name", ["market1501", "csv", "folders", "market1501_mtmc", "class_csv", "flowers", "food101"])
def test_a_missing_root_is_named(name, tmp_path):
    data = config.instantiate(config.compose([f"data={name}", f"data.root={tmp_path}/here"]).data)
    with pytest.raises(InputError, match=r"here: data\.root doesn't exist; found nothing"):
        data.setup()


@pytest.mark.parametrize("name", AUGMENTS)
def test_every_augmentation_is_built_and_each_step_can_be_switched_off(name):
    cfg, image = config.compose([f"augment={name}"]).augment, torch.rand(2, 3, 64, 32)
    augment, steps = config.instantiate(cfg), [key for key in cfg if not key.startswith("_")]
    assert isinstance(augment, Augment) and augment(image).shape == image.shape
    off = config.compose([f"augment={name}", *(f"augment.{step}=null" for step in steps)])
    assert torch.equal(config.instantiate(off.data).augment(image), image)


def test_settings_reach_the_transforms():
    cfg = config.compose(["data=csv", "augment.erasing.p=0.3", "data.size=[128,64]"])
    data = config.instantiate(cfg.data)
    assert data.augment.erasing.p == 0.3 and data.size == (128, 64)


def test_pku_reid_from_its_yaml(pku_reid):
    data = config.instantiate(config.compose(["data=pku_reid", f"data.root={pku_reid}", "data.num_workers=0"]).data)
    data.setup()
    assert len(data.samples.table) == 992 + 28 + 181 and data.num_classes == 62 - 10  # `val_identities`
    batch = next(iter(data.train_dataloader()))
    assert batch["image"].shape == (64, 3, 128, 64)
