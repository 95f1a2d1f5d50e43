"""Keys that were changed outside redisjobs: deleted entries, lost locators, entries that no push has added."""

from typing import Any

import pytest
from store import (
    RedisStore,
)

from redisjobs.model.changes import Cancel, Delete, Requeue, RequeueAll
from redisjobs.model.job import Priority, State
from redisjobs.model.queries import Count, GetBacklog
from redisjobs.model.transitions import Ack, After, Due, Lease, Pushed, Release, Reply, Settlement
from redisjobs_proof.contract.acts import (
    AGAIN,
    FAILED,
    LATER,
    another,
    beat,
    claim,
    claim_one,
    delay,
    fail,
    found,
    ids,
    inherit,
    job,
    push,
    release,
    rows_of,
    run,
    settle,
    texts,
    wait_in_line,
)

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("bring", [delay, wait_in_line, run, release, fail])
@pytest.mark.parametrize("due", [None, After(1000)], ids=str)
async def test_an_id_whose_entry_was_deleted_can_be_pushed_again(
    redis_store: RedisStore, bring: Any, due: Due | None
) -> None:
    store, consumer = redis_store, redis_store.consumer("w1")
    store.clock.advance(0)
    await consumer.open()
    await bring(store, consumer)
    assert len(store.located()) == 1
    for key in ("ready:normal", "dead"):
        for entry, _ in store.admin.xrange(store.prefix + key):
            store.admin.xdel(store.prefix + key, entry)
    index = store.admin.keys(f"{store.prefix}group*")
    store.admin.delete(f"{store.prefix}delayed", *index)

    assert await push(store, another("a", due=due)) == [Pushed(Reply.OK)]

    assert (await found(store, "a")).state is (State.DELAYED if due else State.READY)
    heir = store.consumer("w2")
    await heir.open()
    store.clock.advance(60)
    assert ids(await inherit(store, heir)) == ["a"]
    assert await push(store, another("a")) == [Pushed(Reply.EXISTS)]
    await heir.aclose()
    await consumer.aclose()
    await store.driver.aclose()


@pytest.mark.parametrize(("due", "delayed"), [(None, 0), (After(60_000), 1)], ids=str)
async def test_a_job_that_is_pushed_again_after_its_entry_was_deleted_does_not_come_at_its_old_time(
    redis_store: RedisStore, due: Due | None, delayed: int
) -> None:
    store, consumer = redis_store, redis_store.consumer("w1")
    await consumer.open()
    await delay(store, consumer)
    store.admin.delete(f"{store.prefix}delayed")
    store.clock.advance(0.5)

    assert await push(store, another("a", due=due)) == [Pushed(Reply.OK)]

    assert (await store.driver.read(Count())).delayed == delayed
    store.clock.advance(2)
    assert len(await claim(consumer)) == 1 - delayed
    store.clock.advance(60)
    assert len(await claim(consumer)) == delayed
    await consumer.aclose()
    await store.driver.aclose()


@pytest.mark.parametrize("mark", ["", " alone", " cancelling"])
async def test_a_job_whose_entry_was_deleted_as_it_ran_is_held_and_settled_all_the_same(
    redis_store: RedisStore, mark: str
) -> None:
    store, consumer = redis_store, redis_store.consumer("w1")
    await consumer.open()
    pushed = [another(job_id, unique=job_id) for job_id in "ab"]
    await push(store, *pushed)
    leases = await claim(consumer)
    for lease in leases:
        if mark == " cancelling":
            assert await store.driver.change(Cancel(lease.job_id)) is Reply.CANCELLING
        store.admin.hset(f"{store.prefix}jobs", lease.job_id, f"normal {lease.token[1]}{mark}")
        store.admin.xdel(store.stream(), lease.token[1])

    assert beat(consumer, leases[0]) == (["a"] if mark == " cancelling" else [])
    assert await settle(consumer, leases[1], Ack()) is Reply.OK

    assert (list(store.located()), store.pending()) == (["a"], [(leases[0].token[1], "w1", 1)])
    assert await settle(consumer, leases[0], Ack(cancelled=True)) is Reply.OK
    assert (store.located(), store.pending()) == ({}, [])
    assert await push(store, job("c", unique="a"), job("d", unique="b")) == [Pushed(Reply.OK)] * 2
    assert await push(store, *pushed, repeated=True) == [Pushed(Reply.REPEATED)] * 2
    await consumer.aclose()
    await store.driver.aclose()


async def test_a_deleted_entry_is_not_recovered(redis_store: RedisStore) -> None:
    store, consumer = redis_store, redis_store.consumer("w1")
    await consumer.open()
    await push(store, "a", "b")
    a, b = await claim(consumer)
    store.admin.xdel(store.stream(), a.token[1])
    assert ids(await consumer.recover([])) == ["b"]
    assert [row[0] for row in store.pending()] == [b.token[1]]
    store.admin.hdel(f"{store.prefix}jobs", "a")
    await consumer.aclose()
    await store.driver.aclose()


@pytest.mark.parametrize("then", ["recovered", "claimed", "handed back", "reclaimed"])
async def test_a_deleted_entry_leaves_no_history(redis_store: RedisStore, then: str) -> None:
    store, consumer, lost = redis_store, redis_store.consumer("w1"), redis_store.consumer("lost")
    await consumer.open()
    await lost.open()
    await push(store, "a", "b")
    await claim(lost)
    await lost.release(refund=False, watch=False)
    assert store.admin.hlen(f"{store.prefix}history") == 2
    leases = [] if then == "claimed" else await claim(consumer)
    store.admin.xtrim(store.stream(), 0, approximate=False)

    match then:
        case "recovered":
            assert await consumer.recover([]) == []
        case "claimed":
            assert (await consumer.exchange([], 9, idle=True)).leases == []
        case "handed back":
            assert [await settle(consumer, lease, Release()) for lease in leases] == [Reply.LEASE_LOST] * 2
        case _:
            await consumer.release(refund=False, watch=False)

    assert (store.pending(), store.admin.exists(f"{store.prefix}history")) == ([], 0)
    store.admin.hdel(f"{store.prefix}jobs", "a", "b")
    await consumer.aclose()
    await lost.aclose()
    await store.driver.aclose()


async def test_an_entry_id_that_can_be_no_time_says_nothing_of_the_backlog(redis_store: RedisStore) -> None:
    store = redis_store
    store.put({"name": "Work", "parameters": "{}"}, entry="5-0")

    assert (await store.driver.read(GetBacklog())).oldest == {}
    await store.driver.aclose()


async def test_jobs_run_and_end_though_all_locators_were_lost(redis_store: RedisStore) -> None:
    store, consumer = redis_store, redis_store.consumer("w1")
    await consumer.open()
    await push(store, "a", "b", "c", "d")
    store.admin.delete(f"{store.prefix}jobs")
    a, b, c, d = await claim(consumer)

    settlements: list[tuple[Lease, Settlement]] = [(a, Ack()), (b, AGAIN), (c, FAILED), (d, Release())]
    replies = [await settle(consumer, *each) for each in settlements]

    assert replies == [Reply.OK] * 4
    assert (await found(store, "c")).state is State.DEAD
    again = {lease.job_id: lease for lease in await claim(consumer)}
    assert again.keys() == {"b", "d"}
    assert [await settle(consumer, lease, Ack()) for lease in again.values()] == [Reply.OK] * 2
    assert (list(store.located()), store.pending()) == (["c"], [])
    await consumer.aclose()
    await store.driver.aclose()


NO_JOB = {"name": "Work", "parameters": "{}", "reason": "mine", "unique": "key"}


@pytest.mark.parametrize("way", ["claim", "read", "wait", "recover", "reclaim"])
async def test_an_entry_without_an_id_becomes_a_dead_letter_however_a_worker_comes_by_it(
    redis_store: RedisStore, way: str
) -> None:
    store, consumer = redis_store, redis_store.consumer("w1")
    await consumer.open()
    if way in ("read", "wait"):
        assert (await consumer.exchange([], 1)).leases == []  # what comes next is read without the script
    entry = store.add_entry(NO_JOB, Priority.HIGH)
    ended: list[Any] = []
    if way == "wait":
        assert await consumer.wait(1, 1) == []
    elif way in ("recover", "reclaim"):
        reader = "w1" if way == "recover" else "lost"
        store.admin.xreadgroup("workers", reader, {store.stream(Priority.HIGH): ">"})
        if way == "recover":
            assert await consumer.recover([]) == []
        else:
            store.admin.xclaim(store.stream(Priority.HIGH), "workers", "released", 0, [entry])
    for _ in range(2):  # the first of these may only hear that there is something to read
        answer = await consumer.exchange([], 1)
        assert answer.leases == []
        ended += answer.ended

    assert ended == [(entry, Reply.UNDECODABLE)]
    fields = texts((await found(store, entry)).fields)
    assert (fields["reason"], fields["error"]) == ("undecodable", "no job: its entry has no id")
    assert (fields["id"], fields["priority"], fields["unique"]) == (entry, "high", "key")
    assert (await store.driver.read(Count())).dead == 1
    assert store.pending(Priority.HIGH) == []
    await consumer.aclose()
    await store.driver.aclose()


@pytest.mark.parametrize("settlement", [Ack(), LATER, AGAIN, FAILED, Release(), None])
async def test_an_entry_with_the_id_of_another_job_becomes_a_dead_letter_and_leaves_that_job_alone(
    redis_store: RedisStore, settlement: Settlement | None
) -> None:
    store, one, two = redis_store, redis_store.consumer("w1"), redis_store.consumer("w2")
    await one.open()
    await two.open()
    await push(store, job("a", due=After(60000), unique="key"))
    entry = store.add_entry({"id": "a", "name": "Other", "parameters": "{}", "unique": "key"})
    before = await found(store, "a")
    lease = await claim_one(one)

    if settlement is None:
        assert await inherit(store, two) == []
    else:
        assert await settle(one, lease, settlement) is Reply.LEASE_LOST

    assert await found(store, "a") == before
    assert await push(store, job("b", unique="key")) == [Pushed(Reply.DUPLICATE, "a")]
    letter = texts((await found(store, entry)).fields)
    assert (letter["reason"], letter["error"]) == ("undecodable", "no job: the job a is elsewhere")
    assert store.pending() == []
    for each in (one, two, store.driver):
        await each.aclose()


async def test_entries_with_one_entry_id_in_each_stream_become_dead_letters_with_an_id_each(
    redis_store: RedisStore,
) -> None:
    store, consumer = redis_store, redis_store.consumer("w1")
    await consumer.open()
    for priority in Priority:
        store.admin.xadd(store.stream(priority), {"parameters": "{}"}, id="1-1")

    for _ in Priority:
        assert await claim(consumer) == []

    letters = [row.job_id for row in await rows_of(store.driver, State.DEAD, 10)]
    assert len(letters) == len({*letters}) == 3
    for each in letters:
        assert await store.driver.change(Delete(each)) is Reply.OK
    await consumer.aclose()
    await store.driver.aclose()


async def test_an_entry_with_ten_thousand_fields_is_kept_as_a_dead_letter(redis_store: RedisStore) -> None:
    store, consumer = redis_store, redis_store.consumer("w1")
    await consumer.open()
    entry = store.add_entry({f"field-{number}": b"\xff\x00 %d" % number for number in range(10_000)})

    assert await claim(consumer) == []

    row = await found(store, entry)
    raw = b" ".join(part for pair in row.fields.items() for part in pair)
    assert all(b"field-%d" % number in raw for number in range(10_000))
    assert raw.count(b"\xff") == 10_000
    assert (row.state, row.fields[b"reason"]) == (State.DEAD, b"undecodable")
    assert await store.driver.change(Requeue(entry)) is Reply.OVERSIZED
    assert await store.driver.change(Delete(entry)) is Reply.OK
    await consumer.aclose()
    await store.driver.aclose()


async def test_a_dead_letter_without_an_id_is_listed_nowhere_and_requeued_by_nothing(
    redis_store: RedisStore,
) -> None:
    store, consumer = redis_store, redis_store.consumer("w1")
    await consumer.open()
    await push(store, "a")
    assert await settle(consumer, await claim_one(consumer), FAILED) is Reply.OK
    store.admin.xadd(f"{store.prefix}dead", {"name": "Work", "reason": "failed"})

    assert [row.job_id for row in await rows_of(store.driver, State.DEAD)] == ["a"]
    begun = await store.driver.change(RequeueAll())
    assert (await store.driver.change(RequeueAll(after=begun.after))).job_ids == ["a"]
    await consumer.aclose()
    await store.driver.aclose()
