"""The driver of `memory://`: a queue whose state is in this process, for producers, operators and workers."""

import math
import secrets
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TypeVar, cast

import anyio
import anyio.lowlevel

from redisjobs.base.eventloop import threadsafe_caller
from redisjobs.drivers.memory import (
    chunks,
    claims,
    health,
    limits,
    operator,
    pushes,
    relaying,
    schedules,
    standing,
    statistics,
    worker,
)
from redisjobs.drivers.memory.state import CHANGES, CONTROL, QUERIES, READY, Listener, Memory
from redisjobs.errors import Unavailable
from redisjobs.model.changes import Change
from redisjobs.model.driver import Beat, Beaten, Fenced, Notification, Renewed, Until, supported
from redisjobs.model.queries import Query
from redisjobs.model.transitions import Exchange, Lease, NewJob, Pushed, Reclaimed, Settlements, Silent, Turn

T = TypeVar("T")

# Importing them registers the functions that answer queries and changes.
_ = (chunks, health, operator, relaying, schedules, standing, statistics)


def _push(memory: Memory, jobs: Sequence[NewJob], repeated: bool) -> list[Pushed]:
    with memory.lock:
        return pushes.push(memory, jobs, repeated=repeated)


def _read(memory: Memory, query: Query[T]) -> T:
    answer: Callable[[Memory, Query[T]], T] = supported(QUERIES, query, "memory")
    with memory.lock:
        return answer(memory, query)


def _change(memory: Memory, change: Change[T]) -> T:
    make: Callable[[Memory, Change[T]], T] = supported(CHANGES, change, "memory")
    with memory.lock:
        return make(memory, change)


class SyncMemoryDriver:
    """`memory://` for sync code and any number of threads; see `SyncDriver`."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory

    def push(self, jobs: Sequence[NewJob], *, repeated: bool, until: float = math.inf) -> list[Pushed]:
        _check_time(until)
        return _push(self._memory, jobs, repeated)

    def read(self, query: Query[T], *, until: float = math.inf) -> T:
        _check_time(until)
        return _read(self._memory, query)

    def change(self, change: Change[T], *, until: float = math.inf) -> T:
        _check_time(until)
        return _change(self._memory, change)

    def close(self) -> None:
        pass  # nothing is open


def _check_time(until: float) -> None:
    """Raise Unavailable after the deadline. Before it, no call has to wait."""
    if time.monotonic() >= until:
        raise Unavailable("the deadline is over")


class MemoryDriver:
    """A producer's and an operator's side of `memory://`; see `Driver`.

    Args:
        memory: The state, to share it with another driver.
        now_ms: Returns the time; None for this machine's clock.

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
        return _push(self.memory, jobs, repeated)

    async def read(self, query: Query[T]) -> T:
        await anyio.lowlevel.checkpoint()
        return _read(self.memory, query)

    async def change(self, change: Change[T]) -> T:
        await anyio.lowlevel.checkpoint()
        return _change(self.memory, change)

    def consumer(self, worker_id: str, *, lease: float, max_deliveries: int) -> "MemoryConsumer":
        return MemoryConsumer(self.memory, worker_id, lease, max_deliveries)

    async def listen(self, on_notification: Callable[[Notification], None], process: str = "") -> None:
        await _listen(self.memory, process or CONTROL, on_notification)

    async def aclose(self) -> None:
        await anyio.lowlevel.checkpoint()


async def _listen(memory: Memory, channel: str, on_notification: Callable[[Notification], None]) -> None:
    wake = threadsafe_caller()
    with _listening(memory, channel, lambda notification: wake(lambda: on_notification(notification))):
        on_notification(Notification("subscribed", ""))
        await anyio.sleep_forever()


@contextmanager
def _listening(memory: Memory, channel: str, listener: Listener) -> Iterator[None]:
    with memory.lock:
        memory.channels.setdefault(channel, []).append(listener)
    try:
        yield
    finally:
        with memory.lock:
            memory.channels[channel].remove(listener)
            if not memory.channels[channel]:
                del memory.channels[channel]


class MemoryConsumer:
    """One worker's side of `memory://`; see `Consumer`."""

    def __init__(self, memory: Memory, worker_id: str, lease: float, max_deliveries: int) -> None:
        self.worker_id = worker_id
        self._memory = memory
        self._run = secrets.token_hex(8)
        self._lease = lease
        self._max_deliveries = max_deliveries
        self.server = "memory"
        self.sync = SyncMemoryConsumer(self)

    @property
    def noticed_at(self) -> float:
        return time.monotonic()

    async def open(self, worker_id: str = "") -> list[str]:
        await anyio.lowlevel.checkpoint()
        with self._memory.lock:
            worker.join(self._memory, worker_id or self.worker_id, self._lease, self._run)
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
        with self._memory.lock:
            settled = worker.settle(self._memory, self.worker_id, turn, settlements)
            if count is None:
                return replace(settled, turns=limits.has_turn(self._memory))
            claimed = claims.claim(self._memory, self.worker_id, count, self._max_deliveries, idle=idle)
        return replace(claimed, replies=settled.replies, added=settled.added)

    async def wait(self, count: int, timeout: float, until: Until | None = None) -> list[Lease]:
        wake, there, until = threadsafe_caller(), anyio.Event(), until or Until()
        until.when_set(lambda: there.set())
        listening = _listening(self._memory, READY, lambda _: wake(lambda: there.set()))
        with listening, anyio.move_on_after(timeout):
            while not until.is_set:
                with self._memory.lock:
                    leases = claims.read(self._memory, self.worker_id, count)
                if leases is not None:
                    return leases
                await there.wait()
                there = anyio.Event()
        return []

    async def recover(self, held: Sequence[Lease], older: float = 0) -> list[Lease]:
        await anyio.lowlevel.checkpoint()
        with self._memory.lock:
            return claims.recover(self._memory, self.worker_id, held, older)

    async def reclaim(
        self, silent: Sequence[Silent] = (), *, others: bool = False, thorough: bool = False
    ) -> Reclaimed:
        await anyio.lowlevel.checkpoint()
        with self._memory.lock:
            return worker.reclaim(self._memory, self.worker_id, silent, others=others)

    async def change(self, change: Change[T]) -> T:
        await anyio.lowlevel.checkpoint()
        return _change(self._memory, change)

    async def release(self, *, refund: bool, watch: bool) -> int:
        await anyio.lowlevel.checkpoint()
        with self._memory.lock:
            return worker.release(self._memory, self.worker_id, refund=refund, watch=watch)

    async def listen(self, on_notification: Callable[[Notification], None]) -> None:
        await _listen(self._memory, CONTROL, on_notification)

    def beat(self, held: Callable[[], Sequence[Lease]], facts: Mapping[str, str]) -> Beaten:
        """Beat under the worker's current id; any thread may call it."""
        try:
            with self._memory.lock:
                asked = worker.beat(self._memory, self.worker_id, facts)
        except Fenced as error:
            return error
        leases = held() if asked.cancels else ()  # not under the lock: it may wait for another thread
        with self._memory.lock:
            return Renewed(worker.cancelled(self._memory, leases), asked.wish)


class SyncMemoryConsumer:
    """One worker's side of `memory://` for sync code; see `SyncConsumer`."""

    def __init__(self, consumer: MemoryConsumer) -> None:
        self._consumer = consumer

    def beat(self, *beats: Beat) -> Sequence[Beaten]:
        return [cast("MemoryConsumer", each.consumer).beat(each.held, each.facts) for each in beats]

    def change(self, change: Change[T]) -> T:
        return _change(self._consumer._memory, change)

    def release(self, *, refund: bool, watch: bool) -> int:
        memory = self._consumer._memory
        with memory.lock:
            return worker.release(memory, self._consumer.worker_id, refund=refund, watch=watch)

    def close(self) -> None:
        pass
