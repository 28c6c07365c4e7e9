"""Trackers: one folder for each tool, which loads it unchanged; each graph takes images as that tool feeds them."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
import yaml
from torch import Tensor, nn

from reidlab import models
from reidlab.console import log, significant
from reidlab.deploy.nvidia import SIMILARITY, Interface, as_fed, nvtracker, reid_section
from reidlab.deploy.target import PIXELS, Deployable, DeployableFile, Figures, Statistics, Target
from reidlab.deploy.vector import test_images, vector_files
from reidlab.errors import InputError
from reidlab.export.wrapping import run_onnx
from reidlab.files import write_atomic

Content = dict[str, str | bytes | None]  # by name; None for a file that mustn't be there

TEMPLATES = Path(__file__).parent / "tracker_files"
NAMES = ("images", "output0")  # BoxMOT asks for them where OpenCV runs the file
IMAGENET: Statistics = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # what BoxMOT feeds
LEAST_COSINE = 0.9999  # of a file to its network
UNCALIBRATED = """No threshold on the cosine distance was calibrated for this network, and the tool's own is for others:
`reidlab evaluate` calibrates one where model.distance is cosine."""

ADVICE = """
test_vector.py embeds test_vector/image.png by the tool's own loader, and compares with what is expected.
"""

_pooled = {"last_stride": 2, "feat_dim": None}
ROBOFLOW: dict[str, Callable[[], nn.Module]] = {  # what Roboflow's package builds, by its names
    "osnet_x0_25": models.osnet_x0_25,
    "osnet_x0_5": models.osnet_x0_5,
    "osnet_x0_75": models.osnet_x0_75,
    "osnet_x1_0": models.osnet_x1_0,
    "timm:resnet18": partial(models.resnet18, **_pooled),
    "timm:resnet34": partial(models.resnet34, **_pooled),
    "timm:resnet50": partial(models.resnet50, **_pooled),
    "timm:resnet101": partial(models.resnet101, **_pooled),
}


@dataclass(frozen=True)
class Trackers(Target):
    """A folder for each tool, with a README.txt that says how the tool is told of it.

    Args:
        name: of the target.
        tools: keys of `TOOLS`.
        largest_batch: of DeepStream's engine.
    """

    tools: Sequence[str]
    largest_batch: int

    def deploy(self, given: Deployable, out: Path) -> Figures:
        """Write the folders; InputError where an .onnx, fed as by its tool, gives other embeddings than the network."""
        if unknown := [tool for tool in self.tools if tool not in TOOLS]:
            raise InputError(f"deploy.tools={unknown[0]}: choose from {', '.join(TOOLS)}")
        if given.classes:
            raise InputError(f"{given.name}: classifies images; trackers take a network that embeds identities")
        network = None if isinstance(given, DeployableFile) else given.network().cpu().eval()
        subject = Subject(given, network, self.largest_batch)
        for tool in self.tools:
            folder = out / tool
            content = TOOLS[tool](subject, folder.resolve())
            known = {"folder": folder.resolve(), "advice": subject.advice, "features": subject.features}
            content["README.txt"] = (TEMPLATES / f"{tool}.txt").read_text().format_map(known) + ADVICE
            content["test_vector.py"] = (TEMPLATES / "test_vector.py").read_text()
            content |= vector_files(subject.image, {"fp32": given.embed(subject.image[None])[0]}, {"tool": tool})
            for name, data in content.items():
                if data is None:
                    (folder / name).unlink(missing_ok=True)
                else:
                    write_atomic(folder / name, data)
            log.info(f"{folder}  {', '.join(name for name, data in content.items() if data is not None)}")
        return {}


@dataclass(frozen=True)
class Subject:
    """A network with what is known of it, as the tools' files are made from it."""

    given: Deployable
    network: nn.Module | None  # of a file from elsewhere none
    largest_batch: int

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        height, width = self.given.datamodule.size
        return height, width

    @cached_property
    def features(self) -> int:
        """Of an embedding."""
        return self.given.embed(self.image[None]).shape[1]

    @cached_property
    def image(self) -> np.ndarray:
        """Of the test vector."""
        return test_images(self.given.datamodule, 1)[0]

    @property
    def advice(self) -> str:
        """A sentence of a README on the threshold of its tool."""
        threshold = self.given.cosine_threshold
        return UNCALIBRATED if threshold is None else f"Calibrated for this network: {significant(threshold)}."

    @cached_property
    def of_pixels(self) -> bytes:
        """The .onnx of RGB pixels / 255, which most tools feed."""
        return self.onnx(PIXELS)

    def onnx(self, fed: Statistics) -> bytes:
        """The file for a tool that normalizes by the statistics `fed`: its graph makes up for the difference.

        Raises InputError where the file doesn't give the network's embeddings.
        """
        content, batch = self.given.onnx(NAMES, fed)
        if batch:
            raise InputError(
                f"{self.given.name}: its graph takes {batch} images at a time, and trackers feed any number; export it "
                "with a dynamic batch"
            )
        pixels = np.random.default_rng(0).integers(0, 256, (3, *self.size, 3), np.uint8)
        mean, std = (np.array(values, np.float32)[:, None, None] for values in fed)
        found = run_onnx(content, (as_fed(pixels) - mean) / std)
        if not (least := cosine(found, self.given.embed(pixels)).min()) >= LEAST_COSINE:
            raise InputError(
                f"{self.given.name}: its ONNX file has cosine {least:.5f} to the network; nothing was written"
            )
        return content


def cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Cosine similarity of each row of (N, D) to the same row of another."""
    return (a * b).sum(1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))


def boxmot(subject: Subject, folder: Path) -> Content:
    """An .onnx of ImageNet-normalized images, the sidecar that describes it, and a profile."""
    size = list(subject.size)
    sidecar = {
        "schema_version": 1,
        "model_name": subject.given.architecture,
        "preprocess": "resize",
        "img_size": size,
        "model_kwargs_schema_version": 1,
        "model_kwargs": {"img_size": size},
    }
    profile = {
        "id": re.sub(r"[^a-z0-9]+", "-", f"reidlab-{subject.given.name}".lower()).strip("-"),
        "weights": {"path": "model.onnx"},
        "runtime": {"device": "auto", "precision": "fp32"},
        "preprocessing": {"mode": "resize", "image_size": size},
    }
    return {
        "model.onnx": subject.onnx(IMAGENET),
        "model.onnx.metadata.json": json.dumps(sidecar, indent=2) + "\n",
        "reid.yaml": yaml.safe_dump(profile, sort_keys=False),
    }


def ultralytics(subject: Subject, folder: Path) -> Content:
    """An .onnx of pixels, and a whole tracker yaml with the defaults of BoT-SORT."""
    threshold = subject.given.cosine_threshold
    tracker = {
        "tracker_type": "botsort",
        "track_high_thresh": 0.25,
        "track_low_thresh": 0.1,
        "new_track_thresh": 0.25,
        "track_buffer": 30,
        "match_thresh": 0.8,
        "fuse_score": True,
        "gmc_method": "sparseOptFlow",
        "proximity_thresh": 0.5,
        "appearance_thresh": SIMILARITY if threshold is None else round(1 - threshold / 2, 4),
        "with_reid": True,
        "model": str(folder / "model.onnx"),
    }
    return {"model.onnx": subject.of_pixels, "botsort.yaml": yaml.safe_dump(tracker, sort_keys=False, width=10_000)}


def roboflow(subject: Subject, folder: Path) -> Content:
    """Weights and settings of a network that Roboflow's package has, or an .onnx of pixels with what loads it."""
    names = ("weights.safetensors", "reid_config.json", "model.onnx", "encoder.py")
    if subject.network is None or not (published := as_published(subject, subject.network)):
        return dict.fromkeys(names) | {
            "model.onnx": subject.of_pixels,
            "encoder.py": (TEMPLATES / "encoder.py").read_text(),
        }
    architecture, weights = published
    steps = {
        "input_size": list(subject.size),
        "mean": list(subject.given.mean),
        "std": list(subject.given.std),
        "interpolation": "bilinear",
        "to_rgb": True,
        "resize_mode": "stretch",
    }
    config = {"architecture": architecture, "preprocessing": steps}
    return dict.fromkeys(names) | {
        "weights.safetensors": safetensors.torch.save(weights),
        "reid_config.json": json.dumps(config, indent=2) + "\n",
    }


def as_published(subject: Subject, network: nn.Module) -> tuple[str, dict[str, Tensor]] | None:
    """Roboflow's name of the same network, with its weights; None where it has none that gives the same embeddings."""
    weights = {
        name: tensor.detach().contiguous()
        for name, tensor in network.state_dict().items()
        if not name.startswith(("classifier.", "bottleneck."))
    }
    image = torch.rand(1, 3, *subject.size, generator=torch.Generator().manual_seed(0))
    for architecture, build in ROBOFLOW.items():
        with torch.device("meta"):
            same = build().eval()
        if shapes(same.state_dict()) != shapes(weights):
            continue
        same.load_state_dict(weights, assign=True)
        with torch.no_grad():
            if torch.equal(same(image).embedding, network(image).embedding):
                return architecture, weights
    return None


def shapes(weights: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    """The shape of each tensor."""
    return {name: tensor.shape for name, tensor in weights.items()}


def deepstream(subject: Subject, folder: Path) -> Content:
    """An .onnx of pixels, and a whole NvDCF config that re-associates by appearance."""
    section = reid_section(Interface(*NAMES, *subject.size, subject.features, subject.largest_batch))
    whole = nvtracker(section, subject.given.cosine_threshold)
    return {"model.onnx": subject.of_pixels, "nvtracker_nvdcf.yml": whole}


def deep_sort_realtime(subject: Subject, folder: Path) -> Content:
    """An .onnx of pixels, and an embedder that feeds it."""
    return {"model.onnx": subject.of_pixels, "embedder.py": (TEMPLATES / "embedder.py").read_text()}


TOOLS: dict[str, Callable[[Subject, Path], Content]] = {
    "boxmot": boxmot,
    "ultralytics": ultralytics,
    "roboflow": roboflow,
    "deepstream": deepstream,
    "deep_sort_realtime": deep_sort_realtime,
}
