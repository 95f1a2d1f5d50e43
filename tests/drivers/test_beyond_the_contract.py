"""What memory and Redis do beyond the contract of a driver."""

import time
from dataclasses import replace
from typing import Any

import pytest
from store import (
    MemoryStore,
    RedisStore,
    Store,
    lease_at,
    take_over,
)

from redisjobs.drivers.redis.commands import LAYOUT
from redisjobs.errors import DriverError
from redisjobs.model.changes import GetStatus, Hold, Requeue, Tidy, Unhold
from redisjobs.model.driver import Fenced
from redisjobs.model.info import worker_infos
from redisjobs.model.job import OnConflict, Priority
from redisjobs.model.queries import Count, Find, FindWorkers
from redisjobs.model.transitions import Ack, After, Lease, NewJob, Pushed, Release, Reply, Result, Settlement
from redisjobs_proof.contract.acts import (
    AGAIN,
    FAILED,
    LATER,
    Open,
    another,
    beat,
    cancel_running,
    claim,
    claim_one,
    delay,
    fail,
    ids,
    job,
    outlive,
    push,
    release,
    retry,
    run,
    settle,
    wait_in_line,
)
from redisjobs_proof.contract.awaiting import told, until_told

pytestmark = pytest.mark.anyio


@pytest.fixture
def its_own(store: Store) -> None:
    """For what memory and Redis do by themselves: a late read of theirs brings jobs, a lease names its entry."""
    if not isinstance(store, MemoryStore | RedisStore):
        pytest.skip("memory and Redis only")


def workers_known(store: RedisStore) -> list[str]:
    """The keys that are about a worker, or about one that was fenced."""
    return [key for key in list(store.keys()) if key == "fenced" or key.startswith("worker:")]


def pass_by(store: Store, seconds: float) -> None:
    """Let time pass for what a driver remembers of fenced workers."""
    store.clock.advance(seconds)
    if isinstance(store, MemoryStore):
        for worker in store.memory.fenced.values():
            worker.until -= seconds


def forget(store: Store, refused: list[NewJob]) -> None:
    """Undo what was written of pushes that were refused when they were repeated."""
    for each in refused:
        if isinstance(store, RedisStore):
            slots = [key for key, _ in store.keys().items() if key.startswith("finished:")]
            members = [f"{each.nonce} {each.job_id}", f"refused {each.nonce} {each.job_id}"]
            assert sum(store.admin.srem(store.prefix + slot, *members) for slot in slots) == 2
        else:
            assert isinstance(store, MemoryStore)
            del store.memory.refused[each.job_id, each.nonce.encode()]


# Pushes


@pytest.mark.parametrize("bring", [delay, wait_in_line, run, retry, release, fail, cancel_running])
@pytest.mark.usefixtures("its_own")
async def test_of_a_repeated_push_of_an_id_that_is_on_the_queue_only_its_refusal_is_written(
    store: Store, worker: Open, bring: Any
) -> None:
    await bring(store, await worker())
    before = store.contents()

    again = [another("a"), another("a", due=After(1), unique="key")]
    assert await push(store, *again, repeated=True) == [Pushed(Reply.EXISTS)] * 2
    assert await push(store, "a", repeated=True) == [Pushed(Reply.REPEATED)]

    forget(store, again)
    assert store.contents() == before


async def test_of_a_job_that_ends_long_after_its_push_the_push_is_not_remembered(
    store: Store, worker: Open
) -> None:
    consumer, late, later = await worker(), another("a"), another("b")
    store.clock.advance(0)
    await push(store, late, later)
    leases = await claim(consumer)
    store.clock.advance(59)
    assert await settle(consumer, leases[0], Ack()) is Reply.OK
    assert await push(store, late, repeated=True) == [Pushed(Reply.REPEATED)]
    store.clock.advance(8)  # a few seconds more are granted, as a worker knows the time only roughly
    await consumer.exchange([], 0)
    assert await settle(consumer, leases[1], Ack()) is Reply.OK
    assert await push(store, later, repeated=True) == [Pushed(Reply.UNKNOWN)]


async def test_a_push_that_was_refused_since_is_known_however_far_the_clock_was_set_ahead(store: Store) -> None:
    store.clock.advance(0)
    sent_ms = store.clock()
    await push(store, job("a", unique="key"))
    other = another("b", unique="key")
    other.sent_ms = sent_ms  # its first try had no answer
    store.clock.advance(40)
    assert await push(store, other, repeated=True) == [Pushed(Reply.DUPLICATE, "a")]
    store.clock.advance(30)

    assert await push(store, other, repeated=True) == [Pushed(Reply.DUPLICATE, "a")]
    await store.driver.aclose()


# Jobs that have to run alone


async def pass_over(store: Store, worker: Open, *jobs: NewJob | str) -> None:
    """Let jobs come to their last delivery, and a busy worker meet them."""
    one, two = await worker("w1", max_deliveries=2), await worker("w2", max_deliveries=2)
    await push(store, *jobs)
    assert len(await claim(one)) == len(jobs)
    await outlive(store, two)
    assert await claim(two) == []


async def test_a_job_that_a_busy_worker_passed_over_may_be_held_or_replaced(store: Store, worker: Open) -> None:
    await pass_over(store, worker, "held", job("replaced", unique="key"), "next")

    await store.driver.change(Hold("held"))
    newer = job("other", unique="key", on_conflict=OnConflict.REPLACE)
    assert await push(store, newer) == [Pushed(Reply.REPLACED, "replaced")]

    assert ids(await claim(await worker("w3", max_deliveries=2))) == ["replaced"]  # a new one, never delivered
    assert ids(await claim(await worker("w4", max_deliveries=2), idle=True)) == ["next"]
    await store.driver.change(Unhold("held"))
    assert ids(await claim(await worker("w5", max_deliveries=2), idle=True)) == ["held"]


async def test_a_worker_that_allows_more_deliveries_takes_what_others_passed_over_once_it_runs_nothing(
    store: Store, worker: Open
) -> None:
    await pass_over(store, worker, "a")
    generous = await worker("generous", max_deliveries=9)

    await generous.exchange([], 0)
    answer = await generous.exchange([], 9)
    assert answer.leases == []
    assert answer.waits is not None  # so it makes room in the end
    assert ids(await claim(generous, idle=True)) == ["a"]
    answer = await generous.exchange([], 9)
    assert answer.waits is None


# Settling


async def test_what_tells_the_stream_of_a_job_is_in_its_lease(store: Store, worker: Open) -> None:
    consumer = await worker()
    await push(store, *(job(priority, priority=priority) for priority in Priority))

    leases = await claim(consumer)
    assert [lease.rank for lease in leases] == [0, 1, 2]
    if isinstance(store, RedisStore):
        entries = [lease.token[1].partition("-")[0] for lease in leases]
        assert [str(lease.queued_ms) for lease in leases] == entries
    await consumer.exchange([(leases[0], AGAIN), (leases[1], LATER), (leases[2], FAILED)], None)
    assert await store.driver.change(Requeue("low")) is Reply.OK
    store.clock.advance(6)

    again = await claim(consumer)
    assert [(lease.job_id, lease.rank) for lease in again] == [("high", 0), ("normal", 1), ("low", 2)]
    assert not {lease.token for lease in again} & {lease.token for lease in leases}
    assert [lease.fields[b"queued_at"].decode() for lease in again] == [str(lease.queued_ms) for lease in leases]


async def miscounted(store: Store, lease: Lease) -> Lease:
    return replace(lease, deliveries=2)


async def another_job(store: Store, lease: Lease) -> Lease:
    """After a failover an entry id may come again for another job."""
    if isinstance(store, MemoryStore):
        pytest.skip("memory has no failover")
    return replace(lease, job_id="b")


@pytest.mark.parametrize(
    "settlement", [Ack(), Ack(cancelled=True), AGAIN, LATER, FAILED, Release(), Release(refund=False)]
)
@pytest.mark.parametrize("change", [miscounted, another_job])
@pytest.mark.usefixtures("its_own")
async def test_a_lease_that_is_not_quite_the_one_of_the_store_settles_nothing(
    store: Store, worker: Open, change: Any, settlement: Settlement
) -> None:
    consumer = await worker()
    await push(store, job("a", unique="key"))
    lease = await change(store, await claim_one(consumer))
    before = store.contents()

    assert await settle(consumer, lease, settlement) is Reply.LEASE_LOST

    assert store.contents() == before


@pytest.mark.parametrize("settlement", [Ack(), AGAIN, LATER, FAILED, Release(), Ack(cancelled=True)])
@pytest.mark.usefixtures("its_own")
async def test_a_batch_with_one_job_that_is_not_the_workers_settles_the_others(
    store: Store, worker: Open, settlement: Settlement
) -> None:
    consumer = await worker()
    await push(store, *[job(f"{priority} {n}", priority=priority) for n in range(3) for priority in Priority])
    leases = await claim(consumer, 20)
    lost = leases[4] = lease_at(leases[4].rank + 1, "1-1", 1, "unknown")

    answer = await consumer.exchange([(lease, settlement if lease is lost else Ack()) for lease in leases], None)

    assert answer.replies == [Reply.LEASE_LOST if lease is lost else Reply.OK for lease in leases]
    for lease in leases:
        if lease is not lost:
            assert await store.driver.read(Find(lease.job_id)) is None
    assert (await store.driver.read(Count())).totals["completed"] == len(leases) - 1


# Workers


@pytest.mark.parametrize("way", ["wait", "claim"])
@pytest.mark.usefixtures("its_own")
async def test_what_a_late_read_of_a_fenced_worker_brings_is_handed_back_too_and_its_id_forgotten_in_the_end(
    store: Store, worker: Open, way: str
) -> None:
    one, two = await worker("w1"), await worker("w2")
    await push(store, "a", "b", "c")
    await one.exchange([], 1)  # it has heard that there is more
    await outlive(store, two)
    assert ids(await claim(two, 1)) == ["a"]
    if way == "wait":
        late = await one.wait(1, 5)
        assert ids(late) == ["b"]
        with pytest.raises(Fenced):
            await settle(one, late[0], Ack())
    else:
        with pytest.raises(Fenced):
            await one.exchange([], 1)

    pass_by(store, 2)
    beat(two)
    await take_over(two)

    assert (await store.driver.read(Count())).running == 1
    assert sorted(ids(await claim(two))) == ["b", "c"]
    with pytest.raises(DriverError, match="another worker's, or was a moment ago"):
        await worker("w1")
    for _ in range(4):
        pass_by(store, 15)
        beat(two)
        await two.reclaim()
    if isinstance(store, RedisStore):
        assert workers_known(store) == ["worker:w2"]
        for priority in Priority:
            consumers = store.admin.xinfo_consumers(store.stream(priority), "workers")
            assert b"w1" not in [consumer["name"] for consumer in consumers]
    else:
        assert isinstance(store, MemoryStore)
        assert (list(store.memory.workers), store.memory.fenced) == (["w2"], {})
    await worker("w1")


@pytest.mark.usefixtures("its_own")
async def test_a_fenced_id_is_kept_for_as_long_as_a_late_read_still_brings_something(
    store: Store, worker: Open
) -> None:
    one, two = await worker("w1", lease=2), await worker("w2")
    await outlive(store, two)
    for number in range(4):
        pass_by(store, 5)
        beat(two)
        await push(store, f"late {number}")
        assert ids(await one.wait(1, 5)) == [f"late {number}"]
        look = await two.reclaim()
        assert (look.jobs, look.released) == (1, True)
        (lease,) = await claim(two)
        assert lease.deliveries == 2
        await settle(two, lease, Ack())


async def test_a_queue_of_another_release_is_refused_with_both_versions_named(redis_store: RedisStore) -> None:
    store, one = redis_store, redis_store.consumer("w1")
    await one.open()
    assert store.admin.hget(f"{store.prefix}layout", "version") == b"%d" % LAYOUT
    store.admin.hset(f"{store.prefix}layout", "version", "9")
    before = store.contents()
    other = store.driver.consumer("w2", lease=15, max_deliveries=3)

    with pytest.raises(DriverError, match=r"of version 9, .* version 5\b.*nothing was written"):
        await other.open()

    assert store.contents() == before
    await other.aclose()
    await one.aclose()
    await store.driver.aclose()


async def test_jobs_of_a_worker_that_the_store_does_not_know_are_found_and_the_worker_told(
    redis_store: RedisStore,
) -> None:
    """Its record was lost in a failover."""
    store, one, two = redis_store, redis_store.consumer("w1"), redis_store.consumer("w2")
    await one.open()
    await two.open()
    await push(store, "a")
    lease = await claim_one(one)
    store.admin.delete(f"{store.prefix}worker:w1")
    store.admin.zrem(f"{store.prefix}workers", "w1")

    with pytest.raises(Fenced):
        await settle(one, lease, Ack())
    await store.driver.change(Tidy())

    assert (await two.reclaim()).jobs == 1
    assert [(lease.job_id, lease.deliveries) for lease in await claim(two)] == [("a", 2)]
    await one.aclose()
    await two.aclose()
    await store.driver.aclose()


@pytest.mark.usefixtures("its_own")
async def test_what_a_late_read_of_a_worker_that_left_brings_is_handed_back_if_it_was_said(
    store: Store, worker: Open
) -> None:
    one, two = await worker("w1"), await worker("w2")
    assert await one.release(refund=True, watch=True) == 0
    await push(store, "a")
    assert ids(await one.wait(1, 5)) == ["a"]  # sent before, by what was heard of it

    pass_by(store, 2)
    beat(two)
    assert (await two.reclaim()).jobs == 1

    assert [(lease.job_id, lease.deliveries) for lease in await claim(two)] == [("a", 2)]


async def test_in_memory_a_worker_that_left_gets_no_jobs() -> None:
    store = MemoryStore("left")
    one, two = store.consumer("w1"), store.consumer("w2")
    await one.release(refund=True, watch=False)
    await push(store, "a")

    with pytest.raises(Fenced):
        await one.wait(1, 5)

    assert ids(await claim(two)) == ["a"]


@pytest.mark.usefixtures("its_own")
async def test_of_a_worker_that_left_no_key_is_left(store: Store, worker: Open) -> None:
    one, two = await worker("w1"), await worker("w2")
    await push(store, "a")
    await claim_one(one)
    await one.release(refund=True, watch=False)

    assert (await outlive(store, two)).fenced == []
    if isinstance(store, RedisStore):
        assert workers_known(store) == ["worker:w2"]
    else:
        assert isinstance(store, MemoryStore)
        assert (list(store.memory.workers), store.memory.fenced) == (["w2"], {})


@pytest.mark.parametrize("refund", [True, False])
@pytest.mark.parametrize("watch", [False, True])
@pytest.mark.usefixtures("its_own")
async def test_what_a_fenced_worker_holds_by_a_late_read_is_released_without_a_refund(
    store: Store, worker: Open, refund: bool, watch: bool
) -> None:
    one, two = await worker("w1"), await worker("w2")
    await push(store, "a", "b", "c", job("d", priority=Priority.LOW), "e")
    await outlive(store, two)
    assert len(await one.wait(2, 5)) == 3
    others = await claim(two, 1)

    assert await one.release(refund=refund, watch=watch) == 3

    assert (await two.exchange([(others[0], Ack())], None)).replies == [Reply.OK]
    left = [(lease.job_id, lease.deliveries) for lease in await claim(two)]
    assert left == [("a", 2), ("b", 2), ("e", 1), ("d", 2)]
    assert await one.release(refund=refund, watch=watch) == 0


async def test_of_many_jobs_of_a_dead_worker_five_hundred_are_handed_back_in_a_step(
    store: Store, worker: Open
) -> None:
    one, two = await worker("w1"), await worker("w2")
    for start in range(0, 1200, 400):
        await push(store, *(str(n) for n in range(start, start + 400)))
    assert len(await claim(one, 1200)) == 1200
    store.age(60)
    beat(two)

    looks = [await take_over(two)]
    while looks[-1].more:
        looks.append(await two.reclaim())

    assert [look.jobs for look in looks if look.jobs] == [500, 500, 200]


async def test_of_many_workers_that_died_at_once_a_hundred_are_fenced_in_a_step(
    store: Store, worker: Open
) -> None:
    for number in range(105):
        await worker(f"dead {number}")
    heir = await worker("heir")
    store.age(60)
    beat(heir)

    assert [len((await take_over(heir)).fenced) for _ in range(4)] == [100, 5, 0, 0]


# Results


async def test_of_many_processes_that_wait_for_one_job_the_newest_hundred_are_told(
    driver_store: Store, worker: Open
) -> None:
    store, one = driver_store, await worker()
    await push(store, "a")
    lease = await claim_one(one)
    p = [f"p{number:022}" for number in range(101)]  # as long as the names that processes have
    async with told(store, p[0]) as first, told(store, p[1]) as second, told(store, p[100]) as last:
        for process in p:
            await store.driver.change(GetStatus(["a"], process))
        await settle(one, lease, Ack())
        await until_told(second)
        await until_told(last)

    assert (first, second, last) == ([], ["changed a"], ["changed a"])


@pytest.mark.parametrize(("days", "lasts"), [(1 / 24, 2 / 24), (1, 2), (2, 3)])
async def test_an_outcome_outlives_its_result_by_as_long_again_and_a_day_at_most(
    engine_store: RedisStore, days: float, lasts: float
) -> None:
    store, day = engine_store, 86_400_000
    one = store.consumer("w1")
    await push(store, "a", "b")
    a, b = await claim(one)
    await store.driver.change(GetStatus(["b"], "me"))
    assert day - 60_000 < store.keys()["waiters"] <= day
    await settle(one, a, Ack(result=Result(int(days * day), b"5")))
    await settle(one, b, Ack(result=Result(int(days * day), refused="no")))
    await one.aclose()
    await store.driver.aclose()

    ends = {key: ttl / day for key, ttl in store.keys().items() if key.startswith(("result:", "outcome:"))}
    assert ends == pytest.approx({"result:a": days, "outcome:a": lasts, "outcome:b": lasts}, abs=0.001)


async def test_what_was_reported_of_a_job_goes_a_minute_after_its_end_where_its_result_is_kept(
    engine_store: RedisStore,
) -> None:
    store, one = engine_store, engine_store.consumer("w1")
    await push(store, "a")
    store.admin.set(f"{store.prefix}progress:a", "{}", ex=3600)
    (standing,) = await store.driver.change(GetStatus(["a"]))
    assert standing.progress == b"{}"
    await settle(one, await claim_one(one), Ack(result=Result(60_000, b"5")))
    await one.aclose()
    await store.driver.aclose()
    assert 0 < store.keys()["progress:a"] <= 60_000


@pytest.mark.slow
async def test_the_workers_of_a_big_fleet_are_found_in_small_steps_and_none_is_left_out(
    engine_store: RedisStore,
) -> None:
    store, end = engine_store, int(time.time() * 1000) + 60_000
    fleet = {f"host:{n}:{n:08x}": end + n for n in range(5_000)}
    with store.admin.pipeline(transaction=False) as pipe:
        pipe.zadd(f"{store.prefix}workers", fleet)
        for worker_id in fleet:
            pipe.hset(f"{store.prefix}worker:{worker_id}", mapping={"concurrency": "10", "names": "a b …"})
        pipe.execute()

    steps = [await store.driver.read(FindWorkers())]
    while steps[-1].after:
        steps.append(await store.driver.read(FindWorkers(steps[-1].after)))

    found = worker_infos(steps)
    assert [worker.worker_id for worker in found] == sorted(fleet)
    assert {(worker.slots, worker.names, worker.has_more_names) for worker in found} == {(10, ("a", "b"), True)}
    assert max(len(step.workers) for step in steps) <= 200
    store.admin.delete(f"{store.prefix}workers", *(f"{store.prefix}worker:{worker_id}" for worker_id in fleet))
    await store.driver.aclose()
