"""Two queues of one worker, and what their handlers saw."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import anyio
import redis
from store import MemoryStore, RedisStore, Store

from redisjobs import JobContext, JobQueue, Unavailable
from redisjobs.drivers.memory.driver import MemoryConsumer, MemoryDriver
from redisjobs.model.transitions import Exchange, Lease, Reclaimed


@dataclass
class Work:
    job_name: ClassVar[str] = "work"
    number: int = 0
    seconds: float = 0.0


class Seen:
    """What two queues' handlers did, in order; they end when `may_end` is set, or by themselves."""

    def __init__(self) -> None:
        self.started: list[str] = []
        self.ended: list[str] = []
        self.most = self.now = 0
        self.beside: dict[str, int] = {}  # how many others ran as a job with an odd number began
        self.may_end = anyio.Event()
        self.may_end.set()

    def handle(self, queue: JobQueue) -> JobQueue:
        @queue.register(Work)
        async def work(job: Work, context: JobContext) -> None:
            self.started.append(queue.name)
            self.beside[context.job_id] = self.now
            self.now += 1
            self.most = max(self.most, self.now)
            try:
                await anyio.sleep(job.seconds)
                await self.may_end.wait()
                self.ended.append(queue.name)
            finally:
                self.now -= 1

        return queue


def another(store: Store) -> Iterator[Store]:
    """A second queue where the first one is."""
    if not isinstance(store, RedisStore):
        yield MemoryStore(f"{store.queue_name}-b")
        return
    server = f"redis://{store.url.rpartition('@')[2]}"
    second = RedisStore(redis.Redis.from_url(server), server, f"{store.queue_name}-b")
    yield second
    faults = second.faults()
    second.end()
    assert faults == []


class Away(MemoryDriver):
    """A store that can be away."""

    def __init__(self) -> None:
        super().__init__()
        self.is_away = False
        self._answers: anyio.Event | None = None  # it hangs until that is set
        self.calls = 0

    def hang(self) -> None:
        """Answer nothing from now on."""
        self._answers = anyio.Event()

    def answer(self) -> None:
        """Answer again, also what was asked meanwhile."""
        answers, self._answers = self._answers, None
        assert answers is not None
        answers.set()

    def consumer(self, worker_id: str, *, lease: float, max_deliveries: int) -> MemoryConsumer:
        driver = self

        class AwayConsumer(MemoryConsumer):
            async def reach(self) -> None:
                driver.calls += 1
                if driver._answers is not None:
                    await driver._answers.wait()
                if driver.is_away:
                    raise Unavailable("away, as the test says")

            async def open(self, worker_id: str = "") -> list[str]:
                await self.reach()
                return await super().open(worker_id)

            async def exchange(self, *asked: Any, **more: Any) -> Exchange:
                await self.reach()
                return await super().exchange(*asked, **more)

            async def recover(self, *asked: Any, **more: Any) -> list[Lease]:
                await self.reach()
                return await super().recover(*asked, **more)

            async def reclaim(self, *asked: Any, **more: Any) -> Reclaimed:
                await self.reach()
                return await super().reclaim(*asked, **more)

        consumer = AwayConsumer(self.memory, worker_id, lease, max_deliveries)
        consumer.server = "another one"
        return consumer
