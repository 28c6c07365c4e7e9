"""YAML and JSON from elsewhere: what is plain data is read as PyYAML and json read it, all else is a ValueError."""

import importlib.util
import json
import random
import sys

import pytest
import yaml

from reidlab import untrusted
from reidlab.untrusted import check_schema, parse_json, parse_yaml, printable

PLAIN = """
base: &base {a: 1, b: [x, 2.5, null, true]}
merged: {<<: *base, a: 2}
again: [*base, *base]
text: "${x} '??'"
"""


def test_plain_data_is_read_as_the_libraries_read_it():
    assert parse_yaml(PLAIN.encode()) == yaml.safe_load(PLAIN)
    content = {"a": [1, 2.5, None, True, "ü\n"], "b": {"c": {}}}
    assert parse_json(json.dumps(content)) == content
    assert parse_yaml(b"day: 2024-01-31") == {"day": "2024-01-31"}


@pytest.mark.parametrize("seed", range(20))
def test_any_bytes_are_data_or_a_value_error(seed):
    letters = random.Random(seed)
    for _ in range(100):
        text = bytes(
            letters.choice(b"ab: -[]{}&*!|>?%@`'\"\n\t\\,#0x_1.~=<\xff") for _ in range(letters.randint(1, 30))
        )
        for parse in (parse_yaml, parse_json):
            try:
                parse(text)
            except ValueError as error:
                assert "\n" not in str(error) or parse is parse_json


def test_a_number_beyond_all_measure_is_a_value_error():
    with pytest.raises(ValueError, match="too large"):
        parse_yaml(b"a: 1" + 200 * b":00" + b".5")


def test_without_libyaml_pyyaml_parses_by_itself(monkeypatch):
    monkeypatch.setitem(sys.modules, "yaml._yaml", None)
    spec = importlib.util.spec_from_file_location("untrusted_without_libyaml", untrusted.__file__)
    alone = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(alone)
    assert not issubclass(alone._Loader, untrusted.CParser)
    assert alone.parse_yaml(PLAIN.encode()) == parse_yaml(PLAIN.encode())
    assert alone.parse_yaml(b"day: 2024-01-31") == {"day": "2024-01-31"}
    for text in (b"a: !!python/name:os.system", b"a: 1\na: 2", b"a: &a [*a]", b"[" * 50, b"\x00", b"a: 'x"):
        for parse in (alone.parse_yaml, parse_yaml):
            with pytest.raises(ValueError):
                parse(text)


def test_keys_of_any_number_or_size_are_read_at_once():
    many = ",".join(f'"{number}": 0' for number in range(200_000))
    with pytest.raises(ValueError, match="the key '199999' twice"):
        parse_json(f'{{{many}, "199999": 1}}')
    lists = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"{name}: &{name} [{', '.join([f'*{above}'] * 10)}]\n" for above, name in ("ab", "bc", "cd")
    )
    with pytest.raises(ValueError, match="a key that is a list") as caught:
        parse_yaml(f"{lists}e:\n  ? *d\n  : n\n".encode())
    assert len(str(caught.value)) < 200


SCHEMA = {"name": str, "size": (None, int, float), "tags": (None, [str]), "inner": (None, {"on": bool, str: int})}
GOOD = [{"name": "a"}, {"name": "a", "size": 2.5, "tags": [], "inner": {"on": True, "x": 1}}, {"name": "a", "other": 1}]
BAD = {
    "name": [{}, {"name": 3}, {"name": None}],
    "size": [{"name": "a", "size": "x"}, {"name": "a", "size": True}],
    r"tags\[1\]": [{"name": "a", "tags": ["a", 1]}],
    r"inner\.on": [{"name": "a", "inner": {}}, {"name": "a", "inner": {"on": 1}}],
    r"inner\.x": [{"name": "a", "inner": {"on": True, "x": "1"}}],
    "its content": [3, [], None],
}


@pytest.mark.parametrize("value", GOOD)
def test_what_fits_its_schema_passes(value):
    check_schema(value, SCHEMA)


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in BAD.items() for value in values])
def test_what_does_not_fit_is_named_by_its_key(key, value):
    with pytest.raises(ValueError, match=f"^{key} is .*, expected "):
        check_schema(value, SCHEMA)


def test_what_a_terminal_would_obey_is_not_printed():
    assert printable("a\x1b[2Jb\ud800\tü\n") == "a\ufffd[2Jb\ufffd\tü\n"
