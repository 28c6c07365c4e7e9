"""Batches of identities."""

import numpy as np
import pytest
import torch

from reidlab.data import datamodule
from reidlab.data.images import read_image
from reidlab.errors import InputError


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


def epochs_of(data, count):
    loader = data.train_dataloader()
    for epoch in range(count):
        loader.sampler.set_epoch(epoch)
        yield [batch["index"].tolist() for batch in loader]


def test_without_num_instances_all_images_are_shuffled(make, monkeypatch):
    one, two = epochs_of(make(num_instances=None, val_fraction=0, batch_size=10), 2)
    assert sorted(np.ravel(one)) == sorted(np.ravel(two)) == list(range(40)) and one != two
    assert [one, two] == list(epochs_of(make(num_instances=None, val_fraction=0, batch_size=10), 2))
    with pytest.raises(InputError, match="batch_size=41 is more than the 40 training images"):
        make(num_instances=None, val_fraction=0, batch_size=41).train_dataloader()
    monkeypatch.setattr(datamodule, "distributed_process", lambda: (0, 2))
    with pytest.raises(InputError, match="batch_size=32 is more than the 20 training images of each of 2 processes"):
        make(num_instances=None, val_fraction=0, batch_size=32).train_dataloader()


def test_a_shuffled_order_has_no_balance(make):
    for option in ("camera_balanced", "class_balanced"):
        with pytest.raises(InputError, match=r"data\.num_instances=null shuffles images"):
            make(num_instances=None, **{option: True})


def test_the_same_camera_rule_reaches_the_validator(make, people):
    """Gallery images of pid 7 in its query's own camera alone count where the rule is off."""
    people.table.loc[(people.table["pid"] == 7) & (people.table["split"] == "gallery"), "camid"] = 1
    kinds = [[finding.kind for finding in make(exclude_same_camera=rule).validate()] for rule in (True, False)]
    assert ["query without a match" in found for found in kinds] == [True, False]


def test_the_summary_counts_identities(make):
    summary = make().summary()
    assert summary["identities"].to_dict() == {
        "train": 8, "val_query": 2, "val_gallery": 2, "query": 2, "gallery": 2, "all": 12
    }  # fmt: skip
