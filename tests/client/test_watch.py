"""Watching a job: a watcher gets what it reports, until the job has ended."""

import gc
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import anyio
import anyio.to_thread
import pytest
from results import forget_waiting_threads, waiting_threads
from store import RedisStore, Store, eventually

from redisjobs import JobContext, JobQueue, Progress, Worker, no_retry
from redisjobs.sync import JobQueue as SyncJobQueue

pytestmark = pytest.mark.anyio


class Steps:
    """A handler that reports and ends as the test says."""

    def __init__(self) -> None:
        self.send, self._receive = anyio.create_memory_object_stream[float](10)

    async def run(self, context: JobContext) -> None:
        async with self._receive:
            async for fraction in self._receive:
                context.progress(fraction, "so far")


async def until(seen: list[float | None], fraction: float) -> None:
    await eventually(lambda: bool(seen) and seen[-1] == fraction)


@pytest.mark.slow
async def test_who_watches_a_job_sees_what_it_reports_and_that_it_ends(queue: JobQueue) -> None:
    steps, seen, late = Steps(), list[float | None](), list[float | None]()
    job = queue.job(name="work")(steps.run)
    handle = await job.push()

    async def watch(into: list[float | None]) -> None:
        async for progress in handle.watch():
            assert progress.note == "so far"
            into.append(progress.fraction)
        into.append(None)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(Worker(queue).run)
        tasks.start_soon(watch, seen)
        await steps.send.send(0.25)
        await until(seen, 0.25)
        await steps.send.send(0.5)
        await until(seen, 0.5)
        tasks.start_soon(watch, late)
        await until(late, 0.5)  # the last that is known
        steps.send.close()
        await eventually(lambda: seen[-1] is None and late[-1] is None)
        tasks.cancel_scope.cancel()

    assert (seen, late) == ([0.25, 0.5, None], [0.5, None])


@pytest.mark.parametrize("end", ["done", "done, with a result", "done, and pushes", "dead", "cancelled"])
async def test_who_watches_a_job_sees_what_it_reported_last_before_it_ended(queue: JobQueue, end: str) -> None:
    seen, watching, go_on = list[float | None](), anyio.Event(), anyio.Event()

    @queue.job
    async def following() -> None: ...

    @queue.job(retry=no_retry(), keep_result=60 if end.endswith("result") else None)
    async def work(context: JobContext) -> None:
        context.progress(0.5)
        await go_on.wait()
        for done in range(5, 10):
            context.progress(done, 10)
        if end.endswith("pushes"):
            context.push(following.prepare())
        context.progress(1.0)
        if end == "dead":
            raise ValueError
        if end == "cancelled":
            await handle.cancel()
            await anyio.sleep_forever()

    handle = await work.push()

    async def watch() -> None:
        async for progress in handle.watch():
            seen.append(progress.fraction)
            watching.set()
        tasks.cancel_scope.cancel()

    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(Worker(queue).run)
            tasks.start_soon(watch)
            await watching.wait()
            go_on.set()

    assert (seen[0], seen[-1]) == (0.5, 1.0)
    assert [each.fraction async for each in handle.watch()] == [1.0]  # also for who comes a moment later


async def test_what_a_job_has_reported_is_gone_a_minute_after_its_end(redis_store: RedisStore) -> None:
    async with JobQueue(redis_store.driver, redis_store.queue_name) as queue:

        @queue.job(keep_result=3600)
        async def work(context: JobContext) -> None:
            context.progress(1.0)

        handle = await work.push()
        await Worker(queue).run(until_idle=True)
        assert 0 < redis_store.keys()[f"progress:{handle.id}"] <= 60_000


async def test_a_job_that_has_ended_or_never_was_has_nothing_to_watch(queue: JobQueue) -> None:
    assert [progress async for progress in queue.watch("never")] == []


async def test_a_watcher_that_stops_leaves_the_job_and_the_others_alone(queue: JobQueue) -> None:
    steps, seen = Steps(), list[float | None]()
    handle = await queue.job(name="work", keep_result=60)(steps.run).push()

    async def watch_once() -> None:
        async for progress in handle.watch():
            seen.append(progress.fraction)
            break

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(Worker(queue).run)
        tasks.start_soon(watch_once)
        await steps.send.send(0.25)
        await until(seen, 0.25)
        steps.send.close()
        with anyio.fail_after(10):
            await handle.result()
        tasks.cancel_scope.cancel()

    assert seen == [0.25]


async def test_reports_of_a_job_that_no_one_watches_are_there_for_who_comes_later(queue: JobQueue) -> None:
    reported = anyio.Event()
    go_on = anyio.Event()

    @queue.job
    async def work(context: JobContext) -> None:
        context.progress(3, 4)
        reported.set()
        await go_on.wait()

    handle = await work.push()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(Worker(queue).run)
        await reported.wait()
        with anyio.fail_after(10):
            async for progress in handle.watch():
                assert progress == Progress(0.75, 3, 4)
                go_on.set()
        tasks.cancel_scope.cancel()


async def test_sync_code_watches_likewise(store: Store) -> None:
    where = store.url if isinstance(store, RedisStore) else store.driver
    seen: list[float | None] = []
    with SyncJobQueue(where, store.queue_name) as queue:
        steps = Steps()
        handle = queue.job(name="work")(steps.run).push()

        def watch() -> None:
            for progress in handle.watch():
                seen.append(progress.fraction)
            seen.append(None)

        watching = threading.Thread(target=watch)
        watching.start()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(Worker(queue).run)
            await steps.send.send(0.25)
            await until(seen, 0.25)
            steps.send.close()
            await anyio.to_thread.run_sync(watching.join)
            tasks.cancel_scope.cancel()
        await queue._disconnect()

    assert seen == [0.25, None]


@pytest.fixture
def sync_queue(store: Store) -> Iterator[SyncJobQueue]:
    forget_waiting_threads()
    where = store.url if isinstance(store, RedisStore) else store.driver
    with SyncJobQueue(where, store.queue_name) as queue:
        yield queue


@pytest.mark.slow
async def test_sync_code_that_closes_the_queue_watches_on(sync_queue: SyncJobQueue) -> None:
    steps = Steps()
    watching = sync_queue.job(name="work")(steps.run).push().watch()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(Worker(sync_queue).run)
        for fraction in (0.25, 0.5):
            await steps.send.send(fraction)
            assert (await anyio.to_thread.run_sync(next, watching)).fraction == fraction
            await anyio.to_thread.run_sync(sync_queue.close)
        steps.send.close()
        assert await anyio.to_thread.run_sync(list, watching) == []
        tasks.cancel_scope.cancel()
    await sync_queue._disconnect()


async def test_sync_code_that_leaves_off_watching_is_forgotten(sync_queue: SyncJobQueue) -> None:
    steps = Steps()
    watching = [sync_queue.job(name="work")(steps.run).push().watch()]
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(Worker(sync_queue).run)
        await steps.send.send(0.25)
        await anyio.to_thread.run_sync(lambda: next(watching[0]))  # an idle thread keeps what it was given
        (waiting,) = sync_queue._waitings._by_loop.values()
        assert len(waiting._waiters) == 1
        watching.clear()
        gc.collect()
        await eventually(lambda: not waiting._waiters)
        steps.send.close()
        tasks.cancel_scope.cancel()
    await sync_queue._disconnect()


async def test_an_iterator_that_outlives_its_queue_begins_no_thread(sync_queue: SyncJobQueue) -> None:
    steps = Steps()
    watching = [sync_queue.job(name="work")(steps.run).push().watch()]
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(Worker(sync_queue).run)
        await steps.send.send(0.25)
        await anyio.to_thread.run_sync(lambda: next(watching[0]))
        steps.send.close()
        await eventually(lambda: not sync_queue.control.counts().running)
        tasks.cancel_scope.cancel()
    await sync_queue._disconnect()
    watching.clear()
    gc.collect()
    assert not waiting_threads()


OUTLIVES = """
import anyio, sys, threading
from redisjobs import JobContext, Worker
from redisjobs.sync import JobQueue

queue = JobQueue("memory://")

@queue.job
async def work(context: JobContext) -> None:
    context.progress(0.5)
    await anyio.to_thread.run_sync(seen.wait)

seen = threading.Event()
watching = work.push().watch()
worker = threading.Thread(target=lambda: anyio.run(lambda: Worker(queue).run(until_idle=True)))
worker.start()
assert next(watching).fraction == 0.5
seen.set()
worker.join()
if sys.argv[1] == "closed":
    queue.close()
print("the end")
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", ["closed", "left open"])
def test_an_iterator_that_outlives_its_queue_lets_the_process_end(how: str, project: Path) -> None:
    command = [sys.executable, "-W", "error", "-c", OUTLIVES, how]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout, done.stderr) == (0, "the end\n", "")


async def test_what_was_written_with_redis_cli_for_progress_is_no_progress(redis_store: RedisStore) -> None:
    async with JobQueue(redis_store.url, redis_store.queue_name) as queue:

        @queue.job
        async def work() -> None: ...

        handle = await work.push()
        redis_store.admin.set(f"{redis_store.prefix}progress:{handle.id}", "junk", px=60_000)
        seen: list[Progress] = []

        async def watch() -> None:
            seen.extend([progress async for progress in handle.watch()])

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(watch)
            await Worker(queue).run(until_idle=True)

    assert seen == []
