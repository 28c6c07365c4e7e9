"""A figure belongs to a network: what another checkpoint gave is never shown, nor used, as this one's."""

import re

import pytest
import pytorch_lightning as pl
import torch

from reidlab.errors import InputError
from reidlab.files import file_hash
from reidlab.run import File, Row, Run
from reidlab.stages import compare, evaluate, export, report, train


def settings(small, root, *more):
    quick = ["run.name=run", "evaluate.resamples=20", "evaluate.pictured_queries=1", "evaluate.baselines=[]"]
    return Run.begin([*small, *quick, f"run.root={root}", *more])


pytestmark = pytest.mark.slow


def images(market):
    return sorted((market / "query").glob("*.jpg"))[:2]


@pytest.fixture
def evaluated(small, tmp_path):
    run = train.run(settings(small, tmp_path, "trainer.max_epochs=1"))
    return evaluate.run(run)


def shown(run):
    """All numbers of a card, as text."""
    return set(re.findall(r"\d+\.\d+", (report.run(run) / File.CARD_MARKDOWN).read_text()))


def test_another_seed_in_the_same_folder_leaves_no_figure_of_the_old_network(evaluated, small, tmp_path, market):
    old = evaluated.results[Row.CHECKPOINT].figures["mAP"]
    assert f"{old:.3f}" in shown(evaluated) and evaluated.threshold(evaluated["model.distance"])
    compare.run(evaluated, *images(market))
    new = train.run(settings(small, tmp_path, "trainer.max_epochs=1", "seed=1", "run.overwrite=true"))
    assert not new.results and not new.verification
    text = (report.run(new) / File.CARD_MARKDOWN).read_text()
    assert f"mAP**: {old:.3f}" not in text and "evaluate run.name=run" in text
    with pytest.raises(InputError, match="no calibrated threshold"):
        compare.run(new, *images(market))
    evaluate.run(new)
    assert new.results[Row.CHECKPOINT].checkpoint == file_hash(new / File.BEST)


def test_a_checkpoint_that_was_put_in_the_place_of_another_has_none_of_its_figures(evaluated, market):
    old = evaluated.results[Row.CHECKPOINT].figures["mAP"]
    content = torch.load(evaluated / File.BEST, weights_only=True)
    content["state_dict"] = {name: tensor * 1.01 for name, tensor in content["state_dict"].items()}
    torch.save(content, evaluated / File.BEST)
    run = Run(evaluated.folder)
    assert Row.CHECKPOINT in run.stale_results and Row.CHECKPOINT not in run.results and not run.verification
    card = (report.run(run) / File.CARD_MARKDOWN).read_text()
    assert "Made by another checkpoint" in card and f"mAP**: {old:.3f}" not in card
    with pytest.raises(InputError, match="no calibrated threshold"):
        compare.run(run, *images(market))


class Meanwhile(pl.Callback):
    """Does something when the second epoch has been validated, as another process may."""

    def __init__(self, act):
        self.act = act

    def on_train_epoch_start(self, trainer, pl_module):
        if trainer.current_epoch == 2:
            with torch.inference_mode():
                self.act()


def test_a_training_that_goes_on_is_said_by_every_stage_and_its_figures_end_with_its_checkpoint(
    small, tmp_path, capsys
):
    run, said, rows = settings(small, tmp_path, "trainer.max_epochs=4"), [], {}

    def look():
        capsys.readouterr()
        for stage in (evaluate, export, report):
            found = Run(run.folder)
            stage.run(found)
            said.append(capsys.readouterr().out)
        rows.update(found.results)
        said.append((found / File.CARD_MARKDOWN).read_text())

    train.run(run, [Meanwhile(look)])
    assert len(said) == 4 and all("its training isn't finished" in text for text in (*said[:2], said[3]))
    assert rows[Row.CHECKPOINT].checkpoint
    present = file_hash(run / File.BEST)
    assert (Row.CHECKPOINT in run.results) == (rows[Row.CHECKPOINT].checkpoint == present)
    assert "isn't finished" not in (report.run(run) / File.CARD_MARKDOWN).read_text()


def test_a_training_that_was_stopped_is_said(small, tmp_path, capsys):
    def stop():
        raise KeyboardInterrupt

    run = settings(small, tmp_path, "trainer.max_epochs=4")
    with pytest.raises(KeyboardInterrupt):
        train.run(run, [Meanwhile(stop)])
    for stage in (evaluate, export):
        stage.run(Run(run.folder))
        assert "its training isn't finished" in capsys.readouterr().out
    assert "its training isn't finished" in (report.run(Run(run.folder)) / File.CARD_MARKDOWN).read_text()


@pytest.mark.parametrize("stage", [evaluate, export])
def test_a_checkpoint_that_is_replaced_during_a_stage_gives_no_figure(stage, evaluated, monkeypatch):
    run = Run(evaluated.folder)
    before = (run / File.METRICS).read_bytes()
    _ = run.network

    def replaced(*arguments, **options):
        content = torch.load(run / File.BEST, weights_only=True)
        torch.save({**content, "epoch": 77}, run / File.BEST)
        return original(*arguments, **options)

    name = {evaluate: "evaluate", export: "export"}[stage]
    original = getattr(stage, name)
    monkeypatch.setattr(stage, name, replaced)
    with pytest.raises(InputError, match="its checkpoint was replaced meanwhile"):
        stage.run(run)
    assert (run / File.METRICS).read_bytes() == before and not run.has(File.ONNX)
