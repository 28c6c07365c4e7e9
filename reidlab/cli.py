"""The `reidlab` command: one word a stage, Hydra overrides after it."""

import argparse
import importlib
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import argcomplete

from reidlab import __version__, completion
from reidlab.config import compose, compose_for, run_folder
from reidlab.errors import InputError

STAGES = {
    "data": ("prepare", "read, validate and picture a data set", "reidlab data data=market1501 data.root=DIR"),
    "train": ("train", "train, or go on with an interrupted training", "reidlab train experiment=demo"),
    "evaluate": ("evaluate", "score a run, or any model=FILE", "reidlab evaluate experiment=demo"),
    "export": ("export", "write the trained network as ONNX", "reidlab export experiment=demo"),
    "quantize": ("quantize", "int8 files, gated by what they cost in mAP", "reidlab quantize experiment=demo"),
    "deploy": (
        "deploy.stage",
        "C99 proved on emulated cores, STM32 estimates, NVIDIA and Linux bundles; which network where",
        "reidlab deploy deploy=stm32 run.name=demo",
    ),
    "report": ("report", "the card of a run, and its evaluation as a page", "reidlab report experiment=demo"),
}
WHOLE = ("data", "train", "evaluate", "export")
MODEL_FILES = (".tflite", ".onnx", ".ckpt", ".pth", ".pt", ".safetensors")
FRESH = ("data", "train")  # stages whose config comes from the command alone, not from the run folder
KEPT = {  # what Ctrl-C leaves in the run folder
    "train": "finished epochs are kept",
    "run": "finished stages and epochs are kept",
    "evaluate": "rows that were scored are kept",
    "search": "ended trials are kept, and the finished epochs of the others",
    "notebooks": "executed notebooks are kept",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit status: 0 done, 2 wrong input, 130 interrupted."""
    parser = _parser()
    argcomplete.autocomplete(parser)
    args = parser.parse_args(argv)
    try:
        return args.call(args)
    except InputError as error:
        if os.environ.get("REIDLAB_DEBUG"):
            raise
        print(f"reidlab: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        kept = KEPT.get(args.command, "no file is half-written")
        again = shlex.join(["reidlab", *(sys.argv[1:] if argv is None else argv)])
        print(f"\nreidlab: interrupted; {kept}; to go on: {again}", file=sys.stderr)
        return 130


def run_stage(name: str, overrides: Sequence[str]) -> Path:
    """Compose the config of a stage and run it; returns what it made."""
    cfg = (compose if name in FRESH else compose_for)(overrides)
    return importlib.import_module(f"reidlab.{STAGES[name][0]}").run(cfg)


def _stage(args: argparse.Namespace) -> int:
    overrides = args.overrides
    if getattr(args, "against", None):
        overrides = [*overrides, f"evaluate.against={args.against}"]
    if args.command == "evaluate":
        overrides = [_model_file(override) for override in overrides]
    made = run_stage(args.command, overrides)
    if args.command == "evaluate":
        _print_results(made.parent)
    return 0


def _model_file(override: str) -> str:
    """`model=FILE` as the key that it stands for; `model=NAME` stays a choice of the config."""
    key, _, value = override.partition("=")
    return f"evaluate.file={value}" if key == "model" and Path(value).suffix in MODEL_FILES else override


def _run(args: argparse.Namespace) -> int:
    for name in WHOLE:
        print(f"== {name}", flush=True)
        run_stage(name, args.overrides)
    _print_results(run_folder(compose(args.overrides)))
    return 0


def _print_results(folder: Path) -> None:
    from reidlab.evaluate import print_results

    print_results(folder)


def _compare(args: argparse.Namespace) -> int:
    from reidlab.compare import run

    print(run(compose_for(args.overrides), args.first, args.second))
    return 0


def _predict(args: argparse.Namespace) -> int:
    from reidlab.predict import run

    print(run(compose_for(args.overrides), args.images))
    return 0


def _serve(args: argparse.Namespace) -> int:
    from reidlab.deploy import server

    if args.install:
        server.install()
    else:
        server.run(compose_for(args.overrides), args.http_port, args.grpc_port)
    return 0


def _matrix(args: argparse.Namespace) -> int:
    from reidlab.evaluate import transfer_matrix
    from reidlab.show import print_table

    print_table(transfer_matrix([Path(compose().run.root) / name for name in args.runs]), "mAP: trained on, tested on")
    return 0


def _search(args: argparse.Namespace) -> int:
    from reidlab.search import RayCluster, run

    print(run(args.overrides, args.trials, cluster=RayCluster(args.ray, args.at_once) if args.ray else None))
    return 0


def _import_tao(args: argparse.Namespace) -> int:
    from reidlab.import_tao import run

    run(args.file, args.name)
    return 0


def _dashboard(args: argparse.Namespace) -> int:
    from reidlab import dashboard

    root = args.root or Path(compose().run.root)
    if args.wandb:
        from reidlab.tracking import save_workspace

        print(save_workspace(args.wandb, root))
    else:
        dashboard.run(root, args.port)
    return 0


def _doctor(args: argparse.Namespace) -> int:
    from reidlab.doctor import run

    return 0 if run() else 2


def _notebooks(args: argparse.Namespace) -> int:
    from reidlab.notebook import execute_all

    execute_all(args.parameters, only=args.only)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="reidlab", description="From image crops to a verified model on an edge device."
    )
    parser.add_argument("--version", action="version", version=f"reidlab {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="command")
    overview = [f"{parser.description}\n"]
    parser.set_defaults(call=lambda _: print("\n".join(overview)) or 0)

    def add(name: str, call: Callable, text: str, example: str) -> argparse.ArgumentParser:
        overview.append(f"  {name:10}  {text}\n{'':12}  {example}")
        command = commands.add_parser(name, help=text, description=f"{text}. Example: {example}")
        command.set_defaults(call=call)
        return command

    for name, (_, text, example) in STAGES.items():
        add(name, _stage, text, example)
    add("run", _run, f"all stages: {', '.join(WHOLE)}", "reidlab run experiment=demo")
    for command in commands.choices.values():
        command.add_argument("overrides", nargs="*", help="Hydra overrides, e.g. data=market1501 seed=1")
    commands.choices["evaluate"].add_argument("--against", metavar="RUN", help="test the difference to another run")
    comparison = add(
        "compare", _compare, "are two images of the same person?", "reidlab compare A.jpg B.jpg run.name=demo"
    )
    comparison.add_argument("first", type=Path, help="an image")
    comparison.add_argument("second", type=Path, help="another")
    comparison.add_argument("overrides", nargs="*", help="Hydra overrides, e.g. run.name=demo")
    prediction = add(
        "predict", _predict, "classes of images, or their ranked gallery", "reidlab predict DIR run.name=demo"
    )
    prediction.add_argument("images", type=Path, help="an image, or a folder of them")
    prediction.add_argument("overrides", nargs="*", help="Hydra overrides, e.g. run.name=demo predict.k=3")
    serve = add("serve", _serve, "a run's Triton repository on this machine", "reidlab serve run.name=demo")
    serve.add_argument("--install", action="store_true", help="make the server's own environment, 400 MB, and stop")
    serve.add_argument("--http-port", type=int, default=8000, metavar="PORT", help="default: 8000")
    serve.add_argument("--grpc-port", type=int, default=8001, metavar="PORT", help="default: 8001")
    serve.add_argument("overrides", nargs="*", help="Hydra overrides, e.g. run.name=demo")
    matrix = add(
        "matrix", _matrix, "the cross-domain table of several runs", "reidlab matrix demo pku_reid-osnet_x0_25"
    )
    matrix.add_argument("runs", nargs="+", help="names of evaluated runs")
    search = add("search", _search, "try values of config keys", "reidlab search 'optimizer.lr=log(1e-4,1e-2)'")
    search.add_argument("--trials", type=int, default=20, help="how many in all")
    search.add_argument("--ray", metavar="ADDRESS", help="of a Ray cluster that trains them, 'auto' for the one here")
    search.add_argument("--at-once", type=int, default=4, metavar="N", help="how many the cluster trains at a time")
    search.add_argument("overrides", nargs="+", help="Hydra overrides, some with several values")
    tao = add("import-tao", _import_tao, "write a TAO specification as an experiment", "reidlab import-tao spec.yaml")
    tao.add_argument("file", type=Path, help="the specification")
    tao.add_argument("--name", help="of the experiment; default: the file's")
    board = add("dashboard", _dashboard, "a live page over all runs, for this machine's browser", "reidlab dashboard")
    board.add_argument("--runs", dest="root", type=Path, metavar="FOLDER", help="where the runs are; default: run.root")
    board.add_argument("--port", type=int, default=8501, help="of 127.0.0.1; default: 8501")
    board.add_argument("--wandb", metavar="ENTITY/PROJECT", help="lay the project out at Weights & Biases instead")
    add("doctor", _doctor, "what this machine has, and what is missing for what", "reidlab doctor")
    notebooks = add("notebooks", _notebooks, "execute all notebooks into the run folder", "reidlab notebooks")
    notebooks.add_argument("-p", dest="parameters", action="append", default=[], metavar="name=value",
                           help="a notebook parameter, e.g. experiment=demo")  # fmt: skip
    notebooks.add_argument("only", nargs="*", help="names of notebooks, e.g. 01_data; default: all")
    for command in commands.choices.values():
        for action in command._actions:
            action.completer = completion.COMPLETERS.get(action.dest)
    return parser


if __name__ == "__main__":
    sys.exit(main())
