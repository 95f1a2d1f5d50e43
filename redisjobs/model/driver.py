"""The seam between the queue and its store: two small protocols, which a driver implements.

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
            "start; nothing was claimed"
        )


class OtherVersion(DriverError):
    """The queue is stored in a way that this release does not know; nothing was written."""


class PushedInPart(DriverError):
    """A push failed after some of its jobs were answered.

    Attributes:
        cause: Why: of the other jobs it says what it would say of all.
        answers: One for each job, in their order; None: it was not answered.
    """

    def __init__(self, cause: DriverError, answers: Sequence[Pushed | None]) -> None:
        super().__init__(str(cause))
        self.cause = cause
        self.answers = answers


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
class Notification:
    """A hint that something changed; the truth is always in a key.

    Attributes:
        kind: `due`, `cancel`, `released`, `schedules`, `paused` or `resumed`; `joined` when a worker has come,
            `left` when the one that promotes has gone, both of which may go untold; `withdrawn` when the last
            scheduler of a release has ended; to a process that waits `changed`; `subscribed` when the listening
            began, as what came before was missed, or when many jobs ended at once: ask about all of them.
        value: A time in ms, a job id, a number, a number; nothing; a job id.
    """

    kind: str
    value: str


class Driver(Protocol):
    """A producer's and an operator's side of the store. It reaches the store when it is first asked something.

    Then each method may raise `ServerTooOld`, which names the version found and the one needed.

    Attributes:
        place: Equal where two drivers are known to be of one queue.
        where: The store as people name it, without a password, as `redis://host:6379/0`.
    """

    @property
    def place(self) -> Hashable: ...  # noqa: D102

    @property
    def where(self) -> str: ...  # noqa: D102

    async def push(self, jobs: Sequence[NewJob], *, repeated: bool) -> list[Pushed]:
        """Put jobs on the queue, each id once; at most 500 a call.

        Args:
            jobs: What to push, in order.
            repeated: Whether any of these pushes may have been made before: then their jobs that have ended since
                count as there too, for a minute; and one that is refused stays so, whatever comes late of it.
                Before a job is sent for the first time, its `sent_ms` is set to the store's clock. So a repetition
                is known, or UNKNOWN, also where that clock was set in between.

        Raises:
            QueueFull: The server is out of memory; nothing was written.
            PushedInPart: It was refused, but for some of the jobs, which were answered before.
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

    async def listen(self, on_notification: Callable[[Notification], None], process: str = "") -> None:
        """Call `on_notification` for each notification, until the connection ends; first with `subscribed`.

        Args:
            on_notification: What to call.
            process: To hear of what this one waits for, by `GetStatus`, and of nothing else.
        """

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
        self,
        settlements: Settlements,
        count: int | None,
        *,
        turn: Turn | None = None,
        idle: bool = False,
        waiting: Sequence[Lease] = (),
    ) -> Exchange:
        """Settle some jobs and claim up to `count` others, in one round trip.

        It may bring more, up to `count` of each priority, where jobs of a higher one came that it did not know of.
        The worker starts them in their order, as far as the answer's `up_to` lets it. It names those that have to
        wait as `waiting` in the next call, which brings what goes before them, and as many fewer of the rest.

        Sent again with the same turn (None: it never is), the settlements are answered as before, and not applied
        twice; the claim is one more. A `count` of 0 only promotes what is due; None claims and promotes nothing.
        `idle` says that, these settled, the worker runs nothing, and that nothing else is under way that could
        bring it jobs: then it may be given a job that is delivered for the last time, and nothing beside it.

        While the queue is paused nothing is claimed. Jobs whose name is paused, and those that are held, are
        passed over, and keep their place.

        Raises:
            Fenced: All of it was refused.
        """

    async def wait(self, count: int, timeout: float, until: Until | None = None) -> list[Lease]:
        """Wait until jobs are there and lease them: up to `count` of each priority, so maybe more in all.

        It ends as soon as there are some, after `timeout` seconds, or soon after `until` is set, with whatever it
        leased; then nothing is on its way any more. A worker that was fenced is served as well: what is told here
        is not that it still is one. What may not start is left out, as by `exchange`.

        Raises:
            Fenced: The store has lost the worker's record.
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
