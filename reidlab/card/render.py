"""A card as a page and as Markdown; what comes from names and configs is text in both, never markup."""

import base64
import re
from pathlib import Path
from urllib.parse import quote

import yaml
from jinja2 import Environment, PackageLoader
from markupsafe import Markup

from reidlab.card.parts import Card, Cell, Code, Column, Link

TYPES = {".png": "image/png", ".svg": "image/svg+xml"}
SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~$])")


def environment(escape: bool) -> Environment:
    """Jinja with the package's templates."""
    found = Environment(loader=PackageLoader("reidlab.card"), autoescape=escape, trim_blocks=True, lstrip_blocks=True)
    found.filters |= {"href": quote, "number": number}
    return found


def page_environment() -> Environment:
    """Jinja for pages."""
    found = environment(escape=True)
    found.filters |= {"cell": _html_cell, "code": _html_code}
    return found


def html(card: Card, folder: Path) -> str:
    """One self-contained page; its pictures are those of the run folder."""
    pages = page_environment()
    pages.filters |= {"picture": lambda path: data_uri(folder / path)}
    return pages.get_template("card.html").render(card=card)


def markdown(card: Card) -> str:
    """Markdown with the front matter of model hubs; pictures and files are links into the run folder."""
    pages = environment(escape=False)
    pages.filters |= {"cell": _markdown_cell, "text": text, "md_code": md_code}
    front = yaml.safe_dump(card.metadata, sort_keys=False, allow_unicode=True, width=1000)
    return pages.get_template("card.md").render(card=card, front_matter=front)


def data_uri(file: Path) -> str:
    """A picture as a data URI."""
    return f"data:{TYPES[file.suffix]};base64,{base64.b64encode(file.read_bytes()).decode()}"


def number(value: Cell, format: str = "") -> str:
    """A cell as plain text: unknown is a dash, truth is yes or no."""
    if value is None or value != value:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value) if isinstance(value, str) else f"{value:{format}}"


def text(value: str) -> str:
    """Words as Markdown shows them: one line, nothing in them is markup; `code` stays."""
    parts = " ".join(value.split()).split("`")
    if len(parts) % 2 == 0:
        return SPECIAL.sub(r"\\\1", "`".join(parts))
    return "".join(f"`{part}`" if number % 2 else SPECIAL.sub(r"\\\1", part) for number, part in enumerate(parts))


def md_code(value: str) -> str:
    """A command as Markdown code, whatever backticks and bars it has."""
    fence = "`" * (max(map(len, re.findall("`+", value)), default=0) + 1)
    pad = " " if value[:1] == "`" or value[-1:] == "`" else ""
    return f"{fence}{pad}{value}{pad}{fence}".replace("|", "\\|")


def _markdown_cell(value: Cell, column: Column) -> str:
    if isinstance(value, Link):
        return f"[{text(value.text or value.path)}]({quote(value.path)})"
    return md_code(value.text) if isinstance(value, Code) else text(number(value, column.format))


def _html_cell(value: Cell, column: Column) -> Markup:
    if isinstance(value, Link):
        return Markup('<a href="{}">{}</a>').format(quote(value.path), value.text or value.path)
    return (
        Markup("<code>{}</code>").format(value.text)
        if isinstance(value, Code)
        else Markup.escape(number(value, column.format))
    )


def _html_code(value: str) -> Markup:
    """Words with `code` in them."""
    parts = value.split("`")
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if number % 2 and len(parts) % 2 else Markup.escape(part)
        for number, part in enumerate(parts)
    )
