"""What several enrolled images of an identity are worth: nearest image, mean or medoid, on a run's test people.

    python benchmarks/templates.py RUN                     # a run that was evaluated
    python benchmarks/templates.py RUN --images 1 2 4 8 --json templates.json

Half of the test identities are enrolled, with images of half of the cameras; images of all test identities by the other
cameras are identified. Of the enrolled: *first* is the share whose nearest identity is right, *found* the share whose
nearest identity is right and within the run's threshold. Of the others: *mistaken* is the share that somebody is found
for. *found at 1 %* is the share found by the threshold at which 1 % of the others are mistaken, which no user knows.
Means over random halves; +- is their standard deviation.
"""

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

from reidlab.errors import refusing
from reidlab.evaluation import Outputs, embed
from reidlab.export.model import Model
from reidlab.gallery import Gallery
from reidlab.run import Run


def main() -> None:
    options = arguments()
    run = Run(options.run)
    datamodule = run.datamodule()
    outputs = embed(run.network, datamodule, datamodule.test, run.device, "test")
    outputs = outputs.rows(outputs.table["pid"] > 0)
    rows = [
        {"images": images, "template": template, **measure(Model.of(run), outputs, template, images, half)}
        for images in options.images
        for template in ("best", "mean", "medoid")
        for half in range(options.halves)
    ]
    figures = pd.DataFrame(rows).groupby(["images", "template"]).agg(["mean", "std"])
    print(figures.to_string(float_format="{:.3f}".format))
    if options.json:
        flat = figures.set_axis([" ".join(names) for names in figures.columns], axis=1).reset_index()
        options.json.write_text(json.dumps(flat.to_dict("records"), indent=2) + "\n")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="its name, or its folder")
    parser.add_argument("--images", type=int, nargs="+", default=[1, 3, 10], help="enrolled of each identity, at most")
    parser.add_argument("--halves", type=int, default=20)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures here")
    return parser.parse_args()


def measure(model: Model, outputs: Outputs, template: str, images: int, half: int) -> dict[str, float]:
    """The shares for one random half of identities and one of cameras."""
    draw = np.random.default_rng(half)
    pids, cameras = (draw.permutation(np.unique(outputs.table[name])) for name in ("pid", "camid"))
    known = outputs.table["pid"].isin(pids[: len(pids) // 2]).to_numpy()
    inside = outputs.table["camid"].isin(cameras[: len(cameras) // 2]).to_numpy()
    enrolled = outputs.table[known & inside].sample(frac=1, random_state=half).groupby("pid").head(images)
    place = outputs.table.index.get_indexer(enrolled.index)
    embeddings = outputs.values.numpy()
    with tempfile.TemporaryDirectory() as folder:
        gallery = Gallery.open(folder, model, template=template)  # type: ignore[arg-type]
        gallery.enroll_embeddings(embeddings[place], enrolled["pid"].tolist())
        answers = gallery.identify_embeddings(embeddings[~inside], k=1)
    shown, is_known = outputs.table["pid"].astype(str).to_numpy()[~inside], known[~inside]
    first = np.array([answer.candidates[0].pid for answer in answers]) == shown
    distance = np.array([answer.distance for answer in answers])
    accepted, strict = distance <= answers[0].threshold, distance <= np.quantile(distance[~is_known], 0.01)
    return {
        "first": first[is_known].mean(),
        "found": (first & accepted)[is_known].mean(),
        "mistaken": accepted[~is_known].mean(),
        "found at 1 %": (first & strict)[is_known].mean(),
    }


if __name__ == "__main__":
    with refusing():
        main()
