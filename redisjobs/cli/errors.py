"""How a command ends that did not do what was asked: one line on stderr, and an exit code."""


class CommandError(Exception):
    """The root of both; its text is the line.

    Attributes:
        code: What the process exits with.
    """

    code = 1


class Failure(CommandError):
    """What was typed made sense, but it failed, or there is no such job: exit code 1."""


class Mistake(CommandError):
    """What was typed is wrong, or the module it names is: exit code 2."""

    code = 2


def check_seconds(**options: float | None) -> None:
    """Whether options of a command, by the names of its arguments, can be numbers of seconds.

    Raises:
        Mistake: One can't.
    """
    for name, value in options.items():
        if value is not None and not 0 <= value < 1e10:
            raise Mistake(f"--{name.replace('_', '-')} {value:g}: give seconds from 0 up")
