"""Calls of steps that a handler cancels, and the limits of steps that run at the same time."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from each_setting import store as store
from flows import Family, saved
from results import drain, result
from store import MemoryStore, Store

from redisjobs import JobContext, JobQueue, no_retry
from redisjobs.drivers.memory.driver import MemoryConsumer
from redisjobs.drivers.redis.consumer import RedisConsumer
from redisjobs.errors import StepsFull, UnwritableResult
from redisjobs.model.steps import MOST_STEPS
from redisjobs.model.transitions import AddChildren, Exchange, SaveStep, Settlements

pytestmark = pytest.mark.anyio


@pytest.fixture
def hold(store: Store, monkeypatch: pytest.MonkeyPatch) -> Callable[[type], anyio.Event]:
    """Holds each exchange with a settlement of a type until an event is set."""

    def hold(kind: type) -> anyio.Event:
        consumer: Any = MemoryConsumer if isinstance(store, MemoryStore) else RedisConsumer
        exchange, go = consumer.exchange, anyio.Event()

        async def held(self: Any, settlements: Settlements, *arguments: Any, **options: Any) -> Exchange:
            if any(isinstance(settlement, kind) for _, settlement in settlements):
                await go.wait()
            answer: Exchange = await exchange(self, settlements, *arguments, **options)
            return answer

        monkeypatch.setattr(consumer, "exchange", held)
        return go

    return hold


async def test_a_step_that_is_cancelled_while_it_is_saved_is_not_called_again_by_the_same_run(
    queue: JobQueue, hold: Callable[[type], anyio.Event]
) -> None:
    calls, go = list[int](), hold(SaveStep)

    @queue.job(keep_result=600)
    async def work(context: JobContext) -> list[Any]:
        def charge() -> int:
            calls.append(1)
            return len(calls)

        with anyio.move_on_after(0.05):
            await context.step("charge", charge)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(context.step, "charge", charge)
            await anyio.lowlevel.checkpoint()
            go.set()
        (step,) = (await saved(queue, context.job_id)).saved
        return [step, await context.step("charge", charge)]

    job = await work.push()
    await drain(queue)
    assert await result(job.result()) == ["charge", 2]  # the last one is the second of this name
    assert calls == [1, 1]


async def test_children_whose_step_is_cancelled_suspend_nothing_and_may_be_run_again(
    family: Family, hold: Callable[[type], anyio.Event]
) -> None:
    runs, go = list[int](), hold(AddChildren)

    async def parent(given: dict[str, Any], context: JobContext) -> list[int]:
        runs.append(1)
        if len(runs) == 1:
            with anyio.move_on_after(0.05):
                await context.run_all(family.pages(*range(501)))
            go.set()
        return [len(await context.run_all(family.pages(*range(501)))), len(runs)]

    assert await family.of(parent) == [501, 2]
    assert family.ran == dict.fromkeys(range(501), 1)


async def test_a_handler_that_cancels_its_children_may_return(
    family: Family, hold: Callable[[type], anyio.Event]
) -> None:
    go = hold(AddChildren)

    async def parent(given: dict[str, Any], context: JobContext) -> str:
        with anyio.move_on_after(0.05):
            await context.run_all(family.pages(*range(501)))
        go.set()
        with anyio.move_on_after(0.1):
            await anyio.sleep_forever()
        return "without them"

    assert await family.of(parent) == "without them"


async def test_steps_at_the_same_time_are_1_000_at_most(queue: JobQueue) -> None:
    ends = list[int]()

    @queue.job(retry=no_retry())
    async def work(context: JobContext) -> None:
        async def one(number: int) -> None:
            with suppress(StepsFull):
                ends.append(await context.step(f"page-{number}", lambda: number))

        async with anyio.create_task_group() as tasks:
            for number in range(MOST_STEPS + 300):
                tasks.start_soon(one, number)
        raise LookupError

    job = await work.push()
    await drain(queue)
    assert len(ends) == len((await saved(queue, job.id)).saved) == MOST_STEPS


async def test_steps_at_the_same_time_have_1_mb_of_results_at_most(queue: JobQueue) -> None:
    full = list[str]()

    @queue.job(retry=no_retry())
    async def work(context: JobContext) -> None:
        async def one(number: int) -> None:
            try:
                await context.step(f"page-{number}", lambda: "x" * 400_000)
            except UnwritableResult as error:
                full.append(str(error))

        async with anyio.create_task_group() as tasks:
            for number in range(5):
                tasks.start_soon(one, number)
        raise LookupError

    job = await work.push()
    await drain(queue)
    assert len((await saved(queue, job.id)).saved) == 2
    assert len(full) == 3
