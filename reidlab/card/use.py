"""A card's section on how to use the network: about five lines of code for each of its files."""

import json
from collections.abc import Iterator
from pathlib import Path

from reidlab.card.facts import c_constants, c_header, is_initial, is_present
from reidlab.card.parts import Paragraph, Part, Section, Snippet
from reidlab.export.runtime import Embedder, open_model
from reidlab.run import File, Run

IMAGE = 'image = Image.open("a.jpg").convert("RGB").resize(({width}, {height}), Image.Resampling.BILINEAR)'
ONNX = """import numpy as np, onnxruntime
from PIL import Image
{image}
pixels = {pixels}
model = onnxruntime.InferenceSession({file})
{found} = model.run(None, {{{name}: pixels}})[0]  # (1, {size})
"""
TFLITE = """import numpy as np
from ai_edge_litert.interpreter import Interpreter
from PIL import Image
{image}
model = Interpreter({file})
model.allocate_tensors()
model.set_tensor(model.get_input_details()[0]["index"], {pixels})
model.invoke()
{found} = model.get_tensor(model.get_output_details()[0]["index"])  # (1, {size})
"""


def use(run: Run) -> Section:
    """The code, of files that are there and the present checkpoint's; paths are relative to the run folder."""
    snippets: list[Part] = [*_snippets(run)]
    words = [Paragraph(["Run these in the folder of this card; `a.jpg` is an image of yours."])]
    if is_initial(run):
        words.append(
            Paragraph(["Careful: the weights are random, since nothing was trained; train before you use it."])
        )
    return Section("Use it", [*words, *snippets] if snippets else [])


def _snippets(run: Run) -> Iterator[Snippet]:
    found = "scores" if run.is_classifier else "embeddings"
    file = next((file for file in (File.BEST, File.ONNX, File.TFLITE_INT8) if is_usable(run, file)), None)
    if file:
        lines = ["import reidlab", f'model = reidlab.load("{file}")', f'{found} = model(["a.jpg", "b.jpg"])']
        if run.verdict:
            lines.append('print(model.same("a.jpg", "b.jpg"))')
        yield Snippet("Python", "\n".join(lines) + "\n", "python")
    if is_usable(run, File.ONNX):
        yield Snippet("ONNX Runtime", _filled(run, ONNX, File.ONNX, found), "python")
    if is_usable(run, File.TFLITE_INT8):
        yield Snippet("LiteRT", _filled(run, TFLITE, File.TFLITE_INT8, found), "python")
    if is_usable(run, header := c_header(run)):
        name = Path(header).stem
        macro, given = name.upper(), c_constants(run).get("STATIC_ARENA") == "0"
        lines = [
            f'#include "{name}.h"',
            f"static uint8_t image[{macro}_IMAGE_BYTES]; /* RGB, {macro}_IMAGE_HEIGHT x {macro}_IMAGE_WIDTH */",
            *[f"static uint64_t arena[({macro}_ARENA_BYTES + 7) / 8];"] * given,
            f"float {found}[{macro}_EMBEDDING_SIZE];",
            f"if ({name}_init() == 0)",
            f"  {name}_{'run_in(arena, ' if given else 'run('}image, {found});",
        ]
        yield Snippet("C", "\n".join(lines) + "\n", "c")


def is_usable(run: Run, file: str) -> bool:
    """Whether a file is there and the present checkpoint's."""
    return run.has(file) and (file == File.BEST or is_present(run, file))


def _filled(run: Run, lines: str, file: str, found: str) -> str:
    embedder = open_model(run / file)
    height, width = embedder.size_for(run["data.size"])
    return lines.format(
        image=IMAGE.format(height=height, width=width),
        file=json.dumps(str(file)),
        name=json.dumps(embedder.input.name),
        pixels=_pixels(embedder),
        found=found,
        size=embedder.output.shape[-1],
    )


def _pixels(embedder: Embedder) -> str:
    """The expression that makes the file's input (1, H, W, 3) or (1, 3, H, W) of a PIL image."""
    if embedder.input.is_raw or embedder.mean is None or embedder.std is None:
        values = f"np.asarray(image, np.{embedder.input.dtype.name})"
    elif not any(embedder.mean) and set(embedder.std) == {1.0}:
        values = "(np.asarray(image, np.float32) / 255)"
    else:
        values = f"((np.asarray(image) / 255 - {list(embedder.mean)}) / {list(embedder.std)}).astype(np.float32)"
    return f"{values}.transpose(2, 0, 1)[None]" if embedder.channels_first else f"{values}[None]"
