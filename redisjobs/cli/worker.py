"""The command that runs a worker."""

import asyncio
import importlib.util
import os
import re
import signal
import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer

from redisjobs.cli.errors import Mistake, check_seconds
from redisjobs.cli.log import LogFormat, LogLevel, configure
from redisjobs.cli.probes import serve
from redisjobs.cli.shutdown import Shutdown
from redisjobs.cli.target import Moved, Target, load
from redisjobs.errors import RedisJobsError
from redisjobs.logger import Log
from redisjobs.registry import Registry
from redisjobs.worker.child import PROGRAM, End, Pipe
from redisjobs.worker.guard import run_as_main
from redisjobs.worker.supervisor import Supervisor
from redisjobs.worker.worker import Worker

logger = Log("redisjobs.worker")


_SIZE = re.compile(r"(\d+)\s*([kmg]?)(?:i?b)?", re.IGNORECASE)
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}


def _size(text: str) -> int:
    """Bytes, of `400MB`."""
    match = _SIZE.fullmatch(text.strip())
    if match is None or not int(match[1]):
        raise typer.BadParameter(f"{text!r} is no size, as 400MB is")
    return int(match[1]) * _UNITS[match[2].lower()]


def worker(
    target: Target,
    concurrency: Annotated[
        int, typer.Option("--concurrency", "-c", min=1, help="Jobs run at once, in each process.")
    ] = 10,
    processes: Annotated[
        int | None,
        typer.Option("--processes", "-p", min=1, help="Run so many, and start those anew that end."),
    ] = None,
    url: Moved = None,
    until_idle: Annotated[bool, typer.Option("--until-idle", help="Exit when nothing is left to run.")] = False,
    lease: Annotated[
        float, typer.Option(min=0.1, help="Seconds after which a dead worker's jobs run elsewhere.")
    ] = 15,
    grace: Annotated[
        float, typer.Option(min=0, help="Seconds that running jobs may finish in, after a stop.")
    ] = 25,
    max_deliveries: Annotated[
        int, typer.Option(min=1, help="So often a job is delivered without an outcome; then it is a dead letter.")
    ] = 3,
    unknown_for: Annotated[
        float, typer.Option(min=0, help="Seconds that a job whose name has no handler anywhere is kept.")
    ] = 3600,
    max_jobs: Annotated[
        int | None, typer.Option(min=1, help="End a process after so many jobs, once they are done.")
    ] = None,
    max_rss: Annotated[
        int | None,
        typer.Option(parser=_size, metavar="SIZE", help="The same with more memory in use than, say, 400MB."),
    ] = None,
    abandoned: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Start no sync handler with so many threads of such that timed out; as many as -c if not given.",
        ),
    ] = None,
    health: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Answer /livez and /readyz there.")
    ] = None,
    log_level: Annotated[LogLevel, typer.Option(case_sensitive=False, help="How much is logged.")] = LogLevel.INFO,
    log: Annotated[
        LogFormat, typer.Option(case_sensitive=False, help="Lines of text or of JSON.")
    ] = LogFormat.TEXT,
    supervised: Annotated[int | None, typer.Option(hidden=True)] = None,
) -> None:
    """Run jobs until SIGTERM or Ctrl-C; a second one stops at once.

    With --processes a supervisor starts that many and keeps them running: one that dies is started anew, and its
    jobs are handed to the others at once.

    Exit codes: 0 a stop that was asked for, a finished drain, or its share of jobs or memory had; 1 it had to end;
    2 what was typed is wrong.
    """
    check_seconds(lease=lease, grace=grace, unknown_for=unknown_for)
    configure(log_level, log)  # before the user's module is imported, which may have its own idea of logging
    shutdown = Shutdown(grace, supervised=supervised is not None) if processes is None else None
    queue = load(target, url)
    limits: dict[str, Any] = {
        "concurrency": concurrency,
        "lease": lease,
        "grace": grace,
        "max_deliveries": max_deliveries,
        "unknown_for": unknown_for,
        "max_jobs": max_jobs,
        "max_rss": max_rss,
        "abandoned": abandoned,
    }
    try:
        worker = Worker(queue, supervised=supervised is not None, **limits)
    except ValueError as error:
        raise Mistake(str(error)) from error
    if shutdown is None:
        command = [*PROGRAM, "worker", target, "--log-level", log_level.value, "--log", log.value]
        for name, value in limits.items():
            if value is not None:
                command += [f"--{name.replace('_', '-')}", str(value)]
        if until_idle:
            command.append("--until-idle")
        sys.exit(_supervise(queue, command, processes or 1, lease, grace, health, url))
    if health is not None:
        serve(health, lambda: worker.health)
    pipe = Pipe(supervised, lambda: worker.worker_id) if supervised is not None else None
    if pipe is not None:
        pipe.follow(lambda: worker.health, shutdown.stop)
    shutdown.leave(_run(worker, until_idle, shutdown, pipe))


def _supervise(
    queue: Registry,
    command: list[str],
    processes: int,
    lease: float,
    grace: float,
    health: str | None,
    url: str | None,
) -> int:
    if sys.platform == "win32":
        raise Mistake("--processes needs a POSIX system; start several workers instead")
    if hasattr(queue.driver, "memory"):
        raise Mistake("memory:// is a queue inside one process, which other processes can't share")
    if url is not None:
        os.environ["REDISJOBS_URL"] = url  # not as an argument of theirs: it may hold a password
    supervisor = Supervisor(queue, command, processes, lease=lease, grace=grace)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: supervisor.stop())
    if health is not None:
        serve(health, lambda: supervisor.health)
    return supervisor.run()


def _run(worker: Worker, until_idle: bool, shutdown: Shutdown, pipe: Pipe | None) -> int:
    """Run it; the exit code, whatever a handler may have raised through the event loop."""
    code, told = 1, None
    shutdown.attach(worker)
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            try:
                run_as_main(runner.get_loop(), worker.run(until_idle=until_idle))
                code = 0
                if pipe is not None:
                    pipe.end(_end(worker, drained=until_idle and not shutdown.asked))
            except BaseException as error:  # SystemExit as well: it comes from a handler, whose code is not ours
                _tell(told := error)
                raise
            finally:  # before the loop is closed, which waits for whatever handlers left in it
                shutdown.hurry(code)
    except BaseException as error:
        if error is not told:
            logger.exception("the event loop was not closed in order")
    return code


def _tell(error: BaseException) -> None:
    if isinstance(error, RedisJobsError):
        logger.error("the worker had to end: %s", error)
    else:
        logger.error("the worker had to end", exc_info=error)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    if importlib.util.find_spec("uvloop") is None:
        return None
    import uvloop

    return uvloop.new_event_loop


def _end(worker: Worker, *, drained: bool) -> End:
    if worker.hindered:
        return End.HINDERED
    if worker.recycled:
        return End.SHARE
    return End.DRAINED if drained else End.STOPPED
