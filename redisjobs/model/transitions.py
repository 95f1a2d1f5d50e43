"""The values of a job's way through the store: pushes, claims, settlements, reclaims, and their answers.

Each value goes into or comes out of one atomic step. The store gets bytes and ids; only the queue knows types. If
a name ends in `_ms`, a time is in ms since 1970, and a duration is in ms.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Generic, TypeVar

from redisjobs.model.emissions import EmitChunks
from redisjobs.model.job import OnConflict, Priority

R_co = TypeVar("R_co", covariant=True)

MOST_JOBS = 500
"""The most jobs in one call, so that no call blocks the store for long."""

MOST_BYTES = 4 * 1024 * 1024
"""The most bytes of jobs in one call; a larger job goes alone."""

LOWEST_RANK = len(Priority) - 1
"""The rank of the lowest priority; the highest priority has rank 0."""

LONG_AGO = 10**12
"""A time in 2001, in ms since 1970. A user of redis-cli has chosen any entry id with an earlier time."""


class Reply(StrEnum):
    """A script's reply for one job. After any reply but OK nothing was written, except where noted."""

    OK = "OK"
    REPEATED = "REPEATED"  # an earlier try of this push added the job
    REFUSED = "REFUSED"  # an earlier repetition of this push was answered EXISTS or DUPLICATE
    EXISTS = "EXISTS"  # another push made a job with this id, or this call has the id twice
    DUPLICATE = "DUPLICATE"  # another job holds the unique key
    REPLACED = "REPLACED"  # written: the pushed job has replaced another, waiting job
    INDEPENDENT = "INDEPENDENT"  # written: the requeued job was a child, and is none any more
    LEASE_LOST = "LEASE_LOST"
    CANCELLED = "CANCELLED"  # written: the job was cancelled, and is removed
    CANCELLING = "CANCELLING"  # written: the worker that runs the job will cancel it
    HELD = "HELD"  # written: the job does not start
    RUNNING = "RUNNING"
    STOPPING = "STOPPING"  # for a worker: it stops already, and can't be asked for anything else
    DEAD = "DEAD"
    UNDECODABLE = "UNDECODABLE"  # written: an entry that is not a job became a dead letter
    NOT_FOUND = "NOT_FOUND"
    NO_STEP = "NO_STEP"  # a job has saved no step of this key
    OVERSIZED = "OVERSIZED"
    FULL = "FULL"  # from the driver: the server is out of memory and refused to run the script
    # The key of the schedule has the wrong type; or the key for the unique key of a follow-up has.
    SPOILED = "SPOILED"
    # For a repeated push: the store's clock was set ahead since the first try. The job may have been added.
    UNKNOWN = "UNKNOWN"
    STALE = "STALE"  # for a whole call: it was sent too long ago, or the server's clock was set since
    # For a whole call: some jobs have no answer yet. For a job with follow-ups: not all of them were checked, so
    # it is not settled yet. The driver calls again until it gets another reply. For `Take`: the caller does.
    PARTIAL = "PARTIAL"
    FENCED = "FENCED"  # for a whole call: the store counts the worker as dead
    STAYS = "STAYS"  # a job is not moved: see `Take` and `Import`
    # For schedules; see `redisjobs/model/stored.py`.
    NEWER = "NEWER"
    KEPT = "KEPT"
    DECLARED = "DECLARED"
    FIRED = "FIRED"
    EARLY = "EARLY"
    PAUSED = "PAUSED"
    BUSY = "BUSY"
    CHANGED = "CHANGED"


@dataclass(frozen=True, slots=True)
class After:
    """Due this many ms after the store receives the job; fractions are allowed."""

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
    answered: bool = False  # the caller knows the outcome; else a try is on its way, or had no answer


@dataclass(slots=True)  # not frozen: to make one would take three times as long, and each push makes one
class NewJob:
    """A job to push."""

    job_id: str  # made by the producer
    fields: Sequence[str | bytes]  # the entry's names and values after `id`, flat; name and parameters come first
    priority: Priority = Priority.NORMAL
    due: Due | None = None  # None: now
    unique: str = ""  # a key that one job at a time may hold
    unique_for_ms: int | None = None  # None: until the job ends
    expires_in_ms: int | None = None  # if it has not started by then, it becomes a dead letter
    nonce: str = ""  # identifies this push of the id, no spaces; '' if the id was made for this push
    on_conflict: OnConflict = OnConflict.SKIP  # RAISE concerns only the caller: for the store it is like SKIP
    tries: Tries | None = field(default=None, compare=False, repr=False)  # None: it counts as unsent
    queue: str = field(default="", compare=False, repr=False)  # the queue that prepared it
    # How many replicas must have it before its push is answered. A store without replicas ignores it.
    replicas: int = field(default=0, compare=False, repr=False)
    # When it was first sent, by the store's clock. The driver sets it. None: no try can have written the job.
    sent_ms: float | None = field(default=None, compare=False, repr=False)


class PreparedJob(NewJob, Generic[R_co]):
    """A job that was prepared, for `push_many`, `context.push`, or as a child; `R` is what its handler returns."""

    __slots__ = ()


def weight_of(job: NewJob) -> int:
    """Return the weight of a job in a call, for `MOST_BYTES`: about its bytes.

    A job that may replace another one weighs eight times as much: the store then reads, removes and writes a job.
    """
    size = sum(map(len, job.fields))
    return 8 * size if job.on_conflict is OnConflict.REPLACE else size


@dataclass(frozen=True, slots=True)
class Pushed:
    """The answer to the push of one job."""

    reply: Reply
    holder: str = ""  # with DUPLICATE and REPLACED, the id of the job that holds the unique key


def found_again(answers: Sequence[Pushed]) -> list[Pushed]:
    """Return the answers to a push whose first reply was lost, with OK in place of REPEATED."""
    return [Pushed(Reply.OK) if answer.reply is Reply.REPEATED else answer for answer in answers]


@dataclass(slots=True)
class Lease:
    """A worker's lease of one job. It lasts until the job is settled or the worker is fenced."""

    key: str  # unique among the worker's jobs; the same when the job is delivered again
    token: Any  # the driver's name for the lease
    deliveries: int  # this one included
    job_id: str
    fields: Mapping[bytes, bytes]  # of its entry
    queued_ms: int  # when it was last made ready, by the server's clock, as far as is known
    rank: int = 0  # of its priority: 0 for the highest, which goes first

    @property
    def unique(self) -> bytes:
        """The unique key that the job releases at its end; b'' for none."""
        return self.fields.get(b"unique", b"")

    @property
    def nonce(self) -> bytes:
        """The text that identifies its push among pushes of the same id; b'' if the id was made for its push."""
        return self.fields.get(b"nonce", b"")

    @property
    def ready_ms(self) -> int:
        """When it became ready, in ms since 1970; 0 if its entry id can't be a time."""
        return self.queued_ms if self.queued_ms > LONG_AGO else 0


@dataclass(frozen=True, slots=True)
class Result:
    """The result of a job, for the store to keep."""

    keep_ms: int
    value: bytes | None = None  # the handler's result as JSON; None: the job was cancelled, or the result refused
    refused: str = ""  # why the result could not be stored


@dataclass(frozen=True, slots=True)
class Ack:
    """The job is done or cancelled, and is removed. The two are counted separately."""

    cancelled: bool = False
    result: Result | None = None
    pushes: Sequence[NewJob] = ()  # follow-ups, added in the same step; at most 500, and about 4 MB
    # Its run has reported progress, which is kept for another minute, or emitted chunks, as long as its result.
    reported: bool = False
    stepped: bool = False  # it may have saved steps, which are forgotten


ACK = Ack()
"""The settlement of a job that is done and has nothing more to write; the path of each job compares with it."""


@dataclass(frozen=True, slots=True)
class RetryLater:
    """The job runs again."""

    due: Due
    changes: Mapping[str, str] = field(default_factory=dict)  # new fields of its entry; '' removes a field


@dataclass(frozen=True, slots=True)
class Release:
    """The job goes back without an outcome, and keeps its place. If a cancel was asked for, it ends: CANCELLED."""

    refund: bool = True  # the delivery doesn't count; False if the job may have ended the worker


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """The job becomes a dead letter, for an operator."""

    reason: str  # `failed`, `undecodable`, `unknown name`, `expired` or `worker lost`
    error: str  # in one line
    traceback: str = ""
    error_type: str = ""
    fingerprint: str = ""  # equal for failures of one kind; see `failures.py`
    reported: bool = False  # see `Ack`
    cancels: bool = False  # its children that have not ended are cancelled


@dataclass(frozen=True, slots=True)
class ReportProgress:
    """A progress report. It ends no lease. The reply is OK only for the worker that has the lease."""

    progress: bytes  # the last report of its handler, as JSON
    then: "Settlement | None" = None  # the next settlement, if its handler has returned; not sent to the store


class WaitsFor(StrEnum):
    """What a suspended job waits for."""

    TIME = "time"
    SIGNAL = "signal"
    CHILDREN = "children"


@dataclass(frozen=True, slots=True)
class Wait:
    """A step that waits.

    While the job is suspended, its entry has this as text in the field `waits`, and behind it the time in ms at
    which it is woken at the latest, if there is one.
    """

    number: int  # of the step; see `Saved.number`
    what: WaitsFor
    key: str  # of the step

    def __str__(self) -> str:
        return f"{self.number} {self.what} {self.key}"


@dataclass(frozen=True, slots=True)
class Group:
    """The children of one step."""

    token: str  # its name among all groups of the queue
    key: str  # of the step
    total: int  # how many children it has in all

    def child_id(self, index: int) -> str:
        """Return the id of a child that has none of its own."""
        return f"{self.token}-{index}"


@dataclass(frozen=True, slots=True)
class Suspend:
    """The job waits without a worker, and runs again once the wait is over. Neither counts as an attempt.

    If a cancel was asked for, it ends: CANCELLED.
    """

    wait: Wait
    due: Due | None = None  # when the wait is over at the latest
    changes: Mapping[str, str] = field(default_factory=dict)  # new fields of its entry; '' removes a field
    version: int = 1  # of its handler; noted if the job has saved no step yet
    group: Group | None = None  # the children that it waits for
    pushes: Sequence[NewJob] = ()  # the last of them, added in the same step; as in `AddChildren`


@dataclass(frozen=True, slots=True)
class AddChildren:
    """Children of a step. It ends no lease. Each child is added once, and is then in its group: see `children.py`.

    A child whose id or unique key another job has is not added, which is its outcome.
    """

    group: Group
    pushes: Sequence[NewJob]  # at most 500, and about 4 MB; each has the field `child_of`: token, space, index
    version: int = 1  # as in `Suspend`


@dataclass(frozen=True, slots=True)
class SaveStep:
    """The result of a step. It ends no lease. OK; EXISTS: a result of this key is saved already, and stays."""

    key: str  # '' for the checkpoint, which replaces the one before
    number: int
    value: bytes  # JSON
    version: int = 1  # as in `Suspend`


@dataclass(frozen=True, slots=True)
class Lingers:
    """The question whether a job may be settled while an abandoned thread of its handler still runs.

    It ends no lease and writes nothing. RUNNING: the job counts for the `max_concurrency` of its name, so it is
    settled after that thread has ended. OK: it may be settled at once.
    """

    then: "Settlement"  # how it is settled afterwards; not sent to the store
    is_logged: bool = False  # the log has a line that the job waits


Settlement = (
    Ack
    | RetryLater
    | Suspend
    | Release
    | DeadLetter
    | SaveStep
    | AddChildren
    | EmitChunks
    | ReportProgress
    | Lingers
)
Settlements = Sequence[tuple[Lease, Settlement]]


def size_of(settlement: Settlement) -> int:
    """Return about how many bytes a settlement sends."""
    match settlement:
        case Ack(result=result, pushes=pushes):
            return len((result and result.value) or b"") + sum(map(weight_of, pushes))
        case RetryLater(changes=changes):
            return sum(map(len, changes.values()))
        case Suspend(pushes=pushes, changes=changes):
            return sum(map(len, changes.values())) + sum(map(weight_of, pushes))
        case AddChildren(pushes=pushes):
            return sum(map(weight_of, pushes))
        case DeadLetter(error=error, traceback=traceback):
            return len(error) + len(traceback)
        case SaveStep(value=value):
            return len(value)
        case EmitChunks(chunks=chunks):
            return sum(len(chunk.data) for chunk in chunks)
        case _:
            return 0


Ended = tuple[str, Reply]
"""A job that a claim ended instead of delivering it: its id and a reply. DEAD: its workers died. CANCELLED: it was
cancelled. UNDECODABLE: the entry was added outside redisjobs and is not a job."""


@dataclass(frozen=True, slots=True)
class Turn:
    """The name of an exchange, by which the store recognizes a repeated one."""

    lane: int  # exchanges that wait for answers at the same time have different lanes
    number: int  # grows with each exchange of a lane; a repeated exchange has the same number


@dataclass(frozen=True, slots=True)
class Exchange:
    """The answer to one round trip of a worker.

    What was not asked for has its default. OK, LEASE_LOST and CANCELLED end a lease. After any other reply the
    worker still has the job. OVERSIZED: it can't be settled. FULL: it has follow-ups, and the store is out of
    memory. BUSY: another transaction has locked what it needs. SPOILED: the key for the unique key of a follow-
    up has the wrong type. RUNNING: see `Lingers`. EXISTS: see `SaveStep`.
    """

    replies: Sequence[Reply] = ()  # one for each settlement
    leases: Sequence[Lease] = ()  # the claimed jobs, in the order in which they start
    more: bool = False  # another claim would probably find more
    ended: Sequence[Ended] = ()
    due_in: float | None = None  # seconds until the next delayed job is due
    waits: float | None = None  # for how many seconds a job has waited that only an idle worker may claim
    server_ms: float = 0  # the server's clock, to the microsecond
    paused: bool = False  # the queue is paused, so nothing is claimed
    # For each position of a settled job with follow-ups: whether each follow-up was added. It was not if another
    # job has its id or its unique key.
    added: Mapping[int, Sequence[bool]] = field(default_factory=dict)
    turns: bool = False  # a job that waited for a limit may start now, but this call claimed none: claim again
    restricted: bool = False  # some jobs may not start: names are paused, jobs are held, or there are limits
    lines: bool = False  # jobs wait for a limit, and the next start is known; `due_in` counts it, too
    turn_in: float | None = None  # seconds until the next of these may start, if this worker must claim it then
    late_in: float | None = None  # seconds until another worker claims it, if the worker that must is gone
    spoiled: Mapping[int, str] = field(default_factory=dict)  # by position: which key is wrong, and how
    up_to: int = LOWEST_RANK  # jobs with a greater rank may not start yet, others go first; -1: no job may start


@dataclass(frozen=True, slots=True)
class Silent:
    """A worker whose lease has ended by the server's clock, but that is not fenced yet."""

    worker_id: str
    until_ms: str  # the end of its lease; a later beat moves it
    lease: float  # seconds


@dataclass(frozen=True, slots=True)
class Reclaimed:
    """The answer to `Consumer.reclaim`."""

    silent: Sequence[Silent] = ()  # workers that may be lost; not all, if there are many
    fenced: Sequence[str] = ()  # the ids of the workers that this call fenced
    jobs: int = 0  # how many jobs were made ready again, for any worker to claim
    more: bool = False  # there are more jobs to make ready: call again at once
    released: bool = False  # a released job waits to be claimed
    others: int = 0  # how many jobs other workers hold, if the call asked for it
    server_ms: float = 0  # the server's clock, to the microsecond
    workers: int = 2  # whose lease ends later than in half of this one's lease: about how many live, with this one
    alone: bool = False  # there is no other worker, not even one that is lost or fenced
    # This worker promotes delayed jobs. If all workers of a queue did, each delayed job would wake all of them.
    promotes: bool = True
    # A delayed job has been due for 250 ms, or a job that waited for a limit could have started 2 s ago. The
    # worker that promotes may be gone.
    late: bool = False
    untidy: bool = False  # there may be lost workers that the store does not know: `Tidy` finds them
    server: str = ""  # which server answered, '' if unknown: one that takes its place may lack beats
