"""What an operator, or a worker, does to a queue, as values: each is one atomic step, with its answer.

A feature is a new value, not a new method of the driver: one that does not know it raises `Unsupported`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, TypeVar

from redisjobs.model.queries import Filter
from redisjobs.model.retention import Retention
from redisjobs.model.transitions import Due, Reply

Answer = TypeVar("Answer", covariant=True)


class Ending(StrEnum):
    """How a job has ended, or that it has not."""

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
    """The status of a job that a process waits for.

    Attributes:
        ending: How it has ended. REFUSED: it is done, but its result could not be kept. EXPIRED: its result is no
            longer kept. NOT_KEPT: its result was not kept. NOT_FOUND: it has ended, and nothing is known of it, or
            it never existed. LATER: it was not looked at, as the answer would be too large.
        place: Where it waits or runs, if it has not ended.
        keep: How long its result is to be kept, in ms, 0 for not at all; None: its entry does not say.
        progress: Its last progress report as JSON; b'' for none.
        value: What its handler returned, as JSON.
        error: Why that was refused, or why the job is a dead letter, in one line.
        error_type: The class of a dead letter's exception; '' if none was raised.
        traceback: The traceback of that exception.
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
    """One atomic step, with an answer of this type; a frozen value."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Cancel(Change[Reply]):
    """Cancel a job: CANCELLED, CANCELLING, DEAD or NOT_FOUND."""

    job_id: str


@dataclass(frozen=True, slots=True)
class Requeue(Change[Reply]):
    """Make a dead letter ready again: OK, NOT_FOUND or OVERSIZED.

    Attributes:
        job_id: The job's id.
        due: When it may run; None: now.
        parameters: New ones, as JSON; None: as they are.
        limit_key: A new limit key; '': as it is.
        ended: Whether to requeue a job that ended and was kept, too.
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
    """Delete a dead letter, or a job that was kept: OK or NOT_FOUND."""

    job_id: str


@dataclass(frozen=True, slots=True)
class BulkResult:
    """One step through dead letters.

    Attributes:
        job_ids: The ids of those that were changed.
        after: Where the next step goes on; '' at the end.
    """

    job_ids: Sequence[str]
    after: str = ""


@dataclass(frozen=True, slots=True)
class RequeueAll(Change[BulkResult]):
    """Make the dead letters that match a filter ready again, the newest first; a bounded step.

    One with more fields than a script can move stays.

    Attributes:
        filter: Which of them.
        after: Where an earlier step left off. '' only asks where to begin, and changes none: so a step can be sent
            again after a lost answer, and finds none that died again since.
        wait_ms: The ms until the first of this step may run; 0 or less: now.
        pause_ms: The ms from one of them to the next.
    """

    filter: Filter = Filter()
    after: str = ""
    wait_ms: float = 0.0
    pause_ms: float = 0.0


@dataclass(frozen=True, slots=True)
class DeleteAll(Change[BulkResult]):
    """Delete the dead letters that match a filter, the newest first; a bounded step.

    Attributes:
        filter: Which of them.
        after: As in `RequeueAll`.
    """

    filter: Filter = Filter()
    after: str = ""


@dataclass(frozen=True, slots=True)
class Hold(Change[Reply]):
    """Let a waiting job not start: HELD, RUNNING, DEAD or NOT_FOUND. It keeps its due time, priority and place."""

    job_id: str


@dataclass(frozen=True, slots=True)
class Unhold(Change[Reply]):
    """Let a held job start again: OK or NOT_FOUND."""

    job_id: str


@dataclass(frozen=True, slots=True)
class Pause(Change[Reply]):
    """Let no more jobs start: OK.

    Attributes:
        name: The job name; '' for the whole queue.
    """

    name: str = ""


@dataclass(frozen=True, slots=True)
class Resume(Change[Reply]):
    """Let jobs start again: OK. Jobs of a name that were passed over are made ready by `Unpark`, step by step.

    Attributes:
        name: The job name; '' for the queue.
    """

    name: str = ""


@dataclass(frozen=True, slots=True)
class Unpark(Change[str]):
    """Make jobs ready that were passed over and may start now; a step. `Tidy` does it if no other call does.

    The answer is where the next step goes on; '' at the end.

    Attributes:
        after: Where an earlier step left off; '' to begin.
    """

    after: str = ""


@dataclass(frozen=True, slots=True)
class SetLimit(Change[str]):
    """Set the limit of a job name, or remove it. The jobs that wait for it are looked at again, in bounded steps.

    The answer is where the next step goes on; '' at the end.

    Attributes:
        name: The job name.
        limit: The limit as `Limit.text`; '' removes it.
        after: Where an earlier step left off; '' to begin.
    """

    name: str
    limit: str
    after: str = ""


JobChange = Cancel | Requeue | Delete | Hold | Unhold
"""A change of one job, by its id."""


@dataclass(frozen=True, slots=True)
class ChangeMany(Change[list[Reply]]):
    """Make some changes in one round trip, each an atomic step of its own; there is a reply for each.

    Other calls may come between. If there is no answer, some may be made and some not.
    """

    changes: Sequence[JobChange]


@dataclass(frozen=True, slots=True)
class GetStatus(Change[list[JobStatus]]):
    """Find the status of jobs, and have a process notified that waits for them.

    A notification `changed` with the job's id comes to the process by `Driver.listen`, once, when the job ends,
    and at each progress report. One may be lost, so a process that waits asks again now and then.

    Attributes:
        job_ids: The jobs' ids; up to 500.
        process: A name of the process's own, without spaces; '' to ask and not wait.
    """

    job_ids: Sequence[str]
    process: str = ""


@dataclass(frozen=True, slots=True)
class Retain(Change[Reply]):
    """Set what the queue keeps, and for how long: OK."""

    retention: Retention


@dataclass(frozen=True, slots=True)
class Declare(Change[bool]):
    """Find whether the store has what a worker's code declares: limits and retention.

    It has if that was noted, even if an operator has changed some since. It has not if it lost its data, or was
    restarted with data from before.

    Attributes:
        declaration: A hash of what is declared, in hex.
        done: Note that all of it was set; False only asks.
    """

    declaration: str
    done: bool = False


@dataclass(frozen=True, slots=True)
class Tidied:
    """One step of tidying.

    Attributes:
        restored: How many jobs were made ready that no worker would have got, as the queue was changed in Redis.
        after: Where the next step goes on, for `Tidy`; '' at the end.
        trimmed: How many jobs were deleted that are no longer kept.
    """

    restored: int = 0
    after: str = ""
    trimmed: int = 0


@dataclass(frozen=True, slots=True)
class Tidy(Change[Tidied]):
    """Remove what dead workers left behind, find their jobs, delete what is no longer kept; in steps.

    Attributes:
        after: Where an earlier step left off; '' to begin. A begin within a minute of another does nothing.
    """

    after: str = ""
