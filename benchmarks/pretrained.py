"""Backbones that small classifiers start from: trained on nine tenths of Tiny ImageNet, scored on the rest.

    python benchmarks/pretrained.py --keep data/models data.root=TINY_IMAGENET   # an hour on a CPU

Runs are kept in `runs/`, and the same command goes on where it was stopped. `--keep` copies the weights to a folder, in
float16.
"""

import argparse
import sys
from pathlib import Path

from classifiers import NETWORKS
from kept import keep

from reidlab.errors import InputError
from reidlab.run import Row, Run
from reidlab.stages import evaluate, train

CARD = """# {name}

A backbone to start from where there are few pictures: {network}, at 128 x 128 pixels.

Top-1 accuracy {top1:.1%} on {images:.0f} training photographs of Tiny ImageNet ({classes} classes) that it did not see.
Trained on the others for {epochs} epochs, seed 0, distilled from EfficientNet-Lite0. Weights in float16. ImageNet's
photographs are for research: read its terms before you sell what learned from them.

    reidlab train data=class_folders data.root=pictures model={network} model.network.depthwise=linear_bn \\
        optimizer=muon model.weights=data/models/{name}/checkpoints/best.ckpt

Made by `python benchmarks/pretrained.py --networks {network} --keep data/models data.root=TINY_IMAGENET`.
"""


def main(argv: list[str] | None = None) -> int:
    """Train and score what isn't yet; keep it where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", default=NETWORKS, choices=NETWORKS)
    parser.add_argument("--keep", type=Path, help="copy the weights to this folder")
    parser.add_argument("overrides", nargs="*", help="Hydra overrides of all runs")
    args = parser.parse_args(argv)
    try:
        for network in args.networks:
            run = Run.compose([f"experiment=pretrained_{network}", "logger=csv", *args.overrides])
            figures = evaluate.run(train.run(run)).results[Row.CHECKPOINT].figures
            if args.keep:
                trained = run.training
                card = CARD.format(name=run.name, network=network, top1=figures["top-1"], epochs=trained["epochs"],
                                   images=figures["num_images"], classes=trained["num_identities"])  # fmt: skip
                keep(run, args.keep / run.name, [Row.CHECKPOINT], card, half=True)
    except InputError as error:
        print(f"pretrained: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
