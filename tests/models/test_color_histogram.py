"""The color-histogram baseline against the standard library's HSV and a loop over pixels."""

import colorsys

import pytest
import torch

from reidlab.models import ColorHistogram
from reidlab.models.color_histogram import rgb_to_hsv


def test_hsv_is_that_of_the_standard_library():
    corners = torch.tensor([[r, g, b] for r in (0, 0.5, 1) for g in (0, 0.5, 1) for b in (0, 0.5, 1)])
    pixels = torch.cat((corners, torch.rand(200, 3, generator=torch.Generator().manual_seed(0))))
    ours = rgb_to_hsv(pixels.T[None, :, None])[0, :, 0].T
    theirs = torch.tensor([colorsys.rgb_to_hsv(*pixel) for pixel in pixels.double().tolist()])
    torch.testing.assert_close(ours, theirs.float(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", [(12, 4), (13, 5)])
def test_embedding_is_the_root_of_each_stripe_s_shares(size):
    image = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0))
    stripes, bins = 3, (4, 2, 3)
    expected = torch.zeros(2, stripes, *bins)
    for b in range(2):
        for y in range(size[0]):
            for x in range(size[1]):
                hsv = colorsys.rgb_to_hsv(*image[b, :, y, x].tolist())
                cell = [min(int(level * n), n - 1) for level, n in zip(hsv, bins, strict=True)]
                expected[(b, y * stripes // size[0], *cell)] += 1
    expected = (expected.flatten(2) / expected.flatten(2).sum(2, keepdim=True)).sqrt().flatten(1) / stripes**0.5
    output = ColorHistogram(stripes, bins)(image)
    assert output.logits is None
    torch.testing.assert_close(output.embedding, expected)
    torch.testing.assert_close(output.embedding.norm(dim=1), torch.ones(2))


def test_same_clothes_are_nearer_than_swapped_ones():
    def person(top, bottom):
        image = torch.empty(3, 60, 20)
        image[:, :30], image[:, 30:] = torch.tensor(top).view(3, 1, 1), torch.tensor(bottom).view(3, 1, 1)
        return image

    red_blue, darker, blue_red = (
        ColorHistogram(num_classes=7)(person(*clothes)[None]).embedding
        for clothes in (
            ([0.9, 0.1, 0.1], [0.1, 0.1, 0.9]),
            ([0.8, 0.1, 0.1], [0.1, 0.1, 0.8]),
            ([0.1, 0.1, 0.9], [0.9, 0.1, 0.1]),
        )
    )
    assert (red_blue - darker).norm() < (red_blue - blue_red).norm()
