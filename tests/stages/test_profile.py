"""`reidlab run --profile`: the parts of a whole run."""

import time

import pandas as pd

from reidlab import cli
from reidlab.plots.canvas import blank
from reidlab.plots.saving import save_figure
from reidlab.timing import spent


def test_a_run_says_where_its_time_went(small, tmp_path, capsys):
    with spent.within("an earlier command"):
        save_figure(blank(1, 1), tmp_path / "picture.png")
    quick = ["model=fdmobilenet_x0_25", "trainer.max_epochs=1"]
    began = time.perf_counter()
    assert cli.main(["run", "--profile", *small, *quick, f"run.root={tmp_path}", "run.name=timed"]) == 0
    elapsed, table = time.perf_counter() - began, pd.read_csv(tmp_path / "timed" / "profile.csv")
    steps = ("wait", "forward", "backward", "optimizer", "validation", "checkpoints")
    expected = {("train", step) for step in steps} | {("evaluate", "embedding"), ("evaluate", "pictures")}
    assert expected <= {*zip(table["stage"], table["part"], strict=True)}
    assert {*table["stage"]} == {*cli.WHOLE}
    assert (table["seconds"] >= 0).all() and table["seconds"].sum() <= elapsed
    assert (tmp_path / "timed" / "profile.png").is_file()
    assert "training images took" in capsys.readouterr().out
