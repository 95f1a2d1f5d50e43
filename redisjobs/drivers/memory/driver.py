"""The driver of `memory://`: both sides of a queue whose state is in this process."""

import math
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TypeVar, cast

import anyio
import anyio.lowlevel

from redisjobs.base.eventloop import threadsafe_caller
from redisjobs.drivers.memory import exchange, operator, producer, worker
from redisjobs.drivers.memory.state import Memory
from redisjobs.errors import Unavailable
from redisjobs.model.changes import Change
from redisjobs.model.driver import Beat, Beaten, Fenced, Notification, Until
from redisjobs.model.queries import Query
from redisjobs.model.transitions import Exchange, Lease, NewJob, Pushed, Reclaimed, Settlements, Silent, Turn

T = TypeVar("T")


class SyncMemoryDriver:
    """`memory://` for sync code and any number of threads; see `SyncDriver`."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory

    def push(self, jobs: Sequence[NewJob], *, repeated: bool, until: float = math.inf) -> list[Pushed]:
        _check_time(until)
        return producer.push(self._memory, jobs, repeated=repeated)

    def read(self, query: Query[T], *, until: float = math.inf) -> T:
        _check_time(until)
        return operator.read(self._memory, query)

    def change(self, change: Change[T], *, until: float = math.inf) -> T:
        _check_time(until)
        return operator.change(self._memory, change)

    def close(self) -> None:
        pass  # nothing is open


def _check_time(until: float) -> None:
    """What is in this process answers at once, and only a call that comes too late has no answer in time."""
    if time.monotonic() >= until:
        raise Unavailable("the deadline is over")


class MemoryDriver:
    """`memory://`: a producer's and an operator's side; see `Driver`.

    Args:
        memory: The state, if it is shared with another driver.
        now_ms: What time it is; None for this machine's clock.

    Attributes:
        memory: The state.
        sync: The same for sync code.
    """

    def __init__(self, memory: Memory | None = None, now_ms: Callable[[], int] | None = None) -> None:
        self.memory = memory or Memory(now_ms)
        self.sync = SyncMemoryDriver(self.memory)

    @property
    def place(self) -> Hashable:
        return self.memory

    @property
    def where(self) -> str:
        return "memory://"

    async def push(self, jobs: Sequence[NewJob], *, repeated: bool) -> list[Pushed]:
        await anyio.lowlevel.checkpoint()
        return producer.push(self.memory, jobs, repeated=repeated)

    async def read(self, query: Query[T]) -> T:
        await anyio.lowlevel.checkpoint()
        return operator.read(self.memory, query)

    async def change(self, change: Change[T]) -> T:
        await anyio.lowlevel.checkpoint()
        return operator.change(self.memory, change)

    def consumer(self, worker_id: str, *, lease: float, max_deliveries: int) -> "MemoryConsumer":
        return MemoryConsumer(self.memory, worker_id, lease, max_deliveries)

    async def listen(self, on_notification: Callable[[Notification], None], process: str = "") -> None:
        await _listen(self.memory, on_notification, process)

    async def aclose(self) -> None:
        await anyio.lowlevel.checkpoint()


async def _listen(memory: Memory, on_notification: Callable[[Notification], None], process: str = "") -> None:
    wake = threadsafe_caller()
    ears = memory.processes.setdefault(process, []) if process else memory.ears

    def hear(notification: Notification) -> None:
        if notification.kind != "ready":  # that one is for `wait` alone
            wake(lambda: on_notification(notification))

    try:
        with _listening(ears, hear):
            on_notification(Notification("subscribed", ""))
            await anyio.sleep_forever()
    finally:
        if process and not ears:
            memory.processes.pop(process, None)


@contextmanager
def _listening(ears: list[Callable[[Notification], None]], ear: Callable[[Notification], None]) -> Iterator[None]:
    ears.append(ear)
    try:
        yield
    finally:
        ears.remove(ear)


class MemoryConsumer:
    """One worker's side of `memory://`; see `Consumer`."""

    def __init__(self, memory: Memory, worker_id: str, lease: float, max_deliveries: int) -> None:
        self.worker_id = worker_id
        self._memory = memory
        self._lease = lease
        self._max_deliveries = max_deliveries
        self.server = "memory"
        self.sync = SyncMemoryConsumer(self)

    @property
    def heard_at(self) -> float:
        return time.monotonic()

    async def open(self, worker_id: str = "") -> list[str]:
        await anyio.lowlevel.checkpoint()
        worker.join(self._memory, worker_id or self.worker_id, self._lease, self)
        self.worker_id = worker_id or self.worker_id
        return []

    async def aclose(self) -> None:
        await anyio.lowlevel.checkpoint()

    async def exchange(
        self,
        settlements: Settlements,
        count: int | None,
        *,
        turn: Turn | None = None,
        idle: bool = False,
        waiting: Sequence[Lease] = (),
    ) -> Exchange:
        await anyio.lowlevel.checkpoint()
        settled = exchange.settle(self._memory, self.worker_id, turn, settlements)
        if count is None:
            return replace(settled, turns=exchange.has_turn(self._memory))
        claimed = exchange.claim(self._memory, self.worker_id, count, self._max_deliveries, idle=idle)
        return replace(claimed, replies=settled.replies, added=settled.added)

    async def wait(self, count: int, timeout: float, until: Until | None = None) -> list[Lease]:
        wake = threadsafe_caller()
        there = anyio.Event()

        def heard(notification: Notification) -> None:
            if notification.kind == "ready":
                wake(lambda: there.set())

        until = until or Until()
        until.when_set(lambda: there.set())
        with _listening(self._memory.ears, heard), anyio.move_on_after(timeout):
            while not until.is_set:
                leases = exchange.read(self._memory, self.worker_id, count)
                if leases is not None:
                    return leases
                await there.wait()
                there = anyio.Event()
        return []

    async def recover(self, held: Sequence[Lease], older: float = 0) -> list[Lease]:
        await anyio.lowlevel.checkpoint()
        return exchange.recover(self._memory, self.worker_id, held, older)

    async def reclaim(
        self, silent: Sequence[Silent] = (), *, others: bool = False, thorough: bool = False
    ) -> Reclaimed:
        await anyio.lowlevel.checkpoint()
        return worker.reclaim(self._memory, self.worker_id, silent, others=others)

    async def change(self, change: Change[T]) -> T:
        await anyio.lowlevel.checkpoint()
        return operator.change(self._memory, change)

    async def release(self, *, refund: bool, watch: bool) -> int:
        await anyio.lowlevel.checkpoint()
        return worker.release(self._memory, self.worker_id, refund=refund, watch=watch)

    async def listen(self, on_notification: Callable[[Notification], None]) -> None:
        await _listen(self._memory, on_notification)

    def beat(self, held: Callable[[], Sequence[Lease]], facts: Mapping[str, str]) -> Beaten:
        """Beat as the worker of the moment; for any thread."""
        try:
            asked = worker.beat(self._memory, self.worker_id, facts)
            return worker.cancelled(self._memory, held()) if asked else ()
        except Fenced as error:
            return error


class SyncMemoryConsumer:
    """The same for sync code; see `SyncConsumer`."""

    def __init__(self, consumer: MemoryConsumer) -> None:
        self._consumer = consumer

    def beat(self, *beats: Beat) -> Sequence[Beaten]:
        return [cast("MemoryConsumer", each.consumer).beat(each.held, each.facts) for each in beats]

    def release(self, *, refund: bool, watch: bool) -> int:
        return worker.release(self._consumer._memory, self._consumer.worker_id, refund=refund, watch=watch)

    def close(self) -> None:
        pass
