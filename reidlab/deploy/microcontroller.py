"""Microcontrollers: C99 of an int8 model, its memory by rule, and proof that emulated cores compute the same."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from reidlab.console import log, print_table
from reidlab.data import ImageDataModule
from reidlab.deploy.c_export import CReport, Example, export_c
from reidlab.deploy.cycles import CHIPS, ESTIMATED, milliseconds, time_lines
from reidlab.deploy.dilation import dilated
from reidlab.deploy.emulator import CORES, FirmwareRun, missing_tools, run_firmware
from reidlab.deploy.footprint import op_costs
from reidlab.deploy.lowering import lower
from reidlab.deploy.memory import lifetime_rows, memory_lines, memory_rules
from reidlab.deploy.network import Network
from reidlab.deploy.program import compile_program
from reidlab.deploy.target import Deployable, DeployableFile, Figures, Target
from reidlab.deploy.tflite_graph import read_graph
from reidlab.deploy.thresholds import file_thresholds
from reidlab.errors import InputError, one_line
from reidlab.export.backends import interpreter
from reidlab.export.runtime import Embedder
from reidlab.files import write_atomic, write_json
from reidlab.run import Row


@dataclass(frozen=True)
class C99(Target):
    """C99 of the int8 model, run on emulated cores where the tools for that are installed.

    Args:
        name: of the target.
        model: path of the int8 .tflite.
        extra_macs: see `export_c`.
        cores: names of `CORES`; none writes the C without running it.
        images: how many test images each core embeds.
        timeout_s: of each core's run.
        prefix: of the C's names, see `export_c`.
        arena: static or caller, see `export_c`.
    """

    model: str
    extra_macs: float
    cores: Sequence[str]
    images: int
    timeout_s: float
    prefix: str = "reid"
    arena: str = "static"

    def __post_init__(self) -> None:
        if unknown := [core for core in self.cores if core not in CORES]:
            raise InputError(f"deploy.cores: there is no {unknown[0]}; choose from {', '.join(CORES)}")

    def deploy(self, given: Deployable, out: Path) -> Figures:
        """Write the C and tables of its costs; returns the figures of every core.

        `firmware.json` says what the C was made from, and has the figures, too.

        Raises InputError where a core's embeddings differ from those of the TFLite reference kernels in any bit.
        """
        model, place = given.file(self.model), given.place
        if isinstance(given, DeployableFile):
            given.require_channels_last()
            if not takes_pixels(given.embedder, lower(read_graph(model, place))):
                name = f"{self.prefix.upper()}_INPUT"
                log.warning(
                    f"{model.name}: the bytes of the C's image are not RGB pixels: prepare them as the network's maker "
                    f"says, a byte being round(value / {name}_SCALE) + {name}_ZERO"
                )
        example = example_of(model, place)
        limits, classes = file_thresholds(model, given), given.about_scores(example.embedding[None]).get("classes", ())
        names = self.prefix, self.arena
        report = export_c(model, out, given.distance, self.extra_macs, *names, limits, example, place, classes)
        write_tables(model, out, self.extra_macs, place)
        made_from = given.origin_of(model, self.model)
        write_json(out / "firmware.json", made_from)
        log.info(f"{out}  RAM {report.arena_bytes / 1024:.1f} KiB, weights {report.weight_bytes / 1024:.1f} KiB")
        install = missing_tools()
        if self.cores and install:
            log.warning(f"not run on emulated cores, which needs more tools: {install}")
        if install or not self.cores:
            return {}
        pixels = pixels_of(given.datamodule, self.images)
        expected = reference_embeddings(model, pixels, place)
        figures = {}
        for core in self.cores:
            found = run_firmware(out, pixels, core, self.timeout_s)
            if wrong := int((found.embeddings != expected).any(1).sum()):
                raise InputError(f"{model.name} on {core}: {wrong} of {len(pixels)} embeddings differ from TFLite's")
            caches = CHIPS[ESTIMATED[core][0]].caches
            trace = run_firmware(out, pixels[:1], core, self.timeout_s, caches=caches).trace
            times = milliseconds(trace, core) if trace else {}
            log.info("\n".join(time_lines(times)))
            figures[f"{Row.EMULATED} {core}"] = figures_of(found, report) | {
                f"estimated_ms_{CHIPS[chip].mhz}_mhz{end}": value
                for chip, figure in times.items()
                for end, value in {"": figure.value, "_low": figure.low, "_high": figure.high}.items()
                if value == value
            }
        write_json(out / "firmware.json", made_from | figures)
        shown = {core: pd.Series(of, dtype=object) for core, of in figures.items()}  # counts stay whole
        print_table(pd.DataFrame(shown).rename_axis("figure"), given.name)
        return figures


def takes_pixels(embedder: Embedder, network: Network) -> bool:
    """Whether a file's input codes are the RGB pixels themselves, as the C's camera functions make them."""
    pixels = np.arange(256, dtype=np.uint8)[:, None]
    values = embedder.prepare(np.tile(pixels[:, None, None], (1, 1, 1, 3))).reshape(256, 3)
    if values.dtype == np.float32:
        values = np.rint(values / np.float32(network.input_scale)) + network.input_zero
    elif values.dtype == np.int8:
        values = values.astype(int) + 128
    return embedder.color_order == "RGB" and bool((values == pixels).all())


def example_of(model: Path, place: int | None = None) -> Example:
    """A drawn image, which is nobody's, and the embedding that the reference kernels compute from it."""
    (height, width, channels), random = lower(read_graph(model, place)).image_shape, np.random.default_rng(0)
    blocks = random.integers(16, 240, (-(-height // 8), -(-width // 8), channels))
    image = blocks.repeat(8, 0).repeat(8, 1)[:height, :width] + random.integers(-16, 16, (height, width, channels))
    image = image.astype(np.uint8)
    return Example(image, reference_embeddings(model, image[None], place)[0])


def write_tables(model: Path, out: Path, extra_macs: float, place: int | None = None) -> None:
    """Write `costs.csv` by operator, `memory.csv` by rule, and `lifetimes.csv` of the tensors in the arena."""
    graph = dilated(read_graph(model, place))
    program = compile_program(graph, extra_macs)
    rules = memory_rules(graph, program)
    write_atomic(out / "costs.csv", pd.DataFrame(op_costs(graph)).to_csv(index=False))
    rows = [(rule.rule, rule.peak_bytes, rule.plan.lower_bound, rule.macs) for rule in rules]
    table = pd.DataFrame(rows, columns=["rule", "peak_bytes", "lower_bound_bytes", "macs"])
    write_atomic(out / "memory.csv", table.to_csv(index=False))
    write_atomic(out / "lifetimes.csv", pd.DataFrame(lifetime_rows(program.plan)).to_csv(index=False))
    log.info("\n".join(memory_lines(rules)))


def figures_of(found: FirmwareRun, report: CReport) -> dict[str, float]:
    """The figures of a run whose embeddings all equal the reference; its accuracy is that of the int8 .tflite."""
    return {
        "bit_exact_images": len(found.embeddings),
        "instructions": max(found.instructions),
        "instructions_per_mac": max(found.instructions) / report.macs,
        "flash_bytes": sum(found.flash_bytes.values()),
        "ram_bytes": sum(found.ram_bytes.values()),
        "stack_bytes": found.stack_bytes,
    }


def pixels_of(datamodule: ImageDataModule, images: int) -> np.ndarray:
    """Test images (N, H, W, 3) uint8, evenly from the whole split."""
    table = datamodule.test
    chosen = np.unique(np.linspace(0, len(table) - 1, min(images, len(table))).astype(int))
    batches = [batch["image"].permute(0, 2, 3, 1).numpy() for batch in datamodule.loader(table.iloc[chosen])]
    return np.ascontiguousarray(np.concatenate(batches))


def reference_embeddings(tflite: Path, images: np.ndarray, place: int | None = None) -> np.ndarray:
    """Embeddings (N, D) float32 by the TFLite reference kernels, of images (N, H, W, C) uint8 as the C takes them.

    `place`: of the output that holds them, of several.
    """
    from ai_edge_litert.interpreter import OpResolverType

    runner, _ = interpreter(tflite, experimental_op_resolver_type=OpResolverType.BUILTIN_REF)
    given, output = runner.get_input_details()[0], runner.get_output_details()[place or 0]
    network = lower(read_graph(tflite, place)) if given["dtype"] == np.float32 else None
    rows = []
    for image in images:
        if network:
            image = np.float32(network.input_scale) * (image.astype(np.float32) - network.input_zero)
        elif given["dtype"] == np.int8:
            image = (image ^ np.uint8(128)).view(np.int8)
        try:
            runner.set_tensor(given["index"], image.reshape(given["shape"]))
            runner.invoke()
        except (ValueError, RuntimeError) as error:
            raise InputError(f"{tflite}: LiteRT fails on an image {image.shape} ({one_line(error)})") from error
        rows.append(runner.get_tensor(output["index"]).reshape(-1))
    codes = np.stack(rows)
    scale, zero_point = output["quantization"]
    return codes if codes.dtype == np.float32 else np.float32(scale) * (codes.astype(np.float32) - zero_point)
