"""A job's way through the store, as values: pushed, claimed, settled, reclaimed.

Each is what one atomic step takes or answers. The store sees bytes and ids; types are known to the queue. Where a
name ends in `_ms`, a time is in ms since 1970, and a duration in ms.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from redisjobs.model.job import OnConflict, Priority

MOST_JOBS = 500
"""The most jobs in one call, so that no call holds the store up."""

MOST_BYTES = 4 * 1024 * 1024
"""The most bytes of jobs in one call; a job that is larger goes alone."""

LOWEST_RANK = len(Priority) - 1
"""The rank of the lowest priority; that of the highest is 0."""

LONG_AGO = 10**12
"""In ms since 1970, in 2001: an entry id that says an earlier time was chosen by a user of redis-cli."""


class Reply(StrEnum):
    """A script's reply for one job. A reply other than OK means that nothing was written, except as noted."""

    OK = "OK"
    REPEATED = "REPEATED"  # an earlier try of this push added the job
    REFUSED = "REFUSED"  # an earlier repetition of this push was answered EXISTS or DUPLICATE
    EXISTS = "EXISTS"  # another push made a job of this id, or this call names it twice
    DUPLICATE = "DUPLICATE"  # another job holds the unique key
    REPLACED = "REPLACED"  # written: another job, which waits, is now what this push says
    LEASE_LOST = "LEASE_LOST"
    CANCELLED = "CANCELLED"  # written: the job is gone, as a cancel asked for
    CANCELLING = "CANCELLING"  # written: noted for the worker that runs the job
    HELD = "HELD"  # written: it does not start
    RUNNING = "RUNNING"
    DEAD = "DEAD"
    UNDECODABLE = "UNDECODABLE"  # written: an entry that is not a job is a dead letter
    NOT_FOUND = "NOT_FOUND"
    OVERSIZED = "OVERSIZED"
    FULL = "FULL"  # no script says it: the server is out of memory and refused to run one
    # Of a schedule whose key has the wrong type; or of a job, as that of a unique key that it pushes has.
    SPOILED = "SPOILED"
    # Of a repeated push: the store's clock was set ahead since the first try. The job may be there, or have ended.
    UNKNOWN = "UNKNOWN"
    STALE = "STALE"  # of a whole call: it was sent too long ago, or the server's clock was set since
    # Of a whole call: some jobs have no answer yet. Of a job that pushes others: not all of these were looked at,
    # so it is not settled yet. The driver calls again until there is another word.
    PARTIAL = "PARTIAL"
    FENCED = "FENCED"  # of a whole call: the store counts the worker as dead
    # Of schedules; see `redisjobs/model/stored.py`.
    NEWER = "NEWER"
    KEPT = "KEPT"
    DECLARED = "DECLARED"
    FIRED = "FIRED"
    EARLY = "EARLY"
    PAUSED = "PAUSED"
    CHANGED = "CHANGED"


@dataclass(frozen=True, slots=True)
class After:
    """Due this many ms after the store has taken it; they may be fractions."""

    ms: float


@dataclass(frozen=True, slots=True)
class At:
    """Due at this time, in ms since 1970."""

    ms: int


Due = After | At
"""When a job may run, if not now."""


@dataclass(slots=True)
class Tries:
    """The tries of one push so far, as its producer knows them; see `redisjobs/client/push.py`."""

    since: float  # when it was first sent, by the monotonic clock
    told: bool = False  # its caller knows the outcome; else a try is on its way, or had no answer


@dataclass(slots=True)  # not frozen: to make one would take three times as long, and each push makes one
class NewJob:
    """A job to push."""

    job_id: str  # made by the producer
    fields: Sequence[str | bytes]  # names and values of the entry after `id`, flat; first name and parameters
    priority: Priority = Priority.NORMAL
    due: Due | None = None  # None: now
    unique: str = ""  # a key that one job at a time may hold
    unique_for_ms: int | None = None  # None: until the job ends
    expires_in_ms: int | None = None  # a job that has not started by then is a dead letter
    nonce: str = ""  # tells pushes of one id apart, no spaces; '' if the id was made for this push
    on_conflict: OnConflict = OnConflict.SKIP  # RAISE is for the caller: the store only remembers its answer
    tries: Tries | None = field(default=None, compare=False, repr=False)  # None: it counts as unsent
    queue: str = field(default="", compare=False, repr=False)  # the queue that prepared it
    # When it was first sent, by the store's clock; set by the driver. None: no try can have written it.
    sent_ms: float | None = field(default=None, compare=False, repr=False)


def weight_of(job: NewJob) -> int:
    """Return the weight of a job in a call, for `MOST_BYTES`: about its bytes.

    A job that replaces another weighs eight times as much: the store reads that one, removes it, writes it again.
    """
    size = sum(map(len, job.fields))
    return 8 * size if job.on_conflict is OnConflict.REPLACE else size


@dataclass(frozen=True, slots=True)
class Pushed:
    """The answer to the push of one job."""

    reply: Reply
    holder: str = ""  # with DUPLICATE and REPLACED, the id of the job that holds the unique key


def found_again(answers: Sequence[Pushed]) -> list[Pushed]:
    """Return the answers to a push whose first reply was lost: a job that it finds, it has added."""
    return [Pushed(Reply.OK) if answer.reply is Reply.REPEATED else answer for answer in answers]


@dataclass(slots=True)
class Lease:
    """A worker's lease of one job, which lasts while the worker is not fenced."""

    key: str  # tells the held jobs of a worker apart; the same when the job is delivered again
    token: Any  # the driver's name for the lease
    deliveries: int  # this one included
    job_id: str
    fields: Mapping[bytes, bytes]  # of its entry
    queued_ms: int  # when it was last made ready, by the server's clock, as far as is known
    rank: int = 0  # of its priority: 0 for the highest, which goes first

    @property
    def unique(self) -> bytes:
        """The unique key that ends with the job; b'' for none."""
        return self.fields.get(b"unique", b"")

    @property
    def nonce(self) -> bytes:
        """A text that tells its push from others of the same id; b'' if the id was made for it."""
        return self.fields.get(b"nonce", b"")

    @property
    def ready_ms(self) -> int:
        """When it became ready, in ms since 1970; 0 if its entry id says a time that can't be true."""
        return self.queued_ms if self.queued_ms > LONG_AGO else 0


@dataclass(frozen=True, slots=True)
class Result:
    """The result of a job, to be kept."""

    keep_ms: int
    value: bytes | None = None  # what its handler returned, as JSON; None: it was cancelled, or that was refused
    refused: str = ""  # why its value could not be kept


@dataclass(frozen=True, slots=True)
class Ack:
    """The job is done: remove it. Cancelled jobs end so too, and are counted apart."""

    cancelled: bool = False
    result: Result | None = None
    pushes: Sequence[NewJob] = ()  # jobs that it pushes in the same step; at most 500, and about 4 MB
    reported: bool = False  # its run has reported progress, which is kept for another minute


@dataclass(frozen=True, slots=True)
class RetryLater:
    """The job runs again."""

    due: Due
    changes: Mapping[str, str] = field(default_factory=dict)  # fields such as `attempt`; '' removes one


@dataclass(frozen=True, slots=True)
class Release:
    """The job goes back without an outcome, and keeps its place."""

    refund: bool = True  # the delivery doesn't count; it does if the job may have ended the worker


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """The job becomes a dead letter, for an operator."""

    reason: str  # `failed`, `undecodable`, `unknown name`, `expired` or `worker lost`
    error: str  # in one line
    traceback: str = ""
    error_type: str = ""
    fingerprint: str = ""  # shared by failures of one kind; see `failures.py`
    reported: bool = False  # as in `Ack`


@dataclass(frozen=True, slots=True)
class ReportProgress:
    """A progress report. It ends no lease, and is OK only from the worker that has the lease."""

    progress: bytes  # the last report of its handler, as JSON
    then: "Settlement | None" = None  # how the job is settled next, if its handler has returned; not for the store


@dataclass(frozen=True, slots=True)
class Lingers:
    """The question whether a job may be settled while an abandoned thread of its handler still runs.

    It ends no lease and writes nothing. RUNNING: the job counts for the `max_concurrency` of its name, so it is
    settled once that thread has ended. OK: it may be settled at once.
    """

    then: "Settlement"  # how it is settled; not for the store
    is_told: bool = False  # the log says already that it waits


Settlement = Ack | RetryLater | Release | DeadLetter | ReportProgress | Lingers
Settlements = Sequence[tuple[Lease, Settlement]]


Ended = tuple[str, Reply]
"""A job that a claim ended instead of delivering it again: its id; and DEAD, as it kills its workers,
CANCELLED, as a cancel asked for, or UNDECODABLE, as it was added outside redisjobs and is not a job."""


@dataclass(frozen=True, slots=True)
class Turn:
    """The name of an exchange, by which the store knows one that is sent again."""

    lane: int  # which of the worker's exchanges that are on their way at once
    number: int  # greater for each exchange of a lane; the same when it is sent again


@dataclass(frozen=True, slots=True)
class Exchange:
    """The answer to one round trip of a worker.

    What was not asked for has its default. OK, LEASE_LOST and CANCELLED end a lease. After any other reply the
    worker still has the job: OVERSIZED if it can't be settled; FULL for one with pushes while the store is out of
    memory; SPOILED if a unique key of these pushes has another type; RUNNING as `Lingers` says.
    """

    replies: Sequence[Reply] = ()  # one for each settlement
    leases: Sequence[Lease] = ()  # the jobs claimed, in the order in which they are to start
    more: bool = False  # another claim would find more, as well as the store can say
    ended: Sequence[Ended] = ()
    due_in: float | None = None  # seconds until the next delayed job is due
    waits: float | None = None  # the seconds that a job waits which only an otherwise idle worker may claim
    server_ms: float = 0  # the server's clock, to the microsecond
    paused: bool = False  # the queue is, so nothing is claimed
    # By the position of a settlement with pushes that was OK: whether each push added its job. It did not if
    # another job has its id or its unique key.
    added: Mapping[int, Sequence[bool]] = field(default_factory=dict)
    turns: bool = False  # a job that waited for a limit may start now, though nothing was asked: ask for jobs
    restricted: bool = False  # some jobs may not start: names are paused, jobs are held, or there are limits
    lines: bool = False  # jobs wait for a limit, and it is known when the next may start; `due_in` has that too
    turn_in: float | None = None  # seconds until the next of these may start, if this worker is to look then
    late_in: float | None = None  # seconds until another worker looks, if the one that is to look is gone
    spoiled: Mapping[int, str] = field(default_factory=dict)  # by the position: which key is wrong, and how
    up_to: int = LOWEST_RANK  # no job of a greater rank may start yet, as others go first; -1: no job at all


@dataclass(frozen=True, slots=True)
class Silent:
    """A worker whose lease is over by the server's clock, and that is not fenced yet."""

    worker_id: str
    until_ms: str  # the end of its lease; a later beat moves it
    lease: float  # seconds


@dataclass(frozen=True, slots=True)
class Reclaimed:
    """The answer to `Consumer.reclaim`."""

    silent: Sequence[Silent] = ()  # workers that may be lost; some of them, if there are many
    fenced: Sequence[str] = ()  # the ids of those that this call fenced
    jobs: int = 0  # handed back, for any worker to claim
    more: bool = False  # there are more to hand back: look again at once
    released: bool = False  # a job that was handed back waits to be claimed
    others: int = 0  # the jobs that other workers hold, if that was asked
    server_ms: float = 0  # the server's clock, to the microsecond
    workers: int = 2  # this one included, alive or fenced
    # This worker looks when delayed jobs are due. If all of a queue's workers did, each delayed job would wake the
    # whole fleet.
    promotes: bool = True
    # A delayed job has been due for 250 ms, or one that waited for a limit might have started 2 s ago: the worker
    # that looks for them may be gone.
    late: bool = False
    untidy: bool = False  # workers may be gone that the store does not know of: `Tidy` finds them
