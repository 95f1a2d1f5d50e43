"""The protocols between a queue and its store, which a driver implements.

A `Driver` serves producers and operators. A `Consumer`, which a driver makes for one worker, serves this worker
and owns its leases. The values that go in and out are in `transitions` (pushes, claims, settlements), `queries`
and `changes` (an operator's calls).

Every method may raise `DriverError`, and its subclass `Unavailable` if a new try may help.
"""

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from redisjobs.errors import DriverError, Unavailable
from redisjobs.model.changes import Change, Wish
from redisjobs.model.queries import Query
from redisjobs.model.transitions import Exchange, Lease, NewJob, Pushed, Reclaimed, Settlements, Silent, Turn

T = TypeVar("T")


class Fenced(DriverError):
    """The store counts this worker as dead: it gives its jobs to other workers, and refuses its calls.

    The worker sent no heartbeat for the length of its lease, or the store lost its record. It can go on under a
    new id.
    """

    def __init__(self, worker_id: str) -> None:
        super().__init__(
            f"the store counts worker {worker_id} as dead: no heartbeat for a lease, or its record is lost"
        )
        self.worker_id = worker_id


class NoAnswer(Unavailable):
    """The connection to the store was lost, or no answer came in time."""


class Unwritable(DriverError):
    """The store has refused an exchange as a whole, and would again: it can't write one of the settlements.

    Nothing was written, or what was is found by the next settlement of the same job.
    """


class IdTaken(DriverError):
    """A worker can't begin under this id. Nothing was written."""

    def __init__(self, worker_id: str) -> None:
        super().__init__(
            f"the worker id {worker_id!r} is another worker's, or was a moment ago: give each start a new id; "
            "nothing was claimed"
        )


class OtherVersion(DriverError):
    """Another release wrote the queue's keys, and this one can't read them. Nothing was written."""


class PushedInPart(DriverError):
    """A push failed after the store had answered some of its jobs; `cause` is the error of the others.

    `answers` has the answer to each job, in push order; None: the job was not answered.
    """

    def __init__(self, cause: DriverError, answers: Sequence[Pushed | None]) -> None:
        super().__init__(str(cause))
        self.cause = cause
        self.answers = answers


class Unsupported(DriverError):
    """The driver does not support a query or a change. Nothing was sent."""


def supported(by: Mapping[type[Any], T], value: object, driver: str) -> T:
    """Return a driver's implementation of a query or a change, from a table of all of them by class.

    Raises:
        Unsupported: The table has no implementation of it.
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
    """A hint that something has changed. It may be lost, so the keys in the store are what counts.

    The kinds are `due`, `cancel`, `released`, `schedules`, `paused` and `resumed`. `joined`: a worker has started.
    `wish`: an operator asked a worker to do something, and its next beat says what.
    `left`: the worker that promotes delayed jobs has left. `withdrawn`: the last scheduler of a release has ended.
    `changed`: a job changed for which this process waits. `subscribed`: ask about all jobs, because notifications
    before it are lost, or because many jobs ended at once.
    """

    kind: str
    # A time in ms (`due`), a job id (`cancel`, `changed`), a worker id (`wish`), a number (`released`,
    # `schedules`), or nothing.
    value: str


class Driver(Protocol):
    """The calls of producers and operators. A driver connects with its first call.

    Each method may then raise `ServerTooOld`, which names the version found and the version needed.

    Attributes:
        place: Equal for two drivers of the same queue, as far as that is known.
        where: The store for messages, without a password: `redis://host:6379/0`.
    """

    @property
    def place(self) -> Hashable: ...  # noqa: D102

    @property
    def where(self) -> str: ...  # noqa: D102

    async def push(self, jobs: Sequence[NewJob], *, repeated: bool) -> list[Pushed]:
        """Put up to 500 jobs on the queue; a job id that is there already is not added again.

        Set `repeated` if any of the jobs may have been sent before. For a minute, a job that has ended meanwhile
        then counts as still there. A job that is refused stays refused, even if an earlier try arrives late.
        Before the driver sends a job for the first time, it sets `sent_ms` to the store's clock. So it recognizes
        a repetition, or answers UNKNOWN, even if that clock was set in between.

        Raises:
            QueueFull: The server is out of memory. Nothing was written.
            PushedInPart: The push failed after some of its jobs were answered.
        """

    async def read(self, query: Query[T]) -> T:
        """Answer a query, or raise `Unsupported`. Nothing is written."""

    async def change(self, change: Change[T]) -> T:
        """Make a change, in one atomic step, or raise `Unsupported`."""

    def consumer(self, worker_id: str, *, lease: float, max_deliveries: int) -> "Consumer":
        """Return the consumer for a worker of this store.

        Args:
            worker_id: An id that is new at each start of a worker.
            lease: Seconds without a heartbeat after which the worker counts as dead.
            max_deliveries: Deliveries without a result before a job becomes a dead letter. During the last one,
                the worker runs no other job.
        """

    async def listen(self, on_notification: Callable[[Notification], None], process: str = "") -> None:
        """Call `on_notification` for each notification until the connection ends; the first one is `subscribed`.

        With `process`, it gets only notifications about the jobs that this process registered by `GetStatus`.
        """

    async def aclose(self) -> None:
        """Close every connection. A later call opens new ones."""


class SyncDriver(Protocol):
    """A `Driver` for sync code and any number of threads.

    Each call ends at `until`, in monotonic seconds: if there is no answer by then, it raises `Unavailable`.
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
    """The heartbeat of one worker; several are sent together."""

    consumer: "Consumer"  # has the worker's present id
    held: Callable[[], Sequence[Lease]]  # returns the worker's jobs; called only if one of them was cancelled
    facts: Mapping[str, str]  # facts to store about the worker: host, pid, ...


@dataclass(frozen=True, slots=True)
class Renewed:
    """The answer to the heartbeat of a live worker."""

    cancelled: Sequence[Lease] = ()  # the worker's jobs that have been cancelled, until they end
    wish: Wish | None = None  # what an operator asked last of the worker under this id; None: nothing


Beaten = Renewed | Fenced
"""The answer to a heartbeat. `Fenced`: the store counts the worker as dead, and it holds no jobs any more."""


class Until:
    """A switch that ends a `wait` early. It is set once, in one event loop."""

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
        """Call this function when the switch is set; None: call nothing."""
        self._call = call


class Consumer(Protocol):
    """The calls of one worker, with its connections and its lease.

    If a method raises `Fenced`, nothing was written. A `wait` may still return jobs then: give them back by
    `release`.

    Attributes:
        worker_id: The worker's id.
        server: Consumers with equal servers may send their beats together.
        sync: The calls that another thread can make for the worker.
        noticed_at: When the last bytes came from the store, in monotonic seconds; a part of an answer counts, too.
    """

    worker_id: str

    @property
    def server(self) -> Hashable: ...  # noqa: D102

    @property
    def sync(self) -> "SyncConsumer": ...  # noqa: D102

    @property
    def noticed_at(self) -> float: ...  # noqa: D102

    async def open(self, worker_id: str = "") -> list[str]:
        """Connect and register the worker, which is its first beat. After `Fenced`, call it with a new id.

        Returns:
            Warnings about the server's settings, for an operator.

        Raises:
            IdTaken: Another worker has, or lately had, this id.
            OtherVersion: Another release wrote the store's keys.
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

        It may return more, up to `count` of each priority, if jobs of a higher priority came meanwhile. The worker
        starts the jobs in their order, as far as the answer's `up_to` allows. It passes the jobs that can't start
        yet as `waiting` in the next call, which returns the jobs that go before them, and fewer others.

        A call may be repeated with the same turn (with None it can't). Then the settlements get the same answers,
        and are not applied twice; the claim is a new one. A `count` of 0 only promotes due jobs; None neither
        claims nor promotes. `idle` means that the worker runs no job after this call, and that no other call can
        give it jobs. It may then get a job in its last delivery, and no other job with it.

        While the queue is paused, nothing is claimed. Held jobs, and jobs whose name is paused, are skipped and
        keep their places.

        Raises:
            Fenced: The whole call was refused.
        """

    async def wait(self, count: int, timeout: float, until: Until | None = None) -> list[Lease]:
        """Wait for jobs and lease them: up to `count` of each priority, so maybe more in all.

        It returns the leased jobs as soon as there are some, after `timeout` seconds, or soon after `until` is
        set. Then this call can lease no more jobs. A fenced worker can get jobs too, so an answer does not mean
        that its lease runs. Jobs that may not start are skipped, as in `exchange`.

        Raises:
            Fenced: The store has lost the worker's record.
            Unavailable: The store did not answer. If it delivered jobs meanwhile, `recover` finds them, as it does
                after this call was cancelled.
        """

    async def recover(self, held: Sequence[Lease], older: float = 0) -> list[Lease]:
        """Return the worker's jobs in the store that are not in `held`, because their delivery got lost.

        A live worker may lose a delivery too, for example if an abandoned claim reaches the store late. So it
        calls this now and then, while other calls wait for answers, for jobs delivered at least `older` seconds
        ago. While the bytes of a reply are arriving, it returns nothing.

        Raises:
            Fenced: The worker holds no jobs any more.
        """

    async def reclaim(
        self, silent: Sequence[Silent] = (), *, others: bool = False, thorough: bool = False
    ) -> Reclaimed:
        """Fence lost workers, and make the jobs of fenced workers ready again, in bounded steps.

        Args:
            silent: The workers to fence, as an earlier call returned them. One that has sent a beat since is not
                fenced.
            others: Whether to count the jobs of other workers. It takes longer the more workers there are.
            thorough: Whether to check each worker for a lease that ends too far in the future, because the
                server's clock was set back.

        Raises:
            Fenced: This worker itself is fenced.
        """

    async def change(self, change: Change[T]) -> T:
        """Make a change, like `Driver.change`, over the worker's connection."""

    async def release(self, *, refund: bool, watch: bool) -> int:
        """Give back all jobs of this worker, and remove it from the store; return the number of jobs.

        Args:
            refund: Whether the deliveries don't count. They always count if the worker was fenced before.
            watch: Whether a `wait` may still deliver jobs to it. Other workers then take those later.
        """

    async def listen(self, on_notification: Callable[[Notification], None]) -> None:
        """Call `on_notification` for each notification until the connection ends, first for `subscribed`."""


class SyncConsumer(Protocol):
    """The calls of a worker for sync code, over a separate connection; for one thread at a time."""

    def beat(self, *beats: Beat) -> Sequence[Beaten]:
        """Renew the leases of workers in one round trip, and return an answer for each.

        All their consumers have the same `server` as this one.
        """

    def change(self, change: Change[T]) -> T:
        """Make a change, like `Driver.change`, over this connection."""

    def release(self, *, refund: bool, watch: bool) -> int:
        """Give back all jobs, like `Consumer.release`, even for a worker that counts as dead."""

    def close(self) -> None:
        """Close the connection."""
