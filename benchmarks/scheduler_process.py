"""One process of `python -m benchmarks.schedules`: a scheduler, or the worker that runs what schedulers push."""

import os
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import anyio

from redisjobs import JobContext, JobQueue, Schedule, Scheduler, Worker
from redisjobs.events.recording import Recording

SELDOM = Schedule.cron("0 0 29 2 *")
"""When schedules fire that are to be idle."""


@dataclass(frozen=True, slots=True)
class Tick:
    """What schedules push."""

    job_name: ClassVar[str] = "Tick"


def scheduler(queue: JobQueue, folder: str, seldom: int) -> Scheduler:
    """Fires `all`, which it declares, each second; or declares this many schedules that fire seldom, if any."""
    Recording(folder).listen(queue.events, db=0)
    if seldom < 0:
        queue.schedule(Tick(), Schedule.every(1), name="all", accuracy="all", at_most=500)
    for number in range(seldom):
        queue.schedule(Tick(), SELDOM, name=f"seldom-{number}")
    return Scheduler(queue)


def worker(queue: JobQueue, folder: str) -> Worker:
    """Runs the jobs, and writes down each start."""
    recording = Recording(folder)

    async def run(parameters: Tick, context: JobContext) -> None:
        recording.write({"what": "start", "pid": os.getpid(), "db": 0, "at": time.time(), **_told(context)})

    queue.register(Tick)(run)
    return Worker(queue)


def _told(context: JobContext) -> Mapping[str, Any]:
    return {
        "job": context.job_id,
        "name": context.job_name,
        "worker": context.worker_id,
        "attempt": context.attempt,
        "deliveries": context.deliveries,
    }


def main(role: str, url: str, name: str, folder: str, seldom: str = "-1") -> None:
    """Be that process until it is ended from outside."""
    queue = JobQueue(url, name)
    if role == "worker":
        anyio.run(worker(queue, folder).run)
    else:
        queue.register(Tick)(lambda _: None)
        anyio.run(scheduler(queue, folder, int(seldom)).run)


if __name__ == "__main__":
    main(*sys.argv[1:])
