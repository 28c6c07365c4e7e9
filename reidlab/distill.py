"""Distillation: any trained run teaches a smaller network its embeddings, their relations and its class scores."""

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reidlab.config import instantiate, read_config, resolve_path
from reidlab.data import Normalize
from reidlab.errors import InputError
from reidlab.models import load_weights
from reidlab.runs import read_json
from reidlab.tasks import BEST_CHECKPOINT


class Distillation(nn.Module):
    """The terms by which a student follows a teacher; `feature`, `distance`, `angle` and `logits` are their weights.

    `teacher` is the folder of a trained run. It sees the student's augmented images, normalised and resized as it was
    trained; it learns nothing and is in no checkpoint. A linear map brings the student's embedding to the teacher's
    width where these differ. Scores need a teacher that learned the same identities (the same `data_hash`).

    Shape: image (B, 3, H, W) normalised by `mean` and `std`, embedding (B, D), logits (B, C) -> {name: scalar}.
    """

    def __init__(
        self,
        teacher: str | Path | None,
        embedding_size: int,
        mean: Sequence[float],
        std: Sequence[float],
        data_hash: str,
        feature: float = 1.0,
        distance: float = 25.0,
        angle: float = 50.0,
        logits: float = 1.0,
        temperature: float = 4.0,
    ):
        super().__init__()
        if teacher is None:
            raise InputError("distill.teacher: name the folder of a trained run, as distill.teacher=runs/NAME")
        folder = resolve_path(teacher)
        record = read_json(folder / "train.json")
        if not record.get("finished"):
            raise InputError(f"distill.teacher={teacher}: no finished training there; train it first")
        model, data = (read_config(folder / "config.yaml")[key] for key in ("model", "data"))
        network = instantiate(model.network, num_classes=record["num_identities"] if logits else 0)
        missing = load_weights(network, folder / BEST_CHECKPOINT).missing
        if logits and (missing or record["data_hash"] != data_hash):
            raise InputError(
                f"distill.logits={logits}: {teacher} has no scores for the identities learned here; "
                "set distill.logits=0, or train both on the same data, data.seed and data.val_fraction"
            )
        self.weights = {"feature": feature, "distance": distance, "angle": angle, "logits": logits}
        self.temperature, self.size = temperature, tuple(data.size)
        self.normalize = Normalize(model.mean, model.std)
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1), persistent=False)
        same_width = network.feat_dim == embedding_size or not feature
        self.project = nn.Identity() if same_width else nn.Linear(embedding_size, network.feat_dim, bias=False)
        self.teacher = (network.eval().requires_grad_(False),)  # in a tuple: neither trained nor saved with the student

    @torch.no_grad()
    def teach(self, image: Tensor) -> tuple[Tensor, Tensor | None]:
        """The teacher's embedding and logits for the student's images."""
        image = self.normalize(image * self.std + self.mean)
        if image.shape[2:] != self.size:
            image = F.interpolate(image, self.size, mode="bilinear", antialias=True)
        embedding, logits = self.teacher[0].to(image.device)(image)
        return embedding.float(), None if logits is None else logits.float()

    def forward(self, image: Tensor, embedding: Tensor, logits: Tensor | None) -> dict[str, Tensor]:
        """Every term whose weight isn't 0, weighted."""
        taught, scores = self.teach(image)
        terms = {
            "feature": lambda: feature_loss(self.project(embedding), taught),
            "distance": lambda: distance_loss(embedding, taught),
            "angle": lambda: angle_loss(embedding, taught),
            "logits": lambda: logit_loss(logits, scores, self.temperature),
        }
        return {f"distill_{name}": self.weights[name] * term() for name, term in terms.items() if self.weights[name]}


def feature_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared distance of the normalised embeddings (B, D): after FitNets, arXiv 1412.6550, eq. 3."""
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
    soft = [F.log_softmax(logits / temperature, dim=1) for logits in (student, teacher)]
    return temperature**2 * F.kl_div(*soft, reduction="batchmean", log_target=True)
