"""The state of one queue in memory: its jobs and their places, workers, limits, schedules and recent pushes.

Nothing outlives the process. Times whose names end in `_ms` or `_us` are by the queue's clock, others by its
monotonic clock, in seconds.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from redisjobs.model.changes import Change, JobStatus, Wish
from redisjobs.model.children import ChildOutcome
from redisjobs.model.chunks import StoredChunk
from redisjobs.model.definition import Definition
from redisjobs.model.driver import Fenced, Notification
from redisjobs.model.job import Priority, State
from redisjobs.model.limits import Limit
from redisjobs.model.queries import Query
from redisjobs.model.retention import DEFAULT, Retention
from redisjobs.model.steps import Saved
from redisjobs.model.transitions import Ended, Exchange, Pushed, Reply, Wait

K = TypeVar("K")
V = TypeVar("V")
T = TypeVar("T")

Fields = Mapping[bytes, bytes]
Push = tuple[str, bytes]  # job id, nonce
Listener = Callable[[Notification], None]

REMEMBERED = 60_000  # ms for which a push is remembered after its job ended, because it may be repeated
CONTROL, READY = " control", " ready"  # channels: for all listeners, and for new jobs; each process has one too
_SWEPT = 1_000  # expired values are dropped only if there are at least this many


class StoredPlace(dict[int, "StoredJob"]):
    """The jobs in one place, by number; with their state, and the worker that runs them."""

    __slots__ = ("state", "worker")

    def __init__(self, state: State, worker: str = "") -> None:
        super().__init__()
        self.state, self.worker = state, worker


@dataclass(slots=True)
class StoredJob:
    """A job of the queue, in any state."""

    id: str
    priority: Priority
    fields: Fields  # the fields that were pushed, and notes made since
    place: StoredPlace = field(init=False, compare=False, repr=False)
    number: int = 0  # greater than that of each job that became ready, delayed or set aside before it
    since_ms: int = 0  # when it became ready, delayed or set aside
    due_ms: int = 0  # of a delayed job; of a suspended one, when it is woken at the latest; 0: no time
    wait: Wait | None = None  # of a suspended job
    deliveries: int = 0
    since: float = 0.0  # when it was last delivered or handed back
    ran_isolated: bool = False  # its last worker ran nothing else
    is_cancelling: bool = False  # a cancel was asked for while it ran
    processes: tuple[str, ...] = ()  # the processes that wait for its end
    noted: list[str] = field(default_factory=list)  # lines of its history since its entry was written

    @property
    def state(self) -> State:
        return self.place.state

    @property
    def has_ended(self) -> bool:
        """Whether it is done or cancelled, and kept; its id is free."""
        return self.place.state in (State.COMPLETED, State.CANCELLED)

    @property
    def rank(self) -> int:
        return _RANKS[self.priority]

    @property
    def name(self) -> str:
        return self.text(b"name")

    @property
    def counts_as(self) -> str:
        """The name under which a limit counts it: its job name, or its job name and limit key."""
        key = self.text(b"limit_key")
        return f"{self.name} {key}" if key else self.name

    def text(self, name: bytes) -> str:
        return self.fields.get(name, b"").decode("utf-8", "surrogateescape")


_RANKS = {priority: rank for rank, priority in enumerate(Priority)}


@dataclass(slots=True)
class StoredWorker:
    """A worker: its lease, and the jobs that it runs."""

    id: str
    run: str  # tells it from another worker with the same id
    lease: float  # seconds
    until: float  # when its lease ends; once it is fenced, until when its id stays taken
    jobs: StoredPlace = field(init=False)
    cancels: int = 0  # how often a cancel of one of its jobs was asked for
    wish: Wish | None = None  # what an operator asked it to do last
    facts: Mapping[str, str] = field(default_factory=dict)  # what its heartbeats reported
    answers: dict[int, tuple[int, Exchange]] = field(default_factory=dict)  # by lane: the last turn and its answer
    ended: list[Ended] = field(default_factory=list)  # jobs that ended after a read; the next claim reports them

    def __post_init__(self) -> None:
        self.jobs = StoredPlace(State.RUNNING, self.id)


@dataclass(slots=True)
class Line:
    """The jobs that one limit counts together: those of a name, or of a name and a key."""

    counts_as: str
    waiting: StoredPlace = field(default_factory=lambda: StoredPlace(State.READY))
    running: set[str] = field(default_factory=set)  # ids of jobs that have a share of the limit
    is_open: bool = False  # whether jobs that come now have to wait in line
    next_us: int = 0  # when the next job starts at a steady rate; a burst may start it earlier

    @property
    def name(self) -> str:
        return self.counts_as.partition(" ")[0]


@dataclass(slots=True)
class StoredSteps:
    """What a job has saved."""

    version: int  # of the handler that saved its first step
    saved: dict[str, Saved] = field(default_factory=dict)
    checkpoint: bytes | None = None
    groups: dict[str, str] = field(default_factory=dict)  # tokens by key of step


@dataclass(slots=True)
class StoredGroup:
    """The children of a step."""

    parent: str
    key: str  # of the step
    total: int
    outcomes: dict[int, ChildOutcome] = field(default_factory=dict)  # of those that have ended, by index
    ids: dict[int, str] = field(default_factory=dict)  # of those that have one of their own
    is_closed: bool = False  # its parent has ended

    @property
    def left(self) -> int:
        return self.total - len(self.outcomes)


@dataclass(slots=True)
class StoredChunks:
    """What a job has emitted."""

    began_ms: int  # when the first chunk was stored
    last: int = 0  # the number of the last chunk
    run: int = 0
    wait: int = 0  # the number of the last wait that was over when this run began
    bytes: int = 0  # of the chunks that are kept
    chunks: deque[StoredChunk] = field(default_factory=deque)


@dataclass(slots=True)
class StoredSchedule:
    """A schedule, and how far it has fired."""

    definition: Definition
    fingerprint: str
    last_ms: int  # the last slot that was handled
    fired_ms: int | None = None  # the last slot that it fired
    fired_by: str = ""  # the scheduler that fired it
    missed: int = 0  # slots that got no job of their own
    is_paused: bool = False
    moved_to: str = ""  # where a mover took it when it paused it
    change: int = 0  # the number of its last change
    declared_by: int | None = None  # when the scheduler began that declares it; None: it was put at run time
    release: str = ""  # the release of that scheduler


@dataclass(slots=True)
class StoredTallies:
    """What was counted within one interval of the statistics."""

    total: dict[str, int] = field(default_factory=dict)
    sample: dict[str, int] = field(default_factory=dict)
    names: dict[str, dict[str, int]] = field(default_factory=dict)
    causes: dict[str, int] = field(default_factory=dict)

    @property
    def fields(self) -> int:
        """How many fields Redis would have for it."""
        return len(self.names) + sum(map(bool, (self.total, self.sample, self.causes)))


class Expiring(dict[K, tuple[V, float]]):
    """Values, each with the time in ms at which it expires."""

    _sweep_at = _SWEPT

    def current(self, key: K, now_ms: int) -> V | None:
        found = self.get(key)
        return None if found is None or found[1] <= now_ms else found[0]

    def put(self, key: K, value: V, until_ms: float, now_ms: int) -> None:
        """Keep a value until `until_ms`. Drop expired values when their number has doubled since the last time."""
        self[key] = value, until_ms
        if len(self) >= self._sweep_at:
            for each in [each for each, (_, until_ms) in self.items() if until_ms <= now_ms]:
                del self[each]
            self._sweep_at = max(_SWEPT, 2 * len(self))


class Memory:
    """The state of one queue. Callers of its methods must hold the lock.

    Args:
        now_ms: Returns the time; None for this machine's clock.
        monotonic: Returns the monotonic time in seconds, which leases are measured by.
    """

    def __init__(
        self, now_ms: Callable[[], int] | None = None, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self.now_ms = now_ms or (lambda: time.time_ns() // 1_000_000)
        self.monotonic = monotonic
        self.lock = threading.RLock()
        self.channels: dict[str, list[Listener]] = {}

        self.jobs: dict[str, StoredJob] = {}  # by id; the last job of each id
        self.last_number = 0
        self.new = {priority: StoredPlace(State.READY) for priority in Priority}  # never delivered
        self.returned = StoredPlace(State.READY)  # handed back
        self.isolated = StoredPlace(State.READY)  # handed back, for a worker that runs nothing else
        self.parked = StoredPlace(
            State.READY
        )  # jobs that may not start, because they are held or their name is paused
        self.delayed = StoredPlace(State.DELAYED)
        self.suspended = StoredPlace(State.SUSPENDED)
        self.aside = {state: StoredPlace(state) for state in (State.DEAD, State.COMPLETED, State.CANCELLED)}
        self.totals: dict[str, int] = {}

        self.workers: dict[str, StoredWorker] = {}
        self.fenced: dict[str, StoredWorker] = {}  # kept for a while: a late read may still bring them jobs
        self.promoter = ("", 0)  # the worker that looks when delayed jobs are due, and until when in ms

        self.paused: int | None = None  # since when, in ms
        self.paused_names: dict[str, int] = {}
        self.steps: dict[str, StoredSteps] = {}  # by job id
        self.groups: dict[str, StoredGroup] = {}  # of children, by token
        self.cancelling: dict[
            str, int
        ] = {}  # groups whose children are to be cancelled, and up to which index they are
        self.signals: dict[
            str, dict[str, bytes]
        ] = {}  # by job id and name: signals that no job has waited for yet
        self.held: dict[str, int] = {}  # ids of jobs, and since when each is held, in ms
        self.limits: dict[str, Limit] = {}  # by job name
        self.lines: dict[str, Line] = {}  # by what their jobs count as
        self.turns: dict[str, int] = {}  # when a job of a line may start, in ms

        self.uniques = Expiring[str, str]()  # the job that holds a unique key
        self.ended = Expiring[Push, bool]()
        self.changed = Expiring[str, Reply]()  # answers to changes that are made once, by nonce
        self.refused = Expiring[Push, bool]()  # pushes that were refused when they were repeated
        self.answers = Expiring[Push, Pushed]()  # answers to pushes that met a unique key
        self.relayed: dict[str, dict[str, int]] = {}  # by outbox: its rows, and when each was answered, in ms
        self.outcomes = Expiring[str, JobStatus]()  # how jobs ended whose result is kept
        self.results = Expiring[str, bytes]()  # JSON
        self.progress = Expiring[str, bytes]()
        self.chunks = Expiring[str, StoredChunks]()

        # Statistics by the length of an interval in minutes, and by its number.
        self.intervals: dict[int, dict[int, StoredTallies]] = {1: {}, 10: {}}
        self.recorded = Expiring[str, int]()  # by recorder: the number of its last record

        self.retention: Retention = DEFAULT
        self.declared: set[str] = set()  # the declarations of workers; see `Declare`
        self.tidied_ms: int | None = None
        self.schedules: dict[str, StoredSchedule] = {}
        self.removed: dict[str, int] = {}  # removed schedules, and the number of each removal
        self.change = 0  # the number of the last change of a schedule
        self.releases: dict[str, int] = {}  # when a scheduler of each release last reported, in ms
        self.schedulers: dict[str, dict[str, int]] = {}  # by release and id: when each last reported, in ms

    def worker(self, worker_id: str) -> StoredWorker:
        if worker_id not in self.workers:
            raise Fenced(worker_id)
        return self.workers[worker_id]

    def put(self, job: StoredJob, place: StoredPlace) -> None:
        if job.number:
            del job.place[job.number]
        self.last_number += 1
        job.place, job.number, job.since_ms = place, self.last_number, self.now_ms()
        job.deliveries, job.ran_isolated, job.is_cancelling, job.noted = 0, False, False, []
        place[job.number] = self.jobs[job.id] = job

    def enqueue(self, job: StoredJob, due_ms: int) -> None:
        if due_ms <= self.now_ms():
            self.put(job, self.new[job.priority])
            self.tell("ready", job.id, READY)
            return
        first = self.next_due()
        job.due_ms = due_ms
        self.put(job, self.delayed)
        if first is None or due_ms < first:
            self.tell("due", str(due_ms))

    def move(self, job: StoredJob, place: StoredPlace) -> None:
        """Move a ready or running job to another place; it keeps its number."""
        del job.place[job.number]
        job.place = place
        place[job.number] = job

    def deliver(self, job: StoredJob, worker: StoredWorker) -> None:
        self.move(job, worker.jobs)
        job.deliveries += 1
        job.since = self.monotonic()

    def hand_back(self, job: StoredJob, deliveries: int) -> None:
        """Take a job from its worker, or out of a line. Workers claim it before new jobs."""
        self.move(job, self.returned)
        job.deliveries, job.since = max(0, deliveries), self.monotonic()

    def remove(self, job: StoredJob) -> None:
        del job.place[job.number]
        job.number = 0
        if self.jobs.get(job.id) is job:  # if it has ended, another job may have its id by now
            del self.jobs[job.id]

    def waking(self) -> Iterator[StoredJob]:
        """Return the jobs that a time makes ready: delayed, and suspended until a time."""
        yield from self.delayed.values()
        yield from (job for job in self.suspended.values() if job.due_ms)

    def next_due(self) -> int | None:
        return min((job.due_ms for job in self.waking()), default=None)

    def due(self, until_ms: float) -> list[StoredJob]:
        due = [job for job in self.waking() if job.due_ms <= until_ms]
        return sorted(due, key=lambda job: (job.due_ms, job.number))

    def running(self) -> Iterator[StoredJob]:
        """Return the jobs that workers hold, also those of fenced workers."""
        for worker in (*self.workers.values(), *self.fenced.values()):
            yield from worker.jobs.values()

    def waiting(self) -> Iterator[StoredJob]:
        lines = (line.waiting for line in self.lines.values())
        for place in (*self.new.values(), self.returned, self.isolated, self.parked, *lines):
            yield from place.values()

    def is_restricted(self) -> bool:
        return self.paused is not None or bool(self.paused_names or self.held or self.limits)

    def may_not_start(self, job: StoredJob) -> bool:
        return job.id in self.held or (bool(self.paused_names) and job.name in self.paused_names)

    def count(self, counter: str, number: int = 1) -> None:
        if number:
            self.totals[counter] = self.totals.get(counter, 0) + number

    def tell(self, kind: str, value: str, channel: str = CONTROL) -> None:
        for listener in list(self.channels.get(channel, ())):
            listener(Notification(kind, value))

    def tell_processes(self, job: StoredJob) -> None:
        for process in job.processes:
            self.tell("changed", job.id, process)


QUERIES: dict[type[Any], Callable[[Memory, Any], Any]] = {}
CHANGES: dict[type[Any], Callable[[Memory, Any], Any]] = {}


def answers(asked: type[Query[T] | Change[T]]) -> Callable[[Callable[[Memory, V], T]], Callable[[Memory, V], T]]:
    """Register a function that answers a query, or makes a change."""

    def register(answer: Callable[[Memory, V], T]) -> Callable[[Memory, V], T]:
        (QUERIES if issubclass(asked, Query) else CHANGES)[asked] = answer
        return answer

    return register


def by_rank(jobs: Iterable[StoredJob]) -> list[StoredJob]:
    """Return jobs in order of priority, the oldest first within each."""
    return sorted(jobs, key=lambda job: (job.rank, job.number))


def encoded(value: str | bytes) -> bytes:
    """Return a field's name or value as bytes."""
    return value.encode("utf-8", "surrogateescape") if isinstance(value, str) else value


def with_fields(fields: Fields, changes: Mapping[str, str]) -> Fields:
    """Return fields with some of them changed; '' removes one."""
    changed = {encoded(name): encoded(value) for name, value in changes.items()}
    kept = {name: value for name, value in fields.items() if name not in changed}
    return kept | {name: value for name, value in changed.items() if value}
