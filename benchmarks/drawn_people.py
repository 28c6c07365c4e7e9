"""What drawn people teach a network that is to know real ones, and which of their traits it is.

    python benchmarks/drawn_people.py --data DIR --out OUT                     # real images in Market-1501's folders
    python benchmarks/drawn_people.py --data DIR --out OUT --arms drawn "one heading"

Each arm draws people in its own way, trains a network on them and scores it on the real validation identities: as it
is, and after some epochs on the other real people of the training split, from its weights. The arm `scratch` has no
drawn people. The test split isn't looked at. What has finished isn't done again. OUT gets drawn.csv, a row an arm and
seed.
"""

import argparse
import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pandas as pd

from reidlab.console import print_table
from reidlab.data.synthetic import camera, dataset, people, sensor
from reidlab.errors import refusing
from reidlab.evaluation import VALIDATION, embed, protocol_of
from reidlab.files import write_atomic
from reidlab.run import File, Run
from reidlab.stages import train

RECIPE = ["experiment=people_in_an_hour", "trainer.max_time=null", "trainer.precision=bf16-mixed", "callbacks=default",
          "data.size=[128,64]", "data.num_workers=0", "logger=none", "run.overwrite=true"]  # fmt: skip
ONE_HEADING = 0.3  # radians, nearly from the front
NEUTRAL = {"cast": np.ones(3), "gamma": 1.0, "saturation": 1.0, "hue": 0.0, "haze": 0.0}


@contextlib.contextmanager
def as_usual() -> Iterator[None]:
    yield


@contextlib.contextmanager
def one_heading() -> Iterator[None]:
    """Everybody walks towards every camera."""

    def place(self: camera.Camera, person: people.Person, foot: tuple, rng: np.random.Generator) -> camera.Placed:
        pose = camera.draw_pose(rng, ONE_HEADING, person.bag, person.bag_on_left)
        return camera.Placed(camera.assemble(person, pose), foot, ONE_HEADING)

    with patch.object(camera.Camera, "_place", place):
        yield


@contextlib.contextmanager
def one_light() -> Iterator[None]:
    """One hour of the day, and cameras that agree on colors."""
    usual = sensor.Sensor.__init__

    def neutral(self: sensor.Sensor, rng: np.random.Generator) -> None:
        usual(self, rng)
        vars(self).update(NEUTRAL)

    with patch.object(sensor.Sensor, "__init__", neutral), patch.object(camera, "HOURS", 1):
        yield


@contextlib.contextmanager
def plain_clothes() -> Iterator[None]:
    """No patterns and no logos."""
    usual = people.draw_wardrobe

    def plain(rng: np.random.Generator) -> tuple[list[people.Garment], ...]:
        return tuple([people.Garment(g.kind, g.color, "plain", g.accent, "none") for g in part] for part in usual(rng))

    with patch.object(people, "draw_wardrobe", plain):
        yield


@contextlib.contextmanager
def nothing_in_the_way() -> Iterator[None]:
    """No pole, car, bush or rail."""
    with patch.object(camera.Camera, "_occlude", lambda *_: None):
        yield


@contextlib.contextmanager
def large_wardrobe() -> Iterator[None]:
    """Hundreds of garments, so that few people share one."""
    with patch.object(people, "NUM_TOPS", 600), patch.object(people, "NUM_BOTTOMS", 300):
        yield


ARMS: dict[str, Callable] = {
    "drawn": as_usual,
    "one heading": one_heading,
    "one light": one_light,
    "plain clothes": plain_clothes,
    "nothing in the way": nothing_in_the_way,
    "large wardrobe": large_wardrobe,
}


def main() -> None:
    options = arguments()
    table = options.out / "drawn.csv"
    rows = pd.read_csv(table).to_dict("records") if table.exists() else []
    for seed in options.seeds:
        for arm in options.arms:
            if not any(row["arm"] == arm and row["seed"] == seed for row in rows):
                rows.append({"arm": arm, "seed": seed} | figures(arm, seed, options))
                write_atomic(table, pd.DataFrame(rows).to_csv(index=False))
    print_table(
        pd.DataFrame(rows).groupby("arm", sort=False).mean(numeric_only=True), "mAP, real validation identities"
    )


def figures(arm: str, seed: int, options: argparse.Namespace) -> dict[str, float]:
    """mAP of the network of an arm, as it is and after each number of epochs on real people."""
    name = f"{arm.replace(' ', '_')}-{seed}"
    given = [*RECIPE, f"run.root={options.out / 'runs'}", f"seed={seed}"]
    start, found = [], {}
    if arm != "scratch":
        drawn = options.out / "people" / name
        dataset._camera.cache_clear()  # of the arm before
        with ARMS[arm]():
            dataset.generate_people(drawn, options.identities + 50, options.identities, num_cameras=6,
                                    images_per_camera=2, size=(128, 64), seed=seed)  # fmt: skip
        pretrained = Run.compose([*given, f"run.name={name}", "data=market1501", f"data.root={drawn}",
                                  "data.val_fraction=0", f"trainer.max_epochs={options.drawn_epochs}"])  # fmt: skip
        train.run(pretrained)
        start = [f"model.weights={pretrained / File.BEST}", "optimizer.lr=1e-2"]
    real = [*given, *start, f"data.root={options.data}", "data.val_fraction=0.2"]
    if start:
        found["0 epochs"] = score(Run.compose([*real, f"run.name={name}-0"]), pretrained)
    for epochs in options.epochs:
        run = Run.compose([*real, f"run.name={name}-{epochs}", f"trainer.max_epochs={epochs}"])
        found[f"{epochs} epochs"] = float(pd.read_csv(train.run(run) / File.HISTORY)["val/mAP"].iloc[-1])
    return {key: round(value, 4) for key, value in found.items()}


def score(run: Run, trained: Run) -> float:
    """mAP of another run's network on a run's validation identities."""
    datamodule = run.datamodule()
    found = embed(trained.network, datamodule, datamodule.validation, "cpu", "validation")
    return protocol_of(run, datamodule).evaluate(found, VALIDATION).summary()["mAP"]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=lambda path: Path(path).absolute(), required=True, help="Market-1501's folders")
    parser.add_argument("--out", type=lambda path: Path(path).absolute(), required=True)
    parser.add_argument("--arms", nargs="+", default=["scratch", *ARMS], choices=["scratch", *ARMS])
    parser.add_argument("--identities", type=int, default=1000, help="drawn, to train on")
    parser.add_argument("--drawn-epochs", type=int, default=8)
    parser.add_argument("--epochs", type=int, nargs="*", default=[3], help="on real people")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    return parser.parse_args()


if __name__ == "__main__":
    with refusing():
        main()
