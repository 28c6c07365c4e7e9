"""The runner's own test, to run on the board: python test_reid.py, or pytest; the desk's embeddings are in desk.npz."""

import numpy as np
import reid

DESK = np.load(reid.HERE / "desk.npz")  # images (N, H, W, 3) uint8; by name of the model, embeddings (N, D)


def test_embeddings_are_the_desks():
    """Every model whose runtime is installed gives the embeddings that it gave at the desk."""
    assert reid.available(), "install ai-edge-litert or onnxruntime"
    for name in reid.available():
        found, expected = np.stack([*map(reid.load(name), DESK["images"])]), DESK[name]
        error = np.linalg.norm(found - expected, axis=1) / np.linalg.norm(expected, axis=1)
        assert error.max() < 0.05, f"{name}: an embedding is {error.max():.1%} off the desk's"
        print(f"{name}: {len(found)} embeddings, at most {error.max():.2%} off the desk's")


def test_resizing_keeps_a_plain_image_plain():
    """Whatever its size."""
    height, width = reid.CARD["size"]
    image = np.full((3 * height + 1, 2 * width - 1, 3), (10, 200, 30), np.uint8)
    assert (reid.fit(image) == np.full((height, width, 3), (10, 200, 30))).all()


if __name__ == "__main__":
    test_embeddings_are_the_desks()
    test_resizing_keeps_a_plain_image_plain()
