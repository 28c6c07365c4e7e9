"""A student follows its teacher: terms as in their papers, a teacher that stays as it is, and resuming."""

import math

import pytest
import torch

from reidlab import train
from reidlab.config import compose
from reidlab.distill import angle_loss, distance_loss, feature_loss, logit_loss
from reidlab.errors import InputError
from reidlab.runs import write_json
from reidlab.tasks import ReidTask


def huber(x, y):
    return 0.5 * (x - y) ** 2 if abs(x - y) <= 1 else abs(x - y) - 0.5


@pytest.fixture
def pair():
    """A student's (6, 4) and a teacher's (6, 5) embeddings."""
    torch.manual_seed(0)
    return torch.randn(6, 4), torch.randn(6, 5)


def test_relational_distances_are_the_papers(pair):
    def potentials(x):
        pairs = [float((x[i] - x[j]).norm()) for i in range(6) for j in range(6) if i != j]
        return [distance * len(pairs) / sum(pairs) for distance in pairs]

    terms = [huber(s, t) for s, t in zip(*map(potentials, pair), strict=True)]
    assert distance_loss(*pair).item() == pytest.approx(sum(terms) / len(terms), rel=1e-5)


def test_relational_angles_are_the_papers(pair):
    def cosine(x, i, j, k):
        a, b = x[i] - x[j], x[k] - x[j]
        return float(a @ b / (a.norm() * b.norm()))

    triples = [(i, j, k) for i in range(6) for j in range(6) for k in range(6) if len({i, j, k}) == 3]
    terms = [huber(cosine(pair[0], *triple), cosine(pair[1], *triple)) for triple in triples]
    assert angle_loss(*pair).item() == pytest.approx(sum(terms) / len(terms), rel=1e-5)


def test_scores_are_softened_as_in_the_paper(pair):
    student, teacher = pair[0], pair[1][:, :4]
    total = 0.0
    for s, t in zip((student / 3).tolist(), (teacher / 3).tolist(), strict=True):
        p, q = ([math.exp(v) / sum(map(math.exp, row)) for v in row] for row in (t, s))
        total += 9 * sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    assert logit_loss(student, teacher, temperature=3.0).item() == pytest.approx(total / 6, rel=1e-4)


def test_features_are_compared_without_their_length(pair):
    student, teacher = pair[0], pair[1][:, :4]
    cosines = torch.cosine_similarity(student, teacher)
    assert feature_loss(3 * student, teacher).item() == pytest.approx((2 - 2 * cosines).mean().item(), rel=1e-5)


@pytest.mark.parametrize("term", [feature_loss, distance_loss, angle_loss])
def test_a_perfect_student_has_nothing_to_learn(term, pair):
    assert term(2 * pair[0], pair[0]).item() == pytest.approx(0, abs=1e-6)


@pytest.fixture(scope="module")
def teacher(small, tmp_path_factory):
    root = tmp_path_factory.mktemp("teacher")
    place = [f"run.root={root}", "run.name=teacher", "trainer.max_epochs=1", "model.network.feat_dim=64"]
    train.run(compose([*small, *place]))
    return root / "teacher"


def config(small, root, name, teacher, *more):
    place = [f"run.root={root}", f"run.name={name}", "trainer.max_epochs=2", "distill=standard"]
    return compose([*small, *place, "model.network.feat_dim=32", f"distill.teacher={teacher}", *more])


def test_a_student_learns_by_all_terms_and_resumes(small, tmp_path, teacher, monkeypatch):
    before = (teacher / "checkpoints" / "best.ckpt").read_bytes()
    train.run(config(small, tmp_path, "unbroken", teacher))
    start = ReidTask.on_train_epoch_start

    def fail(task):
        if task.current_epoch == 1:
            raise RuntimeError("stopped")
        start(task)

    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="stopped"):
        patch.setattr(ReidTask, "on_train_epoch_start", fail)
        train.run(config(small, tmp_path, "broken", teacher))
    train.run(config(small, tmp_path, "broken", teacher))
    one, two = (
        torch.load(tmp_path / name / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for name in ("unbroken", "broken")
    )
    assert all(torch.equal(tensor, two[name]) for name, tensor in one.items())
    assert one["distillation.project.weight"].shape == (64, 32)
    assert not any("teacher" in name for name in one)
    header = (tmp_path / "unbroken" / "history.csv").read_text().splitlines()[0]
    assert all(f"train/distill_{term}" in header for term in ("feature", "distance", "angle", "logits"))
    assert (teacher / "checkpoints" / "best.ckpt").read_bytes() == before


def test_a_teacher_of_other_identities_gives_no_scores(small, tmp_path, teacher):
    with pytest.raises(InputError, match=r"no scores for the identities.*set distill\.logits=0"):
        train.run(config(small, tmp_path, "other", teacher, "seed=5"))


def test_a_teacher_must_be_trained(small, tmp_path):
    write_json(tmp_path / "half" / "train.json", {"finished": False})
    for teacher, message in {"null": "name the folder", tmp_path / "half": "no finished training"}.items():
        with pytest.raises(InputError, match=message):
            train.run(config(small, tmp_path, "x", teacher))
