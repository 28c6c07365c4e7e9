"""The tour of the README, docs/tour.webp: `python benchmarks/tour.py` runs all stages, shows what they print and draw.

Needs no network and no screen. A run that is there goes on: `python benchmarks/tour.py run.name=demo experiment=demo`.
"""

import argparse
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path

import matplotlib
from PIL import Image, ImageDraw, ImageFont

from reidlab.places import root
from reidlab.run import File, Row, Run

SIZE, MARGIN, SECONDS = (1000, 620), 24, 7.5  # of a scene
PAPER, INK, ACCENT = "#101318", "#e8eaee", "#66d391"
COLUMNS, AS_IT_IS = 121, {"drop_whitespace": False, "break_on_hyphens": False}
FONT = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSansMono.ttf"
PICTURES = {  # stage -> what it drew, and what that is
    "data": (f"{File.DATA}/identities.png", "People, drawn: a row each, four cameras that shift their colors"),
    "train": (File.CURVES, "Trained to the best epoch on people set aside"),
    "evaluate": (f"{File.EVALUATE}/{Row.CHECKPOINT}/worst.png", "The worst test queries: green is right, red wrong"),
    "quantize": (f"{File.QUANTIZE}/sensitivity.png", "What each layer alone costs in int8"),
    "deploy": (f"{File.DEPLOY}/choice.png", "Accuracy against time, on chips and on this CPU"),
}  # fmt: skip
TITLE = """
reidlab

From image crops to a verified re-identification model
on an edge device, in notebooks.

Seven stages, one folder a run, one honest table on a card:

   data  →  train  →  evaluate  →  export  →  quantize  →  deploy  →  report
"""
END = """
make demo     all of this at full size, in minutes on two cores
make lab      thirteen notebooks, each under a minute

Your own crops, a folder for each identity:

   reidlab run --all data=folders data.root=DIR
"""


def scenes(words: Sequence[str], run: Run, printed: str) -> Iterator[Image.Image]:
    """The title, each stage's command, last lines and picture, the table of all forms, and how to go on."""
    yield text(TITLE, size=20)
    sections = re.split(r"^== (\w+)$", printed, flags=re.MULTILINE)
    for stage, lines in zip(sections[1::2], sections[2::2], strict=True):
        body, _, closing = lines.partition(f"{run.name}: test split")
        body = epochs(run) if stage == "train" else body  # which a run that was trained before doesn't print
        if body.strip().count("\n") > 1:
            yield text(f"$ reidlab {stage} {' '.join(words)}\n\n{body.strip()}")
        picture, caption = PICTURES.get(stage, ("", ""))
        if run.has(picture) and picture:
            yield paste(run / picture, caption)
        if closing:
            yield text(f"$ reidlab run --all {' '.join(words)}\n\n{run.name}: test split{closing}")
    yield text(END, size=20)


def epochs(run: Run) -> str:
    """The lines of a training, from its history."""
    history, shown = run.table_of(File.HISTORY), ("train/loss", f"val/{run.figures[0]}")
    lines = [
        f"epoch {row['epoch']:.0f}/{len(history)}  " + "  ".join(f"{name} {row[name]:.3f}" for name in shown)
        for _, row in history.iterrows()
    ]
    return "\n".join(lines)


def text(content: str, size: int = 13) -> Image.Image:
    """The last lines of a text that fit, in a terminal's font."""
    scene, font = Image.new("RGB", SIZE, PAPER), ImageFont.truetype(str(FONT), size)
    step = round(1.32 * size)
    first, *lines = (part for line in content.splitlines() for part in textwrap.wrap(line, COLUMNS, **AS_IT_IS) or [""])
    room = (SIZE[1] - 2 * MARGIN) // step - 1
    shown = [first, *lines[-room:]]
    draw = ImageDraw.Draw(scene)
    for number, line in enumerate(shown):
        draw.text((MARGIN, MARGIN + number * step), line, INK if number else ACCENT, font)
    return scene


def paste(file: Path, caption: str) -> Image.Image:
    """A picture on white paper with a line above it."""
    scene = Image.new("RGB", SIZE, "white")
    ImageDraw.Draw(scene).text((MARGIN, MARGIN), caption, "#16181d", ImageFont.truetype(str(FONT), 16))
    picture = Image.open(file).convert("RGBA")
    room = SIZE[0] - 2 * MARGIN, SIZE[1] - 3 * MARGIN - 16
    picture.thumbnail(room, Image.Resampling.LANCZOS)
    scene.paste(picture, ((SIZE[0] - picture.width) // 2, 2 * MARGIN + 16), picture)
    return scene


def main() -> None:
    """Run, draw, and write the animation."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("docs/tour.webp"))
    parser.add_argument("overrides", nargs="*", default=["experiment=smoke"])
    args = parser.parse_args()
    command = [sys.executable, "-m", "reidlab.cli", "run", "--all", "quantize.sensitivity=true", *args.overrides]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    shown = [word for word in args.overrides if ".root=" not in word]
    run = Run.resume(args.overrides)
    frames = list(scenes(shown, run, done.stdout.replace(f"{run.folder.parent}/", "runs/").replace(f"{root()}/", "")))
    duration = round(1000 * SECONDS)
    frames[0].save(args.out, save_all=True, append_images=frames[1:], duration=duration, loop=0, quality=70, method=6)
    print(f"{args.out}: {len(frames)} scenes, {len(frames) * SECONDS:.0f} s, {args.out.stat().st_size / 1000:,.0f} kB")


if __name__ == "__main__":
    main()
