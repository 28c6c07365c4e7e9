import json
import re
import shlex
import subprocess

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import yaml
from test_edge_linux import SIZE, tiny_files, tiny_network
from trained_like import soft_images

from reidlab.deploy.nvidia import renamed
from reidlab.errors import InputError
from reidlab.evaluation import TEST, RetrievalProtocol
from reidlab.export.parity import embed_file
from reidlab.export.runtime import open_model
from reidlab.run import File, Run
from reidlab.stages import deploy


@pytest.fixture(scope="module")
def settings(small, tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    weights = root / "weights.pth"
    torch.save(tiny_network(soft_images(16, SIZE).astype(np.float32) / 255).state_dict(), weights)
    normalization = ["model.mean=[0.485,0.456,0.406]", "model.std=[0.229,0.224,0.225]"]
    return [*small, f"run.root={root}", f"model.weights={weights}", "model=fdmobilenet_x0_25", *normalization]


@pytest.fixture(scope="module")
def composed(settings):
    run = Run.compose([*settings, "run.name=tiny", "deploy=nvidia"])
    run.write(File.ONNX_INT8, tiny_files()[1])
    return run


@pytest.fixture(scope="module")
def folder(composed):
    return deploy.run(composed) / File.DEPLOY_NVIDIA


def session_of(content):
    return onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])


def test_pre_processing_is_in_the_graph(composed, folder):
    pixels = torch.rand(33, 3, *SIZE, generator=torch.Generator().manual_seed(0))
    mean, std = (torch.tensor(composed[key]).view(3, 1, 1) for key in ("model.mean", "model.std"))
    with torch.no_grad():
        expected = composed.network((pixels - mean) / std).embedding.numpy()
    for name, tolerance in (("model.onnx", 1e-5), ("model_fp16.onnx", 1e-2)):
        found = session_of(folder / name).run(None, {"input": pixels.numpy()})[0]
        np.testing.assert_allclose(found, expected, atol=tolerance * np.abs(expected).max())


def test_half_precision_is_half_the_size_and_float_outside(folder):
    sizes = [(folder / name).stat().st_size for name in ("model.onnx", "model_fp16.onnx")]
    assert 0.45 < sizes[1] / sizes[0] < 0.6
    model = onnx.load(folder / "model_fp16.onnx")
    types = {constant.data_type for constant in model.graph.initializer}
    assert onnx.TensorProto.FLOAT not in types and onnx.TensorProto.FLOAT16 in types
    sides = (model.graph.input[0], model.graph.output[0])
    assert all(side.type.tensor_type.elem_type == onnx.TensorProto.FLOAT for side in sides)


def test_int8_has_explicit_pairs_of_zero_point_0(folder):
    model = onnx.load(folder / "model_int8.onnx")
    kinds = [node.op_type for node in model.graph.node]
    assert kinds.count("QuantizeLinear") > 5 and kinds.count("DequantizeLinear") > kinds.count("QuantizeLinear")
    constants = {constant.name: onnx.numpy_helper.to_array(constant) for constant in model.graph.initializer}
    zeros = [constants[n.input[2]] for n in model.graph.node if n.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert all(zero.dtype == np.int8 and not zero.any() for zero in zeros)


def test_commands_say_what_each_tensorrt_understands(folder):
    older, newer = ((folder / f"build_tensorrt_{v}.sh").read_text() for v in ("8_to_10", "11"))
    calls = [shlex.split(call) for call in re.findall(r"trtexec .*", older)]
    assert [call[1] for call in calls] == ["--onnx=model.onnx", "--onnx=model.onnx", "--onnx=model_int8.onnx"]
    assert [("--fp16" in call, "--int8" in call) for call in calls] == [(False, False), (True, False), (True, True)]
    assert "--minShapes=input:1x3x32x16" in calls[0] and "--maxShapes=input:64x3x32x16" in calls[0]
    for script in (older, newer):
        subprocess.run(["sh", "-n"], input=script, text=True, check=True)
    assert "--fp16" not in newer and "--int8" not in newer and "--onnx=model_fp16.onnx" in newer


def test_deepstream_numbers_precisions_in_its_two_ways(folder):
    infer = dict(line.split("=") for line in (folder / "deepstream_nvinfer.txt").read_text().splitlines()[2:])
    tracker = yaml.safe_load((folder / "deepstream_nvtracker.yml").read_text())["ReID"]
    assert infer["network-mode"] == "2" and tracker["networkMode"] == 1  # fp16, both
    app = (folder / "deepstream_app.txt").read_text()
    assert re.search(r"operate-on-class-ids=(\d)", app)[1] == infer["operate-on-class-ids"] == "2"
    assert infer["network-type"] == "100" and infer["infer-dims"] == "3;32;16" and infer["output-tensor-meta"] == "1"
    assert tracker["inferDims"] == [3, 32, 16] and tracker["reidFeatureSize"] == 256
    scales = float(infer["net-scale-factor"]), tracker["netScaleFactor"]
    assert scales == pytest.approx((1 / 255, 1 / 255))
    assert (folder / infer["onnx-file"]).exists() and (folder / tracker["onnxFile"]).exists()


def test_triton_repository_has_three_back_ends(folder):
    text = {place.name: (place / "config.pbtxt").read_text() for place in (folder / "triton").iterdir()}
    assert set(text) == {"reid_onnxruntime", "reid_tensorrt", "reid_python"}
    assert 'platform: "onnxruntime_onnx"' in text["reid_onnxruntime"]
    assert 'platform: "tensorrt_plan"' in text["reid_tensorrt"] and 'backend: "python"' in text["reid_python"]
    for name, config_text in text.items():
        assert f'name: "{name}"' in config_text and "max_batch_size: 64" in config_text
        assert "dynamic_batching" in config_text and "dims: [3, 32, 16]" in config_text
    assert (folder / "triton" / "reid_onnxruntime" / "1" / "model.onnx").exists()
    assert "triton/reid_tensorrt/1/model.plan" in (folder / "triton" / "reid_tensorrt" / "1" / "README.md").read_text()


def test_tao_names_are_a_switch(settings):
    run = Run.compose([*settings, "run.name=tao", "deploy=nvidia", "deploy.tao_names=true"])
    place = deploy.run(run) / File.DEPLOY_NVIDIA
    for name in ("model.onnx", "model_fp16.onnx"):
        session = session_of(place / name)
        assert [session.get_inputs()[0].name, session.get_outputs()[0].name] == ["input", "fc_pred"]
    assert 'name: "fc_pred"' in (place / "triton" / "reid_python" / "config.pbtxt").read_text()
    assert "model_int8.onnx" not in (place / "README.md").read_text()


def test_names_change_and_nothing_else(tmp_path):
    content, file = tiny_files()[1], tmp_path / "int8.onnx"
    file.write_bytes(content)
    images = np.random.default_rng(0).random((2, 3, *SIZE), np.float32)
    plain = session_of(content).run(None, {"input": images})[0]
    np.testing.assert_array_equal(session_of(renamed(file, ("x", "y"))).run(["y"], {"x": images})[0], plain)


def test_overflow_in_half_precision_is_refused(settings):
    run = Run.compose([*settings, "run.name=overflow", "deploy=nvidia", "deploy.tolerance=1e-9"])
    with pytest.raises(InputError, match=r"model_fp16\.onnx: .* off fp32, over deploy\.tolerance=1e-09; use fp32"):
        deploy.run(run)
    assert not (run / File.DEPLOY_NVIDIA / "model_fp16.onnx").exists()


def test_int8_is_served_with_its_own_threshold_or_not_at_all(composed, settings, tmp_path):
    given = [*settings, f"run.root={tmp_path}", "run.name=served", "deploy=nvidia", "deploy.served=int8"]
    run = Run.compose(given)
    with pytest.raises(InputError, match=r"deploy\.served=int8: .*model_int8\.onnx is absent; run `reidlab quantize"):
        deploy.run(run)
    run.write(File.ONNX_INT8, (composed / File.ONNX_INT8).read_bytes())
    place = deploy.run(run) / File.DEPLOY_NVIDIA
    served = (place / "triton" / "reid_onnxruntime" / "1" / "model.onnx").read_bytes()
    assert served == (place / "model_int8.onnx").read_bytes()
    data, fpr = run.datamodule(), run["evaluate.wanted_fpr"]
    pairs = embed_file(open_model(run / File.ONNX_INT8), data, data.test, "pairs")  # nothing was trained here
    expected = RetrievalProtocol(run["model.distance"]).evaluate(pairs, TEST).verify(fpr, resamples=0, seed=0)
    told = json.loads((place / "test_vector" / "expected.json").read_text())
    assert told["threshold"] == pytest.approx(expected.threshold)


def test_an_unknown_precision_to_serve_is_refused(settings):
    with pytest.raises(InputError, match=r"deploy\.served=int4: choose from fp32, fp16, int8"):
        deploy.run(Run.compose([*settings, "run.name=served", "deploy=nvidia", "deploy.served=int4"]))


def test_the_files_name_their_checkpoint(composed, folder):
    for name in ("model.onnx", "model_fp16.onnx"):
        assert open_model(folder / name).weights_hash == composed.checkpoint


@pytest.mark.parametrize("batch", [1, "N"])
def test_an_onnx_from_elsewhere_takes_pixels(batch, settings, tmp_path):
    random = np.random.default_rng(0)
    weights = onnx.numpy_helper.from_array(random.normal(0, 0.3, (7, 3, 3, 3)).astype(np.float32), "w")
    nodes = [
        onnx.helper.make_node("Conv", ["images", "w"], ["a"], strides=[2, 2], pads=[1, 1, 1, 1]),
        onnx.helper.make_node("LeakyRelu", ["a"], ["b"], alpha=0.1),
        onnx.helper.make_node("GlobalAveragePool", ["b"], ["c"]),
        onnx.helper.make_node("Flatten", ["c"], ["features"]),
    ]
    sides = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
        for name, shape in (("images", [batch, 3, 52, 20]), ("features", [batch, 7]))
    ]
    graph = onnx.helper.make_graph(nodes, "vendor", sides[:1], sides[1:], [weights])
    file = tmp_path / "vendor.onnx"
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8), file)
    given = [f"run.root={tmp_path}", "run.name=theirs", "deploy=nvidia", f"evaluate.file={file}"]
    run = Run.compose([*settings, *given, "evaluate.mean=[0.1,0.2,0.3]", "evaluate.std=[0.5,0.6,0.7]"])
    deploy.run(run)
    folder = deploy.folder(run) / "nvidia"
    pixels = random.random((3, 3, 52, 20), np.float32)
    mean, std = (np.array(run[key], np.float32).reshape(3, 1, 1) for key in ("evaluate.mean", "evaluate.std"))
    theirs, ours = session_of(file), session_of(folder / "model.onnx")
    for one in pixels:
        expected = theirs.run(None, {"images": ((one - mean) / std)[None]})[0]
        found = ours.run(None, {"input": one[None]})[0]
        np.testing.assert_allclose(found, expected, atol=1e-5)
    assert not (folder / "model_int8.onnx").exists()
