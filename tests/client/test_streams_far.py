"""Streams over a network that breaks, and chunks that were changed in Redis."""

import random
from contextlib import AsyncExitStack

import anyio
import pytest
from results import drain
from store import RedisStore

from redisjobs import JobContext, JobQueue, Worker
from redisjobs_proof.torture.proxy import HOST, Proxy

pytestmark = pytest.mark.anyio

MANY, READERS = 10_000, 100


def far(store: RedisStore, proxy: Proxy) -> str:
    """The store's URL, by way of the proxy."""
    port = store.url.rpartition(":")[2]
    return store.url.replace(f"{HOST}:{port}", f"{HOST}:{proxy.port}/0")


async def read(queue: JobQueue, job_id: str, seen: list[int], chance: random.Random) -> None:
    """Read to the end, and stop now and then to go on from the last id, as a browser does."""
    last: str | None = None
    while True:
        left = chance.randint(200, 3000)
        async for chunk in queue.stream(job_id, after=last):
            assert chunk.run == 1
            seen.append(chunk.data)
            last = chunk.id
            left -= 1
            if not left:
                break
        else:
            return


@pytest.mark.slow
@pytest.mark.timeout(180)
async def test_ten_thousand_chunks_to_a_hundred_readers_over_a_network_that_breaks_are_neither_lost_nor_doubled(
    redis_store: RedisStore, proxy: Proxy
) -> None:
    url, chance = far(redis_store, proxy), random.Random(29)
    seen, cuts = [list[int]() for _ in range(READERS)], 0
    async with AsyncExitStack() as stack, anyio.create_task_group() as tasks:
        queues = [await stack.enter_async_context(JobQueue(url, redis_store.queue_name)) for _ in range(4)]

        @queues[0].job
        async def work(context: JobContext) -> None:
            for number in range(MANY):
                context.emit(number)
                if number % 50 == 0:
                    await anyio.sleep(0.02)

        async def cut() -> None:
            nonlocal cuts
            while True:
                await anyio.sleep(0.15)
                proxy.cut_after_reply_bytes(chance.randint(0, 2000), b"EVALSHA")
                await anyio.sleep(0.15)
                cuts += proxy.drop_all()

        handle = await work.push()
        tasks.start_soon(Worker(queues[0]).run)
        tasks.start_soon(cut)
        async with anyio.create_task_group() as readers:
            for at, each in enumerate(seen):
                readers.start_soon(read, queues[at % 4], handle.id, each, chance)
        tasks.cancel_scope.cancel()

    assert cuts > 50
    assert seen == [[*range(MANY)]] * READERS


async def test_chunks_that_were_added_or_deleted_in_redis_don_t_keep_a_job_from_going_on(
    redis_store: RedisStore,
) -> None:
    key = f"{redis_store.prefix}chunks:job"
    changes = {
        0: lambda: redis_store.admin.xadd(key, {"hello": "world"}),
        1: lambda: redis_store.admin.xdel(key, *[entry for entry, _ in redis_store.admin.xrange(key)][-1:]),
        2: lambda: redis_store.admin.xdel(key, *[entry for entry, _ in redis_store.admin.xrange(key)][:1]),
        3: lambda: redis_store.admin.xtrim(key, maxlen=0),
        4: lambda: redis_store.admin.xadd(key, {"run": "x"}, id="18446744073709551615-18446744073709551615"),
    }
    async with JobQueue(redis_store.driver, redis_store.queue_name) as queue:

        @queue.job(name="work")
        async def work(context: JobContext) -> None:
            for number in range(6):
                for part in range(3):
                    context.emit([number, part])
                await context.checkpoint(number)  # all before it is stored
                changes.get(number, int)()

        await queue.push({}, "work", job_id="job")
        await drain(queue)

        assert [chunk.data async for chunk in queue.stream("job", after="1-1")][-3:] == [[5, 0], [5, 1], [5, 2]]
        assert (await queue.control.counts()).dead == 0
