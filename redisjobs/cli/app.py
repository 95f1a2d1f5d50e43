"""All commands, and how the process exits.

Exit codes: 0 it did what was asked; 1 it failed, or there is no such job; 2 what was typed is
wrong, or the module it names is. A worker exits with 0 only after a stop that was asked for, a finished drain, or
its share of jobs or memory.
"""

import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Annotated

import typer

from redisjobs._version import __version__
from redisjobs.cli.errors import CommandError
from redisjobs.cli.output import accept_any_text
from redisjobs.errors import RedisJobsError
from redisjobs.visible import visible


def _say_version(wanted: bool) -> None:
    if wanted:
        print(f"redisjobs {__version__}")
        raise typer.Exit


def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_say_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


_COMMANDS = {
    "worker": "redisjobs.cli.worker:worker",
    "dev": "redisjobs.cli.dev:dev",
    "demo": "redisjobs.cli.demo:demo",
    "torture": "redisjobs.cli.torture:torture",
    "push": "redisjobs.cli.push:push",
    "stats": "redisjobs.cli.stats:stats",
    "metrics": "redisjobs.cli.metrics:metrics",
    "jobs": "redisjobs.cli.jobs:list_jobs",
    "job": "redisjobs.cli.job:show_job",
    "cancel": "redisjobs.cli.cancel:cancel",
    "hold": "redisjobs.cli.hold:hold",
    "unhold": "redisjobs.cli.hold:unhold",
    "pause": "redisjobs.cli.pause:pause",
    "resume": "redisjobs.cli.pause:resume",
    "dead": "redisjobs.cli.dead:app",
    "schedules": "redisjobs.cli.schedules:app",
    "limits": "redisjobs.cli.limits:app",
}


def make(wanted: Sequence[str]) -> typer.Typer:
    """The command line, if it is about one command with that alone: the others' imports cost 30 MB and 0.2 s."""
    app = typer.Typer(
        name="redisjobs",
        help="A distributed job queue on Redis Streams.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
    )
    app.callback()(_main)
    for name in wanted[:1] if wanted and wanted[0] in _COMMANDS else _COMMANDS:
        module, _, attribute = _COMMANDS[name].partition(":")
        command = getattr(import_module(module), attribute)
        if isinstance(command, typer.Typer):
            app.add_typer(command, name=name)
        else:
            app.command(name)(command)
    return app


def run() -> None:
    """Run the command that the process was started with, and exit."""
    accept_any_text()
    try:
        make(sys.argv[1:])(prog_name="redisjobs")
    except CommandError as error:
        _exit(error, error.code)
    except RedisJobsError as error:  # the store is unavailable, no server to be found, ...
        _exit(error, 1)


def _exit(error: Exception, code: int) -> None:
    print("redisjobs:", "\n".join(map(visible, str(error).splitlines())), file=sys.stderr)
    sys.exit(code)
