"""What a command prints, on any terminal, or to a program that has stopped reading."""

import errno
import io
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from redisjobs.cli.errors import Failure


class Unsaid(Failure):
    """Output that can't be written, for example on a full disk."""


def say(text: str) -> bool:
    """Print text, and return whether a program still reads stdout.

    A closed pipe is no failure of the command. If the text can't be written, `Unsaid` is raised.
    """
    return is_read(lambda: print(text, flush=True))


def is_read(write: Callable[[], object]) -> bool:
    """Write to stdout; see `say`."""
    try:
        write()
    except OSError as error:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())  # for what is printed later, and for the flush when the process ends
        os.close(nowhere)
        if error.errno == errno.EPIPE:
            return False
        raise Unsaid(f"stdout can't be written: {error.strerror}") from error
    return True


@contextmanager
def telling(done: str) -> Iterator[None]:
    """Add what a command has done to the error, if its output can't be written."""
    try:
        yield
    except Unsaid as error:
        raise Failure(f"{done}; but {error}") from error


def accept_any_text() -> None:
    """Print a character that the terminal's encoding lacks as its escape, instead of ending the command."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
