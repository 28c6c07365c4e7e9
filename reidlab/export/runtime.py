"""Running any .tflite or .onnx file on images: its input format is read from the file."""

import contextlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np

from reidlab.config import keys_of, resolve_path
from reidlab.console import log
from reidlab.errors import InputError, one_line
from reidlab.export.metadata import SCHEMA
from reidlab.export.quiet import quiet
from reidlab.files import EXPORTED, open_regular, read_bytes
from reidlab.untrusted import check_schema, parse_json

if TYPE_CHECKING:
    from reidlab.run import Run

INTEGERS = {np.dtype(np.uint8): 0, np.dtype(np.int8): -128}  # type -> code of a black pixel
NAMED = ("embedding", "feature")  # what other tools call the output to compare, in lower case
ONNX_TYPES: dict[str, type | np.dtype] = {
    "float": np.float32, "double": np.float64, **{n: np.dtype(n) for n in ("float16", "bool", "uint8", "int8", "int16",
    "uint16", "int32", "uint32", "int64", "uint64")},
}  # fmt: skip
TEXTS = {"color_order", "weights_hash", "model", "distance", "calibrated_on"}  # entries of reidlab's own metadata
VALUES = {"mean", "std", "classes", "protocol", "threshold", "threshold_low", "threshold_high", "wanted_fpr"}
LARGEST_TENSOR = 2**30  # values
MOST_CHANNELS = 4  # of an image in any format; a larger number is a height or width
OF_PIXELS = 2.0  # at most, mean and std of pixels in [0, 1]
FILE_SETTINGS = ("mean", "std", "color_order", "output")  # settings of `evaluate`, of what a file doesn't say of itself
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
        place: of the output among all.
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
    place: int = 0

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
        """Embed the output of `prepare`; files with a fixed batch size get that many images at a time.

        Raises InputError where the file can't be run, or returns what isn't finite.
        """
        batch = self.input.shape[0]
        blocks = [given] if batch < 1 else np.split(given, range(batch, len(given), batch))
        if batch > 1 and len(blocks[-1]) < batch:
            blocks[-1] = np.concatenate([blocks[-1], np.repeat(blocks[-1][-1:], batch - len(blocks[-1]), axis=0)])
        codes = np.concatenate([self._rows(block) for block in blocks])[: len(given)]
        found = self.output.decode(codes)
        if not np.isfinite(found).all():
            raise InputError(f"{self.file}: returns values that aren't finite; check its weights and evaluate.mean")
        return found

    def _rows(self, block: np.ndarray) -> np.ndarray:
        """The codes of a block (B, D); of a file whose graph fails on several images, one by one from then on."""
        several = len(block) > 1 and self.input.shape[0] < 1
        try:
            codes = np.asarray(self.run(block))
        except Exception as error:  # the runtimes' exceptions share no base class
            if not several:
                shape = f"{block.dtype} {block.shape}"
                raise InputError(f"{self.file}: {self.runtime} fails on {shape} ({one_line(error)})") from error
            codes = np.empty(0)
        if codes.size and (len(block) == 1 or codes.shape[:1] == block.shape[:1]):
            return codes.reshape(len(block), -1)
        if not several:
            raise InputError(f"{self.file}: returns {codes.shape} of {len(block)} images")
        log.info(f"{self.file.name}: takes one image at a time, whatever its input's shape says")
        self.input = self.input._replace(shape=(1, *self.input.shape[1:]))
        return np.concatenate([self._rows(image[None]) for image in block])

    def prepare(self, pixels: np.ndarray) -> np.ndarray:
        """Convert pixels to the file's input: color order, normalization, quantization and layout."""
        if self.color_order == "BGR":
            pixels = pixels[..., ::-1]
        if self.mean is None:
            signed = self.input.dtype == np.int8
            values = (pixels ^ 0x80).view(np.int8) if signed else pixels.astype(self.input.dtype, copy=False)
        elif self.input.dtype.kind == "f":
            mean, std = np.asarray(self.mean, np.float32), np.asarray(self.std, np.float32)
            values = self.input.encode((pixels.astype(np.float32) / 255 - mean) / std)
        else:
            assert self.std is not None
            values = _codes(self.input, self.mean, self.std)[pixels, [0, 1, 2]]
        return np.ascontiguousarray(values.transpose(0, 3, 1, 2) if self.channels_first else values)


def open_model(
    file: str | Path,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    color_order: str | None = None,
    runtime: str | None = None,
    threads: int = 1,
    output: str | None = None,
    classes: int | None = None,
) -> Embedder:
    """Load a .tflite (in LiteRT) or an .onnx (in onnxruntime, or openvino) as a function of raw images.

    Type, quantization and layout are read from the file; mean, std and color order from its metadata where they are
    there. Otherwise, unless they are given, integer inputs are assumed to be raw pixels and float inputs pixels in
    [0, 1], both RGB. Of several outputs (B, D), the one that is called an embedding is taken, or else the only one; of
    class scores, the one of so many classes, or else the only one that isn't called an embedding. `Embedder.assumed`
    says so. Raises InputError for a file that isn't such a model, takes more than one input, or has several outputs
    that might be meant.

    Args:
        file: ending in .tflite or .onnx.
        mean: of each channel, of pixels in [0, 1].
        std: likewise.
        color_order: "RGB" or "BGR".
        runtime: one of RUNTIMES.
        threads: of the runtime.
        output: the name of the one to take.
        classes: None for embeddings; for class scores the number of classes, 0 where it isn't known.
    """
    file = Path(file)
    if not file.exists():
        raise InputError(f"{file}: no such file; give a .tflite or .onnx")
    if runtime not in (None, *RUNTIMES):
        raise InputError(f"runtime={runtime}: use one of {', '.join(RUNTIMES)}")
    if file.suffix.lower() not in EXPORTED:
        raise InputError(f"{file}: expected a file ending in .tflite or .onnx")
    runtime = runtime or ("litert" if file.suffix.lower() == ".tflite" else "onnxruntime")
    open_file = {"litert": _litert, "onnxruntime": _onnxruntime, "openvino": _openvino}[runtime]
    with open_regular(file), quiet():
        opened = open_file(file, threads)
    known, assumed = opened.known, opened.notes
    given = _only_input(file, opened.inputs)
    place, chosen = _choose_output(file, opened.outputs, output, classes, assumed)
    channels_first, size = _layout(file, given.shape, assumed)
    mean, std = _first(mean, known.get("mean")), _first(std, known.get("std"))
    for key, values in (("mean", mean), ("std", std)):
        if values is not None and not _is_normal(values, least=np.nextafter(0, 1) if key == "std" else -np.inf):
            raise InputError(
                f"{file}: its {key} is {values}; give three numbers as evaluate.{key}, those of std above 0"
            )
        if values is not None and max(map(abs, values)) > OF_PIXELS:
            raise InputError(f"{file}: its {key} is {[*values]}; give it for pixels in [0, 1], divided by 255")
    raw = given.is_raw
    if (mean is None) != (std is None):
        raise InputError(f"{file}: give both mean and std, or neither")
    if mean is None and not raw:
        mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
        assumed.append("pixels scaled to [0, 1] (no mean and std given)")
    elif mean is None and not known:
        assumed.append(f"raw pixels {'-128..127' if given.dtype == np.int8 else '0..255'} as codes (no mean given)")
    elif mean is not None and raw and (not given.scale or _codes_are_pixels(given, mean, std)):
        if not given.scale and not known:
            assumed.append("raw pixels, since its integer input has no scale; mean and std aren't applied")
        mean = std = None
    if not (color_order or known.get("color_order")):
        assumed.append("color order RGB")
    color = color_order or known.get("color_order") or "RGB"
    if color not in ("RGB", "BGR"):
        raise InputError(f"{file}: color order {color}; set evaluate.color_order=RGB or BGR")

    def run(images: np.ndarray) -> np.ndarray:
        return opened.run(images, place)

    return Embedder(file, runtime, run, given, chosen, channels_first, size, mean, std, color, assumed, known, place)


def file_settings(run: "Run", file: Path) -> dict[str, Any]:
    """The settings of `evaluate` that hold for a file: those of the run's own file, if it has one, are no other's."""
    own, given = run["evaluate.file"], keys_of(run.given)
    hold = not own or resolve_path(own).absolute() == file.absolute()
    return {key: run[f"evaluate.{key}"] if hold or f"evaluate.{key}" in given else None for key in FILE_SETTINGS}


def open_foreign(run: "Run", file: Path, classes: int = 0) -> Embedder:
    """A .tflite or .onnx from elsewhere by the settings of `evaluate`, see `open_model`.

    `classes` is their number where the data say it, of a classifier; by default that of the run's training.
    """
    wanted = classes or len(run.classes) if run.is_classifier else None
    return open_model(file, **file_settings(run, file), classes=wanted)


def assumed_order(names: Sequence[str], file: Path) -> str:
    """In words, that the outputs of a file, which names no classes, are of these in this order."""
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return f"its outputs are {', '.join(names[:8])}{more}, in this order, which {file.name} doesn't say"


def _is_normal(values: Any, least: float) -> bool:
    """Whether these are three finite numbers, none below `least`."""
    if not isinstance(values, list | tuple | np.ndarray) or len(values) != 3:
        return False
    return all(isinstance(n, Real) and least <= float(n) < np.inf for n in values)


def _first(given, known):
    return known if given is None else given


def _codes_are_pixels(port: Port, mean: Sequence[float], std: Sequence[float]) -> bool:
    """Whether an integer input's code of every pixel value is that value, counted from black."""
    return bool((_codes(port, mean, std) == np.arange(256)[:, None] + INTEGERS.get(port.dtype, 0)).all())


def _codes(port: Port, mean: Sequence[float], std: Sequence[float]) -> np.ndarray:
    """An integer input's code (256, 3) of every pixel value by channel.

    In float64: where pixels lie halfway between codes, as with mean and std 0.5 and a scale of 2/255, the noise of
    float32 would round some up and others down.
    """
    return port.encode((np.arange(256)[:, None] / 255 - np.asarray(mean)) / np.asarray(std))


def _layout(file: Path, shape: tuple[int, ...], assumed: list[str]) -> tuple[bool, tuple[int, int]]:
    """Whether channels come first, and the size of images; `assumed` gets a line where the shape leaves it open."""
    first, last = shape[1::2] if len(shape) == 4 else (0, 0)
    if 3 in (first, last):
        channels_first = last != 3
    elif first == -1 and (last == -1 or last > MOST_CHANNELS):
        channels_first = True
    elif last == -1 and first > MOST_CHANNELS:
        channels_first = False
    else:
        raise InputError(f"{file}: its input {shape} isn't a batch of RGB images (B, H, W, 3) or (B, 3, H, W)")
    if first == last == -1:
        assumed.append(f"images (B, 3, H, W), which its input {shape} leaves open")
    height, width = shape[2:] if channels_first else shape[1:3]
    return channels_first, (height, width)


def _only_input(file: Path, inputs: list[Port]) -> Port:
    if len(inputs) != 1:
        raise InputError(f"{file}: takes {len(inputs)} inputs, {_listed(inputs)}; export it with the image alone")
    if inputs[0].dtype.kind not in "fiu":
        raise InputError(f"{file}: its input {inputs[0]} isn't of numbers; export it with a float or uint8 input")
    return inputs[0]


def _choose_output(
    file: Path, outputs: list[Port], name: str | None, classes: int | None, assumed: list[str]
) -> tuple[int, Port]:
    """The output called `name`, or the one that seems meant, with its place; `assumed` gets a line on a choice."""
    every = list(enumerate(outputs))
    if name is not None:
        found = [each for each in every if each[1].name == name]
        if not found:
            raise InputError(f"{file}: has no output {name}; evaluate.output may be one of {_listed(outputs)}")
    elif len(every) == 1:
        found = every
    else:
        vectors = [each for each in every if each[1].is_vector]
        named = [each for each in every if any(n in each[1].name.lower() for n in NAMED)]
        if classes is None:
            found = [each for each in named if not each[1].is_map] or [v for v in vectors if len(v[1].shape) == 2]
        else:
            found = [each for each in vectors if each[1].shape[1] == classes] or vectors
            found = [each for each in found if each not in named] or found
        if len(found) != 1:
            raise InputError(f"{file}: has {len(every)} outputs, {_listed(outputs)}; choose by evaluate.output=NAME")
        assumed.append(f"the output {found[0][1].name} of {_listed(outputs)} (evaluate.output chooses another)")
    place, chosen = found[0]
    wide = chosen.dtype.kind in "iu" and chosen.dtype.itemsize > 1 and not chosen.scale
    if chosen.dtype.kind not in "fiu" or wide:
        raise InputError(f"{file}: its output {chosen} can't be an embedding; it has {_listed(outputs)}")
    if len(chosen.shape) > 2 and any(n != 1 for n in chosen.shape[2:]):
        assumed.append(f"the output {chosen}, flattened, as the embedding")
    return place, chosen


def _listed(ports: list[Port]) -> str:
    return "; ".join(map(str, ports))


class _Opened(NamedTuple):
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


def _litert(file: Path, threads: int) -> _Opened:
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
    return _Opened(run, inputs, outputs, known, [])


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


def _onnxruntime(file: Path, threads: int) -> _Opened:
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

    return _Opened(run, inputs, outputs, *_onnx_metadata(file, entries))


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


def _openvino(file: Path, threads: int) -> _Opened:
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
