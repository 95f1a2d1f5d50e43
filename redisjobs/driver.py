"""The seam between the queue and its store: two small protocols, and the values that cross them.

A `Driver` is a producer's and an operator's side; a `Consumer`, which a driver opens for one worker, is the
worker's side and owns the leases. The store sees bytes and ids; types are the queue's business.

An operator asks by queries and acts by changes. These are values: a feature is a new value, not a new method, and
a driver that does not know it says so by `Unsupported`.

Every method may raise `DriverError`; `Unavailable`, its subclass, where trying again may help.
"""

import math
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Generic, Protocol, TypeVar

from redisjobs.errors import DriverError
from redisjobs.job import Priority, State

T = TypeVar("T")
Answer = TypeVar("Answer", covariant=True)

LONGEST_TRY = 10.0
"""Seconds that a driver's `push` takes at most, whatever becomes of it; other calls may wait for longer."""

REPEATABLE = 50.0
"""Seconds from a push's first try within which it may be made again. What ended is looked for in the last minute,
and the last repetition may be under way for 8 s (`push.lua`): later, a job that ended would be added once more."""

MOST_JOBS = 500
"""Jobs in one call, so that none holds the store up."""

MOST_BYTES = 4 * 1024 * 1024
"""Of jobs in one call, likewise; one that is larger goes alone."""

_LONG_AGO = 10**12  # ms since 1970: in 2001


class Reply(StrEnum):
    """What a script says of one job. A reply other than OK means nothing was written, except as noted."""

    OK = "OK"
    REPEATED = "REPEATED"
    REFUSED = "REFUSED"
    EXISTS = "EXISTS"
    DUPLICATE = "DUPLICATE"
    LEASE_LOST = "LEASE_LOST"
    CANCELLED = "CANCELLED"  # written: the job is gone, as somebody asked
    CANCELLING = "CANCELLING"  # written: noted for the worker that runs the job
    DEAD = "DEAD"
    NOT_FOUND = "NOT_FOUND"
    OVERSIZED = "OVERSIZED"
    NO_IDS = "NO_IDS"
    STALE = "STALE"  # of a whole call: it was sent too long ago, or the server's clock was set since
    FENCED = "FENCED"  # of a whole call: the worker is no longer one
    # Of schedules; see `redisjobs/schedules/stored.py`.
    NEWER = "NEWER"
    KEPT = "KEPT"
    DECLARED = "DECLARED"
    SPOILED = "SPOILED"
    FIRED = "FIRED"
    EARLY = "EARLY"
    PAUSED = "PAUSED"
    CHANGED = "CHANGED"


class Fenced(DriverError):
    """The store takes this worker for dead: what it held is for others, and nothing it says is heeded.

    It sent no heartbeat for a lease, or the store lost its record. It can go on under a new id.

    Attributes:
        worker_id: Who was fenced.
    """

    def __init__(self, worker_id: str) -> None:
        super().__init__(
            f"the store takes worker {worker_id} for dead: no heartbeat for a lease, or its record is lost"
        )
        self.worker_id = worker_id


class IdTaken(DriverError):
    """A worker can't begin under this id; nothing was written."""

    def __init__(self, worker_id: str) -> None:
        super().__init__(
            f"the worker id {worker_id!r} is another worker's, or was a moment ago: an id must be new at each "
            "start, so best leave it out; nothing was claimed"
        )


class Unsupported(DriverError):
    """A driver does not know a query or a change; nothing was sent."""


def supported(by: Mapping[type[Any], T], value: object, driver: str) -> T:
    """What a driver has for a query or a change, by the class of that.

    Args:
        by: All that it has.
        value: The query or the change.
        driver: The driver's name.

    Raises:
        Unsupported: It has nothing for it.
    """
    found = by.get(type(value))
    if found is None:
        raise Unsupported(
            f"the {driver} driver has no {type(value).__name__}; use a driver, or a release of this one, that has "
            "it; nothing was sent"
        )
    return found


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
    """The tries of one push so far, on this side; see `redisjobs/push.py`.

    Attributes:
        since: When it was tried first, by the monotonic clock.
        told: Whether its caller was told what came of it; if not, one is under way, or had no answer.
    """

    since: float
    told: bool = False


@dataclass(frozen=True, slots=True)
class NewJob:
    """A job on its way in.

    Attributes:
        job_id: Made by the producer.
        fields: The entry's names and values after `id`, flat.
        due: When it may run; None: now.
        unique: A key that one job at a time may hold; '' for none.
        unique_for_ms: How long the key is kept; None: until the job ends.
        expires_in_ms: A job not started by then is a dead letter; None: never.
        nonce: Tells pushes of one given id apart; '' if the id was made for this push alone.
        tries: What is known of its pushing; None: it was not tried, or is as if it had not been.
    """

    job_id: str
    fields: Sequence[str | bytes]
    priority: Priority = Priority.NORMAL
    due: Due | None = None
    unique: str = ""
    unique_for_ms: int | None = None
    expires_in_ms: int | None = None
    nonce: str = ""
    tries: Tries | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Pushed:
    """What became of one pushed job.

    Attributes:
        reply: OK: it is on the queue. REPEATED: it was pushed before by this very push. EXISTS: the queue has
            a job of this id by another push, or this call names the job twice. DUPLICATE: another job holds the
            key. REFUSED: it was one of these two when it was repeated before, and stays so.
        holder: The id of the job that holds the unique key.
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
    """

    key: str
    token: Any
    deliveries: int
    job_id: str
    fields: Mapping[bytes, bytes]
    queued_ms: int

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
        return self.queued_ms if self.queued_ms > _LONG_AGO else 0


@dataclass(frozen=True, slots=True)
class Ack:
    """Done: forget the job. `cancelled` jobs end so too, and are counted apart."""

    cancelled: bool = False


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
        fingerprint: Equal for failures of one kind; '' for what is none. See `redisjobs/fingerprint.py`.
    """

    reason: str
    error: str
    traceback: str = ""
    error_type: str = ""
    fingerprint: str = ""


Settlement = Ack | RetryLater | Release | DeadLetter
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
        replies: One for each settlement: OK, LEASE_LOST or CANCELLED; OVERSIZED or NO_IDS where it can't be done.
        leases: The jobs claimed.
        more: Whether another claim would find more, as well as the store can say; False if nothing was asked.
        ended: Jobs that were ended instead of claimed.
        due_in: Seconds until the next delayed job is due; None if there is none or nothing was asked.
        waits: For how many seconds a job has been waiting that only a worker with nothing else to run may claim;
            None if there is none.
        server_ms: The server's clock, to the microsecond; 0 if nothing was asked.
    """

    replies: Sequence[Reply] = ()
    leases: Sequence[Lease] = ()
    more: bool = False
    ended: Sequence[Ended] = ()
    due_in: float | None = None
    waits: float | None = None
    server_ms: float = 0


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
    """

    silent: Sequence[Silent] = ()
    fenced: Sequence[str] = ()
    jobs: int = 0
    more: bool = False
    released: bool = False
    others: int = 0
    server_ms: float = 0


@dataclass(frozen=True, slots=True)
class Notification:
    """A hint that something changed; the truth is always in a key.

    Attributes:
        kind: `due`, `cancel`, `released` or `schedules`; `subscribed` when the listening began: what came before
            was missed.
        value: A time in ms, a job id, a number, a number, nothing.
    """

    kind: str
    value: str


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


COUNTERS = ["pushed", "completed", "retried", "dead", "reclaimed", "released", "cancelled", "requeued", "deleted"]
"""What is counted since a queue began."""


@dataclass(frozen=True, slots=True)
class Counts:
    """How many jobs are in each state at one instant, and the counters since the queue began.

    Attributes:
        ready: By priority.
        totals: Each of `COUNTERS`, 0 if it never happened, and what else was counted by hand. What is no number,
            by hand, is left out: 0, or not there.
    """

    ready: Mapping[Priority, int]
    running: int
    delayed: int
    dead: int
    totals: Mapping[str, int]

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
        if ms > _LONG_AGO:
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
class List(Query[list[Row]]):
    """The first jobs of one state.

    Attributes:
        state: Which.
        limit: How many at most; up to 500.
    """

    state: State
    limit: int


@dataclass(frozen=True, slots=True)
class Filter:
    """Which jobs are meant; each that is given must hold.

    Attributes:
        name: Of the job; '': any.
        text: What its parameters, as they are stored, or its error have in them; '': anything.
        fingerprint: Of a dead letter's failure; '': any.
        reason: Of a dead letter; '': any.
        older_ms: For how long at least it has been on the queue, a dead letter been dead, in ms; None: any time.
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

    They come ready by priority and age, delayed by due time, dead letters newest first. A job that is in one place
    all the while comes once; a dead letter that comes after the first step does not.

    Attributes:
        state: Ready, delayed or dead.
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
class Measure(Query[Backlog]):
    """For how long jobs have been ready, and how many workers there are."""


class Change(Generic[Answer]):
    """What an operator does, in one atomic step, with an answer of this type; a frozen value."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Cancel(Change[Reply]):
    """Cancel a job: CANCELLED, CANCELLING, DEAD or NOT_FOUND."""

    job_id: str


@dataclass(frozen=True, slots=True)
class Requeue(Change[Reply]):
    """Make a dead letter ready again: OK, NOT_FOUND, OVERSIZED or NO_IDS.

    Attributes:
        job_id: Which.
        due: When it may run; None: now.
    """

    job_id: str
    due: Due | None = None


@dataclass(frozen=True, slots=True)
class Delete(Change[Reply]):
    """Throw a dead letter away: OK or NOT_FOUND."""

    job_id: str


@dataclass(frozen=True, slots=True)
class Several(Change[list[Reply]]):
    """Some changes, each an atomic step of its own, in one round trip; a reply for each.

    Others may come between. If there is no answer, some may be made and some not.
    """

    changes: Sequence[Cancel | Requeue | Delete]


@dataclass(frozen=True, slots=True)
class Tidied:
    """What a step of tidying came to.

    Attributes:
        restored: How many jobs were handed back that nobody would have been given any more, by somebody's hand.
        after: Where the next step goes on, for `Tidy`; '' if there is nothing more to look at.
    """

    restored: int = 0
    after: str = ""


@dataclass(frozen=True, slots=True)
class Tidy(Change[Tidied]):
    """Remove what dead workers left behind, and find jobs whose worker the store does not know; in bounded steps.

    Attributes:
        after: Where an earlier step left off; '' to begin. To begin is free where somebody did within a minute.
    """

    after: str = ""


class Driver(Protocol):
    """A producer's and an operator's side of the store. It reaches the store when it is first asked something.

    Then each method may raise `ServerTooOld`, which names the version found and the one needed.

    Attributes:
        place: Equal where two drivers are known to be of one queue.
    """

    @property
    def place(self) -> Hashable: ...  # noqa: D102

    async def push(self, jobs: Sequence[NewJob], *, repeated: bool) -> list[Pushed]:
        """Put jobs on the queue, each id once; at most 500 a call.

        Args:
            jobs: What to push, in order.
            repeated: Whether any of these pushes may have been made before: then their jobs that have ended since
                count as there too, for a minute; and one that is refused stays so, whatever comes late of it.

        Raises:
            QueueFull: The server is out of memory; nothing was written.
        """

    async def read(self, query: Query[T]) -> T:
        """Answer a query. Nothing is written.

        Raises:
            Unsupported: This driver does not know it.
        """

    async def change(self, change: Change[T]) -> T:
        """Make a change, in one atomic step.

        Raises:
            Unsupported: This driver does not know it.
        """

    def consumer(self, worker_id: str, *, lease: float, max_deliveries: int) -> "Consumer":
        """A worker's side of this store.

        Args:
            worker_id: New at each start of a worker.
            lease: Seconds without a heartbeat after which the worker counts as dead.
            max_deliveries: So often a job is delivered without an outcome, the last time with nothing beside
                it; then it is a dead letter.
        """

    async def listen(self, on_notification: Callable[[Notification], None]) -> None:
        """Call `on_notification` for each notification, until the connection ends; first with `subscribed`."""

    async def aclose(self) -> None:
        """Close every connection. What is asked after that opens others."""


class SyncDriver(Protocol):
    """The same for sync code and any number of threads; see `Driver`.

    Each call is over at `until`, by the monotonic clock: it raises `Unavailable` if there is no answer by then.
    """

    def push(self, jobs: Sequence[NewJob], *, repeated: bool, until: float = math.inf) -> list[Pushed]:
        """See `Driver.push`."""

    def read(self, query: Query[T], *, until: float = math.inf) -> T:
        """See `Driver.read`."""

    def change(self, change: Change[T], *, until: float = math.inf) -> T:
        """See `Driver.change`."""

    def close(self) -> None:
        """See `Driver.aclose`."""


@dataclass(frozen=True, slots=True)
class Beat:
    """One worker's heartbeat, to be sent with those of others.

    Attributes:
        consumer: The worker's side of the store; it beats as the worker of the moment.
        held: Tells what the worker holds; called only if somebody has asked to cancel one of its jobs.
        facts: What to tell of the worker: host, pid, ...
    """

    consumer: "Consumer"
    held: Callable[[], Sequence[Lease]]
    facts: Mapping[str, str]


Beaten = Sequence[Lease] | Fenced
"""The answer to a heartbeat: those of the held jobs that somebody has asked to cancel, maybe again and again; or
that the store took the worker for dead, and that it holds nothing any more."""


class Until:
    """Ends a `wait` before its time. It can be set once; for one event loop.

    Attributes:
        is_set: Whether the wait is to end.
    """

    __slots__ = ("_call", "is_set")

    def __init__(self) -> None:
        self.is_set = False
        self._call: Callable[[], object] | None = None

    def set(self) -> None:
        """End the wait."""
        self.is_set, call, self._call = True, self._call, None
        if call is not None:
            call()

    def when_set(self, call: Callable[[], object] | None) -> None:
        """Call this when it is set; None: nothing."""
        self._call = call


class Consumer(Protocol):
    """One worker's side of the store: its connections and its lease.

    Where a method says so it raises `Fenced`; nothing was written then. What a plain read brings all the same is
    for others: hand it back by `release`.

    Attributes:
        worker_id: Who the worker is.
        server: Consumers of equal ones may beat together.
        sync: What can be said for the worker from another thread.
        heard_at: When the store last sent anything, by the monotonic clock: a long answer is progress, too.
    """

    worker_id: str

    @property
    def server(self) -> Hashable: ...  # noqa: D102

    @property
    def sync(self) -> "SyncConsumer": ...  # noqa: D102

    @property
    def heard_at(self) -> float: ...  # noqa: D102

    async def open(self, worker_id: str = "") -> list[str]:
        """Reach the store and join it, which is the first beat; once more, under a new id, after `Fenced`.

        Returns:
            Warnings about how the server is set up, for a human.

        Raises:
            IdTaken: The id is, or was lately, another worker's.
            DriverError: The store's keys are of another release.
        """

    async def aclose(self) -> None:
        """Close every connection."""

    async def exchange(
        self, settlements: Settlements, count: int | None, *, turn: Turn | None = None, idle: bool = False
    ) -> Exchange:
        """Settle some jobs and claim up to `count` others, in one round trip.

        Sent again with the same turn (None: it never is), the settlements are answered as before, and not applied
        twice; the claim is one more. A `count` of 0 only promotes what is due; None claims and promotes nothing.
        `idle` says that, these settled, the worker runs nothing, and that nothing else is under way that could
        bring it jobs: then it may be given a job that is delivered for the last time, and nothing beside it.

        Raises:
            Fenced: All of it was refused.
        """

    async def wait(self, count: int, timeout: float, until: Until | None = None) -> list[Lease]:
        """Wait until jobs are there and lease them: up to `count` of each priority, so maybe more in all.

        It ends as soon as there are some, after `timeout` seconds, or soon after `until` is set, with whatever it
        leased; then nothing is on its way any more. A worker that was fenced is served as well: what is told here
        is not that it still is one.

        Raises:
            Unavailable: What was delivered meanwhile is for `recover` to find; so too if this call is cancelled.
        """

    async def recover(self, held: Sequence[Lease], older: float = 0) -> list[Lease]:
        """The jobs that the worker has in the store beyond `held`: their delivery was lost on the way.

        Also to a live worker a job may be delivered of which nobody hears: the bytes of a claim that was given up
        arrive late. So one looks now and then, while other calls are under way, for those that were delivered at
        least `older` seconds ago; nothing is found while a reply that began to arrive is not complete.

        Raises:
            Fenced: The worker holds nothing any more.
        """

    async def reclaim(
        self, silent: Sequence[Silent] = (), *, others: bool = False, thorough: bool = False
    ) -> Reclaimed:
        """Fence workers that are surely lost, and hand back what fenced ones hold, in bounded steps.

        Args:
            silent: Of those whom an earlier call has named, whom to fence. One that has beaten since is spared.
            others: Whether to count what others hold; that takes longer the more workers there are.
            thorough: Whether to look at every worker for beats that lie in the future: the clock was set back, or
                may have been before this worker came.

        Raises:
            Fenced: This worker is no longer one itself.
        """

    async def change(self, change: Change[T]) -> T:
        """As `Driver.change`, over a connection of the worker's own."""

    async def release(self, *, refund: bool, watch: bool) -> int:
        """Hand back all that this worker holds, and let the store forget it; how many jobs there were.

        Args:
            refund: The deliveries don't count; they do if the worker was fenced before.
            watch: A read may still be under way: what it fetches is taken from it later.
        """

    async def listen(self, on_notification: Callable[[Notification], None]) -> None:
        """Call `on_notification` for each notification, until the connection ends; first with `subscribed`."""


class SyncConsumer(Protocol):
    """What can be said for a worker by sync code, over a connection of its own; for one thread at a time."""

    def beat(self, *beats: Beat) -> Sequence[Beaten]:
        """Start the leases of workers anew, and so those of all they hold, in one round trip; an answer for each.

        Args:
            beats: One for each worker; their consumers have this one's `server`.
        """

    def release(self, *, refund: bool, watch: bool) -> int:
        """As `Consumer.release`, also for a worker that is known to be dead."""

    def close(self) -> None:
        """Close the connection."""
