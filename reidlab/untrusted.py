"""From elsewhere: YAML and JSON, as plain data that can't grow while it is read, and requests of a browser."""

import contextlib
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import yaml
from yaml.composer import Composer
from yaml.constructor import SafeConstructor
from yaml.parser import Parser
from yaml.reader import Reader
from yaml.resolver import Resolver
from yaml.scanner import Scanner

MAX_YAML_BYTES, MAX_JSON_BYTES = 256 << 10, 8 << 20
MAX_DEPTH = 40
MAX_NODES = 50_000  # of a YAML document, what its aliases stand for included
MAX_INTEGER = 2**63
# What a terminal obeys (control characters, changes of the direction of writing), and halves of surrogate pairs, which
# no file in UTF-8 takes.
UNPRINTABLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
OWN_HOST = re.compile(r"(127\.0\.0\.1|localhost|\[::1\])(:\d+)?", re.IGNORECASE)


def parse_yaml(text: bytes) -> Any:
    """Parse YAML without tags; a date is text. ValueError for all that isn't plain data, or is too much of it."""
    if len(text) > MAX_YAML_BYTES:
        raise ValueError(f"{len(text):,} bytes, more than {MAX_YAML_BYTES:,}")
    try:
        return _checked(_Loader(text).get_single_data())
    except (yaml.YAMLError, IndexError, OverflowError) as error:  # of 0x_, without digits, and of 1:00: ... :00.5
        raise ValueError(" ".join(str(error).replace('in "<byte string>", ', "at ").split())) from error


def parse_json(text: str | bytes) -> Any:
    """Parse JSON; ValueError for all that isn't plain data, or is too much of it."""
    if len(text) > MAX_JSON_BYTES:
        raise ValueError(f"{len(text):,} bytes, more than {MAX_JSON_BYTES:,}")
    try:
        return _checked(json.loads(text, object_pairs_hook=_unique, parse_float=_finite, parse_constant=_finite))
    except RecursionError as error:
        raise ValueError(f"nested deeper than {MAX_DEPTH}") from error


def printable(text: str) -> str:
    """The text without what a terminal would obey, such as a file's name may hold."""
    return UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", text)


def is_own_host(host: str) -> bool:
    """Whether a request's `Host` is this machine's for itself, and no name of elsewhere that leads here."""
    return OWN_HOST.fullmatch(host) is not None


def is_own_origin(origins: Iterable[str], host: str, schemes: Iterable[str] = ("http",)) -> bool:
    """Whether a request's `Origin`s, which browsers add, are of the page that the same host has sent."""
    return {*origins} <= {f"{scheme}://{host}" for scheme in schemes}


def check_schema(value: Any, schema: Any, place: str = "") -> None:
    """Raise ValueError where a value isn't as its schema says, by its dotted key.

    A schema is a type, None for null and for a key that is absent, `[schema]` for a list, a mapping of schemas by key,
    where `str` stands for all keys that aren't named, or a tuple of alternatives. True is no number.
    """
    if isinstance(schema, tuple):
        for alternative in schema[:-1]:
            with contextlib.suppress(ValueError):
                return check_schema(value, alternative, place)
        check_schema(value, schema[-1], place)
    elif isinstance(schema, Mapping):
        _require(isinstance(value, Mapping), place, "a mapping", value)
        for key in {**schema, **value}:
            if key is not str:
                below = f"{place}.{key}" if place else str(key)
                check_schema(value.get(key), schema.get(key, schema.get(str, object)), below)
    elif isinstance(schema, list):
        _require(isinstance(value, list), place, "a list", value)
        for number, child in enumerate(value):
            check_schema(child, schema[0], f"{place}[{number}]")
    elif schema is None:
        _require(value is None, place, "null", value)
    else:
        fits = isinstance(value, schema) and (schema in (bool, object) or not isinstance(value, bool))
        _require(fits, place, schema.__name__, value)


def _require(fits: bool, place: str, expected: str, value: Any) -> None:
    if not fits:
        raise ValueError(f"{place or 'its content'} is {str(value)[:60]!r}, expected {expected}")


class _PythonParser(Reader, Scanner, Parser):
    """PyYAML's own parser, for where it was built without libyaml."""

    def __init__(self, stream: bytes) -> None:
        Reader.__init__(self, stream)
        Scanner.__init__(self)
        Parser.__init__(self)


try:
    from yaml._yaml import CParser
except ImportError:
    CParser = _PythonParser  # type: ignore[assignment,misc]


class _Loader(Composer, CParser, SafeConstructor, Resolver):
    """A loader that counts what aliases stand for before anything is built, and refuses tags and repeated keys.

    PyYAML's own but for the parser, which is libyaml's where it is there: opening a run takes two thirds of the time.
    """

    yaml_implicit_resolvers = {  # noqa: RUF012 (as PyYAML has it)
        first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def __init__(self, stream: bytes) -> None:
        CParser.__init__(self, stream)
        for part in (Composer, SafeConstructor, Resolver):
            part.__init__(self)
        self.depth, self.sizes = 0, dict[int, int]()  # nodes below a node, by its id

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.depth > MAX_DEPTH:
            raise yaml.YAMLError(f"nested deeper than {MAX_DEPTH}")
        if tag := getattr(self.peek_event(), "tag", None):
            raise yaml.YAMLError(f"holds the tag {tag}; write plain values")
        is_alias = self.check_event(yaml.AliasEvent)
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        if node is not None and not is_alias:
            if isinstance(node, yaml.MappingNode):
                if not all(isinstance(key, yaml.ScalarNode) for key, _ in node.value):
                    raise yaml.YAMLError("holds a key that is a list or a mapping; write plain keys")
                _unique([(str(key.value), None) for key, _ in node.value])
            self.sizes[id(node)] = 1 + sum(self.sizes.get(id(child), MAX_NODES) for child in _children(node))
        if self.sizes.get(id(node), MAX_NODES + 1) > MAX_NODES:  # one that isn't counted yet holds itself
            raise yaml.YAMLError(f"holds more than {MAX_NODES:,} values, or itself, by its aliases")
        return node


def _children(node: yaml.Node) -> Sequence[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [child for pair in node.value for child in pair]
    return node.value if isinstance(node, yaml.SequenceNode) else []


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(found := dict(pairs)) == len(pairs):
        return found
    times = Counter(key for key, _ in pairs)
    twice = next(key for key in times if times[key] > 1)
    raise ValueError(f"has the key '{twice[:60]}' twice")


def _finite(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ValueError(f"holds {text}, which is no finite number")
    return value


def _checked(node: Any, depth: int = 0) -> Any:
    """Return the data unchanged; ValueError for a value that no file of this project holds."""
    if depth > MAX_DEPTH:
        raise ValueError(f"nested deeper than {MAX_DEPTH}")
    if isinstance(node, str) and (found := UNPRINTABLE.search(node)):
        raise ValueError(f"holds the character {found[0]!r}")
    if isinstance(node, int) and abs(node) >= MAX_INTEGER:
        raise ValueError("holds an integer of more than 64 bits")
    if isinstance(node, dict | list):
        for child in [*node, *node.values()] if isinstance(node, dict) else node:
            _checked(child, depth + 1)
    return node
