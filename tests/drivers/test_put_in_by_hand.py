"""What somebody puts into the keys of a queue by hand, or takes out of them; in memory the same is done."""

from typing import Any

import pytest
from store import (
    RedisStore,
    Store,
    lease_at,
    take_over,
)

from redisjobs.model.changes import Cancel, Delete, Requeue
from redisjobs.model.job import Priority, State
from redisjobs.model.queries import Count, Find, GetBacklog
from redisjobs.model.transitions import Ack, After, DeadLetter, Due, Pushed, Release, Reply, Settlement
from redisjobs.testing.driver_contract.acts import (
    AGAIN,
    FAILED,
    LATER,
    WORK,
    Open,
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
    outlive,
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
async def test_an_id_whose_job_was_removed_by_hand_can_be_pushed_again(
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
    store.admin.delete(f"{store.prefix}delayed")

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
async def test_a_job_that_is_pushed_again_after_its_removal_by_hand_does_not_come_at_its_old_time(
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


@pytest.mark.parametrize("way", ["release", "reclaim", "reclaim of what is gone", "release of what is gone"])
async def test_a_job_put_in_and_removed_by_hand_leaves_no_locator(redis_store: RedisStore, way: str) -> None:
    store, consumer = redis_store, redis_store.consumer("w1")
    await consumer.open()
    entry = store.put(WORK)
    (lease,) = await claim(consumer)
    assert list(store.located()) == [entry]
    heir = store.consumer("w2")
    await heir.open()
    if way == "release":
        await settle(consumer, lease, Release())
        store.admin.xdel(store.stream(), entry)
    elif way == "reclaim":
        await outlive(store, heir)
        store.admin.xdel(store.stream(), entry)
    elif way == "release of what is gone":
        store.admin.xdel(store.stream(), entry)
        assert await consumer.release(refund=True, watch=False) == 1
    else:
        store.age(60)
        beat(heir)
        store.admin.xdel(store.stream(), entry)
        assert (await take_over(heir)).fenced == ["w1"]

    await heir.reclaim()
    assert (await heir.exchange([], 10)).leases == []

    assert (store.located(), store.pending()) == ({}, [])
    await heir.aclose()
    await consumer.aclose()
    await store.driver.aclose()


@pytest.mark.parametrize("mark", ["", " alone", " cancelling"])
async def test_a_job_whose_entry_was_removed_by_hand_as_it_ran_is_held_and_settled_all_the_same(
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


async def test_a_job_that_was_put_in_and_removed_by_hand_as_it_ran_is_not_handed_back_and_leaves_nothing(
    redis_store: RedisStore,
) -> None:
    store, consumer = redis_store, redis_store.consumer("w1")
    await consumer.open()
    store.put(WORK)
    (lease,) = await claim(consumer)
    store.admin.xdel(store.stream(), lease.token[1])

    assert await settle(consumer, lease, Release()) is Reply.LEASE_LOST

    assert (store.located(), store.pending()) == ({}, [])
    assert (await consumer.exchange([], 10)).leases == []
    await consumer.aclose()
    await store.driver.aclose()


async def test_a_cancel_finds_its_job_though_all_locators_are_lost_and_its_id_is_another(
    redis_store: RedisStore,
) -> None:
    """Of two entries with one entry id, one ended: the other goes by that id then, where nothing else is known."""
    store, consumer = redis_store, redis_store.consumer("w1")
    await consumer.open()
    entry = store.put(WORK, Priority.HIGH)
    store.put(WORK, Priority.LOW, entry=entry)
    high, low = await claim(consumer)
    assert await settle(consumer, high, Ack()) is Reply.OK
    store.admin.delete(f"{store.prefix}jobs")

    store.admin.hset(f"{store.prefix}jobs", entry, f"low {entry}")
    assert beat(consumer, low) == []
    assert await store.driver.change(Cancel(f"{entry}@low")) is Reply.CANCELLING
    assert beat(consumer, low) == [low.job_id] == [f"{entry}@low"]
    assert await settle(consumer, low, Ack(cancelled=True)) is Reply.OK

    assert (store.located(), store.pending(Priority.LOW)) == ({}, [])
    await consumer.aclose()
    await store.driver.aclose()


async def test_a_job_put_in_by_hand_has_an_id_however_many_of_its_were_given_away(
    store: Store, worker: Open
) -> None:
    consumer = await worker()
    entry = "1732438800000-0"
    given = [entry + "@low" * number for number in range(7)]
    assert await push(store, *given, repeated=True) == [Pushed(Reply.OK)] * 7
    store.put(WORK, Priority.LOW, entry=entry)

    leases = await claim(consumer)

    assert ids(leases) == [*given, entry + "@low" * 4]  # that one is taken over
    assert [(await found(store, f"{entry}@low")).priority, len(leases)] == [Priority.NORMAL, 8]
    assert {await settle(consumer, lease, AGAIN) for lease in leases} == {Reply.OK}
    again = await claim(consumer)
    assert {await settle(consumer, lease, Ack()) for lease in again} == {Reply.OK}
    assert sorted(lease.token[0] for lease in again) == [2] * 7 + [3]


async def test_the_end_of_a_job_put_in_by_hand_leaves_the_locator_of_another_that_has_all_its_ids(
    redis_store: RedisStore,
) -> None:
    store, consumer = redis_store, redis_store.consumer("w1")
    await consumer.open()
    entry = "1732438800000-0"
    given = [entry + "@low" * number for number in range(5)]
    await push(store, *given)
    places = store.located()
    store.put(WORK, Priority.LOW, entry=entry)
    *_, lease = await claim(consumer)
    store.admin.hset(f"{store.prefix}jobs", mapping=places)  # as if they had been given to those only later

    assert await settle(consumer, lease, Ack()) is Reply.OK

    assert store.located() == places
    await consumer.aclose()
    await store.driver.aclose()


async def test_a_job_put_in_by_hand_is_recovered_under_the_id_that_it_goes_by(store: Store, worker: Open) -> None:
    consumer = await worker()
    entry = store.put(WORK, Priority.HIGH)
    store.put(WORK, Priority.LOW, entry=entry)
    await consumer.wait(5, 1)
    leases = await consumer.recover([])
    assert ids(leases) == [entry, f"{entry}@low"]
    assert [await settle(consumer, lease, LATER) for lease in leases] == [Reply.OK] * 2


async def test_what_was_removed_by_hand_is_not_recovered(redis_store: RedisStore) -> None:
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


async def test_an_entry_put_in_by_hand_is_a_job_by_its_entry_id(store: Store, worker: Open) -> None:
    consumer = await worker()
    entry = store.put({"name": "Work", "parameters": "{}"}, Priority.HIGH)

    row = await found(store, entry)
    lease = await claim_one(consumer)
    assert await settle(consumer, lease, LATER) is Reply.OK
    store.clock.advance(5)
    again = await claim_one(consumer)
    assert await settle(consumer, again, Ack()) is Reply.OK

    assert (row.state, row.priority, row.key) == (State.READY, Priority.HIGH, entry)
    assert (lease.job_id, lease.token[0], lease.deliveries) == (entry, 1, 1)
    assert (again.job_id, again.fields[b"id"]) == (entry, entry.encode())
    assert await store.driver.read(Find(entry)) is None


@pytest.mark.parametrize("settlement", [Ack(), LATER, AGAIN, FAILED, Release()])
async def test_an_entry_put_in_by_hand_is_not_settled_as_another_job(
    redis_store: RedisStore, settlement: Settlement
) -> None:
    """After a failover its entry id may have been another's, which somebody still runs."""
    store, consumer = redis_store, redis_store.consumer("w1")
    await consumer.open()
    store.put(WORK)
    lease = await claim_one(consumer)
    before = store.contents()

    assert await settle(consumer, lease_at(2, lease.token[1], 1, "b"), settlement) is Reply.LEASE_LOST

    assert store.contents() == before
    await consumer.aclose()
    await store.driver.aclose()


@pytest.mark.parametrize("settlement", [Ack(), LATER, AGAIN, FAILED, Release()])
async def test_entries_put_in_by_hand_with_one_entry_id_are_as_many_jobs(
    store: Store, worker: Open, settlement: Settlement
) -> None:
    """An entry id is unique in one stream only; two in the same ms in two streams may well have one."""
    consumer = await worker()
    entry = store.put(WORK, Priority.HIGH)
    for priority in (Priority.NORMAL, Priority.LOW):
        store.put(WORK, priority, entry=entry)
    names = [entry, f"{entry}@normal", f"{entry}@low"]
    assert [row.job_id for row in await rows_of(store.driver, State.READY, 9)] == names
    assert [(await found(store, name)).priority for name in names] == list(Priority)

    leases = await claim(consumer)
    assert ids(leases) == names
    assert [await settle(consumer, lease, settlement) for lease in leases] == [Reply.OK] * 3

    store.clock.advance(60)
    left = [await store.driver.read(Find(name)) for name in names]
    assert [row and row.job_id for row in left] == ([None] * 3 if settlement == Ack() else names)
    if settlement == FAILED:
        assert [await store.driver.change(Requeue(name)) for name in names] == [Reply.OK] * 3
        store.clock.advance(1)
    if settlement != Ack():
        assert sorted(ids(await claim(consumer))) == sorted(names)


async def test_an_entry_put_in_by_hand_goes_by_its_entry_id_though_a_pushed_job_has_that_in_another_stream(
    store: Store, worker: Open
) -> None:
    consumer = await worker()
    await push(store, job("a", priority=Priority.HIGH))
    entry = store.put(WORK, Priority.LOW, entry=(await found(store, "a")).key)

    assert (await found(store, entry)).priority is Priority.LOW
    assert ids(await claim(consumer)) == ["a", entry]
    assert await store.driver.change(Cancel(entry)) is Reply.CANCELLING


async def test_of_entries_with_one_entry_id_the_one_is_cancelled_that_was_named(
    store: Store, worker: Open
) -> None:
    consumer = await worker()
    entry = store.put(WORK, Priority.HIGH)
    store.put(WORK, Priority.LOW, entry=entry)

    assert await store.driver.change(Cancel(f"{entry}@low")) is Reply.CANCELLED
    assert [(lease.job_id, lease.token[0]) for lease in await claim(consumer)] == [(entry, 1)]
    assert await store.driver.change(Cancel(f"{entry}@low")) is Reply.NOT_FOUND
    assert await store.driver.change(Cancel(f"{entry}@high")) is Reply.CANCELLING


async def test_a_job_can_be_named_by_its_place_whatever_its_id(store: Store, worker: Open) -> None:
    consumer = await worker()
    await push(store, "a")
    row = await found(store, "a")

    assert await store.driver.read(Find(f"{row.key}@normal")) == row
    assert await settle(consumer, await claim_one(consumer), FAILED) is Reply.OK
    letter = await found(store, "a")
    assert await store.driver.read(Find(f"{letter.key}@dead")) == letter
    assert await store.driver.change(Requeue(f"{letter.key}@dead")) is Reply.OK
    assert ids(await claim(consumer)) == ["a"]


@pytest.mark.parametrize("said", ["", b"\xff\xfe", "a\nb"])
async def test_a_dead_letter_is_requeued_and_deleted_by_the_name_it_is_listed_by(
    store: Store, worker: Open, said: str | bytes
) -> None:
    consumer = await worker()
    store.put({"id": said, **WORK})
    for act in (Requeue, Delete):
        assert await settle(consumer, await claim_one(consumer), FAILED) is Reply.OK
        (letter,) = await rows_of(store.driver, State.DEAD, 9)
        assert await store.driver.change(act(letter.job_id)) is Reply.OK
    assert (await store.driver.read(Count())).dead == 0


async def test_what_is_pushed_under_the_id_of_an_entry_put_in_by_hand_is_another_job(
    store: Store, worker: Open
) -> None:
    consumer = await worker()
    entry = store.put(WORK)
    assert await push(store, entry) == [Pushed(Reply.OK)]
    leases = await claim(consumer)
    assert ids(leases) == [f"{entry}@normal", entry]
    assert [await settle(consumer, lease, LATER) for lease in leases] == [Reply.OK] * 2
    assert (await store.driver.read(Count())).delayed == 2


@pytest.mark.parametrize("settlement", [LATER, AGAIN, FAILED])
@pytest.mark.parametrize("made_ms", [1_795_560_474_974_123, 1_795_560_474_974_123_456])
async def test_an_entry_id_in_a_finer_unit_leaves_a_time_that_a_worker_can_read(
    store: Store, worker: Open, settlement: Settlement, made_ms: int
) -> None:
    """From then on every entry of that stream gets an id as late as that."""
    consumer = await worker()
    store.put(WORK, entry=f"{made_ms}-0")
    await push(store, "a")
    for lease in await claim(consumer):
        assert await settle(consumer, lease, settlement) is Reply.OK

    if settlement == FAILED:
        assert [
            await store.driver.change(Requeue(row.job_id)) for row in await rows_of(store.driver, State.DEAD, 9)
        ] == [Reply.OK] * 2
    store.clock.advance(60)
    queued = [int(lease.fields[b"queued_at"]) for lease in await claim(consumer)]
    assert len(queued) == 2
    assert all(abs(at - store.clock()) < 120_000 for at in queued)


async def test_an_entry_put_in_by_hand_with_an_id_is_a_job_by_that_id(store: Store, worker: Open) -> None:
    consumer = await worker()
    entry = store.put({"id": "mine", "name": "Work", "parameters": "{}"})
    lease = await claim_one(consumer)

    assert await store.driver.read(Find(entry)) is None
    assert (lease.job_id, lease.token[1]) == ("mine", entry)
    assert await settle(consumer, lease, FAILED) is Reply.OK
    assert (await found(store, "mine")).state is State.DEAD
    assert await store.driver.change(Requeue("mine")) is Reply.OK
    assert ids(await claim(consumer)) == ["mine"]


async def test_an_entry_put_in_by_hand_without_a_name_becomes_a_dead_letter(store: Store, worker: Open) -> None:
    consumer = await worker()
    fields = {"reason": "mine", "error": "mine", "entry": "mine", "undecodable": "mine", "parameters": "{}"}
    entry = store.put(fields)
    lease = await claim_one(consumer)

    assert await settle(consumer, lease, DeadLetter("undecodable", "no name")) is Reply.OK

    fields = texts((await found(store, entry)).fields)
    assert (fields["id"], fields["reason"], fields["error"]) == (entry, "undecodable", "no name")
    assert await store.driver.change(Requeue(entry)) is Reply.OK
    kept = {"id", "entry", "undecodable", "parameters", "queued_at"}
    assert texts((await claim_one(consumer)).fields).keys() == kept


@pytest.mark.parametrize("end", [wait_in_line, release, run])
async def test_an_entry_put_in_by_hand_can_be_cancelled(store: Store, worker: Open, end: Any) -> None:
    consumer = await worker()
    entry = store.put({"name": "Work", "parameters": "{}"})
    if end is wait_in_line:
        assert await store.driver.change(Cancel(entry)) is Reply.CANCELLED
    else:
        lease = await claim_one(consumer)
        if end is release:
            await settle(consumer, lease, Release())
        else:
            assert await store.driver.change(Cancel(entry)) is Reply.CANCELLING
            assert beat(consumer, lease) == [entry]
            await settle(consumer, lease, Release())
        assert await store.driver.change(Cancel(entry)) is Reply.CANCELLED
    assert await store.driver.read(Find(entry)) is None
    assert await claim(consumer) == []


async def test_an_entry_put_in_by_hand_whose_worker_died_is_taken_over_then_dead(
    store: Store, worker: Open
) -> None:
    one, two = await worker("w1", max_deliveries=2), await worker("w2", max_deliveries=2)
    entry = store.put({"name": "Work", "parameters": "{}"})
    await claim_one(one)
    assert await inherit(store, two) == []
    assert [(lease.job_id, lease.deliveries) for lease in await claim(two, idle=True)] == [(entry, 2)]
    assert await inherit(store, await worker("w3", max_deliveries=2)) == []
    assert (await found(store, entry)).fields[b"reason"] == b"worker lost"


@pytest.mark.parametrize("settlement", [Ack(), LATER, AGAIN, FAILED, None])
async def test_an_entry_put_in_by_hand_under_the_id_of_a_job_leaves_that_job_alone(
    store: Store, worker: Open, settlement: Settlement | None
) -> None:
    one, two = await worker("w1", max_deliveries=1), await worker("w2", max_deliveries=1)
    await push(store, job("a", due=After(60000), unique="key"))
    entry = store.put({"id": "a", "name": "Other", "parameters": "{}", "unique": "key"})
    before = await found(store, "a")
    lease = await claim_one(one)

    if settlement is None:
        assert await inherit(store, two) == []
    else:
        assert await settle(one, lease, settlement) is Reply.OK

    assert await found(store, "a") == before
    assert await push(store, job("b", unique="key")) == [Pushed(Reply.DUPLICATE, "a")]
    kept = await store.driver.read(Find(f"{entry}@normal"))  # it goes by its place from here on
    assert (kept and kept.fields[b"id"]) == (None if settlement == Ack() else f"{entry}@normal".encode())


async def test_an_entry_put_in_by_hand_with_ten_thousand_fields_is_kept_as_a_dead_letter(
    store: Store, worker: Open
) -> None:
    consumer = await worker()
    entry = store.put({f"field-{number}": b"\xff\x00 %d" % number for number in range(10_000)})
    lease = await claim_one(consumer)
    assert len(lease.fields) == 10_000

    before = store.contents()
    assert await settle(consumer, lease, AGAIN) is Reply.OVERSIZED
    assert store.contents() == before
    assert await settle(consumer, lease, FAILED) is Reply.OK

    row = await found(store, entry)
    raw = b" ".join(part for pair in row.fields.items() for part in pair)
    assert all(b"field-%d" % number in raw for number in range(10_000))
    assert raw.count(b"\xff") == 10_000
    assert (row.state, row.fields[b"reason"]) == (State.DEAD, b"failed")
    assert await store.driver.change(Requeue(entry)) is Reply.OVERSIZED
    assert await store.driver.change(Delete(entry)) is Reply.OK


@pytest.mark.parametrize(("fields", "reply"), [(500, Reply.OK), (501, Reply.OVERSIZED)])
async def test_a_job_put_in_by_hand_is_retried_with_up_to_five_hundred_fields(
    store: Store, worker: Open, fields: int, reply: Reply
) -> None:
    consumer = await worker()
    store.put({f"field-{number}": "x" for number in range(fields)})
    assert await settle(consumer, await claim_one(consumer), AGAIN) is reply


@pytest.mark.parametrize(
    ("fields", "reply"), [(494, Reply.OK), (496, Reply.OK), (498, Reply.OK), (499, Reply.OVERSIZED)]
)
async def test_a_dead_letter_is_requeued_with_as_many_fields_as_can_be_retried_its_notes_aside(
    store: Store, worker: Open, fields: int, reply: Reply
) -> None:
    consumer = await worker()
    entry = store.put({f"field-{number}": "x" for number in range(fields)})  # and then id and queued_at
    assert await settle(consumer, await claim_one(consumer), FAILED) is Reply.OK

    assert await store.driver.change(Requeue(entry)) is reply


async def test_an_id_put_in_by_hand_need_not_be_text(store: Store, worker: Open) -> None:
    consumer = await worker()
    store.put({"id": b"\xff\xfe \x80", "name": b"\xff", "parameters": b"\xc3", "unique": b"\xfe"})
    for settlement in (AGAIN, LATER, FAILED):
        lease = await claim_one(consumer)
        assert beat(consumer, lease) == []
        assert await settle(consumer, lease, settlement) is Reply.OK
        store.clock.advance(5)
    odd = lease.job_id
    assert odd.encode("utf-8", "surrogateescape") == b"\xff\xfe \x80"
    assert (await found(store, odd)).fields[b"parameters"] == b"\xc3"
    assert await store.driver.change(Requeue(odd)) is Reply.OK
    lease = await claim_one(consumer)
    assert lease.fields[b"name"] == b"\xff"
    assert await store.driver.change(Cancel(odd)) is Reply.CANCELLING
    assert beat(consumer, lease) == [odd]


async def test_an_entry_id_that_can_be_no_time_says_nothing_of_the_backlog(store: Store) -> None:
    store.put({"name": "Work", "parameters": "{}"}, entry="5-0")

    assert (await store.driver.read(GetBacklog())).oldest == {}
    await store.driver.aclose()
