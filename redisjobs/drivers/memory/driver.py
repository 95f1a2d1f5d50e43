"""The driver of `memory://`: the two sides of a queue whose state is a `Memory`, in this process."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import anyio
import anyio.lowlevel

from redisjobs.driver import (
    Counts,
    Ended,
    Exchange,
    Lease,
    NewJob,
    Notification,
    Pushed,
    Reclaimed,
    Reply,
    Row,
    Settlements,
    Silent,
    Turn,
)
from redisjobs.drivers.memory.state import Memory
from redisjobs.eventloop import threadsafe_caller
from redisjobs.job import State


class MemoryDriver:
    """`memory://`: a producer's and an operator's side; see `Driver`.

    Args:
        memory: The state, if it is shared with another driver.
        now_ms: What time it is; None for this machine's clock.
    """

    def __init__(self, memory: Memory | None = None, now_ms: Callable[[], int] | None = None) -> None:
        self.memory = memory or Memory(now_ms)

    async def connect(self) -> None:
        await anyio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        await anyio.lowlevel.checkpoint()

    async def push(self, jobs: Sequence[NewJob], *, repeated: bool) -> list[Pushed]:
        await anyio.lowlevel.checkpoint()
        return self.memory.push(jobs, repeated=repeated)

    async def cancel(self, job_id: str) -> Reply:
        await anyio.lowlevel.checkpoint()
        return self.memory.cancel(job_id)

    async def requeue(self, job_id: str) -> Reply:
        await anyio.lowlevel.checkpoint()
        return self.memory.requeue(job_id)

    async def delete(self, job_id: str) -> Reply:
        await anyio.lowlevel.checkpoint()
        return self.memory.delete(job_id)

    async def find(self, job_id: str) -> Row | None:
        await anyio.lowlevel.checkpoint()
        return self.memory.find(job_id)

    async def jobs(self, state: State, limit: int) -> list[Row]:
        await anyio.lowlevel.checkpoint()
        return self.memory.jobs(state, limit)

    async def counts(self) -> Counts:
        await anyio.lowlevel.checkpoint()
        return self.memory.counts()

    def consumer(self, worker_id: str, *, lease: float, max_deliveries: int) -> "MemoryConsumer":
        return MemoryConsumer(self.memory, worker_id, lease, max_deliveries)


class MemoryConsumer:
    """One worker's side of `memory://`; see `Consumer`."""

    def __init__(self, memory: Memory, worker_id: str, lease: float, max_deliveries: int) -> None:
        self.worker_id = worker_id
        self._memory = memory
        self._lease = lease
        self._max_deliveries = max_deliveries
        self.is_reading = False  # nothing is on its way here

    @property
    def heard_at(self) -> float:
        return time.monotonic()

    async def open(self, worker_id: str = "") -> list[str]:
        await anyio.lowlevel.checkpoint()
        self._memory.join(worker_id or self.worker_id, self._lease, self)
        self.worker_id = worker_id or self.worker_id
        return []

    async def aclose(self) -> None:
        await anyio.lowlevel.checkpoint()

    async def exchange(
        self, settlements: Settlements, count: int | None, *, turn: Turn | None = None, idle: bool = False
    ) -> Exchange:
        await anyio.lowlevel.checkpoint()
        replies = self._memory.settle(self.worker_id, turn, settlements)
        if count is None:
            return Exchange(replies)
        ended: list[Ended] = []
        due_in, waits, leases, more = self._memory.claim(
            self.worker_id, count, self._max_deliveries, ended, idle=idle
        )
        return Exchange(replies, leases, more, ended, due_in, waits, self._memory.now_ms())

    async def wait(self, count: int, timeout: float) -> list[Lease]:
        wake = threadsafe_caller()
        there = anyio.Event()

        def heard(notification: Notification) -> None:
            if notification.kind == "ready":
                wake(there.set)

        with self._listening(heard), anyio.move_on_after(timeout):
            while True:
                leases = self._memory.read(self.worker_id, count)
                if leases:
                    return leases
                await there.wait()
                there = anyio.Event()
        return []

    async def adopt(self, leases: Sequence[Lease]) -> None:
        pass  # they have their ids already

    async def recover(self, held: Sequence[Lease], older: float = 0) -> list[Lease]:
        await anyio.lowlevel.checkpoint()
        return self._memory.recover(self.worker_id, held, older)

    async def reclaim(
        self, silent: Sequence[Silent] = (), *, others: bool = False, thorough: bool = False
    ) -> Reclaimed:
        await anyio.lowlevel.checkpoint()
        return self._memory.reclaim(self.worker_id, silent, others=others)

    async def release(self, *, refund: bool, watch: bool) -> int:
        await anyio.lowlevel.checkpoint()
        return self._memory.release(self.worker_id, refund=refund, watch=watch)

    async def unblock(self) -> bool:
        await anyio.lowlevel.checkpoint()
        return False

    async def tidy(self) -> tuple[int, bool]:
        await anyio.lowlevel.checkpoint()
        return 0, False

    async def listen(self, heard: Callable[[Notification], None]) -> None:
        wake = threadsafe_caller()

        def hear(notification: Notification) -> None:
            if notification.kind != "ready":  # that one is for `wait` alone
                wake(lambda: heard(notification))

        with self._listening(hear):
            heard(Notification("subscribed", ""))
            await anyio.sleep_forever()

    @contextmanager
    def _listening(self, ear: Callable[[Notification], None]) -> Iterator[None]:
        self._memory.ears.append(ear)
        try:
            yield
        finally:
            self._memory.ears.remove(ear)

    def heartbeat(self) -> "MemoryHeartbeat":
        return MemoryHeartbeat(self._memory, lambda: self.worker_id)


class MemoryHeartbeat:
    """Beats in memory; see `Heartbeat`."""

    def __init__(self, memory: Memory, worker_id: Callable[[], str]) -> None:
        self._memory = memory
        self._worker_id = worker_id

    def beat(self, held: Callable[[], Sequence[Lease]], facts: Mapping[str, str]) -> Sequence[Lease]:
        return self._memory.cancelled(held()) if self._memory.beat(self._worker_id()) else ()

    def release(self) -> int:
        return self._memory.release(self._worker_id(), refund=False, watch=True)

    def close(self) -> None:
        pass
