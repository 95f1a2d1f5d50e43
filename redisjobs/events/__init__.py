"""Events: what has happened on a queue, published afterwards to its listeners.

One event covers a whole batch, so a job costs nothing unless a listener wants it. Logs and recordings are
listeners. Code that changes what happens is a middleware instead.
"""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from datetime import datetime
from typing import Any, TypeVar

from redisjobs.base.logger import Log, is_ctrl_c
from redisjobs.errors import DriverError
from redisjobs.model.outcome import Outcome
from redisjobs.model.transitions import Ack, DeadLetter, Lease, Reply, RetryLater, Settlement

logger = Log("redisjobs")


@dataclass(frozen=True)
class Event:
    """Something that has happened."""

    queue: str  # its name
    _: KW_ONLY
    at: float = field(default_factory=time.time)  # when it was published, by this machine's clock


@dataclass(frozen=True, kw_only=True)
class JobsPushed(Event):
    """A push was answered: every job of it is on the queue now, or was before."""

    jobs: Sequence[tuple[str, str, bool]]  # id, name, and whether it was added


@dataclass(frozen=True, kw_only=True)
class ScheduleFired(Event):
    """A schedule has fired: a scheduler of this process was the first to fire its slot."""

    schedule: str
    slot: datetime  # the last one, if the scheduler caught up on several
    missed: int  # how many slots before it have no job of their own
    jobs: Sequence[tuple[str, str, bool]]  # as in `JobsPushed`; a job is not added if its unique key is held


@dataclass(frozen=True, kw_only=True)
class PushFailed(Event):
    """A push raised an error: its jobs are not on the queue, or may not be."""

    jobs: Sequence[tuple[str, str]]  # id and name of each job that may not be there
    error: DriverError


@dataclass(frozen=True, kw_only=True)
class JobsChanged(Event):
    """Jobs were cancelled, requeued, deleted, held or unheld, by a call on this queue."""

    change: str  # `cancel`, `requeue`, `delete`, `hold` or `unhold`
    jobs: Sequence[tuple[str, Reply]]  # the id as given in the call; OK, CANCELLED, CANCELLING or HELD


@dataclass(frozen=True, kw_only=True)
class QueuePaused(Event):
    """A call on this queue paused the queue or a job name, or found it paused."""

    name: str  # the job name; '' for the whole queue


@dataclass(frozen=True, kw_only=True)
class QueueResumed(Event):
    """A call on this queue resumed the queue or a job name, or found it not paused."""

    name: str  # the job name; '' for the whole queue


@dataclass(frozen=True)
class WorkerEvent(Event):
    """Something that has happened to a worker."""

    worker: str  # its id at that time
    _: KW_ONLY
    queues: Sequence[str] = ()  # the names of all queues of that worker, in order; empty if it has one


@dataclass(frozen=True, kw_only=True)
class WorkerStarted(WorkerEvent):
    """A worker has reached the server and begins to claim."""

    slots: int  # how many jobs it may run at once
    names: Sequence[str]  # the job names it has handlers for, in alphabetical order
    server: str = ""  # where the queue is, without a password
    # Returns how many slots run a job, in any thread. Equal for queues that share the slots of one worker.
    busy: Callable[[], int] = int


@dataclass(frozen=True, kw_only=True)
class WorkerDraining(WorkerEvent):
    """A worker was asked to stop: it claims no more jobs, and finishes those that run."""

    jobs: int  # how many it holds


@dataclass(frozen=True, kw_only=True)
class WorkerStopped(WorkerEvent):
    """A worker's run has ended, in order or not: its jobs are settled or released, or will run again."""

    started_as: str = ""  # its id when it started; '' if it never reached its server
    server: str = ""  # as in `WorkerStarted`


@dataclass(frozen=True, kw_only=True)
class SourceUnavailable(WorkerEvent):
    """The server of a worker did not answer, or refuses. The worker tries again."""

    why: str
    refuses: bool  # the server answers, but refuses: it is full, or a key has the wrong type
    leases: int | None  # how many jobs the worker holds meanwhile; None: it has not begun yet
    server: str = ""  # as in `WorkerStarted`


@dataclass(frozen=True, kw_only=True)
class SourceAvailable(WorkerEvent):
    """The server of a worker answers again."""

    server: str = ""


@dataclass(frozen=True, kw_only=True)
class LoopBlocked(WorkerEvent):
    """A worker's event loop is blocked: no other job can start or end. Published from another thread."""

    seconds: float  # how long so far
    where: str  # the job, and the line


@dataclass(frozen=True, kw_only=True)
class LoopResumed(WorkerEvent):
    """A worker's event loop that was blocked runs again. Published from another thread."""

    seconds: float  # how long it was blocked


@dataclass(frozen=True, kw_only=True)
class ProcessEnded(WorkerEvent):
    """A worker process has ended; published by its supervisor."""

    ended: int  # the process id
    in_order: bool  # it had reported that all was settled
    expected: bool  # it was asked to end, drained the queue, or reached a limit of jobs, memory or threads
    how: str  # in words, for example `was killed by SIGKILL`


@dataclass(frozen=True, kw_only=True)
class JobsClaimed(WorkerEvent):
    """A worker has got jobs, and starts them at once or in a moment."""

    leases: Sequence[Lease]


@dataclass(frozen=True, kw_only=True)
class JobsReclaimed(WorkerEvent):
    """A worker found others that had sent no heartbeat for a lease, and handed back their jobs."""

    lost: Sequence[str]  # the ids of the workers that it fenced just now
    jobs: int  # how many jobs it handed back, in this look or in a row of looks


@dataclass(frozen=True, slots=True)
class SettledJob:
    """How one job was settled. Without a lease, no worker ran it: Redis ended it at a claim."""

    job_id: str
    reply: Reply  # the answer to the settlement
    name: str = "?"  # '?' if the entry could not be read, or was not read
    attempt: int = 0  # the number of this run, from 1, as its entry has it; 0 without a lease
    lease: Lease | None = None
    outcome: Outcome | None = None
    settlement: Settlement | None = None  # what the worker sent
    waited: float = 0.0  # seconds from ready to its start, without a deliberate delay; 0 if it did not start
    ran: float = 0.0  # seconds until its handler ended, or until this event; 0 if it did not start
    sent_at: float = 0.0  # when the settlement was last sent, in seconds since 1970; 0 if never
    resent: bool = False  # it was sent before, and the reply was lost
    attempts: int | None = None  # that its retry policy allows; None if it is not tried again, or without limit

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


class JobsReleased(JobsSettled):
    """Jobs were handed back without an outcome."""


class JobsCancelled(JobsSettled):
    """Jobs were cancelled, and are gone."""


class JobsDead(JobsSettled):
    """Jobs became dead letters."""


class LeasesLost(JobsSettled):
    """Settlements were refused, because another worker has the jobs now. Nothing was written."""


E_ = TypeVar("E_", bound=Event)
Listener = Callable[[Any], object]


def kind_of(settlement: Settlement | None, reply: Reply) -> type[JobsSettled]:
    """Return the class of the event for a settlement and the reply to it."""
    match reply, settlement:
        case Reply.LEASE_LOST, _:
            return LeasesLost
        case (Reply.CANCELLED, _) | (_, Ack(cancelled=True)):
            return JobsCancelled
        case _, RetryLater():
            return JobsRetried
        case ((Reply.DEAD | Reply.UNDECODABLE), _) | (_, DeadLetter()):
            return JobsDead
        case _, Ack():
            return JobsCompleted
        case _:
            return JobsReleased


def _always() -> bool:
    return True


def _listens(kind: type[Event], when: Callable[[], bool]) -> bool:
    try:
        return when()
    except BaseException as error:
        _show(kind, error)
        return False


def _show(kind: type[Event], error: BaseException) -> None:
    """Log what a listener raised, which must not end the publisher."""
    if is_ctrl_c(error):
        raise error
    logger.error("a listener to %s raised; nothing else is affected", kind.__name__, exc_info=error)


class Events:
    """The listeners to the events of one queue, in this process. Any thread may use it."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # reentrant: a signal handler may push, in the thread that holds it
        self._listeners: Sequence[tuple[type[Event], Listener, Callable[[], bool]]] = ()
        self._by_kind: Mapping[type[Event], Sequence[tuple[Listener, Callable[[], bool]]]] = {}

    def subscribe(
        self, kind: type[E_], listener: Callable[[E_], object], *, when: Callable[[], bool] = _always
    ) -> Callable[[], None]:
        """Call a function with each event of a kind from now on; return a function that ends this.

        The listener is called in the thread in which the event happened, usually the event loop's, so it must be
        quick. What it raises is logged.

        Args:
            kind: The class of the events. It stands for all classes that derive from it, too.
            listener: The function.
            when: Returns whether the listener wants events now. Asked before an event is made, because that costs
                time.
        """
        entry = (kind, listener, when)
        with self._lock:
            self._listeners, self._by_kind = [*self._listeners, entry], {}

        def unsubscribe() -> None:
            with self._lock:
                self._listeners = [each for each in self._listeners if each is not entry]
                self._by_kind = {}

        return unsubscribe

    def wanted(self, kind: type[Event]) -> bool:
        """Return whether a listener wants events of a kind now. If none does, they need not be made."""
        return any(_listens(kind, when) for _, when in self._of(kind))

    def publish(self, event: Event) -> None:
        """Call each listener to events of its kind."""
        for listener, when in self._of(type(event)):
            if not _listens(type(event), when):
                continue
            try:
                listener(event)
            except BaseException as error:
                _show(type(event), error)

    def _of(self, kind: type[Event]) -> Sequence[tuple[Listener, Callable[[], bool]]]:
        found = self._by_kind.get(kind)
        if found is None:
            with self._lock:
                found = [(listener, when) for each, listener, when in self._listeners if issubclass(kind, each)]
                self._by_kind = {**self._by_kind, kind: found}
        return found
