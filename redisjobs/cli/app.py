"""All commands, and how the process exits.

Exit codes: 0 it did what was asked; 1 it failed, or there is no such job; 2 what was typed is
wrong, or the module it names is. A worker exits with 0 only after a stop that was asked for, or a finished drain.
"""

import sys
from typing import Annotated

import typer

from redisjobs import __version__
from redisjobs.cli import jobs, letters, local, worker
from redisjobs.cli.demo.command import demo
from redisjobs.cli.fault import Fault
from redisjobs.cli.torture.command import torture
from redisjobs.errors import RedisJobsError

app = typer.Typer(
    name="redisjobs",
    help="A distributed job queue on Redis Streams.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _say_version(wanted: bool) -> None:
    if wanted:
        print(f"redisjobs {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_say_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


app.command("worker")(worker.worker)
app.command("dev")(local.dev)
app.command("demo")(demo)
app.command("torture")(torture)
app.command("push")(jobs.push)
app.command("stats")(jobs.stats)
app.command("jobs")(jobs.list_jobs)
app.command("job")(jobs.show_job)
app.command("cancel")(jobs.cancel)
app.add_typer(letters.app, name="dead")


def run() -> None:
    """Run the command that the process was started with, and exit."""
    try:
        app(prog_name="redisjobs")
    except Fault as fault:
        _exit(fault, fault.code)
    except RedisJobsError as error:  # the store is away, no server to be found, ...
        _exit(error, 1)


def _exit(error: Exception, code: int) -> None:
    print(f"redisjobs: {error}", file=sys.stderr)
    sys.exit(code)
