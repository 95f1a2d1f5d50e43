"""A job's way through the store, as values: pushed, claimed, settled, reclaimed.

Each is what one atomic step takes or answers. The store sees bytes and ids; types are known to the queue.
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
    REPEATED = "REPEATED"
    REFUSED = "REFUSED"
    EXISTS = "EXISTS"
    DUPLICATE = "DUPLICATE"
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
    UNKNOWN = "UNKNOWN"  # of a repeated push: the store has forgotten whether it was here before
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
    """The tries of one push so far, as its producer knows them; see `redisjobs/client/push.py`.

    Attributes:
        since: When it was first sent, by the monotonic clock.
        told: Whether its caller knows the outcome; if not, a try is on its way, or had no answer.
    """

    since: float
    told: bool = False


@dataclass(slots=True)  # not frozen: to make one would take three times as long, and each push makes one
class NewJob:
    """A job to push.

    Attributes:
        job_id: Its id, made by the producer.
        fields: The entry's names and values after `id`, flat; first its name and its parameters.
        priority: Its priority.
        due: When it may run; None: now.
        unique: A key that one job at a time may hold; '' for none.
        unique_for_ms: How long the key is held; None: until the job ends.
        expires_in_ms: A job that has not started by then becomes a dead letter; None: never.
        nonce: A text without a space that tells pushes of one id apart; '' if the id was made for this push.
        on_conflict: What the push does if another job holds the key. RAISE is for the caller: the store only
            remembers its answer, as with REPLACE.
        tries: The tries of its push; None: it was not sent, or counts as unsent.
        queue: The name of the queue that prepared it; '' if that is not known.
        sent_ms: When it was first sent, by the store's clock; set by the driver. None: no try can have written it.
    """

    job_id: str
    fields: Sequence[str | bytes]
    priority: Priority = Priority.NORMAL
    due: Due | None = None
    unique: str = ""
    unique_for_ms: int | None = None
    expires_in_ms: int | None = None
    nonce: str = ""
    on_conflict: OnConflict = OnConflict.SKIP
    tries: Tries | None = field(default=None, compare=False, repr=False)
    queue: str = field(default="", compare=False, repr=False)
    sent_ms: float | None = field(default=None, compare=False, repr=False)


def weight_of(job: NewJob) -> int:
    """Return the weight of a job in a call, for `MOST_BYTES`: about its bytes.

    A job that replaces another weighs eight times as much: the store reads that one, removes it, writes it again.
    """
    size = sum(map(len, job.fields))
    return 8 * size if job.on_conflict is OnConflict.REPLACE else size


@dataclass(frozen=True, slots=True)
class Pushed:
    """The answer to the push of one job.

    Attributes:
        reply: OK: it is on the queue. REPEATED: an earlier try of this push added it. EXISTS: another push made a
            job of this id, or this call names the job twice. DUPLICATE: another job holds the key. REFUSED: an
            earlier repetition was answered with one of these two, and so is this. REPLACED: another job holds the
            key and waits, and has become what this push says. UNKNOWN: it is a repetition, and the store's clock
            was set ahead since the first try: the job may have been added, and have ended.
        holder: With DUPLICATE and REPLACED, the id of the job that holds the unique key.
    """

    reply: Reply
    holder: str = ""


def found_again(answers: Sequence[Pushed]) -> list[Pushed]:
    """Return the answers to a push whose first reply was lost: a job that it finds, it has added."""
    return [Pushed(Reply.OK) if answer.reply is Reply.REPEATED else answer for answer in answers]


@dataclass(slots=True)
class Lease:
    """A worker's lease of one job, which lasts while the worker is not fenced.

    Attributes:
        key: Tells the held jobs of a worker apart; the same when the job is delivered again.
        token: The driver's name for the lease.
        deliveries: How often the job was delivered, this time included.
        job_id: Its id.
        fields: The names and values of its entry, as bytes.
        queued_ms: When it was last made ready, in ms since 1970 by the server's clock, as far as is known.
        rank: The rank of its priority: 0 for the highest, which goes first.
    """

    key: str
    token: Any
    deliveries: int
    job_id: str
    fields: Mapping[bytes, bytes]
    queued_ms: int
    rank: int = 0

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
    """The result of a job, to be kept.

    Attributes:
        keep_ms: How long it is kept.
        value: What its handler returned, as JSON; None: nothing, as it was cancelled, or its value was refused.
        refused: Why its value could not be kept; '' if it could.
    """

    keep_ms: int
    value: bytes | None = None
    refused: str = ""


@dataclass(frozen=True, slots=True)
class Ack:
    """The job is done: remove it. Cancelled jobs end so too, and are counted apart.

    Attributes:
        cancelled: Whether it was cancelled.
        result: The result to keep; None: none.
        pushes: Jobs that it pushes, in the same step; at most 500, and about 4 MB.
        reported: Whether its run has reported progress, which is kept for another minute.
    """

    cancelled: bool = False
    result: Result | None = None
    pushes: Sequence[NewJob] = ()
    reported: bool = False


@dataclass(frozen=True, slots=True)
class RetryLater:
    """The job runs again.

    Attributes:
        due: When it may.
        changes: Fields to change, such as `attempt` or `error`; '' removes one.
    """

    due: Due
    changes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Release:
    """The job goes back without an outcome, and keeps its place.

    Attributes:
        refund: Whether the delivery doesn't count. It counts if the job may have ended the worker.
    """

    refund: bool = True


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """The job becomes a dead letter, for an operator.

    Attributes:
        reason: `failed`, `undecodable`, `unknown name`, `expired` or `worker lost`.
        error: The error in one line.
        traceback: Its traceback; '' for none.
        error_type: The class of the exception; '' for none.
        fingerprint: A text that failures of one kind share, see `redisjobs/model/failures.py`; '' for none.
        reported: Whether its run has reported progress, which is kept for another minute.
    """

    reason: str
    error: str
    traceback: str = ""
    error_type: str = ""
    fingerprint: str = ""
    reported: bool = False


@dataclass(frozen=True, slots=True)
class ReportProgress:
    """A progress report. It ends no lease, and is OK only from the worker that has the lease.

    Attributes:
        progress: The last report of its handler, as JSON.
        then: How the job is settled next, if its handler has returned; the store does not look at it.
    """

    progress: bytes
    then: "Settlement | None" = None


@dataclass(frozen=True, slots=True)
class Lingers:
    """The question whether a job may be settled while an abandoned thread of its handler still runs.

    It ends no lease and writes nothing. RUNNING: the job counts for the `max_concurrency` of its name, so it is
    settled once that thread has ended. OK: it may be settled at once.

    Attributes:
        then: How it is settled; the store does not look at it.
        is_told: Whether the log says already that it waits.
    """

    then: "Settlement"
    is_told: bool = False


Settlement = Ack | RetryLater | Release | DeadLetter | ReportProgress | Lingers
Settlements = Sequence[tuple[Lease, Settlement]]


Ended = tuple[str, Reply]
"""A job that a claim ended instead of delivering it again: its id; and DEAD, as it kills its workers,
CANCELLED, as a cancel asked for, or UNDECODABLE, as it was added outside redisjobs and is not a job."""


@dataclass(frozen=True, slots=True)
class Turn:
    """The name of an exchange, by which the store knows one that is sent again.

    Attributes:
        lane: Which of the worker's exchanges that are on their way at once.
        number: Greater for each exchange of a lane; the same when it is sent again.
    """

    lane: int
    number: int


@dataclass(frozen=True, slots=True)
class Exchange:
    """The answer to one round trip of a worker.

    Attributes:
        replies: One for each settlement: OK, LEASE_LOST or CANCELLED. After any other the worker still has the
            job: OVERSIZED if it can't be settled; FULL for one with pushes while the store is out of
            memory; SPOILED if a unique key of these pushes has another type; RUNNING as `Lingers` says.
        leases: The jobs claimed, in the order in which they are to start.
        more: Whether another claim would find more, as well as the store can say; False if nothing was asked.
        ended: Jobs that were ended instead of claimed.
        due_in: Seconds until the next delayed job is due; None if there is none or nothing was asked.
        waits: The seconds that a job has waited which only a worker with nothing else to run may claim; None if
            there is none.
        server_ms: The server's clock, to the microsecond; 0 if nothing was asked.
        paused: Whether the queue is paused, so that nothing is claimed; False if nothing was asked.
        added: By the position of a settlement with pushes that was OK: whether each push added its job. It did not
            if another job has its id or its unique key.
        turns: Whether a job that waited for a limit may start now, though nothing was asked: ask for jobs.
        restricted: Whether some jobs may not start: names are paused, jobs are held, or there are limits; False if
            nothing was asked.
        lines: Whether jobs wait for a limit, and it is known when the next may start; `due_in` has that too.
        turn_in: Seconds until the next of these may start, if this worker is to look then; else None.
        late_in: Seconds until another worker looks after these, if the one that is to look is gone; None: none
            needs to.
        spoiled: By the position of a settlement that was SPOILED: which key is wrong, and how.
        up_to: No job of a greater rank may start yet, as jobs were left that go first; -1: no job at all.
    """

    replies: Sequence[Reply] = ()
    leases: Sequence[Lease] = ()
    more: bool = False
    ended: Sequence[Ended] = ()
    due_in: float | None = None
    waits: float | None = None
    server_ms: float = 0
    paused: bool = False
    added: Mapping[int, Sequence[bool]] = field(default_factory=dict)
    turns: bool = False
    restricted: bool = False
    lines: bool = False
    turn_in: float | None = None
    late_in: float | None = None
    spoiled: Mapping[int, str] = field(default_factory=dict)
    up_to: int = LOWEST_RANK


@dataclass(frozen=True, slots=True)
class Silent:
    """A worker whose lease is over by the server's clock, and that is not fenced yet.

    Attributes:
        worker_id: The worker's id.
        until_ms: The end of its lease; a later beat moves it.
        lease: How long its lease is, in seconds.
    """

    worker_id: str
    until_ms: str
    lease: float


@dataclass(frozen=True, slots=True)
class Reclaimed:
    """The answer to `Consumer.reclaim`.

    Attributes:
        silent: The workers that may be lost; some of them, if there are many.
        fenced: The ids of those that this call fenced.
        jobs: How many jobs were handed back, for any worker to claim.
        more: Whether there are more to hand back: look again at once.
        released: Whether any job that was handed back waits to be claimed.
        others: How many jobs other workers hold; 0 if that was not asked.
        server_ms: The server's clock, to the microsecond.
        workers: How many workers there are, this one included, alive or fenced.
        promotes: Whether this worker looks when delayed jobs are due. Only one of a queue's workers does: if all
            did, each delayed job would wake the whole fleet.
        late: Whether a delayed job has been due for 250 ms, or one that waited for a limit might have started 2 s
            ago: the worker that looks for them may be gone.
        untidy: Whether workers may be gone that the store does not know of: `Tidy` finds them.
    """

    silent: Sequence[Silent] = ()
    fenced: Sequence[str] = ()
    jobs: int = 0
    more: bool = False
    released: bool = False
    others: int = 0
    server_ms: float = 0
    workers: int = 2
    promotes: bool = True
    late: bool = False
    untidy: bool = False
