"""The kinds of events."""

from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass
from datetime import datetime

from redisjobs.errors import DriverError
from redisjobs.events.listeners import Event as Event
from redisjobs.events.listeners import Events as Events
from redisjobs.model.outcome import Outcome
from redisjobs.model.transitions import Ack, DeadLetter, Lease, Reply, RetryLater, Settlement, Suspend


@dataclass(frozen=True, kw_only=True)
class JobsPushed(Event):
    """A push was answered: every job of it is on the queue now, or was before.

    Attributes:
        jobs: Id, name, and whether it was added.
    """

    jobs: Sequence[tuple[str, str, bool]]


@dataclass(frozen=True, kw_only=True)
class ScheduleFired(Event):
    """A schedule has fired: a scheduler of this process was the first to fire its slot.

    Attributes:
        slot: The last one, if the scheduler caught up on several.
        missed: How many slots before it have no job of their own.
        jobs: As in `JobsPushed`; a job is not added if its unique key is held.
    """

    schedule: str
    slot: datetime
    missed: int
    jobs: Sequence[tuple[str, str, bool]]


@dataclass(frozen=True, kw_only=True)
class PushFailed(Event):
    """A push raised an error: its jobs are not on the queue, or may not be.

    Attributes:
        jobs: Id and name of each job that may not be there.
    """

    jobs: Sequence[tuple[str, str]]
    error: DriverError


@dataclass(frozen=True, kw_only=True)
class OutboxMeasured(Event):
    """A relay has looked how far it is behind, as it does every 10 s.

    Attributes:
        waiting: How many rows wait to be pushed; not more than `most`.
        oldest: For how many seconds the oldest of them has waited; 0 if there is none.
        refused: How many rows were set aside, because they can't be pushed; not more than `most`.
        most: Up to where it counts.
    """

    waiting: int
    oldest: float
    refused: int
    most: int


@dataclass(frozen=True, kw_only=True)
class RowsRefused(Event):
    """A relay has set rows of an outbox aside, because they can't be pushed.

    Attributes:
        rows: The number of each in `redisjobs.outbox`, its job id, its job name, and the error.
    """

    rows: Sequence[tuple[int, str, str, str]]


@dataclass(frozen=True, kw_only=True)
class RelayUnavailable(Event):
    """A relay can't push: its database or its queue does not answer, or refuses. It tries again."""

    why: str


@dataclass(frozen=True, kw_only=True)
class RelayAvailable(Event):
    """A relay that could not push pushes again."""


@dataclass(frozen=True, kw_only=True)
class JobsChanged(Event):
    """Jobs were cancelled, requeued, deleted, held or unheld, by a call on this queue.

    Attributes:
        change: `cancel`, `requeue`, `delete`, `hold` or `unhold`.
        jobs: The id as given in the call; OK, INDEPENDENT, CANCELLED, CANCELLING or HELD.
    """

    change: str
    jobs: Sequence[tuple[str, Reply]]


@dataclass(frozen=True, kw_only=True)
class QueuePaused(Event):
    """A call on this queue paused the queue or a job name, or found it paused.

    Attributes:
        name: The job name; '' for the whole queue.
    """

    name: str


@dataclass(frozen=True, kw_only=True)
class QueueResumed(Event):
    """A call on this queue resumed the queue or a job name, or found it not paused.

    Attributes:
        name: The job name; '' for the whole queue.
    """

    name: str


@dataclass(frozen=True)
class WorkerEvent(Event):
    """Something that has happened to a worker.

    Attributes:
        worker: Its id at that time.
        queues: The names of all queues of that worker, in order; empty if it has one.
    """

    worker: str
    _: KW_ONLY
    queues: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class WorkerStarted(WorkerEvent):
    """A worker has reached the server and begins to claim.

    Attributes:
        slots: How many jobs it may run at once.
        names: The job names it has handlers for, in alphabetical order.
        server: Where the queue is, without a password.
        busy: Returns how many slots run a job, in any thread. Equal for queues that share the slots of one worker.
    """

    slots: int
    names: Sequence[str]
    server: str = ""
    busy: Callable[[], int] = int


@dataclass(frozen=True, kw_only=True)
class WorkerDraining(WorkerEvent):
    """A worker was asked to stop: it claims no more jobs, and finishes those that run.

    Attributes:
        jobs: How many it holds.
    """

    jobs: int


@dataclass(frozen=True, kw_only=True)
class WorkerStopped(WorkerEvent):
    """A worker's run has ended, in order or not: its jobs are settled or released, or will run again.

    Attributes:
        started_as: Its id when it started; '' if it never reached its server.
        server: As in `WorkerStarted`.
    """

    started_as: str = ""
    server: str = ""


@dataclass(frozen=True, kw_only=True)
class SourceUnavailable(WorkerEvent):
    """The server of a worker did not answer, or refuses. The worker tries again.

    Attributes:
        refuses: The server answers, but refuses: it is full, or a key has the wrong type.
        leases: How many jobs the worker holds meanwhile; None: it has not begun yet.
        server: As in `WorkerStarted`.
    """

    why: str
    refuses: bool
    leases: int | None
    server: str = ""


@dataclass(frozen=True, kw_only=True)
class SourceAvailable(WorkerEvent):
    """The server of a worker answers again."""

    server: str = ""


@dataclass(frozen=True, kw_only=True)
class LoopBlocked(WorkerEvent):
    """A worker's event loop is blocked: no other job can start or end. Published from another thread.

    Attributes:
        seconds: How long so far.
        where: The job, and the line.
    """

    seconds: float
    where: str


@dataclass(frozen=True, kw_only=True)
class LoopResumed(WorkerEvent):
    """A worker's event loop that was blocked runs again. Published from another thread.

    Attributes:
        seconds: How long it was blocked.
    """

    seconds: float


@dataclass(frozen=True, kw_only=True)
class ProcessEnded(WorkerEvent):
    """A worker process has ended; published by its supervisor.

    Attributes:
        ended: The process id.
        in_order: It had reported that all was settled.
        expected: It was asked to end, drained the queue, or reached a limit of jobs, memory or threads.
        how: In words, for example `was killed by SIGKILL`.
    """

    ended: int
    in_order: bool
    expected: bool
    how: str


@dataclass(frozen=True, kw_only=True)
class JobsClaimed(WorkerEvent):
    """A worker has got jobs, and starts them at once or in a moment."""

    leases: Sequence[Lease]


@dataclass(frozen=True, kw_only=True)
class StepsSaved(WorkerEvent):
    """Running jobs have saved steps. A wait is no step of this event; see `JobsSuspended`.

    Attributes:
        steps: Job id, job name, and key of each step.
    """

    steps: Sequence[tuple[str, str, str]]


@dataclass(frozen=True, kw_only=True)
class JobsReclaimed(WorkerEvent):
    """A worker found others that had sent no heartbeat for a lease, and handed back their jobs.

    Attributes:
        lost: The ids of the workers that it fenced just now.
        jobs: How many jobs it handed back, in this look or in a row of looks.
    """

    lost: Sequence[str]
    jobs: int


@dataclass(frozen=True, slots=True)
class SettledJob:
    """How one job was settled. Without a lease, no worker ran it: Redis ended it at a claim.

    Attributes:
        reply: The answer to the settlement.
        name: '?' if the entry could not be read, or was not read.
        attempt: The number of this run, from 1, as its entry has it; 0 without a lease.
        settlement: What the worker sent.
        waited: Seconds from ready to its start, without a deliberate delay; 0 if it did not start.
        ran: Seconds until its handler ended, or until this event; 0 if it did not start.
        sent_at: When the settlement was last sent, in seconds since 1970; 0 if never.
        resent: It was sent before, and the reply was lost.
        attempts: That its retry policy allows; None if it is not tried again, or without limit.
    """

    job_id: str
    reply: Reply
    name: str = "?"
    attempt: int = 0
    lease: Lease | None = None
    outcome: Outcome | None = None
    settlement: Settlement | None = None
    waited: float = 0.0
    ran: float = 0.0
    sent_at: float = 0.0
    resent: bool = False
    attempts: int | None = None

    @property
    def kind(self) -> "type[JobsSettled]":
        """The class of its event, which shows how it was settled."""
        return kind_of(self.settlement, self.reply)


@dataclass(frozen=True, kw_only=True)
class JobsSettled(WorkerEvent):
    """Jobs were settled in one way. The event of each way derives from this class."""

    jobs: Sequence[SettledJob]


class JobsCompleted(JobsSettled):
    """Handlers returned, and their jobs are done."""


class JobsRetried(JobsSettled):
    """Jobs run again later."""


class JobsSuspended(JobsSettled):
    """Handlers wait, and their jobs run again once the wait is over."""


class JobsReleased(JobsSettled):
    """Jobs were handed back without an outcome."""


class JobsCancelled(JobsSettled):
    """Jobs were cancelled, and are gone."""


class JobsDead(JobsSettled):
    """Jobs became dead letters."""


class LeasesLost(JobsSettled):
    """Settlements were refused, because another worker has the jobs now. Nothing was written."""


def kind_of(settlement: Settlement | None, reply: Reply) -> type[JobsSettled]:
    """Return the class of the event for a settlement and the reply to it."""
    match reply, settlement:
        case Reply.LEASE_LOST, _:
            return LeasesLost
        case (Reply.CANCELLED, _) | (_, Ack(cancelled=True)):
            return JobsCancelled
        case _, RetryLater():
            return JobsRetried
        case _, Suspend():
            return JobsSuspended
        case ((Reply.DEAD | Reply.UNDECODABLE), _) | (_, DeadLetter()):
            return JobsDead
        case _, Ack():
            return JobsCompleted
        case _:
            return JobsReleased
