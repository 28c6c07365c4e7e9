"""Distillation: a student follows a trained network, or one with ImageNet weights."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import cast

import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reidlab.config import resolve_path
from reidlab.console import log
from reidlab.data import ClassDataModule, ImageDataModule, Normalize, RandomHorizontalFlip
from reidlab.data.images import PIXEL_RULE, read_batch
from reidlab.data.samples import digest
from reidlab.errors import InputError
from reidlab.files import file_hash, write_atomic
from reidlab.models import Output, ReIdNetwork, load_weights
from reidlab.progress import bar

CHUNK = 32  # images that a teacher sees at a time


class Teacher(nn.Module):
    """A trained network whose weights stay as they are: images (B, 3, H, W) in [0, 1] -> its `Output`.

    Args:
        network: its class scores are None where it has no classifier.
        mean: of the images that it was trained on.
        std: likewise.
        size: height and width that images are resized to.
    """

    def __init__(self, network: ReIdNetwork, mean: Sequence[float], std: Sequence[float], size: Sequence[int]):
        super().__init__()
        self.network = network.eval().requires_grad_(False)
        self.normalize, self.size = Normalize(mean, std), tuple(size)

    @torch.no_grad()
    def forward(self, image: Tensor) -> Output:
        """Embeddings and class scores in float32."""
        image = self.normalize(image)
        if image.shape[2:] != self.size:
            image = F.interpolate(image, self.size, mode="bilinear", antialias=True)
        embedding, logits = self.network(image)
        return Output(embedding.float(), None if logits is None else logits.float())


class Distillation(nn.Module):
    """The loss terms by which a student follows a teacher.

    The teacher sees the student's augmented images; it is not trained and is in no checkpoint. A linear map brings the
    student's embedding to the teacher's width where these differ.

    Shape: a batch with image (B, 3, H, W), embedding (B, D), logits (B, C) -> {name: scalar}.

    Args:
        teacher: normalizes the images as in its training.
        student: the network to train.
        datamodule: of the student's images.
        size: height and width of the teacher's images; None for those of its training.
        feature: weight of the embedding itself, see `feature_loss`.
        distance: weight of `distance_loss`.
        angle: weight of `angle_loss`.
        logits: weight of `logit_loss`, which needs a teacher trained on the same identities.
        temperature: of the class scores.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        teacher: Teacher,
        student: ReIdNetwork,
        datamodule: ImageDataModule,
        size: Sequence[int] | None = None,
        feature: float = 10.0,
        distance: float = 0.0,
        angle: float = 0.0,
        logits: float = 1.0,
        temperature: float = 4.0,
    ):
        super().__init__()
        self.weights = {"feature": feature, "distance": distance, "angle": angle, "logits": logits}
        self.temperature = temperature
        if size:
            teacher.size = tuple(size)
        self.register_buffer("mean", datamodule.normalize.mean.clone(), persistent=False)
        self.register_buffer("std", datamodule.normalize.std.clone(), persistent=False)
        widths = student.feat_dim, teacher.network.feat_dim
        same_width = widths[0] == widths[1] or not feature
        self.project = nn.Identity() if same_width else nn.Linear(*widths, bias=False)
        self.teacher = (teacher.eval(),)  # in a tuple: neither trained nor saved with the student

    def teach(self, image: Tensor) -> Output:
        """The teacher's embedding and logits for the student's normalized images."""
        return self.teacher[0].to(image.device)(image * self.std + self.mean)

    def forward(self, batch: Mapping[str, Tensor], embedding: Tensor, logits: Tensor | None) -> dict[str, Tensor]:
        """Every term whose weight isn't 0, weighted."""
        taught, scores = self.teach(batch["image"])
        terms = {
            "feature": lambda: feature_loss(self.project(embedding), taught),
            "distance": lambda: distance_loss(embedding, taught),
            "angle": lambda: angle_loss(embedding, taught),
            "logits": lambda: logit_loss(cast(Tensor, logits), cast(Tensor, scores), self.temperature),
        }
        return {f"distill_{name}": self.weights[name] * term() for name, term in terms.items() if self.weights[name]}


class CropDistillation(nn.Module):
    """The loss terms by which a classifier follows the features of a network with ImageNet weights, crop by crop.

    The teacher embeds each training image once, whole. Its embedding of a crop is the mean of its last feature maps
    over the crop's window (after Yun et al., arXiv 2101.05022, section 3), so that a training step costs no more. Its
    class scores are those of a linear classifier, fitted to its embeddings of the training images. A linear map brings
    the student's features to the width of the teacher's. The feature maps are kept in the data module's cache, if any.

    Shape: a batch with index (B,) and window (B, 4), embedding (B, D), logits (B, C) -> {name: scalar}.

    Args:
        teacher: its network, and mean and std of its images.
        weights: the file of its weights.
        student: the network to train.
        datamodule: crops the images.
        data_hash: of the samples, part of the cached file's name.
        size: height and width of the teacher's images.
        components: principal components that the teacher's features are reduced to.
        feature: weight of the embedding, see `feature_loss`.
        local: weight of the last feature maps at each place; needs an embedding that is the pooled maps themselves.
        logits: weight of `logit_loss`.
        temperature: of the class scores.
        decay: weight decay of the linear classifier.
    """

    center: Tensor
    spread: Tensor
    weight: Tensor
    bias: Tensor

    def __init__(
        self,
        teacher: Mapping,
        weights: str | Path | None,
        student: ReIdNetwork,
        datamodule: ClassDataModule,
        data_hash: str,
        size: Sequence[int] = (288, 288),
        components: int = 256,
        feature: float = 1.0,
        local: float = 0.0,
        logits: float = 1.0,
        temperature: float = 1.0,
        decay: float = 0.03,
    ):
        super().__init__()
        if weights is None:
            raise InputError("distill.weights: name the file of the teacher's weights; conf/model says where they are")
        if getattr(datamodule, "crop", None) is None:
            raise InputError("distill: this teacher follows random crops of a data set of classes; set data.crop")
        if local and len(student.fc):
            raise InputError(
                f"distill.local={local}: it needs pooled maps as embedding; set model.network.feat_dim=null"
            )
        if local and any(isinstance(step, RandomHorizontalFlip) for step in datamodule.augment.modules()):
            raise InputError(f"distill.local={local}: crops must mirror; set augment.flip=null data.crop.flip=0.5")
        self.weights = {"feature": feature, "local": local, "logits": logits}
        self.temperature = temperature
        table, weights = datamodule.samples.split("train"), resolve_path(weights)
        self.rows = torch.full((len(datamodule.samples.table),), -1)
        self.rows[torch.tensor(table.index.tolist())] = torch.arange(len(table))
        self.maps = self._maps(teacher, weights, datamodule, data_hash, tuple(size), components)  # (N, h, w, E)
        seen = self.maps.float().mean((1, 2))  # (N, E)
        self.register_buffer("center", seen.mean(0), persistent=False)
        self.register_buffer("spread", (seen - self.center).std(), persistent=False)
        if not self.spread > 0:
            raise InputError(f"distill.weights={weights}: this teacher sees all images alike; give trained weights")
        labels = torch.tensor([datamodule.classes.index(pid) for pid in table["pid"]])
        fitted = fit_classifier((seen - self.center) / self.spread, labels, datamodule.num_classes, decay)
        for name, tensor in zip(("weight", "bias"), fitted, strict=True):
            self.register_buffer(name, tensor, persistent=False)
        self.project = nn.Linear(student.feat_dim, seen.shape[1]) if feature or local else nn.Identity()
        if local:
            student.global_pool.register_forward_pre_hook(self._keep_maps)

    @torch.no_grad()
    def teach(self, batch: Mapping[str, Tensor], rows: int = 1, columns: int = 1) -> Tensor:
        """The teacher's embedding of each field of the crops, (B, rows, columns, E); of mixed images, mixed."""
        maps = self.maps[self.rows[batch["index"].cpu()]].to(batch["window"].device).float()
        taught = (window_means(maps, batch["window"], rows, columns) - self.center) / self.spread
        return torch.einsum("ij,jyxe->iyxe", batch["share"], taught) if "share" in batch else taught

    def forward(self, batch: Mapping[str, Tensor], embedding: Tensor, logits: Tensor) -> dict[str, Tensor]:
        """Every term whose weight isn't 0, weighted."""
        taught = self.teach(batch).flatten(1)
        terms = {
            "feature": lambda: feature_loss(self.project(embedding), taught),
            "local": lambda: self._local_loss(batch),
            "logits": lambda: logit_loss(logits, F.linear(taught, self.weight, self.bias), self.temperature),
        }
        return {f"distill_{name}": weight * terms[name]() for name, weight in self.weights.items() if weight}

    def _local_loss(self, batch: Mapping[str, Tensor]) -> Tensor:
        maps = self.seen.float()  # (B, D, h, w)
        taught = self.teach(batch, *maps.shape[2:])
        return feature_loss(self.project(maps.permute(0, 2, 3, 1)).flatten(0, 2), taught.flatten(0, 2))

    def _keep_maps(self, pool: nn.Module, maps: tuple[Tensor]) -> None:
        self.seen = maps[0]

    @staticmethod
    def _maps(
        teacher: Mapping, weights: Path, datamodule: ClassDataModule, data_hash: str, size: tuple, components: int
    ) -> Tensor:
        """The teacher's last maps of all training images, float16, from the cache or made now.

        They are kept in the order of the images' paths, as `data_hash` doesn't tell that of the rows.
        """
        samples, place = datamodule.samples, None
        paths = samples.split("train")["path"].to_numpy()
        order = paths.argsort(kind="stable")
        rows = torch.from_numpy(order.argsort())
        if datamodule.cache:
            prepared = digest(repr([teacher["network"], [*teacher["mean"]], [*teacher["std"]]]).encode())
            made_of = file_hash(weights), data_hash[:16], prepared[:16], *size, components, PIXEL_RULE
            place = Path(datamodule.cache) / f"{samples.root.name}-{'-'.join(map(str, made_of))}.safetensors"
            if place.exists():
                return safetensors.torch.load_file(place)["maps"][rows]
        log.info(load_weights(teacher["network"], weights))
        normalize = Normalize(teacher["mean"], teacher["std"])
        files = [samples.root / path for path in paths[order]]
        maps = principal(torch.cat(list(featuremaps(teacher["network"], normalize, files, size))), components)
        if place:
            write_atomic(place, safetensors.torch.save({"maps": maps}))
        return maps[rows]


@torch.inference_mode()
def featuremaps(network: ReIdNetwork, normalize: Normalize, files: Sequence[Path], size: tuple) -> Iterator[Tensor]:
    """The last feature maps of whole images, float16 (n, h, w, C), some images at a time.

    Args:
        network: the teacher.
        normalize: its images.
        files: of the images.
        size: height and width that they are resized to.
    """
    device = torch.accelerator.current_accelerator() or torch.device("cpu")
    network = network.eval().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    normalize = normalize.to(device)
    for start in bar(range(0, len(files), CHUNK), desc="the teacher's maps", unit="batch"):
        images = torch.from_numpy(read_batch(files[start : start + CHUNK], size)).permute(0, 3, 1, 2)
        yield network.featuremaps(normalize(images.to(device))).permute(0, 2, 3, 1).half().cpu()


def principal(maps: Tensor, components: int) -> Tensor:
    """Principal components of maps (N, h, w, C), by the images' mean features: (N, h, w, components)."""
    means = maps.float().mean((1, 2))
    _, directions = torch.linalg.eigh(torch.cov(means.T))  # ascending
    return torch.cat([part.float() @ directions[:, -components:] for part in maps.split(CHUNK)]).half()


def window_means(maps: Tensor, window: Tensor, rows: int = 1, columns: int = 1) -> Tensor:
    """The means of maps (B, h, w, C) over each field of windows (B, 4) cut into a grid: (B, rows, columns, C).

    Of a cell at the edge of a field, the part inside counts.

    Args:
        maps: of whole images.
        window: top, left, height and width as shares of the image; where it is mirrored, left is the right edge and the
            width negative.
        rows: of the grid.
        columns: of the grid.
    """

    def covered(first: Tensor, extent: Tensor, parts: int, cells: int) -> Tensor:
        edges = (first[:, None] + extent[:, None] * torch.linspace(0, 1, parts + 1, device=maps.device)) * cells
        low, high = (pick(edges[:, :-1], edges[:, 1:])[..., None] for pick in (torch.minimum, torch.maximum))
        start = torch.arange(cells, device=maps.device)
        lengths = (torch.minimum(high, start + 1) - torch.maximum(low, start)).clamp(min=0)
        return lengths / lengths.sum(2, keepdim=True)  # (B, parts, cells)

    top, left, height, width = window.unbind(1)
    down, across = covered(top, height, rows, maps.shape[1]), covered(left, width, columns, maps.shape[2])
    return torch.einsum("bhwc,byh,bxw->byxc", maps, down, across)


def fit_classifier(embedding: Tensor, labels: Tensor, classes: int, decay: float) -> tuple[Tensor, Tensor]:
    """Multinomial logistic regression: weight (classes, E) and bias (classes,).

    Args:
        embedding: (N, E).
        labels: (N,).
        classes: their number.
        decay: weight decay.
    """
    weight = torch.zeros(classes, embedding.shape[1], requires_grad=True)
    bias = torch.zeros(classes, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = F.cross_entropy(F.linear(embedding, weight, bias), labels) + decay / 2 * weight.pow(2).sum()
        value.backward()
        return value

    optimizer.step(loss)
    return weight.detach(), bias.detach()


def feature_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared distance of the normalized embeddings (B, D): after FitNets, arXiv 1412.6550, eq. 3."""
    return (F.normalize(student) - F.normalize(teacher)).pow(2).sum(1).mean()


def distance_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Huber loss between all distances of the batch, each in units of its mean (RKD, arXiv 1904.05068, eq. 5-7)."""

    def potential(embedding: Tensor) -> Tensor:
        distances = F.pdist(embedding)
        return distances / distances.mean().clamp_min(1e-12)

    return F.smooth_l1_loss(potential(student), potential(teacher))


def angle_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Huber loss between the cosines of all angles that three of the batch form (RKD, arXiv 1904.05068, eq. 8-9)."""

    def potential(embedding: Tensor) -> Tensor:
        towards = F.normalize(embedding[None] - embedding[:, None], dim=2)  # [i, j] = from i to j
        return towards @ towards.mT  # (B, B, B): at i, between j and k

    one, two, three = (torch.arange(len(student), device=student.device).view(shape) for shape in
                       ((-1, 1, 1), (1, -1, 1), (1, 1, -1)))  # fmt: skip
    distinct = (one != two) & (two != three) & (one != three)
    return F.smooth_l1_loss(potential(student)[distinct], potential(teacher)[distinct])


def logit_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T^2 times the divergence of the softened class probabilities (Hinton et al., arXiv 1503.02531, section 2)."""
    mine, theirs = (F.log_softmax(logits / temperature, dim=1) for logits in (student, teacher))
    return temperature**2 * F.kl_div(mine, theirs, reduction="batchmean", log_target=True)
