"""Images of identities: where they come from, whether they are sound, and how they reach the network."""

from reidlab.data.datamodule import ImageDataset, ReidDataModule
from reidlab.data.images import decode, read_image, resize
from reidlab.data.sampler import IdentityBatchSampler
from reidlab.data.samples import Samples, set_aside_validation
from reidlab.data.sources import CsvSamples, FolderLayout, IdentityFolders, SyntheticPeople
from reidlab.data.transforms import (
    Augment,
    ColorJitter,
    Normalize,
    RandomErasing,
    RandomHorizontalFlip,
    RandomPadCrop,
)

__all__ = [
    "Augment",
    "ColorJitter",
    "CsvSamples",
    "FolderLayout",
    "IdentityBatchSampler",
    "IdentityFolders",
    "ImageDataset",
    "Normalize",
    "RandomErasing",
    "RandomHorizontalFlip",
    "RandomPadCrop",
    "ReidDataModule",
    "Samples",
    "SyntheticPeople",
    "decode",
    "read_image",
    "resize",
    "set_aside_validation",
]
