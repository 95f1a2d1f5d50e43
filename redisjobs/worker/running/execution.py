"""One leased job, from its lease to its outcome and its settlement."""

import math
import time
from collections import defaultdict
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

import anyio

from redisjobs.base.eventloop import gates
from redisjobs.base.visible import visible
from redisjobs.errors import DecodeError, RegistrationError
from redisjobs.events.kinds import SettledJob
from redisjobs.model import codec, sync_verbs
from redisjobs.model.context import JobContext, keep_only_slot
from redisjobs.model.job import JobDefinition
from redisjobs.model.outcome import (
    CancelAsked,
    Expired,
    Interrupted,
    Outcome,
    Raised,
    Suspended,
    Undecodable,
    UnknownName,
    attach,
    decide,
)
from redisjobs.model.retry import RetryPolicy, exponential_jitter
from redisjobs.model.steps import Steps
from redisjobs.model.transitions import (
    ACK,
    Ack,
    AddChildren,
    After,
    DeadLetter,
    Lease,
    Release,
    Reply,
    Result,
    RetryLater,
    SaveStep,
    Settlement,
)
from redisjobs.worker.running.cancels import TaskCancels
from redisjobs.worker.running.deadline import Deadline
from redisjobs.worker.running.handler_run import DONE, HandlerRun, HandlerRuntime, Run, awaited
from redisjobs.worker.running.middleware import Find
from redisjobs.worker.running.steps import Loaded, Written
from redisjobs.worker.running.threads import NoThread
from redisjobs.worker.settings.settings import Settings

PATIENCE = 0.1
"""Seconds that a job may wait for a slot. Then it is handed back: running jobs take longer than they did."""

_TOO_LONG = 10**11  # ms; the time in an entry id that a person has chosen is none, see `Lease.ready_ms`
_TIMED = 4  # jobs of a batch whose times are read: reading all would cost 3 % of the throughput


class Owner(Protocol):
    """The part of a worker that has leased the job, and settles it."""

    @property
    def find(self) -> Find:
        """The function that returns a job name's definition, or None."""

    @property
    def may_begin(self) -> bool:
        """Whether jobs may begin: the lease surely holds, and the worker is not stopping."""

    def server_ms(self, now: float) -> int:
        """Return the server's time, as well as it is known, at a time of the monotonic clock."""

    def hand_back(self, run: "Execution") -> None:
        """Hand back a job that has not begun."""

    def ran(self, run: "Execution", outcome: Outcome) -> None:
        """Take the outcome of a job."""

    def thread_ended(self, run: "Execution") -> None:
        """Note that the thread of an abandoned handler has ended."""

    def reported(self, run: "Execution") -> None:
        """Note that a job has reported progress; see `HandlerRun.has_news`."""

    def emitted(self, run: "Execution") -> None:
        """Note that a job has emitted chunks; see `HandlerRun.has_chunks`."""

    def load_steps(self, run: "Execution", loaded: Loaded) -> None:
        """Read what a job has saved; see `StepRun`."""

    def write(self, run: "Execution", settlement: SaveStep | AddChildren, answered: Written) -> None:
        """Write a change that the job goes on after; see `StepRun`."""

    def start(self, call: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run a call in a task."""


class Execution(HandlerRun):
    """A leased job whose handler is about to run, runs, or has run. Times are by the monotonic clock."""

    __slots__ = (
        *("_job", "_outcome", "_run_ms", "_started", "ended", "ended_at", "given_at", "is_announced"),
        *("key", "owner", "resent", "sent_at", "settlement"),
    )

    def __init__(self, lease: Lease, settings: Settings, runtime: HandlerRuntime, owner: Owner) -> None:
        HandlerRun.__init__(self, lease, settings, runtime)  # `super()` costs each job a tenth of a microsecond
        self.key = lease.key
        self.owner = owner
        self.ended = False  # its handler no longer runs, at least not in the event loop
        self.resent = False  # its settlement was sent before, and the reply was lost
        self.is_announced = False  # it was given to the slots before, and taken back
        self.settlement: Settlement | None = None  # None until decided, or if the job is no longer ours
        self.given_at = math.inf  # when it was given to the slots
        self.sent_at = 0.0  # when its settlement was last sent, in seconds since 1970
        self.ended_at = 0.0  # when it had its outcome; 0: it has none, or was handed back
        self._started = 0.0
        self._run_ms = 0
        self._job: codec.Job | None = None
        self._outcome: Outcome | None = None

    @property
    def name(self) -> str:
        """The job's name; `?` if it can't be read."""
        return self._job.name if self._job else "?"

    @property
    def description(self) -> str:
        """Which job this is, for people."""
        return f"job {visible(self.lease.job_id)} ({visible(self.name)})"

    @property
    def began(self) -> bool:
        """Whether any of the user's code was run for it."""
        return self._started > 0

    def has_news(self) -> None:  # noqa: D102
        self.owner.reported(self)

    def has_chunks(self) -> None:  # noqa: D102
        self.owner.emitted(self)

    def thread_ended(self) -> None:  # noqa: D102
        self.owner.thread_ended(self)

    def write(self, settlement: SaveStep | AddChildren, answered: Written) -> None:  # noqa: D102
        self.owner.write(self, settlement, answered)

    def start(self, call: Callable[[], Coroutine[Any, Any, None]]) -> None:  # noqa: D102
        self.owner.start(call)

    # Its run

    def begin(self, scope: anyio.CancelScope, cancels: TaskCancels) -> Run:
        """Read the job and begin to run its handler. Whatever that raises becomes the outcome.

        Args:
            scope: The scope around the whole run, which `give_up` cancels. If it cuts the run off, the outcome is
                that of `cut_off`.
            cancels: The cancels of the current task.

        Raises:
            BaseException: Only a cancellation from outside.
        """
        if self.why is not None:  # given up before it began
            return self.why
        now, owner = time.monotonic(), self.owner
        if now - self.given_at > PATIENCE and not owner.may_begin:
            return Interrupted()  # it waited for a slot, and by now no job may begin
        self._started = now
        self._run_ms = now_ms = owner.server_ms(now)
        try:
            job = self._job = codec.decode_job(self.lease)
            definition = self._definition = owner.find(job.name)
            if definition is None:
                return UnknownName(job.name, job.unknown_ms, self._settings.unknown_ms)
            if job.expires_ms is not None and job.expires_ms < now_ms and not self._has_started(job):
                late = (now_ms - job.expires_ms) / 1000
                return Expired(f"not started in time: expired {late:.1f} s before a worker was free")
        except DecodeError as error:
            return Undecodable(str(error))
        self._scope = scope
        if job.has_steps:
            return self._begin_with_steps(definition, job, cancels)
        if definition.in_process:
            return self._begin_in_process(definition, job, cancels)
        return self._begin(definition, job, cancels)

    async def _begin_with_steps(
        self, definition: JobDefinition[Any], job: codec.Job, cancels: TaskCancels
    ) -> Outcome:
        """Load what earlier runs have saved. The handler's run time begins only then."""
        found, gate = list[Steps | BaseException](), gates()()

        def loaded(steps: Steps | BaseException) -> None:
            found.append(steps)
            gate.open()

        self.owner.load_steps(self, loaded)
        await gate.wait()
        if self.why is not None:
            return self.why
        (steps,) = found
        if isinstance(steps, BaseException):
            return Raised(steps)
        self.go_on_from(steps)
        if definition.in_process:
            return await self._begin_in_process(definition, job, cancels)
        return await awaited(self._begin(definition, job, cancels))

    async def _begin_in_process(
        self, definition: JobDefinition[Any], job: codec.Job, cancels: TaskCancels
    ) -> Outcome:
        """Wait for a free process. The handler's run time begins only then."""
        if self._runtime.processes is None:
            return Raised(RegistrationError("its handler was registered after the worker was started"))
        try:
            await self._runtime.processes.prepare()
        except NoThread:
            return self._runtime.unplaced()
        return self.why if self.why is not None else await awaited(self._begin(definition, job, cancels))

    def _begin(self, definition: JobDefinition[Any], job: codec.Job, cancels: TaskCancels) -> Run:
        self._keep_ms = definition.keep_ms if job.keep_ms is None else job.keep_ms
        self._takes_result = self._keep_ms > 0 or job.is_child
        context = self._make_context(definition, job)
        if definition.timeout is not None or definition.stalled_after is not None:
            self.deadline = Deadline(definition.timeout, definition.stalled_after)
            self._runtime.deadlines.add(self.deadline)
        return self.call(definition, context, job.parameters, cancels)

    def _has_started(self, job: codec.Job) -> bool:
        """Return whether a run of it has begun before: it had an outcome, or its worker died."""
        return job.started_ms is not None or self.lease.deliveries > 1

    def _make_context(self, definition: JobDefinition[Any], job: codec.Job) -> JobContext:
        kind = JobContext if definition.awaits else sync_verbs.JobContext
        self._context = kind(
            job_id=self.lease.job_id,
            job_name=job.name,
            queue_name=self._settings.queue.name,
            attempt=job.attempt,
            deliveries=self.lease.deliveries,
            # An entry id written outside redisjobs may be later. (`min` takes twice as long.)
            queued_ms=job.queued_ms if job.queued_ms < self._run_ms else self._run_ms,
            scheduled_ms=job.scheduled_ms,
            next_scheduled_ms=job.next_scheduled_ms,
            read_headers=job.read_headers,
            worker_id=self._settings.worker_id,
            state=self._settings.queue.state,
            sink=self,
            keeps_result=self._takes_result,
        )
        if self.steps is not None:
            self._context.version = definition.version if self.steps.saved_by is None else self.steps.saved_by
            self._context._checkpoint = self.steps.checkpoint
        elif definition.version != 1:
            self._context.version = definition.version
        if job.started_ms is not None and (trace := self.lease.fields.get(b"trace")):
            self._context._trace = codec.trace_of(trace)
        if self._settings.concurrency == 1:
            keep_only_slot(self._context, self._settings.queues or (self._settings.queue.name,))
        return self._context

    # Its settlement

    def hand_back(self, *, refund: bool = True) -> Settlement:
        """Return the settlement that lets another worker run it.

        A job that has started can't expire any more. Only its entry can show that to the worker that runs it next.
        """
        job = self._job
        if refund and self.began and job is not None and job.expires_ms is not None and job.started_ms is None:
            return RetryLater(After(0), self._changes({"started_at": str(self._run_ms)}))
        return Release(refund=refund)

    def decide(self, outcome: Outcome) -> None:
        """Decide the job's settlement, by its handler's retry policy."""
        self._outcome = outcome
        if outcome is DONE and self.steps is None:
            self._context = self._surroundings = None  # both lead back here: a reference cycle
            self.settlement = Ack(reported=True) if self._may_have_reported else ACK
            return
        trace = "" if self._context is None else self._context._trace
        self._context = self._surroundings = None
        self._take_children(adds=isinstance(outcome, Suspended))
        if isinstance(outcome, Suspended):
            changes = {"started_at": str(self._began_ms), "unknown_since": ""}
            self.settlement = replace(outcome.suspend, changes=self._changes(changes, trace))
            return
        if isinstance(outcome, Interrupted):
            self.settlement = self.hand_back(refund=not outcome.counts)
            return
        if isinstance(outcome, CancelAsked):
            kept = Result(self._keep_ms) if self._keep_ms else None
            self.settlement = Ack(cancelled=True, result=kept, reported=self._may_have_reported)
            return
        job, now_ms = self._job, self.owner.server_ms(time.monotonic())
        attempt, started_ms = (job.attempt, self._began_ms) if job else (1, now_ms)
        judge = partial(decide, attempt=attempt, started_ms=started_ms, now_ms=now_ms)
        try:
            # What the policy sets in its context must not reach the next job.
            self.settlement = self._runtime.contexts.fresh().run(judge, outcome, policy=self._retry)
        except BaseException as error:
            # The policy is the user's code too. If it fails, neither the job nor the worker may fail.
            self._settings.log.exception("%s: its retry policy raised; the default one decides", self.description)
            attach(error, "__context__", outcome.error if isinstance(outcome, Raised) else None)
            self.settlement = judge(Raised(error), policy=exponential_jitter())
        if isinstance(self.settlement, RetryLater):
            self.settlement = RetryLater(self.settlement.due, self._changes(self.settlement.changes, trace))
        if isinstance(self.settlement, Ack) and self._has_steps:
            self.settlement = replace(self.settlement, stepped=True)
        cancels = self._definition is not None and self._definition.cancels_children
        if cancels and isinstance(self.settlement, DeadLetter) and self._has_steps:
            self.settlement = replace(self.settlement, cancels=True)
        if self._may_have_reported and isinstance(self.settlement, Ack | DeadLetter):
            self.settlement = replace(self.settlement, reported=True)

    def _changes(self, changes: Mapping[str, str], trace: str = "") -> Mapping[str, str]:
        """Return the changes of the job's entry, with what this run has learnt about the job.

        `trace` is the identity of its span, to which the span of the next run has a link; '' for none.
        """
        job, added = self._job, dict[str, str]()
        if job is not None and self._keep_ms and job.keep_ms is None:
            # From now on the entry shows it to clients that wait for the result, and to the code that ends the
            # job.
            added["keep_result"] = str(self._keep_ms)
        if job is not None and job.suspended_ms is not None and "started_at" in changes:
            added["suspended_at"] = ""  # else no handler ran: it still goes on after its wait
        if self._has_steps:
            added["steps"] = "1"
        if trace:
            added["trace"] = trace
        return {**changes, **added} if added else changes

    @property
    def _has_steps(self) -> bool:
        """Whether the job may have saved steps."""
        return (self.steps is not None and self.steps.has_some) or b"steps" in self.lease.fields

    @property
    def _began_ms(self) -> int:
        """When the job's first run began; as much later as it was suspended since, which is no time of its own."""
        job = self._job
        if job is None or job.started_ms is None:
            return self._run_ms
        if job.suspended_ms is None:
            return job.started_ms
        return max(job.started_ms, self._run_ms - max(0, job.suspended_ms - job.started_ms))

    @property
    def _may_have_reported(self) -> bool:
        """Whether this run, or an earlier one, may have left progress or chunks, which end with the job."""
        job = self._job
        if self.reported is not None or self.outbox is not None or self.lease.deliveries > 1:
            return True
        return job is not None and job.started_ms is not None

    def has_left_children(self, reply: Reply) -> bool:
        """Return whether this settlement may have left children that are to be cancelled."""
        settlement = self.settlement
        is_cancelled = reply is Reply.CANCELLED or (isinstance(settlement, Ack) and settlement.cancelled)
        return self._has_steps and (is_cancelled or (isinstance(settlement, DeadLetter) and settlement.cancels))

    def settled(self, reply: Reply) -> SettledJob:
        """Return how the job was settled, for the event. Call it last: it drops the outcome."""
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
            attempts=self._retry.max_attempts if isinstance(self.settlement, RetryLater) else None,
        )

    @property
    def _retry(self) -> RetryPolicy:
        return self._definition.retry if self._definition else self._settings.queue.retry


@dataclass(frozen=True, slots=True)
class Timings:
    """How long jobs of one name ran, and waited before.

    Attributes:
        jobs: How many jobs.
        ran: Seconds, of some of them.
        waited: Milliseconds that each of these had been ready before it started.
    """

    name: str
    jobs: int
    ran: list[float]
    waited: list[float]


def timings(runs: Sequence[Execution]) -> Iterator[Timings]:
    """Group jobs that are done by name, with their times; of many jobs, with the times of some.

    Nearly all jobs pass here, so this does as little as it can for a batch of one name.
    """
    first, groups = runs[0]._definition, {runs[0].name: runs}
    if [run for run in runs if run._definition is not first]:
        by_name = defaultdict[str, list[Execution]](list)
        for run in runs:
            by_name[run.name].append(run)
        groups = {**by_name}
    for name, all_same in groups.items():
        same = all_same[:: -(-len(all_same) // _TIMED)]
        if same[0].times is None:  # its handler is not sync, so none of them ran in a thread
            ran = [run.ended_at - run._started for run in same]
        else:
            ran = [run._less_lost(run.ended_at) - run._started for run in same]
        waited: list[float] = [run._run_ms - run.lease.queued_ms for run in same]
        if max(waited) > _TOO_LONG:
            waited = [0 if wait > _TOO_LONG else wait for wait in waited]
        yield Timings(name, len(all_same), ran, waited)
