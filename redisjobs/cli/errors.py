"""The errors of a command: each prints one line on stderr and sets the exit code."""

import re
from collections.abc import Collection


class CommandError(Exception):
    """The root of the errors. Its text is printed, and `code` is the exit code."""

    code = 1


class Failure(CommandError):
    """The command failed, or there is no such job: exit code 1."""


class Mistake(CommandError):
    """Wrong arguments, or a wrong module: exit code 2."""

    code = 2


def check_seconds(**options: float | None) -> None:
    """Raise a `Mistake` if an option, given by the name of its argument, can't be a number of seconds."""
    for name, value in options.items():
        if value is not None and not 0 <= value < 1e10:
            raise Mistake(f"--{name.replace('_', '-')} {value:g}: give seconds from 0 up")


def mistake(error: ValueError, arguments: Collection[str], **called: str) -> Mistake:
    """Return a queue's error about arguments as an error about options: `--limit-key 5` for `limit_key=5`.

    If an option has another name than its argument, pass it: `job_id="--id"`.
    """

    def option(found: re.Match[str]) -> str:
        name = found[1]
        if name is None:  # quoted: a value
            return found[0]
        return called.get(name, f"--{name.replace('_', '-')}") + (" " if found[2] else "")

    names = "|".join(sorted({*arguments, *called}, key=len, reverse=True))
    quoted = r"(?<!\w)(?:'[^']*'|\"[^\"]*\")"
    return Mistake(re.sub(rf"{quoted}|\b({names})=(?=(['\"\w-])?)", option, str(error)))
