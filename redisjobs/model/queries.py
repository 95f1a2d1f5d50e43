"""What an operator asks of a queue, and does to it, as values: queries and changes, with their answers.

A feature is a new value, not a new method of the driver: one that does not know it says so by `Unsupported`.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Generic, TypeVar

from redisjobs.model.job import Priority, State, WhyWaiting
from redisjobs.model.retention import Retention
from redisjobs.model.transitions import LONG_AGO, MOST_JOBS, Due, Reply

Answer = TypeVar("Answer", covariant=True)


@dataclass(frozen=True, slots=True)
class Row:
    """One job as the store knows it.

    Attributes:
        job_id: By what it is found, cancelled, requeued and deleted.
        state: Where it is.
        priority: Of its ready stream.
        key: By what the store knows its place there; '' while delayed. Nobody else's business.
        queued_ms: When it came there, in ms since 1970; 0 while delayed.
        due_ms: When a delayed job may run; None otherwise.
        worker: Who runs it; '' for nobody.
        deliveries: How often it was delivered.
        cancelling: Whether a cancel was asked for while it ran.
        fields: Its fields as bytes.
        held: Whether it waits, and does not start.
        started_ms: When its worker got it, of one that runs, in ms since 1970; None otherwise.
        ran_ms: For how long it has been running, in ms; None: it does not run.
        why_waiting: What keeps one that waits from starting; None: nothing but its place in line, or its due time.
        progress: What it has reported last, as JSON, of one that has not ended; b'' for nothing.
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
    started_ms: int | None = field(
        default=None, compare=False
    )  # two looks differ in it, though nothing has changed
    ran_ms: int | None = field(default=None, compare=False)
    why_waiting: WhyWaiting | None = None
    progress: bytes = b""


COUNTERS = [
    *("pushed", "completed", "retried", "dead", "reclaimed", "released", "cancelled", "requeued", "deleted"),
    *("trimmed", "replaced"),
]
"""What is counted since a queue began."""


@dataclass(frozen=True, slots=True)
class Counts:
    """How many jobs are in each state at one instant, and the counters since the queue began.

    Attributes:
        ready: By priority.
        totals: Each of `COUNTERS`, 0 if it never happened, and what else was counted by hand. What is no number,
            by hand, is left out: 0, or not there.
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
        oldest: For how many seconds the oldest ready job of each priority has been ready; a priority with none is
            left out. A delayed job that is due counts, though nobody has made it ready yet. Of one put in by hand
            with an entry id that can't be a time it is not known, and it does not count.
        workers: How many workers there are: their leases run.
    """

    oldest: Mapping[Priority, float]
    workers: int


def backlog_since(since: Iterable[tuple[Priority, float]], now_ms: float, workers: int) -> Backlog:
    """How far a queue is behind.

    Args:
        since: Priorities, and when a job of each became ready, in ms; the earliest of each is the oldest job's.
        now_ms: The store's clock.
        workers: How many there are.
    """
    first: dict[Priority, float] = {}
    for priority, ms in since:
        if ms > LONG_AGO:
            first[priority] = min(ms, first.get(priority, ms))
    return Backlog({priority: max(0.0, now_ms - ms) / 1000 for priority, ms in first.items()}, workers)


class Query(Generic[Answer]):
    """What an operator asks, for an answer of this type; a frozen value."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Find(Query[Row | None]):
    """One job, wherever it is; None if there is none."""

    job_id: str


@dataclass(frozen=True, slots=True)
class Filter:
    """Which jobs are meant; each that is given must hold.

    Attributes:
        name: Of the job; '': any.
        text: What its parameters, as they are stored, or its error have in them; '': anything.
        fingerprint: Of a dead letter's failure; '': any.
        reason: Of a dead letter; '': any.
        older_ms: For how long at least it has been on the queue, a dead letter been dead, a job that was kept
            ended, in ms; None: any time.
    """

    name: str = ""
    text: str = ""
    fingerprint: str = ""
    reason: str = ""
    older_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Scanned:
    """What a step of a scan came to.

    Attributes:
        rows: The jobs that the filter lets through.
        after: Where the next step goes on, for `Scan`; '' if there is nothing more to look at.
    """

    rows: Sequence[Row]
    after: str = ""


@dataclass(frozen=True, slots=True)
class Scan(Query[Scanned]):
    """Jobs that a filter lets through, in bounded steps: one looks at 500 at most, and may find none of them.

    They come ready and running by priority and age, delayed by due time, dead letters and those that ended newest
    first. A job that is in one place all the while comes once; one of the latter that comes after the first step
    does not.

    Attributes:
        state: Which.
        filter: Which of them.
        after: Where an earlier step left off; '' to begin.
        limit: How many rows at most; up to 500.
    """

    state: State
    filter: Filter = Filter()
    after: str = ""
    limit: int = MOST_JOBS


@dataclass(frozen=True, slots=True)
class Group:
    """Dead letters of one kind: of one fingerprint, or of one reason where they have none.

    Attributes:
        fingerprint: Of their failures; '' for none.
        reason: Of the newest.
        error_type: Of the newest.
        count: How many there are.
        first_ms: When the first of them died, in ms since 1970.
        last_ms: When the last did.
        job_id: Of the newest.
        error: Of the newest.
        names: Of their jobs; some of them, if there are many.
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
    """What a step of grouping came to.

    Attributes:
        groups: Of the letters that it looked at, the newest first.
        after: Where the next step goes on, for `GroupDead`; '' if there is nothing more to look at.
    """

    groups: Sequence[Group]
    after: str = ""


@dataclass(frozen=True, slots=True)
class GroupDead(Query[Grouped]):
    """Dead letters by kind of failure, the newest first, in bounded steps.

    Attributes:
        after: Where an earlier step left off; '' to begin.
    """

    after: str = ""


@dataclass(frozen=True, slots=True)
class Count(Query[Counts]):
    """How many jobs are in each state, and the counters."""


@dataclass(frozen=True, slots=True)
class GetBacklog(Query[Backlog]):
    """For how long jobs have been ready, and how many workers there are."""


@dataclass(frozen=True, slots=True)
class WorkersFound:
    """What a step of looking at workers came to.

    Attributes:
        workers: Of each its id, for how many seconds its lease still lasts, and what its last heartbeat said.
        after: Where the next step goes on, for `FindWorkers`; '' if there is nothing more to look at.
    """

    workers: Sequence[tuple[str, float, Mapping[str, str]]]
    after: str = ""


@dataclass(frozen=True, slots=True)
class FindWorkers(Query[WorkersFound]):
    """The workers of a queue, in bounded steps. One that is there all the while comes at least once.

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
    """What may not start now."""


@dataclass(frozen=True, slots=True)
class LimitsFound:
    """What a step of looking at limits came to. What is counted together goes by the job name, and a key after it.

    Attributes:
        limits: Job names, and the limit of each in words, as `Limit.text`.
        lines: What is counted together, how many of it wait in line, and when the next may start, in ms since
            1970; None: when one that runs has ended.
        running: What is counted together, the worker of a job that runs, and the job's id.
        after: Where the next step goes on, for `FindLimits`; '' if there is nothing more to look at.
    """

    limits: Mapping[str, str]
    lines: Sequence[tuple[str, int, int | None]]
    running: Sequence[tuple[str, str, str]]
    after: str = ""


@dataclass(frozen=True, slots=True)
class FindLimits(Query[LimitsFound]):
    """Which job names have limits, what runs under them and what waits in line, in bounded steps.

    Attributes:
        after: Where an earlier step left off; '' to begin.
    """

    after: str = ""


class Ending(StrEnum):
    """How a job that somebody waits for has ended, or that it has not."""

    PENDING = "PENDING"
    COMPLETED = "COMPLETED"
    REFUSED = "REFUSED"
    DEAD = "DEAD"
    CANCELLED = "CANCELLED"
    EXPIRED = "EXPIRED"
    NOT_KEPT = "NOT_KEPT"
    NOT_FOUND = "NOT_FOUND"
    LATER = "LATER"


@dataclass(frozen=True, slots=True)
class JobStatus:
    """How a job stands that somebody waits for.

    Attributes:
        ending: How it has ended. REFUSED: it is done, but what it returned could not be kept. EXPIRED: that was
            kept until a while ago. NOT_KEPT: it was not. NOT_FOUND: it has ended, and nothing is known of it, or
            it never was. LATER: it was not looked at, as the answer would be too large.
        place: Where it waits or runs, of one that has not ended.
        keep: For how long its result is to be kept, in ms, 0 for not at all; None: its entry does not say.
        progress: What it has reported last, as JSON; b'' for nothing.
        value: What its handler returned, as JSON.
        error: Why that was refused, or why the job is a dead letter, in one line.
        error_type: The class of the error of a dead letter; '' where none was raised.
        traceback: Of that error.
        reason: Why it is a dead letter, in a word or two.
    """

    ending: Ending
    place: str = ""
    keep: int | None = None
    progress: bytes = b""
    value: bytes = b""
    error: str = ""
    error_type: str = ""
    traceback: str = ""
    reason: str = ""


class Change(Generic[Answer]):
    """What an operator does, in one atomic step, with an answer of this type; a frozen value."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Cancel(Change[Reply]):
    """Cancel a job: CANCELLED, CANCELLING, DEAD or NOT_FOUND."""

    job_id: str


@dataclass(frozen=True, slots=True)
class Requeue(Change[Reply]):
    """Make a dead letter ready again: OK, NOT_FOUND or OVERSIZED.

    Attributes:
        job_id: Which.
        due: When it may run; None: now.
        parameters: JSON in place of what it had; None: as they are.
        limit_key: What its limit is counted under, beside its name, in place of what it had; '': as it is.
        ended: Whether to take a job that has ended and was kept, too.
        key: Only the one with this `Row.key`; '': whichever there is.
    """

    job_id: str
    due: Due | None = None
    parameters: bytes | None = None
    limit_key: str = ""
    ended: bool = False
    key: str = ""


@dataclass(frozen=True, slots=True)
class Delete(Change[Reply]):
    """Throw a dead letter, or a job that was kept, away: OK or NOT_FOUND."""

    job_id: str


@dataclass(frozen=True, slots=True)
class BulkResult:
    """What a step that goes through dead letters came to.

    Attributes:
        job_ids: Of those to which it was done.
        after: Where the next step goes on; '' if there is nothing more to look at.
    """

    job_ids: Sequence[str]
    after: str = ""


@dataclass(frozen=True, slots=True)
class RequeueAll(Change[BulkResult]):
    """Make dead letters ready again that a filter lets through, the newest first; a bounded step.

    One with too many fields to be moved stays.

    Attributes:
        filter: Which of them.
        after: Where an earlier step left off. '' only asks where to begin, and takes none: so a step may be sent
            again, as its answer was lost, and finds none of those that died anew since.
        wait_ms: Until the first of this step may run; 0 or less: now.
        pause_ms: From one of them to the next.
    """

    filter: Filter = Filter()
    after: str = ""
    wait_ms: float = 0.0
    pause_ms: float = 0.0


@dataclass(frozen=True, slots=True)
class DeleteAll(Change[BulkResult]):
    """Throw dead letters away that a filter lets through, the newest first; a bounded step.

    Attributes:
        filter: Which of them.
        after: As of `RequeueAll`.
    """

    filter: Filter = Filter()
    after: str = ""


@dataclass(frozen=True, slots=True)
class Hold(Change[Reply]):
    """Let a waiting job not start: HELD, RUNNING, DEAD or NOT_FOUND. It keeps its due time, priority and place."""

    job_id: str


@dataclass(frozen=True, slots=True)
class Unhold(Change[Reply]):
    """Let go of a job that is held: OK or NOT_FOUND."""

    job_id: str


@dataclass(frozen=True, slots=True)
class Pause(Change[Reply]):
    """Let no job start that has not yet: OK.

    Attributes:
        name: Of the jobs; '' for all of the queue.
    """

    name: str = ""


@dataclass(frozen=True, slots=True)
class Resume(Change[Reply]):
    """Let jobs start again: OK. What was passed over for a name is given back by `Unpark`, step by step.

    Attributes:
        name: Of the jobs; '' for the queue.
    """

    name: str = ""


@dataclass(frozen=True, slots=True)
class Unpark(Change[str]):
    """Give jobs back that were passed over and may start now; a step. `Tidy` does it where nobody else does.

    The answer is where the next step goes on; '' at the end.

    Attributes:
        after: Where the step before has left off; '' to begin.
    """

    after: str = ""


@dataclass(frozen=True, slots=True)
class SetLimit(Change[str]):
    """Set the limit of a job name, or remove it; whoever waits for it is looked at anew, in bounded steps.

    The answer is where the next step goes on; '' at the end.

    Attributes:
        name: Of the jobs.
        limit: In words, as `Limit.text`; '' removes it.
        after: Where the step before has left off; '' to begin.
    """

    name: str
    limit: str
    after: str = ""


JobChange = Cancel | Requeue | Delete | Hold | Unhold
"""What is done to one job, by its id."""


@dataclass(frozen=True, slots=True)
class ChangeMany(Change[list[Reply]]):
    """Some changes, each an atomic step of its own, in one round trip; a reply for each.

    Others may come between. If there is no answer, some may be made and some not.
    """

    changes: Sequence[JobChange]


@dataclass(frozen=True, slots=True)
class GetStatus(Change[list[JobStatus]]):
    """How jobs stand, for a process that waits for them: it is told by a notification when one has ended.

    A notification `changed` with the job's id comes to the process by `Driver.listen`, once, when the job ends,
    and each time that it reports progress. One may be lost, so who waits asks again now and then.

    Attributes:
        job_ids: Which; up to 500.
        process: Who waits: a name of its own, without spaces; '' to ask and not wait.
    """

    job_ids: Sequence[str]
    process: str = ""


@dataclass(frozen=True, slots=True)
class Retain(Change[Reply]):
    """Say what the queue keeps, and for how long, in place of what was said before: OK."""

    retention: Retention


@dataclass(frozen=True, slots=True)
class Declare(Change[bool]):
    """Whether the store has what a worker's code declares: limits and retention.

    It has if that was noted, whatever an operator has changed since. It has not if it lost its data, or if it was
    restarted with data from before.

    Attributes:
        declaration: A hash of what is declared, in hex.
        done: Note that all of it was set; False only asks.
    """

    declaration: str
    done: bool = False


@dataclass(frozen=True, slots=True)
class Tidied:
    """What a step of tidying came to.

    Attributes:
        restored: How many jobs were handed back that nobody would have been given any more, by somebody's hand.
        after: Where the next step goes on, for `Tidy`; '' if there is nothing more to look at.
        trimmed: How many jobs were thrown away that are kept no longer.
    """

    restored: int = 0
    after: str = ""
    trimmed: int = 0


@dataclass(frozen=True, slots=True)
class Tidy(Change[Tidied]):
    """Remove what dead workers left behind, find jobs without one, throw away what is kept no longer; in steps.

    Attributes:
        after: Where an earlier step left off; '' to begin. To begin is free where somebody did within a minute.
    """

    after: str = ""
