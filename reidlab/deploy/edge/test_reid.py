"""The runner's own test, to run on the board: python test_reid.py, or pytest; the desk's outputs are in desk.npz."""

import io

import numpy as np
import reid

DESK = np.load(reid.HERE / "desk.npz")  # images (N, H, W, 3) uint8; outputs (N, D) of each model; photographs


def test_outputs_are_the_desks():
    """Every model whose runtime is installed gives the outputs that it gave at the desk."""
    assert reid.available(), "install ai-edge-litert or onnxruntime"
    for name in reid.available():
        found, expected = np.stack([*map(reid.load(name), DESK["images"])]), DESK[name]
        error = np.linalg.norm(found - expected, axis=1) / np.linalg.norm(expected, axis=1)
        assert error.max() < 0.05, f"{name}: an output is {error.max():.1%} off the desk's"
        print(f"{name}: {len(found)} outputs, at most {error.max():.2%} off the desk's")


def test_photographs_are_read_as_at_the_desk():
    """Of odd sizes, larger and smaller than the model's, lying on a side: the same pixels."""
    for name in ("large", "small"):
        found = reid.fit(reid.read(io.BytesIO(DESK[f"{name}.png"].tobytes())))
        assert np.array_equal(found, DESK[name]), f"the {name} photograph's pixels differ: update Pillow"


if __name__ == "__main__":
    test_outputs_are_the_desks()
    test_photographs_are_read_as_at_the_desk()
