"""Networks beside chips, to choose from: python benchmarks/choosing.py [--emulate [NETWORK ...]]

Builds each network with random weights, writes its int8 .tflite, and puts what is published for it beside what is
estimated for the boards and, with --emulate (needs the tools of `reidlab deploy deploy=c`, takes minutes), what its C
takes on an emulated Cortex-M7. Writes data/choosing.csv and the tables of docs/choosing.md. Memory, instructions and
latency don't depend on what the weights are; accuracy does: it is what others have published, and the mean of what
benchmarks/classifiers.py measured.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from stm32_networks import int8_file

from reidlab.card import published
from reidlab.config import CLONE, compose, instantiate
from reidlab.deploy import export_c, parse_graph, run_firmware
from reidlab.deploy.boards import BOARDS
from reidlab.deploy.cycles import CHIPS, milliseconds
from reidlab.deploy.estimate import estimate
from reidlab.deploy.features import features
from reidlab.errors import InputError, refusing
from reidlab.files import write_atomic
from reidlab.models import Confidences

TABLE, PAGE = CLONE / "data" / "choosing.csv", CLONE / "docs" / "choosing.md"
FLOWERS = CLONE / "data" / "flowers_results.csv"
CORE, CHIP = "Cortex-M7", "STM32H747"
NETWORKS = [  # name, data set, height, width, classes
    *[(f"osnet_x{width}", "deepsportradar", 256, 128, 0) for width in ("0_25", "0_5", "0_75", "1_0")],
    *[(f"mobilenetv2_x{width}", "deepsportradar", 256, 128, 0) for width in ("0_35", "1_0")],
    ("osnet_x0_25", "deepsportradar", 128, 64, 0),
    *[(name, "flowers", s, s, 5) for s in (128, 224) for name in ("fdmobilenet_x0_25", "st_fdmobilenet_v1")],
]
ACCURACY = {"deepsportradar": "mAP", "flowers": "top-1"}
SHOWN = {  # board -> the head of its column
    "STM32H747I-DISCO": "H747, 400 MHz",
    "STM32N6570-DK": "N6570 NPU",
    "STM32MP135F-DK2": "MP135, 1 GHz",
    "STM32MP257F-DK2": "MP257 NPU",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    said = "run the C of these networks, or of all; of others, what was measured before stays"
    parser.add_argument("--emulate", nargs="*", metavar="NETWORK", help=said)
    args = parser.parse_args()
    before = pd.read_csv(TABLE) if TABLE.exists() else pd.DataFrame(columns=["network", "data", "input", "target"])
    rows = []
    for network in NETWORKS:
        content, key = tflite_of(*network)
        found = features(parse_graph(content))
        rows += [key | {"macs": found.macs} | row for row in on_boards(content, found, network)]
        wanted = args.emulate is not None and (not args.emulate or key["network"] in args.emulate)
        measured = on_core(content) if wanted else kept(before, key)
        rows.append(key | {"macs": found.macs, "target": CORE} | measured)
        print(key["network"], key["input"], measured, flush=True)
    table = pd.DataFrame(rows)
    write_atomic(TABLE, table.to_csv(index=False))
    write_atomic(PAGE, with_tables(PAGE.read_text(), table))


def tflite_of(name: str, data: str, height: int, width: int, classes: int) -> tuple[bytes, dict]:
    """The int8 file of a network as it is deployed, with random weights, and what names its rows.

    OSNet without its last layer of 512, as ST ships it; classifiers with their classes.
    """
    torch.manual_seed(0)
    given = [] if classes else ["model.network.feat_dim=null"]
    network = instantiate(compose([f"model={name}", *given]).model.network, num_classes=classes)
    content = int8_file(Confidences(network) if classes else network, (height, width))
    return content, {"network": name, "data": data, "input": f"{height}x{width}"}


def on_boards(content: bytes, found, network: tuple) -> list[dict]:
    """A row for each board: published and estimated."""
    name, data, height, width, _ = network
    theirs = published.stm32(name, data, (height, width))
    theirs = theirs[theirs["resolution"] == f"{height}x{width}x3"].set_index("board")
    scores = published.accuracy(data, name)
    same = (scores["network"] == name) & (scores["format"] == "int8") & (scores["resolution"] == f"{height}x{width}")
    accuracy = {"published_accuracy": scores.loc[same, ACCURACY[data]].max()}
    if data == "flowers":
        own = pd.read_csv(FLOWERS).query("network == @name and side == @width and chosen_on != 'test'")
        accuracy["measured_accuracy"] = own["int8"].mean()
    graph, rows = parse_graph(content), []
    for board in BOARDS:
        row = accuracy | {"target": board}
        if board in theirs.index:
            columns = {"total_ram_kib": "ram_kib", "total_flash_kib": "flash_kib", "weights_flash_kib": "weights_kib"}
            columns |= {"inference_ms": "latency_ms", "tool": "tool"}
            row |= {f"published_{new}": theirs.loc[board, old] for old, new in columns.items()}
        try:
            guess = estimate(graph, found, board)
        except InputError:
            continue
        row |= {"estimated_for": guess.tool, "outside": "; ".join(guess.outside)}
        for quantity, figure in guess.figures.items():
            row |= {f"estimated_{quantity}": round(figure.value, 2), f"estimated_{quantity}_low": round(figure.low, 2),
                    f"estimated_{quantity}_high": round(figure.high, 2)}  # fmt: skip
        rows.append(row)
    return rows


def on_core(content: bytes) -> dict[str, float]:
    """What the C of a file takes on the emulated core; one image, since no other takes more."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        (folder / "model_int8.tflite").write_bytes(content)
        export_c(folder / "model_int8.tflite", folder / "c")
        graph = parse_graph(content)
        image = np.random.default_rng(0).integers(0, 256, (1, *graph.tensors[graph.inputs[0]].shape[1:]), np.uint8)
        run = run_firmware(folder / "c", image, "m7")
        trace = run_firmware(folder / "c", image, "m7", caches=CHIPS[CHIP].caches).trace
    assert trace
    time = milliseconds(trace, "m7")[CHIP]
    return {
        "measured_ram_kib": round(sum(run.ram_bytes.values()) / 1024, 1),
        "measured_flash_kib": round(sum(run.flash_bytes.values()) / 1024, 1),
        "measured_m_instructions": round(max(run.instructions) / 1e6, 1),
        "estimated_latency_ms": round(time.value, 1),
        "estimated_latency_ms_low": round(time.low, 1),
        "estimated_latency_ms_high": round(time.high, 1),
    }


def kept(before: pd.DataFrame, key: dict) -> dict[str, float]:
    """What an earlier run of this command measured on the core."""
    same = (before[list(key)] == pd.Series(key)).all(axis=1) & (before["target"] == CORE)
    rows = before.loc[same, [name for name in before if name.startswith(("measured_", "estimated_latency_ms"))]]
    return rows.iloc[0].to_dict() if len(rows) else {}


def with_tables(page: str, table: pd.DataFrame) -> str:
    """The page with its tables made anew; they stand between comments that name them."""
    for name, lines in {"memory": memory(table), "latency": latency(table)}.items():
        begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
        head, _, rest = page.partition(begin)
        page = head + begin + "\n".join(lines) + "\n" + end + rest.partition(end)[2]
    return page


def memory(table: pd.DataFrame) -> list[str]:
    """A row for each network: accuracy, work, and memory on a microcontroller."""
    known = ("*published*", "*estimated*", "*measured* as C")
    heads = [f"{what}, {how}" for what in ("RAM", "flash") for how in known]
    scores = "accuracy, *published* | *measured*"
    lines = [f"| network | input | {scores} | MACs | {' | '.join(heads)} |", "|---" * 11 + "|"]
    for (name, data, size), rows in table.groupby(["network", "data", "input"], sort=False):
        board = rows[rows["target"] == "STM32H747I-DISCO"].iloc[0]
        core = rows[rows["target"] == CORE].iloc[0]
        flash = board["published_flash_kib"] if board["published_flash_kib"] == board["published_flash_kib"] else None
        theirs = cell(flash) if flash else cell(board["published_weights_kib"], "{:,.0f} (weights)")
        score = cell(board["published_accuracy"], f"{ACCURACY[data]} {{:.3f}}")
        own = cell(board["measured_accuracy"], "{:.3f}")
        lines.append(
            f"| {name} | {size} | {score} | {own} | {board['macs'] / 1e6:.1f} M | {cell(board['published_ram_kib'])} | "
            f"{guess(board, 'ram_kib')} | {cell(core.get('measured_ram_kib'))} | {theirs} | "
            f"{guess(board, 'flash_kib')} | {cell(core.get('measured_flash_kib'))} |"
        )
    return lines


def latency(table: pd.DataFrame) -> list[str]:
    """A row for each network: milliseconds by board, and instructions and milliseconds of the C."""
    heads = " | ".join(f"{words}, *published* | *estimated*" for words in SHOWN.values())
    lines = [f"| network | input | {heads} | M instructions as C, *measured* | H747 as C, *estimated* |"]
    lines.append("|---" * (2 * len(SHOWN) + 4) + "|")
    for (name, _, size), rows in table.groupby(["network", "data", "input"], sort=False):
        rows = rows.set_index("target")
        cells = [
            text
            for board in SHOWN
            for text in (
                cell(rows.loc[board, "published_latency_ms"]),
                guess(rows.loc[board], "latency_ms"),
            )
        ]
        measured = cell(rows.loc[CORE].get("measured_m_instructions"))
        time, low, high = (cell(rows.loc[CORE].get(f"estimated_latency_ms{end}")) for end in ("", "_low", "_high"))
        lines.append(f"| {name} | {size} | {' | '.join(cells)} | {measured} | {time} ({low} to {high}) |")
    return lines


def guess(row: pd.Series, quantity: str, form: str = "") -> str:
    """An estimate; with a question mark where nothing like the network was published for the board."""
    value, low = row.get(f"estimated_{quantity}"), row.get(f"estimated_{quantity}_low")
    return cell(value, form) + ("" if value is None or value != value or low == low else " ?")


def cell(value: float | None, form: str = "") -> str:
    """A figure, or a dash where there is none; without a form, three digits or all before the point."""
    if value is None or value != value:
        return "–"
    return form.format(value) if form else f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


if __name__ == "__main__":
    with refusing():
        main()
