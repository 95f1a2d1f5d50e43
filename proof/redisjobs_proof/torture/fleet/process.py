"""A worker process of the torture: its environment, its recording, and its end."""

import functools
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Unpack

from redisjobs.errors import JobSuspended
from redisjobs.events import Events
from redisjobs.events.recording import Recording
from redisjobs.model.context import JobContext
from redisjobs.model.job import Named
from redisjobs.model.options import PushOptions
from redisjobs_proof.torture.fleet import detour
from redisjobs_proof.torture.fleet.store import MARK

QUEUE, RECORDINGS, LIFELINE, DATABASE, LEASE, OLD, OTHER_RULE, PROXIES = (
    f"REDISJOBS_TORTURE_{what}"
    for what in ("QUEUE", "RECORDINGS", "LIFELINE", "DATABASE", "LEASE", "OLD", "OTHER_RULE", "PROXIES")
)
"""Variables of a worker's environment: the queue's name, the folder of the recordings, a port that is closed when
the torture ends, the database, the lease, whether the worker plays an older release that lacks a job, whether its
schedule has another rule, and the proxies in front of a topology's servers."""

_LOOK, _STALL = 0.25, 0.5  # seconds between two looks at the interpreter; seconds of delay that count as a stall


def take_proxies() -> None:
    """Let this process connect by way of the proxies in front of a topology's servers, if there are any."""
    if proxies := os.environ.get(PROXIES):
        detour.install(detour.read(proxies))


def begin(events: Events) -> None:
    """Turn this process into a worker of the torture, and record every event."""
    _end_with_the_torture()
    _keep_the_log_readable()
    _watch_the_interpreter()
    note("hello", parent=os.getppid(), lease=float(os.environ[LEASE]))
    _recording().listen(events, db=_database())


@contextmanager
def noted(context: JobContext, **facts: str | int) -> Iterator[None]:
    """Record the start and the end of a handler, and how it ended."""
    line = {"job": context.job_id, "mark": context.headers.get(MARK, ""), **_lease(context)}
    note("start", name=context.job_name, **facts, **line)
    result = "cut"
    try:
        yield
        result = "done"
    except JobSuspended:
        result = "suspended"
        raise
    except Exception:
        result = "raised"
        raise
    finally:
        note("end", result=result, **line)


def result(context: JobContext) -> dict[str, Any]:
    """Return the result of a handler: its job and its run."""
    return {"job": context.job_id, **_lease(context)}


def follow_up(context: JobContext, parameters: Named, **options: Unpack[PushOptions]) -> None:
    """Push a follow-up, and record that this run pushes it."""
    pushed = context.push(parameters, **options)
    facts = {"kept": bool(options.get("keep_result")), "delay": options.get("delay") or 0.0}
    note("follow-up", job=pushed.id, name=parameters.job_name, parent=context.job_id, **facts, **_lease(context))


def of_flow(what: str, context: JobContext, key: int, **facts: Any) -> None:
    """Record what a run did in one of its steps or waits; `key` tells it from the job's others of its kind."""
    note(what, job=context.job_id, key=key, **facts, **_lease(context))


def fail_until(attempt: int, context: JobContext) -> None:
    """Fail before this attempt."""
    if context.attempt < attempt:
        raise RuntimeError(f"attempt {context.attempt} fails, as it should")


def _lease(context: JobContext) -> dict[str, Any]:
    """Return the lease of a handler."""
    return {"worker": context.worker_id, "attempt": context.attempt, "deliveries": context.deliveries}


def note(what: str, **facts: object) -> None:
    """Write a line into this process' recording."""
    _recording().write({"what": what, "pid": os.getpid(), "db": _database(), "at": time.time(), **facts})


def _database() -> int:
    return int(os.environ.get(DATABASE, "0"))


@functools.cache
def _recording() -> Recording:
    return Recording(os.environ[RECORDINGS])


def _end_with_the_torture() -> None:
    """End as soon as the torture ends, even if it is killed: then its listening socket is gone.

    Standard input would not work, because children of a supervisor may have a different one.
    """
    line = socket.create_connection(("127.0.0.1", int(os.environ[LIFELINE])))

    def wait() -> None:
        try:
            while line.recv(1):
                pass
        finally:
            os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _watch_the_interpreter() -> None:
    """Record when this thread did not get to run, because leases may run out then.

    If the process used the processor meanwhile, one of its threads kept the interpreter locked. Otherwise the
    process was stopped, or the machine was too busy.
    """

    def watch() -> None:
        while True:
            began, used = time.time(), time.process_time()
            time.sleep(_LOOK)
            now, late = time.time(), time.time() - began - _LOOK
            if late > _STALL:
                busy = time.process_time() - used > _STALL
                facts = {"busy": busy, "hits": "" if busy else "pids", "pids": [os.getpid()]}
                note(
                    "stall", name="process stood still", began=began, ended=now, lingers=0.0, reaches=0.0, **facts
                )

    threading.Thread(target=watch, daemon=True).start()


def _keep_the_log_readable() -> None:
    """Leave accepted outcomes of jobs out of the log: many jobs fail on purpose, and the recording has them."""
    logging.getLogger("redisjobs.worker").addFilter(lambda record: getattr(record, "reply", "") != "OK")
