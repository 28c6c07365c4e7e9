"""mAP on identities outside of training, by minutes of training; beside torchreid's on the same images.

    python benchmarks/time_to_accuracy.py --data DIR --out OUT                        # images in Market-1501's folders
    python benchmarks/time_to_accuracy.py --data DIR --out OUT --torchreid DIR2 --vision DIR3 --seeds 0 1 2
    python benchmarks/time_to_accuracy.py --data DIR --out OUT --own "quick=augment=zoom optimizer=muon"

The arms are trained in turns, one seed of each after the other, on the same images, with the same size, batch and
threads; one evaluation, reidlab's, scores all networks. Minutes are those of training alone, of the processor with one
thread, which other work on the machine changes little, and of the clock with more.

    python benchmarks/time_to_accuracy.py --data DIR --out OUT --minutes 60 --every 10

gives each arm so many such minutes in the place of epochs; torchreid's, as many epochs as a first one that is thrown
away says. An arm and seed that has finished
isn't trained again, so that a stopped run goes on. OUT gets curves.csv, table.md and curves.png.

torchreid trains by its softmax engine (Adam (0.9, 0.99) at 1.5e-3, a cosine by epochs, flip, crop and erase), and by
its triplet engine as its documentation has it: 4 images an identity, both losses, Adam at 3e-4, down to a tenth after
each third of the epochs. The arm `parity` says the former in reidlab's words, and `hour` is the recipe for one's own
people. For torchreid's two folders see benchmarks/training.py.
"""

import argparse
import contextlib
import copy
import io
import shlex
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import pytorch_lightning as pl
import torch
from torch import nn
from training import torchreid_library

from reidlab.errors import refusing
from reidlab.evaluation import evaluate, protocol_of
from reidlab.files import write_atomic
from reidlab.plots.saving import save_figure
from reidlab.run import Run
from reidlab.stages import train
from reidlab.training import callbacks

PARITY = (
    "loss=softmax optimizer=adam +optimizer.betas=[0.9,0.99] optimizer.lr=1.5e-3 data.num_instances=null augment=zoom "
    "schedule=warmup_cosine schedule.warmup_epochs=0 schedule.final_factor=0"
)
HOUR = "experiment=people_in_an_hour"
BATCH = 64
ENGINES = {"torchreid": False, "torchreid-triplet": True}  # whether by triplets
# Of an epoch, the seconds of training until its end, the network, and whether it was the last
Score = Callable[[int, float, nn.Module, bool], None]


class Curve:
    """Figures on the test split, a row for each epoch that is looked at: every so many, and the last."""

    def __init__(self, run: Run, every: int):
        self.datamodule, self.every = run.datamodule(), every
        self.protocol = protocol_of(run, self.datamodule)
        self.rows: list[dict[str, float]] = []

    def __call__(self, epoch: int, seconds: float, network: nn.Module, last: bool) -> None:
        if (last or epoch % self.every == 0) and (not self.rows or self.rows[-1]["epoch"] < epoch):
            found = evaluate(copy.deepcopy(network).eval(), self.datamodule, self.protocol).summary()
            figures = {key: round(found[key], 4) for key in ("mAP", "rank-1")}
            self.rows.append({"epoch": epoch, "minutes": round(seconds / 60, 2)} | figures)
            print(self.rows[-1], flush=True)


def now() -> float:
    """Seconds, of the processor or of the clock."""
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


class Clock(pl.Callback):
    """Scores the network after each epoch, and leaves that out of the time, also out of that which a training has."""

    def __init__(self, score: Score):
        self.score, self.seconds, self.scoring = score, 0.0, 0.0
        callbacks.monotonic = lambda: now() - self.scoring

    def on_train_epoch_start(self, trainer: pl.Trainer, task: pl.LightningModule) -> None:
        self.begin = now()

    def on_train_epoch_end(self, trainer: pl.Trainer, task: train.Task) -> None:
        end = now()
        self.seconds += end - self.begin
        self.epoch = trainer.current_epoch + 1
        self.score(self.epoch, self.seconds, task.network, False)
        self.scoring += now() - end

    def on_train_end(self, trainer: pl.Trainer, task: train.Task) -> None:
        self.score(self.epoch, self.seconds, task.network, True)


def ours(run: Run, score: Score) -> None:
    train.run(run, [Clock(score)])


def theirs(library, run: Run, score: Score, triplet: bool) -> None:
    """Train by an engine of torchreid, on a run's training images; its network's tensors have the names of ours."""
    torch.manual_seed(run["seed"])
    library.utils.set_random_seed(run["seed"])
    datamodule = run.datamodule()
    table = datamodule.samples.split("train")
    files = [str(datamodule.samples.root / path) for path in table["path"]]
    rows = list(zip(files, pd.factorize(table["pid"])[0].tolist(), table["camid"].tolist(), strict=True))

    class Images(library.data.ImageDataset):
        def __init__(self, **options):
            super().__init__(rows, rows[:1], rows[:1], **options)

    name = run.name
    library.data.register_image_dataset(name, Images)
    height, width = run["data.size"]
    with contextlib.redirect_stdout(io.StringIO()):
        manager = library.data.ImageDataManager(
            sources=name, height=height, width=width, batch_size_train=BATCH, workers=run["data.num_workers"],
            use_gpu=False, transforms=["random_flip", "random_crop", "random_erase"],
            train_sampler="RandomIdentitySampler" if triplet else "RandomSampler",
        )  # fmt: skip

    def training(epochs: int) -> Iterator[tuple[int, float, nn.Module]]:
        """Number, seconds until its end and network of each epoch of a schedule of so many."""
        with contextlib.redirect_stdout(io.StringIO()):
            network = library.models.build_model(
                run["model.name"], manager.num_train_pids, loss="triplet" if triplet else "softmax", pretrained=False,
                use_gpu=False,
            )  # fmt: skip
        optimizer = library.optim.build_optimizer(network, optim="adam", lr=3e-4 if triplet else 1.5e-3)
        steps = {"lr_scheduler": "single_step", "stepsize": max(1, epochs // 3)}
        schedule = library.optim.build_lr_scheduler(
            optimizer, max_epoch=epochs, **(steps if triplet else {"lr_scheduler": "cosine"})
        )
        if triplet:
            engine = library.engine.ImageTripletEngine(
                manager, network, optimizer, margin=0.3, weight_t=0.7, weight_x=1, scheduler=schedule, use_gpu=False
            )
        else:
            engine = library.engine.ImageSoftmaxEngine(manager, network, optimizer, schedule, use_gpu=False)
        same, seconds, engine.max_epoch = run.untrained_network(manager.num_train_pids), 0.0, epochs
        for engine.epoch in range(epochs):
            begin = now()
            engine.train(print_freq=10**9)
            seconds += now() - begin
            same.load_state_dict(network.state_dict())
            yield engine.epoch + 1, seconds, same

    epochs = run["trainer.max_epochs"]
    if run["trainer.max_time"]:
        _, seconds, _ = next(training(1))
        epochs = max(1, round(run["trainer.max_time"] * 60 / seconds))
        library.utils.set_random_seed(run["seed"])
    for epoch, seconds, network in training(epochs):
        score(epoch, seconds, network, epoch == epochs)


def main() -> None:
    options = arguments()
    torch.set_num_threads(options.threads)
    given = [
        *("data=market1501", f"data.root={options.data.absolute()}", f"model={options.model}", "data.val_fraction=0"),
        *(f"data.size={[*options.size]}".replace(" ", ""), f"data.batch_size={BATCH}", "data.num_workers=0"),
        *(f"trainer.max_epochs={options.epochs}", f"run.root={options.out.absolute() / 'runs'}", "logger=none"),
        f"trainer.max_time={options.minutes or 'null'}",
    ]
    arms = dict(each.split("=", 1) for each in options.own)
    library = torchreid_library(options.torchreid, options.vision) if options.torchreid else None
    for seed in options.seeds:
        for name in [*arms, *(ENGINES if library else [])]:
            file = options.out / f"{name}-{seed}.csv"
            if file.exists():
                continue
            own = shlex.split(arms.get(name, ""))
            run = Run.compose([*given, *own, f"seed={seed}", f"run.name={name}-{seed}", "run.overwrite=true"])
            curve = Curve(run, options.every)
            ours(run, curve) if name in arms else theirs(library, run, curve, triplet=ENGINES[name])
            rows = [{"arm": name, "seed": seed} | row for row in curve.rows]
            write_atomic(file, pd.DataFrame(rows).to_csv(index=False))
            report(options.out)


def report(out: Path) -> None:
    """Write the curves of all arms that have finished, as a table and a picture."""
    curves = pd.concat(pd.read_csv(file) for file in sorted(out.glob("*-[0-9]*.csv")))
    write_atomic(out / "curves.csv", curves.to_csv(index=False))
    last = curves.groupby(["arm", "seed"]).last().groupby("arm")
    lines = ["| | seeds | epochs | minutes | mAP | rank-1 |", "|---|---:|---:|---:|---:|---:|"]
    for arm, rows in last:
        figures = " | ".join(f"{rows[key].mean():.3f} ({', '.join(f'{v:.3f}' for v in rows[key])})"
                             for key in ("mAP", "rank-1"))  # fmt: skip
        lines.append(f"| {arm} | {len(rows)} | {rows['epoch'].max()} | {rows['minutes'].mean():.1f} | {figures} |")
    write_atomic(out / "table.md", "\n".join(lines) + "\n")
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for color, (arm, rows) in enumerate(curves.groupby("arm")):
        for seed, of in rows.groupby("seed"):
            axes.plot(of["minutes"], of["mAP"], f"C{color}", label=arm if seed == rows["seed"].min() else None)
    axes.set(xlabel="minutes of training", ylabel="mAP")
    axes.legend()
    save_figure(figure, out / "curves.png")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="Market-1501's folders")
    parser.add_argument("--out", type=Path, required=True, help="folder of curves, table and picture")
    parser.add_argument(
        "--own",
        nargs="*",
        default=[f"parity={PARITY}", f"hour={HOUR}"],
        metavar="NAME=OVERRIDES",
        help="reidlab's arms",
    )
    parser.add_argument("--torchreid", type=Path, metavar="DIR", help="a checkout of deep-person-reid")
    parser.add_argument("--vision", type=Path, metavar="DIR", help="where pip put torchvision")
    parser.add_argument("--model", default="osnet_x0_25")
    parser.add_argument("--size", type=int, nargs=2, default=(128, 64), help="height and width")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--minutes", type=float, help="of each arm and seed, in the place of epochs")
    parser.add_argument("--every", type=int, default=2, help="epochs between two evaluations")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    if options.torchreid and not options.vision:
        parser.error("--torchreid needs --vision DIR, a folder with torchvision")
    return options


if __name__ == "__main__":
    with refusing():
        main()
