"""LiteRT, ONNX Runtime and OpenVINO: a file opened in each, and what it says of itself."""

import contextlib
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np

from reidlab.errors import InputError, one_line
from reidlab.export.metadata import SCHEMA
from reidlab.files import read_bytes
from reidlab.untrusted import check_schema, parse_json

INTEGERS = {np.dtype(np.uint8): 0, np.dtype(np.int8): -128}  # type -> code of a black pixel
ONNX_TYPES: dict[str, type | np.dtype] = {
    "float": np.float32, "double": np.float64, **{n: np.dtype(n) for n in ("float16", "bool", "uint8", "int8", "int16",
    "uint16", "int32", "uint32", "int64", "uint64")},
}  # fmt: skip
TEXTS = {"color_order", "weights_hash", "model", "distance", "calibrated_on"}  # entries of reidlab's own metadata
VALUES = {"mean", "std", "classes", "protocol", "threshold", "threshold_low", "threshold_high", "wanted_fpr"}
LARGEST_TENSOR = 2**30  # values
RUNTIMES = ("litert", "onnxruntime", "openvino")


class Port(NamedTuple):
    """An input or output of a file: `shape` has -1 where it is dynamic; real values are scale * (code - zero_point).

    The type of one that isn't a tensor of numbers is object.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    scale: float = 0.0
    zero_point: int = 0
    name: str = ""

    def __str__(self) -> str:
        return f"{self.name} {self.shape} {'no numbers' if self.dtype.kind == 'O' else self.dtype}"

    @property
    def is_raw(self) -> bool:
        """Whether it takes pixels as they are: 8-bit integers, or integers that have no scale."""
        return self.dtype in INTEGERS or (self.dtype.kind in "iu" and not self.scale)

    @property
    def is_map(self) -> bool:
        """Whether it surely holds more than a vector for each image, as (B, D, 8, 4) does."""
        return sum(size > 1 for size in self.shape[1:]) > 1

    @property
    def is_vector(self) -> bool:
        """Whether it surely holds a vector of real values for each image."""
        is_real = self.dtype.kind == "f" or bool(self.scale)
        return is_real and len(self.shape) > 1 and self.shape[2:] in ((), (1, 1))

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """Dequantize the values of a file."""
        if self.dtype.kind == "f" or not self.scale:
            return codes.astype(np.float32)
        return (codes.astype(np.float32) - self.zero_point) * np.float32(self.scale)

    def encode(self, values: np.ndarray) -> np.ndarray:
        """Quantize real values for a file; float inputs take them as they are."""
        if self.dtype.kind == "f":
            return values.astype(self.dtype)
        limits, steps = np.iinfo(self.dtype), np.asarray(values, np.float64) / self.scale
        return np.clip(np.round(steps) + self.zero_point, limits.min, limits.max).astype(self.dtype)


class Opened(NamedTuple):
    """A file in a runtime: `run` takes images and the place of an output; `notes` is what metadata say in vain."""

    run: Callable[[np.ndarray, int], np.ndarray]
    inputs: list[Port]
    outputs: list[Port]
    known: dict
    notes: list[str]


def interpreter(file: Path, **options: Any) -> tuple[Any, Any]:
    """A .tflite in LiteRT, ready to run, and its tables; InputError where it is damaged, or LiteRT refuses it.

    Args:
        file: the .tflite.
        options: of LiteRT's `Interpreter`.
    """
    from ai_edge_litert.interpreter import Interpreter

    from reidlab.export import flatbuffer

    model = flatbuffer.read_tflite(file)
    flatbuffer.require_sound(model, file)
    try:
        made = Interpreter(model_content=read_bytes(file), **options)
        made.allocate_tensors()
    except Exception as error:  # of what LiteRT refuses
        raise InputError(f"{file}: LiteRT refuses it ({one_line(error)})") from error
    return made, model


def _litert(file: Path, threads: int) -> Opened:
    from reidlab.export import flatbuffer

    runner, model = interpreter(file, num_threads=threads)
    known = flatbuffer.metadata(model, file)
    sides = runner.get_input_details(), runner.get_output_details()
    inputs, outputs = ([_litert_port(details, model) for details in side] for side in sides)
    given, made = ([details["index"] for details in side] for side in sides)
    served: list[int] = [] if len(inputs) != 1 else sides[0][0]["shape"].tolist()

    def run(images: np.ndarray, place: int) -> np.ndarray:
        if served != list(images.shape):
            runner.resize_tensor_input(given[0], images.shape)
            runner.allocate_tensors()
            served[:] = images.shape
        runner.set_tensor(given[0], images)
        runner.invoke()
        return runner.get_tensor(made[place])

    if known and "SLICE" not in flatbuffer.operator_names(model):  # written here, where no other fixes the batch
        inputs, outputs = ([port._replace(shape=(-1, *port.shape[1:])) for port in side] for side in (inputs, outputs))
    return Opened(run, inputs, outputs, known, [])


def _litert_port(details: dict, model) -> Port:
    """A port by its name in the file's signature; sizes that the file leaves open are -1, the batch is as it stands."""
    names = {
        entry.tensorIndex: entry.name
        for signature in model.signatureDefs or []
        for entry in [*(signature.inputs or []), *(signature.outputs or [])]
    }
    name = names.get(details["index"], details["name"])
    name = name.decode(errors="replace") if isinstance(name, bytes) else name
    shape, signature = details["shape"].tolist(), details.get("shape_signature", details["shape"]).tolist()
    sizes = [-1 if place and n < 0 else own for place, (own, n) in enumerate(zip(shape, signature, strict=True))]
    kind = np.dtype(details["dtype"])
    scale, zero_point = details["quantization"]
    return Port(tuple(sizes), kind if kind.kind in "fiub" else np.dtype(object), scale, zero_point, name)


def _onnxruntime(file: Path, threads: int) -> Opened:
    import onnxruntime

    read_onnx(file)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = threads, 1, 4
    try:  # by its path, since weights may lie in files beside it
        session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        inputs, outputs = ([_onnx_port(n) for n in side] for side in (session.get_inputs(), session.get_outputs()))
        entries = session.get_modelmeta().custom_metadata_map
    except Exception as error:  # onnxruntime's exceptions share no base class
        raise InputError(f"{file}: onnxruntime refuses it ({one_line(error)})") from error

    def run(images: np.ndarray, place: int) -> np.ndarray:
        return session.run([outputs[place].name], {inputs[0].name: images})[0]

    return Opened(run, inputs, outputs, *_onnx_metadata(file, entries))


def read_onnx(file: Path) -> Any:
    """The ModelProto of an .onnx, without the weights that lie beside it.

    InputError for one that may run for ever, holds a tensor beyond all measure, or reads files elsewhere.
    """
    import onnx

    try:
        model = onnx.load(file, load_external_data=False)
        _require_bounded(model, file)
    except InputError:
        raise
    except Exception as error:  # of protobuf's own, also for a name that isn't UTF-8
        raise InputError(f"{file}: not readable as ONNX ({one_line(error)})") from error
    return model


def _require_bounded(model: Any, file: Path) -> None:
    import onnx

    inferred = model
    with contextlib.suppress(Exception):  # of a graph whose shapes contradict each other, which may run all the same
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    graphs, shapes = [inferred.graph, *inferred.functions], []
    for graph in graphs:  # which grows by the graphs in it
        if any(node.op_type == "Loop" for node in graph.node):
            raise InputError(f"{file}: holds a Loop, which may never end; export the network without it")
        graphs += [a.g for node in graph.node for a in node.attribute if a.type == onnx.AttributeProto.GRAPH]
        outputs = graph.output if isinstance(graph, onnx.GraphProto) else []  # a function's are names
        shapes += [value.type.tensor_type.shape.dim for value in (*graph.value_info, *outputs)]
    if any(math.prod(max(1, size.dim_value) for size in shape) > LARGEST_TENSOR for shape in shapes):
        raise InputError(f"{file}: computes a tensor of more than {LARGEST_TENSOR:,} values; export it again")
    for tensor in onnx.external_data_helper._get_all_tensors(model):
        place = {entry.key: entry.value for entry in tensor.external_data}.get("location", "")
        if Path(place).is_absolute() or ".." in Path(place).parts:
            raise InputError(f"{file}: keeps weights in {place}; put them beside it")


def _openvino(file: Path, threads: int) -> Opened:
    import openvino

    opened = _onnxruntime(file, threads)
    options = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    try:  # by itself it computes in bfloat16 where the processor has it
        model = openvino.Core().compile_model(file, "CPU", options)
    except RuntimeError as error:
        raise InputError(f"{file}: OpenVINO refuses it ({one_line(error)})") from error
    return opened._replace(run=lambda images, place: model(images)[place])


def _onnx_port(node) -> Port:
    kind = ONNX_TYPES.get(node.type.removeprefix("tensor(").removesuffix(")"), object)
    shape = tuple(n if isinstance(n, int) else -1 for n in node.shape or ())
    return Port(shape, np.dtype(cast(type, kind)), name=node.name)


def _onnx_metadata(file: Path, entries: dict[str, str]) -> tuple[dict, list[str]]:
    """Metadata of a file, and lines on what it says in another way than this project's files."""
    known, notes = {key: entries[key] for key in TEXTS & entries.keys()}, []
    for key in sorted(VALUES & entries.keys()):
        try:
            value = parse_json(entries[key])
            check_schema(value, SCHEMA.get(key, object))
        except ValueError:
            if key in ("mean", "std"):
                raise InputError(
                    f"{file}: its metadata say {key}={entries[key]}, not a list such as [0, 0, 0]"
                ) from None
            notes.append(f"nothing by its metadata's {key}, which isn't JSON, or is of another kind")
        else:
            known[key] = value
    return known, notes


OPENERS: dict[str, Callable[[Path, int], Opened]] = dict(zip(RUNTIMES, (_litert, _onnxruntime, _openvino), strict=True))
