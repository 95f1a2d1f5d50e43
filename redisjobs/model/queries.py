"""What an operator asks of a queue, as values, with their answers. Changes are in `changes.py`."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from redisjobs.model.job import Priority, State, WhyWaiting
from redisjobs.model.transitions import LONG_AGO, MOST_JOBS

Answer = TypeVar("Answer", covariant=True)


@dataclass(frozen=True, slots=True)
class Row:
    """One job as the store knows it.

    Attributes:
        job_id: The id by which it is found, cancelled, requeued and deleted.
        state: Where it is.
        priority: Its priority.
        key: The driver's name for its place; '' while delayed.
        queued_ms: When it came there, in ms since 1970; 0 while delayed.
        due_ms: When a delayed job may run; None otherwise.
        worker: The worker that runs it; '' for none.
        deliveries: How often it was delivered.
        cancelling: Whether a cancel was asked for while it ran.
        fields: Its fields as bytes.
        held: Whether it waits, and does not start.
        started_ms: When its worker got it, in ms since 1970; None: it does not run.
        ran_ms: How long it has been running, in ms; None: it does not run.
        why_waiting: What keeps it from starting beside its place in line and its due time; None: nothing.
        progress: Its last progress report as JSON, until it has ended; b'' for none.
    """

    job_id: str
    state: State
    priority: Priority
    key: str
    queued_ms: int
    due_ms: int | None
    worker: str
    deliveries: int
    cancelling: bool
    fields: Mapping[bytes, bytes]
    held: bool = False
    # Two looks at a job that did not change differ in these.
    started_ms: int | None = field(default=None, compare=False)
    ran_ms: int | None = field(default=None, compare=False)
    why_waiting: WhyWaiting | None = None
    progress: bytes = b""


COUNTERS = [
    *("pushed", "completed", "retried", "dead", "reclaimed", "released", "cancelled", "requeued", "deleted"),
    *("trimmed", "replaced"),
]
"""The counters of a queue."""


@dataclass(frozen=True, slots=True)
class Counts:
    """How many jobs are in each state at one instant, and the counters since the queue began.

    Attributes:
        ready: By priority.
        totals: Each of `COUNTERS`, 0 if it never happened, and other counters that were added in Redis. One that
            is not a number is left out, or 0.
        completed: Jobs that are done and were kept: see `Retention`.
        cancelled: Jobs that were cancelled and kept.
        inbox: Entries that redis-cli put in, and that no worker has pushed yet.
    """

    ready: Mapping[Priority, int]
    running: int
    delayed: int
    dead: int
    totals: Mapping[str, int]
    completed: int = 0
    cancelled: int = 0
    inbox: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "totals", dict.fromkeys(COUNTERS, 0) | dict(self.totals))


@dataclass(frozen=True, slots=True)
class Backlog:
    """How far a queue is behind, at one instant.

    Attributes:
        oldest: The seconds that the oldest ready job of each priority has been ready; a priority with none is left
            out. A due delayed job counts, even if no worker has made it ready yet. A job whose entry id can't be
            a time does not count.
        workers: How many workers have a lease that runs.
    """

    oldest: Mapping[Priority, float]
    workers: int


def backlog_since(since: Iterable[tuple[Priority, float]], now_ms: float, workers: int) -> Backlog:
    """Return how far a queue is behind.

    Args:
        since: Priorities, and when a job of each became ready, in ms; the earliest of each counts.
        now_ms: The store's clock.
        workers: How many workers there are.
    """
    first: dict[Priority, float] = {}
    for priority, ms in since:
        if ms > LONG_AGO:
            first[priority] = min(ms, first.get(priority, ms))
    return Backlog({priority: max(0.0, now_ms - ms) / 1000 for priority, ms in first.items()}, workers)


class Query(Generic[Answer]):
    """A question with an answer of this type; a frozen value."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Find(Query[Row | None]):
    """Find one job, wherever it is; None if there is none."""

    job_id: str


@dataclass(frozen=True, slots=True)
class Filter:
    """Which jobs are chosen: those that match all that is given.

    Attributes:
        name: The job's name; '': any.
        text: A text in its stored parameters or its error; '': any.
        fingerprint: The fingerprint of a dead letter's failure; '': any.
        reason: The reason of a dead letter; '': any.
        older_ms: The shortest time, in ms, since it came to the queue, since a dead letter died, or since a kept
            job ended; None: any.
    """

    name: str = ""
    text: str = ""
    fingerprint: str = ""
    reason: str = ""
    older_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Scanned:
    """One step of a scan.

    Attributes:
        rows: The jobs that match the filter.
        after: Where the next step goes on, for `Scan`; '' at the end.
    """

    rows: Sequence[Row]
    after: str = ""


@dataclass(frozen=True, slots=True)
class Scan(Query[Scanned]):
    """Find jobs of a state, in bounded steps: one reads at most 500 jobs, and may find none.

    Ready and running jobs come by priority and age, delayed ones by due time, dead letters and ended jobs newest
    first. A job that stays in its place comes once. A dead letter or ended job that is new since the first step
    does not come.

    Attributes:
        state: The state.
        filter: Which of its jobs.
        after: Where an earlier step left off; '' to begin.
        limit: The most rows; up to 500.
    """

    state: State
    filter: Filter = Filter()
    after: str = ""
    limit: int = MOST_JOBS


@dataclass(frozen=True, slots=True)
class Group:
    """Dead letters of one kind: of one fingerprint, or of one reason where they have none.

    Attributes:
        fingerprint: The fingerprint of their failures; '' for none.
        reason: The reason of the newest.
        error_type: The class of the newest one's exception.
        count: How many there are.
        first_ms: When the first of them died, in ms since 1970.
        last_ms: When the last of them died.
        job_id: The id of the newest.
        error: The error of the newest.
        names: The names of their jobs; some of them, if there are many.
    """

    fingerprint: str
    reason: str
    error_type: str
    count: int
    first_ms: int
    last_ms: int
    job_id: str
    error: str
    names: Sequence[str]


@dataclass(frozen=True, slots=True)
class Grouped:
    """One step of grouping.

    Attributes:
        groups: The groups of the letters it read, the newest first.
        after: Where the next step goes on, for `GroupDead`; '' at the end.
    """

    groups: Sequence[Group]
    after: str = ""


@dataclass(frozen=True, slots=True)
class GroupDead(Query[Grouped]):
    """Group dead letters by kind of failure, the newest first, in bounded steps.

    Attributes:
        after: Where an earlier step left off; '' to begin.
    """

    after: str = ""


@dataclass(frozen=True, slots=True)
class Count(Query[Counts]):
    """Count the jobs of each state, and read the counters."""


@dataclass(frozen=True, slots=True)
class GetBacklog(Query[Backlog]):
    """Find how long jobs have been ready, and how many workers there are."""


@dataclass(frozen=True, slots=True)
class WorkersFound:
    """One step of reading workers.

    Attributes:
        workers: Of each its id, the seconds that its lease still lasts, and the facts of its last heartbeat.
        after: Where the next step goes on, for `FindWorkers`; '' at the end.
    """

    workers: Sequence[tuple[str, float, Mapping[str, str]]]
    after: str = ""


@dataclass(frozen=True, slots=True)
class FindWorkers(Query[WorkersFound]):
    """Find the workers of a queue, in bounded steps. One that is there all the time comes at least once.

    Attributes:
        after: Where an earlier step left off; '' to begin.
    """

    after: str = ""


@dataclass(frozen=True, slots=True)
class Pauses:
    """What may not start now.

    Attributes:
        queue: Since when the queue is paused, in ms since 1970; None: it is not.
        names: The job names that are paused, and since when.
        held: How many jobs are held.
    """

    queue: int | None
    names: Mapping[str, int]
    held: int


@dataclass(frozen=True, slots=True)
class FindPauses(Query[Pauses]):
    """Find what may not start now."""


@dataclass(frozen=True, slots=True)
class LimitsFound:
    """One step of reading limits. A bucket is what is counted together: a job name, and a key after it, if any.

    Attributes:
        limits: Job names, and the limit of each as `Limit.text`.
        lines: A bucket, how many of its jobs wait in line, and when the next may start, in ms since 1970; None:
            when one that runs has ended.
        running: A bucket, the worker of a job that runs, and the job's id.
        after: Where the next step goes on, for `FindLimits`; '' at the end.
    """

    limits: Mapping[str, str]
    lines: Sequence[tuple[str, int, int | None]]
    running: Sequence[tuple[str, str, str]]
    after: str = ""


@dataclass(frozen=True, slots=True)
class FindLimits(Query[LimitsFound]):
    """Find the limits of job names, what runs under them and what waits in line, in bounded steps.

    Attributes:
        after: Where an earlier step left off; '' to begin.
    """

    after: str = ""
