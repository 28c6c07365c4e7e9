"""Pages of the documentation that are made of the code: commands, settings, messages and the Python interface.

Hooks of MkDocs, see `mkdocs.yml`; each function of `PAGES` gives pages by their path.
"""

import argparse
import ast
import contextlib
import importlib
import io
import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import yaml

import reidlab
from reidlab import cli
from reidlab.config import CLONE, CONF, choices, groups

ROOT = CLONE or Path()
DOCS = ROOT / "docs"
LIBRARY = ("data", "models", "metrics", "training", "evaluation", "gallery", "export")
SOURCE = re.compile(r"\]\(\.\./([^)#]+)\)")  # a link out of docs/


def commands() -> Iterator[tuple[str, str]]:
    """A page for each command: its help, and the pages that tell more of it."""
    subparsers = next(a for a in cli.build_parser()._actions if isinstance(a, argparse._SubParsersAction))
    pages = {page: page.read_text() for page in sorted(DOCS.glob("*.md"))}
    for name, command in cli.COMMANDS.items():
        with contextlib.redirect_stdout(io.StringIO()) as said:
            subparsers.choices[name].print_help()
        told = [page for page, text in pages.items() if re.search(rf"reidlab {name}(?![\w-])", text)]
        more = "\n".join(f"- [{title(pages[page])}](../{page.name})" for page in told)
        text = f"# reidlab {name}\n\n{sentence(command.help)}\n\n```\n{command.example}\n```\n\n"
        text += f"Ctrl-C: {command.kept}.\n\n```\n{said.getvalue().strip()}\n```\n\n"
        yield f"commands/{name}.md", text + f"Told in:\n\n{more}\n"


def settings() -> Iterator[tuple[str, str]]:
    """A page for each group of `conf/`: a table of keys, values and comments for each choice."""
    top = CONF / "config.yaml"
    yield "keys/config.md", f"# Settings of no group\n\n{_table(top, '')}"
    for group in groups():
        parts = []
        for choice in [*(file.stem for file in sorted((CONF / group).glob("_*.yaml"))), *choices(group)]:
            file = CONF / group / f"{choice}.yaml"
            text = file.read_text()
            heading = f"## `{group}={choice}`" if choice in choices(group) else f"## Shared, `{choice.strip('_')}`"
            prefix = "" if "@package _global_" in text else group
            parts.append(f"{heading}\n\n{_opening(text)}\n\n{_table(file, prefix)}")
        yield f"keys/{group}.md", f"# `{group}`\n\n" + "\n\n".join(parts)


def messages() -> Iterator[tuple[str, str]]:
    """A page of all messages of wrong input, by the module that raises them."""
    parts = []
    for file in sorted((ROOT / "reidlab").rglob("*.py")):
        tree = ast.parse(file.read_text())
        raised = [node.args[0] for node in ast.walk(tree) if _raises(node) and node.args]
        told = list(dict.fromkeys(filter(lambda text: text.strip("…:;=,. "), map(_template, raised))))
        if told:
            summary = (ast.get_docstring(tree) or "").partition("\n")[0]
            lines = "\n".join(f"- `{text.replace('`', '´')}`" for text in told)
            parts.append(f"## {summary.rstrip('.')}\n\n`{file.relative_to(ROOT)}`\n\n{lines}")
    intro = (
        "# All messages of wrong input\n\nEach is one line, and the command ends with the status 2. `…` stands for "
        "what you gave. [Troubleshooting](troubleshooting.md) has what lies behind them.\n\n"
    )
    yield "messages.md", intro + "\n\n".join(parts)


def python() -> Iterator[tuple[str, str]]:
    """A page of what `import reidlab` has, and one for each package of the library."""
    yield "api/reidlab.md", "# reidlab\n\n" + "\n".join(_documented(reidlab, name) for name in reidlab.__all__)
    for package in LIBRARY:
        module = importlib.import_module(f"reidlab.{package}")
        parts = [f"# reidlab.{package}\n\n{(module.__doc__ or '').strip()}\n"]
        if names := getattr(module, "__all__", ()):
            parts += [_documented(module, name) for name in names if hasattr(getattr(module, name), "__qualname__")]
        else:
            files = sorted((ROOT / "reidlab" / package).glob("[!_]*.py"))
            parts += [f"::: reidlab.{package}.{file.stem}\n" for file in files]
        yield f"api/{package}.md", "\n".join(parts)


PAGES = {"Commands": commands, "Settings": settings, "Messages of wrong input": messages, "Python": python}


def on_config(config: Any) -> Any:
    """List the pages that are made at the end of the navigation."""
    made = {heading: [path for path, _ in pages] for heading, pages in made_pages().items()}
    config.nav.append({"Reference": [{heading: p[0] if len(p) == 1 else p} for heading, p in made.items()]})
    return config


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that are made, and the files that pages of `docs/` link to beyond it."""
    from mkdocs.structure.files import File

    for pages in made_pages().values():
        for path, text in pages:
            files.append(File.generated(config, path, content=text))
    linked = {link for page in DOCS.glob("*.md") for link in SOURCE.findall(page.read_text())}
    for link in sorted(linked):
        files.append(File.generated(config, f"files/{link}", abs_src_path=str(ROOT / link)))
    return files


@cache
def made_pages() -> dict[str, list[tuple[str, str]]]:
    """Path and text of all pages that are made, by the heading that they stand under."""
    return {heading: [*pages()] for heading, pages in PAGES.items()}


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Lead links out of `docs/` to the copies beside the pages."""
    return SOURCE.sub(r"](files/\1)", markdown) if "/" not in page.file.src_uri else markdown


def title(text: str) -> str:
    """The heading of a page."""
    return text.partition("\n")[0].removeprefix("# ")


def sentence(text: str) -> str:
    """With a capital letter and a full stop."""
    return f"{text[:1].upper()}{text[1:]}."


def comments(file: Path, prefix: str) -> list[tuple[str, str, str]]:
    """Dotted key, value and comment of each setting of a YAML file of `conf/`."""
    text = file.read_text()
    lines = text.splitlines()

    def rows(node: yaml.MappingNode, key: str) -> Iterator[tuple[str, str, str]]:
        for name, value in node.value:
            if key == prefix and name.value == "defaults":
                continue
            own = f"{key}.{name.value}" if key else name.value
            line = name.start_mark.line
            above = line
            while above and lines[above - 1].strip().startswith("#") and "@package" not in lines[above - 1]:
                above -= 1
            said = [each.strip().lstrip("# ") for each in lines[above:line]] if above else []
            if isinstance(value, yaml.MappingNode) and not value.flow_style:
                said.append(lines[line].partition("#")[2].strip())
                yield own, "", " ".join(filter(None, said))
                yield from rows(value, own)
                continue
            end = value.end_mark
            beside = lines[end.line][end.column :] if end.line < len(lines) else ""
            said.append(beside.strip().lstrip("# ") if beside.strip().startswith("#") else "")
            shown = " ".join(text[value.start_mark.index : end.index].split())
            if getattr(value, "flow_style", None) is False or getattr(value, "style", None) in ("|", ">"):
                shown = json.dumps(yaml.SafeLoader("").construct_object(value, deep=True), ensure_ascii=False)
            yield own, shown, " ".join(filter(None, said))

    root = yaml.compose(text)
    return [*rows(root, prefix)] if isinstance(root, yaml.MappingNode) else []


def _opening(text: str) -> str:
    """The comment that a YAML file begins with."""
    lines = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        if "@package" not in line:
            lines.append(line.lstrip("# "))
    return sentence(" ".join(lines).rstrip(".")) if lines else ""


def _table(file: Path, prefix: str) -> str:
    rows = comments(file, prefix)
    cell = lambda text: text.replace("|", "\\|").replace("<", "&lt;")  # noqa: E731
    lines = [f"| `{key}` | {f'`{cell(value)}`' if value else ''} | {cell(said)} |" for key, value, said in rows]
    return "\n".join(["| key | value | |", "|---|---|---|", *lines]) if lines else ""


def _raises(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and getattr(node.func, "id", "") == "InputError"


def _template(node: ast.expr) -> str:
    """The text of a message, with `…` for what is put into it."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(_template(part) for part in node.values)
    if isinstance(node, ast.BinOp):
        return _template(node.left) + _template(node.right)
    return "…"


def _documented(module: Any, name: str) -> str:
    thing = getattr(module, name)
    home, own = getattr(thing, "__module__", module.__name__), getattr(thing, "__qualname__", name)
    return f"::: {home}.{own}\n    options:\n      heading: {module.__name__}.{name}\n"
