"""The memory driver of a test: it records pushes, and has the faults that the test asks for."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import anyio
import anyio.lowlevel

from redisjobs.drivers.memory import claims, worker
from redisjobs.drivers.memory.driver import MemoryConsumer, MemoryDriver, SyncMemoryDriver
from redisjobs.drivers.memory.state import Memory
from redisjobs.errors import Unavailable
from redisjobs.model.changes import Change
from redisjobs.model.driver import Beaten, Renewed, Until
from redisjobs.model.job import State
from redisjobs.model.queries import Query
from redisjobs.model.stored import Fire
from redisjobs.model.transitions import (
    Ack,
    AddChildren,
    DeadLetter,
    Exchange,
    Lease,
    NewJob,
    Pushed,
    Reclaimed,
    Reply,
    RetryLater,
    Settlements,
    Silent,
    Suspend,
    Turn,
)
from redisjobs.testing.pushes import Pushes

T = TypeVar("T")

DRAIN = "drain"
"""The name of the workers that a drain starts. An application may run others, which a crash spares."""


class Killed(Exception):
    """Raised in a worker that dies as if by SIGKILL: from now on none of its calls reaches the queue.

    Attributes:
        lease: The job that it dies in.
    """

    def __init__(self, lease: Lease) -> None:
        super().__init__(f"the worker died in job {lease.job_id}")
        self.lease = lease


@dataclass
class Faults:
    """The faults that a test has asked for, in all its queues.

    Attributes:
        crashes: How many workers are still to die in a job, by job name.
        lost_replies: How many pushes are still to lose their reply.
        is_unavailable: Whether no call gets an answer.
        dead: The ids of the workers that have died.
    """

    crashes: Counter[str] = field(default_factory=Counter)
    lost_replies: int = 0
    is_unavailable: bool = False
    dead: set[str] = field(default_factory=set)

    def check(self) -> None:
        """Raise Unavailable before a call has any effect, if the store is to be unavailable."""
        if self.is_unavailable:
            raise Unavailable("the test has made Redis unavailable")

    def lose(self) -> None:
        """Raise Unavailable after a push has had its effect, if its reply is to be lost."""
        if self.lost_replies:
            self.lost_replies -= 1
            raise Unavailable("the test has lost the reply")

    def kill(self, worker_id: str, settlements: Settlements) -> None:
        """Raise Killed if the worker is to die before it settles these jobs."""
        for lease, settlement in settlements:
            name = name_of(lease)
            if isinstance(settlement, Ack | RetryLater | Suspend | DeadLetter) and self.crashes[name]:
                self.crashes[name] -= 1
                self.dead.add(worker_id)
                raise Killed(lease)


def name_of(lease: Lease) -> str:
    """Return the name of a leased job."""
    return lease.fields.get(b"name", b"").decode("utf-8", "replace")


class RecordingDriver(MemoryDriver):
    """A producer's and an operator's side of a test's queue.

    Attributes:
        faults: The faults of the test.
        pushes: The pushes of the test.
        only: The id of the one job that workers claim; None: any.
    """

    def __init__(self, memory: Memory, name: str, faults: Faults, pushes: Pushes) -> None:
        super().__init__(memory)
        self.name = name
        self.faults = faults
        self.pushes = pushes
        self.only: str | None = None
        self.sync = _SyncTestDriver(self)

    async def push(self, jobs: Sequence[NewJob], *, repeated: bool) -> list[Pushed]:
        self.faults.check()
        answers = await super().push(jobs, repeated=repeated)
        self.record(jobs, answers)
        self.faults.lose()
        return answers

    async def read(self, query: Query[T]) -> T:
        self.faults.check()
        return await super().read(query)

    async def change(self, change: Change[T]) -> T:
        self.faults.check()
        answer: Any = await super().change(change)
        if isinstance(change, Fire):
            for firing, fired in zip(change.firings, answer.fired, strict=False):
                self.record(firing.jobs, fired.pushed)
        return answer  # type: ignore[no-any-return]

    def record(self, jobs: Sequence[NewJob], answers: Sequence[Pushed]) -> None:
        """Record the jobs that were added, or have replaced others."""
        for job, answer in zip(jobs, answers, strict=False):
            if answer.reply in (Reply.OK, Reply.REPLACED):
                self.pushes.add(self.name, job, answer.holder or job.job_id)

    def consumer(self, worker_id: str, *, lease: float, max_deliveries: int) -> MemoryConsumer:
        consumer = _OnlyConsumer if self.only is not None else RecordingConsumer
        return consumer(self, worker_id, lease, max_deliveries)


class _SyncTestDriver(SyncMemoryDriver):
    """The same for sync code."""

    def __init__(self, driver: RecordingDriver) -> None:
        super().__init__(driver.memory)
        self._driver = driver

    def push(self, jobs: Sequence[NewJob], *, repeated: bool, until: float = math.inf) -> list[Pushed]:
        self._driver.faults.check()
        answers = super().push(jobs, repeated=repeated, until=until)
        self._driver.record(jobs, answers)
        self._driver.faults.lose()
        return answers

    def read(self, query: Query[T], *, until: float = math.inf) -> T:
        self._driver.faults.check()
        return super().read(query, until=until)

    def change(self, change: Change[T], *, until: float = math.inf) -> T:
        self._driver.faults.check()
        return super().change(change, until=until)


class RecordingConsumer(MemoryConsumer):
    """One worker's side of a test's queue."""

    def __init__(self, driver: RecordingDriver, worker_id: str, lease: float, max_deliveries: int) -> None:
        super().__init__(driver.memory, worker_id, lease, max_deliveries)
        self._driver = driver
        self._faults = driver.faults

    async def exchange(
        self,
        settlements: Settlements,
        count: int | None,
        *,
        turn: Turn | None = None,
        idle: bool = False,
        waiting: Sequence[Lease] = (),
    ) -> Exchange:
        self._faults.check()
        if self._is_dead:  # the process would be gone: let this worker end without a word to the queue
            return Exchange([Reply.LEASE_LOST] * len(settlements), server_ms=self._memory.now_ms())
        if self._drains:
            self._faults.kill(self.worker_id, settlements)
        answer = await self._exchange(settlements, count, turn, idle)
        for at, added in answer.added.items():
            settlement = settlements[at][1]
            if isinstance(settlement, Ack | Suspend | AddChildren):
                replies = [Pushed(Reply.OK if is_added else Reply.EXISTS) for is_added in added]
                self._driver.record(settlement.pushes, replies)
        return answer

    async def _exchange(
        self, settlements: Settlements, count: int | None, turn: Turn | None, idle: bool
    ) -> Exchange:
        return await super().exchange(settlements, count, turn=turn, idle=idle)

    @property
    def _drains(self) -> bool:
        return self.worker_id.startswith(f"{DRAIN}:")

    @property
    def _is_dead(self) -> bool:
        return self.worker_id in self._faults.dead

    async def reclaim(
        self, silent: Sequence[Silent] = (), *, others: bool = False, thorough: bool = False
    ) -> Reclaimed:
        answer = await super().reclaim(silent, others=others, thorough=thorough)
        # A run until idle would wait for them, by the real clock.
        return replace(answer, others=0) if self._drains else answer

    async def release(self, *, refund: bool, watch: bool) -> int:
        return 0 if self._is_dead else await super().release(refund=refund, watch=watch)

    def beat(self, held: Callable[[], Sequence[Lease]], facts: Any) -> Beaten:
        return Renewed() if self._is_dead else super().beat(held, facts)


class _OnlyConsumer(RecordingConsumer):
    """The side of a worker that runs one job, whatever else is ready, paused or over its limit."""

    async def _exchange(
        self, settlements: Settlements, count: int | None, turn: Turn | None, idle: bool
    ) -> Exchange:
        await anyio.lowlevel.checkpoint()
        memory = self._memory
        with memory.lock:
            settled = worker.settle(memory, self.worker_id, turn, settlements)
            claimed = self._claim() if count else []
            return Exchange(settled.replies, claimed, server_ms=memory.now_ms(), added=settled.added)

    def _claim(self) -> list[Lease]:
        job = self._memory.jobs.get(self._driver.only or "")
        if job is None or job.state is not State.READY:
            return []
        self._memory.deliver(job, self._memory.worker(self.worker_id))
        return [claims.lease_of(job)]

    async def wait(self, count: int, timeout: float, until: Until | None = None) -> list[Lease]:
        there = anyio.Event()
        (until or Until()).when_set(there.set)
        with anyio.move_on_after(timeout):
            await there.wait()
        return []
