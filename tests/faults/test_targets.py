"""No `_target_` of a foreign file runs: not from any leaf of a run's config, and none of the callables below."""

import ast
import copy
from functools import cache, reduce

import pytest
import yaml
from omegaconf import OmegaConf

from reidlab import cli, config
from reidlab.errors import InputError
from reidlab.run import File, Run

CALLABLES = (
    "IPython.utils.process.system",
    "os.system",
    "os.popen",
    "os.execv",
    "os.remove",
    "os.rename",
    "os.makedirs",
    "os.putenv",
    "os.kill",
    "subprocess.run",
    "subprocess.call",
    "subprocess.check_output",
    "subprocess.Popen",
    "subprocess.getoutput",
    "pty.spawn",
    "pandas.read_pickle",
    "torch.load",
    "torch.hub.load",
    "joblib.load",
    "pickle.loads",
    "numpy.load",
    "cloudpickle.loads",
    "shelve.open",
    "builtins.open",
    "builtins.eval",
    "builtins.exec",
    "builtins.compile",
    "builtins.__import__",
    "builtins.getattr",
    "runpy.run_path",
    "shutil.copyfile",
    "shutil.move",
    "shutil.rmtree",
    "pathlib.Path.write_text",
    "pathlib.Path.unlink",
    "importlib.import_module",
    "urllib.request.urlretrieve",
    "webbrowser.open",
    "socket.create_connection",
    "ctypes.CDLL",
    "code.interact",
    "timeit.timeit",
    "hydra.utils.instantiate",
    "hydra.utils.call",
    "functools.partial",
    "reidlab.files.write_atomic",
    "reidlab.files.write_json",
    "reidlab.cli.main",
    "reidlab.config.instantiate",
    "tests.faults.test_targets.plant",
)
PLANT = {"_target_": "os.system", "command": "touch PROOF"}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    made = Run.compose(["experiment=smoke", "distill=standard", f"run.root={tmp_path_factory.mktemp('runs')}"])
    made.keep_config()
    return made


@pytest.fixture
def composed(run, monkeypatch):
    """Composes a run's settings once, since only what is stored changes between the tests."""
    once = cache(config.compose)
    monkeypatch.setattr(config.stored, "compose", lambda overrides: once(tuple(overrides)))


@cache
def released_targets():
    return {target for file in config.CONF.rglob("*.yaml") for target in config.build._targets_of(file)}


@pytest.fixture(autouse=True)
def nothing_is_located(monkeypatch):
    """Fails a test in which a name outside of conf/ is looked up, let alone called."""
    resolve = config.build.pkgutil.resolve_name
    known = released_targets()

    def checked(name):
        assert name in known, f"{name} was looked up"
        return resolve(name)

    monkeypatch.setattr(config.build.pkgutil, "resolve_name", checked)


def plant(settings, key, value):
    """The same settings with a value at a dotted key."""
    copied = copy.deepcopy(settings)
    *parents, leaf = key.split(".")
    reduce(dict.__getitem__, parents, copied)[leaf] = value
    return copied


def nodes(tree, prefix=""):
    """The dotted keys of all leaves and mappings."""
    for name, child in tree.items():
        yield f"{prefix}{name}"
        if isinstance(child, dict):
            yield from nodes(child, f"{prefix}{name}.")


def at(tree, key):
    """The value at a dotted key."""
    return reduce(dict.__getitem__, key.split("."), tree)


def opened(folder, settings):
    """The settings of a run whose config.yaml holds these, as text, `run` left out; "refused" where it isn't opened."""
    (folder / File.CONFIG).write_text(yaml.dump(settings, Dumper=getattr(yaml, "CSafeDumper", yaml.SafeDumper)))
    try:
        return str({key: value for key, value in Run(folder).settings.items() if key != "run"})
    except InputError as error:
        assert "\n" not in str(error)
        return "refused"


@pytest.fixture
def folder(run, tmp_path):
    (tmp_path / run.name).mkdir()
    return tmp_path / run.name


def attacks_on(value):
    """What takes the place of a value, or is put into it."""
    if isinstance(value, dict):
        return {**value, **PLANT}, [PLANT]
    return (PLANT, [PLANT], [[PLANT]], *([[*value[:-1], PLANT]] if isinstance(value, list) else []))


@pytest.mark.slow  # a minute
def test_a_target_at_any_node_of_a_stored_config_is_refused(run, composed, folder):
    settings = run.settings
    keys = [key for key in nodes(settings) if not key.startswith("run") and not config.is_place(key)]
    assert len(keys) > 200
    for key in keys:
        value = at(settings, key)
        for attack in attacks_on(value):
            found = opened(folder, plant(settings, key, attack))
            if isinstance(value, dict) and isinstance(attack, dict) and "_target_" not in value:
                assert "os.system" not in found, key  # dropped with all keys that the composed config hasn't
            else:
                assert found == "refused", key


def test_where_a_run_writes_is_never_stored(run, composed, folder):
    for key in [key for key in nodes(run.settings) if config.is_place(key) or key.startswith("run.")]:
        for attack in (PLANT, [PLANT]):
            assert "os.system" not in opened(folder, plant(run.settings, key, attack)), key


@pytest.mark.parametrize("target", CALLABLES)
def test_no_callable_is_built(target, run, composed, folder):
    for node in ({"_target_": target}, {"a": {"b": [{"_target_": target, "_partial_": True}]}}):
        for given in (node, OmegaConf.create(node)):
            with pytest.raises(InputError, match="isn't built"):
                config.instantiate(given)
    for key in ("optimizer._target_", "model.network._target_", "data.source._target_"):
        assert opened(folder, plant(run.settings, key, target)) == "refused"


@pytest.mark.parametrize(
    "override",
    [
        "+data.about.x={_target_: os.system, command: touch PROOF}",
        "+data.about.description._target_=os.system",
        "++data.about.x._target_=os.system",
        "data.about={_target_: os.system}",
        "model.network.mixstyle=[{_target_: os.system}]",
        "optimizer._target_=os.system",
        "+callbacks.x={a: [{_target_: os.system}]}",
    ],
)
def test_no_target_comes_in_by_a_stored_override(override, run, folder):
    settings = run.settings
    settings["run"]["overrides"] += [override]
    assert "os.system" not in opened(folder, settings)


def test_a_stored_config_neither_reads_the_environment_nor_says_where_to_write(run, monkeypatch, tmp_path):
    monkeypatch.setenv("SECRET", "hunter2")
    folder, settings = tmp_path / "moved", run.settings
    folder.mkdir()
    settings["data"]["about"]["description"] = "${oc.env:SECRET} costs \\${5}"
    settings["run"]["overrides"] += [
        "+data.about.y='${oc.env:SECRET}'",
        "data.name='${oc.env:SECRET}'",
        "+hydra.searchpath=[file:///tmp]",
        "callbacks.best.dirpath=/evil",
        "+logger.csv.base_url=http://evil",
        "predict.out=/evil",
    ]
    settings["predict"]["out"] = "/evil"
    settings["callbacks"]["last"]["dirpath"] = settings["logger"]["csv"]["save_dir"] = "/evil"
    (folder / File.CONFIG).write_text(yaml.safe_dump(settings))
    for opened in (Run(folder), Run.resume([f"run.root={tmp_path}", "run.name=moved"]), Run.stored(folder)):
        assert opened["data.about.description"] == "${oc.env:SECRET} costs \\${5}"
        assert "hunter2" not in str(opened.settings)
    assert Run(folder)["callbacks.last.dirpath"] == str(folder / "checkpoints")
    assert Run(folder)["predict.out"] is None
    assert Run(folder)["callbacks.best.dirpath"] == str(folder / "checkpoints")
    assert Run(folder)["logger.csv.save_dir"] == str(folder) and "evil" not in str(Run(folder).settings["logger"])
    again = tmp_path / "again"
    config.write_config(Run(folder).config, again / File.CONFIG)
    assert Run.stored(again)["data.about.description"] == "${oc.env:SECRET} costs \\${5}"


@pytest.mark.parametrize("text", ["${a}", "\\${a}", "\\\\${a}", "a\\", "$${b}$", "${", "}${${x}}", "\\\\\\${q} ${z}"])
def test_text_that_looks_like_a_reference_stays_as_it_is(text):
    tree = {"a": text, "b": {"c": [text, {"d": text}]}}
    cfg = config.as_config(tree)
    assert config.plain(cfg) == tree and cfg.a == text and cfg.b.c[1].d == text
    assert config.instantiate(cfg) == tree


@pytest.mark.parametrize("stage", ["report", "evaluate", "export", "predict", "train", "teacher"])
def test_no_stage_runs_what_a_stored_config_names(stage, run, tmp_path, capsys):
    proof, folder = tmp_path / "PROOF", tmp_path / "theirs"
    folder.mkdir()
    attack = {"_target_": "IPython.utils.process.system", "cmd": f"touch {proof}"}
    (folder / File.CONFIG).write_text(yaml.safe_dump(plant(run.settings, "data.about.description", attack)))
    place = [f"run.root={tmp_path}", "run.name=theirs"]
    argv = {
        "predict": ["predict", str(tmp_path), *place],
        "teacher": ["train", "experiment=smoke", "distill=standard", f"distill.teacher={folder}",
                    f"run.root={tmp_path}", "run.name=mine", f"data.root={tmp_path / 'people'}"],
    }.get(stage, [stage, *place])  # fmt: skip
    assert cli.main(argv) == 2 and not proof.exists()
    assert "data.about.description is a mapping" in capsys.readouterr().err.splitlines()[-1]


def test_a_class_of_the_users_own_conf_is_built_and_only_while_it_stands_there(monkeypatch, tmp_path):
    monkeypatch.setenv("REIDLAB_ROOT", str(tmp_path))
    own = tmp_path / "conf" / "loss" / "mine.yaml"
    own.parent.mkdir(parents=True)
    own.write_text("# _target_: os.system\n_target_: collections.Counter\nnested: [{a: {_target_: 'datetime.date'}}]\n")
    config.require_known("collections.Counter")
    config.require_known("datetime.date")
    with pytest.raises(InputError, match=r"os\.system"):
        config.require_known("os.system")  # of a comment
    with monkeypatch.context() as elsewhere, pytest.raises(InputError, match=r"collections\.Counter"):
        elsewhere.setenv("REIDLAB_ROOT", str(tmp_path / "other"))
        config.require_known("collections.Counter")
    own.rename(own.with_stem("renamed"))
    own.symlink_to("somebody@somewhere.123")  # as editors leave them
    config.require_known("collections.Counter")
    own.with_stem("renamed").unlink()
    with pytest.raises(InputError, match=r"collections\.Counter is named by no file of conf/"):
        config.require_known("collections.Counter")


def test_hydra_builds_nothing_by_itself():
    """`instantiate` is the only way from a `_target_` to an object."""
    for file in sorted((config.CLONE / "reidlab").rglob("*.py")):
        tree = ast.parse(file.read_text())
        named = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        assert not {"hydra.utils", "hydra._internal.instantiate._instantiate2"} & named, file
        called = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        assert "resolve_name" not in called or file.parts[-2:] == ("config", "build.py"), file
