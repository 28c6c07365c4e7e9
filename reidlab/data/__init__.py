"""Data sets of identities and of classes: sources, validation, augmentation, and data modules."""

from reidlab.data.cache import DecodedCache
from reidlab.data.class_sources import ClassCsv, ClassFolders, ClassLists
from reidlab.data.classes import ClassDataModule, set_aside_images
from reidlab.data.combined import CombinedSources
from reidlab.data.crop import RandomResizedCrop
from reidlab.data.datamodule import ImageDataModule, ImageDataset
from reidlab.data.identities import ReidDataModule
from reidlab.data.images import blur_head, read_image
from reidlab.data.mixing import Mix
from reidlab.data.policy import TrivialAugment
from reidlab.data.sampler import IdentityBatchSampler
from reidlab.data.samples import Samples, set_aside_validation
from reidlab.data.shapes import DrawnShapes
from reidlab.data.sources import CsvSamples, FolderLayout, IdentityFolders, IdentityLists, SyntheticPeople
from reidlab.data.transforms import (
    Augment,
    ColorJitter,
    Normalize,
    RandomErasing,
    RandomHorizontalFlip,
    RandomPadCrop,
    RandomZoomCrop,
)
from reidlab.data.validate import Finding, inspect_files, summary, validate

__all__ = [
    "Augment",
    "ClassCsv",
    "ClassDataModule",
    "ClassFolders",
    "ClassLists",
    "ColorJitter",
    "CombinedSources",
    "CsvSamples",
    "DecodedCache",
    "DrawnShapes",
    "Finding",
    "FolderLayout",
    "IdentityBatchSampler",
    "IdentityFolders",
    "IdentityLists",
    "ImageDataModule",
    "ImageDataset",
    "Mix",
    "Normalize",
    "RandomErasing",
    "RandomHorizontalFlip",
    "RandomPadCrop",
    "RandomResizedCrop",
    "RandomZoomCrop",
    "ReidDataModule",
    "Samples",
    "SyntheticPeople",
    "TrivialAugment",
    "blur_head",
    "inspect_files",
    "read_image",
    "set_aside_images",
    "set_aside_validation",
    "summary",
    "validate",
]
