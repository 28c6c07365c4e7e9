"""What a card, a page and a published folder say of a training is what its folder recorded, whatever is given now."""

import shutil

import pytest
import yaml
from test_card import TRAINED, checkpoint, composed, rows_of

import reidlab
from reidlab import card
from reidlab.config import CLONE
from reidlab.dashboard import folders
from reidlab.files import read_yaml, write_json
from reidlab.run import File, Row, Run, provenance
from reidlab.stages import publish, report
from reidlab.stages.matrix import transfer_matrix

FIGURES = {"mAP": 0.5, "rank-1": 0.6, "num_query": 8, "num_gallery": 80}


def front_of(run):
    return yaml.safe_load((run / File.CARD_MARKDOWN).read_text().split("---\n")[1])


@pytest.fixture
def trained(tmp_path):
    """A run of Market-1501's layout, as if it had been trained."""
    given = ["data=market1501", "data.size=[64,32]", "optimizer=adamw", "optimizer.lr=0.00123", "loss=softmax"]
    run = composed(tmp_path, "tr", *given)
    checkpoint(run, 0)
    write_json(run / File.TRAINING, TRAINED | provenance() | {"checkpoint": run.checkpoint})
    return run


def resumed(run, *overrides):
    return Run.resume([f"run.root={run.folder.parent}", f"run.name={run.name}", *overrides])


@pytest.mark.parametrize(
    ("name", "told"),
    [("flowers_fdmobilenet_x0_25_128", "distilled from EfficientNet-Lite0"), ("demo_osnet_x0_25", "drawn people")],
)
def test_the_copy_of_a_released_network_makes_up_no_recipe(name, told, tmp_path):
    released = CLONE / "data" / "models" / name
    shutil.copytree(released, tmp_path / "runs" / "mine")
    run = Run(tmp_path / "runs" / "mine")
    epochs = run.training["epochs"]
    for _ in range(2):  # the second card replaces the first one, and not what came with the network
        rows = rows_of(run)
        assert (run / "card" / "as_found.md").read_bytes() == (released / File.CARD_MARKDOWN).read_bytes()
        assert not {"optimizer", "learning rate", "loss", "initial weights", "epochs at most", "seed"} & {*rows}
        assert rows["weights"].startswith("not recorded") and rows["epochs trained"] == str(epochs)
    for page in ((run / File.CARD_MARKDOWN).read_text(), (run / File.CARD).read_text()):
        assert "by this run" not in page and "reidlab train" not in page and "optimizer." not in page
        assert told in page.replace("\\", "")
    assert "datasets" not in front_of(run)
    place = tmp_path / "published"
    publish.run(run, str(place))
    assert told in (place / "README.md").read_text().replace("\\", "")
    assert not {"optimizer", "loss", "augment", "regime", "schedule"} & {*read_yaml(place / "config.yaml")}
    assert reidlab.load(place).size == tuple(run["data.size"])


def test_other_test_data_is_not_what_the_network_learned(trained, tmp_path):
    elsewhere = resumed(trained, "data=pku_reid", "data.size=[96,48]", "data.val_fraction=0.4")
    elsewhere.record({Row.CHECKPOINT: FIGURES}, {"test": "ab12" * 16, "size": [96, 48]}, elsewhere.checkpoint)
    for run in (elsewhere, resumed(trained)):  # the latter as a report without the data of the evaluation
        card.write_card(run)
        front, markdown = front_of(run), (run / File.CARD_MARKDOWN).read_text()
        assert front["datasets"] == ["market1501"]
        assert front["model-index"][0]["results"][0]["dataset"]["name"] == "pku_reid"
        learned, _, tested = markdown.partition("**Trained on**")[2].partition("**Tested on**")
        assert "| data set | market1501 |" in learned and TRAINED["data_hash"] in learned and "0.4" not in learned
        tested = tested.partition("\n\n")[2].partition("\n\n")[0]
        assert "| data set | pku\\_reid |" in tested and TRAINED["data_hash"] not in tested
        assert "trained on market1501, tested on pku\\_reid" in markdown
        assert report._facts(run, Row.CHECKPOINT)["data"] == "pku_reid"
        assert report._facts(run, Row.CHECKPOINT)["trained on"] == "market1501"
    assert rows_of(elsewhere)["trained at"] == "64x32, height x width"
    assert "CC-BY-NC-SA-4.0" not in rows_of(resumed(trained)).get("license", "")
    table = transfer_matrix([Run(trained.folder)])
    assert table.index.tolist() == ["tr (market1501)"] and "pku_reid" in table
    assert folders.leaderboard([folders.read_run(trained.folder)])[folders.SPLIT].tolist() == ["pku_reid ab12ab12"]
    publish.run(elsewhere, str(tmp_path / "published"))
    told = read_yaml(tmp_path / "published" / "config.yaml")["data"]
    assert (told["name"], told["val_fraction"], told["size"]) == ("market1501", trained["data.val_fraction"], [96, 48])


def test_settings_that_are_given_now_are_not_those_of_the_training(trained, tmp_path):
    before, weights = rows_of(trained), tmp_path / "other.pth"
    shutil.copy(trained / File.BEST, weights)
    now = ["optimizer.lr=0.5", "seed=77", "loss=softmax_triplet", "trainer.max_epochs=999", f"model.weights={weights}"]
    assert rows_of(resumed(trained, *now)) == before
    assert before["learning rate"] == "0.00123" and before["weights"] == "trained by this run, from scratch"


def test_counts_of_other_data_are_not_shown_as_its_splits(trained):
    header = "split,identities,images,cameras,distractors\n"
    trained.write(File.DATA_SUMMARY, header + "train,88,2112,4,0\nval_query,10,28,6,0\n")
    assert rows_of(trained)["set aside for validation"] == "10 people, beside 88 to learn from"
    trained.write(File.DATA_SUMMARY, header + "train,57,300,2,0\nval_query,7,28,2,0\n")
    assert "57" not in rows_of(trained)["set aside for validation"]
    assert "counts of images" in (trained / File.CARD_MARKDOWN).read_text()


def test_weights_of_elsewhere_are_not_trained_on_what_tests_them(tmp_path, trained):
    file = tmp_path / "vendor.pth"
    shutil.copy(trained / File.BEST, file)
    run = composed(tmp_path, "theirs", "data=pku_reid", "data.size=[64,32]", f"model.weights={file}")
    run.record({Row.CHECKPOINT: FIGURES}, {"test": "ab12" * 16}, run.checkpoint)
    card.write_card(run)
    assert "datasets" not in front_of(run) and transfer_matrix([run]).index.tolist() == ["theirs (vendor.pth)"]


def test_a_teacher_is_named(tmp_path):
    run = composed(tmp_path, "pupil", "experiment=demo", "distill=standard", "distill.teacher=/home/me/runs/big")
    write_json(run / File.TRAINING, TRAINED)
    assert rows_of(run)["teacher"] == "big"


def test_a_card_of_somebody_s_own_is_kept(trained):
    trained.write(File.CARD_MARKDOWN, "# What I know of it\n\nThe third camera was dirty.\n")
    card.write_card(trained)
    assert "third camera" in (trained / "card" / "as_found.md").read_text()
    trained.write(File.CARD_MARKDOWN, "# Another\n")
    card.write_card(trained)
    assert "third camera" in (trained / "card" / "as_found.md").read_text()
    assert (trained / "card" / "as_found_2.md").read_text() == "# Another\n"
