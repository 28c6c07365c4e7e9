import pytest
import torch

from reidlab.data import Mix
from reidlab.data.mixing import _beta

LABELS = torch.arange(4).repeat(4)  # each image has the brightness of its class, so that mixtures can be recognized


def images(height=20, width=30):
    return (LABELS.float() / 4)[:, None, None, None].expand(16, 3, height, width).clone()


@pytest.mark.parametrize("options", [{"mixup": 1.0, "cutmix": 0}, {"mixup": 0, "cutmix": 1.0}, {}])
def test_the_mean_brightness_is_that_of_the_shares(options):
    torch.manual_seed(0)
    mix = Mix(p=1.0, **options)
    for _ in range(50):
        mixed, share = mix(images())
        torch.testing.assert_close(mixed.mean((1, 2, 3)), share @ (LABELS / 4))
        torch.testing.assert_close(share.sum(1), torch.ones(16))


def test_mixup_is_one_share_everywhere_and_cutmix_one_window():
    torch.manual_seed(0)
    blended, _ = Mix(mixup=1.0, cutmix=0, p=1.0)(images())
    assert (blended.amax((1, 2, 3)) - blended.amin((1, 2, 3)) < 1e-6).all()
    pasted, share = Mix(mixup=0, cutmix=1.0, p=1.0)(images())
    other = (pasted != images()).any(1)  # (B, H, W)
    for window, parts in zip(other, share, strict=True):
        if window.any():
            rows, columns = window.any(1).nonzero(), window.any(0).nonzero()
            high, wide = (int(place.max() - place.min()) + 1 for place in (rows, columns))
            assert window.sum() == high * wide
            assert parts.min() == 0 and parts.sort().values[-2] == pytest.approx(
                min(high * wide / 600, 1 - high * wide / 600), abs=1e-6
            )


def test_how_often_batches_are_mixed():
    torch.manual_seed(0)
    mix = Mix(p=0.3)
    counts = [int((mix(images())[1] > 0).sum()) for _ in range(400)]
    assert 0.2 < sum(count > 16 for count in counts) / 400 < 0.4
    for never in (Mix(p=0.0), Mix(mixup=0, cutmix=0, p=1.0)):
        same, share = never(images())
        assert torch.equal(same, images()) and torch.equal(share, torch.eye(16))


def test_shares_are_beta_distributed():
    """The first two moments of Beta(a, a): 1/2 and 1 / (4 (2 a + 1)) of variance."""
    torch.manual_seed(0)
    for a in (0.2, 1, 4.0):
        drawn = torch.tensor([_beta(a) for _ in range(4000)])
        assert drawn.mean() == pytest.approx(0.5, abs=0.02)
        assert drawn.var() == pytest.approx(1 / (4 * (2 * a + 1)), rel=0.08)
