"""The jobs that a handler pushes: kept until it has returned. The step that ends its own job adds them."""

import threading
from collections.abc import Sequence
from contextvars import Context, copy_context
from dataclasses import dataclass, replace
from functools import partial
from hashlib import blake2b

from redisjobs.base.visible import visible
from redisjobs.client.checks import prepared_by
from redisjobs.client.functions import FunctionJob
from redisjobs.client.push import name_in
from redisjobs.client.registry import Registry
from redisjobs.errors import DriverError
from redisjobs.events.kinds import JobsPushed
from redisjobs.events.middleware import NO_CALLS, PushEnds, before_push
from redisjobs.model.job import OnConflict
from redisjobs.model.progress import PushRequest
from redisjobs.model.transitions import MOST_BYTES, MOST_JOBS, Lease, NewJob, weight_of
from redisjobs.worker.running.contexts import run_in


@dataclass(slots=True)
class _HandlerPush:
    """A job that was pushed."""

    job: NewJob
    context: Context  # of the push: hooks find the span of a trace there
    ends: PushEnds = NO_CALLS


class HandlerPushes:
    """The jobs that one run pushes, from any thread, to the queue of its own job."""

    def __init__(self, queue: Registry, lease: Lease) -> None:
        self._queue = queue
        self._lease = lease
        self._lock = threading.Lock()
        self._pushed: list[_HandlerPush] = []
        self._bytes = 0
        self._is_closed = False

    def add(self, pushing: PushRequest) -> NewJob | None:
        """Add a job and return it; None if it is too late, because the handler has returned.

        Raises:
            UnknownJob: No handler here has that name.
            EncodeError: The parameters don't fit their declared type, or are too large.
            ValueError: An option makes no sense, the id is that of the running job, another queue prepared the
                job, or the run pushes more, or larger, jobs than one step adds.
            TypeError: There is no such option.
        """
        job = self._prepared(pushing)
        if job.on_conflict is OnConflict.RAISE:
            raise ValueError(
                'on_conflict="raise" can\'t raise here: the job is pushed once the handler has returned; give '
                '"skip" or "replace"'
            )
        if job.replicas:
            raise ValueError("replicas= can't wait here: the step that ends this job pushes; leave it out")
        if job.job_id == self._lease.job_id:
            raise ValueError(
                f"job_id='{visible(job.job_id)}' is the id of the job that runs, taken until that has ended: "
                "this would not be added. Raise Snooze or Retry to have the job run again, or give another job_id"
            )
        size = weight_of(job)
        with self._lock:
            if self._is_closed:
                return None
            if len(self._pushed) >= MOST_JOBS:
                raise ValueError(
                    f"this run has pushed {MOST_JOBS} jobs, and one step adds no more: push one that does the rest"
                )
            if self._pushed and self._bytes + size > MOST_BYTES:
                raise ValueError(
                    f"this run has pushed {self._bytes:,} bytes of jobs (those that may replace others count 8 "
                    f"times), and one step adds {MOST_BYTES:,} at most: keep large data elsewhere and push where "
                    "it is"
                )
            named = self._named(job, len(self._pushed))
            self._pushed.append(_HandlerPush(named, copy_context()))
            self._bytes += size
        return named

    def take(self, jobs: Sequence[NewJob], context: Context) -> None:
        """Add jobs as they are, pushed in this context."""
        self._pushed += [_HandlerPush(job, context) for job in jobs]

    def _prepared(self, pushing: PushRequest) -> NewJob:
        given = pushing.parameters
        if isinstance(given, FunctionJob):
            raise TypeError(
                f"{given.__name__} is a job itself: push its arguments, as "
                f"context.push({given.__name__}.prepare(...)), for {given.__name__}.push(...) would not wait"
            )
        if not isinstance(given, NewJob):
            return self._queue.prepare(given, pushing.name, **pushing.options)
        return replace(prepared_by(self._queue.name, given, pushing.name, pushing.options), tries=None)

    def _named(self, job: NewJob, number: int) -> NewJob:
        """Return the job with an id that is the same whenever its parent runs again and pushes the same."""
        parent, name = self._lease.job_id, name_in(job)
        seed = b"\0".join([raw(parent), self._lease.nonce, b"%d" % number, raw(name)])
        digest = blake2b(seed, digest_size=14).hexdigest()
        fields = [*job.fields, "parent", raw(parent)]
        if job.nonce:  # the id was given: the nonce, which tells this push from others, must be the same too
            return replace(job, fields=fields, nonce=digest[:16])
        return replace(job, fields=fields, job_id=digest)

    @property
    def jobs(self) -> Sequence[NewJob]:
        """The jobs."""
        return [pushed.job for pushed in self._pushed]

    async def close(self) -> Sequence[NewJob]:
        """Show the jobs to the queue's middleware and return them, once the handler has returned; add no more."""
        with self._lock:
            self._is_closed = True
        if self._queue._on_push:
            for pushed in self._pushed:
                raised = await run_in(pushed.context, None, partial(self._show, pushed))
                if raised is not None:
                    raise raised
        return self.jobs

    async def _show(self, pushed: _HandlerPush) -> None:
        pushed.ends = await before_push(self._queue._on_push, [pushed.job], self._queue.name)

    def confirm(self, added: Sequence[bool]) -> None:
        """Tell the middleware and the listeners of the queue whether each job was added."""
        told = []
        for pushed, each in zip(self._pushed, added, strict=True):
            ends, pushed.ends = pushed.ends, NO_CALLS  # once, as below
            ends.tell([each])
            told.append((pushed.job.job_id, name_in(pushed.job), each))
        if self._queue.events.wanted(JobsPushed):
            self._queue.events.publish(JobsPushed(self._queue.name, jobs=told))

    def lost(self) -> None:
        """Tell the middleware that no job was added, because the job that pushed them did not end by this run."""
        job_id = visible(self._lease.job_id)
        error = DriverError(f"nothing was pushed, as far as is known: job {job_id} did not end by this run")
        for pushed in self._pushed:
            ends, pushed.ends = pushed.ends, NO_CALLS  # once: the handler may go on after its job was given up
            ends.tell((), error)


def raw(text: str) -> bytes:
    """Return a text from the store as the bytes that came, which may be no UTF-8."""
    return text.encode("utf-8", "surrogateescape")
