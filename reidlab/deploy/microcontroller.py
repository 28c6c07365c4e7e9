"""Stage `deploy` with `deploy=c`: C99 of a run's int8 model, its memory by rule, and the same figures from a core."""

from pathlib import Path

import numpy as np
import pandas as pd
import torch

from reidlab.config import instantiate, run_folder
from reidlab.console import print_table
from reidlab.data import ClassDataModule, ReidDataModule
from reidlab.deploy.c_export import CReport, export_c
from reidlab.deploy.emulator import FirmwareRun, missing_tools, run_firmware
from reidlab.deploy.footprint import op_costs
from reidlab.deploy.memory import lifetime_rows, memory_lines, memory_rules
from reidlab.deploy.program import compile_program
from reidlab.deploy.tflite_graph import read_tflite
from reidlab.errors import InputError
from reidlab.evaluation.embeddings import Embeddings
from reidlab.export.calibration import choose_images
from reidlab.export.parity import ClassScore, Score, score_of
from reidlab.files import record_metrics, write_atomic, write_json

KIB = 1024
FIGURES = ("mAP", "rank-1", "num_query", "num_gallery", "top-1", "num_images")


def run(cfg) -> Path:
    """Write `deploy/c/` of the run: the C, tables of costs and memory, and what emulated cores made of test images.

    Every core's embeddings must equal those of the TFLite reference kernels, bit for bit, or InputError says how many
    differ. Without the tools for it the emulation is left out, and what to install is printed.
    """
    options, folder = cfg.deploy, run_folder(cfg)
    model = folder / options.model
    if not model.is_file():
        raise InputError(f"{model}: no int8 model; run `reidlab quantize` first, or set deploy.model")
    out = folder / "deploy" / "c"
    report = export_c(model, out, cfg.model.distance, options.extra_macs)
    _write_tables(model, out, options.extra_macs)
    print(f"{out}  RAM {report.arena_bytes / KIB:.1f} KiB, weights {report.weight_bytes / KIB:.1f} KiB")
    install = missing_tools()
    if options.cores and install:
        print(f"not run on emulated cores, which needs more tools: {install}")
    elif options.cores:
        _prove(cfg, model, out, report)
    return out


def _write_tables(model: Path, out: Path, extra_macs: float) -> None:
    """`costs.csv` by operator, `memory.csv` by rule, `lifetimes.csv` of the arena."""
    graph = read_tflite(model)
    program = compile_program(graph, extra_macs)
    rules = memory_rules(graph, program)
    write_atomic(out / "costs.csv", pd.DataFrame(op_costs(graph)).to_csv(index=False))
    rows = [(rule.rule, rule.peak_bytes, rule.plan.lower_bound, rule.macs) for rule in rules]
    table = pd.DataFrame(rows, columns=["rule", "peak_bytes", "lower_bound_bytes", "macs"])
    write_atomic(out / "memory.csv", table.to_csv(index=False))
    write_atomic(out / "lifetimes.csv", pd.DataFrame(lifetime_rows(program.plan)).to_csv(index=False))
    print("\n".join(memory_lines(rules)))


def _prove(cfg, model: Path, out: Path, report: CReport) -> None:
    """Run test images on each core, compare, and record the figures."""
    datamodule = instantiate(cfg.data)
    table = tested_images(datamodule, cfg.deploy.images)
    pixels = _pixels(datamodule, table)
    expected = reference_embeddings(model.read_bytes(), pixels)
    rows = {}
    for core in cfg.deploy.cores:
        found = run_firmware(out, pixels, core, cfg.deploy.timeout_s)
        different = int((found.embeddings != expected).any(1).sum())
        if different:
            raise InputError(f"{model.name} on {core}: {different} of {len(pixels)} embeddings differ from TFLite's")
        rows[f"emulated {core}"] = _figures(score_of(cfg, datamodule), found, table, report)
    folder = run_folder(cfg)
    record_metrics(folder, rows)
    write_json(out / "firmware.json", rows)
    print_table(pd.DataFrame(rows).T.rename_axis("core"), folder.name)


def _figures(score: Score | ClassScore, found: FirmwareRun, table: pd.DataFrame, report: CReport) -> dict[str, float]:
    summary = score.summary(Embeddings(torch.from_numpy(found.embeddings), table))
    return {
        **{name: summary[name] for name in FIGURES if name in summary},
        "bit_exact_images": len(table),
        "instructions": max(found.instructions),
        "instructions_per_mac": max(found.instructions) / report.macs,
        "flash_bytes": sum(found.flash_bytes.values()),
        "ram_bytes": sum(found.ram_bytes.values()),
        "stack_bytes": found.stack_bytes,
    }


def tested_images(datamodule: ReidDataModule, images: int) -> pd.DataFrame:
    """Test images that a core is given: whole identities, or all classes evenly."""
    table = datamodule.samples.split(*datamodule.test_splits)
    if isinstance(datamodule, ClassDataModule):
        return choose_images(table, images, seed=0).reset_index(drop=True)
    return whole_identities(table, images)


def whole_identities(table: pd.DataFrame, images: int) -> pd.DataFrame:
    """The first identities that are both queries and in the gallery, with all their images, up to a number of images.

    The first identity is kept whatever its size.
    """
    both = set(table.loc[table["split"] == "query", "pid"]) & set(table.loc[table["split"] == "gallery", "pid"])
    counts = table[table["pid"].isin(both)].groupby("pid").size().cumsum()
    chosen = counts.index[(counts <= images) | (np.arange(len(counts)) == 0)]
    if not len(chosen):
        raise InputError("no identity is both among the queries and in the gallery; see what `reidlab data` finds")
    return table[table["pid"].isin(chosen)].reset_index(drop=True)


def _pixels(datamodule: ReidDataModule, table: pd.DataFrame) -> np.ndarray:
    batches = [batch["image"].permute(0, 2, 3, 1).numpy() for batch in datamodule.loader(table)]
    return np.ascontiguousarray(np.concatenate(batches))


def reference_embeddings(tflite: bytes, images: np.ndarray) -> np.ndarray:
    """Embeddings (N, D) of images (N, H, W, 3) uint8 by the TFLite reference kernels, codes turned into reals."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    interpreter = Interpreter(model_content=tflite, experimental_op_resolver_type=OpResolverType.BUILTIN_REF)
    interpreter.allocate_tensors()
    given, output = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    rows = []
    for image in images:
        signed = (image ^ np.uint8(128)).view(np.int8)
        interpreter.set_tensor(given["index"], (image if given["dtype"] == np.uint8 else signed)[None])
        interpreter.invoke()
        rows.append(interpreter.get_tensor(output["index"]).reshape(-1))
    codes = np.stack(rows)
    scale, zero_point = output["quantization"]
    return codes if codes.dtype == np.float32 else np.float32(scale) * (codes.astype(np.float32) - zero_point)
