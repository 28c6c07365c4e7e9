"""The `reidlab` command: a subcommand is a stage or a tool, with Hydra overrides after it."""

import argparse
import gc
import os
import re
import shlex
import shutil
import sys
import tempfile
import textwrap
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import argcomplete

from reidlab import __version__
from reidlab.errors import InputError
from reidlab.files import is_first_process, storage_errors
from reidlab.untrusted import printable

if TYPE_CHECKING:
    from reidlab.run import Run

ON_IMAGES = ("compare", "predict", "enroll", "identify", "forget", "track")  # commands that take more than overrides
OFTEN = ("run.name", "seed", "data.root", "data.size", "data.batch_size", "data.num_workers", "trainer.max_epochs",
         "trainer.accelerator", "optimizer.lr", "model.weights", "run.overwrite")  # fmt: skip
WHOLE, ALL = ("data", "train", "evaluate", "export"), ("quantize", "deploy", "report")
STAGES = (*WHOLE, *ALL)


def stage(name: str, *arguments: str, of_files: bool = False) -> Callable[[argparse.Namespace], None]:
    """The call of a command that is the stage of a name, which takes a run and these of the command's arguments.

    Args:
        name: of the stage.
        arguments: names of what the command takes beside overrides.
        of_files: whether it may be about `model=FILE`.
    """

    def call(args: argparse.Namespace) -> None:
        run = _run_of(name, _with_file(args.overrides) if of_files else args.overrides)
        import_module(f"reidlab.stages.{name}").run(run, *(getattr(args, argument) for argument in arguments))

    return call


def _run_of(stage: str, overrides: Sequence[str]) -> "Run":
    """The run that a stage is given; `data` and `train` may begin it."""
    from reidlab.run import Run

    return Run.begin(overrides, trains=stage == "train") if stage in ("data", "train") else Run.resume(overrides)


def init(args: argparse.Namespace) -> None:
    from reidlab import workspace

    workspace.init(args.folder)


def config(args: argparse.Namespace) -> None:
    from reidlab.config import as_yaml, compose

    print(as_yaml(compose(args.overrides)), end="")


def evaluate(args: argparse.Namespace) -> None:
    from reidlab.run import Run
    from reidlab.stages import evaluate

    against = [f"evaluate.against={args.against}"] if args.against else []
    evaluate.print_results(evaluate.run(Run.resume([*_with_file(args.overrides), *against])))


def run(args: argparse.Namespace) -> None:
    from reidlab.console import log
    from reidlab.run import Run
    from reidlab.stages import evaluate, profile, report
    from reidlab.timing import spent
    from reidlab.training.timing import StepParts

    (stages, overrides), steps = _stages(args), StepParts()
    spent.seconds.clear()
    for name in stages:
        log.info(f"== {name}")
        made = _run_of(name, overrides)
        with spent.within(name):
            import_module(f"reidlab.stages.{name}").run(made, *([[steps]] if args.profile and name == "train" else []))
        if name == "train" and not is_first_process():
            return  # the first one goes on alone
    made = Run.resume(overrides)
    evaluate.print_results(made)
    if "report" in stages:
        report.print_forms(made)
    if args.profile:
        profile.run(made, spent, steps.decode_s)


def _stages(args: argparse.Namespace) -> tuple[list[str], list[str]]:
    """The stages that `run` goes through, in their order, by --all or `stages=[...]`; and the other overrides."""
    chosen = [*WHOLE, *(ALL if args.all else ())]
    given = [override for override in args.overrides if override.startswith("stages=")]
    for override in given:
        chosen = re.findall(r"[^\[\],\s]+", override.removeprefix("stages="))
        if unknown := [name for name in chosen if name not in STAGES]:
            raise InputError(f"stages: {unknown[0]} is none; there are {', '.join(STAGES)}")
    return [name for name in STAGES if name in chosen], [o for o in args.overrides if o not in given]


def would(args: argparse.Namespace) -> None:
    from reidlab.stages import dry_run

    stages, given = _stages(args) if args.command == "run" else ([args.command], args.overrides)
    against = [f"evaluate.against={args.against}"] if getattr(args, "against", None) else []
    overrides = given if stages[0] in ("data", "train") else [*_with_file(given), *against]
    dry_run.run(_run_of("train" if "train" in stages else stages[0], overrides), stages)


def predict(args: argparse.Namespace) -> None:
    from reidlab.run import Run
    from reidlab.stages import predict

    print(predict.run(Run.resume(args.overrides), *args.images))


def matrix(args: argparse.Namespace) -> None:
    from reidlab.run import Run
    from reidlab.stages import matrix

    matrix.run([Run(name) for name in args.runs])


def search(args: argparse.Namespace) -> None:
    from reidlab.stages import search

    print(search.run(args.overrides, args.trials))


def serve(args: argparse.Namespace) -> None:
    from reidlab.deploy import server
    from reidlab.run import File, Run

    if args.install:
        server.install()
    elif args.gallery:
        from reidlab.stages import serve

        place = args.gallery if "://" in args.gallery else Path(args.gallery).absolute()
        run = Run.resume([*args.overrides, f"gallery.folder={place}"])
        serve.run(run, args.host, args.http_port, args.token_file)
    else:
        from reidlab.stages import deploy

        place = deploy.folder(Run.resume(_with_file(args.overrides)))
        server.serve(place / Path(File.TRITON).relative_to(File.DEPLOY), args.http_port, args.grpc_port)


def import_tao(args: argparse.Namespace) -> None:
    from reidlab.interop import tao

    tao.import_specification(args.file, args.name)


def import_st(args: argparse.Namespace) -> None:
    from reidlab.interop import st

    st.import_configuration(args.file, args.name)


def dashboard(args: argparse.Namespace) -> None:
    from reidlab import dashboard
    from reidlab.config import resolve_path

    root = args.root or resolve_path("runs")
    if args.wandb:
        from reidlab.training.tracking import save_workspace

        print(save_workspace(args.wandb, root))
    else:
        dashboard.run(root, args.port)


def doctor(args: argparse.Namespace) -> int:
    from reidlab.doctor import run

    return 0 if run() else 2


def notebooks(args: argparse.Namespace) -> None:
    from reidlab.notebook.execute import execute_all

    execute_all(args.parameters, only=args.only)


@dataclass(frozen=True)
class Command:
    """A subcommand: its function, what its help says, an example, and what Ctrl-C leaves in the run folder.

    `overrides` is how many Hydra overrides it takes: "*" for any, "+" for at least one, "" for none.
    """

    call: Callable[[argparse.Namespace], int | None]
    help: str
    example: str
    kept: str = "no file is half-written"
    overrides: str = "*"


COMMANDS = {
    "init": Command(
        init, "lay out a folder to work in", "reidlab init my-people", "no file is overwritten", overrides=""
    ),
    "data": Command(
        stage("data"),
        "read, validate and picture a data set",
        "reidlab data data=market1501 data.root=DIR",
    ),
    "config": Command(config, "the settings that overrides lead to, as YAML", "reidlab config experiment=demo seed=1"),
    "train": Command(
        stage("train"),
        "train, or go on with an interrupted training",
        "reidlab train experiment=demo",
        "finished epochs are kept",
    ),
    "evaluate": Command(
        evaluate, "score a run, or any model=FILE", "reidlab evaluate experiment=demo", "rows that were scored are kept"
    ),
    "export": Command(stage("export"), "write the trained network as ONNX", "reidlab export experiment=demo"),
    "quantize": Command(
        stage("quantize"), "int8 files, gated by what they cost in mAP", "reidlab quantize experiment=demo"
    ),
    "deploy": Command(
        stage("deploy", of_files=True),
        "C99 run on emulated cores, STM32 estimates, bundles for NVIDIA, Linux, trackers: of a run, or any model=FILE",
        "reidlab deploy deploy=stm32 run.name=demo",
    ),
    "report": Command(
        stage("report"), "the card of a run, and its evaluation as a page", "reidlab report experiment=demo"
    ),
    "publish": Command(
        stage("publish", "to", "public"),
        "weights, files, card and sample code as a folder for model hubs, here or uploaded",
        "reidlab publish run.name=demo --to DIR",
        "what was published before stays, or is replaced as a whole",
    ),
    "run": Command(
        run,
        f"{', '.join(WHOLE)}; with --all also {', '.join(ALL)}",
        "reidlab run --all experiment=demo",
        "finished stages and epochs are kept",
    ),
    "predict": Command(
        predict,
        "classes of images, their nearest gallery images, or with predict.out their embeddings",
        "reidlab predict DIR run.name=demo",
        "finished files of predict.out are kept",
    ),
    "enroll": Command(
        stage("enroll", "images"),
        "remember the identities of a folder",
        "reidlab enroll DIR run.name=demo",
        "the gallery is whole; of a folder by predict.out, and on a server, what was enrolled is kept",
    ),
    "identify": Command(
        stage("identify", "images"), "who is it, or nobody enrolled?", "reidlab identify FILE run.name=demo"
    ),
    "forget": Command(
        stage("forget", "pid"),
        "delete an identity without a trace",
        "reidlab forget PID run.name=demo",
        "the gallery is whole",
    ),
    "compare": Command(
        stage("compare", "first", "second"),
        "do two images show the same person?",
        "reidlab compare A.jpg B.jpg run.name=demo",
    ),
    "track": Command(
        stage("track", "folder"),
        "follow identities through video, and what the network is worth there",
        "reidlab track run.name=demo",
    ),
    "matrix": Command(
        matrix, "the cross-domain table of several runs", "reidlab matrix demo pku_reid-osnet_x0_25", overrides=""
    ),
    "search": Command(
        search,
        "try values of settings",
        "reidlab search 'optimizer.lr=log(1e-4,1e-2)'",
        "ended trials are kept, and the finished epochs of the others",
        overrides="+",
    ),
    "serve": Command(
        serve, "a gallery, or a run's Triton repository, over HTTP", "reidlab serve --gallery DIR run.name=demo"
    ),
    "import-tao": Command(
        import_tao, "write a TAO specification as an experiment", "reidlab import-tao spec.yaml", overrides=""
    ),
    "import-st": Command(
        import_st,
        "write a user_config.yaml of ST's model zoo services as an experiment",
        "reidlab import-st user_config.yaml",
        overrides="",
    ),
    "dashboard": Command(
        dashboard, "a live page over all runs, for this machine's browser", "reidlab dashboard", overrides=""
    ),
    "doctor": Command(doctor, "what this machine has, and what is missing for what", "reidlab doctor", overrides=""),
    "notebooks": Command(
        notebooks,
        "execute all notebooks into the run folder",
        "reidlab notebooks",
        "executed notebooks are kept",
        overrides="",
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit status: 0 done, 1 a fault of the program, 2 wrong input, 130 interrupted."""
    _open_closed_streams()
    if argv is None:  # a process of its own
        gc.set_threshold(50_000, *gc.get_threshold()[1:])  # imports make half a million objects, and no garbage
    args, command = argparse.Namespace(command="arguments"), None
    try:
        parser = build_parser()
        argcomplete.autocomplete(parser)
        args = _parse(parser, sys.argv[1:] if argv is None else argv)
        command = COMMANDS.get(args.command)
        with storage_errors():
            call = would if getattr(args, "dry_run", False) else command.call if command else _overview
            status = call(args)
            sys.stdout.flush()
        return status or 0
    except InputError as error:
        if os.environ.get("REIDLAB_DEBUG"):
            raise
        _drop_full_output()
        print(printable(f"reidlab: {error}").replace("\n", " "), file=sys.stderr)
        return 2
    except BrokenPipeError:  # whoever read the output has gone
        _drop_full_output()
        return 1
    except Exception as error:
        if os.environ.get("REIDLAB_DEBUG"):
            raise
        reason = next(iter(str(error).splitlines()), "")
        place = _keep_traceback(args)
        print(
            f"reidlab: {args.command}: stopped by {type(error).__name__}: {reason[:300]}; the traceback is in {place}",
            file=sys.stderr,
        )
        return 1
    except KeyboardInterrupt:
        again = shlex.join(["reidlab", *(sys.argv[1:] if argv is None else argv)])
        kept = command.kept if command else Command.kept
        print(f"\nreidlab: interrupted; {kept}; to go on: {again}", file=sys.stderr)
        return 130


def _drop_full_output() -> None:
    """Lead what was printed to nowhere where it can't be written, so that Python's end doesn't try again."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _open_closed_streams() -> None:
    """Lead streams that the caller closed (`>&-`) to nowhere, before a file that is opened gets their number."""
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("r" if name == "stdin" else "w"))  # noqa: SIM115 (for good)


def _keep_traceback(args: argparse.Namespace) -> Path:
    """Write the traceback of the exception being handled into the run folder, else the temporary one, else stderr.

    Its files are named without the folders of this machine.
    """
    from reidlab.config import compose, run_folder
    from reidlab.files import without_folders, write_atomic

    text, name = traceback.format_exc(), f"traceback-{args.command}.txt"
    for place in sorted({*filter(None, sys.path), str(Path(__file__).parents[1])}, key=len, reverse=True):
        text = text.replace(place + os.sep, "")
    text = without_folders(text)
    try:
        return write_atomic(run_folder(compose(getattr(args, "overrides", []))) / name, text)
    except Exception:
        try:
            return write_atomic(Path(tempfile.mkdtemp(prefix="reidlab-")) / name, text)
        except (OSError, InputError):
            print(text, file=sys.stderr)
            return Path("/dev/stderr")


def _parse(parser: argparse.ArgumentParser, argv: Sequence[str]) -> argparse.Namespace:
    """Arguments in which overrides may stand anywhere, also before images and after options."""
    argv = list(argv)
    if argv[:1] and argv[0] in ON_IMAGES:
        argv[1:] = sorted(argv[1:], key=_is_override)
    args, more = parser.parse_known_args(argv)
    if more and not all(hasattr(args, "overrides") and _is_override(each) for each in more):
        parser.error(f"unrecognized arguments: {' '.join(more)} (a name that begins with - goes after --)")
    if more:
        args.overrides += more
    if args.command == "track" and args.folder and _is_override(str(args.folder)):
        args.overrides, args.folder = [str(args.folder), *args.overrides], None
    if args.command == "predict":
        args.overrides += [each for each in args.images if _is_override(each)]
        args.images = [Path(each) for each in args.images if not _is_override(each)]
    for given in ("first", "second", "images"):
        if getattr(args, given, "") == [] or _is_override(str(getattr(args, given, ""))):
            raise InputError(f"{args.command}: an image is missing; write {COMMANDS[args.command].example}")
    return args


def _is_override(text: str) -> bool:
    return re.match(r"[+~]*[a-z]\w*([./@]\w+)*=", text) is not None and not Path(text).exists()


def _overview(args: argparse.Namespace) -> None:
    print(overview())


def overview() -> str:
    """All commands with an example each."""
    lines = [f"  {name:10}  {command.help}\n{'':12}  {command.example}" for name, command in COMMANDS.items()]
    return "\n".join(["From image crops to a verified model on an edge device.\n", *lines])


class _CommandParser(argparse.ArgumentParser):
    """The parser of a command, whose help ends with the groups that overrides choose from."""

    def format_help(self) -> str:
        """The help, with what there is in `conf/` now."""
        if any(action.dest == "overrides" for action in self._actions):
            from reidlab.places import choices, groups

            chosen = {group: choices(group) for group in groups()}
            wrap = partial(textwrap.fill, width=shutil.get_terminal_size().columns - 2, initial_indent="  ",
                           subsequent_indent=" " * 6, break_on_hyphens=False, break_long_words=False)  # fmt: skip
            lines = [wrap(f"{group}={' | '.join(names)}") for group, names in chosen.items() if len(names) > 1]
            keys = f"keys that are often changed; `reidlab config` prints all:\n{wrap(' '.join(OFTEN))}"
            self.formatter_class = argparse.RawDescriptionHelpFormatter
            self.epilog = "\n".join(["overrides choose from groups, KEY=CHOICE:", *lines, "", keys])
        return super().format_help()


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands, with completion of their arguments."""
    parser = argparse.ArgumentParser(
        prog="reidlab", description="From image crops to a verified model on an edge device."
    )
    parser.add_argument("--version", action="version", version=f"reidlab {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="command", parser_class=_CommandParser)
    parsers = {
        name: commands.add_parser(name, help=command.help, description=f"{command.help}. Example: {command.example}")
        for name, command in COMMANDS.items()
    }
    for stage in (*STAGES, "run"):
        parsers[stage].add_argument("--dry-run", action="store_true", help="say what it would do, and write nothing")
    parsers["init"].add_argument("folder", type=Path, help="the folder; one that exists keeps its files")
    parsers["run"].add_argument("--all", action="store_true", help=f"also {', '.join(ALL)}; or name them: stages=[...]")
    parsers["evaluate"].add_argument("--against", metavar="RUN", help="test the difference to another run")
    parsers["run"].add_argument(
        "--profile", action="store_true", help="write where the time went: profile.csv and .png"
    )
    parsers["publish"].add_argument("--to", required=True, metavar="DIR|hf:USER/NAME", help="a folder, or a repository")
    parsers["publish"].add_argument("--public", action="store_true", help="let all see a repository that is made now")
    parsers["compare"].add_argument("first", type=Path, help="an image")
    parsers["compare"].add_argument("second", type=Path, help="another")
    parsers["identify"].add_argument("images", type=Path, help="an image, or a folder of them")
    parsers["predict"].add_argument(
        "images",
        nargs="+",
        help="images, or folders of them; with predict.out a folder, CSV, tar archive or sequence",
    )
    parsers["enroll"].add_argument(
        "images", type=Path, help="a folder with one of images for each identity, or one that predict.out made"
    )
    parsers["forget"].add_argument("pid", help="the identity's name")
    parsers["track"].add_argument(
        "folder", type=Path, nargs="?", help="of sequences in MOTChallenge's layout; default: filmed people"
    )
    serve = parsers["serve"]
    kind = serve.add_mutually_exclusive_group()
    kind.add_argument("--gallery", metavar="DIR", help="identify, enroll and forget; default: Triton")
    kind.add_argument("--install", action="store_true", help="make Triton's own environment, 400 MB, and stop")
    serve.add_argument("--http-port", type=int, default=8000, metavar="PORT", help="default: 8000")
    serve.add_argument("--grpc-port", type=int, default=8001, metavar="PORT", help="Triton's; default: 8001")
    serve.add_argument("--host", default="127.0.0.1", help="the gallery's; default: 127.0.0.1, for this machine alone")
    serve.add_argument("--token-file", type=Path, metavar="FILE", help="with what a gallery's requests must carry")
    parsers["matrix"].add_argument("runs", nargs="+", help="names of evaluated runs")
    parsers["search"].add_argument("--trials", type=int, default=20, help="how many in all")
    for imports, what in (("import-tao", "the specification"), ("import-st", "the configuration")):
        parsers[imports].add_argument("file", type=Path, help=what)
        parsers[imports].add_argument("--name", help="of the experiment; default: the file's")
    board = parsers["dashboard"]
    board.add_argument("--runs", dest="root", type=Path, metavar="FOLDER", help="where the runs are; default: runs")
    board.add_argument("--port", type=int, default=8501, help="of 127.0.0.1; default: 8501")
    board.add_argument("--wandb", metavar="ENTITY/PROJECT", help="lay the project out at Weights & Biases instead")
    parsers["notebooks"].add_argument("-p", dest="parameters", action="append", default=[], metavar="name=value",
                                      help="experiment=NAME, or overrides='KEY=VALUE KEY=VALUE', split as by a shell, "
                                           "e.g. -p overrides='seed=1 data.size=[64,32]'")  # fmt: skip
    parsers["notebooks"].add_argument("only", nargs="*", help="names of notebooks, e.g. 01_data; default: all")
    for name, command in COMMANDS.items():
        if command.overrides:
            parsers[name].add_argument(
                "overrides", nargs=command.overrides, help="Hydra overrides, e.g. data=market1501 seed=1"
            )
        for action in parsers[name]._actions:
            action.completer = COMPLETERS.get(action.dest)  # type: ignore[attr-defined]  # argcomplete reads it
    return parser


def complete_overrides(prefix: str, **_) -> list[str]:
    """Config groups; the choices of one, or the runs there are, after its `=`; keys once a dot is typed."""
    from reidlab.places import choices, group_keys, groups

    key, given, _value = prefix.partition("=")
    if given:
        return [f"{key}={choice}" for choice in (complete_runs() if key == "run.name" else choices(key))]
    if "." in key:
        try:
            return [f"{known}=" for known in group_keys(key.partition(".")[0])]
        except InputError:  # of a file in the workspace's conf/, which the next command names
            return []
    return ["run.name=", *(f"{group}=" for group in groups())]


def complete_runs(**_) -> list[str]:
    """Names of run folders."""
    from reidlab.places import resolve_path

    return sorted(file.parent.name for file in resolve_path("runs").glob("[!.]*/config.yaml"))


def complete_notebooks(**_) -> list[str]:
    """Names of notebooks."""
    from reidlab.places import find_files

    return [*find_files("notebooks", "[0-9][0-9]_*.ipynb")]


COMPLETERS = {  # by an argument's name
    "overrides": complete_overrides,
    "runs": complete_runs,
    "against": complete_runs,
    "only": complete_notebooks,
}


def _with_file(overrides: Sequence[str]) -> list[str]:
    """Overrides in which `model=FILE` is `evaluate.file`; `model=NAME` stays a choice of the config.

    Beside a .tflite or .onnx, what is said of the model is said of the file: its mean, std and distance.
    """
    from reidlab.files import EXPORTED, is_checkpoint

    keys: dict[str, str] = {}
    pairs = [[*override.partition("=")] for override in overrides]
    for pair in pairs:
        path = Path(pair[2].strip("'\""))
        exported = path.suffix.lower() in EXPORTED
        if pair[0] == "model" and (exported or is_checkpoint(path) or path.is_file()):
            pair[0] = "evaluate.file"
            keys |= {f"model.{name}": f"evaluate.{name}" for name in ("mean", "std", "distance") if exported}
    return [f"{keys.get(key, key)}{equals}{value}" for key, equals, value in pairs]


if __name__ == "__main__":
    sys.exit(main())
