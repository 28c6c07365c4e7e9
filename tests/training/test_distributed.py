"""Two processes train as one does: each image once an epoch, one set of weights, the same validation figures."""

import json
import os
import subprocess
import sys

import pytest
import torch

from reidlab.evaluation import VALIDATION, embed, protocol_of
from reidlab.run import File, Run

SCRIPT = """
import json, sys
from pathlib import Path
import pytorch_lightning as pl
import torch
from reidlab.run import Run
from reidlab.stages import train

class Witness(pl.Callback):
    rows = []

    def on_train_batch_start(self, trainer, task, batch, batch_idx):
        self.rows.append(batch["index"].tolist())

    def on_train_epoch_end(self, trainer, task):
        weights = sum(float(p.detach().double().sum()) for p in task.parameters())
        centers = float(task.loss.losses["center"].centers.double().sum())
        file = Path(sys.argv[1]) / f"seen-{trainer.global_rank}-{trainer.current_epoch}.json"
        file.write_text(json.dumps({"rows": self.rows, "weights": weights, "centers": centers}))
        self.rows = []

torch.set_num_threads(1)
train.run(Run.compose(sys.argv[2:]), [Witness()])
"""


LAUNCHERS = {
    "lightning": [sys.executable],
    "torchrun": [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"],
}


@pytest.mark.slow
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_two_processes_train_as_one(small, tmp_path, launcher):
    overrides = [*small, f"run.root={tmp_path}", "run.name=two", "data.batch_size=4", "loss=softmax_triplet_center"]
    (tmp_path / "two_processes.py").write_text(SCRIPT)
    parallel = ["trainer.devices=2", "+trainer.strategy=ddp", "trainer.max_epochs=2"]
    command = [*LAUNCHERS[launcher], str(tmp_path / "two_processes.py"), str(tmp_path), *overrides, *parallel]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]

    run = Run.compose(overrides)
    datamodule = run.datamodule()
    for epoch in (0, 1):
        seen = [json.loads((tmp_path / f"seen-{rank}-{epoch}.json").read_text()) for rank in (0, 1)]
        rows = [row for process in seen for batch in process["rows"] for row in batch]
        assert sorted(rows) == sorted(datamodule.samples.split("train").index)  # each image once
        assert len(seen[0]["rows"]) == len(seen[1]["rows"])
        assert seen[0]["weights"] == seen[1]["weights"] and seen[0]["centers"] == seen[1]["centers"] != 0

    embeddings = embed(run.network, datamodule, datamodule.validation, "cpu", "validation")
    alone = protocol_of(run, datamodule).evaluate(embeddings, VALIDATION).summary()
    history = run.table_of(File.HISTORY)
    epoch = torch.load(run / File.BEST, weights_only=True)["epoch"]
    for figure in ("mAP", "rank-1", "mINP"):
        assert history.loc[epoch, f"val/{figure}"] == pytest.approx(alone[figure], abs=1e-6)
