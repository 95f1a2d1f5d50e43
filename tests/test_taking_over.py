"""When a worker looks for jobs of dead workers, and how many it takes."""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import anyio
import pytest
from store import Store, eventually

from redisjobs.driver import Lease, NewJob, Word
from redisjobs.drivers.in_process import MemoryConsumer, MemoryDriver, MemoryHeartbeat
from redisjobs.drivers.memory import Memory
from redisjobs.errors import Unavailable
from redisjobs.job import JobContext
from redisjobs.queue import JobQueue
from redisjobs.worker import Worker

pytestmark = pytest.mark.anyio


@dataclass
class Work:
    job_name: ClassVar[str] = "Work"


@pytest.mark.parametrize("slots", [1, 2, 30])
async def test_a_drain_takes_over_all_that_ran_out_as_many_at_once_as_it_has_slots(
    store: Store, slots: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "redisjobs.worker")
    async with JobQueue(store.driver, store.queue_name) as queue:
        queue.register(Work)(lambda _: None)
        handles = await queue.push_many([Work() for _ in range(6)])
        dead = store.consumer("dead")
        await dead.open()
        assert len((await dead.exchange([], 6)).leases) == 6
        await dead.aclose()
        store.age(60)

        with anyio.fail_after(20):
            await Worker(queue, concurrency=slots).run(until_idle=True)

        totals = (await queue.counts()).totals
        assert (totals["completed"], totals["reclaimed"], totals.get("released", 0)) == (6, 6, 0)
    assert sorted(record.getMessage() for record in caplog.records) == sorted(
        f"reclaimed job {handle.id}, delivery 2: its worker is gone" for handle in handles
    )


class Driver(MemoryDriver):
    """Notes when its consumer looks for leases that ran out; no lease is renewed while told so."""

    def __init__(self) -> None:
        super().__init__()
        self.deaf = False
        self.looks: list[float] = []
        self.looked_twice = anyio.Event()

    def consumer(self, worker_id: str, *, lease: float, max_deliveries: int) -> MemoryConsumer:
        driver = self

        class Consumer(MemoryConsumer):
            async def reclaim(self, count: int, latest_ms: int | None = None) -> list[Lease]:
                driver.looks.append(time.monotonic())
                leases = await super().reclaim(count, latest_ms)
                if len(driver.looks) == 2:
                    driver.looked_twice.set()
                    await anyio.wait_all_tasks_blocked()
                return leases

            def heartbeat(self) -> MemoryHeartbeat:
                return Deaf(driver, driver.memory, worker_id)

        return Consumer(self.memory, worker_id, lease, max_deliveries)

    async def hold(self) -> None:
        """Let another worker hold a job, and live."""
        await self.push([NewJob("held", ["name", "Work", "parameters", "{}"])], repeated=False)
        assert self.memory.claim("other", 1, 3, [])[2]
        self.memory.age(-3600)


class Deaf(MemoryHeartbeat):
    def __init__(self, driver: Driver, memory: Memory, worker_id: str) -> None:
        super().__init__(memory, worker_id)
        self._driver = driver

    def renew(self, leases: Sequence[Lease], facts: Mapping[str, str]) -> list[Word]:
        if self._driver.deaf:
            raise Unavailable("away, as the test says")
        return super().renew(leases, facts)


async def test_a_drain_looks_again_also_where_a_slot_became_free_while_it_looked() -> None:
    driver = Driver()
    queue = JobQueue(driver, "q")
    ran: list[str] = []

    @queue.register(Work)
    async def work(_: Work, context: JobContext) -> None:
        if context.job_id == "b":  # and "a" has made room for a look that finds one more
            await driver.looked_twice.wait()
        ran.append(context.job_id)

    await driver.push([NewJob(job_id, ["name", "Work", "parameters", "{}"]) for job_id in "abcd"], repeated=False)
    assert len(driver.memory.claim("dead", 4, 3, [])[2]) == 4
    driver.memory.age(60)

    with anyio.fail_after(20):
        await Worker(queue, concurrency=2).run(until_idle=True)

    assert sorted(ran) == list("abcd")


async def test_where_nobody_else_holds_a_job_a_worker_looks_once_a_lease() -> None:
    driver, lease = Driver(), 0.8
    worker = Worker(JobQueue(driver, "q"), lease=lease)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(worker.run)
        await eventually(lambda: len(driver.looks) >= 3, within=20)
        worker.stop()

    assert driver.looks[2] - driver.looks[0] >= 2 * lease * 3 / 4


async def test_where_somebody_holds_a_job_a_worker_looks_several_times_a_lease() -> None:
    driver, lease = Driver(), 2.0
    await driver.hold()
    worker = Worker(JobQueue(driver, "q"), lease=lease)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(worker.run)
        await eventually(lambda: len(driver.looks) >= 5, within=20)
        worker.stop()

    assert driver.looks[4] - driver.looks[0] < 2 * lease  # and not four leases
    assert driver.looks[4] - driver.looks[0] >= lease / 2  # nor on and on


async def test_a_worker_that_can_renew_nothing_takes_nothing_over_though_the_store_answers() -> None:
    """All that ran out since then may be its own."""
    driver, lease = Driver(), 1.0
    await driver.hold()
    worker = Worker(JobQueue(driver, "q"), lease=lease)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(worker.run)
        await eventually(lambda: driver.looks, within=20)
        driver.deaf = True
        await anyio.sleep(lease * 3 / 4)
        driver.looks.clear()

        await anyio.sleep(lease)

        assert driver.looks == []
        driver.deaf = False
        await eventually(lambda: driver.looks, within=20)
        worker.stop()
