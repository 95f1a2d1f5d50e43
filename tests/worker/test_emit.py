"""What a handler emits: its readers get all of it before the job has ended, each chunk once for each run."""

import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import process_handlers
import pytest
from each_setting import store as store
from results import drain
from store import MemoryStore, RedisStore, Store
from tenacity import stop_after_attempt, wait_none

from redisjobs import JobContext, JobQueue, Worker, no_retry
from redisjobs.drivers.memory.driver import MemoryConsumer
from redisjobs.drivers.redis.consumer import RedisConsumer
from redisjobs.errors import ChunksFull, ChunksLost, EncodeError, Unavailable
from redisjobs.model.chunks import Chunk
from redisjobs.model.emissions import LARGEST_CHUNK, MOST_CHUNKS, ChunkKind, EmitChunks, NewChunk
from redisjobs.model.retry import RetryPolicy
from redisjobs.model.transitions import Exchange, Release, Reply, SaveStep, Settlements
from redisjobs.worker.running.outbox import ChunkOutbox, Part, Room

pytestmark = pytest.mark.anyio

AT_ONCE = RetryPolicy(wait=wait_none(), stop=stop_after_attempt(3))


async def streamed(queue: JobQueue, job_id: str) -> list[Chunk]:
    with anyio.fail_after(20):
        return [chunk async for chunk in queue.stream(job_id)]


async def emitted(queue: JobQueue, job_id: str) -> list[Any]:
    """What the readers of a job that has ended get."""
    return [chunk.data for chunk in await streamed(queue, job_id)]


@pytest.mark.parametrize("end", ["done", "with a result", "pushes", "dead", "cancelled"])
async def test_all_that_a_job_emits_is_there_before_it_ends_in_its_order(queue: JobQueue, end: str) -> None:
    @queue.job
    async def following() -> None: ...

    @queue.job(retry=no_retry(), keep_result=60 if end == "with a result" else None)
    async def work(context: JobContext) -> int:
        context.emit("a")
        context.emit({"pages": [1, None, 2.5]})
        await anyio.lowlevel.checkpoint()
        context.emit(b"\x00\xff")
        context.emit(bytearray(b"more"))
        if end == "pushes":
            context.push(following.prepare())
        if end == "cancelled":
            await handle.cancel()
            await anyio.sleep_forever()
        if end == "dead":
            raise ValueError
        return 5

    handle = await work.push()
    await drain(queue)

    assert await emitted(queue, handle.id) == ["a", {"pages": [1, None, 2.5]}, b"\x00\xff", b"more"]


async def test_a_chunk_of_a_job_that_goes_on_comes_soon_without_any_other_exchange(queue: JobQueue) -> None:
    seen = anyio.Event()

    @queue.job
    async def work(context: JobContext) -> None:
        await anyio.sleep(0.3)
        context.emit(time.monotonic())
        await seen.wait()

    handle = await work.push()
    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(Worker(queue).run)
            async for chunk in handle.stream():
                assert (
                    time.monotonic() - chunk.data < 2
                )  # a quarter of a second on a machine that does nothing else
                seen.set()
            tasks.cancel_scope.cancel()


@pytest.mark.parametrize(
    "chunk", [object(), float("nan"), {1: 2}, (1, 2), "x" * LARGEST_CHUNK, bytes(LARGEST_CHUNK + 1)]
)
async def test_what_can_t_be_a_chunk_is_refused_where_it_is_emitted(queue: JobQueue, chunk: Any) -> None:
    @queue.job
    async def work(context: JobContext) -> None:
        with pytest.raises(EncodeError, match="the chunk"):
            context.emit(chunk)
        context.emit("so")

    handle = await work.push()
    await drain(queue)
    assert await emitted(queue, handle.id) == ["so"]


async def test_a_run_that_starts_over_emits_again_under_the_next_number(queue: JobQueue) -> None:
    @queue.job(retry=AT_ONCE)
    async def work(context: JobContext) -> None:
        context.emit("top")
        if context.attempt < 3:
            raise ValueError
        context.emit("end")

    handle = await work.push()
    await drain(queue)

    chunks = await streamed(queue, handle.id)
    assert [(chunk.run, chunk.data) for chunk in chunks] == [(1, "top"), (2, "top"), (3, "top"), (3, "end")]


async def test_a_run_after_a_wait_emits_only_what_is_new_under_the_number_of_the_one_before(
    queue: JobQueue,
) -> None:
    @queue.job
    async def work(context: JobContext) -> None:
        context.emit("top")
        await context.step("one", lambda: 1)
        context.emit("between")
        try:
            await context.sleep(0.01)
        finally:
            context.emit("in a finally")
        context.emit("after the wait")
        await context.step("two", lambda: 2)
        await context.wait_for("signal")
        context.emit("end")

    handle = await work.push()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(Worker(queue).run)
        await handle.signal("signal")
        chunks = await streamed(queue, handle.id)
        tasks.cancel_scope.cancel()

    assert [chunk.data for chunk in chunks] == ["top", "between", "in a finally", "after the wait", "end"]
    assert {chunk.run for chunk in chunks} == {1}


async def test_a_run_that_fails_after_a_step_emits_again_from_there(queue: JobQueue) -> None:
    @queue.job(retry=AT_ONCE)
    async def work(context: JobContext) -> None:
        context.emit("top")
        await context.step("one", lambda: 1)
        context.emit(f"attempt {context.attempt}")
        await context.step("two", emits, context)
        if context.attempt < 2:
            raise ValueError

    def emits(context: JobContext) -> None:
        context.emit("in a step")
        if context.attempt < 2:
            raise ValueError

    handle = await work.push()
    await drain(queue)

    chunks = await streamed(queue, handle.id)
    assert [(chunk.run, chunk.data) for chunk in chunks] == [
        (1, "top"),
        (1, "attempt 1"),
        (1, "in a step"),
        (2, "attempt 2"),
        (2, "in a step"),
    ]


async def test_a_run_whose_worker_was_lost_is_told_apart_from_the_next(queue: JobQueue, store: Store) -> None:
    @queue.job
    async def work(context: JobContext) -> None:
        context.emit(context.deliveries)

    handle = await work.push()
    lost = store.consumer("lost")
    (lease,) = (await lost.exchange([], 1)).leases
    chunk = NewChunk(ChunkKind.JSON, b"1")
    await lost.exchange([(lease, EmitChunks([chunk], 0)), (lease, Release(refund=False))], None)
    await lost.aclose()
    await drain(queue)

    assert [(chunk.run, chunk.data) for chunk in await streamed(queue, handle.id)] == [(1, 1), (2, 2)]


async def test_chunks_whose_answer_was_lost_are_sent_again_and_not_doubled(
    queue: JobQueue, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind: Any = MemoryConsumer if isinstance(store, MemoryStore) else RedisConsumer
    exchange, lost = kind.exchange, list[int]()

    async def lose_some(self: Any, settlements: Settlements, *arguments: Any, **options: Any) -> Exchange:
        answer: Exchange = await exchange(self, settlements, *arguments, **options)
        many = sum(isinstance(settlement, EmitChunks) for _, settlement in settlements)
        if many and len(lost) < 3:
            lost.append(many)
            raise Unavailable("lost")
        return answer

    monkeypatch.setattr(kind, "exchange", lose_some)

    @queue.job
    async def work(context: JobContext) -> None:
        for number in range(2500):
            context.emit(number)
            if number % 500 == 0:
                await anyio.sleep(0.02)

    handle = await work.push()
    await drain(queue)

    assert len(lost) == 3
    assert await emitted(queue, handle.id) == [*range(2500)]


async def test_a_handler_in_a_thread_waits_while_there_is_no_room_and_nothing_is_left_out(queue: JobQueue) -> None:
    many = 3 * MOST_CHUNKS

    @queue.job
    def work(context: JobContext) -> None:
        for number in range(many):
            context.emit(number)

    handle = await work.push()
    await drain(queue)

    with pytest.raises(ChunksLost) as caught:
        await streamed(queue, handle.id)
    assert caught.value.lost == many - MOST_CHUNKS
    kept = [chunk.data async for chunk in handle.stream(after=caught.value.after)]
    assert kept == [*range(many - MOST_CHUNKS, many)]


async def test_an_async_handler_that_emits_too_much_at_once_gets_an_error(queue: JobQueue) -> None:
    @queue.job
    async def work(context: JobContext) -> None:
        for number in range(MOST_CHUNKS):
            context.emit(number)
        with pytest.raises(ChunksFull, match="10,000 chunks"):
            context.emit("one more")

    handle = await work.push()
    await drain(queue)
    assert await emitted(queue, handle.id) == [*range(MOST_CHUNKS)]


async def test_a_handler_that_waits_for_room_ends_with_its_time(
    queue: JobQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = threading.Event()
    monkeypatch.setattr(ChunkOutbox, "_is_full", lambda self, chunk: True)

    @queue.job(timeout=0.1, retry=no_retry())
    def work(context: JobContext) -> None:
        context.emit("waits")
        ended.set()

    await work.push()
    await drain(queue)

    assert await anyio.to_thread.run_sync(ended.wait, 10)
    assert (await queue.control.counts()).dead == 1


@pytest.mark.slow
async def test_a_handler_in_a_process_emits_too(queue: JobQueue, tmp_path: Path) -> None:
    processes = process_handlers.queue_of(queue.driver, queue.name, keep_result=60)
    handle = await processes.push(process_handlers.Do("emit", str(tmp_path)))
    await drain(processes)

    assert await handle.result() is None
    with pytest.raises(ChunksLost) as caught:
        await streamed(queue, handle.id)
    chunks = [chunk.data async for chunk in handle.stream(after=caught.value.after)]
    assert chunks == [*range(2_001, 12_000), "é\0".encode()]


async def test_what_is_emitted_once_the_run_is_over_is_ignored(queue: JobQueue) -> None:
    contexts = list[JobContext]()

    @queue.job
    async def work(context: JobContext) -> None:
        contexts.append(context)

    handle = await work.push()
    await drain(queue)
    contexts[0].emit("late")

    assert await emitted(queue, handle.id) == []


async def test_a_worker_that_stops_sends_what_a_handler_emitted_before_it_ended(queue: JobQueue) -> None:
    @queue.job
    async def work(context: JobContext) -> None:
        for number in range(9_000):
            context.emit(number)
        worker.stop()

    worker = Worker(queue)
    handle = await work.push()
    with anyio.fail_after(20):
        await worker.run()

    assert await emitted(queue, handle.id) == [*range(9_000)]
    assert await queue.get(handle.id) is None


async def test_chunks_are_kept_for_a_minute_after_the_end_or_as_long_as_the_result(
    redis_store: RedisStore,
) -> None:
    async with JobQueue(redis_store.driver, redis_store.queue_name) as queue:

        @queue.job(name="work")
        async def work(context: JobContext) -> None:
            context.emit(1)

        for job_id, keep in (("short", 1), ("long", 3600), ("none", None)):
            await queue.push({}, "work", job_id=job_id, keep_result=keep)
        await drain(queue)
        keys = redis_store.keys()

    assert 0 < keys["chunks:short"] <= 60_000
    assert 60_000 < keys["chunks:long"] <= 3_600_000
    assert 0 < keys["chunks:none"] <= 60_000


# What waits in the worker


def small(text: str) -> NewChunk:
    return NewChunk(ChunkKind.BYTES, text.encode())


def ignore(reply: Reply, added: Sequence[bool]) -> None:
    pass


def test_a_step_is_saved_behind_the_chunks_that_were_emitted_before_it() -> None:
    outbox = ChunkOutbox(7)
    step = SaveStep("charge", 1, b"1")
    outbox.add(small("a"), may_wait=False)
    outbox.write(Part(step, ignore))
    outbox.add(small("b"), may_wait=False)
    outbox.add(small("c"), may_wait=False)

    taken = [each.settlement for each in outbox.take(10, Room())]

    assert taken == [EmitChunks([small("a")], 7), step, EmitChunks([small("b"), small("c")])]
    assert (outbox.under_way, outbox.is_empty) == (3, False)


def test_an_exchange_takes_a_limited_number_of_chunks_and_bytes_in_their_order() -> None:
    outbox, large = ChunkOutbox(0), "x" * LARGEST_CHUNK
    texts = [*(str(number) for number in range(1500)), *[large] * 6, "end"]
    for text in texts:
        outbox.add(small(text), may_wait=False)

    taken = list[list[NewChunk]]()
    while outbox.has_some:
        (part,) = outbox.take(10, Room())
        assert isinstance(part.settlement, EmitChunks)
        taken.append([*part.settlement.chunks])
        part.answered(Reply.OK, [])

    assert [chunk for each in taken for chunk in each] == [small(text) for text in texts]
    assert [len(each) for each in taken] == [1000, 503, 3 + 1]


def test_room_is_free_again_once_the_store_has_the_chunks() -> None:
    outbox = ChunkOutbox(0)
    for number in range(MOST_CHUNKS):
        outbox.add(small(str(number)), may_wait=False)
    (part,) = outbox.take(1, Room())
    with pytest.raises(ChunksFull):
        outbox.add(small("no"), may_wait=False)

    part.answered(Reply.OK, [])

    outbox.add(small("yes"), may_wait=False)


def test_many_chunks_are_urgent_and_few_are_not() -> None:
    outbox = ChunkOutbox(0)
    news = [outbox.add(small("x"), may_wait=False) for _ in range(600)]
    assert [at for at, is_news in enumerate(news) if is_news] == [0, 499]
    assert outbox.is_urgent
