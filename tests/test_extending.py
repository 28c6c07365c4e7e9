"""The page on extending: its files, put where it says, are built, learned from and tested."""

import importlib
import re
import sys
from types import ModuleType

import pytest
import torch

from reidlab import config
from reidlab.run import Run

PAGE = (config.CLONE / "docs" / "extending.md").read_text()
FILES = re.findall(r"`([\w/]+\.(?:py|yaml))`(?:(?!```|`[\w/]+\.(?:py|yaml)`).)*?```\w+\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture(scope="module", autouse=True)
def added(tmp_path_factory):
    """The page's yamls in a workspace, its modules as if they were in the package; its tests, by their names."""
    root, tests = tmp_path_factory.mktemp("root"), {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REIDLAB_ROOT", str(root))
        for path, text in FILES:
            name = path.removesuffix(".py").replace("/", ".")
            if path.endswith(".yaml"):
                assert not (config.CLONE / path).exists()
                (root / path).parent.mkdir(parents=True, exist_ok=True)
                (root / path).write_text(text)
                continue
            module = ModuleType(name)
            if path.startswith("reidlab/"):
                parent, _, child = name.rpartition(".")
                patch.setitem(sys.modules, name, module)
                patch.setattr(importlib.import_module(parent), child, module, raising=False)
            exec(compile(text, f"<{path} of the page>", "exec"), module.__dict__)  # no file to coverage
            tests |= {key: value for key, value in vars(module).items() if key.startswith("test_")}
        yield tests


def test_the_page_shows_three_files_of_each():
    suffixes = [path.rpartition("/")[0].partition("/")[0] for path, _ in FILES]
    assert suffixes == ["reidlab", "conf", "tests"] * 4


def test_its_tests_pass(added, tmp_path):
    assert len(added) == 4
    for test in added.values():
        test(*[tmp_path] * test.__code__.co_argcount)


def test_its_network_learns_by_its_loss():
    run = Run.compose(["model=mynet", "loss=log_ratio"])
    network, labels = run.untrained_network(num_classes=4), torch.arange(4).repeat_interleave(2)
    loss = config.instantiate(run.config.loss, num_classes=4, embedding_size=network.feat_dim)
    terms = loss(*network(torch.rand(8, 3, 64, 32)), labels)
    assert list(terms) == ["softmax", "log_ratio"]
    sum(terms.values()).backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_its_data_set_follows_its_root(tmp_path):
    (tmp_path / "index.json").write_text('[{"file": "a.png", "who": 4, "camera": 1, "part": "train"}]')
    data = Run.compose(["data=video_index", f"data.root={tmp_path}", "data.val_fraction=0"]).datamodule()
    assert data.samples.root == tmp_path and data.classes == [4]
