"""What has an outcome is settled before anybody's jobs are taken over."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import anyio
import pytest
from store import eventually

from redisjobs.drivers.memory.driver import MemoryConsumer, MemoryDriver
from redisjobs.errors import Unavailable
from redisjobs.model.transitions import Exchange, Lease, Reclaimed, Settlements, Silent, Turn
from redisjobs.queue import JobQueue
from redisjobs.worker.worker import Worker

pytestmark = pytest.mark.anyio


@dataclass
class Work:
    job_name: ClassVar[str] = "Work"


class Driver(MemoryDriver):
    """Notes what its consumer is asked for; says that it is away while told so."""

    def __init__(self) -> None:
        super().__init__()
        self.unavailable = False
        self.asked: list[str] = []

    def ask(self, what: str) -> None:
        if self.unavailable:
            raise Unavailable("away, as the test says")
        self.asked.append(what)

    def consumer(self, worker_id: str, *, lease: float, max_deliveries: int) -> MemoryConsumer:
        driver = self

        class Consumer(MemoryConsumer):
            async def exchange(
                self,
                settlements: Settlements,
                count: int | None,
                *,
                turn: Turn | None = None,
                **more: Any,
            ) -> Exchange:
                driver.ask("settle" if settlements else "claim")
                return await super().exchange(settlements, count, turn=turn, **more)

            async def recover(self, held: Sequence[Lease], older: float = 0) -> list[Lease]:
                driver.ask("recover")
                return await super().recover(held, older)

            async def reclaim(
                self, silent: Sequence[Silent] = (), *, others: bool = False, thorough: bool = False
            ) -> Reclaimed:
                driver.ask("reclaim")
                return await super().reclaim(silent, others=others, thorough=thorough)

            async def release(self, *, refund: bool, watch: bool) -> int:
                driver.ask("release")
                return await super().release(refund=refund, watch=watch)

        return Consumer(self.memory, worker_id, lease, max_deliveries)


async def test_outcomes_that_waited_for_the_store_are_settled_before_jobs_are_taken_over() -> None:
    driver = Driver()
    queue = JobQueue(driver, "q")
    started, go = anyio.Event(), anyio.Event()

    @queue.register(Work)
    async def work(_work: Work) -> None:
        started.set()
        await go.wait()

    worker = Worker(queue, lease=0.4, concurrency=3)
    async with anyio.create_task_group() as tasks:
        await queue.push(Work())
        tasks.start_soon(worker.run)
        await started.wait()
        await eventually(lambda: "reclaim" in driver.asked)  # in touch for long enough to do so
        driver.unavailable = True
        go.set()
        await eventually(lambda: worker._current and worker._current.sources[0].member.unavailable)
        worker._current.sources[0].reclaimer.look_at = 0.0  # type: ignore[union-attr]
        driver.asked.clear()
        driver.unavailable = False
        await eventually(lambda: {"settle", "reclaim"} <= set(driver.asked))
        worker.stop()

    others = [what for what in driver.asked if what in ("settle", "reclaim", "claim")]
    assert others[0] == "settle"


@pytest.mark.slow
async def test_a_worker_that_stops_while_the_store_is_away_ends_all_the_same_and_says_what_it_holds(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("redisjobs.worker.source.source._DRAIN", 0.5)
    caplog.set_level(logging.INFO, "redisjobs.worker")
    driver = Driver()
    queue = JobQueue(driver, "q")
    started = anyio.Event()

    @queue.register(Work)
    async def work(_work: Work) -> None:
        started.set()
        await anyio.sleep_forever()

    worker = Worker(queue, grace=0)
    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            await queue.push(Work())
            tasks.start_soon(worker.run)
            await started.wait()
            driver.unavailable = True
            worker.stop_now()

    assert "1 jobs could not be settled, and run again once their leases are over: no answer came in time" in [
        record.getMessage() for record in caplog.records if record.levelname == "WARNING"
    ]
