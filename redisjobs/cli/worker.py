"""The command that runs a worker."""

import importlib.util
import logging
import sys
import time
from enum import StrEnum
from typing import Annotated

import anyio
import typer

from redisjobs.cli.ending import Ending
from redisjobs.cli.fault import Mistake
from redisjobs.cli.target import Moved, Target, load
from redisjobs.errors import RedisJobsError
from redisjobs.waker import waker
from redisjobs.worker import Worker

logger = logging.getLogger("redisjobs.worker")


class LogLevel(StrEnum):
    """How much is logged."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


def worker(
    target: Target,
    concurrency: Annotated[int, typer.Option("--concurrency", "-c", min=1, help="Jobs run at once.")] = 10,
    url: Moved = None,
    until_idle: Annotated[bool, typer.Option("--until-idle", help="Exit when nothing is left to run.")] = False,
    lease: Annotated[
        float, typer.Option(min=0.1, help="Seconds after which a dead worker's jobs run elsewhere.")
    ] = 15,
    grace: Annotated[
        float, typer.Option(min=0, help="Seconds that running jobs may finish in, after a stop.")
    ] = 25,
    log_level: Annotated[LogLevel, typer.Option(case_sensitive=False, help="How much is logged.")] = LogLevel.INFO,
) -> None:
    """Run jobs until SIGTERM or Ctrl-C; a second one stops at once.

    Exit codes: 0 a stop that was asked for, or a finished drain; 1 it had to end; 2 what was typed is wrong.
    """
    _configure_logging(log_level)
    ending = Ending(grace)
    queue = load(target, url)
    try:
        worker = Worker(queue, concurrency=concurrency, lease=lease, grace=grace)
    except ValueError as error:
        raise Mistake(str(error)) from error
    ending.leave(_run(worker, until_idle, ending))


def _configure_logging(level: LogLevel) -> None:
    # Before the user's module is imported, which may have its own idea of logging.
    line = logging.Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s")
    line.converter = time.gmtime
    line.default_time_format, line.default_msec_format = "%Y-%m-%dT%H:%M:%S", "%s.%03dZ"
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(line)
    logging.basicConfig(level=level.upper(), handlers=[handler])


def _run(worker: Worker, until_idle: bool, ending: Ending) -> int:
    async def work() -> None:
        ending.attach(worker, waker())
        if not ending.asked:
            await worker.run(until_idle=until_idle)

    fast = importlib.util.find_spec("uvloop") is not None
    try:
        anyio.run(work, backend_options={"use_uvloop": fast})
    except RedisJobsError as error:
        logger.error("the worker had to end: %s", error)
        return 1
    except Exception:
        logger.exception("the worker had to end")
        return 1
    return 0
