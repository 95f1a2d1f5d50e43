"""A settlement that the server refuses to write makes its own job a dead letter, and holds up no other one."""

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from results import drain
from store import RedisStore
from tenacity import wait_none

from redisjobs import JobContext, JobInfo, JobQueue, Priority, Retry, State
from redisjobs.drivers.memory.driver import MemoryConsumer
from redisjobs.model.driver import Unwritable
from redisjobs.model.retry import RetryPolicy, no_retry
from redisjobs.model.transitions import AddChildren, Exchange, SaveStep, Settlements

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

LIMIT = 1024 * 1024  # bytes: the least that a server takes as a limit
AT_ONCE = RetryPolicy(wait=wait_none())


@pytest.fixture
async def queue(redis_store: RedisStore) -> AsyncIterator[JobQueue]:
    async with JobQueue(redis_store.driver, redis_store.queue_name, max_parameters=4 * LIMIT) as queue:
        yield queue


@contextmanager
def configured(store: RedisStore, name: str) -> Iterator[None]:
    """Let the server take requests, or words of them, of a megabyte at most."""
    before = store.admin.config_get(name)[name]
    store.admin.config_set(name, LIMIT)
    try:
        yield
    finally:
        store.admin.config_set(name, before)


async def dead_letter(queue: JobQueue) -> JobInfo:
    """The one dead letter of a queue that has no other job."""
    counts = await queue.control.counts()
    assert (sum(counts.ready.values()), counts.running, counts.delayed, counts.dead) == (0, 0, 0, 1)
    (dead,) = await queue.control.jobs(State.DEAD)
    return dead


@pytest.mark.parametrize(
    ("limit", "what"),
    [
        ("proto-max-bulk-len", "result"),
        *(("client-query-buffer-limit", what) for what in ("result", "follow-up")),
    ],
)
async def test_what_is_larger_than_the_server_takes_makes_one_dead_letter_and_the_others_go_on(
    queue: JobQueue, redis_store: RedisStore, limit: str, what: str
) -> None:
    ran, large = list[int](), "x" * (2 * LIMIT)

    @queue.job
    async def take(text: str) -> None: ...

    @queue.job(keep_result=60, retry=AT_ONCE)
    async def work(number: int, context: JobContext) -> str:
        ran.append(number)
        if number == 20 and what == "follow-up":
            context.push(take.prepare(large))
        return large if number == 20 and what == "result" else "small"

    handles = await queue.push_many([work.prepare(number) for number in range(40)])
    with configured(redis_store, limit):
        await drain(queue)

    dead = await dead_letter(queue)
    assert (dead.job_id, dead.reason, dead.error_type.rpartition(".")[2]) == (
        handles[20].id,
        "failed",
        "UnwritableResult",
    )
    assert "refuses" in dead.error
    assert sorted(ran) == list(range(40))
    assert (await queue.control.counts()).totals["completed"] == 39


@pytest.mark.parametrize("what", ["step", "checkpoint", "children"])
async def test_what_a_running_job_writes_and_the_store_refuses_makes_one_dead_letter(
    what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    exchange = MemoryConsumer.exchange

    async def choosy(consumer: MemoryConsumer, settlements: Settlements, *args: Any, **kwargs: Any) -> Exchange:
        if any(isinstance(settlement, SaveStep | AddChildren) for _, settlement in settlements):
            raise Unwritable("too large")
        return await exchange(consumer, settlements, *args, **kwargs)

    monkeypatch.setattr(MemoryConsumer, "exchange", choosy)
    async with JobQueue("memory://") as queue:

        @queue.job(retry=no_retry())
        async def work(number: int, context: JobContext) -> None:
            if number == 5 and what == "step":
                await context.step("large", lambda: "x")
            if number == 5 and what == "checkpoint":
                await context.checkpoint("x")
            if number == 5 and what == "children":
                await context.run_all([work.prepare(1)] * 501)  # more than the step that suspends adds

        await queue.push_many([work.prepare(number) for number in range(10)])
        await drain(queue)
        dead = await dead_letter(queue)
        assert "refuses" in dead.error or "not added" in dead.error
        assert (await queue.control.counts()).totals["completed"] == 9


async def test_a_retry_at_which_the_script_fails_makes_a_dead_letter_and_the_others_go_on(
    queue: JobQueue, redis_store: RedisStore
) -> None:
    @queue.job(retry=AT_ONCE)
    async def work(number: int) -> None:
        if number == 7:
            raise Retry(0)

    await queue.push_many([work.prepare(number) for number in range(7)])
    last = {"name": "work", "parameters": '{"number": 7}'}
    job = redis_store.put(last, Priority.LOW, entry=f"{2**64 - 1}-{2**64 - 1}")

    await drain(queue)

    dead = await dead_letter(queue)
    assert dead.job_id == job
    assert "exhausted" in dead.error
    assert (await queue.control.counts()).totals["completed"] == 7
