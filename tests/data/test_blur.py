"""Heads in pictures: nothing is left to recognize, and nothing else changes."""

import numpy as np
import pytest

from reidlab.data import blur_head
from reidlab.run import Run
from reidlab.stages import data


@pytest.mark.parametrize("size", [(128, 64), (97, 33), (3, 2), (1, 1)])
def test_the_upper_quarter_is_four_means(size):
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    before, found, top = image.copy(), blur_head(image), max(1, round(size[0] / 4))
    assert np.array_equal(image, before) and np.array_equal(found[top:], image[top:])
    colors = np.unique(found[:top].reshape(-1, 3), axis=0)
    assert len(colors) <= min(4, size[1])
    if size == (128, 64):
        for part in range(4):
            columns = slice(16 * part, 16 * part + 16)
            assert found[0, 16 * part] == pytest.approx(image[:top, columns].mean((0, 1)), abs=0.51)


def test_every_way_to_a_picture_blurs_where_the_run_says_so(small, market, tmp_path):
    (file, *_) = sorted((market / "query").glob("*.jpg"))
    plain, blurred = (
        Run.compose([*small, f"run.root={tmp_path}", f"run.name={blur}", f"privacy.blur={blur}"])
        for blur in (False, True)
    )
    assert np.array_equal(blurred.picture(file), blur_head(plain.picture(file)))
    path = plain.datamodule().samples.table["path"].iloc[0]
    assert np.array_equal(blurred.datamodule().read(path), blur_head(plain.datamodule().read(path)))
    sheets = [(data.run(run).folder / "data" / "identities.png").read_bytes() for run in (plain, blurred)]
    assert sheets[0] != sheets[1]
