"""One job in a worker's hands: from its lease to its outcome."""

import math
import threading
import time
from dataclasses import replace
from functools import partial
from typing import Any, Protocol

import anyio

from redisjobs.base.visible import visible
from redisjobs.client.push import name_in
from redisjobs.errors import DecodeError, RedisJobsError, RegistrationError
from redisjobs.events import SettledJob
from redisjobs.model import codec
from redisjobs.model.context import JobContext, keep_only_slot
from redisjobs.model.job import JobDefinition, PushedJob
from redisjobs.model.outcome import (
    CancelAsked,
    Expired,
    Interrupted,
    Outcome,
    Raised,
    Undecodable,
    UnknownName,
    attach,
    decide,
)
from redisjobs.model.progress import Extension, HandlerMessage, Progress, Pushing
from redisjobs.model.retry import exponential_jitter
from redisjobs.model.transitions import (
    Ack,
    After,
    DeadLetter,
    Lease,
    Release,
    Reply,
    Result,
    RetryLater,
    Settlement,
)
from redisjobs.worker.running.call import DONE, OUTRAN, Call, HandlerRuntime, Run, awaited
from redisjobs.worker.running.cancels import TaskCancels
from redisjobs.worker.running.chain import Find
from redisjobs.worker.running.deadline import Deadline
from redisjobs.worker.running.pushes import Pushes
from redisjobs.worker.running.reporter import Reported
from redisjobs.worker.running.threads import NoThread, ThreadTimes
from redisjobs.worker.settings.settings import Settings

PATIENCE = 0.1
"""Seconds that a job may wait for a slot. Then it is handed back, as running jobs take longer than they did."""

_ACK = Ack()
_first_push = threading.Lock()


class Owner(Protocol):
    """Who leased the job, and is to settle it."""

    @property
    def find(self) -> Find:
        """Gives a job name's definition, or None."""

    @property
    def server_ms(self) -> int:
        """The server's clock, as well as it is known."""

    @property
    def may_begin(self) -> bool:
        """Whether jobs may begin: the lease surely holds, and the worker goes on."""

    def hand_back(self, run: "Execution") -> None:
        """Hand back a job that has not begun."""

    def ran(self, run: "Execution", outcome: Outcome) -> None:
        """Take the outcome."""

    def thread_ended(self, run: "Execution") -> None:
        """Take note that its thread has ended, which ran on when it was given up."""

    def reported(self, run: "Execution") -> None:
        """Take note that it has said how far it is, in any thread; not again until that was taken."""


class Execution:
    """A leased job, its handler about to run, running or done.

    Attributes:
        lease: The lease; a renewed token may replace it.
        key: The lease's key.
        owner: Who leased it.
        over: Whether it has an outcome, or was let go; it may still have to be settled.
        has_returned: Whether its handler has returned, or raised: from now on it pushes nothing.
        ended: Whether its handler runs no more, in the loop at least.
        has_thread: Whether it was given up, and its thread runs on.
        deadline: When it has to have ended; None: whenever, or it has not begun.
        settlement: How to settle it, once that is decided; None also if it is no longer ours.
        resent: Whether its settlement was sent before, and the reply lost.
        is_told: Whether it was told before that it was claimed: it was given to the slots, and taken back.
        given_at: When it was given to the slots, by the monotonic clock.
        sent_at: When it was last sent, in s since 1970; 0 if never.
        ended_at: When it came to its outcome, by the monotonic clock; 0 if it did not, or nobody asked for it.
        times: When its handler was in a thread; None: never.
        reported: What its handler has said last of how far it is; None: nothing.
        pushes: What its handler has pushed; None: nothing.
        why: The outcome of a job that was given up; None: it was not. OUTRAN: its time was over.
    """

    __slots__ = (
        "__weakref__",
        "_context",
        "_definition",
        "_job",
        "_keep_ms",
        "_means",
        "_outcome",
        "_run_ms",
        "_scope",
        "_settings",
        "_started",
        "deadline",
        "ended",
        "ended_at",
        "given_at",
        "has_returned",
        "has_thread",
        "is_told",
        "key",
        "lease",
        "over",
        "owner",
        "pushes",
        "reported",
        "resent",
        "sent_at",
        "settlement",
        "times",
        "why",
    )

    def __init__(self, lease: Lease, settings: Settings, means: HandlerRuntime, owner: Owner) -> None:
        self.lease = lease
        self.key = lease.key
        self.owner = owner
        self.over = self.ended = self.has_thread = False
        self.settlement: Settlement | None = None
        self.resent = self.is_told = False
        self.given_at = math.inf
        self.sent_at = self.ended_at = 0.0
        self.times: ThreadTimes | None = None
        self._settings = settings
        self._means = means
        self._started = 0.0
        self._run_ms = self._keep_ms = 0
        self.has_returned = False
        self.pushes: Pushes | None = None
        self._job: codec.Job | None = None
        self._outcome: Outcome | None = None
        self._definition: JobDefinition[Any] | None = None
        self._context: JobContext | None = None
        self._scope: anyio.CancelScope | None = None
        self.why: Outcome | None = None
        self.deadline: Deadline | None = None
        self.reported: Reported | None = None

    @property
    def name(self) -> str:
        """Its job's name; `?` where that can't be read."""
        return self._job.name if self._job else "?"

    @property
    def description(self) -> str:
        """Which job this is, for people."""
        return f"job {visible(self.lease.job_id)} ({visible(self.name)})"

    def give_up(self, why: Outcome) -> None:
        """Cancel the handler; `why` is the outcome, unless it is over already."""
        if self.over or self.why is not None:
            return
        self.why = why
        if self._context is not None:
            self._context.cancelled = True
        self._cancel()

    def _cancel(self) -> None:
        if self._scope is None:
            return
        try:
            self._scope.cancel()
        except BaseException:  # code of what the handler waits for
            self._settings.log.exception("%s: what it waits for can't be cancelled", self.description)

    def outran(self, now: float) -> float:
        """Cancel the handler if its time is over, less what a blocked loop cost; else say when to look again."""
        own = self._less_lost(now)
        if self.deadline is not None and own < self.deadline.at:
            return now + self.deadline.at - own
        if not self.over and self.why is None:
            self.why = OUTRAN
            self._cancel()
        return math.inf

    def _less_lost(self, now: float) -> float:
        """A time by the monotonic clock, less what a blocked event loop has cost until then."""
        return now if self.times is None else now - self.times.lost(now)

    def late(self, cause: BaseException | None = None) -> Outcome:
        """The outcome of a job whose time was over; the cause shows where it was."""
        assert self.deadline is not None
        if self._context is not None:
            self._context.cancelled = True  # not sooner: by that middleware tells a timeout from all else
        error = self.deadline.error
        error.__cause__ = cause
        return Raised(error)  # not kept here, as its traceback leads here

    def has_left(self) -> None:
        """Take note that its thread has ended, which ran on when it was given up."""
        self.has_thread = False
        self.owner.thread_ended(self)

    def hear(self, said: HandlerMessage) -> PushedJob | None:
        """Take in what its handler says, in any thread; nothing once it is over, or was given up."""
        if self.over or self.why is not None:
            return None
        if isinstance(said, Pushing):
            return self._push(said)
        now = time.monotonic()
        if isinstance(said, Extension):
            if self.deadline is not None:
                self.deadline.extend(said.seconds, self._less_lost(now))
            return None
        if self.deadline is not None:
            self.deadline.progressed(self._less_lost(now))
        reported = self.reported
        if reported is None:
            reported = self.reported = Reported(said, now)
        else:
            reported.progress, reported.made_at = said, now
        if not reported.is_noted:
            reported.is_noted = True
            self.owner.reported(self)
        return None

    def _push(self, pushing: Pushing) -> PushedJob | None:
        with _first_push:
            pushes = self.pushes = self.pushes or Pushes(self._settings.queue, self.lease)
        # Only now: either this sees that the handler has ended, or whoever ends the run sees what is to be closed.
        if self.has_returned or self.why is not None:
            return None
        job = pushes.add(pushing)
        return None if job is None else self._settings.queue.handle(job.job_id, name_in(job), added=None)

    @property
    def progress(self) -> Progress | None:
        """How far it is, as its handler said last; None: it did not."""
        return None if self.reported is None else self.reported.progress

    @property
    def began(self) -> bool:
        """Whether anything of the user's was run for it."""
        return self._started > 0

    def cut_off(self) -> Outcome:
        """The outcome of a job whose task ended by a cancel: it was given up, or other code sent that."""
        if self.why is not None:
            return self.late() if self.why is OUTRAN else self.why
        if self.lease.deliveries >= self._settings.max_deliveries > 1:  # it ran alone: it was its own code
            return Raised(RedisJobsError("the task of the handler was cancelled, and not by its worker"))
        return Interrupted(counts=True)

    def begin(self, scope: anyio.CancelScope, cancels: TaskCancels) -> Run:
        """Read the job and let its handler begin; whatever that raises, the outcome says.

        Nothing is awaited here for a handler that waits for nothing: that costs less than anything that can be.

        Args:
            scope: What `give_up` cancels, around this call and the rest of the run; should it cut the run off,
                `cut_off` is the outcome.
            cancels: The current task's.

        Returns:
            The outcome, or what is to be awaited for it, in the same task.

        Raises:
            BaseException: Only a cancellation that came from outside.
        """
        if self.why is not None:  # given up before it began
            return self.why
        now, now_ms = time.monotonic(), self.owner.server_ms
        if now - self.given_at > PATIENCE and not self.owner.may_begin:
            return Interrupted()  # it waited for a slot, and things have changed meanwhile
        self._started = now
        self._run_ms = now_ms
        try:
            job = self._job = codec.decode_job(self.lease)
            definition = self._definition = self.owner.find(job.name)
            if definition is None:
                return UnknownName(job.name, job.unknown_ms, self._settings.unknown_ms)
            if job.expires_ms is not None and job.expires_ms < now_ms and not self._has_started(job):
                late = (now_ms - job.expires_ms) / 1000
                return Expired(f"not started in time: expired {late:.1f} s before a worker was free")
        except DecodeError as error:
            return Undecodable(str(error))
        self._scope = scope
        if definition.in_process:
            return self._begin_in_process(definition, job, cancels)
        return self._begin(definition, job, cancels)

    async def _begin_in_process(
        self, definition: JobDefinition[Any], job: codec.Job, cancels: TaskCancels
    ) -> Outcome:
        """Wait for the process that the handler is to run in; its time runs only from then."""
        if self._means.processes is None:
            return Raised(RegistrationError("its handler was registered after the worker was started"))
        try:
            await self._means.processes.prepare()
        except NoThread:
            return self._means.unplaced()
        return self.why if self.why is not None else await awaited(self._begin(definition, job, cancels))

    def _begin(self, definition: JobDefinition[Any], job: codec.Job, cancels: TaskCancels) -> Run:
        self._keep_ms = definition.keep_ms if job.keep_ms is None else job.keep_ms
        context = self._make_context(job)
        if definition.timeout is not None or definition.stalled_after is not None:
            self.deadline = Deadline(definition.timeout, definition.stalled_after)
            self._means.deadlines.add(self.deadline)
        longest = self._settings.queue.max_parameters
        call = Call(self, self._means, definition, context, cancels, self._keep_ms, longest)
        return call.begin(job.parameters)

    def _has_started(self, job: codec.Job) -> bool:
        """Whether it was started before: a run of it had an outcome, or a worker died to which it was given."""
        return job.started_ms is not None or self.lease.deliveries > 1

    def _make_context(self, job: codec.Job) -> JobContext:
        self._context = JobContext(
            job_id=self.lease.job_id,
            job_name=job.name,
            queue_name=self._settings.queue.name,
            attempt=job.attempt,
            deliveries=self.lease.deliveries,
            queued_ms=min(job.queued_ms, self._run_ms),  # an entry id that somebody wrote may be later
            scheduled_ms=job.scheduled_ms,
            next_scheduled_ms=job.next_scheduled_ms,
            read_headers=job.read_headers,
            worker_id=self._settings.worker_id,
            state=self._settings.queue.state,
            sink=self,
            keeps_result=self._keep_ms > 0,
        )
        if self._settings.concurrency == 1:
            keep_only_slot(self._context, self._settings.queues or (self._settings.queue.name,))
        return self._context

    def hand_back(self, *, refund: bool = True) -> Settlement:
        """How to let another worker run it.

        One that has started does not expire any more, which only its entry can tell who runs it next.
        """
        job = self._job
        if refund and self.began and job is not None and job.expires_ms is not None and job.started_ms is None:
            return RetryLater(After(0), {"started_at": str(self._run_ms)})
        return Release(refund=refund)

    def decide(self, outcome: Outcome) -> None:
        """Decide the job's settlement, by its handler's retry policy."""
        self._outcome = outcome
        self._context = None  # which leads back to here: a reference cycle
        if outcome is DONE:
            self.settlement = Ack(reported=True) if self._may_have_reported else _ACK
            return
        if isinstance(outcome, Interrupted):
            self.settlement = self.hand_back(refund=not outcome.counts)
            return
        if isinstance(outcome, CancelAsked):
            kept = Result(self._keep_ms) if self._keep_ms else None
            self.settlement = Ack(cancelled=True, result=kept, reported=self._may_have_reported)
            return
        job, now_ms = self._job, self.owner.server_ms
        attempt, started_ms = (job.attempt, job.started_ms or self._run_ms) if job else (1, now_ms)
        policy = self._definition.retry if self._definition else self._settings.queue.retry
        judge = partial(decide, attempt=attempt, started_ms=started_ms, now_ms=now_ms)
        try:
            # What the policy sets in its context is no business of the next job's.
            self.settlement = self._means.contexts.fresh().run(judge, outcome, policy=policy)
        except BaseException as error:
            # The policy is the user's code too; one that breaks must cost neither the job nor the worker.
            self._settings.log.exception("%s: its retry policy raised; the default one decides", self.description)
            attach(error, "__context__", outcome.error if isinstance(outcome, Raised) else None)
            self.settlement = judge(Raised(error), policy=exponential_jitter())
        if isinstance(self.settlement, RetryLater) and self._keep_ms and job and job.keep_ms is None:
            # From now on its entry says it, to whoever waits, and to whatever ends it.
            changes = {**self.settlement.changes, "keep_result": str(self._keep_ms)}
            self.settlement = RetryLater(self.settlement.due, changes)
        if self._may_have_reported and isinstance(self.settlement, Ack | DeadLetter):
            self.settlement = replace(self.settlement, reported=True)

    @property
    def _may_have_reported(self) -> bool:
        """Whether this run has said how far it is, or one before it may have: then that is to be forgotten."""
        job = self._job
        if self.reported is not None or self.lease.deliveries > 1:
            return True
        return job is not None and job.started_ms is not None

    def settled(self, reply: Reply) -> SettledJob:
        """What became of the job, for the event that tells of it. It was asked for last: the outcome is let go."""
        outcome, self._outcome = self._outcome, None  # its traceback leads to the frames that called the handler
        ended_at = self.ended_at or time.monotonic()
        job, unread = self._job, self.lease.fields.get(b"attempt", b"1")[:9]
        return SettledJob(
            self.lease.job_id,
            reply,
            name=self.name,
            attempt=job.attempt if job else int(unread) if unread.isdigit() else 1,
            lease=self.lease,
            outcome=outcome,
            settlement=self.settlement,
            waited=max(0, self._run_ms - self.lease.ready_ms) / 1000 if self.lease.ready_ms else 0.0,
            ran=self._less_lost(ended_at) - self._started if self._started else 0.0,
            sent_at=self.sent_at,
            resent=self.resent,
            attempts=self._attempts if isinstance(self.settlement, RetryLater) else None,
        )

    @property
    def _attempts(self) -> int | None:
        policy = self._definition.retry if self._definition else self._settings.queue.retry
        return policy.max_attempts
