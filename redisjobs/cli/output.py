"""What a command prints, whatever the terminal can show and whether anybody reads it."""

import io
import os
import sys


def say(text: str) -> bool:
    """Print text. That nobody reads it any more is no failure of the command, which has done what it was asked.

    Returns:
        Whether somebody reads it.
    """
    try:
        print(text, flush=True)
    except BrokenPipeError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())  # for what is printed later, and for the flush when the process ends
        os.close(nowhere)
        return False
    return True


def accept_any_text() -> None:
    """Let what the terminal's encoding lacks be printed as its escape instead of ending the command."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
