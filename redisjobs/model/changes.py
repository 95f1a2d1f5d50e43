"""The changes of a queue that an operator or a worker makes. Each is a value, one atomic step with an answer.

A new feature is a new value here, not a new method of the driver. A driver that lacks it raises `Unsupported`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from secrets import token_hex
from typing import Generic, TypeVar

from redisjobs.model.queries import Filter
from redisjobs.model.retention import Retention
from redisjobs.model.transitions import Due, Reply

CHANGED = (Reply.OK, Reply.INDEPENDENT, Reply.CANCELLED, Reply.CANCELLING, Reply.HELD)
"""The replies that mean that the job was changed."""

Answer = TypeVar("Answer", covariant=True)


class Ending(StrEnum):
    """How a job has ended, or why that is not known."""

    PENDING = "PENDING"
    COMPLETED = "COMPLETED"
    REFUSED = "REFUSED"  # it is done, but its result could not be stored
    DEAD = "DEAD"
    CANCELLED = "CANCELLED"
    EXPIRED = "EXPIRED"  # its result is no longer kept
    NOT_KEPT = "NOT_KEPT"  # its result was not kept
    NOT_FOUND = "NOT_FOUND"  # it has ended and left no trace, or it never existed
    LATER = "LATER"  # not read, because the answer would be too large: ask again


@dataclass(frozen=True, slots=True)
class JobStatus:
    """The status of a job that a process waits for."""

    ending: Ending
    place: str = ""  # where it waits or runs, if it has not ended
    keep: int | None = None  # for how many ms its result will be kept; None: its entry does not say
    progress: bytes = b""  # its last progress report as JSON
    value: bytes = b""  # its result as JSON
    error: str = ""  # why the result was refused, or why the job is a dead letter, in one line
    error_type: str = ""  # of a dead letter; '' if no exception was raised
    traceback: str = ""
    reason: str = ""


class Change(Generic[Answer]):
    """The base of all changes: a frozen value, with the type of its answer."""

    __slots__ = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Once:
    """A change of a job that is made once.

    If it is repeated within a minute, because its answer was lost, it gets that answer again, and changes nothing,
    though another job may have the id by then.
    """

    nonce: str = field(default_factory=partial(token_hex, 7), compare=False)  # tells this change from others


@dataclass(frozen=True, slots=True)
class Cancel(Once, Change[Reply]):
    """Cancel a job: CANCELLED, CANCELLING, DEAD or NOT_FOUND."""

    job_id: str


@dataclass(frozen=True, slots=True)
class Requeue(Once, Change[Reply]):
    """Make a dead letter ready again: OK, NOT_FOUND, OVERSIZED; or DUPLICATE, another job holds its unique key.

    INDEPENDENT: like OK; but the parent of this child has gone on without it, so it is a job by itself now, which
    its history says. NO_STEP: it has saved no step of the key `from_step`. After any other reply nothing was
    written.
    """

    job_id: str
    due: Due | None = None  # None: now
    parameters: bytes | None = None  # new parameters as JSON; None: no change
    limit_key: str = ""  # a new limit key; '': no change
    ended: bool = False  # also requeue a job that ended and was kept
    key: str = ""  # requeue it only if it still has this `Row.key`; '': any
    unique: str | None = None  # a new unique key; '': none; None: no change
    # The key of a step: the job forgets this step, those that were saved after it, and its checkpoint. '': it
    # forgets all; None: it goes on where it stopped.
    from_step: str | None = None


@dataclass(frozen=True, slots=True)
class Delete(Once, Change[Reply]):
    """Delete a dead letter, or an ended job that was kept: OK or NOT_FOUND."""

    job_id: str


@dataclass(frozen=True, slots=True)
class BulkResult:
    """The answer to one step through dead letters."""

    job_ids: Sequence[str]  # the jobs that were changed
    after: str = ""  # where the next step begins; '' at the end
    duplicates: int = 0  # how many were not requeued, because another job holds their unique key


@dataclass(frozen=True, slots=True)
class RequeueAll(Change[BulkResult]):
    """Make the dead letters that match a filter ready again, the newest first; a bounded step.

    A dead letter stays if another job holds its unique key, or if it has more fields than a script can move. The
    first step, with `after` '', only returns where to begin. So it can be repeated after a lost answer, and later
    steps skip jobs that died again meanwhile.
    """

    filter: Filter = Filter()
    after: str = ""
    wait_ms: float = 0.0  # until the first job of this step may run; 0 or less: now
    pause_ms: float = 0.0  # from one job to the next


@dataclass(frozen=True, slots=True)
class DeleteAll(Change[BulkResult]):
    """Delete the dead letters that match a filter, the newest first; a bounded step, like `RequeueAll`."""

    filter: Filter = Filter()
    after: str = ""


@dataclass(frozen=True, slots=True)
class Hold(Change[Reply]):
    """Stop a job from starting: HELD, RUNNING, DEAD or NOT_FOUND. It keeps its due time, priority and place."""

    job_id: str


@dataclass(frozen=True, slots=True)
class Unhold(Change[Reply]):
    """Let a held job start again: OK or NOT_FOUND."""

    job_id: str


@dataclass(frozen=True, slots=True)
class Pause(Change[Reply]):
    """Stop the jobs of a name, or of the whole queue (''), from starting: OK."""

    name: str = ""


@dataclass(frozen=True, slots=True)
class Resume(Change[Reply]):
    """Let jobs start again: OK. After a resumed name, `Unpark` makes its parked jobs ready, in steps."""

    name: str = ""


class Wish(StrEnum):
    """What an operator asks a worker to do."""

    QUIET = "quiet"  # claim no more jobs; running jobs go on
    RESUME = "resume"  # claim jobs again
    STOP = "stop"  # end in order, as after a SIGTERM


@dataclass(frozen=True, slots=True)
class AskWorker(Change[Reply]):
    """Ask a worker to claim no more jobs, to claim again, or to stop: OK, NOT_FOUND or STOPPING.

    The worker obeys when its next heartbeat finds the wish; a notification makes it beat at once. A worker that
    stops can't be asked for anything but to stop: STOPPING, and nothing was written.
    """

    worker_id: str
    wish: Wish


@dataclass(frozen=True, slots=True)
class Unpark(Change[str]):
    """Make parked jobs ready that may start again, from `after` on; a step. If it is not sent, `Tidy` does it.

    The answer is where the next step begins; '' at the end.
    """

    after: str = ""


@dataclass(frozen=True, slots=True)
class SetLimit(Change[str]):
    """Set the limit of a job name, or remove it, and check the jobs that wait for it again, in bounded steps.

    The answer is where the next step begins; '' at the end.
    """

    name: str
    limit: str  # the `Limit.text`; '' removes the limit
    after: str = ""


JobChange = Cancel | Requeue | Delete | Hold | Unhold
"""A change of one job, found by its id."""


@dataclass(frozen=True, slots=True)
class ChangeMany(Change[list[Reply]]):
    """Make several changes in one round trip, each an atomic step with its own reply.

    BUSY: another transaction has locked the job, so it stays as it was. Other calls may run between the
    steps. If no answer comes, some steps may be done and others not.
    """

    changes: Sequence[JobChange]


@dataclass(frozen=True, slots=True)
class GetStatus(Change[list[JobStatus]]):
    """Read the status of jobs, and register a waiting process for notifications about them.

    `Driver.listen` then gives the process a notification `changed` with the job's id, once when the job ends and
    at each progress report. A notification may be lost, so a waiting process asks again now and then.
    """

    job_ids: Sequence[str]  # up to 500
    process: str = ""  # a unique name of the waiting process, without spaces; '' only reads the status


@dataclass(frozen=True, slots=True)
class Retain(Change[Reply]):
    """Set what the queue keeps, and for how long: OK."""

    retention: Retention


@dataclass(frozen=True, slots=True)
class Declare(Change[bool]):
    """Return whether the store has the limits and the retention that a worker's code declares.

    The answer is True once a worker has noted it, even if an operator has changed some of them since. It is False
    again if the store lost its data, or was restarted with older data.
    """

    declaration: str  # a hash of the declared limits and retention, in hex
    done: bool = False  # note that all of them were set; False only asks


@dataclass(frozen=True, slots=True)
class Tidied:
    """The answer to one step of `Tidy`."""

    restored: int = 0  # lost jobs made ready again; a change of the queue's keys in Redis can lose them
    after: str = ""  # where the next step begins; '' at the end
    trimmed: int = 0  # jobs deleted because their retention has ended


@dataclass(frozen=True, slots=True)
class Tidy(Change[Tidied]):
    """Clean up after dead workers, find lost jobs, and delete jobs whose retention has ended; in steps.

    It also cancels children whose parent was cancelled, as `CancelChildren` does.
    """

    after: str = ""  # '' to begin; if a run began less than a minute ago, nothing is done
