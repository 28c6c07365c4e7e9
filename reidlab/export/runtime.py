"""Running any .tflite or .onnx file on images: its input format is read from the file."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np

from reidlab.console import log
from reidlab.errors import InputError, one_line
from reidlab.export.backends import INTEGERS, OPENERS, RUNTIMES, Port
from reidlab.export.quiet import quiet
from reidlab.files import EXPORTED, open_regular

NAMED = ("embedding", "feature")  # what other tools call the output to compare, in lower case
MOST_CHANNELS = 4  # of an image in any format; a larger number is a height or width
OF_PIXELS = 2.0  # at most, mean and std of pixels in [0, 1]


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
    with open_regular(file), quiet():
        opened = OPENERS[runtime](file, threads)
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
