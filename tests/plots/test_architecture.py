import pandas as pd

from reidlab import plots

BLOCKS = pd.DataFrame(
    [("conv1", "conv 7 x 7 / 2", (16, 64, 32), 2384, 4_816_896), ("fc", "linear", (512,), 67_072, 65_536)],
    columns=["name", "kind", "shape", "parameters", "macs"],
)


def texts(axes):
    return [text.get_text() for text in axes.texts]


def test_every_block_has_its_shape_and_bars_as_high_as_its_figures():
    maps, stored, computed = plots.architecture(BLOCKS, (3, 128, 64)).axes
    assert texts(maps) == ["image", "3\n128 x 64", "conv1", "16\n64 x 32", "fc", "512"]
    assert [bar.get_height() for bar in stored.patches] == [2384, 67_072]
    assert [bar.get_height() for bar in computed.patches] == [4_816_896, 65_536]
    assert texts(stored) == ["2.38 K", "67.1 K", "parameters\n69.5 K"]
    assert [text.get_text() for text in maps.get_legend().get_texts()] == ["convolution", "linear"]


def test_equal_blocks_of_a_long_network_share_a_box():
    blocks = pd.DataFrame(
        [("stem", "conv 3 x 3", (8, 9, 9), 1, 1)] + [(f"layer.{n}", "Bottleneck", (8, 9, 9), 5, 7) for n in range(20)],
        columns=BLOCKS.columns,
    )
    maps, stored, _ = plots.architecture(blocks, (3, 9, 9)).axes
    assert texts(maps)[::2] == ["image", "stem", "layer.0-19"]
    assert [bar.get_height() for bar in stored.patches] == [1, 100]


def test_counts_are_short():
    assert [plots.short(n) for n in (0, 999, 1_234, 20_600_000, 4.05e9)] == ["0", "999", "1.23 K", "20.6 M", "4.05 G"]
    assert plots.architecture(BLOCKS[:0], (3, 1, 1)).texts
