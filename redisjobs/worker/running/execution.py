"""A leased job in a worker, from its lease to its settlement, and the parts of the worker that it meets."""

import math
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import anyio

from redisjobs.base.visible import visible
from redisjobs.errors import RedisJobsError
from redisjobs.events.kinds import SettledJob
from redisjobs.model import codec
from redisjobs.model.context import JobContext
from redisjobs.model.job import JobDefinition
from redisjobs.model.outcome import Interrupted, Outcome, Raised, Unplaced
from redisjobs.model.progress import Progress
from redisjobs.model.retry import RetryPolicy
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
from redisjobs.worker.running.children import OnReply
from redisjobs.worker.running.contexts import Contexts
from redisjobs.worker.running.deadline import Deadline, Deadlines
from redisjobs.worker.running.outbox import ChunkOutbox
from redisjobs.worker.running.pushes import HandlerPushes
from redisjobs.worker.running.steps import Loaded, RunSteps
from redisjobs.worker.running.threads import Threads, ThreadTimes
from redisjobs.worker.settings.settings import Settings

if TYPE_CHECKING:
    from redisjobs.worker.running.handler_pool import HandlerPool  # imported only if needed

TIMED_OUT = Interrupted()
FIRST = threading.Lock()
"""Held for a run's first push or first chunk, in any thread."""

_TOO_LONG = 10**11  # ms; the time in an entry id that a person has chosen is none, see `Lease.ready_ms`
_TIMED = 4  # jobs of a batch whose times are read: reading all would cost 3 % of the throughput

Find = Callable[[str], JobDefinition[Any] | None]
"""Returns the definition of a job name; None if there is none."""


@dataclass(frozen=True, slots=True)
class HandlerRuntime:
    """The parts of a worker that run handlers."""

    contexts: Contexts
    deadlines: Deadlines
    threads: Threads
    processes: "HandlerPool | None"

    def unplaced(self) -> Outcome:
        """Return the outcome of a job that found no thread to run in."""
        self.threads.turned_away = True
        return Unplaced()


@dataclass(slots=True)
class Reported:
    """The latest progress that a run has reported."""

    progress: Progress
    is_noted: bool = False  # it waits to be published
    published_at: float = -math.inf  # when it was last taken to be published, by the monotonic clock


class Owner(Protocol):
    """The part of a worker that has leased the job, and settles it."""

    @property
    def find(self) -> Find:
        """The function that returns a job name's definition, or None."""

    @property
    def may_begin(self) -> bool:
        """Whether jobs may begin: the lease surely holds, and the worker was not asked to stop."""

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
    job: codec.DecodedJob | None = None  # None: it has not begun, or can't be read
    definition: JobDefinition[Any] | None = None
    reported: Reported | None = None  # the latest progress; None: its handler has reported none
    outbox: ChunkOutbox | None = None  # the chunks that it emits; None for none
    pushes: HandlerPushes | None = None  # the jobs that it pushes; None for none
    steps: RunSteps | None = None  # None: its handler has asked for nothing
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
    outcome: Outcome | None = None  # for the event; None: no outcome, or the event has it
    context: JobContext | None = None  # of its handler
    scope: anyio.CancelScope | None = None  # around the whole run; `give_up` cancels it

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

    # Giving it up

    def give_up(self, why: Outcome) -> None:
        """Cancel the handler. `why` becomes the outcome, unless the run is over already."""
        if self.is_given_up:
            return
        self.why = why
        if self.context is not None:
            self.context.cancelled = True
        self._cancel()

    @property
    def is_given_up(self) -> bool:
        """Whether the handler's messages come too late: the run is over, or was given up."""
        return self.over or self.why is not None

    def _cancel(self) -> None:
        if self.scope is not None:
            try:
                self.scope.cancel()
            except BaseException:  # code of an object that the handler waits for
                self.settings.log.exception(
                    "job %s: what it waits for can't be cancelled", visible(self.lease.job_id)
                )
        self._end_requests()

    def _end_requests(self) -> None:
        """Let no request of the handler wait any more, nor a chunk."""
        if self.steps is not None:
            self.steps.end(self.run_over)
            self.take_children(adds=False)
        if self.outbox is not None:
            self.outbox.close()

    @property
    def run_over(self) -> RuntimeError:
        """The answer to requests of a handler whose run is over."""
        job_id = visible(self.lease.job_id)
        return RuntimeError(f"job {job_id}: this run is over, so it can save no steps and wait no more")

    def take_children(self, *, adds: bool) -> None:
        """Let the settlement push a step's last children in place of what the handler pushed, if it `adds` them.

        Else the children are dropped; the next run pushes them again.
        """
        children = None if self.steps is None else self.steps.pushes
        if adds:
            with FIRST:
                children, self.pushes = self.pushes, children
        if children is not None:
            children.lost()  # the next run pushes them again

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
        if self.context is not None:
            self.context.cancelled = True  # not sooner: middleware uses it to tell other cancels from a timeout
        error = self.deadline.error
        error.__cause__ = cause
        return Raised(error)  # the error is not kept here, because its traceback leads here

    def cut_off(self) -> Outcome:
        """Return the outcome of a run whose task was cancelled: we gave it up, or other code sent the cancel."""
        if self.steps is not None:  # the handler's thread, or a task of it, may still wait for an answer
            self.steps.end(self.run_over)
        if self.why is not None:
            return self.late() if self.why is TIMED_OUT else self.why
        if self.lease.deliveries >= self.settings.max_deliveries > 1:  # it ran alone, so its own code did it
            return Raised(RedisJobsError("the task of the handler was cancelled, and not by its worker"))
        return Interrupted(counts=True)

    # Its end

    @property
    def progress(self) -> Progress | None:
        """The latest progress that its handler has reported; None if there was none."""
        return None if self.reported is None else self.reported.progress

    @property
    def has_steps(self) -> bool:
        """Whether the job may have saved steps."""
        return (self.steps is not None and self.steps.has_some) or b"steps" in self.lease.fields

    def has_left_children(self, reply: Reply) -> bool:
        """Return whether this settlement may have left children that are to be cancelled."""
        settlement = self.settlement
        is_cancelled = reply is Reply.CANCELLED or (isinstance(settlement, Ack) and settlement.cancelled)
        return self.has_steps and (is_cancelled or (isinstance(settlement, DeadLetter) and settlement.cancels))

    def settled(self, reply: Reply) -> SettledJob:
        """Return how the job was settled, for the event. Call it last: it drops the outcome."""
        outcome, self.outcome = self.outcome, None  # its traceback leads to the frames that called the handler
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
