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
    REFUSED = "REFUSED"  # it is done, but its result could not be kept
    DEAD = "DEAD"
    CANCELLED = "CANCELLED"
    EXPIRED = "EXPIRED"  # its result is no longer kept
    NOT_KEPT = "NOT_KEPT"  # its result was not kept
    NOT_FOUND = "NOT_FOUND"  # it has ended, and nothing is known of it, or it never existed
    LATER = "LATER"  # it was not looked at, as the answer would be too large


@dataclass(frozen=True, slots=True)
class JobStatus:
    """The status of a job that a process waits for."""

    ending: Ending
    place: str = ""  # where it waits or runs, if it has not ended
    keep: int | None = None  # the ms for which its result is to be kept; None: its entry does not say
    progress: bytes = b""  # its last progress report as JSON
    value: bytes = b""  # what its handler returned, as JSON
    error: str = ""  # why that was refused, or why the job is a dead letter, in one line
    error_type: str = ""  # of a dead letter; '' if no exception was raised
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
    """Make a dead letter ready again: OK, NOT_FOUND or OVERSIZED."""

    job_id: str
    due: Due | None = None  # None: now
    parameters: bytes | None = None  # new ones, as JSON; None: as they are
    limit_key: str = ""  # '': as it is
    ended: bool = False  # requeue a job that ended and was kept, too
    key: str = ""  # only the one with this `Row.key`; '': any


@dataclass(frozen=True, slots=True)
class Delete(Change[Reply]):
    """Delete a dead letter, or a job that was kept: OK or NOT_FOUND."""

    job_id: str


@dataclass(frozen=True, slots=True)
class BulkResult:
    """One step through dead letters."""

    job_ids: Sequence[str]  # those that were changed
    after: str = ""  # where the next step goes on; '' at the end


@dataclass(frozen=True, slots=True)
class RequeueAll(Change[BulkResult]):
    """Make the dead letters that match a filter ready again, the newest first; a bounded step.

    One with more fields than a script can move stays. With `after` '' the step only asks where to begin: so it can
    be sent again after a lost answer, and finds no job that died again since.
    """

    filter: Filter = Filter()
    after: str = ""
    wait_ms: float = 0.0  # until the first of this step may run; 0 or less: now
    pause_ms: float = 0.0  # from one of them to the next


@dataclass(frozen=True, slots=True)
class DeleteAll(Change[BulkResult]):
    """Delete the dead letters that match a filter, the newest first; a bounded step, as `RequeueAll`."""

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
    """Let no more jobs start, of a name or of the whole queue (''): OK."""

    name: str = ""


@dataclass(frozen=True, slots=True)
class Resume(Change[Reply]):
    """Let jobs start again: OK. Jobs of a name that were passed over are made ready by `Unpark`, step by step."""

    name: str = ""


@dataclass(frozen=True, slots=True)
class Unpark(Change[str]):
    """Make jobs ready that were passed over and may start now, from `after` on; a step. `Tidy` does it otherwise.

    The answer is where the next step goes on; '' at the end.
    """

    after: str = ""


@dataclass(frozen=True, slots=True)
class SetLimit(Change[str]):
    """Set the limit of a job name, or remove it. The jobs that wait for it are looked at again, in bounded steps.

    The answer is where the next step goes on; '' at the end.
    """

    name: str
    limit: str  # as `Limit.text`; '' removes it
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
    """

    job_ids: Sequence[str]  # up to 500
    process: str = ""  # a name of the process's own, without spaces; '' to ask and not wait


@dataclass(frozen=True, slots=True)
class Retain(Change[Reply]):
    """Set what the queue keeps, and for how long: OK."""

    retention: Retention


@dataclass(frozen=True, slots=True)
class Declare(Change[bool]):
    """Find whether the store has what a worker's code declares: limits and retention.

    It has if that was noted, even if an operator has changed some since. It has not if it lost its data, or was
    restarted with data from before.
    """

    declaration: str  # a hash of what is declared, in hex
    done: bool = False  # note that all of it was set; False only asks


@dataclass(frozen=True, slots=True)
class Tidied:
    """One step of tidying."""

    restored: int = 0  # jobs made ready that no worker would have got, as the queue was changed in Redis
    after: str = ""  # where the next step goes on; '' at the end
    trimmed: int = 0  # jobs deleted that are no longer kept


@dataclass(frozen=True, slots=True)
class Tidy(Change[Tidied]):
    """Remove what dead workers left behind, find their jobs, delete what is no longer kept; in steps."""

    after: str = ""  # '' to begin; a begin within a minute of another does nothing
