"""The list of all commands, and the exit codes of the process.

Exit codes: 0 done; 1 failed, or no such job; 2 wrong usage, or a wrong module. A worker exits with 0 if it was
stopped, drained the queue, or reached --max-jobs or --max-rss.
"""

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer
import typer.core

from redisjobs._version import __version__
from redisjobs.base.visible import visible
from redisjobs.cli.config import Config, load
from redisjobs.cli.errors import CommandError, Mistake
from redisjobs.cli.output import accept_any_text
from redisjobs.errors import RedisJobsError


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
    "init": "redisjobs.cli.init:init",
    "dev": "redisjobs.cli.dev:dev",
    "migrate": "redisjobs.cli.migrate:migrate",
    "relay": "redisjobs.cli.relay:relay",
    "move": "redisjobs.cli.move:move",
    "demo": "redisjobs.cli.demo:demo",
    "torture": "redisjobs_proof.torture.command:torture",
    "push": "redisjobs.cli.push:push",
    "stats": "redisjobs.cli.stats:stats",
    "queues": "redisjobs.cli.queues:list_queues",
    "metrics": "redisjobs.cli.metrics:metrics",
    "web": "redisjobs.cli.web:web",
    "mcp": "redisjobs.cli.mcp:mcp",
    "jobs": "redisjobs.cli.jobs:list_jobs",
    "job": "redisjobs.cli.job:show_job",
    "why": "redisjobs.cli.why:why",
    "doctor": "redisjobs.cli.doctor:doctor",
    "signal": "redisjobs.cli.signal:signal",
    "cancel": "redisjobs.cli.jobs:cancel",
    "hold": "redisjobs.cli.jobs:hold",
    "unhold": "redisjobs.cli.jobs:unhold",
    "pause": "redisjobs.cli.pause:pause",
    "resume": "redisjobs.cli.pause:resume",
    "workers": "redisjobs.cli.workers:app",
    "dead": "redisjobs.cli.dead:app",
    "schedules": "redisjobs.cli.schedules:app",
    "limits": "redisjobs.cli.limits:app",
}


_SUPERVISED = "--supervised"
"""The option of a supervisor's processes. They get all options from it, and none from a file."""

_COMPLETE = "_REDISJOBS_COMPLETE"
"""The variable by which a shell asks what may follow; it passes no arguments."""


class _CommandGroup(typer.core.TyperGroup):
    """The group of all commands, with plain error messages for wrong options."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command; typer may repeat pydantic's message about a wrong option, so make it plain."""
        try:
            return super().invoke(ctx)
        except typer.BadParameter as error:
            from redisjobs.model.payload import plainly

            error.message = plainly(error.message) + _origin(error)
            raise


_SUMMARIES = {
    "worker": "Run jobs until SIGTERM or Ctrl-C. A second signal stops at once.",
    "init": "Write a small web application with jobs: its worker, its image, its test.",
    "dev": "Run a local Redis-compatible server until Ctrl-C, and print the URL to paste.",
    "relay": "Push the jobs that transactions of a Postgres database have written, until SIGTERM or Ctrl-C.",
    "move": "Move a queue to another store, as from Redis to Postgres: each job once.",
    "migrate": "Make or change the schema `redisjobs` of a Postgres database for this release.",
    "demo": "Hash every file of DIR in two worker processes, kill one half-way, and check that nothing is lost.",
    "torture": "Push, run, and break everything for a while; then check that no job was lost.",
    "push": (
        "Push a job whose parameters fit its registered type; print its id, and whether it was added or replaced."
    ),
    "stats": "Show how many jobs are in each state, the queue's counters, its throughput, and its workers.",
    "queues": "List queues: how many jobs and workers each has.",
    "metrics": (
        "Show metrics of whole queues, for Prometheus: jobs by state, how long they wait, workers, counters."
    ),
    "web": "Serve a page on which you see and operate queues, until Ctrl-C.",
    "mcp": "Show a queue to an AI assistant, read-only, by the Model Context Protocol on stdin and stdout.",
    "jobs": "List jobs: ready and running by priority and age, delayed or suspended by time, others newest first.",
    "job": "Show one job, with its result if it has ended and the result is kept.",
    "why": "Say why a job does not run, or what became of it, and what to do.",
    "doctor": (
        "Check a queue and its server: its data, workers, backlog and schedules; memory, clock, permissions."
    ),
    "signal": "Send a signal to a job, which takes it by `context.wait_for`.",
    "cancel": "Cancel a job: remove a waiting job, or cancel a running handler. Or cancel all jobs of a state.",
    "hold": "Stop a waiting job, or all jobs of a state, from starting until `unhold`. It keeps its place.",
    "unhold": "Let a held job, or all held jobs of a state, start again.",
    "pause": "Stop the jobs of a queue, or of one name, from starting until `resume`. Running jobs go on.",
    "resume": "Let the jobs of a queue, or of one paused name, start again.",
    "workers": "List the workers of a queue: which jobs each runs, how many at once, and since when. Or stop one.",
    "dead": "Dead letters: jobs that failed for good, kept for you to look at.",
    "schedules": "Schedules: jobs that are pushed again and again, and when.",
    "limits": "Limits: how many jobs of a name run at once in all workers, and how many may start per time.",
}
"""The first paragraph of each command's docstring; `--help` shows it without importing the command."""


def make(typed: Sequence[str] | None = None) -> typer.Typer:
    """Return the command line with all commands, or only with what the typed arguments need.

    If the arguments begin with a command, the command line has only this one. Else it lists the commands that the
    arguments don't name, as `--help` does, without importing them: that would take 30 MB and half a second.
    """
    app = typer.Typer(
        name="redisjobs",
        cls=_CommandGroup,
        help="A distributed job queue on Redis Streams or Postgres.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
    )
    app.callback()(_main)
    for name in typed[:1] if typed and typed[0] in _COMMANDS else _COMMANDS:
        if typed is None or name in typed:
            _add(app, name)
        else:
            app.command(name, help=_SUMMARIES[name])(_listed)
    return app


def _origin(error: typer.BadParameter) -> str:
    """Return which file has a wrong default of an option, or ''."""
    if error.ctx is None or error.param is None or error.param.name is None:
        return ""
    source = error.ctx.get_parameter_source(error.param.name)
    return f" ({error.ctx.obj.file})" if source is not None and source.name == "DEFAULT_MAP" else ""


def _add(app: typer.Typer, name: str) -> None:
    module, _, attribute = _COMMANDS[name].partition(":")
    try:
        command = getattr(import_module(module), attribute)
    except ModuleNotFoundError as missing:
        if (missing.name or "").partition(".")[0] != "redisjobs_proof":
            raise
        raise Mistake(
            f"`redisjobs {name}` needs redisjobs-proof; in a checkout of redisjobs: pip install ./proof"
        ) from None
    if isinstance(command, typer.Typer):
        app.add_typer(command, name=name)
    else:
        app.command(name)(command)


def _listed() -> None:
    raise AssertionError("this command was not typed")


def _config(typed: Sequence[str]) -> Config:
    """Return the defaults of a file. Modules beside it can be imported, also from a directory below it."""
    config = load()
    if config.file is not None and config.file.parent != Path.cwd():  # that one comes before installed packages
        sys.path.append(str(config.file.parent))
    return Config() if _SUPERVISED in typed else config


def _words() -> list[str]:
    """Return the whole words of the line that a shell completes."""
    line = os.environ.get("COMP_WORDS") or os.environ.get("_TYPER_COMPLETE_ARGS") or ""
    return f"{line}.".split()[1:-1]


def run() -> None:
    """Run the command in `sys.argv`, and exit."""
    accept_any_text()
    completes = _COMPLETE in os.environ
    typed = _words() if completes else sys.argv[1:]
    try:
        command: Any = typer.main.get_command(make(typed))
        config = _config(typed) if typed[:1] and typed[0] in _COMMANDS and not completes else Config()
        defaults = config.defaults(command)
        for name in defaults:
            command.commands[name].epilog = f"Some defaults come from {config.file}."
        command(prog_name="redisjobs", obj=config, default_map=defaults)
    except CommandError as error:
        _exit(error, error.code)
    except RedisJobsError as error:  # Redis is unavailable, no local server was found, ...
        _exit(error, 1)


def _exit(error: Exception, code: int) -> None:
    print("redisjobs:", "\n".join(map(visible, str(error).splitlines())), file=sys.stderr)
    sys.exit(code)
