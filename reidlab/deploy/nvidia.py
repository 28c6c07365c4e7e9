"""NVIDIA: one folder for TensorRT, DeepStream and Triton, with the pre-processing in the graph."""

import shlex
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.transformers.float16 import convert_float_to_float16

from reidlab.console import log
from reidlab.deploy.target import Deployable, DeployableFile, Figures, Target
from reidlab.deploy.thresholds import file_thresholds
from reidlab.deploy.vector import test_images, vector_files
from reidlab.errors import InputError, one_line
from reidlab.export.backends import read_onnx
from reidlab.export.quiet import quiet
from reidlab.export.wrapping import run_onnx
from reidlab.files import write_atomic
from reidlab.run import Task

BACKENDS = {"reid_onnxruntime": "onnxruntime", "reid_tensorrt": "tensorrt", "reid_python": "python"}
PYTHON_MODEL = Path(__file__).parent / "triton" / "model.py"
NO_ENGINE = """The engine goes here as `model.plan`. On the GPU that will serve, from the folder above `triton`:

    sh build_tensorrt_8_to_10.sh {precision}    # or build_tensorrt_11.sh
    cp model_{precision}.plan triton/reid_tensorrt/1/model.plan
"""
PIPELINE = """`deepstream-app -c deepstream_app.txt` is a whole pipeline: DeepStream's sample detector, the tracker of
`deepstream_nvtracker.yml` with re-association by appearance, and the network as a secondary nvinfer by
`deepstream_nvinfer.txt`."""
CLASSES = """`deepstream_nvinfer.txt` is a secondary nvinfer that names the class of each object that a detector found; the names are
in `labels.txt`. In an app of deepstream-app: `[secondary-gie0]` with `enable=1`, `gie-unique-id=2` and
`config-file=deepstream_nvinfer.txt`. For whole frames set `process-mode=1`. It follows the documentation; it wasn't run."""  # noqa: E501
LOGITS = """There is no DeepStream config here: nvinfer compares confidences with a threshold, and this file gives
logits. End it with a softmax, and deploy it again."""
FILES = Path(__file__).parent / "nvidia_files"
DEEPSTREAM = ("deepstream_nvinfer.txt", "deepstream_nvtracker.yml", "deepstream_app.txt", "labels.txt")
TENSORRT, TRITON = "nvcr.io/nvidia/tensorrt:25.08-py3", "nvcr.io/nvidia/tritonserver:25.08-py3"
SIMILARITY = 0.8  # that DeepStream's tracker asks for where a network's own threshold isn't known
TAO_NAMES = ("input", "fc_pred")
PHOTOGRAPHS = 8  # that fp16 is held to fp32 on
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
    fixed: bool = False  # whether that is the only batch

    @property
    def image(self) -> str:
        """The shape of an image, as commands write it."""
        return f"3x{self.height}x{self.width}"


@dataclass(frozen=True)
class Nvidia(Target):
    """ONNX in three precisions, commands for TensorRT, DeepStream configs, and a Triton repository.

    Args:
        name: of the target.
        int8: path of the int8 .onnx; left out where it is absent.
        input_name: of the tensor.
        output_name: likewise; None for `embedding`, or `scores` of a classifier.
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
    output_name: str | None
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

        Raises InputError where fp16 differs from fp32 by more than `tolerance`, and where the run has no file of the
        precision to serve.
        """
        if self.served not in PRECISIONS:
            raise InputError(f"deploy.served={self.served}: choose from {', '.join(PRECISIONS)}")
        output = self.output_name or (Task.CLASSIFICATION if given.classes else Task.REID).output
        names = TAO_NAMES if self.tao_names else (self.input_name, output)
        made, batch = self.models(given, names)
        images = test_images(given.datamodule, PHOTOGRAPHS)
        image = images[0]
        features = run_onnx(next(iter(made.values())), as_fed(image[None], batch)).shape[1]
        face = Interface(*names, *given.datamodule.size, features, batch or self.largest_batch, bool(batch))
        try:
            check(made, face, self.tolerance, as_fed(images))
        except InputError as error:
            if not isinstance(given, DeployableFile) or made.keys() != {"fp32", "fp16"}:
                raise
            log.warning(f"left out: {error}")
            del made["fp16"]
        served = self._served(given, made)
        threshold = given.threshold
        if served == "int8" and not isinstance(given, DeployableFile):
            threshold = file_thresholds(given.file(self.int8), given).get(given.distance)
        outputs = {precision: run_onnx(content, as_fed(image[None], batch))[0] for precision, content in made.items()}
        about_scores = given.about_scores(outputs[served][None])
        card = {"input": face.input, "output": face.output, "size": [face.height, face.width],
                "batch": batch or 1, "distance": given.distance, "threshold": threshold}  # fmt: skip
        written: dict[str, str | bytes] = {PRECISIONS[precision]: content for precision, content in made.items()}
        written |= commands(face, made)
        if not about_scores:
            written |= deepstream(face, made, given.cosine_threshold)
        elif not about_scores["logits"]:
            written |= deepstream_classes(face, made, given.classes)
        for name in DEEPSTREAM:
            if name not in written:
                (out / name).unlink(missing_ok=True)
        written |= vector_files(image, outputs, card | about_scores)
        written["test_vector/input.bin"] = as_fed(image[None], batch).tobytes()
        written |= {name: (FILES / name).read_text() for name in ("triton_client.py", "test_vector.py")}
        for name, content in written.items():
            write_atomic(out / name, content)
        self.write_repository(out / "triton", face, made, served)
        write_atomic(out / "README.md", readme(face, made, about_scores))
        log.info(f"{out}  {', '.join(made)}; batch 1 to {face.largest_batch}; serve it with `reidlab serve`")
        return {}

    def models(self, given: Deployable, names: tuple[str, str]) -> tuple[dict[str, bytes], int]:
        """The content of the .onnx by precision, and their batch, 0 for any; int8 where the network was quantized."""
        content, batch = given.onnx(names)
        if isinstance(given, DeployableFile):
            return by_precision(content), batch
        made = {"fp32": content, "fp16": half(content)}
        if given.has(self.int8):
            made["int8"] = renamed(given.file(self.int8), names)
        else:
            log.info(f"{given.folder / self.int8}: absent, so no int8 in this folder; run `reidlab quantize` first")
        return made, batch

    def _served(self, given: Deployable, made: Mapping[str, bytes]) -> str:
        """The precision that Triton serves: that of the settings, or what a file from elsewhere has."""
        if self.served in made:
            return self.served
        if isinstance(given, DeployableFile):
            found = next(iter(made))
            log.info(f"{given.name}: there is no {self.served} of it; Triton's models are {found}")
            return found
        raise InputError(
            f"deploy.served={self.served}: {given.folder / self.int8} is absent; run `{given.command('quantize')}`"
        )

    def write_repository(self, folder: Path, face: Interface, made: Mapping[str, bytes], served: str) -> None:
        """Write Triton's models, of which TensorRT's has no engine yet."""
        for name, backend in BACKENDS.items():
            write_atomic(folder / name / "config.pbtxt", self.triton_config(name, backend, face))
            if backend == "tensorrt":
                write_atomic(folder / name / "1" / "README.md", NO_ENGINE.format(precision=built(made)))
            else:
                write_atomic(folder / name / "1" / "model.onnx", made[served])
            if backend == "python":
                write_atomic(folder / name / "1" / "model.py", PYTHON_MODEL.read_text())

    def triton_config(self, name: str, backend: str, face: Interface) -> str:
        """The `config.pbtxt` of a model."""
        kind = {"onnxruntime": 'platform: "onnxruntime_onnx"', "tensorrt": 'platform: "tensorrt_plan"'}
        where = "KIND_GPU" if backend == "tensorrt" else self.instance_kind
        preferred = ", ".join(str(n) for n in (4, 8, 16, 32, 64) if n <= face.largest_batch) or "1"
        first = f"{face.largest_batch}, " if face.fixed else ""
        batching = f"""dynamic_batching {{
  preferred_batch_size: [{preferred}]
  max_queue_delay_microseconds: {self.max_queue_delay_us}
  default_queue_policy {{ max_queue_size: {self.max_queue_size} }}
}}
"""
        return f"""name: "{name}"
{kind.get(backend, 'backend: "python"')}
max_batch_size: {0 if face.fixed else face.largest_batch}
input [{{ name: "{face.input}", data_type: TYPE_FP32, dims: [{first}3, {face.height}, {face.width}] }}]
output [{{ name: "{face.output}", data_type: TYPE_FP32, dims: [{first}{face.features}] }}]
{"" if face.fixed else batching}instance_group [{{ count: {self.instances}, kind: {where} }}]
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


def by_precision(content: bytes) -> dict[str, bytes]:
    """A graph from elsewhere by the precision that it has; one of float32 also in float16, where that can be had."""
    model = onnx.load_from_string(content)
    if any(node.op_type in ("DequantizeLinear", "QLinearConv", "ConvInteger") for node in model.graph.node):
        return {"int8": content}
    if TensorProto.FLOAT16 in {constant.data_type for constant in model.graph.initializer}:
        return {"fp16": content}
    try:
        with quiet():
            converted = convert_float_to_float16(model, keep_io_types=True).SerializeToString()
        return {"fp32": content, "fp16": converted}
    except Exception as error:  # of a converter that knows not every graph
        log.warning(f"no float16 file: {one_line(error)}")
        return {"fp32": content}


def as_fed(images: np.ndarray, batch: int = 0) -> np.ndarray:
    """Pixels (B, H, W, 3) uint8 as the network takes them, (B, 3, H, W) float32; one image as a whole batch."""
    values = np.ascontiguousarray(images.transpose(0, 3, 1, 2) / np.float32(255))
    return np.repeat(values, batch, axis=0) if batch > 1 else values


def check(made: dict[str, bytes], face: Interface, tolerance: float, photographs: np.ndarray) -> None:
    """Run every precision at batch 1 and the largest, on images (N, 3, H, W) in [0, 1] and on noise.

    Raises InputError where fp16 is off by more than `tolerance`.
    """
    images = np.random.default_rng(0).random((face.largest_batch, 3, face.height, face.width), np.float32)
    images[: len(photographs)] = photographs[: len(images)]
    found = {}
    for precision, content in made.items():
        for given in (images,) if face.fixed else (images[:1], images):
            try:
                found[precision] = run_onnx(content, given)
            except Exception as reason:  # onnxruntime's exceptions share no base class
                raise InputError(f"{PRECISIONS[precision]}: fails on {given.shape} ({one_line(reason)})") from reason
            if found[precision].shape != (len(given), face.features):
                raise InputError(f"{PRECISIONS[precision]}: gives {found[precision].shape} for {len(given)} images")
    if {"fp32", "fp16"} <= found.keys():
        error = np.linalg.norm(found["fp16"] - found["fp32"], axis=1) / np.linalg.norm(found["fp32"], axis=1)
        if not error.max() <= tolerance:
            raise InputError(
                f"model_fp16.onnx: {error.max():.1%} off fp32, over deploy.tolerance={tolerance}; use fp32"
            )


def commands(face: Interface, made: Collection[str]) -> dict[str, str]:
    """Shell scripts that build and time engines: TensorRT 8 to 10 by flags, 11 by the types in the file."""
    batches = ("min", 1), ("opt", max(face.largest_batch // 4, 1)), ("max", face.largest_batch)
    shapes = [f"--{word}Shapes={face.input}:{batch}x{face.image}" for word, batch in batches if not face.fixed]

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


def deepstream(face: Interface, made: Collection[str], cosine_threshold: float | None) -> dict[str, str | bytes]:
    """A whole pipeline of deepstream-app, and the configs of nvinfer and nvtracker that it names.

    nvinfer numbers precisions 0 fp32, 1 int8, 2 fp16; nvtracker 0 fp32, 1 fp16, 2 int8.
    """
    infer = nvinfer(face, made) | {"network-type": 100, "output-tensor-meta": 1, "operate-on-class-ids": 2}
    changed = {
        "onnxFile": infer["onnx-file"],
        "modelEngineFile": infer["model-engine-file"],
        "networkMode": 2 if infer["network-mode"] == 1 else 1,
    }
    title = "people -> embeddings; they are class 2 of the detector of deepstream_app.txt, 0 of PeopleNet"
    return {
        "deepstream_nvinfer.txt": nvinfer_text(title, infer),
        "deepstream_nvtracker.yml": nvtracker(reid_section(face) | changed, cosine_threshold),
        "deepstream_app.txt": (FILES / "deepstream_app.txt").read_text(),
    }


def deepstream_classes(face: Interface, made: Collection[str], classes: Sequence[str]) -> dict[str, str | bytes]:
    """The config of an nvinfer that classifies, and the names that it gives."""
    of_classes = {"network-type": 1, "labelfile-path": "labels.txt", "classifier-threshold": 0}
    title = "objects -> classes; classifier-threshold is the least confidence of one that is named"
    return {
        "deepstream_nvinfer.txt": nvinfer_text(title, nvinfer(face, made) | of_classes),
        "labels.txt": ";".join(name.replace(";", ",") for name in classes) + "\n",
    }


def nvinfer(face: Interface, made: Collection[str]) -> dict[str, Any]:
    """What a secondary nvinfer of either kind is told."""
    batch, source = face.largest_batch, "fp32" if "fp32" in made else next(iter(made))
    file, integer = PRECISIONS[source], source == "int8"
    return {
        "gpu-id": 0, "net-scale-factor": f"{1 / 255:.17g}", "offsets": "0;0;0", "model-color-format": 0,
        "onnx-file": file, "model-engine-file": f"{file}_b{batch}_gpu0_{'int8' if integer else 'fp16'}.engine",
        "infer-dims": f"3;{face.height};{face.width}", "batch-size": batch, "network-mode": 1 if integer else 2,
        "process-mode": 2, "output-blob-names": face.output, "maintain-aspect-ratio": 0, "gie-unique-id": 2,
    }  # fmt: skip


def nvinfer_text(title: str, infer: Mapping[str, Any]) -> str:
    """The config file of an nvinfer."""
    return f"# nvinfer, secondary: {title}\n[property]\n" + "".join(f"{key}={value}\n" for key, value in infer.items())


def nvtracker(section: Mapping[str, Any], cosine_threshold: float | None) -> str:
    """A whole NvDCF config that re-associates by appearance, with the threshold of the network where it is known."""
    similarity = SIMILARITY if cosine_threshold is None else round(min(1.0, max(0.0, 1 - cosine_threshold)), 4)
    head = (FILES / "nvtracker_nvdcf.yml").read_text().format(similarity=similarity)
    return head + "".join(f"  {key}: {value}\n" for key, value in section.items())


def reid_section(face: Interface) -> dict[str, Any]:
    """The ReID section of an nvtracker config for `model.onnx`, whose embeddings are scaled to length 1."""
    return {
        "reidType": 2, "batchSize": face.largest_batch, "workspaceSize": 1000, "reidFeatureSize": face.features,
        "reidHistorySize": 100, "inferDims": [3, face.height, face.width], "networkMode": 1, "inputOrder": 0,
        "colorFormat": 0, "offsets": [0.0, 0.0, 0.0], "netScaleFactor": 1 / 255, "keepAspc": 0,
        "addFeatureNormalization": 1, "outputReidTensor": 1, "onnxFile": "model.onnx",
        "modelEngineFile": f"model.onnx_b{face.largest_batch}_gpu0_fp16.engine",
    }  # fmt: skip


def built(made: Mapping[str, bytes]) -> str:
    """The precision of the engine that instructions name."""
    return "fp16" if "fp16" in made else next(iter(made))


def readme(face: Interface, made: dict[str, bytes], about_scores: Mapping[str, Any]) -> str:
    """The README of the folder: its files and how to use them; see `Deployable.about_scores`."""
    rows = "\n".join(f"| `{PRECISIONS[name]}` | {len(content) / 1024:.0f} KiB |" for name, content in made.items())
    batch = f"{face.largest_batch}, no other" if face.fixed else f"1 to {face.largest_batch}"
    precision = built(made)
    shape = "" if face.fixed else f"--shapes={face.input}:1x{face.image} "
    docker = 'docker run --rm --gpus all -v "$PWD":/work -w /work'
    title, meaning, answer = f"{face.features} features", "", "the distance of each image to the first"
    pipeline = PIPELINE
    if about_scores:
        title, answer = f"{face.features} class scores", "the likeliest class of each image and its confidence"
        kind, pipeline = ("logits", LOGITS) if about_scores["logits"] else ("confidences", CLASSES)
        meaning = f": {kind}, in the\norder of `classes` in `test_vector/expected.json`"
    return f"""# {title} from {face.height} x {face.width} RGB pixels, on NVIDIA

Input `{face.input}` (batch, 3, {face.height}, {face.width}): float32 RGB pixels divided by 255, nothing more; mean and
standard deviation are in the graph. Output `{face.output}` (batch, {face.features}){meaning}. Batch {batch}.

| file | size |
|---|---|
{rows}

## TensorRT

`sh build_tensorrt_8_to_10.sh {precision}`, or `build_tensorrt_11.sh`. An engine is for one GPU and one version. In a container, where
nothing else is installed:

```
{docker} {TENSORRT} sh build_tensorrt_8_to_10.sh {precision}
{docker} {TENSORRT} trtexec --loadEngine=model_{precision}.plan {shape}--loadInputs={face.input}:test_vector/input.bin --exportOutput=trtexec.json
python test_vector.py --trtexec trtexec.json
```

## Triton

`reid_tensorrt` needs an engine first, `cp model_{precision}.plan triton/reid_tensorrt/1/model.plan`, built in the same release's
container. `reid_python` needs numpy and onnxruntime.

```
docker run --rm --gpus all -p 8000:8000 -p 8001:8001 -v "$PWD/triton":/models {TRITON} tritonserver --model-repository=/models --model-control-mode=explicit --load-model=reid_onnxruntime
python test_vector.py --triton
python triton_client.py A.jpg B.jpg
```

The client prints {answer}.

## DeepStream

{pipeline}

## Test vector

`test_vector/image.png`, its output in `expected.json`, and the input tensor in `input.bin`. `python test_vector.py` runs every
.onnx by ONNX Runtime. The files were run so when they were written; engines have to be built and checked on the GPU
that will serve.
"""  # noqa: E501 (commands in one line)
