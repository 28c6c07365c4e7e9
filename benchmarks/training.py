"""Images a second of training: the input pipeline alone, the model step alone, and both; beside torchreid's.

    python benchmarks/training.py                                  # drawn crops of about 128x64, 64 a batch at 256x128
    python benchmarks/training.py --data DIR --json training.json  # images in Market-1501's folders
    python benchmarks/training.py --torchreid DIR --vision DIR2    # a checkout of torchreid, timed in turn

Both sides get the same images, transforms (mirror), networks, optimizer (Adam), workers and threads, and every round
times all in turn, so that other load meets them alike; figures are medians of the rounds. Loss curves start from the
same weights and see the same batches. torchreid takes its transforms from torchvision, which reidlab's environment must
not have; `pip install --no-deps --target DIR2 torchvision` puts it where only this benchmark looks.
"""

import argparse
import contextlib
import importlib
import io
import os
import sys
import time
import types
from collections.abc import Callable, Iterator
from functools import cached_property
from itertools import islice
from pathlib import Path
from statistics import median

import pandas as pd
import torch
from torch import Tensor

from reidlab.config import CLONE, instantiate
from reidlab.console import print_table
from reidlab.data import Augment, FolderLayout, RandomHorizontalFlip, ReidDataModule, Samples, SyntheticPeople
from reidlab.errors import refusing
from reidlab.files import write_json
from reidlab.run import Run, provenance

SIZE, BATCH, CLASSES, RATE = (256, 128), 64, 751, 3e-4
IMAGES_AN_EPOCH = 64_000
PLAIN = ["model.network.neck=null", "model.network.last_stride=2"]  # what torchreid calls resnet50

Batches = Iterator[tuple[Tensor, Tensor]]
Step = Callable[[Tensor, Tensor], Tensor | float]


class Ours:
    """reidlab's data module and training step."""

    def __init__(self, samples: Samples, workers: int, device: str, precision: str = "32", cache: Path | None = None):
        self.samples, self.workers, self.device, self.cache = samples, workers, device, cache
        self.half = {"32": None, "bf16": torch.bfloat16}[precision]

    @cached_property
    def data(self) -> ReidDataModule:
        mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
        return ReidDataModule(
            lambda: self.samples, SIZE, mean, std, batch_size=BATCH, num_instances=None, val_fraction=0.0,
            augment=Augment(flip=RandomHorizontalFlip()), num_workers=self.workers, cache=self.cache,
        )  # fmt: skip

    def batches(self) -> Batches:
        for batch in self.data.train_dataloader():
            on_device = {name: column.to(self.device, non_blocking=True) for name, column in batch.items()}
            yield self.data.preprocess(on_device, training=True)["image"], on_device["pid"]

    def trainer(self, name: str, weights: dict | None = None) -> Step:
        run = Run.compose([f"model={name}", "loss=softmax", "optimizer=adam", *(PLAIN if "resnet" in name else [])])
        network = run.untrained_network(CLASSES)
        if weights:
            network.load_state_dict(weights)
        network = network.to(self.device, memory_format=torch.channels_last).train()
        loss = instantiate(run.config.loss)
        optimizer = instantiate(run.config.optimizer)(network.parameters(), lr=RATE)

        def step(images: Tensor, pids: Tensor) -> Tensor:
            with torch.autocast(self.device, self.half, enabled=self.half is not None):
                embedding, logits = network(images.contiguous(memory_format=torch.channels_last))
            total = sum(loss(embedding.float(), logits.float(), pids).values())
            optimizer.zero_grad()
            total.backward()
            optimizer.step()
            return total.detach()

        return step


def torchreid_library(checkout: Path, vision: Path) -> types.ModuleType:
    """The package of a torchreid checkout, on the transforms of a torchvision that is found nowhere else."""
    package = types.ModuleType("torchvision")  # its own __init__ registers operators, which needs a build that fits
    package.__path__ = [str(vision / "torchvision")]
    sys.modules |= {"torchvision": package, "gdown": types.ModuleType("gdown")}
    sys.path.insert(0, str(checkout))
    return importlib.import_module("torchreid")


class Torchreid:
    """The data manager and the softmax engine of a torchreid checkout."""

    def __init__(self, checkout: Path, vision: Path, samples: Samples, workers: int, device: str):
        self.library, self.device = torchreid_library(checkout, vision), device
        labels = pd.factorize(samples.table["pid"])[0].tolist()
        rows = [(str(file), label, 0) for file, label in zip(samples.files(), labels, strict=True)]

        class Images(self.library.data.ImageDataset):
            def __init__(self, **options):
                super().__init__(rows, rows[:1], rows[:1], **options)

        self.library.data.register_image_dataset("drawn", Images)
        with contextlib.redirect_stdout(io.StringIO()):
            self.manager = self.library.data.ImageDataManager(
                sources="drawn", height=SIZE[0], width=SIZE[1], batch_size_train=BATCH, workers=workers,
                use_gpu=device == "cuda",
            )  # fmt: skip

    def batches(self) -> Batches:
        for batch in self.manager.train_loader:
            yield batch["img"], batch["pid"]

    def network(self, name: str):
        with contextlib.redirect_stdout(io.StringIO()):
            return self.library.models.build_model(name, CLASSES, loss="softmax", pretrained=False)

    def trainer(self, name: str, weights: dict | None = None) -> Step:
        network = self.network(name).to(self.device)
        if weights:
            network.load_state_dict(weights)
        optimizer = self.library.optim.build_optimizer(network.train(), optim="adam", lr=RATE)
        engine = self.library.engine.ImageSoftmaxEngine(
            self.manager, network, optimizer, use_gpu=self.device == "cuda", label_smooth=True
        )
        engine.criterion.num_classes = CLASSES
        return lambda images, pids: engine.forward_backward({"img": images, "pid": pids})["loss"]


def main() -> None:
    options = arguments()
    torch.set_num_threads(options.threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    samples = images(options.data)
    given = (samples, options.workers, device)
    steps = {"reidlab": Ours(*given), "reidlab bf16": Ours(*given, precision="bf16")}
    pipelines = {"reidlab": steps["reidlab"], "reidlab cached": Ours(*given, cache=CLONE / "data" / "cache")}
    if options.torchreid:
        theirs = Torchreid(options.torchreid, options.vision, *given)
        steps["torchreid"] = pipelines["torchreid"] = theirs
    rows, curves = {}, {}

    def record(what: str, rates: dict[str, float]) -> None:
        if options.torchreid:
            rates |= {f"{k} / torchreid": rate / rates["torchreid"] for k, rate in rates.items() if k != "torchreid"}
        rows[what] = rates
        print(f"{what:20}", "  ".join(f"{k} {rate:.4g}" for k, rate in rates.items()), flush=True)
        if options.json:
            write_json(options.json, {"images_per_s": rows, "losses": curves, "device": device, "made_by": provenance(),
                                      "threads": options.threads, "workers": options.workers})  # fmt: skip

    if options.seconds:
        record("input pipeline", pipeline_rates(pipelines, options.seconds, options.rounds))
    for name in options.models:
        fixed = list(islice(steps["reidlab"].batches(), 2))
        record(f"{name}: step", step_rates({k: side.trainer(name) for k, side in steps.items()}, fixed, options.rounds))
        if options.both:
            both = {"reidlab cached": pipelines["reidlab cached"]} | steps
            record(f"{name}: both", {k: both_rate(side.batches(), side.trainer(name)) for k, side in both.items()})
        if options.curve and options.torchreid:
            curves[name] = loss_curves(name, steps, theirs, options.curve)
            print_table(pd.DataFrame(curves[name]).rename_axis("step"), f"{name}: losses on the same batches")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="*", default=["osnet_x0_25", "osnet_x1_0", "resnet50"])
    parser.add_argument("--data", type=Path, help="Market-1501's folders; default: drawn people")
    parser.add_argument("--torchreid", type=Path, metavar="DIR", help="a checkout of deep-person-reid")
    parser.add_argument("--vision", type=Path, metavar="DIR", help="where pip put torchvision")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each pipeline in a round; 0 leaves them out")
    parser.add_argument("--both", action="store_true", help="pipeline and step together too")
    parser.add_argument("--curve", type=int, default=0, metavar="STEPS", help="compare losses over so many steps")
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    if options.torchreid and not options.vision:
        parser.error("--torchreid needs --vision DIR, a folder with torchvision")
    return options


def images(root: Path | None) -> Samples:
    """Training images, repeated until an epoch is long enough to time."""
    if root is None:
        root = CLONE / "data" / "synthetic_training_benchmark"
        SyntheticPeople(root, 24, 20, num_cameras=4, images_per_camera=8, size=(128, 64))()
    layout = FolderLayout(root, {"train": "bounding_box_train"}, r"(?P<pid>-?\d+)_c(?P<camid>\d+)")
    table = layout().split("train")
    return Samples(pd.concat([table] * -(-IMAGES_AN_EPOCH // len(table))), root)


def pipeline_rates(sides: dict, seconds: float, rounds: int) -> dict[str, float]:
    """Images a second that reach the network's door."""
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, side in sides.items():
            batches = side.batches()
            list(islice(batches, 8))  # more than the workers prefetch
            begin, count = time.perf_counter(), 0
            while (passed := time.perf_counter() - begin) < seconds:
                next(batches)
                count += BATCH
            batches.close()
            rates[name].append(count / passed)
    return {name: median(of) for name, of in rates.items()}


def step_rates(trainers: dict[str, Step], batches: list[tuple[Tensor, Tensor]], rounds: int) -> dict[str, float]:
    """Images a second that training takes if they are there already."""
    seconds: dict[str, list[float]] = {name: [] for name in trainers}
    for number in range(rounds + 1):
        for name, step in trainers.items():
            begin = time.perf_counter()
            float(step(*batches[number % len(batches)]))
            if number:
                seconds[name].append(time.perf_counter() - begin)
    return {name: BATCH / median(of) for name, of in seconds.items()}


def both_rate(batches: Batches, step: Step, count: int = 4) -> float:
    """Images a second of a training loop."""
    float(step(*next(batches)))
    begin = time.perf_counter()
    for images, pids in islice(batches, count):
        loss = step(images, pids)
    float(loss)
    return count * BATCH / (time.perf_counter() - begin)


def loss_curves(name: str, sides: dict, theirs: Torchreid, steps: int) -> dict[str, list[float]]:
    """Each side's losses, from the same weights on the same batches."""
    torch.manual_seed(0)
    weights = theirs.network(name).state_dict()
    fixed = list(islice(theirs.batches(), steps))
    return {k: [float(step(*batch)) for batch in fixed] for k, side in sides.items()
            for step in [side.trainer(name, weights)]}  # fmt: skip


if __name__ == "__main__":
    with refusing():
        main()
