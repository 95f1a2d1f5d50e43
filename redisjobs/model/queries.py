"""The questions of an operator to a queue, as values, with their answers. `changes.py` has the changes.

If a name ends in `_ms`, a time is in ms since 1970, and a duration is in ms.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from redisjobs.model.job import Priority, State, WhyWaiting
from redisjobs.model.transitions import LONG_AGO, MOST_JOBS

Answer = TypeVar("Answer", covariant=True)


@dataclass(frozen=True, slots=True)
class Row:
    """One job in the store."""

    job_id: str  # the id to find, cancel, requeue and delete it by
    state: State
    priority: Priority
    key: str  # the driver's name for its place; '' while delayed or suspended
    queued_ms: int  # when it came to that place; 0 while delayed or suspended
    due_ms: int | None  # None unless it is delayed, or suspended until a time
    worker: str  # the worker that runs it
    deliveries: int
    cancelling: bool  # it was cancelled while it ran
    fields: Mapping[bytes, bytes]
    held: bool = False  # it waits, and does not start
    # Not compared: these differ each time, even if the job did not change.
    started_ms: int | None = field(default=None, compare=False)  # when its worker got it; None: it does not run
    ran_ms: int | None = field(default=None, compare=False)  # for how long it has been running
    why_waiting: WhyWaiting | None = None
    progress: bytes = b""  # its last progress report as JSON, until it has ended
    history: str = ""  # what happened to it that is not usual, one event a line; see `JobInfo.history`


COUNTERS = (
    "pushed completed retried dead reclaimed released cancelled requeued deleted trimmed replaced suspended woken"
).split()
"""The counters of a queue."""


@dataclass(frozen=True, slots=True)
class Counts:
    """How many jobs are in each state at one instant, and the counters since the queue began.

    Postgres counts 5,000,000 jobs of a state or a priority, and no more: there may be more then.

    Attributes:
        ready: The ready jobs, by priority.
        totals: All `COUNTERS`, 0 by default, and other counters that were added in Redis. A counter that is not a
            number is 0, or left out if it is another one.
        completed: Jobs that are done and kept: see `Retention`.
        cancelled: Jobs that were cancelled and are kept.
        inbox: Entries that redis-cli added to the inbox, and that no worker has pushed yet.
        suspended: Jobs that wait in the middle of their handler.
    """

    ready: Mapping[Priority, int]
    running: int
    delayed: int
    dead: int
    totals: Mapping[str, int]
    completed: int = 0
    cancelled: int = 0
    inbox: int = 0
    suspended: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "totals", dict.fromkeys(COUNTERS, 0) | dict(self.totals))

    def of(self, state: State) -> int:
        """Return how many jobs are in a state."""
        return sum(self.ready.values()) if state is State.READY else int(getattr(self, state))


@dataclass(frozen=True, slots=True)
class Backlog:
    """How far a queue is behind, at one instant.

    A due delayed job counts as ready, even if no worker has promoted it yet. A job whose entry id can't be a time
    does not count.
    """

    oldest: Mapping[Priority, float]  # the age in seconds of the oldest ready job of each priority that has one
    workers: int  # how many workers have a running lease


def backlog_since(since: Iterable[tuple[Priority, float]], now_ms: float, workers: int) -> Backlog:
    """Return how far a queue is behind, given when jobs of each priority became ready, in ms."""
    first: dict[Priority, float] = {}
    for priority, ms in since:
        if ms > LONG_AGO:
            first[priority] = min(ms, first.get(priority, ms))
    return Backlog({priority: max(0.0, now_ms - ms) / 1000 for priority, ms in first.items()}, workers)


class Query(Generic[Answer]):
    """The base of all questions: a frozen value, with the type of its answer."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Find(Query[Row | None]):
    """Find one job in any state; None if there is none."""

    job_id: str


@dataclass(frozen=True, slots=True)
class Filter:
    """A filter for jobs. A job must match all attributes; '' matches any job."""

    name: str = ""
    text: str = ""  # in its stored parameters or its error
    fingerprint: str = ""  # of a dead letter's failure; its reason, if no exception was raised
    reason: str = ""  # of a dead letter
    worker: str = ""  # that runs it, or that settled it as dead, done or cancelled
    older_ms: int | None = None  # the least time since it came to the queue, became a dead letter, or ended


@dataclass(frozen=True, slots=True)
class Scanned:
    """The answer to one step of a scan."""

    rows: Sequence[Row]
    after: str = ""  # where the next step begins; '' at the end


@dataclass(frozen=True, slots=True)
class Scan(Query[Scanned]):
    """Find jobs of a state, in bounded steps: each reads at most 500 jobs, and may find none.

    Ready and running jobs come by priority and age, delayed jobs by due time, dead letters and ended jobs newest
    first. A job that stays in its place comes once. Dead letters and ended jobs that are newer than the first
    step don't come.
    """

    state: State
    filter: Filter = Filter()
    after: str = ""  # the `after` of the step before; '' to begin
    limit: int = MOST_JOBS  # the most rows


@dataclass(frozen=True, slots=True)
class DeadKind:
    """Dead letters of one kind: with the same fingerprint, or without one and with the same reason."""

    fingerprint: str  # or the reason
    reason: str  # of the newest one, like `error_type`, `job_id` and `error`
    error_type: str
    count: int
    first_ms: int  # when the first one died
    last_ms: int
    job_id: str
    error: str
    names: Sequence[str]  # of the jobs of the newest ten
    recent: Sequence[int]  # how many died in each five minutes of the last hour


@dataclass(frozen=True, slots=True)
class Grouped:
    """The answer to one step of reading groups: those of a step with the newest letters first."""

    groups: Sequence[DeadKind]
    after: str = ""  # where the next step begins; '' at the end


@dataclass(frozen=True, slots=True)
class GroupDead(Query[Grouped]):
    """Describe the groups of dead letters, in bounded steps."""

    after: str = ""


@dataclass(frozen=True, slots=True)
class Count(Query[Counts]):
    """Count the jobs of each state, and read the counters."""


@dataclass(frozen=True, slots=True)
class GetBacklog(Query[Backlog]):
    """Find the age of the oldest ready jobs, and how many workers there are."""


@dataclass(frozen=True, slots=True)
class WorkersFound:
    """The answer to one step of reading workers."""

    # For each worker: its id, how many seconds its lease still lasts, and the facts of its last heartbeat.
    workers: Sequence[tuple[str, float, Mapping[str, str]]]
    after: str = ""  # where the next step begins; '' at the end


@dataclass(frozen=True, slots=True)
class FindWorkers(Query[WorkersFound]):
    """Find the workers of a queue, in bounded steps. A worker that lives through all steps comes at least once."""

    after: str = ""


@dataclass(frozen=True, slots=True)
class Pauses:
    """The pauses and holds of a queue."""

    queue: int | None  # since when the queue is paused, in ms; None: it is not paused
    names: Mapping[str, int]  # since when each paused job name is paused, in ms
    held: int  # how many jobs are held


@dataclass(frozen=True, slots=True)
class FindPauses(Query[Pauses]):
    """Find what is paused, and how many jobs are held."""


@dataclass(frozen=True, slots=True)
class LimitsFound:
    """The answer to one step of reading limits.

    Jobs of one bucket are counted together. A bucket is a job name, or a job name, a space and a key.
    """

    limits: Mapping[str, str]  # the limit of each job name, as `Limit.text`
    # A bucket, how many of its jobs wait in line, and when the next one may start; None: when a running job ends.
    lines: Sequence[tuple[str, int, int | None]]
    running: Sequence[tuple[str, str, str]]  # a bucket, the worker of a running job, and the job's id
    after: str = ""  # where the next step begins; '' at the end


@dataclass(frozen=True, slots=True)
class FindLimits(Query[LimitsFound]):
    """Find the limits of job names, with the jobs that run and wait under them, in bounded steps."""

    after: str = ""
