"""The one exception that means "the input is wrong", as opposed to "the program is wrong"."""


class InputError(Exception):
    """A file, row, key or value given by the user can't be used.

    The message is one line that names the culprit and says what to do; the command line prints it and exits with 2.
    """


class StorageError(InputError):
    """A file can't be written: the disk is full or read-only, or belongs to somebody else; nothing is lost by it."""
