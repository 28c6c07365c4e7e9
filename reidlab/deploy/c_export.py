"""A .tflite model as dependency-free C99: kernels and API are files of this package, only tables are generated."""

import re
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from string import Template

import numpy as np

from reidlab.deploy.program import Program, compile_program
from reidlab.deploy.streaming import Stage
from reidlab.deploy.tflite_graph import read_graph
from reidlab.files import write_atomic

COPIED = ("reid_kernels.h", "reid_kernels.c", "reid_words.h", "reid_vectors.h", "reid_resize.h", "reid_resize.c")


@dataclass(frozen=True)
class CReport:
    """RAM and flash that the exported C needs, and the lower bound of its arena."""

    folder: Path
    arena_bytes: int
    arena_lower_bound: int
    weight_bytes: int
    table_bytes: int
    macs: int


def export_c(tflite: Path, folder: Path, distance: str = "euclidean", extra_macs: float = 0.1) -> CReport:
    """Write `reid.h`, `reid_model.c`, the kernels, `reid_resize.[ch]` and a README into a folder.

    Raises InputError, naming the operator, for what can't be exported.

    Args:
        tflite: the int8 model.
        folder: to write to.
        distance: that embeddings are compared by, for the README.
        extra_macs: work that may be repeated, as a share of the whole, where that lowers the arena.
    """
    program = compile_program(read_graph(tflite), extra_macs)
    source = _Source(program)
    values = source.values() | {"name": re.sub(r"[^\w. -]", "_", Path(tflite).name), "distance": distance}
    templates = files("reidlab.deploy") / "c"
    folder = Path(folder)
    for name in ("reid.h", "reid_model.c", "README.md"):
        write_atomic(folder / name, Template((templates / name).read_text()).substitute(values))
    for name in COPIED:
        write_atomic(folder / name, (templates / name).read_bytes())
    plan = program.plan
    return CReport(
        folder, plan.arena_bytes, plan.lower_bound, values["weight_bytes"], values["table_bytes"], program.macs
    )


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
        self.rows, self.plan = program.network.rows, program.plan
        self.weights, self.shifts = _Pool("weights", "int8", align=4), _Pool("shifts", "int8")
        self.words = _Pool("words", "int32")
        self.bias_count = 0
        self.parameters: dict[str, str] = {}  # the C definition without its name -> its name
        self.nodes: list[str] = []
        self.table: list[str] = []
        for position, stage in enumerate(program.stages):
            self._stage(position, stage)

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
            "input_scale": f"{self.program.network.input_scale.hex()}f",
            "input_zero": self.program.network.input_zero,
            "height": height, "width": width, "channels": channels, "size": self.program.network.embedding_size,
            "arena_bytes": self.plan.arena_bytes, "weight_bytes": weight_bytes, "table_bytes": table_bytes,
            "arena_kib": f"{self.plan.arena_bytes / 1024:.1f}", "weight_kib": f"{weight_bytes / 1024:.1f}",
            "table_kib": f"{table_bytes / 1024:.1f}", "checksum": checksum,
            "constants": "\n\n".join(pool.text() for pool in pools),
            "parameters": "\n".join(text.replace("@", name, 1) for text, name in self.parameters.items()),
            "stages": "\n".join(
                [*self.nodes, "", "static const reid_stage stages[] = {", *self.table, "};"]
            ),
        }  # fmt: skip

    def _stage(self, position: int, stage: Stage) -> None:
        *rings, scratch = self.plan.work_offsets[position]
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
        named, base = {network.image: "REID_IMAGE", network.output: "REID_OUTPUT"}, network.base(tensor)
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
