"""Events: what has happened on a queue, published afterwards to its listeners.

One event is about a whole batch, so that a job costs nothing that no listener asked for. Logs and recordings are
listeners. Code that takes part in what happens is a middleware instead.
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
    """A push was answered, and every job of it is on the queue, or was before."""

    jobs: Sequence[tuple[str, str, bool]]  # id, name, and whether it was added


@dataclass(frozen=True, kw_only=True)
class ScheduleFired(Event):
    """A schedule has fired: a scheduler of this process was the first to see to its slot."""

    schedule: str
    slot: datetime  # the last one, if several were made up for
    missed: int  # how many slots before it have no job of their own
    jobs: Sequence[tuple[str, str, bool]]  # as in `JobsPushed`; one is not added if its unique key is held


@dataclass(frozen=True, kw_only=True)
class PushFailed(Event):
    """A push raised: its jobs are not on the queue, or may not be."""

    jobs: Sequence[tuple[str, str]]  # id and name of each that may not be there
    error: DriverError


@dataclass(frozen=True, kw_only=True)
class JobsChanged(Event):
    """Jobs were cancelled, requeued, deleted, held or unheld, by a call on this queue."""

    change: str  # `cancel`, `requeue`, `delete`, `hold` or `unhold`
    jobs: Sequence[tuple[str, Reply]]  # the id as it was named in the call; OK, CANCELLED, CANCELLING or HELD


@dataclass(frozen=True, kw_only=True)
class QueuePaused(Event):
    """A queue, or a job name, was paused by a call on this queue, or was before."""

    name: str  # the job name; '' for the whole queue


@dataclass(frozen=True, kw_only=True)
class QueueResumed(Event):
    """A queue, or a job name, was resumed by a call on this queue, or was not paused."""

    name: str  # the job name; '' for the whole queue


@dataclass(frozen=True)
class WorkerEvent(Event):
    """Something that has happened to a worker."""

    worker: str  # its id at that time
    _: KW_ONLY
    queues: Sequence[str] = ()  # the names of all queues of that worker, in order; empty if it has one


@dataclass(frozen=True, kw_only=True)
class WorkerStarted(WorkerEvent):
    """A worker has reached the store and begins to claim."""

    slots: int  # how many jobs it may run at once
    names: Sequence[str]  # the job names it has handlers for, in alphabetical order
    server: str = ""  # where the queue is, without a password
    # How many of the slots run a job, for any thread. Equal for queues that share the slots of one worker.
    busy: Callable[[], int] = int


@dataclass(frozen=True, kw_only=True)
class WorkerDraining(WorkerEvent):
    """A worker was asked to stop: it claims no more jobs, and finishes those that run."""

    jobs: int  # how many it holds


@dataclass(frozen=True, kw_only=True)
class WorkerStopped(WorkerEvent):
    """A worker's run has ended, in order or not: its jobs are settled or released, or will run again."""

    started_as: str = ""  # its id when it started; '' if it never reached its store
    server: str = ""  # as in `WorkerStarted`


@dataclass(frozen=True, kw_only=True)
class SourceUnavailable(WorkerEvent):
    """The store of a worker did not answer, or refuses; the worker tries again."""

    why: str
    refuses: bool  # the store answers, but refuses: it is full, or a key has the wrong type
    leases: int | None  # how many jobs the worker holds meanwhile; None: it has not begun yet
    server: str = ""  # as in `WorkerStarted`


@dataclass(frozen=True, kw_only=True)
class SourceAvailable(WorkerEvent):
    """The store of a worker answers again."""

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

    ended: int  # the process' id
    in_order: bool  # it said before that all was settled
    expected: bool  # it was asked to end, drained the queue, or ran its share of jobs
    how: str  # in words, as `was killed by SIGKILL`


@dataclass(frozen=True, kw_only=True)
class JobsClaimed(WorkerEvent):
    """A worker has got jobs, and starts them at once or in a moment."""

    leases: Sequence[Lease]


@dataclass(frozen=True, kw_only=True)
class JobsReclaimed(WorkerEvent):
    """A worker found others that had sent no heartbeat for a lease, and handed back what they held."""

    lost: Sequence[str]  # the ids of those that it fenced just now
    jobs: int  # how many it handed back, in this look or in a row of looks


@dataclass(frozen=True, slots=True)
class SettledJob:
    """How one job was settled. Without a lease no worker ran it: the store ended it at a claim."""

    job_id: str
    reply: Reply  # the store's, to the settlement
    name: str = "?"  # '?' if it could not be read, or was not
    attempt: int = 0  # the number of this run, from 1, as its entry says; 0 without a lease
    lease: Lease | None = None
    outcome: Outcome | None = None
    settlement: Settlement | None = None  # what the worker sent
    waited: float = 0.0  # seconds from ready to its start, without a deliberate delay; 0 if it did not start
    ran: float = 0.0  # seconds until its handler ended, or until this event; 0 if it did not start
    sent_at: float = 0.0  # when the settlement was last sent, in seconds since 1970; 0 if never
    resent: bool = False  # it was sent before, and the reply lost
    attempts: int | None = None  # how many its retry policy allows, if it is tried again and that says it

    @property
    def kind(self) -> "type[JobsSettled]":
        """The class of its event: the way in which it was settled."""
        return kind_of(self.settlement, self.reply)


@dataclass(frozen=True, kw_only=True)
class JobsSettled(WorkerEvent):
    """Jobs were settled in one way; the event of each way derives from this."""

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
    """Settlements were refused, as another worker has the jobs now; nothing was written."""


E_ = TypeVar("E_", bound=Event)
Listener = Callable[[Any], object]


def kind_of(settlement: Settlement | None, reply: Reply) -> type[JobsSettled]:
    """Return the event of a settlement, by the store's reply to it."""
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
    """Log what a listener raised: it must not end the publisher."""
    if is_ctrl_c(error):
        raise error
    logger.error("a listener to %s raised; nothing else is changed by it", kind.__name__, exc_info=error)


class Events:
    """The listeners to the events of one queue, in this process. For any thread."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # a signal's handler may push, in the thread that holds it
        self._listeners: Sequence[tuple[type[Event], Listener, Callable[[], bool]]] = ()
        self._by_kind: Mapping[type[Event], Sequence[tuple[Listener, Callable[[], bool]]]] = {}

    def subscribe(
        self, kind: type[E_], listener: Callable[[E_], object], *, when: Callable[[], bool] = _always
    ) -> Callable[[], None]:
        """Call a function with each event of a kind from now on; return a function that ends that.

        It is called in the thread in which the event happened, most often the event loop's, so it must be quick.
        What it raises is logged.

        Args:
            kind: The class of the events. A class that others derive from stands for all of them.
            listener: The function.
            when: Returns whether it listens just now. Asked before an event is made, which costs time.
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
        """Return whether there is a listener to events of a kind just now; else they need not be made."""
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
