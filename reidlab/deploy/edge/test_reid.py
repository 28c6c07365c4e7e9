"""The runner's own test, to be run on the board: python test_reid.py, or pytest. The desk's embeddings came with it."""

import numpy as np
import reid

DESK = np.load(reid.HERE / "desk.npz")  # images (N, H, W, 3) uint8; by name of the model, embeddings (N, D)


def test_embeddings_are_the_desks():
    """Every model whose runtime is here gives what it gave at the desk."""
    assert reid.available(), "install ai-edge-litert or onnxruntime"
    for name in reid.available():
        found, expected = np.stack([*map(reid.load(name), DESK["images"])]), DESK[name]
        error = np.linalg.norm(found - expected, axis=1) / np.linalg.norm(expected, axis=1)
        assert error.max() < 0.05, f"{name}: an embedding is {error.max():.1%} off the desk's"
        print(f"{name}: {len(found)} embeddings, at most {error.max():.2%} off the desk's")


def test_resizing_is_bilinear():
    """Half the size is the mean of neighbours."""
    height, width = reid.CARD["size"]
    rows = np.arange(2 * height) % 2 * 20
    image = np.broadcast_to(rows[:, None, None], (2 * height, 2 * width, 3)).astype(np.uint8)
    assert (reid.fit(image) == 10).all()


if __name__ == "__main__":
    test_embeddings_are_the_desks()
    test_resizing_is_bilinear()
