"""NVIDIA: one folder for TensorRT, DeepStream and Triton, with the pre-processing in the graph."""

import shlex
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from reidlab.console import log
from reidlab.deploy.target import Deployable, Figures, Target
from reidlab.errors import InputError, one_line
from reidlab.export import qdq
from reidlab.export.folding import deployable
from reidlab.export.runtime import read_onnx
from reidlab.export.steps import StepNetwork, as_steps
from reidlab.files import write_atomic

BACKENDS = {"reid_onnxruntime": "onnxruntime", "reid_tensorrt": "tensorrt", "reid_python": "python"}
PYTHON_MODEL = Path(__file__).parent / "triton" / "model.py"
NO_ENGINE = """The engine goes here as `model.plan`. On the GPU that will serve, from the folder above `triton`:

    sh build_tensorrt_8_to_10.sh fp16    # or build_tensorrt_11.sh
    cp model_fp16.plan triton/reid_tensorrt/1/model.plan
"""
TAO_NAMES = ("input", "fc_pred")
PRECISIONS = {"fp32": "model.onnx", "fp16": "model_fp16.onnx", "int8": "model_int8.onnx"}


@dataclass(frozen=True)
class Interface:
    """Input and output of a deployed network: RGB pixels (B, 3, height, width) in [0, 1] -> (B, features)."""

    input: str
    output: str
    height: int
    width: int
    features: int
    largest_batch: int


@dataclass(frozen=True)
class Nvidia(Target):
    """ONNX in three precisions, commands for TensorRT, DeepStream configs, and a Triton repository.

    Args:
        name: of the target.
        int8: path of the int8 .onnx; left out where it is absent.
        input_name: of the tensor.
        output_name: likewise.
        tao_names: name both as TAO does.
        largest_batch: of engines and of Triton.
        tolerance: largest difference between fp16 and fp32 embeddings, in parts of their length.
        served: precision of the Triton models that aren't engines.
        instances: of each Triton model.
        instance_kind: where they run.
        max_queue_size: requests that may wait for a batch.
        max_queue_delay_us: for how long.
    """

    int8: str
    input_name: str
    output_name: str
    tao_names: bool
    largest_batch: int
    tolerance: float
    served: str
    instances: int
    instance_kind: str
    max_queue_size: int
    max_queue_delay_us: int

    def deploy(self, given: Deployable, out: Path) -> Figures:
        """Write the folder; every file was run in ONNX Runtime.

        Raises InputError where fp16 differs from fp32 by more than `tolerance`.
        """
        if self.served not in PRECISIONS:
            raise InputError(f"deploy.served={self.served}: choose from {', '.join(PRECISIONS)}")
        names = TAO_NAMES if self.tao_names else (self.input_name, self.output_name)
        size = given.datamodule.size
        steps = as_steps(deployable(given.network(), given.mean, given.std), size)
        face = Interface(*names, *size, steps.shapes[steps.output][0], self.largest_batch)
        made = self.models(given, steps, names)
        check(made, face, self.tolerance)
        for precision, content in made.items():
            write_atomic(out / PRECISIONS[precision], content)
        for name, text in (commands(face, made) | deepstream(face, given.distance == "cosine")).items():
            write_atomic(out / name, text)
        self.write_repository(out / "triton", face, made.get(self.served, made["fp32"]))
        write_atomic(out / "README.md", readme(face, made))
        log.info(f"{out}  {', '.join(made)}; batch 1 to {face.largest_batch}; serve it with `reidlab serve`")
        return {}

    def models(self, given: Deployable, steps: StepNetwork, names: tuple[str, str]) -> dict[str, bytes]:
        """The content of the .onnx by precision; int8 only where the network was quantized."""
        metadata = {"model": given.architecture, "distance": given.distance, "weights_hash": given.checkpoint,
                    "color_order": "RGB", "mean": [0.0] * 3, "std": [1.0] * 3}  # fmt: skip
        made = {"fp32": qdq.float_onnx(steps, metadata, names)}
        made["fp16"] = half(made["fp32"])
        if given.has(self.int8):
            made["int8"] = renamed(given.file(self.int8), names)
        else:
            log.info(f"{given.folder / self.int8}: absent, so no int8 in this folder; run `reidlab quantize` first")
        return made

    def write_repository(self, folder: Path, face: Interface, served: bytes) -> None:
        """Write Triton's models, of which TensorRT's has no engine yet."""
        for name, backend in BACKENDS.items():
            write_atomic(folder / name / "config.pbtxt", self.triton_config(name, backend, face))
            if backend == "tensorrt":
                write_atomic(folder / name / "1" / "README.md", NO_ENGINE)
            else:
                write_atomic(folder / name / "1" / "model.onnx", served)
            if backend == "python":
                write_atomic(folder / name / "1" / "model.py", PYTHON_MODEL.read_text())

    def triton_config(self, name: str, backend: str, face: Interface) -> str:
        """The `config.pbtxt` of a model."""
        kind = {"onnxruntime": 'platform: "onnxruntime_onnx"', "tensorrt": 'platform: "tensorrt_plan"'}
        where = "KIND_GPU" if backend == "tensorrt" else self.instance_kind
        preferred = ", ".join(str(n) for n in (4, 8, 16, 32, 64) if n <= face.largest_batch) or "1"
        return f"""name: "{name}"
{kind.get(backend, 'backend: "python"')}
max_batch_size: {face.largest_batch}
input [{{ name: "{face.input}", data_type: TYPE_FP32, dims: [3, {face.height}, {face.width}] }}]
output [{{ name: "{face.output}", data_type: TYPE_FP32, dims: [{face.features}] }}]
dynamic_batching {{
  preferred_batch_size: [{preferred}]
  max_queue_delay_microseconds: {self.max_queue_delay_us}
  default_queue_policy {{ max_queue_size: {self.max_queue_size} }}
}}
instance_group [{{ count: {self.instances}, kind: {where} }}]
"""


def half(content: bytes) -> bytes:
    """Convert a network to float16 weights and arithmetic; its input and output stay float32."""
    model = onnx.load_from_string(content)
    graph = model.graph
    for constant in graph.initializer:
        if constant.data_type == TensorProto.FLOAT:
            values = numpy_helper.to_array(constant).astype(np.float16)
            constant.CopyFrom(numpy_helper.from_array(values, constant.name))
    given, made = graph.input[0].name, graph.output[0].name
    _rename(graph, {given: f"{given}_fp16", made: f"{made}_fp16"})
    first = helper.make_node("Cast", [given], [f"{given}_fp16"], name="to_fp16", to=TensorProto.FLOAT16)
    last = helper.make_node("Cast", [f"{made}_fp16"], [made], name="to_fp32", to=TensorProto.FLOAT)
    graph.node.insert(0, first)
    graph.node.append(last)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def renamed(file: Path, names: tuple[str, str]) -> bytes:
    """The content of an .onnx, its input and output renamed; InputError where it isn't sound, or has several."""
    model = read_onnx(file)
    sides = (*model.graph.input, *model.graph.output)
    if len(sides) != 2:
        raise InputError(
            f"{file}: has {len(sides)} inputs and outputs; export it with the image and the embedding alone"
        )
    try:
        _rename(model.graph, {side.name: name for side, name in zip(sides, names, strict=True)})
        for side, name in zip(sides, names, strict=True):
            side.name = name
        onnx.checker.check_model(model)
        return model.SerializeToString()
    except Exception as error:  # of the checker, or of protobuf, for a name that isn't UTF-8
        raise InputError(f"{file}: not sound as ONNX ({one_line(error)})") from error


def _rename(graph: onnx.GraphProto, names: dict[str, str]) -> None:
    """Rename tensors in all nodes."""
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]


def check(made: dict[str, bytes], face: Interface, tolerance: float) -> None:
    """Run every precision at batch 1 and the largest; InputError where fp16 is off by more than `tolerance`."""
    images = np.random.default_rng(0).random((face.largest_batch, 3, face.height, face.width), np.float32)
    found = {}
    for precision, content in made.items():
        try:
            session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
            single, found[precision] = (session.run([face.output], {face.input: x})[0] for x in (images[:1], images))
        except Exception as reason:  # onnxruntime's exceptions share no base class
            raise InputError(f"{PRECISIONS[precision]}: fails on {images.shape} ({one_line(reason)})") from reason
        if found[precision].shape != (len(images), face.features) or single.shape != (1, face.features):
            raise InputError(f"{PRECISIONS[precision]}: gives {found[precision].shape} for {len(images)} images")
    error = np.linalg.norm(found["fp16"] - found["fp32"], axis=1) / np.linalg.norm(found["fp32"], axis=1)
    if not error.max() <= tolerance:
        raise InputError(f"model_fp16.onnx: {error.max():.1%} off fp32, over deploy.tolerance={tolerance}; use fp32")


def commands(face: Interface, made: Collection[str]) -> dict[str, str]:
    """Shell scripts that build and time engines: TensorRT 8 to 10 by flags, 11 by the types in the file."""
    shapes = [
        f"--{word}Shapes={face.input}:{batch}x3x{face.height}x{face.width}"
        for word, batch in (("min", 1), ("opt", max(face.largest_batch // 4, 1)), ("max", face.largest_batch))
    ]

    def script(title: str, sources: Mapping[str, tuple[str, ...]]) -> str:
        cases = "\n".join(
            f"    {precision}) {shlex.join(['trtexec', f'--onnx={file}', *shapes, *flags])} "
            f"--saveEngine=model_{precision}.plan ;;"
            for precision, (file, *flags) in sources.items()
            if precision in made
        )
        head = f"#!/bin/sh\n# {title}\n# On the GPU that will serve; the precision as argument; without one, all.\n"
        body = f'for precision in ${{1:-{" ".join(made)}}}; do\n  case "$precision" in\n{cases}\n  esac\ndone\n'
        return f"{head}set -e\n{body}"

    by_flags = {
        "fp32": ("model.onnx",),
        "fp16": ("model.onnx", "--fp16"),
        "int8": ("model_int8.onnx", "--int8", "--fp16"),
    }
    by_types = {precision: (file,) for precision, file in PRECISIONS.items()}
    return {
        "build_tensorrt_8_to_10.sh": script(
            "TensorRT 8 to 10: precisions by flags; int8 scales are in the file.", by_flags
        ),
        "build_tensorrt_11.sh": script("TensorRT 11: no precision flags, a network has its file's types.", by_types),
    }


def deepstream(face: Interface, normalized: bool) -> dict[str, str]:
    """Configs of nvinfer, which numbers precisions 0 fp32, 1 int8, 2 fp16, and of nvtracker: 0 fp32, 1 fp16, 2 int8.

    `normalized`: whether the tracker scales embeddings to length 1.
    """
    batch = face.largest_batch
    infer = {
        "gpu-id": 0, "net-scale-factor": f"{1 / 255:.17g}", "offsets": "0;0;0", "model-color-format": 0,
        "onnx-file": "model.onnx", "model-engine-file": f"model.onnx_b{batch}_gpu0_fp16.engine",
        "infer-dims": f"3;{face.height};{face.width}", "batch-size": batch, "network-mode": 2, "network-type": 100,
        "process-mode": 2, "output-blob-names": face.output, "output-tensor-meta": 1, "maintain-aspect-ratio": 0,
        "operate-on-class-ids": 0, "gie-unique-id": 2,
    }  # fmt: skip
    tracker = reid_section(face, normalized)
    return {
        "deepstream_nvinfer.txt": "# nvinfer, secondary: a detector's people (class 0) -> embeddings\n[property]\n"
        + "".join(f"{key}={value}\n" for key, value in infer.items()),
        "deepstream_nvtracker.yml": "# the ReID section of an nvtracker config\nReID:\n"
        + "".join(f"  {key}: {value}\n" for key, value in tracker.items()),
    }


def reid_section(face: Interface, normalized: bool) -> dict[str, Any]:
    """The ReID section of an nvtracker config for `model.onnx`; `normalized`: embeddings are scaled to length 1."""
    return {
        "reidType": 2, "batchSize": face.largest_batch, "workspaceSize": 1000, "reidFeatureSize": face.features,
        "reidHistorySize": 100, "inferDims": [3, face.height, face.width], "networkMode": 1, "inputOrder": 0,
        "colorFormat": 0, "offsets": [0.0, 0.0, 0.0], "netScaleFactor": 1 / 255, "keepAspc": 0,
        "addFeatureNormalization": int(normalized), "outputReidTensor": 1, "onnxFile": "model.onnx",
        "modelEngineFile": f"model.onnx_b{face.largest_batch}_gpu0_fp16.engine",
    }  # fmt: skip


def readme(face: Interface, made: dict[str, bytes]) -> str:
    """The README of the folder: its files and how to use them."""
    rows = "\n".join(f"| `{PRECISIONS[name]}` | {len(content) / 1024:.0f} KiB |" for name, content in made.items())
    return f"""# {face.features} features from {face.height} x {face.width} RGB pixels, on NVIDIA

Input `{face.input}` (batch, 3, {face.height}, {face.width}): float32 RGB pixels divided by 255, nothing more; mean and
standard deviation are in the graph. Output `{face.output}` (batch, {face.features}). Batch 1 to {face.largest_batch}.

| file | size |
|---|---|
{rows}

- TensorRT: `sh build_tensorrt_8_to_10.sh fp16`, or `build_tensorrt_11.sh`. An engine is for one GPU and one version.
- DeepStream: `deepstream_nvinfer.txt` beside a detector, or `deepstream_nvtracker.yml` in the tracker's config.
- Triton: `tritonserver --model-repository triton`. `reid_tensorrt` needs an engine first:
  `cp model_fp16.plan triton/reid_tensorrt/1/model.plan`. `reid_python` needs numpy and onnxruntime.

The files were run by ONNX Runtime; engines have to be built and checked on the GPU that will serve.
"""
