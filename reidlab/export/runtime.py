"""Running any .tflite or .onnx file on images: its input format is read from the file."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from reidlab.errors import InputError
from reidlab.export.quiet import quiet

INTEGERS = {np.dtype(np.uint8): 0, np.dtype(np.int8): -128}  # type -> code of a black pixel
TEXTS = {"color_order", "weights_hash", "model", "distance", "calibrated_on"}  # entries of reidlab's own metadata
VALUES = {"mean", "std", "classes", "protocol", "threshold", "threshold_low", "threshold_high", "wanted_fpr"}
RUNTIMES = ("litert", "onnxruntime", "openvino")


class Port(NamedTuple):
    """An input or output of a file: `shape` has -1 where it is dynamic; real values are scale * (code - zero_point)."""

    shape: tuple[int, ...]
    dtype: np.dtype
    scale: float = 0.0
    zero_point: int = 0

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """Dequantize the values of a file."""
        if self.dtype.kind == "f" or not self.scale:
            return codes.astype(np.float32)
        return (codes.astype(np.float32) - self.zero_point) * np.float32(self.scale)

    def encode(self, values: np.ndarray) -> np.ndarray:
        """Quantize real values for a file; float inputs take them as they are."""
        if self.dtype.kind == "f":
            return values.astype(self.dtype)
        limits = np.iinfo(self.dtype)
        return np.clip(np.round(values / self.scale) + self.zero_point, limits.min, limits.max).astype(self.dtype)


@dataclass
class Embedder:
    """A loaded file: raw RGB pixels (B, H, W, 3) uint8 -> embeddings (B, D) float32.

    Args:
        file: its path.
        runtime: that runs it.
        run: the file's input -> its output.
        input: shape and type.
        output: likewise.
        channels_first: whether the input is (B, 3, H, W).
        size: height and width of the images, -1 where dynamic.
        mean: of the normalization, of pixels in [0, 1]; None for raw pixels.
        std: likewise.
        color_order: "RGB" or "BGR".
        assumed: in words, what the file doesn't say and was assumed.
        metadata: what the file says of itself.
    """

    file: Path
    runtime: str
    run: Callable[[np.ndarray], np.ndarray]
    input: Port
    output: Port
    channels_first: bool
    size: tuple[int, int]
    mean: Sequence[float] | None
    std: Sequence[float] | None
    color_order: str
    assumed: list[str] = field(default_factory=list)
    metadata: dict = field(default_factory=dict)

    @property
    def weights_hash(self) -> str | None:
        """The hash of the checkpoint that the file was made from, if it names one."""
        return self.metadata.get("weights_hash")

    def size_for(self, wanted: Sequence[int]) -> tuple[int, int]:
        """The height and width of its images; `wanted` where the file's are dynamic."""
        height, width = (own if own > 0 else other for own, other in zip(self.size, wanted, strict=True))
        return height, width

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        """Embed a batch."""
        return self.embed(self.prepare(pixels))

    def embed(self, given: np.ndarray) -> np.ndarray:
        """Embed the output of `prepare`; files with a fixed batch size get that many images at a time."""
        batch = self.input.shape[0]
        blocks = [given] if batch < 1 else np.split(given, range(batch, len(given), batch))
        if batch > 1 and len(blocks[-1]) < batch:
            blocks[-1] = np.concatenate([blocks[-1], np.repeat(blocks[-1][-1:], batch - len(blocks[-1]), axis=0)])
        codes = np.concatenate([self.run(block) for block in blocks])[: len(given)]
        return self.output.decode(codes.reshape(len(given), -1))

    def prepare(self, pixels: np.ndarray) -> np.ndarray:
        """Convert pixels to the file's input: color order, normalization, quantization and layout."""
        if self.color_order == "BGR":
            pixels = pixels[..., ::-1]
        if self.mean is None:
            values = pixels if self.input.dtype == np.uint8 else (pixels ^ 0x80).view(self.input.dtype)
        else:
            mean, std = np.asarray(self.mean, np.float32), np.asarray(self.std, np.float32)
            values = self.input.encode((pixels.astype(np.float32) / 255 - mean) / std)
        return np.ascontiguousarray(values.transpose(0, 3, 1, 2) if self.channels_first else values)


def open_model(
    file: str | Path,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    color_order: str | None = None,
    runtime: str | None = None,
    threads: int = 1,
) -> Embedder:
    """Load a .tflite (in LiteRT) or an .onnx (in onnxruntime, or openvino) as a function of raw images.

    Type, quantization and layout are read from the file; mean, std and color order from its metadata where they are
    there. Otherwise, unless they are given, integer inputs are assumed to be raw pixels and float inputs pixels in
    [0, 1], both RGB; `Embedder.assumed` says so. Raises InputError for a file that isn't such a model.

    Args:
        file: ending in .tflite or .onnx.
        mean: of each channel, of pixels in [0, 1].
        std: likewise.
        color_order: "RGB" or "BGR".
        runtime: one of RUNTIMES.
        threads: of the runtime.
    """
    file = Path(file)
    if not file.is_file():
        raise InputError(f"{file}: no such file; give a .tflite or .onnx")
    if runtime not in (None, *RUNTIMES):
        raise InputError(f"runtime={runtime}: use one of {', '.join(RUNTIMES)}")
    if file.suffix not in (".tflite", ".onnx"):
        raise InputError(f"{file}: expected a file ending in .tflite or .onnx")
    runtime = runtime or ("litert" if file.suffix == ".tflite" else "onnxruntime")
    open_file = {"litert": _litert, "onnxruntime": _onnxruntime, "openvino": _openvino}[runtime]
    with quiet():
        run, given, output, known = open_file(file, threads)
    channels_first, size = _layout(file, given.shape)
    assumed = []
    mean, std = _first(mean, known.get("mean")), _first(std, known.get("std"))
    raw = given.dtype in INTEGERS
    if (mean is None) != (std is None):
        raise InputError(f"{file}: give both mean and std, or neither")
    if mean is None and not raw:
        mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
        assumed.append("pixels scaled to [0, 1] (no mean and std given)")
    elif mean is None and not known:
        assumed.append(f"raw pixels {'0..255' if given.dtype == np.uint8 else '-128..127'} as codes (no mean given)")
    elif mean is not None and raw and (not given.scale or _codes_are_pixels(given, mean, std)):
        mean = std = None
    if not (color_order or known.get("color_order")):
        assumed.append("color order RGB")
    color = color_order or known.get("color_order") or "RGB"
    return Embedder(file, runtime, run, given, output, channels_first, size, mean, std, color, assumed, known)


def _first(given, known):
    return known if given is None else given


def _codes_are_pixels(port: Port, mean: Sequence[float], std: Sequence[float]) -> bool:
    """Whether an integer input's code of every pixel value is that value, counted from black."""
    pixels = np.arange(256)
    values = (pixels[:, None] / 255 - np.asarray(mean)) / np.asarray(std)
    return bool((port.encode(values) == pixels[:, None] + INTEGERS[port.dtype]).all())


def _layout(file: Path, shape: tuple[int, ...]) -> tuple[bool, tuple[int, int]]:
    if len(shape) != 4 or 3 not in (shape[1], shape[3]):
        raise InputError(f"{file}: its input {shape} isn't a batch of RGB images (B, H, W, 3) or (B, 3, H, W)")
    channels_first = shape[3] != 3
    height, width = shape[2:] if channels_first else shape[1:3]
    return channels_first, (height, width)


def _litert(file: Path, threads: int):
    from ai_edge_litert.interpreter import Interpreter

    from reidlab.export import flatbuffer

    content, model = file.read_bytes(), flatbuffer.read_tflite(file)
    known = flatbuffer.metadata(model)
    try:
        interpreter = Interpreter(model_content=content, num_threads=threads)
        interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        raise InputError(f"{file}: LiteRT refuses it ({_one_line(error)})") from error
    (given,), output = interpreter.get_input_details(), interpreter.get_output_details()[0]

    served = given["shape"].tolist()

    def run(images: np.ndarray) -> np.ndarray:
        if served != list(images.shape):
            interpreter.resize_tensor_input(given["index"], images.shape)
            interpreter.allocate_tensors()
            served[:] = images.shape
        interpreter.set_tensor(given["index"], images)
        interpreter.invoke()
        return interpreter.get_tensor(output["index"])

    ports = [Port(tuple(map(int, d["shape"])), np.dtype(d["dtype"]), *d["quantization"]) for d in (given, output)]
    if known and "SLICE" not in flatbuffer.operator_names(model):  # written here, where no other fixes the batch
        ports = [port._replace(shape=(-1, *port.shape[1:])) for port in ports]
    return run, *ports, known


def _onnxruntime(file: Path, threads: int):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = threads, 1, 4
    try:
        session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions share no base class
        raise InputError(f"{file}: onnxruntime refuses it ({_one_line(error)})") from error
    given, output = session.get_inputs()[0], session.get_outputs()[0]
    known = _onnx_metadata(session.get_modelmeta().custom_metadata_map)
    return (
        (lambda images: session.run([output.name], {given.name: images})[0]),
        *map(_onnx_port, (given, output)),
        known,
    )


def _openvino(file: Path, threads: int):
    import openvino

    _, given, output, known = _onnxruntime(file, threads)
    try:
        model = openvino.Core().compile_model(
            file, "CPU", {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
        )
    except RuntimeError as error:
        raise InputError(f"{file}: OpenVINO refuses it ({_one_line(error)})") from error
    return (lambda images: model(images)[0]), given, output, known


def _onnx_port(node) -> Port:
    types = {
        "tensor(float)": np.float32,
        "tensor(uint8)": np.uint8,
        "tensor(int8)": np.int8,
        "tensor(float16)": np.float16,
    }
    return Port(tuple(n if isinstance(n, int) else -1 for n in node.shape), np.dtype(types.get(node.type, np.float32)))


def _onnx_metadata(entries: dict[str, str]) -> dict:
    known = {key: entries[key] for key in TEXTS & entries.keys()}
    return known | {key: json.loads(entries[key]) for key in VALUES & entries.keys()}


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
