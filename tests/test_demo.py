"""The demo is hard for the right reasons: only a trained network gets far, by a wide margin."""

import pytest

from reidlab.run import Run
from reidlab.stages import evaluate, train


@pytest.mark.slow
def test_a_trained_network_beats_an_untrained_one_and_colour_histograms_by_far(tmp_path):
    run = Run.compose(
        [
            "experiment=demo",
            f"data.root={tmp_path / 'people'}",
            "data.source.num_identities=80",
            "data.source.train_identities=60",
            "trainer.max_epochs=10",
            "logger=none",
            f"run.root={tmp_path}",
        ]
    )
    rows = {row: result.figures for row, result in evaluate.run(train.run(run)).results.items()}
    assert rows["untrained"]["mAP"] < 0.2 and rows["color-histogram"]["mAP"] < 0.2
    assert rows["checkpoint"]["mAP"] > 2 * max(rows["untrained"]["mAP"], rows["color-histogram"]["mAP"])
    assert rows["checkpoint"]["rank-1"] > 2 * max(rows["untrained"]["rank-1"], rows["color-histogram"]["rank-1"])
