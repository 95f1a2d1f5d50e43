"""Jobs that have ended, where the queue keeps them: they are looked at, had again, and thrown away."""

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
from store import MemoryStore, RedisStore, Store

from redisjobs import JobQueue, Keep, Retention, Worker
from redisjobs.model.changes import Cancel, Delete, Hold, Requeue, Retain, Tidy
from redisjobs.model.driver import Consumer, Driver
from redisjobs.model.info import job_info
from redisjobs.model.job import Priority, State
from redisjobs.model.queries import Count, Filter, Find, Row, Scan
from redisjobs.model.transitions import Ack, After, Lease, NewJob, Release, Reply, RetryLater
from redisjobs_proof.contract.acts import rows_of

pytestmark = pytest.mark.anyio

ALL = Retention(completed=Keep(), cancelled=Keep())


@pytest.fixture
async def worker(store: Store, driver: Driver) -> AsyncIterator[Consumer]:
    consumer = store.consumer("w")
    await consumer.open()
    await driver.change(Retain(ALL))
    yield consumer
    await consumer.aclose()


def job(job_id: str, **options: Any) -> NewJob:
    return NewJob(job_id, ["name", "Work", "parameters", '{"n":1}'], **options)


async def push(driver: Driver, *job_ids: str, **options: Any) -> None:
    jobs = [job(job_id, **options) for job_id in job_ids]
    assert {each.reply for each in await driver.push(jobs, repeated=False)} == {Reply.OK}


async def claim(worker: Consumer, count: int) -> list[Lease]:
    leases = list((await worker.exchange([], count)).leases)
    while len(leases) < count:
        leases += (await worker.exchange([], count - len(leases))).leases
    return leases


async def run(driver: Driver, worker: Consumer, *job_ids: str, **options: Any) -> None:
    """Push jobs, and have them done in one batch."""
    await push(driver, *job_ids, **options)
    leases = await claim(worker, len(job_ids))
    assert set((await worker.exchange([(lease, Ack()) for lease in leases], None)).replies) == {Reply.OK}


async def listed(driver: Driver, state: State) -> list[str]:
    return [row.job_id for row in await rows_of(driver, state, 500)]


# What is kept


async def test_jobs_that_are_done_stay_with_who_ran_them_and_when(
    store: Store, driver: Driver, worker: Consumer
) -> None:
    store.clock.advance(0)
    await run(driver, worker, "a", "b", priority=Priority.HIGH)

    assert await listed(driver, State.COMPLETED) == ["b", "a"]
    row = await driver.read(Find("a"))
    assert row is not None
    info = job_info(row)
    assert (info.state, info.worker, info.deliveries, info.priority) == ("completed", "w", 1, "high")
    assert info.parameters == '{"n":1}'
    assert info.finished_at is not None
    assert info.finished_at.timestamp() * 1000 == pytest.approx(store.clock())
    assert info.queued_at is not None
    counts = await driver.read(Count())
    assert (counts.completed, counts.cancelled, sum(counts.ready.values()), counts.running) == (2, 0, 0, 0)


@pytest.mark.parametrize("how", ["ready", "delayed", "running", "retried", "handed back"])
async def test_a_job_that_is_cancelled_stays_wherever_it_was(
    store: Store, driver: Driver, worker: Consumer, how: str
) -> None:
    await push(driver, "a", due=After(60_000) if how == "delayed" else None, unique="k")
    if how in ("ready", "delayed"):
        assert await driver.change(Cancel("a")) is Reply.CANCELLED
    else:
        (lease,) = await claim(worker, 1)
        assert await driver.change(Cancel("a")) is Reply.CANCELLING
        if how == "handed back":
            assert (await worker.exchange([(lease, Release())], None)).replies == [Reply.CANCELLED]
        else:
            await worker.exchange(
                [(lease, Ack(cancelled=True) if how == "running" else RetryLater(After(0)))], None
            )

    assert await listed(driver, State.CANCELLED) == ["a"]
    row = await driver.read(Find("a"))
    assert row is not None
    ran = row.fields.get(b"worker"), row.fields.get(b"deliveries")
    expected = {"running": (b"w", b"1"), "retried": (b"w", b"1"), "handed back": (None, b"0")}
    assert ran == expected.get(how, (None, None))
    assert [each.reply for each in await driver.push([job("b", unique="k")], repeated=False)] == [Reply.OK]


async def test_one_that_ran_again_and_one_that_is_alone_in_its_batch_stay_too(
    driver: Driver, worker: Consumer
) -> None:
    await push(driver, "a", "b")
    first, second = await claim(worker, 2)
    await worker.exchange([(first, Release(refund=False)), (second, RetryLater(After(0)))], None)
    leases = await claim(worker, 2)

    await worker.exchange([(lease, Ack()) for lease in leases], None)

    found = {row.job_id: row.fields[b"deliveries"] for row in await rows_of(driver, State.COMPLETED, 5)}
    assert found == {"a": b"2", "b": b"1"}


@pytest.mark.parametrize("state", ["completed", "cancelled"])
async def test_only_what_is_to_be_kept_is(store: Store, driver: Driver, worker: Consumer, state: str) -> None:
    retention = Retention(completed=Keep()) if state == "completed" else Retention(cancelled=Keep())
    await driver.change(Retain(retention))

    await run(driver, worker, "done")
    await push(driver, "unwanted")
    await driver.change(Cancel("unwanted"))

    assert await listed(driver, State.COMPLETED) == (["done"] if state == "completed" else [])
    assert await listed(driver, State.CANCELLED) == (["unwanted"] if state == "cancelled" else [])


async def test_where_nothing_is_kept_nothing_is_left(redis_store: RedisStore) -> None:
    worker = redis_store.consumer("w")
    await worker.open()
    await run(redis_store.driver, worker, "a")

    assert redis_store.keys().keys() & {"completed", "cancelled", "retention"} == set()
    assert redis_store.located() == {}
    await worker.aclose()
    await redis_store.driver.aclose()


async def test_they_are_gone_through_by_a_filter(store: Store, driver: Driver, worker: Consumer) -> None:
    store.clock.advance(0)
    await run(driver, worker, "old")
    store.clock.advance(60)
    await run(driver, worker, "new", "newer")

    for wanted, ids in (
        (Filter(), ["newer", "new", "old"]),
        (Filter(older_ms=30_000), ["old"]),
        (Filter(text='"n":1'), ["newer", "new", "old"]),
        (Filter(name="Other"), []),
    ):
        rows, after = list[Row](), None
        while after != "":
            step = await driver.read(Scan(State.COMPLETED, wanted, after or "", 2))
            rows += step.rows
            after = step.after
        assert [row.job_id for row in rows] == ids, wanted


# What becomes of them


async def test_its_id_is_free_and_the_next_of_that_id_takes_the_locator(driver: Driver, worker: Consumer) -> None:
    await run(driver, worker, "a", nonce="first")
    await push(driver, "a", nonce="second")
    row = await driver.read(Find("a"))
    assert row is not None
    assert row.state is State.READY
    assert await listed(driver, State.COMPLETED) == ["a"]

    (lease,) = await claim(worker, 1)
    await worker.exchange([(lease, Ack())], None)

    assert await listed(driver, State.COMPLETED) == ["a", "a"]
    assert await driver.change(Delete("a")) is Reply.OK  # the last of that id
    assert await listed(driver, State.COMPLETED) == ["a"]
    assert await driver.read(Find("a")) is None


@pytest.mark.parametrize("nonce", ["", "first"])
async def test_a_push_that_is_repeated_after_its_end_adds_nothing(
    driver: Driver, worker: Consumer, nonce: str
) -> None:
    await run(driver, worker, "a", nonce=nonce)

    answers = [await driver.push([job("a", nonce=nonce)], repeated=repeated) for repeated in (True, False)]

    assert {each.reply for answer in answers for each in answer} == {Reply.REPEATED}


async def test_it_can_not_be_cancelled_or_held_any_more(driver: Driver, worker: Consumer) -> None:
    await run(driver, worker, "a")

    assert await driver.change(Cancel("a")) is Reply.NOT_FOUND
    assert await driver.change(Hold("a")) is Reply.NOT_FOUND

    assert await listed(driver, State.COMPLETED) == ["a"]


@pytest.mark.parametrize("due", [None, After(5000)])
async def test_it_is_had_again_with_all_its_attempts(driver: Driver, worker: Consumer, due: After | None) -> None:
    await run(driver, worker, "a", priority=Priority.LOW)

    assert await driver.change(Requeue("a", due, b'{"n":2}', ended=True)) is Reply.OK

    row = await driver.read(Find("a"))
    assert row is not None
    assert (row.state, row.priority) == (State.DELAYED if due else State.READY, Priority.LOW)
    assert row.fields[b"parameters"] == b'{"n":2}'
    assert not row.fields.keys() & {b"finished_at", b"worker", b"deliveries", b"priority"}
    assert await listed(driver, State.COMPLETED) == []
    assert await driver.change(Requeue("a", ended=True)) is Reply.NOT_FOUND


async def test_a_requeue_takes_it_only_where_it_is_asked_to(driver: Driver, worker: Consumer) -> None:
    await run(driver, worker, "a")
    await push(driver, "b")
    await driver.change(Cancel("b"))

    for job_id in "ab":
        assert await driver.change(Requeue(job_id)) is Reply.NOT_FOUND
        assert await driver.change(Requeue(job_id, parameters=b"{}")) is Reply.NOT_FOUND

    assert (await listed(driver, State.COMPLETED), await listed(driver, State.CANCELLED)) == (["a"], ["b"])
    assert (await driver.read(Count())).totals["requeued"] == 0


async def test_the_oldest_go_over_their_age_or_number(store: Store, driver: Driver, worker: Consumer) -> None:
    await driver.change(Retain(Retention(completed=Keep(age=3600, count=2), cancelled=Keep())))
    for job_id in "abc":
        await run(driver, worker, job_id)
    await push(driver, "unwanted")
    await driver.change(Cancel("unwanted"))

    assert await tidy(driver, store) == 1
    assert await listed(driver, State.COMPLETED) == ["c", "b"]
    assert await driver.read(Find("a")) is None

    store.clock.advance(7200)
    assert await tidy(driver, store) == 2
    assert await listed(driver, State.COMPLETED) == []
    assert await listed(driver, State.CANCELLED) == ["unwanted"]


async def test_what_was_kept_goes_once_it_is_not_to_be_any_more(
    store: Store, driver: Driver, worker: Consumer
) -> None:
    await run(driver, worker, "a", "b")
    await driver.change(Retain(Retention()))

    assert await tidy(driver, store) == 2

    assert await listed(driver, State.COMPLETED) == []


async def tidy(driver: Driver, store: Store) -> int:
    """Trim to the end; how many jobs were thrown away."""
    if isinstance(store, MemoryStore):
        store.memory.tidied_ms = None
        return (await driver.change(Tidy())).trimmed
    total, after = 0, "trim "
    while after:
        step = await driver.change(Tidy(after))
        total, after = total + step.trimmed, step.after
    return total


async def test_from_the_queue_to_the_worker_and_back(store: Store, driver: Driver) -> None:
    ran: list[int] = []
    queue = JobQueue(driver, store.queue_name, retention=Retention(completed=Keep(age=timedelta(hours=1))))

    @queue.job
    async def work(n: int) -> None:
        ran.append(n)

    handle = await work.push(1)
    await Worker(queue).run(until_idle=True)
    info = await queue.get(handle)
    assert info is not None
    assert info.state is State.COMPLETED
    assert [each.job_id async for each in queue.control.scan("completed")] == [handle.id]
    assert [each.job_id for each in await queue.control.jobs("completed")] == [handle.id]
    assert not await queue.control.requeue(handle)
    assert not await queue.control.requeue(handle, parameters={"n": 2})
    assert await queue.control.requeue(handle, parameters={"n": 2}, ended=True)
    await Worker(queue).run(until_idle=True)

    assert ran == [1, 2]
    assert await queue.control.delete(handle)
    assert await queue.get(handle) is None


# Changed outside redisjobs


async def test_where_none_can_be_added_jobs_end_all_the_same(redis_store: RedisStore) -> None:
    store = redis_store
    store.admin.xadd(f"{store.prefix}completed", {"name": "last"}, id="18446744073709551615-18446744073709551615")
    worker = store.consumer("w")
    await worker.open()
    await store.driver.change(Retain(ALL))

    await run(store.driver, worker, "a", "b")

    counts = await store.driver.read(Count())
    assert (counts.totals["completed"], counts.completed, counts.running) == (2, 1, 0)
    assert store.located() == {}
    await worker.aclose()
    await store.driver.aclose()


@pytest.mark.parametrize("gone", [["a"], ["a", "b"]])
async def test_an_entry_that_was_removed_with_redis_cli_as_it_ran_is_not_kept(
    redis_store: RedisStore, gone: list[str]
) -> None:
    store = redis_store
    worker = store.consumer("w")
    await worker.open()
    await store.driver.change(Retain(ALL))
    await push(store.driver, "a", "b")
    leases = await claim(worker, 2)
    store.admin.xdel(store.stream(), *(lease.token[1] for lease in leases if lease.job_id in gone))

    answer = await worker.exchange([(lease, Ack()) for lease in leases], None)

    assert answer.replies == [Reply.OK] * 2
    assert await listed(store.driver, State.COMPLETED) == [name for name in "b" if name not in gone]
    await worker.aclose()
    await store.driver.aclose()
