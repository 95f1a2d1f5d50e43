"""A worker that was fenced, or whose answers were lost as it began, goes on: with none of its old jobs."""

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import anyio
import pytest
from store import Heart, RedisStore, Store, dispatch, eventually, happened, inherit

from redisjobs.errors import Unavailable
from redisjobs.model.changes import Cancel
from redisjobs.model.context import JobContext
from redisjobs.model.driver import Fenced
from redisjobs.model.job import Priority
from redisjobs.model.queries import Count
from redisjobs.model.transitions import Ack, Exchange, NewJob, Reply, Settlements
from redisjobs.queue import JobQueue
from redisjobs.worker.run import WorkerRun
from redisjobs.worker.running.contexts import Contexts
from redisjobs.worker.running.execution import Execution, HandlerRuntime
from redisjobs.worker.source.batcher import Batch
from redisjobs.worker.source.settler import Settler
from redisjobs.worker.source.source import Source
from redisjobs.worker.worker import Worker

pytestmark = pytest.mark.anyio

JOB = ["name", "work", "parameters", '{"number": 1}']


@dataclass
class Long:
    job_name: ClassVar[str] = "long"


@pytest.fixture
async def queue(store: Store) -> AsyncIterator[JobQueue]:
    async with JobQueue(store.driver, store.queue_name) as queue:

        @queue.job(name="work")
        async def work(number: int) -> None:
            pass

        yield queue


@pytest.fixture
def slots() -> int:
    return 2


async def test_what_a_read_of_the_old_id_brings_while_a_worker_goes_on_is_not_run(
    queue: JobQueue, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = source.member.consumer.worker_id
    await queue.driver.push([NewJob("a", JOB)], repeated=False)
    late = await source.member.consumer.wait(1, 1)
    end = source.fetcher.end

    async def end_with_a_reply() -> None:
        dispatch(source, late)
        await end()

    monkeypatch.setattr(source.fetcher, "end", end_with_a_reply)
    await source.recovery.rejoin(Fenced(old))

    assert source.member.consumer.worker_id != old
    assert (source.leases.all, source.settler._pool.slots.held) == ([], 0)
    (lease,) = (await source.member.consumer.exchange([], 1)).leases  # it was handed back, for anybody
    assert lease.deliveries == 2
    dispatch(source, [lease])
    assert [held.lease.key for held in source.leases] == [lease.key]


async def test_a_worker_that_is_cut_off_as_soon_as_it_has_joined_runs_jobs_under_its_new_id(
    queue: JobQueue, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, join = source.member.consumer.worker_id, source.member.consumer.open

    async def join_and_hang(worker_id: str = "") -> list[str]:
        await join(worker_id)
        await anyio.sleep_forever()
        return []

    monkeypatch.setattr(source.member.consumer, "open", join_and_hang)
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(source.recovery.rejoin, Fenced(old))
            await eventually(lambda: source.member.consumer.worker_id != old)
            scope.cancel()

    assert source.member.settings.worker_id == source.member.consumer.worker_id
    await queue.driver.push([NewJob("a", JOB)], repeated=False)
    dispatch(source, (await source.member.consumer.exchange([], 1)).leases)
    assert len(source.leases) == 1


async def test_a_worker_whose_first_id_was_fenced_before_it_heard_that_it_had_joined_takes_another(
    queue: JobQueue, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = Worker(queue)
    first, tries = worker.worker_id, list[str]()
    worker_run = WorkerRun([replace(worker.settings, until_idle=True)])
    (source,) = worker_run.sources
    join = source.member.consumer.open

    async def join_unheard(worker_id: str = "") -> list[str]:
        tries.append(worker_id)
        said = await join(worker_id)
        if len(tries) == 1:
            await source.member.consumer.release(refund=False, watch=True)
            raise Unavailable("the reply was lost, as the test says")
        return said

    monkeypatch.setattr(source.member.consumer, "open", join_unheard)
    await source.member.join()

    assert tries[:2] == [first, first]
    assert tries[2] != first
    assert source.member.settings.worker_id == source.member.consumer.worker_id == tries[2]
    await source.member.consumer.aclose()


async def test_a_worker_leaves_no_connection_open_though_no_one_closes_its_queue(redis_store: RedisStore) -> None:
    queue = JobQueue(redis_store.url, redis_store.queue_name)
    worker = Worker(queue)
    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(worker.run)
            await eventually(lambda: worker._current and worker._current.sources[0].fetcher.waiting)
            assert worker._current is not None
            (source,) = worker._current.sources
            source.reclaimer.tidy_at = 0.0
            source.fetcher.interrupt()
            await eventually(lambda: source.reclaimer.tidy_at > 0)
            worker.stop()

    def connections() -> list[Any]:
        return [each for each in redis_store.admin.client_list() if each["user"] == redis_store.user]

    await eventually(lambda: not connections())


async def test_two_workers_of_one_name_run_at_once_and_each_settles_its_own_jobs(
    queue: JobQueue, store: Store
) -> None:
    runs, may_end = list[str](), anyio.Event()

    @queue.job()
    async def hold(context: JobContext) -> None:
        runs.append(context.worker_id)
        await may_end.wait()

    workers = [Worker(queue, concurrency=1, worker_id="web-0") for _ in range(2)]
    async with anyio.create_task_group() as tasks:
        for worker in workers:
            tasks.start_soon(worker.run)
        for _ in workers:
            await hold.push()
        await eventually(lambda: len(runs) == 2)
        may_end.set()
        await hold.push()
        await eventually(lambda: len(runs) == 3)
        for worker in workers:
            worker.stop()

    assert set(runs) == {worker.worker_id for worker in workers}
    assert {name.partition(":")[0] for name in runs} == {"web-0"}
    assert happened(await queue.driver.read(Count())) == {"pushed": 3, "completed": 3}


async def test_what_has_ended_is_noted_only_while_missed_jobs_are_looked_for(
    queue: JobQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    noted: list[object] = []
    forget = Settler._forget

    def spy(settler: Settler, run: Execution) -> None:
        forget(settler, run)
        noted.append(settler._leases._ended)

    monkeypatch.setattr(Settler, "_forget", spy)
    await queue.driver.push([NewJob(f"job-{n}", JOB) for n in range(20)], repeated=False)
    await Worker(queue).run(until_idle=True)

    assert noted == [None] * 20


async def test_a_stream_that_lost_count_says_whether_there_is_more_and_no_more_than_that(
    redis_store: RedisStore,
) -> None:
    """The server loses count of entries that were cancelled before they were delivered, or removed as they ran."""
    store, worker = redis_store, redis_store.consumer("w")
    await store.driver.push([NewJob(job_id, JOB) for job_id in "abcdef"], repeated=False)
    held = (await worker.exchange([], 3)).leases
    store.admin.xdel(store.stream(Priority.NORMAL), *(lease.token[1] for lease in held))
    assert await store.driver.change(Cancel("e")) is Reply.CANCELLED

    assert (await worker.exchange([], 0)).more
    taken = [lease.job_id for lease in (await worker.exchange([], 9)).leases]
    last = await worker.exchange([], 9)

    assert taken == ["d", "f"]
    assert (list(last.leases), last.more) == ([], False)
    await worker.aclose()
    await store.driver.aclose()
    store.admin.hdel(f"{store.prefix}jobs", "a", "b", "c")


async def test_a_dead_worker_of_a_short_lease_is_found_after_the_clock_was_set_back(
    redis_store: RedisStore,
) -> None:
    """Its beat lies in the future, but not later than a beat of the one who looks may lie."""
    store = redis_store
    store.consumer("dead", lease=2)
    heir = store.consumer("heir", lease=60)
    store.clock.step(-50)

    await heir.reclaim(thorough=True)

    store.clock.step(3)
    assert [silent.worker_id for silent in (await heir.reclaim()).silent] == ["dead"]
    await heir.aclose()


# What a lost reply brought


async def test_a_cancel_from_before_a_worker_knew_of_its_job_is_heard_once_the_job_is_found(store: Store) -> None:
    worker = store.consumer("w")
    await worker.open()
    heart = Heart(worker)
    await store.driver.push([NewJob("a", JOB)], repeated=False)
    await worker.wait(1, 1)  # whose reply is lost, let us say
    assert await store.driver.change(Cancel("a")) is Reply.CANCELLING
    for _ in range(10):  # as often as a worker looks for a job that it does not hold, and more
        assert not heart.beat(list, {})

    (found,) = await worker.recover([])

    assert heart.beat(lambda: [found], {}) == [found]
    heart.close()
    await worker.exchange([(found, Ack())], 0)
    await worker.aclose()
    await store.driver.aclose()


async def test_a_job_that_was_found_and_has_run_is_not_run_again_by_the_late_reply_that_brought_it(
    queue: JobQueue, source: Source, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source.member.clock, "is_trusted", lambda lease, now: True)
    await queue.driver.push([NewJob("a", JOB)], repeated=False)
    asked_at = time.monotonic()
    late = await source.member.consumer.wait(1, 1)
    store.age(source.member.settings.lease + 1)

    await source.recovery.find_missed()

    (run,) = source.leases
    assert run.lease.job_id == "a"
    source.settler._forget(run)
    dispatch(source, late, asked_at)
    assert source.leases.all == []
    dispatch(source, late, time.monotonic())  # asked for since: a delivery of its own
    assert [held.lease.key for held in source.leases] == [run.lease.key]


@pytest.mark.parametrize("lost", [True, False])
async def test_a_worker_whose_read_may_still_be_served_is_looked_after_when_it_has_left(
    redis_store: RedisStore, lost: bool
) -> None:
    async with JobQueue(redis_store.driver, redis_store.queue_name) as queue:
        worker = Worker(queue)
        worker_run = WorkerRun([worker.settings])
        (source,) = worker_run.sources
        worker_run.pool.runtime = HandlerRuntime(Contexts(), worker_run.pool.deadlines, worker_run.threads, None)
        await source.member.join()
        source.member.opened = True
        if lost:
            source.exchanger.failed(Batch([], 1), Unavailable("the reply was lost, as the test says"))
            await source.recovery.recover()
        await worker_run._close()

        assert bool(redis_store.admin.exists(f"{redis_store.prefix}fenced")) is lost
        if lost:
            redis_store.put({"name": "work", "parameters": '{"number": 1}'})
            redis_store.admin.xreadgroup("workers", worker.worker_id, {redis_store.stream(): ">"})
            redis_store.clock.step(source.member.settings.lease)
            heir = redis_store.consumer("heir")
            (lease,) = await inherit(heir)
            await heir.exchange([(lease, Ack())], 0)
            await heir.aclose()


# How it hears of a fence


async def fence(store: Store, worker_id: str) -> None:
    heir = store.driver.consumer(worker_id, lease=5, max_deliveries=3)
    await heir.release(refund=False, watch=True)
    await heir.aclose()


@pytest.mark.slow
async def test_a_fenced_worker_cancels_its_handlers_though_a_call_of_its_own_hangs(
    queue: JobQueue, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    started, cancelled, hangs = anyio.Event(), anyio.Event(), anyio.Event()

    @queue.register(Long)
    async def run(_: Long) -> None:
        started.set()
        try:
            await anyio.sleep_forever()
        finally:
            cancelled.set()

    async def hang(*_: object, **__: object) -> None:
        hangs.set()
        await anyio.sleep_forever()

    worker = Worker(queue, lease=1)
    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(worker.run)
            await queue.push(Long())
            await started.wait()
            assert worker._current is not None
            monkeypatch.setattr(worker._current.sources[0].member.consumer, "reclaim", hang)
            await hangs.wait()
            await fence(store, worker.worker_id)
            worker._current.sources[0].beats.heartbeat.hurry()

            await cancelled.wait()
            worker.stop_now()


async def test_once_a_worker_has_heard_that_it_was_fenced_it_begins_no_job(
    queue: JobQueue, source: Source
) -> None:
    """It may hear of it while a call of its own is under way, and a read of its old id may still be served."""
    await queue.driver.push([NewJob("a", JOB)], repeated=False)
    leases = await source.member.consumer.wait(1, 1)

    source.beats.note_fenced(Fenced(source.member.consumer.worker_id))
    dispatch(source, leases, time.monotonic())

    assert (source.leases.all, source.settler._pool.slots.held) == ([], 0)
    await source.recovery.rejoin(Fenced(source.member.consumer.worker_id))
    dispatch(source, (await source.member.consumer.exchange([], 1)).leases)
    assert len(source.leases) == 1


async def test_a_settlement_of_which_no_answer_came_is_not_counted_as_refused(
    queue: JobQueue, store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("WARNING")
    worker_run = WorkerRun([replace(Worker(queue).settings, until_idle=True)])
    (source,) = worker_run.sources
    exchange, lost = source.member.consumer.exchange, list[str]()

    async def lose_one(settlements: Settlements, count: int, **options: Any) -> Exchange:
        answer = await exchange(settlements, count, **options)
        if settlements and not lost:
            lost.append(source.member.consumer.worker_id)
            await source.member.consumer.release(refund=False, watch=True)  # fenced before it hears the answer
            raise Unavailable("the reply was lost, as the test says")
        return answer

    monkeypatch.setattr(source.member.consumer, "exchange", lose_one)
    await queue.driver.push([NewJob("a", JOB)], repeated=False)
    await worker_run.run()

    assert lost != [source.member.settings.worker_id]
    assert happened(await queue.control.counts()) == {"pushed": 1, "completed": 1}
    assert source.settler.refused == 0
    assert "job a: settled, or another worker has it; no answer came" in caplog.messages


async def test_an_outcome_on_its_way_as_its_job_was_handed_back_with_redis_cli_and_taken_again_is_settled_once(
    queue: JobQueue, source: Source
) -> None:
    """The store can't tell such a delivery from the first one, so the outcome of the one is that of the other."""
    await queue.driver.push([NewJob("a", JOB)], repeated=False)
    (lease,) = (await source.member.consumer.exchange([], 1)).leases
    dispatch(source, [lease])
    (run,) = source.leases
    run.over, run.settlement = True, Ack()
    batch = Batch([run], None)
    dispatch(source, [replace(lease)])

    source.exchanger.answered(batch, await source.member.consumer.exchange(batch.settlements, None))

    assert (source.leases.all, source.leases.unsettled, source.settler.refused) == (
        [],
        [],
        0,
    )


async def test_a_worker_whose_consumer_was_removed_with_redis_cli_takes_its_job_again_and_goes_on_with_it(
    redis_store: RedisStore, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("WARNING")
    store, ends, runs = redis_store, anyio.Event(), list[int]()
    async with JobQueue(store.driver, store.queue_name) as queue:

        @queue.register(Long)
        async def run(_: Long, context: JobContext) -> None:
            runs.append(context.deliveries)
            await ends.wait()

        worker = Worker(queue, lease=5)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(worker.run)
            await queue.push(Long())
            await eventually(lambda: len(runs) == 1)
            store.admin.xgroup_delconsumer(store.stream(), "workers", worker.worker_id)
            assert worker._current is not None
            worker._current.sources[0].reclaimer.tidy_at = 0

            await eventually(lambda: [name for _, name, _ in store.pending()] == [worker.worker_id], within=20)
            ends.set()
            await eventually(lambda: not store.located(), within=20)
            worker.stop()
        assert happened(await queue.control.counts()) == {"pushed": 1, "completed": 1, "reclaimed": 1}
    assert runs == [1]
    assert any("handed back 1 jobs that were neither pending" in text for text in caplog.messages)


async def test_a_worker_takes_none_for_dead_within_a_lease_of_the_first_answer_of_another_server(
    source: Source, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    await source.member.join()
    look, servers = source.member.consumer.reclaim, ["a", "", "a", "b", "b"]

    async def by(server: str, *arguments: Any, **options: Any) -> Any:
        return replace(await look(*arguments, **options), server=server)

    counts = []
    for server in servers:
        monkeypatch.setattr(source.member.consumer, "reclaim", partial(by, server))
        await source.reclaimer.look(others=False)
        counts.append(sum("another server answers" in text for text in caplog.messages))

    assert counts == [0, 0, 0, 1, 1]
