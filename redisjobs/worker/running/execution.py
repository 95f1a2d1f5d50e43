"""One leased job, from its lease to its outcome and its settlement."""

import math
import time
from collections import defaultdict
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import anyio

from redisjobs.base.eventloop import gates
from redisjobs.base.visible import visible
from redisjobs.errors import DecodeError, RedisJobsError, RegistrationError
from redisjobs.events.kinds import SettledJob
from redisjobs.model import codec, sync_verbs
from redisjobs.model.context import JobContext, keep_only_slot
from redisjobs.model.job import JobDefinition, PushedJob
from redisjobs.model.outcome import (
    Expired,
    Interrupted,
    Outcome,
    Raised,
    Suspended,
    Undecodable,
    UnknownName,
)
from redisjobs.model.progress import HandlerMessage, Progress
from redisjobs.model.requests import Answered, Request
from redisjobs.model.retry import RetryPolicy
from redisjobs.model.steps import Steps
from redisjobs.model.transitions import (
    Ack,
    AddChildren,
    DeadLetter,
    Lease,
    Reply,
    RetryLater,
    SaveStep,
    Settlement,
)
from redisjobs.worker.running.cancels import TaskCancels
from redisjobs.worker.running.children import OnReply
from redisjobs.worker.running.deadline import Deadline
from redisjobs.worker.running.handler_run import TIMED_OUT, HandlerRun, HandlerRuntime, Run, awaited
from redisjobs.worker.running.messages import Messages, Reported, messages_of
from redisjobs.worker.running.middleware import Find
from redisjobs.worker.running.outbox import Outbox
from redisjobs.worker.running.pushes import Pushes
from redisjobs.worker.running.settling import has_steps, settlement_of
from redisjobs.worker.running.steps import Loaded
from redisjobs.worker.running.threads import NoThread, ThreadTimes
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
        """Note that a job has reported progress; see `Messages`."""

    def emitted(self, run: "Execution") -> None:
        """Note that a job has emitted chunks; see `Messages`."""

    def load_steps(self, run: "Execution", loaded: Loaded) -> None:
        """Read what a job has saved; see `Messages`."""

    def write(self, run: "Execution", settlement: SaveStep | AddChildren, answered: OnReply) -> None:
        """Write a change that the job goes on after; see `Messages`."""

    def start(self, call: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run a call in a task."""


@dataclass(eq=False, repr=False, slots=True, weakref_slot=True)
class Execution:
    """A leased job whose handler is about to run, runs, or has run. Times are by the monotonic clock."""

    lease: Lease  # a renewed token may replace it
    settings: Settings
    runtime: HandlerRuntime
    owner: Owner
    # Its run
    job: codec.Job | None = None  # None: it has not begun, or can't be read
    definition: JobDefinition[Any] | None = None
    messages: Messages | None = None  # None: the handler has sent none
    deadline: Deadline | None = None  # None: no limit, or it has not begun
    times: ThreadTimes | None = None  # None: it runs in no thread
    keep_ms: int = 0  # for how long its result is kept
    takes_result: bool = False  # its result is kept, or its parent gets it
    given_at: float = math.inf  # when it was given to the slots
    started: float = 0.0  # when its run began; 0: not yet
    run_ms: int = 0  # the same by the server's clock
    has_returned: bool = False  # its handler has returned or raised: it can push no more jobs
    why: Outcome | None = None  # the outcome if the run was given up; TIMED_OUT if its time was over
    # Its end
    ended: bool = False  # its handler no longer runs, at least not in the event loop
    ended_at: float = 0.0  # when it had its outcome; 0: it has none, or was handed back
    over: bool = False  # it has an outcome, or was let go
    settlement: Settlement | None = None  # None until decided, or if the job is no longer ours
    sent_at: float = 0.0  # when its settlement was last sent, in seconds since 1970
    resent: bool = False  # its settlement was sent before, and the reply was lost
    is_announced: bool = False  # it was given to the slots before, and taken back
    _context: JobContext | None = None
    _scope: anyio.CancelScope | None = None
    _outcome: Outcome | None = None

    @property
    def name(self) -> str:
        """The job's name; `?` if it can't be read."""
        return self.job.name if self.job else "?"

    @property
    def description(self) -> str:
        """Which job this is, for people."""
        return f"job {visible(self.lease.job_id)} ({visible(self.name)})"

    @property
    def began(self) -> bool:
        """Whether any of the user's code was run for it."""
        return self.started > 0

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
        self.started = now
        self.run_ms = now_ms = owner.server_ms(now)
        try:
            job = self.job = codec.decode_job(self.lease)
            definition = self.definition = owner.find(job.name)
            if definition is None:
                return UnknownName(job.name, job.unknown_ms, self.settings.unknown_ms)
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
        messages_of(self).go_on_from(steps)
        if definition.in_process:
            return await self._begin_in_process(definition, job, cancels)
        return await awaited(self._begin(definition, job, cancels))

    async def _begin_in_process(
        self, definition: JobDefinition[Any], job: codec.Job, cancels: TaskCancels
    ) -> Outcome:
        """Wait for a free process. The handler's run time begins only then."""
        if self.runtime.processes is None:
            return Raised(RegistrationError("its handler was registered after the worker was started"))
        try:
            await self.runtime.processes.prepare()
        except NoThread:
            return self.runtime.unplaced()
        return self.why if self.why is not None else await awaited(self._begin(definition, job, cancels))

    def _begin(self, definition: JobDefinition[Any], job: codec.Job, cancels: TaskCancels) -> Run:
        self.keep_ms = definition.keep_ms if job.keep_ms is None else job.keep_ms
        self.takes_result = self.keep_ms > 0 or job.is_child
        context = self._make_context(definition, job)
        if definition.timeout is not None or definition.stalled_after is not None:
            self.deadline = Deadline(definition.timeout, definition.stalled_after)
            self.runtime.deadlines.add(self.deadline)
        return HandlerRun(self, definition, cancels).begin(context, job.parameters)

    def _has_started(self, job: codec.Job) -> bool:
        """Return whether a run of it has begun before: it had an outcome, or its worker died."""
        return job.started_ms is not None or self.lease.deliveries > 1

    def _make_context(self, definition: JobDefinition[Any], job: codec.Job) -> JobContext:
        kind = JobContext if definition.awaits else sync_verbs.JobContext
        self._context = kind(
            job_id=self.lease.job_id,
            job_name=job.name,
            queue_name=self.settings.queue.name,
            attempt=job.attempt,
            deliveries=self.lease.deliveries,
            # An entry id written outside redisjobs may be later. (`min` takes twice as long.)
            queued_ms=job.queued_ms if job.queued_ms < self.run_ms else self.run_ms,
            scheduled_ms=job.scheduled_ms,
            next_scheduled_ms=job.next_scheduled_ms,
            read_headers=job.read_headers,
            worker_id=self.settings.worker_id,
            state=self.settings.queue.state,
            sink=self,
            keeps_result=self.takes_result,
        )
        if self.messages is not None and (steps := self.messages.steps) is not None:
            self._context.version = definition.version if steps.saved_by is None else steps.saved_by
            self._context._checkpoint = steps.checkpoint
        elif definition.version != 1:
            self._context.version = definition.version
        if job.started_ms is not None and (trace := self.lease.fields.get(b"trace")):
            self._context._trace = codec.trace_of(trace)
        if self.settings.concurrency == 1:
            keep_only_slot(self._context, self.settings.queues or (self.settings.queue.name,))
        return self._context

    # Giving it up

    def give_up(self, why: Outcome) -> None:
        """Cancel the handler. `why` becomes the outcome, unless the run is over already."""
        if self.is_given_up:
            return
        self.why = why
        if self._context is not None:
            self._context.cancelled = True
        self._cancel()

    @property
    def is_given_up(self) -> bool:
        """Whether the handler's messages come too late: the run is over, or was given up."""
        return self.over or self.why is not None

    def _cancel(self) -> None:
        if self._scope is not None:
            try:
                self._scope.cancel()
            except BaseException:  # code of an object that the handler waits for
                self.settings.log.exception(
                    "job %s: what it waits for can't be cancelled", visible(self.lease.job_id)
                )
        if self.messages is not None:
            self.messages.end()

    @property
    def has_thread(self) -> bool:
        """Whether its thread was abandoned, and still runs."""
        return self.times is not None and self.times.is_abandoned

    def check_deadline(self, now: float) -> float:
        """Cancel the handler if its time is over, less what a blocked loop cost; return when to look again."""
        own = self.less_lost(now)
        if self.deadline is not None and own < self.deadline.at:
            return now + self.deadline.at - own
        if not self.is_given_up:
            self.why = TIMED_OUT
            self._cancel()
        return math.inf

    def less_lost(self, now: float) -> float:
        """Return a monotonic time, less the time that a handler in a thread has lost to a blocked event loop."""
        return now if self.times is None else now - self.times.lost(now)

    def late(self, cause: BaseException | None = None) -> Outcome:
        """Return the outcome of a run whose time was over. The cause shows where it was."""
        assert self.deadline is not None
        if self._context is not None:
            self._context.cancelled = True  # not sooner: middleware uses it to tell other cancels from a timeout
        error = self.deadline.error
        error.__cause__ = cause
        return Raised(error)  # the error is not kept here, because its traceback leads here

    def cut_off(self) -> Outcome:
        """Return the outcome of a run whose task was cancelled: we gave it up, or other code sent the cancel."""
        if self.messages is not None:  # the handler's thread, or a task of it, may still wait for an answer
            self.messages.end_steps()
        if self.why is not None:
            return self.late() if self.why is TIMED_OUT else self.why
        if self.lease.deliveries >= self.settings.max_deliveries > 1:  # it ran alone, so its own code did it
            return Raised(RedisJobsError("the task of the handler was cancelled, and not by its worker"))
        return Interrupted(counts=True)

    # Messages of its handler

    def handle(self, message: HandlerMessage) -> PushedJob | None:
        """Handle a message of the handler, in any thread. Ignore it once the run is over, or was given up."""
        return None if self.is_given_up else messages_of(self).handle(message)

    def ask(self, request: Request, answered: Answered) -> None:
        """Answer a request of the handler about its steps; see `Asked`."""
        messages_of(self).ask(request, answered)

    def ask_and_wait(self, request: Request) -> Any:
        """Return the answer to a request of the handler's thread, or raise it; see `Messages.ask_and_wait`."""
        return messages_of(self).ask_and_wait(request)

    @property
    def reported(self) -> Reported | None:
        """The latest progress that its handler has reported; None if there was none."""
        return None if self.messages is None else self.messages.reported

    @property
    def progress(self) -> Progress | None:
        """The latest progress; None if there was none."""
        return None if self.reported is None else self.reported.progress

    @property
    def pushes(self) -> Pushes | None:
        """The jobs that its handler has pushed; None for none."""
        return None if self.messages is None else self.messages.pushes

    @property
    def outbox(self) -> Outbox | None:
        """The chunks that its handler emits; None for none."""
        return None if self.messages is None else self.messages.outbox

    # Its settlement

    def decide(self, outcome: Outcome) -> None:
        """Decide the job's settlement, by its handler's retry policy."""
        self._outcome = outcome
        trace = "" if self._context is None else self._context._trace
        self._context = None  # it leads back here: a reference cycle
        if self.messages is not None:
            self.messages.take_children(adds=isinstance(outcome, Suspended))
        self.settlement = settlement_of(self, outcome, trace)

    def has_left_children(self, reply: Reply) -> bool:
        """Return whether this settlement may have left children that are to be cancelled."""
        settlement = self.settlement
        is_cancelled = reply is Reply.CANCELLED or (isinstance(settlement, Ack) and settlement.cancelled)
        return has_steps(self) and (is_cancelled or (isinstance(settlement, DeadLetter) and settlement.cancels))

    def settled(self, reply: Reply) -> SettledJob:
        """Return how the job was settled, for the event. Call it last: it drops the outcome."""
        outcome, self._outcome = self._outcome, None  # its traceback leads to the frames that called the handler
        ended_at = self.ended_at or time.monotonic()
        job, unread = self.job, self.lease.fields.get(b"attempt", b"1")[:9]
        return SettledJob(
            self.lease.job_id,
            reply,
            name=self.name,
            attempt=job.attempt if job else int(unread) if unread.isdigit() else 1,
            lease=self.lease,
            outcome=outcome,
            settlement=self.settlement,
            waited=max(0, self.run_ms - self.lease.ready_ms) / 1000 if self.lease.ready_ms else 0.0,
            ran=self.less_lost(ended_at) - self.started if self.started else 0.0,
            sent_at=self.sent_at,
            resent=self.resent,
            attempts=self.retry.max_attempts if isinstance(self.settlement, RetryLater) else None,
        )

    @property
    def retry(self) -> RetryPolicy:
        """The retry policy of its handler; without a handler, that of its queue."""
        return self.definition.retry if self.definition else self.settings.queue.retry


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
    first, groups = runs[0].definition, {runs[0].name: runs}
    if [run for run in runs if run.definition is not first]:
        by_name = defaultdict[str, list[Execution]](list)
        for run in runs:
            by_name[run.name].append(run)
        groups = {**by_name}
    for name, all_same in groups.items():
        same = all_same[:: -(-len(all_same) // _TIMED)]
        if same[0].times is None:  # its handler is not sync, so none of them ran in a thread
            ran = [run.ended_at - run.started for run in same]
        else:
            ran = [run.less_lost(run.ended_at) - run.started for run in same]
        waited: list[float] = [run.run_ms - run.lease.queued_ms for run in same]
        if max(waited) > _TOO_LONG:
            waited = [0 if wait > _TOO_LONG else wait for wait in waited]
        yield Timings(name, len(all_same), ran, waited)
