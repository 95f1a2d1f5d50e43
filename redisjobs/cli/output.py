"""The output of a command, to a terminal with any encoding, or to a program that may stop reading."""

import errno
import io
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from redisjobs.cli.errors import Failure


class ClosedOutput(Failure):
    """The output can't be written, for example to a full disk."""


def say(text: str) -> bool:
    """Print text, and return False if stdout is a closed pipe, which is no failure of the command.

    Raises:
        ClosedOutput: The text can't be written for another reason.
    """
    return is_read(lambda: print(text, flush=True))


def is_read(write: Callable[[], object]) -> bool:
    """Write to stdout; see `say`."""
    try:
        write()
    except OSError as error:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())  # for later output, and for the flush at the end of the process
        os.close(nowhere)
        if error.errno == errno.EPIPE:
            return False
        raise ClosedOutput(f"stdout can't be written: {error.strerror}") from error
    return True


@contextmanager
def telling(done: str) -> Iterator[None]:
    """Add what the command has done to the error if its output can't be written."""
    try:
        yield
    except ClosedOutput as error:
        raise Failure(f"{done}; but {error}") from error


def accept_any_text() -> None:
    """Print an escape for a character that the terminal's encoding lacks, instead of failing."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
