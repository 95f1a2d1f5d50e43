"""Deploys and rollbacks of handlers, while jobs of the other version are suspended."""

import logging
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import anyio
import pytest
from results import drain, result
from step_handlers import AT_ONCE
from store import RedisStore, Store

from redisjobs import JobContext, JobName, JobQueue, Worker
from redisjobs.events import JobsRetried
from redisjobs.model.queries import Find
from redisjobs.worker.running import messages

pytestmark = pytest.mark.anyio

Order = JobName("Order", int)
MANY = pytest.param(1000, marks=pytest.mark.slow)


@dataclass
class Deploys:
    """Handlers of two versions, and what they have charged."""

    store: Store
    charged: Counter[int] = field(default_factory=Counter)
    checked: Counter[int] = field(default_factory=Counter)

    def _charge(self, order: int) -> int:
        self.charged[order] += 1
        return order * 100

    def _check(self, order: int) -> bool:
        self.checked[order] += 1
        return True

    def version_1(self) -> JobQueue:
        queue = JobQueue(self.store.driver, self.store.queue_name)

        @queue.register(Order, keep_result=600, version=1)
        async def order(number: int, context: JobContext) -> str:
            amount = await context.step("charge", self._charge, number)
            await context.wait_for("approved")
            return f"{amount} by 1, begun by {context.version}"

        return queue

    def version_2(self) -> JobQueue:
        queue = JobQueue(self.store.driver, self.store.queue_name)

        @queue.register(Order, keep_result=600, version=2)
        async def order(number: int, context: JobContext) -> str:
            amount = await context.step("charge", self._charge, number)
            if context.version >= 2:
                await context.step("check", self._check, number)
            await context.wait_for("approved")
            return f"{amount} by 2, begun by {context.version}"

        return queue


@pytest.fixture
def deploys(loop_store: Store, monkeypatch: pytest.MonkeyPatch) -> Deploys:
    monkeypatch.setattr(messages, "_warned", set())
    return Deploys(loop_store)


async def push(queue: JobQueue, numbers: range) -> list[str]:
    return [handle.id for handle in await queue.push_many([*numbers], Order)]


async def approve(queue: JobQueue, jobs: list[str]) -> list[Any]:
    """Signal to jobs, run a worker, and return the results."""
    for job in jobs:
        await queue.signal(job, "approved", True)
    await drain(queue, concurrency=100)
    return [await result(queue.result(job)) for job in jobs]


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if "has not come to step" in record.getMessage()]


async def test_a_job_whose_record_has_lost_its_version_goes_on_with_what_it_has_saved(
    redis_store: RedisStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(messages, "_warned", set())
    caplog.set_level(logging.WARNING, "redisjobs")
    deploys = Deploys(redis_store)
    async with deploys.version_2() as queue:
        jobs = await push(queue, range(1))
        await drain(queue)
        steps = f"{redis_store.prefix}steps:{jobs[0]}"
        assert redis_store.admin.hdel(steps, "handler version") == 1
        redis_store.admin.hset(steps, "gone", redis_store.admin.hget(steps, "charge"))

        assert await approve(queue, jobs) == ["0 by 2, begun by 2"]

    assert deploys.charged == {0: 1}
    (warning,) = warnings(caplog)
    assert "step 'gone', which an unknown version has saved" in warning


async def test_a_woken_job_that_a_worker_without_its_handler_puts_off_still_goes_on_after_its_wait(
    deploys: Deploys,
) -> None:
    async with deploys.version_1() as queue, JobQueue(deploys.store.driver, deploys.store.queue_name) as older:
        (order,) = await push(queue, range(1))
        await drain(queue)
        await queue.signal(order, "approved", True)
        older.events.subscribe(JobsRetried, lambda _: worker.stop())
        with anyio.fail_after(10):
            await (worker := Worker(older)).run()

        row = await queue.driver.read(Find(order))

        assert row is not None
        assert b"suspended_at" in row.fields


@pytest.mark.parametrize("many", [20, MANY])
async def test_version_2_ends_the_suspended_jobs_of_version_1_and_a_rollback_those_of_version_2(
    deploys: Deploys, many: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "redisjobs")
    async with deploys.version_1() as old:
        first = await push(old, range(many))
        await drain(old, concurrency=100)

    async with deploys.version_2() as new:
        second = await push(new, range(many, 2 * many))
        await drain(new, concurrency=100)
        assert await approve(new, first[: many // 2]) == [
            f"{number * 100} by 2, begun by 1" for number in range(many // 2)
        ]
        assert await approve(new, second[: many // 2]) == [
            f"{number * 100} by 2, begun by 2" for number in range(many, many + many // 2)
        ]
    assert warnings(caplog) == []

    async with deploys.version_1() as old:
        assert await approve(old, first[many // 2 :]) == [
            f"{number * 100} by 1, begun by 1" for number in range(many // 2, many)
        ]
        assert warnings(caplog) == []
        assert await approve(old, second[many // 2 :]) == [
            f"{number * 100} by 1, begun by 2" for number in range(many + many // 2, 2 * many)
        ]
    (said,) = warnings(caplog)  # once, not for each job
    assert "a run of 'Order', version 1, has not come to step 'check', which version 2 has saved" in said
    assert deploys.charged == Counter(range(2 * many))
    assert deploys.checked == Counter(range(many, 2 * many))


async def test_a_run_that_fails_before_a_saved_step_says_nothing_of_it(
    loop_store: Store, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(messages, "_warned", set())
    caplog.set_level(logging.WARNING, "redisjobs")
    queue, runs = JobQueue(loop_store.driver, loop_store.queue_name), list[int]()

    @queue.register(Order, retry=AT_ONCE)
    async def order(number: int, context: JobContext) -> None:
        runs.append(context.attempt)
        if context.attempt == 2:
            raise LookupError("before the step")
        await context.step("charge", str, number)
        if context.attempt == 1:
            raise LookupError("after the step")

    async with queue:
        await queue.push(1, Order)
        await drain(queue)
    assert runs == [1, 2, 3]
    assert warnings(caplog) == []
