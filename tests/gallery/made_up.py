"""What the tests of galleries share: a model without a network, and people in its space."""

from types import SimpleNamespace

import numpy as np

from reidlab.gallery import Gallery


def fake_model(checkpoint="a" * 16, distance="cosine", threshold=0.3):
    """What a gallery wants of a model that it gives no images to."""
    verdict = {} if threshold is None else {"threshold": threshold}
    return SimpleNamespace(name="fake", checkpoint=checkpoint, size=(8, 4), distance=distance, verdict=verdict)


def people(identities, images, dim=16, seed=0, spread=0.3):
    """Embeddings (identities * images, D) around a center for each identity, and their pids."""
    draw = np.random.default_rng(seed)
    centers = draw.standard_normal((identities, 1, dim))
    found = centers + spread * draw.standard_normal((identities, images, dim))
    return found.reshape(-1, dim).astype(np.float32), np.repeat([f"p{i}" for i in range(identities)], images).tolist()


def enroll_one_by_one(folder, name, count):
    """What a process does to a gallery that others change, too."""
    gallery = Gallery.open(folder, fake_model())
    for number in range(count):
        gallery.enroll_embeddings(np.eye(4)[number % 4][None], [f"{name}-{number}"])
