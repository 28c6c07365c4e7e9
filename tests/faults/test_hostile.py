"""Hostile files, each given to the command that reads it, in a child with a memory limit and a timeout.

Each ends with a result or with one line; never with a traceback, a signal, or a wait.
"""

import os
import pickle
import subprocess
import zipfile
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
import torch
import yaml
from onnx import TensorProto, helper

from reidlab import config
from reidlab.dashboard import folders
from reidlab.errors import InputError
from reidlab.run import File, Run

pytestmark = pytest.mark.slow
TFLITE = config.CLONE / "data" / "models" / "flowers_fdmobilenet_x0_25_128" / "export" / "model_int8.tflite"


def aliases(merge=False):
    """Nine aliases of nine aliases of ... (10 levels)."""
    lines = ["a0: &a0 {k: 1, l: 2}" if merge else "a0: &a0 [lol, lol]"]
    for level in range(1, 10):
        nine = ", ".join([f"*a{level - 1}"] * 9)
        lines.append(f"a{level}: &a{level} {{<<: [{nine}]}}" if merge else f"a{level}: &a{level} [{nine}]")
    return "\n".join(lines).encode()


YAML = {
    "aliases": aliases(),
    "merged aliases": aliases(merge=True),
    "itself": b"model: &a {network: *a}",
    "deep": b"model: " + b"[" * 100_000,
    "deep blocks": b"- " * 5000,
    "large": b"model: {name: " + b"x" * 3_000_000 + b"}",
    "many keys": b"".join(b"k%d: 1\n" % number for number in range(40_000)),
    "repeated key": b"model: {name: a, name: b}",
    "tag": b"model: !!python/object/apply:os.system [touch PROOF]",
    "other tags": b"model: !!binary aGk=\ndata: !!set {a, b}",
    "no UTF-8": b"model: \xff\xfe\xfa",
    "null byte": b'model: {name: "a\\0b"}',
    "surrogate": b'model: {name: "\\ud800"}',
    "escape": b'model: {name: "\\e[2J"}',
    "image": b"\x89PNG\r\n\x1a\n\0\0\0",
    "empty": b"",
    "scalar": b"hello",
    "list": b"[1, 2]",
    "two documents": b"a: 1\n---\nb: 2",
    "odd keys": b"? [1, 2]\n: 3",
    "large integer": b"seed: 1" + b"0" * 5000,
    "integer without digits": b"seed: 0x_",
    "alias without anchor": b"model: *nobody",
}
CONFIGS = {
    "number for a group": "model: 3",
    "list for a group": "data: []",
    "null for a group": "trainer: null\nmodel: null",
    "text for the network": "model: {network: text}",
    "number for a sub-group": "callbacks: {best: 3}",
    "missing value": "model: {name: ???}",
    "reference": "model: {name: '${oc.env:HOME}'}",
    "text for a number": "seed: many",
    "no finite number": "optimizer: {lr: .nan}",
    "list for a number": "seed: [1, 2]",
    "text for a list": "data: {size: large}",
    "experiment elsewhere": "run: {overrides: [experiment=../../../tmp/x]}",
    "no such experiment": "run: {overrides: [experiment=nobody]}",
    "override that is none": "run: {overrides: ['a b c', '{']}",
    "number as override": "run: {overrides: [3]}",
    "mapping of overrides": "run: {overrides: {a: 1}}",
    "sweep": "run: {overrides: ['seed=1,2,3']}",
    "deletion": "run: {overrides: ['~model', '~data']}",
    "task of another kind": "task: {kind: telepathy}",
    "other class": "model: {network: {_target_: os.system}}",
    "class of another group": "model: {network: {_target_: torch.optim.Adam}}",
    "large network": "model: {network: {feat_dim: 100000000000}}",
    "large image": "data: {size: [1000000, 1000000]}",
}
JSON = {
    "deep": b"[" * 100_000,
    "deep mappings": b'{"a":' * 50_000,
    "scalar": b"3",
    "null": b"null",
    "NaN": b'{"checkpoint": {"mAP": NaN}}',
    "infinite": b'{"checkpoint": {"mAP": 1e999}}',
    "large integer": b'{"checkpoint": {"mAP": 1' + b"0" * 400 + b"}}",
    "larger integer": b'{"checkpoint": {"mAP": 1' + b"0" * 5000 + b"}}",
    "repeated key": b'{"checkpoint": {}, "checkpoint": {}}',
    "surrogate": b'{"\\ud800": {}}',
    "large": b'{"a": "' + b"x" * 20_000_000 + b'"}',
    "numbers in the place of rows": b'{"checkpoint": 3, "classes": 3, "versions": 3, "machine": 3, "threshold": "x"}',
    "lists in the place of mappings": b'{"checkpoint": [], "versions": [1], "machine": [2], "finished": []}',
    "half of it": b'{"finished": true, "threshold": 0.5, "distance": "cosine", "checkpoint": {"made_by": {}}}',
    "other types": b'{"checkpoint": {"made_by": {"checkpoint": 3, "protocol": []}}, "finished": 1, "epochs": "a"}',
}
TABLES = {
    "bytes": b"\x00\xff\x13",
    "ragged": b"a,b\n1,2,3,4\n5\n",
    "other columns": b"x,y\n1,2\n",
    "header alone": b"path,split\n",
    "text for numbers": b"epoch,step,val/mAP,checkpoint,method,chosen_on,seconds\na,b,c,d,e,f,g\n",
    "quote": b'a,b\n"1,2\n' * 50,
}
OTHER_JSON = (File.TRAINING, File.VERIFICATION, File.ONNX_ABOUT)
FOLDER_TABLES = (File.DATA_SUMMARY, File.PARITY, File.ESTIMATES)


@pytest.fixture(scope="module")
def settings(small):
    return Run.compose([*small, "run.name=theirs"]).settings


@pytest.fixture
def theirs(settings, tmp_path):
    """A run folder of somebody else."""
    folder = tmp_path / "theirs"
    folder.mkdir()
    (folder / File.CONFIG).write_text(yaml.safe_dump(settings))
    return folder


def put(file, content):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)


def place(folder):
    return f"run.root={folder.parent}", f"run.name={folder.name}"


@pytest.mark.parametrize("name", YAML)
def test_yaml(name, theirs, check, tmp_path, monkeypatch):
    put(theirs / File.CONFIG, YAML[name])
    check("report", *place(theirs), refused=True)
    put(tmp_path / "spec.yaml", YAML[name])
    check("import-tao", tmp_path / "spec.yaml", "--name", "hostile", refused=True)
    assert folders.read_run(theirs).problems


@pytest.mark.parametrize("name", CONFIGS)
def test_configs(name, theirs, check):
    put(theirs / File.CONFIG, CONFIGS[name].encode())
    check("report", *place(theirs))
    assert folders.read_run(theirs).settings or folders.read_run(theirs).problems


@pytest.mark.parametrize("kind", ["folder", "pipe", "link to itself", "link to nowhere", "link to a device"])
def test_no_files(kind, theirs, check, tmp_path):
    for file in (File.CONFIG, File.METRICS):
        (theirs / File.METRICS).unlink(missing_ok=True)
        path = theirs / file
        path.unlink(missing_ok=True)
        {
            "folder": path.mkdir,
            "pipe": lambda path=path: os.mkfifo(path),
            "link to itself": lambda path=path: path.symlink_to(path),
            "link to nowhere": lambda path=path: path.symlink_to(tmp_path / "nowhere"),
            "link to a device": lambda path=path: path.symlink_to("/dev/zero"),
        }[kind]()
        check("report", *place(theirs))
        path.rmdir() if kind == "folder" else path.unlink()
        put(theirs / File.CONFIG, b"{}")


@pytest.mark.parametrize(
    ("file", "name"),
    [(File.METRICS, name) for name in JSON] + [(file, name) for file in OTHER_JSON for name in [*JSON][-4:]],
)
def test_json(file, name, theirs, check):
    put(theirs / file, JSON[name])
    check("report", *place(theirs))


@pytest.mark.parametrize("file", FOLDER_TABLES)
@pytest.mark.parametrize("name", TABLES)
def test_tables_of_a_run(name, file, theirs, check):
    put(theirs / file, TABLES[name])
    check("report", *place(theirs))


TAO = {
    "sections of other kinds": "model: 3\ndataset: [1]\ntrain: text",
    "lists for values": "model: {input_width: [1], backbone: {a: 1}}\ntrain: {optim: [1]}",
    "no finite numbers": "train: {optim: {lr_steps: [.inf, .nan], base_lr: .inf}, num_epochs: .inf}",
    "folders of two kinds": "dataset: {train_dataset_dir: /a, query_dataset_dir: b}",
    "folders that are lists": "dataset: {train_dataset_dir: [a], query_dataset_dir: {b: c}}",
    "keys that are no text": "model: {1: 2, null: 3, 1.5: 4}\n5: {6: 7}",
    "end of a comment": 'train: {"a\\nrun: {root: /evil}\\n#": 1}',
    "reference": "train: {results_dir: '${oc.env:HOME}/${run.name}'}\nmodel: {pretrained_model_path: '${seed}'}",
    "missing": "train: {results_dir: ???}",
}


@pytest.mark.parametrize("name", TAO)
def test_tao(name, check, tmp_path, monkeypatch, capfd):
    put(tmp_path / "spec.yaml", TAO[name].encode())
    put(tmp_path / "conf" / "experiment" / ".keep", b"")
    monkeypatch.setenv("REIDLAB_ROOT", str(tmp_path))
    from reidlab import cli

    status = cli.main(["import-tao", str(tmp_path / "spec.yaml"), "--name", "hostile"])
    assert status in (0, 2) and "stopped by" not in capfd.readouterr().err
    if status == 0:
        written = yaml.safe_load((tmp_path / "conf" / "experiment" / "hostile.yaml").read_text())
        assert written["run"]["name"] == "hostile" and "/evil" not in str(written)
        try:
            cfg = config.plain(config.compose(["experiment=hostile"]))
        except InputError as error:
            assert "\n" not in str(error)
        else:
            assert os.environ["HOME"] not in str(cfg["run"]["root"]).removeprefix(str(tmp_path))


def graph(nodes, shape=("n", 24), constants=(), **more):
    """An .onnx from x (N, 32, 16, 3) to y."""
    given = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ("n", 32, 16, 3))]
    made = [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)]
    made_of = helper.make_graph(nodes, "g", given, made, list(constants))
    model = helper.make_model(made_of, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    helper.set_model_props(model, more)
    return model.SerializeToString()


def tensor(name, values, kind=TensorProto.INT64):
    return helper.make_tensor(name, kind, [len(values)], values)


def endless():
    """A Loop whose condition stays true."""
    given = [("i", TensorProto.INT64), ("go", TensorProto.BOOL)]
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["again"])],
        "body",
        [helper.make_tensor_value_info(name, kind, ()) for name, kind in given],
        [helper.make_tensor_value_info("again", TensorProto.BOOL, ())],
    )
    true = helper.make_tensor("true", TensorProto.BOOL, [], [True])
    nodes = [helper.make_node("Loop", ["", "true"], [], body=body), helper.make_node("Flatten", ["x"], ["y"])]
    inner = helper.make_graph(nodes, "then", [], [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)], [true])
    return graph([helper.make_node("If", ["yes"], ["y"], then_branch=inner, else_branch=inner)],
                 constants=[helper.make_tensor("yes", TensorProto.BOOL, [], [True])])  # fmt: skip


def outside():
    """Weights in a file elsewhere."""
    weight = onnx.TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1536, 4], data_location=TensorProto.EXTERNAL)
    entry = weight.external_data.add()
    entry.key, entry.value = "location", "../../../../../../etc/passwd"
    nodes = [helper.make_node("Flatten", ["x"], ["f"]), helper.make_node("MatMul", ["f", "w"], ["y"])]
    return graph(nodes, ("n", 4), [weight])


def bomb(operator):
    """Ten times 10**12 values."""
    size = tensor("size", [10**6, 10**6])
    nodes = {
        "ConstantOfShape": [helper.make_node("ConstantOfShape", ["size"], ["b"])],
        "Expand": [helper.make_node("Expand", ["one", "size"], ["b"])],
        "Tile": [helper.make_node("ConstantOfShape", ["small"], ["s"]), helper.make_node("Tile", ["s", "size"], ["b"])],
    }[operator]
    end = [helper.make_node("ReduceSum", ["b"], ["s1"], keepdims=0), helper.make_node("Flatten", ["x"], ["f"]),
           helper.make_node("Add", ["f", "s1"], ["y"])]  # fmt: skip
    one = tensor("one", [1.0], TensorProto.FLOAT)
    return graph([*nodes, *end], ("n", 1536), [size, one, tensor("small", [1, 1])])


def wide():
    """2**33 values as the output itself."""
    size = tensor("size", [1, 2**33])
    nodes = [helper.make_node("ReduceMean", ["x"], ["m"], keepdims=0), helper.make_node("Expand", ["m", "size"], ["y"])]
    return graph(nodes, ("n", 2**33), [size])


def flat(**metadata):
    return graph([helper.make_node("Flatten", ["x"], ["y"])], ("n", 1536), **metadata)


ONNX = {
    "endless loop": endless,
    "weights elsewhere": outside,
    **{f"bomb by {name}": lambda name=name: bomb(name) for name in ("ConstantOfShape", "Expand", "Tile")},
    "bomb as the output": wide,
    "empty": lambda: b"",
    "text": lambda: b"hello",
    "half": lambda: flat()[:60],
    "deep mean": lambda: flat(mean="[" * 100_000),
    "mean of text": lambda: flat(mean='["a", "b", "c"]', std="[1, 1, 1]"),
    "infinite std": lambda: flat(mean="[0, 0, 0]", std="[1e999, 1, 1]"),
    "other entries": lambda: flat(classes="3", threshold='"x"', protocol="[]", distance="telepathy"),
    "control characters": lambda: flat(color_order="\x1b[2J", distance="\x1b[2J"),
}


def reduced(function, *arguments):
    """A pickle that calls a function."""
    made = type("Made", (), {"__reduce__": lambda self: (function, arguments)})
    return pickle.dumps({"state_dict": made()})


def deflated(tmp_path):
    """A checkpoint of 400 MB of zeros in 400 kB."""
    with zipfile.ZipFile(tmp_path / "bomb", "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        archive.writestr("archive/version", "3\n")
        archive.writestr("archive/byteorder", "little")
        with archive.open("archive/data.pkl", "w", force_zip64=True) as entry:
            for _ in range(400):
                entry.write(bytes(10**6))
    return (tmp_path / "bomb").read_bytes()


def saved(content, tmp_path):
    torch.save(content, tmp_path / "saved")
    return (tmp_path / "saved").read_bytes()


CHECKPOINTS = {
    "code": lambda _: reduced(os.system, "touch PROOF"),
    "bytes": lambda _: reduced(bytearray, 10**12),
    "deflate bomb": deflated,
    "stretched tensor": lambda place: saved({"state_dict": {"a": torch.zeros(1).expand(10**12)}}, place),
    "nested tensors": lambda place: saved({"model": {"model": {"model": {"a": torch.zeros(1)}}}}, place),
    "tensors of other kinds": lambda place: saved(
        {"conv1.conv.weight": torch.zeros(2, 2, dtype=torch.complex64), "fc.0.weight": torch.zeros(())}, place
    ),
    "no tensors": lambda place: saved({"a": 1, "b": [2]}, place),
    "half": lambda place: saved({"a": torch.rand(1000)}, place)[:2000],
    "empty": lambda _: b"",
    "zip of nothing": lambda _: b"PK\x05\x06" + bytes(18),
    "text": lambda _: b"hello",
}
SAFETENSORS = {
    "large header": (10**18).to_bytes(8, "little") + b"{}",
    "deep header": (10**5).to_bytes(8, "little") + b"[" * 10**5,
    "offsets beyond it": (64).to_bytes(8, "little")
    + b'{"a":{"dtype":"F32","shape":[999999],"data_offsets":[0,3999996]}}'.ljust(64),
}


def evaluated(file, check, small, tmp_path):
    before = sorted(Path.cwd().glob("PROOF"))
    check("evaluate", f"model={file}", *small, f"run.root={tmp_path}", "run.name=mine", "evaluate.resamples=10")
    assert sorted(Path.cwd().glob("PROOF")) == before


@pytest.mark.parametrize("name", ONNX)
def test_onnx(name, check, small, tmp_path):
    put(tmp_path / "theirs.onnx", ONNX[name]())
    evaluated(tmp_path / "theirs.onnx", check, small, tmp_path)


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_checkpoints(name, check, small, tmp_path):
    put(tmp_path / "theirs.pth", CHECKPOINTS[name](tmp_path))
    evaluated(tmp_path / "theirs.pth", check, small, tmp_path)


@pytest.mark.parametrize("name", SAFETENSORS)
def test_safetensors(name, check, small, tmp_path):
    put(tmp_path / "theirs.safetensors", SAFETENSORS[name])
    evaluated(tmp_path / "theirs.safetensors", check, small, tmp_path)


@pytest.mark.parametrize("seed", range(6))
def test_tflite(seed, check, small, tmp_path):
    content = bytearray(TFLITE.read_bytes())
    random = np.random.default_rng(seed)
    if seed < 2:
        content = content[: len(content) // (seed + 2)]
    else:
        for position in random.integers(0, 4000 if seed < 4 else len(content), 8):
            content[position] = random.integers(256)
    put(tmp_path / "theirs.tflite", bytes(content))
    evaluated(tmp_path / "theirs.tflite", check, small, tmp_path)


def many_files(root):
    for number in range(50_000):
        folder = root / f"{number % 500:03d}"
        folder.mkdir(exist_ok=True)
        (folder / f"c1_{number}.jpg").touch()


def loop_of_folders(root):
    for name in ("a", "b"):
        put(root / name / "1.png", cv2.imencode(".png", np.full((32, 16, 3), 99, np.uint8))[1].tobytes())
        (root / name / "again").symlink_to(root)
        (root / name / "itself").symlink_to(root / name / "itself")


def deep_folders(root):
    here = os.open(root, os.O_RDONLY)
    for _ in range(600):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)


def pipes(root):
    for name in ("a", "b"):
        (root / name).mkdir()
        os.mkfifo(root / name / "1.png")


def large_images(root):
    header = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + (10**5).to_bytes(4, "big") * 2 + b"\x08\x02\0\0\0"
    for name in ("a", "b", "c", "d"):
        put(root / name / "1.png", header + bytes(4))
        put(root / name / "2.png", header + bytes(4))


def odd_names(root):
    for name in ("a\nb", "\x1b[2J", "'; rm -rf ~", "..a", "$(touch PROOF)", "x" * 200):
        for number in range(3):
            image = np.random.default_rng(number).integers(0, 256, (32, 16, 3), np.uint8)
            put(root / name / f"\n{number} \x1b[2J.png", cv2.imencode(".png", image)[1].tobytes())


FOLDERS = {make.__name__: make for make in (many_files, loop_of_folders, deep_folders, pipes, large_images, odd_names)}
CSV = {
    "many rows": b"path,pid\n" + b"".join(b"%d.png,%d\n" % (number, number // 9) for number in range(300_000)),
    "paths elsewhere": b"path,pid\n../../../etc/passwd,1\n/etc/passwd,2\n/dev/zero,3\n",
    "many columns": b",".join(b"c%d" % number for number in range(200_000)) + b"\n1\n",
    "one long cell": b"path,pid\n" + b"x" * 20_000_000 + b",1\n",
    "null bytes": b"path,pid\n\0\0\0,1\n",
    "open quote": b'path,pid\n"a,1\n' * 100,
    "repeated columns": b"path,path,pid\na,b,1\n",
    "labels of all kinds": b"path,pid\na.png,NaN\nb.png,1e999\nc.png,-1\nd.png,\xf0\x9f\x98\x80\n",
    "empty": b"",
    "image": b"\x89PNG\r\n\x1a\n\0\0\0",
}


@pytest.mark.parametrize("name", FOLDERS)
def test_folders(name, check, tmp_path):
    root = tmp_path / "images"
    root.mkdir()
    FOLDERS[name](root)
    check("data", "data=folders", f"data.root={root}", f"run.root={tmp_path}", "run.name=mine")
    if name == "deep_folders":
        subprocess.run(["rm", "-rf", root], check=True)


@pytest.mark.parametrize("name", CSV)
def test_csv(name, check, tmp_path):
    put(tmp_path / "samples.csv", CSV[name])
    check("data", "data=csv", f"data.root={tmp_path}", f"data.source.file={tmp_path / 'samples.csv'}",
          f"run.root={tmp_path}", "run.name=mine", refused=True)  # fmt: skip
