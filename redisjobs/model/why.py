"""Why a job does not run: where it stands in line, and the answer for a person."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from redisjobs.model.info import JobInfo
from redisjobs.model.queries import Query


class Cause(StrEnum):
    """Why a job does not run, or what became of it."""

    DELAYED = "delayed"
    """It waits for its due time."""
    RETRYING = "retrying"
    """It failed, and waits for its next attempt."""
    SUSPENDED = "suspended"
    """It waits in the middle of its handler: for a time, a signal or its children."""
    OVERDUE = "overdue"
    """It is due, but no worker has made it ready."""
    IN_LINE = "in line"
    """Other jobs start before it, or all slots are busy."""
    HELD = "held"
    """You held this job."""
    PAUSED = "paused"
    """The queue is paused."""
    NAME_PAUSED = "name paused"
    """Jobs of its name are paused."""
    LIMIT = "limit"
    """It waits in line for the limit of its name."""
    NO_WORKER = "no worker"
    """No worker of the queue is alive."""
    NO_HANDLER = "no handler"
    """No live worker has a handler for its name."""
    QUIET = "workers quiet"
    """All live workers that have a handler for its name are quiet, or stop."""
    OTHER_RELEASE = "other release"
    """No live worker has a handler for its name, and all run another release of redisjobs."""
    LAST_DELIVERY = "last delivery"
    """Its workers died, so it waits for a worker that runs no other job."""
    RUNNING = "running"
    """A worker runs it."""
    CANCELLING = "cancelling"
    """It was cancelled, and its handler still runs."""
    WORKER_SILENT = "worker silent"
    """The lease of its worker has ended, or its worker has no record."""
    DEAD = "dead"
    """It failed for good."""
    DONE = "done"
    """It is done."""
    CANCELLED = "cancelled"
    """It was cancelled."""
    INBOX = "in the inbox"
    """It was added with redis-cli, and no worker has pushed it yet."""
    GONE = "not on the queue"
    """It ended and left no trace, or it was never on this queue."""
    KEY_FREE = "key free"
    """No job holds the unique key."""
    KEY_LEFT = "key left"
    """The unique key is held, but its job is not on the queue."""


@dataclass(frozen=True, slots=True)
class Why:
    """Why a job does not run, or what became of it.

    Attributes:
        cause: The cause.
        sentence: The cause for a person, in a sentence or two: where the job is, and what it waits for.
        facts: What is known, in order, by keys such as `jobs_ahead` and `due_at`. Values are texts, numbers,
            times (datetime) and lists of texts; durations are in seconds.
        advice: What to do, with a command if there is one; '' if there is nothing to do.
        job: The job; None if it is not on the queue.
    """

    cause: Cause
    sentence: str
    facts: Mapping[str, Any]
    advice: str
    job: JobInfo | None


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a job stands in line, and what it waits for besides."""

    now_ms: int  # by the store's clock
    job_id: str = ""  # the job that was asked for, or the holder of the unique key; '' if the key is free
    key_ms: int | None = None  # for how long the unique key is held, at most; None: until its job ends
    ahead: int = 0  # how many jobs start before it: of a higher priority, or older; in a line, those of the line
    has_more: bool = False  # there are more than were counted
    bucket: str = ""  # the bucket in whose line it waits; '' for none
    turn_ms: int | None = None  # when the next job of that line may start; None: when a running one ends
    limit: str = ""  # of its job name, as `Limit.text`
    running: int = 0  # how many jobs of the bucket run
    holders: Sequence[tuple[str, str]] = ()  # worker and job id of some of these
    held_ms: int | None = None  # since when it is held
    promoter: str = ""  # the worker that promotes delayed jobs, if one is known
    alike: int = 0  # how many dead letters are of its kind; 0 for other jobs
    in_inbox: bool = False  # it is an entry of the inbox
    has_ended: bool = False  # its push is remembered as one that ended within the last minute


@dataclass(frozen=True, slots=True)
class Ahead(Query[Standing]):
    """Find out what a job waits for. At most 1,000 jobs and about 1 MB are looked at."""

    job_id: str = ""
    key: str = ""  # the unique key whose holder is asked for, instead of an id
