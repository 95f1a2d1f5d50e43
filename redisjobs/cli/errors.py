"""How a command ends that did not do what was asked: one line on stderr, and an exit code."""

import re
from collections.abc import Collection


class CommandError(Exception):
    """The root of both errors; its text is the line, `code` is what the process exits with."""

    code = 1


class Failure(CommandError):
    """What was typed made sense, but it failed, or there is no such job: exit code 1."""


class Mistake(CommandError):
    """What was typed is wrong, or the module it names is: exit code 2."""

    code = 2


def check_seconds(**options: float | None) -> None:
    """Raise a `Mistake` unless options of a command, by the names of its arguments, can be numbers of seconds."""
    for name, value in options.items():
        if value is not None and not 0 <= value < 1e10:
            raise Mistake(f"--{name.replace('_', '-')} {value:g}: give seconds from 0 up")


def mistake(error: ValueError, arguments: Collection[str], **called: str) -> Mistake:
    """Return a queue's error about its arguments for the command line, with `--limit-key 5` for `limit_key=5`.

    Arguments whose option has another name are given with that, as `job_id="--id"`.
    """

    def option(found: re.Match[str]) -> str:
        name = found[1]
        if name is None:  # quoted: a value
            return found[0]
        return called.get(name, f"--{name.replace('_', '-')}") + (" " if found[2] else "")

    names = "|".join(sorted({*arguments, *called}, key=len, reverse=True))
    quoted = r"(?<!\w)(?:'[^']*'|\"[^\"]*\")"
    return Mistake(re.sub(rf"{quoted}|\b({names})=(?=(['\"\w-])?)", option, str(error)))
