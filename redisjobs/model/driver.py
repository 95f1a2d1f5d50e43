"""The seam between a queue and its store: two small protocols, which a driver implements.

A `Driver` is a producer's and an operator's side; a `Consumer`, which a driver opens for one worker, is the
worker's side and owns the leases. What crosses them is in `transitions` (a job's way) and `queries` (an operator's
questions and changes).

Every method may raise `DriverError`; `Unavailable`, its subclass, where trying again may help.
"""

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from redisjobs.errors import DriverError
from redisjobs.model.changes import Change
from redisjobs.model.queries import Query
from redisjobs.model.transitions import Exchange, Lease, NewJob, Pushed, Reclaimed, Settlements, Silent, Turn

T = TypeVar("T")


class Fenced(DriverError):
    """The store counts this worker as dead: other workers get its jobs, and its calls are refused.

    It sent no heartbeat for a lease, or the store lost its record. It can go on under a new id.
    """

    def __init__(self, worker_id: str) -> None:
        super().__init__(
            f"the store counts worker {worker_id} as dead: no heartbeat for a lease, or its record is lost"
        )
        self.worker_id = worker_id


class IdTaken(DriverError):
    """A worker can't begin under this id; nothing was written."""

    def __init__(self, worker_id: str) -> None:
        super().__init__(
            f"the worker id {worker_id!r} is another worker's, or was a moment ago: give each start a new id; "
            "nothing was claimed"
        )


class OtherVersion(DriverError):
    """The queue's keys are of another release, and this one can't read them; nothing was written."""


class PushedInPart(DriverError):
    """A push failed after some of its jobs were answered; `cause` is about the others.

    `answers` has one for each job, in their order; None: it was not answered.
    """

    def __init__(self, cause: DriverError, answers: Sequence[Pushed | None]) -> None:
        super().__init__(str(cause))
        self.cause = cause
        self.answers = answers


class Unsupported(DriverError):
    """A driver does not know a query or a change; nothing was sent."""


def supported(by: Mapping[type[Any], T], value: object, driver: str) -> T:
    """Return what a driver has for a query or a change, of all that it has by class.

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
class Notification:
    """A hint that something changed; the truth is always in a key. It may be lost.

    The kinds are `due`, `cancel`, `released`, `schedules`, `paused` and `resumed`. `joined`: a worker has come.
    `left`: the one that promotes has gone. `withdrawn`: the last scheduler of a release has ended. `changed`: to a
    process that waits for a job. `subscribed`: the listening began, so earlier ones were missed, or many jobs
    ended at once: ask about all jobs.
    """

    kind: str
    # A time in ms (`due`), a job id (`cancel`, `changed`), a number (`released`, `schedules`), or nothing.
    value: str


class Driver(Protocol):
    """A producer's and an operator's side of the store. It connects with the first call.

    Each method may then raise `ServerTooOld`, which names the version found and the one needed.

    Attributes:
        place: Equal for two drivers that are known to be of one queue.
        where: The store as people name it, without a password, as `redis://host:6379/0`.
    """

    @property
    def place(self) -> Hashable: ...  # noqa: D102

    @property
    def where(self) -> str: ...  # noqa: D102

    async def push(self, jobs: Sequence[NewJob], *, repeated: bool) -> list[Pushed]:
        """Put jobs on the queue, each id once; at most 500 a call.

        If any of these pushes may have been sent before, it is `repeated`. Then a job that has ended since counts
        as there too, for a minute; and one that is refused stays refused, even if an earlier try arrives late.
        Before a job is sent for the first time, its `sent_ms` is set to the store's clock. So a repetition is
        recognized, or UNKNOWN, even if that clock was set in between.

        Raises:
            QueueFull: The server is out of memory; nothing was written.
            PushedInPart: It was refused after some of the jobs were answered.
        """

    async def read(self, query: Query[T]) -> T:
        """Answer a query, or raise `Unsupported`. Nothing is written."""

    async def change(self, change: Change[T]) -> T:
        """Make a change, in one atomic step, or raise `Unsupported`."""

    def consumer(self, worker_id: str, *, lease: float, max_deliveries: int) -> "Consumer":
        """Return a worker's side of this store.

        Args:
            worker_id: An id that is new at each start of a worker.
            lease: Seconds without a heartbeat after which the worker counts as dead.
            max_deliveries: Deliveries without a result before a job becomes a dead letter; in the last one its
                worker runs nothing else.
        """

    async def listen(self, on_notification: Callable[[Notification], None], process: str = "") -> None:
        """Call `on_notification` for each notification, until the connection ends; first with `subscribed`.

        A process that waits for jobs, by `GetStatus`, is notified of these, and of nothing else.
        """

    async def aclose(self) -> None:
        """Close every connection. A later call opens new ones."""


class SyncDriver(Protocol):
    """A `Driver` for sync code and any number of threads.

    Each call ends by `until`, by the monotonic clock: it raises `Unavailable` if there is no answer by then.
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
    """One worker's heartbeat, to be sent with those of others."""

    consumer: "Consumer"  # it beats under the id that the worker has now
    held: Callable[[], Sequence[Lease]]  # called only if a cancel of one of its jobs was asked for
    facts: Mapping[str, str]  # what to store of the worker: host, pid, ...


Beaten = Sequence[Lease] | Fenced
"""The answer to a heartbeat: the held jobs that are to be cancelled, in each answer until they end; or that the
store counts the worker as dead, and that it holds nothing any more."""


class Until:
    """Ends a `wait` early. It can be set once; for one event loop."""

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
        """Call this when it is set; None: call nothing."""
        self._call = call


class Consumer(Protocol):
    """One worker's side of the store: its connections and its lease.

    Where a method raises `Fenced`, nothing was written. A plain read may still bring jobs then: hand them back by
    `release`.

    Attributes:
        worker_id: The worker's id.
        server: Consumers with equal servers may beat together.
        sync: The calls that another thread can make for the worker.
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
        """Connect and join the store, which is the first beat; after `Fenced`, again under a new id.

        Returns:
            Warnings about the server's settings, for an operator.

        Raises:
            IdTaken: The id is, or was lately, another worker's.
            OtherVersion: The store's keys are of another release.
        """

    async def aclose(self) -> None:
        """Close every connection."""

    async def exchange(
        self,
        settlements: Settlements,
        count: int | None,
        *,
        turn: Turn | None = None,
        idle: bool = False,
        waiting: Sequence[Lease] = (),
    ) -> Exchange:
        """Settle some jobs and claim up to `count` others, in one round trip.

        It may bring more, up to `count` of each priority, if jobs of a higher priority came meanwhile. The worker
        starts them in their order, as far as the answer's `up_to` allows. It names those that have to wait as
        `waiting` in the next call, which brings what goes before them, and fewer of the rest.

        If it is sent again with the same turn (None: it never is), the settlements are answered as before and not
        applied twice; the claim is a new one. A `count` of 0 only promotes what is due; None claims and promotes
        nothing. `idle` says that the worker then runs nothing, and that no other call may bring it jobs: it may
        get a job that is delivered for the last time, and nothing beside it.

        While the queue is paused nothing is claimed. Held jobs, and jobs whose name is paused, are passed over and
        keep their place.

        Raises:
            Fenced: All of it was refused.
        """

    async def wait(self, count: int, timeout: float, until: Until | None = None) -> list[Lease]:
        """Wait until jobs are there and lease them: up to `count` of each priority, so maybe more in all.

        It ends as soon as there are some, after `timeout` seconds, or soon after `until` is set, with the jobs it
        leased; then nothing is on its way any more. A fenced worker gets jobs as well, so an answer does not mean
        that it is alive. What may not start is left out, as in `exchange`.

        Raises:
            Fenced: The store has lost the worker's record.
            Unavailable: `recover` finds what was delivered meanwhile; also if this call is cancelled.
        """

    async def recover(self, held: Sequence[Lease], older: float = 0) -> list[Lease]:
        """Return the jobs that the worker has in the store beyond `held`: their delivery was lost on the way.

        A live worker may miss a delivery too: the bytes of an abandoned claim arrive late. So it looks now and
        then, while other calls are on their way, for jobs that were delivered at least `older` seconds ago.
        Nothing is found while a reply has begun to arrive and is not complete.

        Raises:
            Fenced: The worker holds nothing any more.
        """

    async def reclaim(
        self, silent: Sequence[Silent] = (), *, others: bool = False, thorough: bool = False
    ) -> Reclaimed:
        """Fence workers that are surely lost, and hand back what fenced ones hold, in bounded steps.

        Args:
            silent: Those that an earlier call named, and that are to be fenced. One that has beaten since is not.
            others: Whether to count what other workers hold; it takes longer the more workers there are.
            thorough: Whether to look at every worker for beats in the future: the clock may have been set back.

        Raises:
            Fenced: This worker itself is fenced.
        """

    async def change(self, change: Change[T]) -> T:
        """Make a change, as `Driver.change`, over a connection of the worker's own."""

    async def release(self, *, refund: bool, watch: bool) -> int:
        """Hand back all that this worker holds, and remove it from the store; return how many jobs there were.

        Args:
            refund: Whether the deliveries don't count; they do if the worker was fenced before.
            watch: Whether a read may still be on its way: its jobs are taken from it later.
        """

    async def listen(self, on_notification: Callable[[Notification], None]) -> None:
        """Call `on_notification` for each notification, until the connection ends; first with `subscribed`."""


class SyncConsumer(Protocol):
    """The calls of a worker for sync code, over a connection of their own; for one thread at a time."""

    def beat(self, *beats: Beat) -> Sequence[Beaten]:
        """Renew the leases of workers, and so of all their jobs, in one round trip; return an answer for each.

        Their consumers have this one's `server`.
        """

    def release(self, *, refund: bool, watch: bool) -> int:
        """Hand back, as `Consumer.release`, also for a worker that is known to be dead."""

    def close(self) -> None:
        """Close the connection."""
