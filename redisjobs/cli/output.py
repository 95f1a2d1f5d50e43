"""What a command prints, whatever the terminal can show and whether anybody reads it."""

import errno
import io
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from redisjobs.cli.errors import Failure


class Unsaid(Failure):
    """What there is to say can't be written, on a full disk say."""


def say(text: str) -> bool:
    """Print text. That nobody reads it any more is no failure of the command, which has done what it was asked.

    Returns:
        Whether somebody reads it.

    Raises:
        Unsaid: There is no place for it.
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
    """For output that tells what a command has done: where there is no place for it, its error does."""
    try:
        yield
    except Unsaid as error:
        raise Failure(f"{done}; but {error}") from error


def accept_any_text() -> None:
    """Let what the terminal's encoding lacks be printed as its escape instead of ending the command."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
