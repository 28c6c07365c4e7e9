"""A student follows its teacher: terms as in their papers, a teacher that stays as it is, and resuming."""

import math
from dataclasses import replace

import pytest
import torch

from reidlab.config import write_config
from reidlab.errors import InputError
from reidlab.files import write_json
from reidlab.models import efficientnet_lite0, osnet_x0_25
from reidlab.run import File, Run
from reidlab.stages import train
from reidlab.training.distillation import (
    angle_loss,
    distance_loss,
    feature_loss,
    fit_classifier,
    logit_loss,
    principal,
    window_means,
)
from reidlab.training.tasks import ReidTask


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
    network = ["model=fdmobilenet_x0_25", "model.network.feat_dim=64"]
    place = [f"run.root={root}", "run.name=teacher", "trainer.max_epochs=1", *network]
    return train.run(Run.compose([*small, *place])).folder


def student(small, root, name, teacher, *more):
    terms = ["distill=standard", "distill.distance=25", "distill.angle=50"]
    place = [f"run.root={root}", f"run.name={name}", "trainer.max_epochs=2", *terms]
    network = ["model=fdmobilenet_x0_25", "model.network.feat_dim=32"]
    return Run.compose([*small, *place, *network, f"distill.teacher={teacher}", *more])


def test_a_student_learns_by_all_terms_and_resumes(small, tmp_path, teacher, monkeypatch):
    before = (teacher / "checkpoints" / "best.ckpt").read_bytes()
    unbroken = train.run(student(small, tmp_path, "unbroken", teacher))
    start = ReidTask.on_train_epoch_start

    def fail(task):
        if task.current_epoch == 1:
            raise RuntimeError("stopped")
        start(task)

    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="stopped"):
        patch.setattr(ReidTask, "on_train_epoch_start", fail)
        train.run(student(small, tmp_path, "broken", teacher))
    resumed = train.run(student(small, tmp_path, "broken", teacher))
    one, two = (torch.load(run / File.LAST, weights_only=True)["state_dict"] for run in (unbroken, resumed))
    assert all(torch.equal(tensor, two[name]) for name, tensor in one.items())
    assert one["distillation.project.weight"].shape == (64, 32)
    assert not any("teacher" in name for name in one)
    logged = unbroken.table_of(File.HISTORY)
    assert all(f"train/distill_{term}" in logged for term in ("feature", "distance", "angle", "logits"))
    assert (teacher / "checkpoints" / "best.ckpt").read_bytes() == before


def test_a_teacher_sees_its_own_size_or_the_one_that_is_asked_for(small, tmp_path, teacher):
    for options, expected in ([], (32, 16)), (["distill.size=[48,40]"], (48, 40)):
        run, seen = student(small, tmp_path, "sizes", teacher, "distill.logits=0", "distill.feature=1", *options), []
        distillation = train.build_distillation(run, osnet_x0_25(feat_dim=64), run.datamodule(), "x")
        distillation.teacher[0].network.register_forward_pre_hook(
            lambda network, given, seen=seen: seen.append(given[0].shape)
        )
        distillation.teach(torch.rand(2, 3, 30, 20))
        assert seen == [(2, 3, *expected)]


def test_a_teacher_of_other_identities_gives_no_scores(small, tmp_path, teacher):
    with pytest.raises(InputError, match=r"no scores for the identities.*set distill\.logits=0"):
        train.run(student(small, tmp_path, "other", teacher, "seed=5"))


def test_a_teacher_that_learned_validation_identities_is_refused(small, tmp_path, teacher):
    learned = set(Run(teacher).datamodule().samples.split("train")["pid"])
    run = student(small, tmp_path, "leak", teacher, "seed=5", "distill.logits=0")
    leaked = learned & set(run.datamodule().validation["pid"])
    with pytest.raises(InputError, match=rf"it learned {len(leaked)} of the validation identities"):
        train.run(run)


def test_a_teacher_must_be_trained(small, tmp_path):
    half = Run.compose([*small, f"run.root={tmp_path}", "run.name=half"])
    write_config(half.config, half / File.CONFIG)
    write_json(half / File.TRAINING, {"finished": False})
    messages = {"null": "name the folder", half.folder: "no finished training", tmp_path / "none": "no such run"}
    for teacher, message in messages.items():
        with pytest.raises(InputError, match=message):
            train.run(student(small, tmp_path, "x", teacher))


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (2, 3)])
def test_the_means_over_a_window_count_the_parts_of_cells(rows, columns):
    """Against means of the maps enlarged 20 times, of which each field of a window is whole pixels."""
    maps = torch.rand(4, 4, 5, 2)
    fine = maps.repeat_interleave(20, 1).repeat_interleave(20, 2)
    pixels = torch.tensor([[0, 0, 80, 99], [3, 17, 50, 60], [70, 94, 2, 3], [3, 77, 50, -60]])  # the last one mirrored
    seen = window_means(maps, pixels / torch.tensor([80, 100, 80, 100]), rows, columns)
    for i, (y, x, h, w) in enumerate(pixels.tolist()):
        part = fine[i, y : y + h, x : x + w] if w > 0 else fine[i, y : y + h, x + w : x].flip(1)
        fields = part.view(rows, h // rows, columns, abs(w) // columns, 2)
        torch.testing.assert_close(seen[i], fields.mean((1, 3)))


def test_principal_components_keep_what_differs_between_images():
    torch.manual_seed(0)
    maps = torch.randn(40, 2, 3, 2) @ torch.randn(2, 16) + 5  # two directions in 16 channels
    reduced = principal(maps.half(), 2).float().mean((1, 2))
    means = maps.mean((1, 2))
    torch.testing.assert_close(torch.cdist(reduced, reduced), torch.cdist(means, means), atol=0.05, rtol=0.01)


def test_the_fitted_classifier_is_where_the_gradient_ends():
    torch.manual_seed(0)
    x, labels = torch.randn(60, 4), torch.arange(60) % 3
    weight, bias = fit_classifier(x, labels, 3, decay=0.1)
    residual = (x @ weight.T + bias).softmax(1) - torch.nn.functional.one_hot(labels, 3)
    torch.testing.assert_close(residual.T @ x / 60, -0.1 * weight, atol=1e-3, rtol=0)
    torch.testing.assert_close(residual.mean(0), torch.zeros(3), atol=1e-3, rtol=0)


@pytest.fixture(scope="module")
def crops(tmp_path_factory):
    """Settings of drawn shapes that an EfficientNet of random weights teaches."""
    root = tmp_path_factory.mktemp("crops")
    torch.manual_seed(0)
    network = efficientnet_lite0()
    for module in network.modules():
        module.momentum = None  # batch norms with the statistics of one batch, so that images differ in the last maps
    network(torch.rand(8, 3, 64, 64))
    torch.save(network.state_dict(), root / "teacher.pth")
    return [
        "data=shapes", "data.source.images_per_class=12", "model=fdmobilenet_x0_25",
        "distill=crops", f"distill.weights={root}/teacher.pth",
        "distill.size=[64,64]", "distill.components=8", f"data.root={root}/shapes", f"data.cache={root}/cache",
        f"run.root={root}", "data.size=[32,32]", "data.batch_size=16", "data.num_workers=0", "task.mix=null",
        "logger=csv", "trainer.max_epochs=1",
    ]  # fmt: skip


def test_a_teacher_that_is_absent_or_sees_nothing_is_refused(crops, tmp_path):
    with pytest.raises(InputError, match=r"distill\.weights=/nowhere\.pth: no such file"):
        train.check(Run.compose([*crops, "run.name=absent", "distill.weights=/nowhere.pth"]))
    torch.save(efficientnet_lite0().state_dict(), tmp_path / "blind.pth")  # features of random layers vanish
    with pytest.raises(InputError, match="sees all images alike"):
        train.run(Run.compose([*crops, "run.name=blind", f"distill.weights={tmp_path}/blind.pth"]))


def test_a_classifier_learns_from_what_a_teacher_sees_in_its_crops(crops):
    run = train.run(Run.compose([*crops, "run.name=student"]))
    assert {"train/distill_feature", "train/distill_logits"} <= set(run.table_of(File.HISTORY))
    state = torch.load(run / File.LAST, weights_only=True)["state_dict"]
    assert [name for name in state if "distill" in name] == ["distillation.project.weight", "distillation.project.bias"]
    data = run.datamodule()
    network = run.untrained_network(data.num_classes)

    def teacher(*more):
        run = Run.compose([*crops, *more])
        return train.build_distillation(run, network, run.datamodule(), "x")

    cached, fresh = teacher(), teacher("data.cache=null")
    assert torch.equal(cached.maps, fresh.maps)
    turned = run.datamodule()  # the same images in other rows
    turned.samples = replace(turned.samples, table=turned.samples.table[::-1].reset_index(drop=True))
    assert torch.equal(train.build_distillation(run, network, turned, "x").maps, fresh.maps.flip(0))
    assert not torch.equal(teacher("distill.teacher.mean=[0.2,0.2,0.2]").maps, fresh.maps)
    whole = {
        "index": torch.tensor(data.samples.split("train").index[:3].to_numpy()),
        "window": torch.tensor([[0, 0, 1, 1]] * 3),
    }
    taught = cached.teach(whole).flatten(1)
    expected = (cached.maps[:3].float().mean((1, 2)) - cached.center) / cached.spread
    torch.testing.assert_close(taught, expected)
    half = whole | {"share": torch.tensor([[0.5, 0.5, 0], [0, 1, 0], [0, 0, 1]])}
    torch.testing.assert_close(cached.teach(half).flatten(1), torch.stack([expected[:2].mean(0), *expected[1:]]))
    assert network.feat_dim == 256


def test_a_classifier_learns_what_a_teacher_sees_in_each_part(crops):
    """The local term is the mean over the places; over crops that a window mirrors, as over mirrored images."""
    local = ["augment.flip=null", "data.size=[64,64]", "distill.local=2", "distill.feature=0", "distill.logits=0"]
    run = Run.compose([*crops, *local])
    data = run.datamodule()
    network = run.untrained_network(data.num_classes).eval()
    distillation = train.build_distillation(run, network, data, "x")
    rows = torch.tensor(data.samples.split("train").index[:3].to_numpy())
    image = torch.rand(3, 3, 96, 64)

    def term(window):
        embedding, logits = network(image)
        batch = {"index": rows, "window": torch.tensor([window] * 3).float()}
        return distillation(batch, embedding, logits)["distill_local"]

    maps = distillation.project(network.featuremaps(image).permute(0, 2, 3, 1))  # (3, 3, 2, 8)
    for window in ([0, 0, 1, 1], [0, 1, 1, -1]):
        seen = distillation.maps[:3].float() if window[3] > 0 else distillation.maps[:3].float().flip(2)
        taught = torch.nn.functional.interpolate(seen.permute(0, 3, 1, 2), (3, 2), mode="area").permute(0, 2, 3, 1)
        taught = (taught - distillation.center) / distillation.spread
        cosine = torch.nn.functional.cosine_similarity(maps, taught, dim=3)
        torch.testing.assert_close(term(window), 2 * (2 - 2 * cosine).mean())
    term([0, 0, 1, 1]).backward()
    assert all(p.grad.abs().sum() > 0 for p in network.parameters() if p.dim() == 4)
    for override, message in {
        "model.network.feat_dim=64": "feat_dim=null",
        "augment.flip.p=0.5": r"augment\.flip=null data\.crop\.flip=0\.5",
    }.items():
        with pytest.raises(InputError, match=rf"distill\.local=1.*{message}"):
            train.run(Run.compose([*crops, "distill.local=1", override, "run.name=refused"]))
