"""Backbones to start from: small classifiers' trained on nine tenths of Tiny ImageNet, OSNet's on drawn people.

    python benchmarks/pretrained.py --keep data/models data.root=TINY_IMAGENET   # an hour on a CPU
    python benchmarks/pretrained.py --keep data/models --networks osnet_x0_25 trainer.precision=bf16-mixed  # 15 minutes

Scored on the rest of Tiny ImageNet and on other drawn people. Runs are kept in `runs/`, and the same command goes on
where it was stopped. `--keep` copies the weights to a folder, in float16.
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
PEOPLE = "osnet_x0_25"
CARD_OF_PEOPLE = """# {name}

A backbone for the first minutes on real people: {network}, at 128 x 64 pixels.

mAP {mAP:.3f} on {queries:.0f} queries of drawn people that it did not see; trained on {classes} others for {epochs}
epochs, seed 0. What it is worth on real people: docs/accuracy.md. Weights in float16. No photograph was used.

    reidlab train experiment=people_in_an_hour data.root=people model.weights=data/models/{name}/checkpoints/best.ckpt

Made by `python benchmarks/pretrained.py --networks {network} --keep data/models trainer.precision=bf16-mixed`.
"""


def main(argv: list[str] | None = None) -> int:
    """Train and score what isn't yet; keep it where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", default=NETWORKS, choices=[*NETWORKS, PEOPLE])
    parser.add_argument("--keep", type=Path, help="copy the weights to this folder")
    parser.add_argument("overrides", nargs="*", help="Hydra overrides of all runs")
    args = parser.parse_args(argv)
    try:
        for network in args.networks:
            run = Run.compose([f"experiment=pretrained_{network}", "logger=csv", *args.overrides])
            figures = evaluate.run(train.run(run)).results[Row.CHECKPOINT].figures
            if args.keep:
                trained = run.training
                said = {
                    "name": run.name,
                    "network": network,
                    "epochs": trained["epochs"],
                    "classes": trained["num_identities"],
                }
                if network == PEOPLE:
                    card = CARD_OF_PEOPLE.format(mAP=figures["mAP"], queries=figures["num_query"], **said)
                else:
                    card = CARD.format(top1=figures["top-1"], images=figures["num_images"], **said)
                keep(run, args.keep / run.name, [Row.CHECKPOINT], card, half=True)
    except InputError as error:
        print(f"pretrained: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
