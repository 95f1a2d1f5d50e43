"""One producer in one database; it records each attempt and each answer."""

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol

import anyio

from redisjobs import sync
from redisjobs.errors import DriverError, QueueFull
from redisjobs.model.job import Priority, PushedJob
from redisjobs.model.transitions import After, Due, NewJob

PAUSE = 0.2
"""Seconds between two tries of a push."""

_GIVE_UP = 30.0  # seconds after which we give a push up; it is safe to repeat it for a minute


class Lines(Protocol):
    """Where lines are recorded."""

    def write(self, line: Mapping[str, Any], /) -> None: ...  # noqa: D102


class Producer:
    """Pushes and cancels in one database, and records each attempt and each answer."""

    def __init__(self, recording: Lines, db: int) -> None:
        self.recording, self.db = recording, db

    def note(self, what: str, **facts: Any) -> None:
        """Write a line."""
        self.recording.write({"what": what, "at": time.time(), "db": self.db, **facts})

    def push(
        self, pushed: Sequence[NewJob], send: Callable[[], Sequence[PushedJob]], *, again: bool = False
    ) -> bool:
        """Push, with repetitions; return whether it was acknowledged. `again`: the same push has failed before."""
        self.note_attempt(pushed)
        until = time.monotonic() + _GIVE_UP
        while True:
            try:
                told = send()
            except DriverError as error:
                if not self.may_try_again(pushed, error, until):
                    return False
                again = True
                time.sleep(PAUSE)
            else:
                self.note_success(pushed, told, again=again)
                return True

    async def push_async(
        self, pushed: Sequence[NewJob], send: Callable[[], Awaitable[Sequence[PushedJob]]]
    ) -> bool:
        """Do the same in an event loop."""
        self.note_attempt(pushed)
        until = time.monotonic() + _GIVE_UP
        again = False
        while True:
            try:
                told = await send()
            except DriverError as error:
                if not self.may_try_again(pushed, error, until):
                    return False
                again = True
                await anyio.sleep(PAUSE)
            else:
                self.note_success(pushed, told, again=again)
                return True

    def cancel(self, queue: sync.JobQueue, job_id: str, mark: str = "") -> str:
        """Cancel a job; return the reply, or '' if there was none."""
        self.note("cancel", job=job_id, mark=mark)
        try:
            reply = str(queue.cancel(job_id))
        except DriverError:
            reply = ""  # the job may be cancelled, or not
        self.note("cancelled", job=job_id, mark=mark, reply=reply)
        return reply

    def note_attempt(self, pushed: Sequence[NewJob]) -> None:
        """Record the jobs that are about to be pushed."""
        for job in pushed:
            facts = {"kept": "keep_result" in job.fields, "rank": list(Priority).index(job.priority)}
            self.note("push", job=job.job_id, name=str(job.fields[1]), **facts)

    def note_success(self, pushed: Sequence[NewJob], told: Sequence[PushedJob], *, again: bool) -> None:
        """Record the answer; `again`: the same push had failed before, and may have added its jobs."""
        for job, handle in zip(pushed, told, strict=True):
            # With a unique key the answer may name another job: then Redis did not add this one.
            holder = "" if handle.id == job.job_id else handle.id
            added = handle.added or (None if again else False)
            facts = {"holder": holder, "added": added, "replaced": handle.replaced}
            self.note("pushed", job=job.job_id, delay=_seconds_of(job.due), **facts)

    def may_try_again(self, pushed: Sequence[NewJob], error: DriverError, until: float) -> bool:
        """Record that a push failed; return whether it may be tried again."""
        full = isinstance(error, QueueFull)
        self.note("refused", jobs=[job.job_id for job in pushed], full=full, error=str(error))
        return time.monotonic() < until


def _seconds_of(due: Due | None) -> float:
    """Return the seconds that a prepared job is delayed."""
    return due.ms / 1000 if isinstance(due, After) else 0.0
