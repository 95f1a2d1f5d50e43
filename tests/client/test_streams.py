"""Streams of chunks: a reader gets each chunk once and in order, until the job has ended."""

import threading
from collections.abc import AsyncIterator, Iterator
from functools import partial
from typing import Any

import anyio
import anyio.to_thread
import pytest
from results import drain, listening, waited_for
from store import RedisStore, Store, eventually

from redisjobs import JobContext, JobQueue, Worker
from redisjobs.client.streaming import Pages
from redisjobs.errors import ChunksLost, DecodeError, DriverError, Unavailable
from redisjobs.model.chunks import Chunk, Chunks, GetChunks, StoredChunk, checked_after
from redisjobs.model.emissions import MOST_CHUNKS
from redisjobs.sync import JobQueue as SyncJobQueue

pytestmark = pytest.mark.anyio


class Counter:
    """A handler that emits numbers, as many as the test lets it."""

    def __init__(self) -> None:
        self.send, self._receive = anyio.create_memory_object_stream[int](100)

    async def count(self, context: JobContext) -> None:
        last = 0
        async with self._receive:
            async for many in self._receive:
                for number in range(last + 1, last + many + 1):
                    context.emit(number)
                last += many


@pytest.fixture
async def counter(queue: JobQueue) -> AsyncIterator[Counter]:
    counter = Counter()
    queue.job(name="count")(counter.count)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(Worker(queue).run)
        yield counter
        tasks.cancel_scope.cancel()


async def numbers(queue: JobQueue, job_id: str, into: list[int], after: str | None = None) -> None:
    async for chunk in queue.stream(job_id, after=after):
        into.append(chunk.data)


@pytest.mark.slow
async def test_readers_get_all_chunks_however_late_they_come(counter: Counter, queue: JobQueue) -> None:
    handle, early, late = await queue.push({}, "count"), list[int](), list[int]()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(numbers, queue, handle.id, early)
        await counter.send.send(3)
        await eventually(lambda: early == [1, 2, 3])
        tasks.start_soon(numbers, queue, handle.id, late)
        await eventually(lambda: late == [1, 2, 3])
        await counter.send.send(2)
        await eventually(lambda: early == late == [1, 2, 3, 4, 5])
        await counter.send.send(1)
        counter.send.close()

    assert early == late == [1, 2, 3, 4, 5, 6]
    after_end = list[int]()
    await numbers(queue, handle.id, after_end)
    assert after_end == early


async def test_a_reader_goes_on_after_the_last_chunk_that_it_has(counter: Counter, queue: JobQueue) -> None:
    handle, seen, last = await queue.push({}, "count"), list[Chunk](), None
    await counter.send.send(30)
    for many in (1, 4, 10):
        async for chunk in handle.stream(after=last):
            seen.append(chunk)
            last = chunk.id
            many -= 1
            if not many:
                break
    counter.send.close()
    seen += [chunk async for chunk in handle.stream(after=last)]

    assert [chunk.data for chunk in seen] == [*range(1, 31)]
    assert [chunk async for chunk in handle.stream(after=seen[-1].id)] == []


async def test_a_reader_that_has_fallen_behind_learns_it_and_how_to_go_on(queue: JobQueue) -> None:
    @queue.job
    def work(context: JobContext) -> None:
        for number in range(MOST_CHUNKS + 7):
            context.emit(number)

    handle = await work.push()
    await drain(queue)
    with pytest.raises(ChunksLost, match=r"7 chunks are lost.* stream\(after=") as caught:
        await numbers(queue, handle.id, [])

    assert (caught.value.job_id, caught.value.lost) == (handle.id, 7)
    first = await anext(handle.stream(after=caught.value.after))
    assert first.data == 7


async def test_a_job_that_never_was_has_nothing_to_read(queue: JobQueue) -> None:
    assert [chunk async for chunk in queue.stream("never")] == []


@pytest.mark.parametrize("after", ["", "5", "5-", "-", "x-1", 5, "1-2-3", "1" * 40 + "-1", "1-1\n"])
def test_what_is_no_id_of_a_chunk_is_refused_at_once(after: Any) -> None:
    queue = JobQueue("memory://")
    with pytest.raises(ValueError, match="the id of a chunk"):
        queue.stream("job", after=after)
    with pytest.raises(ValueError, match="the id of a chunk"):
        SyncJobQueue("memory://").stream("job", after=after)


def test_no_id_is_the_begin() -> None:
    assert checked_after(None) == ""


async def test_many_readers_share_a_connection_and_their_queries(
    redis_store: RedisStore, monkeypatch: Any
) -> None:
    async with JobQueue(redis_store.url, redis_store.queue_name) as queue, anyio.create_task_group() as tasks:
        counter, asked = Counter(), list[GetChunks]()
        queue.job(name="count")(counter.count)
        read = queue.driver.read

        async def counting(query: Any) -> Any:
            asked.append(query)
            return await read(query)

        monkeypatch.setattr(queue.driver, "read", counting)
        handle = await queue.push({}, "count")
        seen = [list[int]() for _ in range(100)]

        def have(many: int) -> bool:
            return all(len(each) == many for each in seen)

        async with anyio.create_task_group() as readers:
            for each in seen:
                readers.start_soon(numbers, queue, handle.id, each)
            await waited_for(redis_store, handle.id)
            tasks.start_soon(Worker(queue).run)
            for many in range(1, 6):
                await counter.send.send(100)
                await eventually(partial(have, 100 * many), within=20)
            assert len(listening(redis_store)) == 2  # the worker listens, too
            counter.send.close()
        tasks.cancel_scope.cancel()

    assert seen == [[*range(1, 501)]] * 100
    assert len(asked) < 60  # not 100 for each notification; a reader asks until it has found nothing


# One query for many readers


class Reads:
    """A driver that answers a query when the test says so."""

    def __init__(self) -> None:
        self.asked: list[GetChunks] = []
        self._answers = list[Chunks | DriverError]()

    def answer(self, answer: Chunks | DriverError) -> None:
        self._answers.append(answer)

    async def read(self, query: GetChunks) -> Chunks:
        self.asked.append(query)
        await eventually(lambda: self._answers)
        answer = self._answers.pop(0)
        if isinstance(answer, DriverError):
            raise answer
        return answer


def chunk(number: int) -> StoredChunk:
    return StoredChunk(f"5-{number}", 1, "json", str(number).encode())


def waiting(pages: Pages) -> int:
    """How many readers wait for another one's query."""
    (reading,) = pages._under_way.values()
    return reading.is_over.statistics().tasks_waiting


async def follow(pages: Pages, into: list[int]) -> None:
    async for some in pages.following("job", ""):
        into += [each.data for each in some]


async def test_a_query_that_was_sent_before_does_not_answer_a_reader_that_comes_later() -> None:
    driver, first, second, third = Reads(), list[int](), list[int](), list[int]()
    pages = Pages(driver, print)  # type: ignore[arg-type]
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(follow, pages, first)
        await eventually(lambda: driver.asked)
        tasks.start_soon(follow, pages, second)
        tasks.start_soon(follow, pages, third)
        await eventually(lambda: waiting(pages) == 2)
        driver.answer(Chunks([chunk(1)]))
        await eventually(lambda: len(driver.asked) == 2)
        driver.answer(Chunks([chunk(1), chunk(2)]))

    assert (first, second, third) == ([1], [1, 2], [1, 2])
    assert len(driver.asked) == 2


async def test_a_reader_that_leaves_or_fails_leaves_its_query_to_the_next() -> None:
    driver, seen = Reads(), list[int]()
    pages = Pages(driver, print)  # type: ignore[arg-type]
    async with anyio.create_task_group() as tasks:
        async with anyio.create_task_group() as leaves:
            leaves.start_soon(follow, pages, [])
            await eventually(lambda: driver.asked)
            tasks.start_soon(follow, pages, seen)
            await eventually(lambda: waiting(pages) == 1)
            leaves.cancel_scope.cancel()
        driver.answer(Unavailable("away"))
        driver.answer(Chunks([chunk(1)]))

    assert seen == [1]


async def test_a_chunk_that_was_changed_in_redis_is_an_error(redis_store: RedisStore) -> None:
    async with JobQueue(redis_store.url, redis_store.queue_name) as queue:
        key = f"{redis_store.prefix}chunks:job"
        redis_store.admin.xadd(key, {"run": "1", "wait": "0", "at": "0", "json": "{"}, id="5-1")
        redis_store.admin.pexpire(key, 60_000)
        with pytest.raises(DecodeError, match="chunk 5-1"):
            await numbers(queue, "job", [])


# Sync code


@pytest.fixture
def sync_queue(store: Store) -> Iterator[SyncJobQueue]:
    where = store.url if isinstance(store, RedisStore) else store.driver
    with SyncJobQueue(where, store.queue_name) as queue:
        yield queue


async def test_sync_code_reads_likewise(sync_queue: SyncJobQueue) -> None:
    counter, seen = Counter(), list[Chunk]()
    handle = sync_queue.job(name="count")(counter.count).push()
    reading = threading.Thread(target=lambda: seen.extend(handle.stream()))
    reading.start()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(Worker(sync_queue).run)
        await counter.send.send(5)
        counter.send.close()
        await anyio.to_thread.run_sync(reading.join)
        tasks.cancel_scope.cancel()
    await sync_queue._disconnect()

    assert [chunk.data for chunk in seen] == [1, 2, 3, 4, 5]
    rest = await anyio.to_thread.run_sync(lambda: [*sync_queue.stream(handle, after=seen[2].id)])
    assert [chunk.data for chunk in rest] == [4, 5]


@pytest.mark.slow
async def test_sync_code_that_closes_the_queue_reads_on(sync_queue: SyncJobQueue) -> None:
    counter, seen = Counter(), list[int]()
    reading = sync_queue.job(name="count")(counter.count).push().stream()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(Worker(sync_queue).run)
        for many in (1, 2, 3):
            await counter.send.send(many)
            for _ in range(many):
                seen.append((await anyio.to_thread.run_sync(next, reading)).data)
                await anyio.to_thread.run_sync(sync_queue.close)
        counter.send.close()
        seen += [chunk.data for chunk in await anyio.to_thread.run_sync(list, reading)]
        tasks.cancel_scope.cancel()
    await sync_queue._disconnect()

    assert seen == [1, 2, 3, 4, 5, 6]
