"""The one exception that means "the input is wrong", as opposed to "the program is wrong"."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LONGEST = 500  # characters of a library's message


class InputError(Exception):
    """A file, row, key or value given by the user can't be used.

    The message is one line that names the culprit and says what to do; the command line prints it and exits with 2.
    """


class StorageError(InputError):
    """A file can't be written: the disk is full or read-only, or belongs to somebody else; nothing is lost by it."""


def one_line(error: BaseException) -> str:
    """The message of an exception without its line breaks, cut where it is long, to be put into another's."""
    return " ".join(str(error).split())[:LONGEST]


@contextmanager
def refusing() -> Iterator[None]:
    """Answer wrong input to a program by one line on stderr, and exit status 2."""
    try:
        yield
    except InputError as error:
        print(f"{Path(sys.argv[0]).stem}: {error}", file=sys.stderr)
        sys.exit(2)
