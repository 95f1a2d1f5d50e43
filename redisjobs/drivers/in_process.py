"""The driver of `memory://`: the two sides of a queue whose state is a `Memory`, in this process."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import anyio
import anyio.lowlevel

from redisjobs.driver import ClockSet, Counts, Exchange, Lease, NewJob, Nudge, Pushed, Row, Settlement, Word
from redisjobs.drivers.memory import Memory
from redisjobs.job import State
from redisjobs.waker import waker


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

    async def cancel(self, job_id: str) -> Word:
        await anyio.lowlevel.checkpoint()
        return self.memory.cancel(job_id)

    async def requeue(self, job_id: str) -> Word:
        await anyio.lowlevel.checkpoint()
        return self.memory.requeue(job_id)

    async def delete(self, job_id: str) -> Word:
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
        self.ended: list[tuple[str, Word]] = []
        self.elsewhere = self.waiting = 0
        self._memory = memory
        self._lease = lease
        self._max_deliveries = max_deliveries

    async def open(self) -> list[str]:
        await anyio.lowlevel.checkpoint()
        return []

    async def aclose(self) -> None:
        await anyio.lowlevel.checkpoint()

    async def exchange(
        self, settlements: Sequence[Settlement], count: int | None, *, idle: bool = False
    ) -> Exchange:
        await anyio.lowlevel.checkpoint()
        words = self._memory.settle(self.worker_id, settlements)
        if count is None:
            return Exchange(words)
        due_in, waits, leases = self._memory.claim(
            self.worker_id, count, self._max_deliveries, self.ended, idle=idle
        )
        return Exchange(words, leases, due_in, waits, self._memory.now_ms())

    async def wait(self, count: int, timeout: float) -> list[Lease]:
        wake = waker()
        there = anyio.Event()

        def heard(nudge: Nudge) -> None:
            if nudge.kind == "ready":
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

    async def reclaim(self, count: int, latest_ms: int | None = None) -> list[Lease]:
        await anyio.lowlevel.checkpoint()
        if latest_ms is not None and self._memory.now_ms() > latest_ms:
            raise ClockSet("the clock is later than it can be")
        leases, self.waiting = self._memory.reclaim(
            self.worker_id, count, self._lease, self._max_deliveries, self.ended
        )
        self.elsewhere = self._memory.held_by_others(self.worker_id)
        return leases

    async def release_all(self, held: Sequence[Lease]) -> int:
        await anyio.lowlevel.checkpoint()
        return self._memory.release_all(self.worker_id, held)

    async def unblock(self) -> bool:
        await anyio.lowlevel.checkpoint()
        return False

    async def leave(self) -> None:
        await self.release_all([])

    async def tidy(self) -> None:
        await anyio.lowlevel.checkpoint()

    async def listen(self, heard: Callable[[Nudge], None]) -> None:
        wake = waker()

        def hear(nudge: Nudge) -> None:
            if nudge.kind != "ready":  # that one is for `wait` alone
                wake(lambda: heard(nudge))

        with self._listening(hear):
            heard(Nudge("subscribed", ""))
            await anyio.sleep_forever()

    @contextmanager
    def _listening(self, ear: Callable[[Nudge], None]) -> Iterator[None]:
        self._memory.ears.append(ear)
        try:
            yield
        finally:
            self._memory.ears.remove(ear)

    def heartbeat(self) -> "MemoryHeartbeat":
        return MemoryHeartbeat(self._memory, self.worker_id)


class MemoryHeartbeat:
    """Renews leases in memory; see `Heartbeat`."""

    def __init__(self, memory: Memory, worker_id: str) -> None:
        self._memory = memory
        self._worker_id = worker_id

    def renew(self, leases: Sequence[Lease], facts: Mapping[str, str]) -> list[Word]:
        return self._memory.renew(self._worker_id, leases)

    def hand_over(self) -> int:
        return self._memory.release_all(self._worker_id, [], refund=0)

    def close(self) -> None:
        pass
