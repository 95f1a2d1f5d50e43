"""What an operator asks of a queue, as values, with their answers. Changes are in `changes.py`.

Where a name ends in `_ms`, a time is in ms since 1970, and a duration in ms.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from redisjobs.model.job import Priority, State, WhyWaiting
from redisjobs.model.transitions import LONG_AGO, MOST_JOBS

Answer = TypeVar("Answer", covariant=True)


@dataclass(frozen=True, slots=True)
class Row:
    """One job as the store knows it."""

    job_id: str  # by which it is found, cancelled, requeued and deleted
    state: State
    priority: Priority
    key: str  # the driver's name for its place; '' while delayed
    queued_ms: int  # when it came there; 0 while delayed
    due_ms: int | None  # None unless it is delayed
    worker: str  # the worker that runs it
    deliveries: int
    cancelling: bool  # a cancel was asked for while it ran
    fields: Mapping[bytes, bytes]
    held: bool = False  # it waits, and does not start
    # Two looks at a job that did not change differ in these.
    started_ms: int | None = field(default=None, compare=False)  # when its worker got it; None: it does not run
    ran_ms: int | None = field(default=None, compare=False)  # for how long it has been running
    why_waiting: WhyWaiting | None = None
    progress: bytes = b""  # its last progress report as JSON, until it has ended


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

    A due delayed job counts, even if no worker has made it ready yet. One whose entry id can't be a time does not.
    """

    oldest: Mapping[Priority, float]  # the age of the oldest ready job in s; only priorities with one
    workers: int  # those whose leases run


def backlog_since(since: Iterable[tuple[Priority, float]], now_ms: float, workers: int) -> Backlog:
    """Return how far a queue is behind, by when jobs became ready, in ms; the earliest of a priority counts."""
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
    """Which jobs are chosen: those that match all that is given; '' matches any."""

    name: str = ""
    text: str = ""  # in its stored parameters or its error
    fingerprint: str = ""  # of a dead letter's failure
    reason: str = ""  # of a dead letter
    older_ms: int | None = None  # since it came to the queue, since a dead letter died, or since a kept job ended


@dataclass(frozen=True, slots=True)
class Scanned:
    """One step of a scan."""

    rows: Sequence[Row]
    after: str = ""  # where the next step goes on; '' at the end


@dataclass(frozen=True, slots=True)
class Scan(Query[Scanned]):
    """Find jobs of a state, in bounded steps: one reads at most 500 jobs, and may find none.

    Ready and running jobs come by priority and age, delayed ones by due time, dead letters and ended jobs newest
    first. A job that stays in its place comes once. A dead letter or ended job that is new since the first step
    does not come.
    """

    state: State
    filter: Filter = Filter()
    after: str = ""  # where an earlier step left off; '' to begin
    limit: int = MOST_JOBS  # the most rows


@dataclass(frozen=True, slots=True)
class Group:
    """Dead letters of one kind: of one fingerprint, or of one reason where they have none."""

    fingerprint: str
    reason: str  # this, `error_type`, `job_id` and `error` are those of the newest
    error_type: str
    count: int
    first_ms: int  # when the first of them died
    last_ms: int
    job_id: str
    error: str
    names: Sequence[str]  # of their jobs; some, if there are many


@dataclass(frozen=True, slots=True)
class Grouped:
    """One step of grouping: the groups of the letters it read, the newest first."""

    groups: Sequence[Group]
    after: str = ""  # where the next step goes on; '' at the end


@dataclass(frozen=True, slots=True)
class GroupDead(Query[Grouped]):
    """Group dead letters by kind of failure, the newest first, in bounded steps."""

    after: str = ""


@dataclass(frozen=True, slots=True)
class Count(Query[Counts]):
    """Count the jobs of each state, and read the counters."""


@dataclass(frozen=True, slots=True)
class GetBacklog(Query[Backlog]):
    """Find how long jobs have been ready, and how many workers there are."""


@dataclass(frozen=True, slots=True)
class WorkersFound:
    """One step of reading workers."""

    # Of each its id, the seconds that its lease still lasts, and the facts of its last heartbeat.
    workers: Sequence[tuple[str, float, Mapping[str, str]]]
    after: str = ""  # where the next step goes on; '' at the end


@dataclass(frozen=True, slots=True)
class FindWorkers(Query[WorkersFound]):
    """Find the workers of a queue, in bounded steps. One that is there all the time comes at least once."""

    after: str = ""


@dataclass(frozen=True, slots=True)
class Pauses:
    """What may not start now."""

    queue: int | None  # since when the queue is paused, in ms; None: it is not
    names: Mapping[str, int]  # the job names that are paused, and since when
    held: int  # how many jobs are held


@dataclass(frozen=True, slots=True)
class FindPauses(Query[Pauses]):
    """Find what may not start now."""


@dataclass(frozen=True, slots=True)
class LimitsFound:
    """One step of reading limits. A bucket is what is counted together: a job name, and a key after it, if any."""

    limits: Mapping[str, str]  # job names, and the limit of each as `Limit.text`
    # A bucket, how many of its jobs wait in line, and when the next may start; None: when one that runs has ended.
    lines: Sequence[tuple[str, int, int | None]]
    running: Sequence[tuple[str, str, str]]  # a bucket, the worker of a job that runs, and the job's id
    after: str = ""  # where the next step goes on; '' at the end


@dataclass(frozen=True, slots=True)
class FindLimits(Query[LimitsFound]):
    """Find the limits of job names, what runs under them and what waits in line, in bounded steps."""

    after: str = ""
