"""A .tflite model as dependency-free C99: kernels and API are files of this package, only tables are generated."""

import contextlib
import functools
import re
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from string import Template

import numpy as np
from packaging.version import Version

from reidlab import __version__
from reidlab.deploy.network import Rows
from reidlab.deploy.program import Program, compile_program
from reidlab.deploy.streaming import Stage
from reidlab.deploy.tflite_graph import read_graph
from reidlab.errors import InputError
from reidlab.files import MAX_BYTES, read_bytes, write_atomic

SHARED = (
    "reid_kernels.c", "reid_kernels.h", "reid_words.h", "reid_vectors.h", "reid_resize.c", "reid_resize.h",
    "reid_camera.c", "reid_camera.h", "reid_distance.c", "reid_distance.h", "reid_gallery.c", "reid_gallery.h",
)  # fmt: skip
TEMPLATES = {  # file of this package -> in the folder; `reid` in its name is the prefix
    "reid.h": "src/reid.h",
    "reid_model.c": "src/reid_model.c",
    "reid_self_test.c": "src/reid_self_test.c",
    "reid_version.h": "src/reid_version.h",
    "main.c": "examples/firmware/main.c",
    "board.h": "examples/firmware/board.h",
    "board_host.c": "examples/firmware/board_host.c",
    "stm32h7.ld": "examples/firmware/stm32h7.ld",
    "camera.ino": "examples/camera/camera.ino",
    "CMakeLists.txt": "CMakeLists.txt",
    "zephyr.cmake": "zephyr/CMakeLists.txt",
    "Kconfig": "zephyr/Kconfig",
    "module.yml": "zephyr/module.yml",
    "library.properties": "library.properties",
    "README.md": "README.md",
}
COMPARING = ("main.c", "board.h", "board_host.c", "camera.ino")  # examples that enroll and identify
PART = re.compile(r"<!-- (embeds|classifies|static|caller)\n(.*?)-->\n", re.DOTALL)  # of a template, for one kind
PREFIX = re.compile(r"(?!reid_|_)[a-z_][a-z0-9_]{0,30}")
CALLS = {  # by `deploy.arena`, what the README's lines of code declare and call
    "static": {"memory": "", "run": "reid_run(", "run_codes": "reid_run_codes"},
    "caller": {
        "memory": "static uint64_t arena[(REID_ARENA_BYTES + 7) / 8];\n",
        "run": "reid_run_in(arena, ",
        "run_codes": "reid_run_codes_in",
    },
}
HEADERS = {"assert", "complex", "ctype", "errno", "fenv", "float", "inttypes", "iso646", "limits", "locale", "math",
           "setjmp", "signal", "stdarg", "stdbool", "stddef", "stdint", "stdio", "stdlib", "string", "tgmath", "time",
           "wchar", "wctype"}  # fmt: skip
GENERATED = "Generated; the constants are the network's"  # says the source of a network
CODES = -2  # stands for the embedding as int8 codes, among tensors


@dataclass(frozen=True)
class Example:
    """An image (H, W, C) uint8 and the embedding (D,) float32 that the reference kernels compute from it."""

    image: np.ndarray
    embedding: np.ndarray


@dataclass(frozen=True)
class CReport:
    """RAM and flash that the exported C needs, and the lower bound of its arena."""

    folder: Path
    arena_bytes: int
    arena_lower_bound: int
    weight_bytes: int
    table_bytes: int
    macs: int


def export_c(
    tflite: Path,
    folder: Path,
    distance: str = "euclidean",
    extra_macs: float = 0.1,
    prefix: str = "reid",
    arena: str = "static",
    thresholds: Mapping[str, float] | None = None,
    example: Example | None = None,
    place: int | None = None,
    classes: Sequence[str] = (),
) -> CReport:
    """Write a folder of C for CMake, Zephyr, Arduino and others: sources, an example and a README.

    The folder holds one network: that of another prefix, if this package wrote it, is removed. A file that is there
    as it would be written keeps its time.

    Raises InputError, naming the operator, for what can't be exported.

    Args:
        tflite: the int8 model.
        folder: to write to.
        distance: that embeddings are compared by, euclidean or cosine.
        extra_macs: work that may be repeated, as a share of the whole, where that lowers the arena.
        prefix: of the network's files and names, so that a firmware may have several.
        arena: "static", or "caller" for one that each call is given.
        thresholds: by distance, those up to which two images show one identity, of this model.
        example: for the self-test, which is left out without one.
        place: of the output that holds embeddings, of a model with several.
        classes: the names of a classifier's classes, in the order of its scores; none of a network that embeds.
    """
    if not PREFIX.fullmatch(prefix) or prefix in HEADERS:
        raise InputError(f"deploy.prefix={prefix}: give a short C name in small letters, such as gate; not reid_...")
    if arena not in CALLS:
        raise InputError(f"deploy.arena={arena}: choose static or caller")
    program = compile_program(read_graph(tflite, place), extra_macs)
    source, folder = _Source(program), Path(folder)
    shared = {name: _text(name) for name in SHARED}
    own = _own_names(_text("reid.h"))
    called = {
        key: _renamed(text, own, prefix) for key, text in (_verdict(distance, thresholds or {}) | CALLS[arena]).items()
    }
    values = source.values() | {
        "name": re.sub(r"[^\w. -]", "_", Path(tflite).name), "distance": distance, "prefix": prefix,
        "PREFIX": prefix.upper(), "other": "door" if prefix == "gate" else "gate",
        "static_arena": int(arena == "static"), "version": __version__, "version_number": _number(__version__),
        "kernels": zlib.crc32("".join(shared.values()).encode()),
        "class_names": ", ".join(map(_literal, classes)),
        **called, **(source.self_test(example) if example else {}),
    }  # fmt: skip
    kinds = arena, "classifies" if classes else "embeds"
    for model in (folder / "src").glob("*_model.c"):
        if model.name != f"{prefix}_model.c" and GENERATED.encode() in _content(model):
            for end in ("_model.c", "_self_test.c", ".h"):
                model.with_name(model.name.removesuffix("_model.c") + end).unlink(missing_ok=True)
    for name, content in shared.items():
        _renew(folder / "src" / name, content)
    for name, target in TEMPLATES.items():
        if (name == "reid_self_test.c" and not example) or (name in COMPARING and classes):
            (folder / target.replace("reid", prefix)).unlink(missing_ok=True)  # of an earlier network
            continue
        text = PART.sub(lambda part: part[2] if part[1] in kinds else "", _text(name))
        if name != "reid_version.h":
            target, text = (_renamed(word, own, prefix) for word in (target, text))
        _renew(folder / target, Template(text).substitute(values))
    plan = program.plan
    return CReport(
        folder, plan.arena_bytes, plan.lower_bound, values["weight_bytes"], values["table_bytes"], program.macs
    )


@functools.cache
def _text(name: str) -> str:
    """A file of this package's C."""
    return (files("reidlab.deploy") / "c" / name).read_text()


def _renew(file: Path, text: str) -> None:
    """Write a file unless it is there as it is: a firmware built again after an export compiles what has changed."""
    content = text.encode()
    if _content(file, len(content)) != content:
        write_atomic(file, content)


def _content(file: Path, limit: int = MAX_BYTES) -> bytes:
    """The content of a file of at most so many bytes; none where there is no such file to read."""
    with contextlib.suppress(InputError):
        return read_bytes(file, limit)
    return b""


def _number(version: str) -> int:
    """A release such as 1.2.3 as 10203; of a development release, the one it leads to."""
    major, minor, patch = Version(version).release
    return 10000 * major + 100 * minor + patch


def _verdict(distance: str, thresholds: Mapping[str, float]) -> dict[str, str]:
    """The thresholds as macros, and what the README says of them."""
    macros = {"REID_THRESHOLD": thresholds.get(distance), "REID_COSINE_THRESHOLD": thresholds.get("cosine")}
    lines = [f"#define {name} {value:.9e}f" for name, value in macros.items() if value is not None]
    if not lines:
        lines = ["/* No threshold is calibrated: choose REID_THRESHOLD on pairs of images of your own. */"]
        told = "No threshold came with this network: choose one on pairs of images of your own."
    else:
        told = "The thresholds in `reid.h` were calibrated on this int8 network; the float network's is another one."
    return {"thresholds": "\n".join(lines), "verdict": told}


def _literal(text: str) -> str:
    """A C string of a text in UTF-8."""
    codes = text.encode(errors="replace")
    letters = (chr(code) if 32 <= code < 127 and code not in b'"\\?' else f"\\{code:03o}" for code in codes)
    return '"' + "".join(letters) + '"'


def _own_names(header: str) -> re.Pattern:
    """Names under a prefix: the macros and functions of the network's header, its files, its arena and its targets."""
    functions = re.findall(r"^(?:int|void|static inline float) (reid_\w+)\(", header, re.MULTILINE)
    macros = {
        *re.findall(r"#define (REID_\w+)", header),
        "REID_THRESHOLD",
        "REID_COSINE_THRESHOLD",
        "REID_ARENA_ATTRIBUTE",
        "CONFIG_REID",
    }
    words = "|".join([*sorted(macros), "reid_model", "reid_self_test", "reid_arena"])
    calls = "|".join(functions)
    return re.compile(
        rf"(?:\b|(?<=-D))(?:{words})\b|\b(?:{calls})\b(?!\.)|\breid(?=\.h|\))|(?<=libraries/)reid|(?<=> )reid(?= >)"
    )


def _renamed(text: str, names: re.Pattern, prefix: str) -> str:
    """A text with another prefix in place of `reid`."""
    return names.sub(lambda found: found[0].replace("reid", prefix).replace("REID", prefix.upper()), text)


class _Pool:
    """Constants of one C array, each stored once."""

    def __init__(self, name: str, dtype: str, align: int = 1):
        self.name, self.dtype, self.align = name, np.dtype(dtype), align
        self.chunks: list[np.ndarray] = []
        self.length = 0
        self.known: dict[bytes, int] = {}

    def put(self, array: np.ndarray) -> str:
        """The C expression for the address of an array's first element."""
        flat = np.ascontiguousarray(array, self.dtype).reshape(-1)
        key = flat.tobytes()
        if key not in self.known:
            self.known[key] = self.length
            padded = np.pad(flat, (0, -len(flat) % self.align))
            self.chunks.append(padded)
            self.length += len(padded)
        return f"{self.name}.at + {self.known[key]}"

    @property
    def content(self) -> np.ndarray:
        """All elements, at least one, since C has no empty arrays."""
        return np.concatenate(self.chunks) if self.chunks else np.zeros(1, self.dtype)

    def text(self) -> str:
        """The C definition."""
        lines = _wrapped(str(value) if value > -(2**31) else "INT32_MIN" for value in self.content.tolist())
        kind = f"union {{ {self.dtype.name}_t at[{len(self.content)}]; uint32_t alignment; }}"
        return f"static const {kind} {self.name} = {{{{\n{lines}\n}}}};"


class _Source:
    """The tables of `reid_model.c`."""

    def __init__(self, program: Program):
        self.program = program
        self.rows, self.plan = {**program.network.rows}, program.plan
        self.weights, self.shifts = _Pool("weights", "int8", align=4), _Pool("shifts", "int8")
        self.words = _Pool("words", "int32")
        self.bias_count = 0
        self.parameters: dict[str, str] = {}  # the C definition without its name -> its name
        self.nodes: list[str] = []
        self.table: list[str] = []
        for position, stage in enumerate(program.stages):
            self._stage(position, stage)
        *others, last = program.stages[-1].nodes
        self.last = last
        self.rows[CODES] = Rows(self.rows[last.output].height, last.params["count"])
        codes = {"low": -128, "high": 127, "count": last.params["count"]}
        copy = replace(last, kernel="reid_range_row", struct="reid_range", params=codes, output=CODES)
        self._stage(len(program.stages), replace(program.stages[-1], nodes=(*others, copy)))

    def values(self) -> dict:
        """The values of the templates' placeholders."""
        height, width, channels = self.program.network.image_shape
        pools = (self.weights, self.words, self.shifts)
        checksum = 1
        for pool in pools:
            checksum = zlib.adler32(pool.content.astype(pool.dtype.newbyteorder("<")).tobytes(), checksum)
        weight_bytes = self.weights.length + 4 * self.bias_count
        table_bytes = 4 * (self.words.length - self.bias_count) + self.shifts.length
        return {
            "input_scale": f"{np.float32(self.program.network.input_scale):.9e}f",
            "input_zero": self.program.network.input_zero,
            "height": height, "width": width, "channels": channels, "size": self.program.network.embedding_size,
            "arena_bytes": self.plan.arena_bytes, "weight_bytes": weight_bytes, "table_bytes": table_bytes,
            "arena_kib": f"{self.plan.arena_bytes / 1024:.1f}", "weight_kib": f"{weight_bytes / 1024:.1f}",
            "table_kib": f"{table_bytes / 1024:.1f}", "checksum": checksum,
            "flash_kib": f"{(weight_bytes + table_bytes) / 1024:.0f}",
            "scale": f"{np.float32(self.last.params['scale']):.9e}f", "zero": self.last.params["zero"],
            "constants": "\n\n".join(pool.text() for pool in pools),
            "parameters": "\n".join(text.replace("@", name, 1) for text, name in self.parameters.items()),
            "stages": "\n".join(
                [*self.nodes, "", "static const reid_stage stages[] = {", *self.table, "};"]
            ),
        }  # fmt: skip

    def self_test(self, example: Example) -> dict[str, str]:
        """The values of `reid_self_test.c`."""
        scale, zero = np.float32(self.last.params["scale"]), self.last.params["zero"]
        codes = np.rint(example.embedding / scale).astype(int) + zero
        return {
            name: _wrapped(map(str, array.reshape(-1).tolist()))
            for name, array in (("image", example.image), ("expected", codes))
        }

    def _stage(self, position: int, stage: Stage) -> None:
        *rings, scratch = self.plan.work_offsets[min(position, len(self.plan.work_offsets) - 1)]
        places = []
        for index, node in enumerate(stage.nodes):
            inner = index < len(rings)
            places.append(
                self._rows(node.output, rings[index] if inner else None, stage.rings[index] if inner else None)
            )
        lines = []
        for index, (node, sources) in enumerate(zip(stage.nodes, stage.sources, strict=True)):
            inputs = [places[s] if s >= 0 else self._rows(t) for t, s in zip(node.inputs, sources, strict=True)]
            inputs += ["{0, 0, 0}"] * (2 - len(inputs))
            source = [*sources, -1][:2]
            lines.append(
                f"  {{{node.kernel}, &{self._parameter(node.struct, node.params)}, {{{', '.join(inputs)}}}, "
                f"{places[index]}, {{{source[0]}, {source[1]}}}, {node.window}, {node.stride}, {node.pad}, "
                f"{self.rows[node.inputs[0]].height}}},"
            )
        self.nodes += [f"static const reid_node stage_{position}[] = {{", *lines, "};"]
        height = self.rows[stage.output].height
        self.table.append(f"  {{stage_{position}, {scratch}, {len(stage.nodes)}, {height}}},")

    def _rows(self, tensor: int, offset: int | None = None, ring: int | None = None) -> str:
        rows, network = self.rows[tensor], self.program.network
        named = {network.image: "REID_IMAGE", network.output: "REID_OUTPUT", CODES: "REID_OUTPUT"}
        base = network.base(tensor)
        place = (named[base] if base in named else self.plan.offsets[base]) if offset is None else offset
        return f"{{{place}, {ring or rows.height}, {rows.row_bytes}}}"

    def _parameter(self, struct: str, params: Mapping) -> str:
        fields = ", ".join(f".{key} = {self._value(key, value)}" for key, value in params.items())
        return self.parameters.setdefault(f"static const {struct} @ = {{{fields}}};", f"p{len(self.parameters)}")

    def _value(self, key: str, value) -> str:
        if value is None:
            return "0"
        if isinstance(value, np.ndarray):
            if value.dtype == np.int8:
                return (self.weights if key == "weights" else self.shifts).put(value)
            before = self.words.length
            text = self.words.put(value)
            self.bias_count += self.words.length - before if key == "bias" else 0
            return text
        if isinstance(value, Mapping):
            return f"{{{', '.join(f'.{key} = {self._value(key, inner)}' for key, inner in value.items())}}}"
        if isinstance(value, tuple):
            return f"{{{', '.join(map(str, value))}}}"
        if isinstance(value, float):
            return f"{value.hex()}f"
        return f"{value}u" if value > 0x7FFFFFFF else str(value)


def _wrapped(items: Iterable[str], width: int = 118) -> str:
    """Join items by commas, in lines of bounded width."""
    lines, line = [], " "
    for item in items:
        if len(line) + len(item) + 2 > width:
            lines.append(line)
            line = " "
        line += f" {item},"
    return "\n".join([*lines, line])
