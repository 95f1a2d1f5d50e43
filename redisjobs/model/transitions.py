"""A job's way through the store, as values: pushed, claimed, settled, reclaimed.

Each is what one atomic step takes or answers. The store sees bytes and ids; types are the queue's business.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from redisjobs.model.job import OnConflict, Priority

MOST_JOBS = 500
"""Jobs in one call, so that none holds the store up."""

MOST_BYTES = 4 * 1024 * 1024
"""Of jobs in one call, likewise; one that is larger goes alone."""

LOWEST_RANK = len(Priority) - 1
"""The rank of the lowest priority; that of the highest is 0."""

LONG_AGO = 10**12
"""In ms since 1970, in 2001: what is said to be older was put in by hand."""


class Reply(StrEnum):
    """What a script says of one job. A reply other than OK means nothing was written, except as noted."""

    OK = "OK"
    REPEATED = "REPEATED"
    REFUSED = "REFUSED"
    EXISTS = "EXISTS"
    DUPLICATE = "DUPLICATE"
    REPLACED = "REPLACED"  # written: another job, which waits, is what this push says by now
    LEASE_LOST = "LEASE_LOST"
    CANCELLED = "CANCELLED"  # written: the job is gone, as somebody asked
    CANCELLING = "CANCELLING"  # written: noted for the worker that runs the job
    HELD = "HELD"  # written: it does not start
    RUNNING = "RUNNING"
    DEAD = "DEAD"
    NOT_FOUND = "NOT_FOUND"
    OVERSIZED = "OVERSIZED"
    NO_IDS = "NO_IDS"
    FULL = "FULL"  # no script says it: the server refused to run it, for want of memory
    # Of a schedule; or of a job, as the unique key of one that it pushes is of the wrong type, by somebody's hand.
    SPOILED = "SPOILED"
    UNKNOWN = "UNKNOWN"  # of a push that is repeated: whether it was here before is forgotten
    STALE = "STALE"  # of a whole call: it was sent too long ago, or the server's clock was set since
    # Of a whole call: of some jobs it says nothing; a look at each can. Of a job that pushes others: it is
    # not settled yet, as not all of these were looked at. The driver calls again until there is another word.
    PARTIAL = "PARTIAL"
    FENCED = "FENCED"  # of a whole call: the worker is no longer one
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
    """Due so many ms after the store has taken it; not always whole ones."""

    ms: float


@dataclass(frozen=True, slots=True)
class At:
    """Due at that time, in ms since 1970."""

    ms: int


Due = After | At
"""When a job may run, if not now."""


@dataclass(slots=True)
class Tries:
    """The tries of one push so far, on this side; see `redisjobs/client/push.py`.

    Attributes:
        since: When it was tried first, by the monotonic clock.
        told: Whether its caller was told what came of it; if not, one is under way, or had no answer.
    """

    since: float
    told: bool = False


@dataclass(slots=True)  # not frozen: to make one would take three times as long, and each push makes one
class NewJob:
    """A job on its way in.

    Attributes:
        job_id: Made by the producer.
        fields: The entry's names and values after `id`, flat.
        due: When it may run; None: now.
        unique: A key that one job at a time may hold; '' for none.
        unique_for_ms: How long the key is kept; None: until the job ends.
        expires_in_ms: A job not started by then is a dead letter; None: never.
        nonce: Tells pushes of one given id apart, without a space; '' if the id was made for this push alone.
        on_conflict: What becomes of it if another job holds the key. RAISE is for whoever hears the answer: the
            store only remembers what that was, as of REPLACE.
        tries: What is known of its pushing; None: it was not tried, or is as if it had not been.
        queue: The name of the queue that prepared it; '' if that is not known.
        sent_ms: When it was first sent, by the store's clock; None: no try of it can have written it. The driver
            sets it.
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
    """What a job weighs in a call, to be held against `MOST_BYTES`: its bytes, nearly.

    One that replaces another has that read, taken out and written anew, so it weighs eight times as much.
    """
    size = sum(map(len, job.fields))
    return 8 * size if job.on_conflict is OnConflict.REPLACE else size


@dataclass(frozen=True, slots=True)
class Pushed:
    """What became of one pushed job.

    Attributes:
        reply: OK: it is on the queue. REPEATED: it was pushed before by this very push. EXISTS: the queue has
            a job of this id by another push, or this call names the job twice. DUPLICATE: another job holds the
            key. REFUSED: it was one of these two when it was repeated before, and stays so. REPLACED: another job
            holds the key and waits, and has become what this push says. UNKNOWN: it is a repetition, and the
            store's clock was set ahead since the first try: that may have been added, and have ended.
        holder: The id of the job that holds the unique key; of DUPLICATE and REPLACED.
    """

    reply: Reply
    holder: str = ""


def found_again(answers: Sequence[Pushed]) -> list[Pushed]:
    """The answers to a push that was tried before, its reply lost: what it finds of its own, it has added."""
    return [Pushed(Reply.OK) if answer.reply is Reply.REPEATED else answer for answer in answers]


@dataclass(slots=True)
class Lease:
    """A job in a worker's hands: its own for as long as the worker is not fenced.

    Attributes:
        key: What tells one held job from another; the same when the job is delivered once more.
        token: By what the store knows the lease. Nobody else's business.
        deliveries: How often it was delivered, this time included.
        job_id: Its id.
        fields: The names and values that it was pushed with, as bytes.
        queued_ms: When it was last made ready, in ms since 1970 by the server's clock, as far as is known.
        rank: Of its priority: 0 for the highest, which goes first.
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
        """What tells its push from others of the same id; b'' if the id was made for it."""
        return self.fields.get(b"nonce", b"")

    @property
    def ready_ms(self) -> int:
        """When it became ready, in ms since 1970; 0 where that, put in by hand, can't be true."""
        return self.queued_ms if self.queued_ms > LONG_AGO else 0


@dataclass(frozen=True, slots=True)
class Result:
    """What is kept of a job that has run.

    Attributes:
        keep_ms: For how long.
        value: What its handler returned, as JSON; None: nothing, as it was cancelled, or that was refused.
        refused: Why that could not be kept; '' if it could.
    """

    keep_ms: int
    value: bytes | None = None
    refused: str = ""


@dataclass(frozen=True, slots=True)
class Ack:
    """Done: forget the job. `cancelled` jobs end so too, and are counted apart.

    Attributes:
        result: What is kept of it; None: nothing.
        pushes: Jobs that it pushes, in the same step; at most 500, and about 4 MB.
        reported: Whether its run has reported progress, which is to be forgotten a minute later.
    """

    cancelled: bool = False
    result: Result | None = None
    pushes: Sequence[NewJob] = ()
    reported: bool = False


@dataclass(frozen=True, slots=True)
class RetryLater:
    """Run it again.

    Attributes:
        due: When.
        changes: Fields to change ('' removes one): `attempt`, `error`, ...
    """

    due: Due
    changes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Release:
    """Hand it back without an outcome, its place kept.

    Attributes:
        refund: The delivery doesn't count. It does where what ran may be what ended the worker.
    """

    refund: bool = True


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """Set it aside for a human.

    Attributes:
        reason: One of a few words: `failed`, `undecodable`, `unknown name`, `expired`, `worker lost`.
        error: One line.
        traceback: Text, or ''.
        error_type: The class of the exception of a job that failed; ''.
        fingerprint: Equal for failures of one kind; '' for what is none. See `redisjobs/model/fingerprint.py`.
        reported: Whether its run has reported progress, which is to be forgotten a minute later.
    """

    reason: str
    error: str
    traceback: str = ""
    error_type: str = ""
    fingerprint: str = ""
    reported: bool = False


@dataclass(frozen=True, slots=True)
class ReportProgress:
    """How far a job is: it ends no lease, and is OK only from the worker that has the lease.

    Attributes:
        progress: What its handler has said last, as JSON.
        then: How the job is to be settled next, if its handler has returned; the store does not look at it.
    """

    progress: bytes
    then: "Settlement | None" = None


@dataclass(frozen=True, slots=True)
class Lingers:
    """Ask whether a job may be settled though a thread of its handler, which was given up, runs on.

    It ends no lease and writes nothing. RUNNING: the job counts for the `max_concurrency` of its name, so it is to
    be settled once that thread has ended. OK: it may be settled at once.

    Attributes:
        then: How it is to be settled; the store does not look at it.
        is_told: Whether the log has said that it waits.
    """

    then: "Settlement"
    is_told: bool = False


Settlement = Ack | RetryLater | Release | DeadLetter | ReportProgress | Lingers
Settlements = Sequence[tuple[Lease, Settlement]]


Ended = tuple[str, Reply]
"""A job that a claim ended instead of delivering it again: its id; and DEAD, as it kills its workers, or
CANCELLED, as somebody had asked. Or NO_IDS: it stays where it is, as no dead letter can be written."""


@dataclass(frozen=True, slots=True)
class Turn:
    """By what the store knows an exchange that is sent again.

    Attributes:
        lane: Which of the worker's exchanges it is, of those that are under way at once.
        number: Greater for each exchange of a lane; the same when it is sent again.
    """

    lane: int
    number: int


@dataclass(frozen=True, slots=True)
class Exchange:
    """The answer to one round trip of a worker.

    Attributes:
        replies: One for each settlement: OK, LEASE_LOST or CANCELLED; OVERSIZED or NO_IDS where it can't be done;
            FULL for one with pushes where the store is out of memory, SPOILED where the unique key of one of these
            has another type; RUNNING as `Lingers` says. The job is still the worker's then.
        added: By the position of a settlement with pushes that was OK: whether each was added. It was not where
            its id, or its unique key, is another job's.
        spoiled: By the position of a settlement that was SPOILED: what is wrong with which key.
        leases: The jobs claimed, in the order in which they are to start.
        up_to: Of jobs of a greater rank none may start yet, as jobs were left that go first; -1: none at all may.
        more: Whether another claim would find more, as well as the store can say; False if nothing was asked.
        ended: Jobs that were ended instead of claimed.
        due_in: Seconds until the next delayed job is due; None if there is none or nothing was asked.
        waits: For how many seconds a job has been waiting that only a worker with nothing else to run may claim;
            None if there is none.
        server_ms: The server's clock, to the microsecond; 0 if nothing was asked.
        paused: Whether the queue is paused, so that nothing is claimed; False if nothing was asked.
        turns: Nothing was asked, and a job that waited for a limit may start now: ask for jobs.
        restricted: Whether some jobs may not start: names are paused, jobs are held, or there are limits; False if
            nothing was asked.
        lines: Whether jobs wait for a limit, and it is known when the next may start; `due_in` has that too.
        turn_in: Seconds until the next of these may start, where this worker is to look then; else None.
        late_in: Seconds until another worker looks after these, should the one that is to look be gone; None: none
            needs to.
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
    """A worker whose lease is over by the server's clock, and who was not fenced yet.

    Attributes:
        worker_id: Who.
        until_ms: The end of its lease; a later beat moves it.
        lease: Of that worker, in seconds.
    """

    worker_id: str
    until_ms: str
    lease: float


@dataclass(frozen=True, slots=True)
class Reclaimed:
    """What a look after lost workers came to.

    Attributes:
        silent: Those who may be lost; some of them, if there are many.
        fenced: Ids of those who were fenced by this call.
        jobs: How many jobs were handed back, for anybody to claim.
        more: Whether there are more to hand back: look again at once.
        released: Whether any job that was handed back waits to be claimed.
        others: How many jobs other workers hold; 0 if that was not asked.
        server_ms: The server's clock, to the microsecond.
        workers: How many workers there are, this one included, alive or fenced.
        promotes: Whether this worker is to look when delayed jobs are due. One of a queue's workers is: did all of
            them look, each delayed job would wake a whole fleet.
        late: Whether a delayed job has been due for 250 ms, or one that waited for a limit might have started 2 s
            ago: who is to look may be gone.
        untidy: Whether the store may not know all workers that are gone: `Tidy` finds them.
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
