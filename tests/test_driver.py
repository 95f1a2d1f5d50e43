"""The contract of a driver: each test runs on memory and on every server at hand."""

import copy
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import closing
from dataclasses import replace
from typing import Any

import anyio
import pytest
from store import (
    Heart,
    MemoryStore,
    RedisStore,
    Store,
    happened,
    lease_at,
    take_over,
)

from redisjobs.driver import Consumer, Fenced, Notification
from redisjobs.errors import DriverError
from redisjobs.job import Priority, State
from redisjobs.queries import Cancel, Count, Delete, Find, List, Requeue, Row, Tidy
from redisjobs.transitions import (
    Ack,
    After,
    At,
    DeadLetter,
    Due,
    Ended,
    Lease,
    NewJob,
    Pushed,
    Reclaimed,
    Release,
    Reply,
    RetryLater,
    Settlement,
    Silent,
    Turn,
)

pytestmark = pytest.mark.anyio

Open = Callable[..., Awaitable[Consumer]]

FAILED = DeadLetter("failed", "ValueError: no", "the traceback", "ValueError", "0123456789ab")
AGAIN = RetryLater(After(0), {"attempt": "2"})
WORK = {"name": "Work", "parameters": "{}"}
LATER = RetryLater(After(5000), {"attempt": "2"})
PRIORITIES = list(Priority)


@pytest.fixture
async def worker(store: Store) -> AsyncIterator[Open]:
    """Opens consumers, and closes every connection at the end."""
    opened = []

    async def open_one(worker_id: str = "w1", **options: Any) -> Consumer:
        consumer = store.consumer(worker_id, **options)
        opened.append(consumer)
        await consumer.open()
        return consumer

    yield open_one
    for consumer in opened:
        await consumer.aclose()
    await store.driver.aclose()


def job(job_id: str, **options: Any) -> NewJob:
    return NewJob(job_id, ["name", "Work", "parameters", "{}"], **options)


def another(job_id: str, **options: Any) -> NewJob:
    """A new push of an id that was pushed before."""
    return job(job_id, nonce=secrets.token_hex(8), **options)


async def push(store: Store, *jobs: NewJob | str, repeated: bool = False) -> list[Pushed]:
    return await store.driver.push([job(j) if isinstance(j, str) else j for j in jobs], repeated=repeated)


async def claim(consumer: Consumer, count: int = 10, *, idle: bool = False) -> list[Lease]:
    """Claim as a worker does that has just heard what there is, and asks on for as long as there is more."""
    return (await claim_and_hear(consumer, count, idle=idle))[0]


async def claim_and_hear(consumer: Consumer, count: int, *, idle: bool = False) -> tuple[list[Lease], list[Ended]]:
    """The same; also what was ended instead of claimed."""
    await consumer.exchange([], 0)
    leases: list[Lease] = []
    ended: list[Ended] = []
    while True:
        exchange = await consumer.exchange([], count - len(leases), idle=idle)
        leases += exchange.leases
        ended += exchange.ended
        if len(leases) == count or not exchange.more or (idle and leases):  # that may have to run alone
            return leases, ended


async def claim_one(consumer: Consumer) -> Lease:
    (lease,) = await claim(consumer)
    return lease


async def settle(consumer: Consumer, lease: Lease, settlement: Settlement) -> Reply:
    (reply,) = (await consumer.exchange([(lease, settlement)], None)).replies
    return reply


def beat(consumer: Consumer, *held: Lease) -> list[str]:
    """Beat as the holder of some jobs; ids of those that somebody has asked to cancel."""
    heart = Heart(consumer)
    try:
        return [lease.job_id for lease in heart.beat(lambda: held, {"host": "here"})]
    finally:
        heart.close()


async def outlive(store: Store, *living: Consumer) -> Reclaimed:
    """All other workers fall silent for good; the first of these fences them, and hands back what they hold."""
    store.age(60)
    for consumer in living:
        beat(consumer)
    return await take_over(living[0])


async def inherit(store: Store, heir: Consumer, count: int = 10, *, idle: bool = False) -> list[Lease]:
    """Outlive all others, and claim."""
    await outlive(store, heir)
    return await claim(heir, count, idle=idle)


def workers_known(store: RedisStore) -> list[str]:
    """The keys that are about a worker, or about one that was fenced."""
    return [key for key in list(store.keys()) if key == "fenced" or key.startswith("worker:")]


def pass_by(store: Store, seconds: float) -> None:
    """Let time pass for what a driver remembers of fenced workers."""
    store.clock.advance(seconds)
    if isinstance(store, MemoryStore):
        for worker in store.memory.fenced:
            store.memory.fenced[worker] -= seconds


async def found(store: Store, job_id: str) -> Row:
    row = await store.driver.read(Find(job_id))
    assert row is not None
    return row


def ids(leases: list[Lease]) -> list[str]:
    return [lease.job_id for lease in leases]


def texts(fields: Mapping[bytes, bytes]) -> dict[str, str]:
    return {key.decode(): value.decode() for key, value in fields.items()}


def forget(store: Store, refused: list[NewJob]) -> None:
    """Undo what was written of pushes that were refused when they were repeated."""
    for job in refused:
        if isinstance(store, RedisStore):
            slots = [key for key, _ in store.keys().items() if key.startswith("finished:")]
            members = [f"{job.nonce} {job.job_id}", f"refused {job.nonce} {job.job_id}"]
            assert sum(store.admin.srem(store.prefix + slot, *members) for slot in slots) == 2
        else:
            assert isinstance(store, MemoryStore)
            del store.memory.refused[job.job_id, job.nonce.encode()]


def snapshot(store: Store) -> object:
    """All that is stored for the queue."""
    if isinstance(store, RedisStore):
        keys = {key: store.admin.dump(store.prefix + key) for key in list(store.keys())}
        return keys, [store.pending(priority) for priority in Priority]
    assert isinstance(store, MemoryStore)
    unstored = ("lock", "ears", "now_ms", "workers")
    stored = {key: value for key, value in vars(store.memory).items() if key not in unstored}
    workers = {worker: replace(record, run=id(record.run)) for worker, record in store.memory.workers.items()}
    return copy.deepcopy((stored, workers))


# Push and claim


async def test_a_pushed_job_is_claimed_and_settled_once(store: Store, worker: Open) -> None:
    consumer = await worker()
    pushed = await push(store, "a")

    exchange = await consumer.exchange([], 10)
    (lease,) = exchange.leases
    settled = await consumer.exchange([(lease, Ack())], 10)

    assert pushed == [Pushed(Reply.OK)]
    assert (lease.job_id, lease.deliveries, lease.token[0]) == ("a", 1, 2)
    assert texts(lease.fields) == {"id": "a", "name": "Work", "parameters": "{}"}
    assert abs(exchange.server_ms - store.clock()) < 60_000
    assert (settled.replies, settled.leases) == ([Reply.OK], [])
    assert await store.driver.read(Find("a")) is None


async def test_jobs_go_strictly_by_priority_and_first_in_first_out_inside(store: Store, worker: Open) -> None:
    consumer = await worker()
    for number, priority in enumerate(PRIORITIES[::-1] * 3):
        await push(store, job(f"{priority} {number}", priority=priority))

    one_by_one = [await claim(consumer, 1) for _ in range(4)]
    the_rest = await claim(consumer)

    order = ["high 2", "high 5", "high 8", "normal 1", "normal 4", "normal 7", "low 0", "low 3", "low 6"]
    assert [lease.job_id for leases in one_by_one for lease in leases] + ids(the_rest) == order
    assert [lease.token[0] for lease in the_rest] == [2, 2, 3, 3, 3]


async def test_many_jobs_are_pushed_and_claimed_in_one_exchange_each(store: Store, worker: Open) -> None:
    consumer = await worker()

    pushed = await push(store, *(f"job {number}" for number in range(300)))
    leases = await claim(consumer, 299)
    settled = await consumer.exchange([(lease, Ack()) for lease in leases], 299)

    assert pushed == [Pushed(Reply.OK)] * 300
    assert ids(leases) == [f"job {number}" for number in range(299)]
    assert settled.replies == [Reply.OK] * 299
    assert ids(list(settled.leases)) == ["job 299"]


async def test_an_exchange_without_a_count_settles_only(store: Store, worker: Open) -> None:
    consumer = await worker()
    await push(store, "a", job("b", due=After(1000)))
    store.clock.advance(2)

    exchange = await consumer.exchange([], None)

    assert (exchange.leases, exchange.due_in, exchange.server_ms) == ((), None, 0)
    assert (await found(store, "a")).state is State.READY
    assert (await found(store, "b")).state is State.DELAYED


async def test_a_claim_of_none_only_promotes(store: Store, worker: Open) -> None:
    consumer = await worker()
    await push(store, "a", job("b", due=After(1000)))
    store.clock.advance(2)

    exchange = await consumer.exchange([], 0)

    assert exchange.leases == []
    assert (await found(store, "b")).state is State.READY
    assert ids(await claim(consumer)) == ["a", "b"]


# Delayed


async def test_a_delayed_job_waits_until_it_is_due(store: Store, worker: Open) -> None:
    consumer = await worker()
    store.clock.advance(0)
    now_ms = store.clock()
    await push(store, job("relative", due=After(1000)), job("absolute", due=At(now_ms + 2000)))

    assert (await consumer.exchange([], 10)).due_in == 1.0
    store.clock.advance(0.999)
    assert await claim(consumer) == []
    store.clock.advance(0.001)
    assert (await consumer.exchange([], 0)).more  # it was promoted, for the next claim
    exchange = await consumer.exchange([], 10)
    assert (ids(list(exchange.leases)), exchange.due_in) == (["relative"], 1.0)
    store.clock.advance(1)
    await consumer.exchange([], 0)
    exchange = await consumer.exchange([], 10)
    assert (ids(list(exchange.leases)), exchange.due_in) == (["absolute"], None)
    assert exchange.server_ms == now_ms + 2000
    assert exchange.leases[0].fields[b"queued_at"] == b"%d" % now_ms


async def test_a_job_due_now_or_in_the_past_is_ready_at_once(store: Store, worker: Open) -> None:
    consumer = await worker()
    store.clock.advance(0)
    now = At(store.clock())
    await push(store, job("a", due=At(1)), job("b", due=After(0)), job("c", due=now))
    assert [row.job_id for row in await store.driver.read(List(State.READY, 9))] == ["a", "b", "c"]
    leases = await claim(consumer)
    dues: list[Due] = [At(1), After(0), now]
    again = [(lease, RetryLater(due)) for lease, due in zip(leases, dues, strict=True)]
    assert (await consumer.exchange(again, None)).replies == [Reply.OK] * 3
    assert [row.job_id for row in await store.driver.read(List(State.READY, 9))] == ["a", "b", "c"]


async def test_jobs_are_promoted_by_due_time_into_their_priority(store: Store, worker: Open) -> None:
    consumer = await worker()
    await push(store, job("third", due=After(3000)), job("first", due=After(1000)), job("second", due=After(2000)))
    await push(store, job("urgent", due=After(4000), priority=Priority.HIGH), job("not yet", due=After(9000)))
    await push(store, "ready before")
    store.clock.advance(5)

    assert ids(await claim(consumer)) == ["urgent", "ready before", "first", "second", "third"]


async def test_jobs_with_one_due_time_keep_the_order_in_which_they_came(store: Store, worker: Open) -> None:
    consumer = await worker()
    store.clock.advance(0)
    due = At(store.clock() + 5000)
    names = [f"{n * 7919 % 1000:03} {n}" for n in range(60)]  # no order by name is theirs
    for start in range(0, 40, 20):
        await push(store, *[job(name, due=due) for name in names[start : start + 20]])
        store.clock.advance(0.001)
    await push(store, *[job(name, priority=Priority.NORMAL) for name in names[40:]])
    late = await claim(consumer, 50)
    later = [(lease, RetryLater(due)) for lease in late]
    assert set((await consumer.exchange(later, None)).replies) == {Reply.OK}
    store.clock.advance(6)

    assert [row.job_id for row in await store.driver.read(List(State.DELAYED, 100))] == names
    assert ids(await claim(consumer, 100)) == names


# Idempotent by id


async def delay(store: Store, consumer: Consumer) -> None:
    store.clock.advance(0)
    await push(store, job("a", due=After(1000)))


async def wait_in_line(store: Store, consumer: Consumer) -> None:
    await push(store, "a")


async def run(store: Store, consumer: Consumer) -> None:
    await push(store, "a")
    await claim_one(consumer)


async def retry(store: Store, consumer: Consumer) -> None:
    await push(store, "a")
    assert await settle(consumer, await claim_one(consumer), LATER) is Reply.OK


async def release(store: Store, consumer: Consumer) -> None:
    await push(store, "a")
    assert await settle(consumer, await claim_one(consumer), Release()) is Reply.OK


async def fail(store: Store, consumer: Consumer) -> None:
    await push(store, "a")
    assert await settle(consumer, await claim_one(consumer), FAILED) is Reply.OK


async def finish(store: Store, consumer: Consumer) -> None:
    await push(store, "a")
    assert await settle(consumer, await claim_one(consumer), Ack()) is Reply.OK


async def cancel(store: Store, consumer: Consumer) -> None:
    await push(store, "a")
    assert await store.driver.change(Cancel("a")) is Reply.CANCELLED


async def discard(store: Store, consumer: Consumer) -> None:
    await fail(store, consumer)
    assert await store.driver.change(Delete("a")) is Reply.OK


async def cancel_running(store: Store, consumer: Consumer) -> None:
    await run(store, consumer)
    assert await store.driver.change(Cancel("a")) is Reply.CANCELLING


@pytest.mark.parametrize("repeated", [False, True])
@pytest.mark.parametrize("bring", [delay, wait_in_line, run, retry, release, fail, cancel_running])
async def test_an_id_that_is_on_the_queue_is_not_pushed_again(
    store: Store, worker: Open, bring: Any, repeated: bool
) -> None:
    await bring(store, await worker())
    before = snapshot(store)

    again = [another("a"), another("a", due=After(1), unique="key")]
    assert await push(store, *again, repeated=repeated) == [Pushed(Reply.EXISTS)] * 2
    assert await push(store, "a", repeated=repeated) == [Pushed(Reply.REPEATED)]
    if repeated:  # that they were refused is remembered, and nothing else
        forget(store, again)
    assert snapshot(store) == before


@pytest.mark.parametrize("bring", [delay, wait_in_line, run, retry, release, fail, cancel_running])
async def test_a_repeated_push_of_a_given_id_knows_its_own_job_from_that_of_another_push(
    store: Store, worker: Open, bring: Any
) -> None:
    mine, theirs = another("a", due=After(60000) if bring is delay else None), another("a")
    assert await push(store, mine) == [Pushed(Reply.OK)]
    if bring is not delay:
        await bring(store, await worker())

    assert await push(store, mine, repeated=True) == [Pushed(Reply.REPEATED)]
    assert await push(store, theirs, repeated=True) == [Pushed(Reply.EXISTS)]


async def test_an_id_given_twice_in_one_push_is_one_job(store: Store, worker: Open) -> None:
    assert await push(store, "a", "a") == [Pushed(Reply.OK), Pushed(Reply.EXISTS)]
    assert ids(await claim(await worker())) == ["a"]


@pytest.mark.parametrize("nonce", ["", "0123456789abcdef"])
async def test_a_push_that_is_made_twice_in_one_call_finds_itself_once(
    store: Store, worker: Open, nonce: str
) -> None:
    once, other = job("a", nonce=nonce), another("a")
    assert await push(store, once, once, other) == [Pushed(Reply.OK), *[Pushed(Reply.EXISTS)] * 2]
    assert await push(store, once, once, repeated=True) == [Pushed(Reply.REPEATED), Pushed(Reply.EXISTS)]
    consumer = await worker()
    await settle(consumer, await claim_one(consumer), Ack())
    assert await push(store, once, once, repeated=True) == [Pushed(Reply.REPEATED), Pushed(Reply.EXISTS)]
    assert await push(store, once, another("a"), repeated=True) == [Pushed(Reply.REPEATED), Pushed(Reply.OK)]


async def test_a_push_that_was_refused_when_it_was_repeated_stays_refused(store: Store, worker: Open) -> None:
    consumer = await worker()
    await push(store, job("a", unique="key"))
    refused = [another("a"), job("b", unique="key")]
    for _ in range(2):
        replies = [each.reply for each in await push(store, *refused, repeated=True)]
        assert replies == [Reply.EXISTS, Reply.DUPLICATE]
    await settle(consumer, await claim_one(consumer), Ack())

    assert await push(store, *refused, refused[0], repeated=True) == [
        *[Pushed(Reply.REFUSED)] * 2,
        Pushed(Reply.EXISTS),
    ]
    assert await push(store, another("a"), another("b", unique="key")) == [Pushed(Reply.OK)] * 2
    assert await push(store, refused[0], job("c", unique="key"), refused[1], repeated=True) == [
        Pushed(Reply.EXISTS),
        Pushed(Reply.DUPLICATE, "b"),
        Pushed(Reply.REPEATED),  # by its id, which no other push should have been given
    ]


@pytest.mark.parametrize("number", [1, 2, 3])
async def test_pushes_of_one_call_that_were_refused_stay_so_however_many_they_are(
    store: Store, worker: Open, number: int
) -> None:
    consumer = await worker()
    await push(store, "a")
    refused = [another("a") for _ in range(number)]
    assert await push(store, *refused, repeated=True) == [Pushed(Reply.EXISTS)] * number
    await settle(consumer, await claim_one(consumer), Ack())
    assert await push(store, *refused, repeated=True) == [Pushed(Reply.REFUSED)] * number


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
    assert await push(store, later, repeated=True) == [Pushed(Reply.OK)]


@pytest.mark.parametrize("nonce", ["", "0123456789abcdef"])
@pytest.mark.parametrize("bring", [finish, cancel, discard])
async def test_a_repeated_push_of_a_job_that_ended_adds_nothing(
    store: Store, worker: Open, bring: Any, nonce: str
) -> None:
    store.clock.set_to = store.clock() // 5000 * 5000 + 7000  # amid the 5 s that are remembered together
    await push(store, job("a", nonce=nonce))
    await bring(store, await worker())

    assert await push(store, job("a", nonce=nonce), repeated=True) == [Pushed(Reply.REPEATED)]
    store.clock.advance(59)
    assert await push(store, job("a", nonce=nonce), repeated=True) == [Pushed(Reply.REPEATED)]
    assert await claim(await worker()) == []
    store.clock.advance(62)
    assert await push(store, job("a", nonce=nonce), repeated=True) == [Pushed(Reply.OK)]


@pytest.mark.parametrize("nonce", ["", "0123456789abcdef"])
@pytest.mark.parametrize("bring", [finish, cancel, discard])
async def test_a_new_push_of_an_id_that_ended_is_a_new_job_at_once(
    store: Store, worker: Open, bring: Any, nonce: str
) -> None:
    await push(store, job("a", nonce=nonce))
    await bring(store, await worker())

    assert await push(store, another("a"), repeated=True) == [Pushed(Reply.OK)]
    assert ids(await claim(await worker())) == ["a"]


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
        store.admin.hset(f"{store.prefix}jobs", lease.job_id, f"ready:normal {lease.token[1]}{mark}")
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

    store.admin.hset(f"{store.prefix}jobs", entry, f"ready:low {entry}")
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


async def test_a_requeued_job_is_still_of_its_own_push(store: Store, worker: Open) -> None:
    consumer, pushed = await worker(), another("a")
    await push(store, pushed)
    await fail(store, consumer)
    await store.driver.change(Requeue("a"))
    await settle(consumer, await claim_one(consumer), Ack())

    assert await push(store, pushed, repeated=True) == [Pushed(Reply.REPEATED)]


# Unique


@pytest.mark.parametrize("bring", [delay, wait_in_line, run, retry, release, cancel_running])
async def test_a_unique_key_is_held_as_long_as_its_job_lives(
    store: Store, worker: Open, bring: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = job
    monkeypatch.setitem(globals(), "job", lambda job_id, **options: make(job_id, unique="key", **options))
    await bring(store, await worker())

    assert await push(store, job("b")) == [Pushed(Reply.DUPLICATE, "a")]
    assert await store.driver.read(Find("b")) is None
    assert await push(store, make("b", unique="other"), make("c")) == [Pushed(Reply.OK)] * 2


@pytest.mark.parametrize("settlement", [Ack(), Ack(cancelled=True), FAILED])
async def test_a_unique_key_is_free_once_its_job_is_settled(
    store: Store, worker: Open, settlement: Settlement
) -> None:
    consumer = await worker()
    await push(store, job("a", unique="key"))
    assert await settle(consumer, await claim_one(consumer), settlement) is Reply.OK
    assert await push(store, job("b", unique="key")) == [Pushed(Reply.OK)]


@pytest.mark.parametrize("due", [None, After(1000)], ids=str)
async def test_a_unique_key_is_free_once_its_job_is_cancelled(store: Store, worker: Open, due: Due | None) -> None:
    await push(store, job("a", unique="key", due=due))
    assert await store.driver.change(Cancel("a")) is Reply.CANCELLED
    assert await push(store, job("b", unique="key")) == [Pushed(Reply.OK)]


async def test_a_unique_key_is_free_once_its_job_killed_its_workers(store: Store, worker: Open) -> None:
    await push(store, job("a", unique="key"))
    await claim_one(await worker("w1", max_deliveries=1))
    assert await inherit(store, await worker("w2", max_deliveries=1)) == []
    assert await push(store, job("b", unique="key")) == [Pushed(Reply.OK)]


async def test_a_requeued_job_does_not_take_its_unique_key_back(store: Store, worker: Open) -> None:
    consumer = await worker()
    await push(store, job("a", unique="key"))
    await settle(consumer, await claim_one(consumer), FAILED)
    await push(store, job("b", unique="key"))

    assert await store.driver.change(Requeue("a")) is Reply.OK
    leases = await claim(consumer)
    await consumer.exchange([(lease, Ack()) for lease in leases if lease.job_id == "a"], None)

    assert await push(store, job("c", unique="key")) == [Pushed(Reply.DUPLICATE, "b")]


async def test_a_unique_key_with_a_time_is_held_for_that_time_even_if_the_job_ends(
    store: Store, worker: Open
) -> None:
    consumer = await worker()
    await push(store, job("a", unique="key", unique_for_ms=300))
    await settle(consumer, await claim_one(consumer), Ack())
    assert await push(store, job("b", unique="key")) == [Pushed(Reply.DUPLICATE, "a")]

    with anyio.fail_after(5):  # by the server's own clock, which no test sets
        while await push(store, job("b", unique="key")) != [Pushed(Reply.OK)]:  # noqa: ASYNC110
            await anyio.sleep(0.02)


# Settling


async def test_a_job_that_expires_carries_the_time(store: Store, worker: Open) -> None:
    store.clock.advance(0)
    await push(store, job("a", expires_in_ms=5000), job("b", expires_in_ms=5000, due=After(1)))
    store.clock.advance(1)

    expires = [lease.fields[b"expires_at"] for lease in await claim(await worker())]
    assert expires == [b"%d" % (store.clock() + 4000)] * 2


async def test_a_retried_job_waits_in_line_again_with_its_fields_changed(store: Store, worker: Open) -> None:
    consumer = await worker()
    fields = ["name", "Work", "parameters", "", "headers", "{}", "error", "old"]
    await push(store, NewJob("a", fields), "b")
    first, other = await claim(consumer)

    changes = {"attempt": "2", "error": "ValueError: no", "headers": "", "more": "é"}
    assert await settle(consumer, first, RetryLater(After(0), changes)) is Reply.OK
    second = await claim_one(consumer)

    assert (second.job_id, second.deliveries) == ("a", 1)
    assert second.token[1] != first.token[1]
    queued_at = first.token[1].partition("-")[0]
    kept = {"id": "a", "name": "Work", "parameters": "", "queued_at": queued_at}
    assert texts(second.fields) == kept | {"attempt": "2", "error": "ValueError: no", "more": "é"}
    assert await settle(consumer, other, Ack()) is Reply.OK


async def test_a_retried_job_keeps_its_id_priority_and_time_of_push(store: Store, worker: Open) -> None:
    consumer = await worker()
    store.clock.advance(1)  # not before the server's own, by which entry ids are made
    await push(store, job("a", priority=Priority.LOW))
    first = await claim_one(consumer)
    for settlement in (LATER, RetryLater(At(store.clock() + 9000)), AGAIN):
        lease = first if settlement is LATER else await claim_one(consumer)
        assert await settle(consumer, lease, settlement) is Reply.OK
        store.clock.advance(5)

    last = await claim_one(consumer)
    assert (last.job_id, last.token[0]) == ("a", 3)
    assert last.fields[b"queued_at"].decode() == first.token[1].partition("-")[0]


@pytest.mark.parametrize("absolute", [False, True])
async def test_a_retry_with_a_delay_waits_until_it_is_due(store: Store, worker: Open, absolute: bool) -> None:
    consumer = await worker()
    await push(store, "a")
    store.clock.advance(0)
    due_ms = store.clock() + 5000
    lease = await claim_one(consumer)

    assert await settle(consumer, lease, RetryLater(At(due_ms) if absolute else After(5000))) is Reply.OK

    row = await found(store, "a")
    assert (row.state, row.due_ms, row.deliveries, row.key) == (State.DELAYED, due_ms, 0, "")
    assert (await consumer.exchange([], 10)).due_in == 5.0
    store.clock.advance(5)
    assert ids(await claim(consumer)) == ["a"]


async def test_a_released_job_keeps_its_place_and_its_delivery_is_refunded(store: Store, worker: Open) -> None:
    one, two = await worker("w1"), await worker("w2")
    await push(store, "a", "b", "c", job("urgent", priority=Priority.HIGH))
    urgent, _, b = await claim(one, 3)

    assert await settle(one, b, Release()) is Reply.OK
    await settle(one, urgent, Release())

    assert (await found(store, "b")).state is State.READY
    assert [(lease.job_id, lease.deliveries) for lease in await claim(two)] == [("urgent", 1), ("b", 1), ("c", 1)]


async def test_a_job_released_without_a_refund_counts_its_delivery_and_is_capped(
    store: Store, worker: Open
) -> None:
    one, two = await worker("w1"), await worker("w2")
    await push(store, "ran", "waited")
    leases = await claim(one, 2)
    await one.exchange([(leases[0], Release(refund=False)), (leases[1], Release())], None)

    ran, waited = await claim(two, 2)
    assert [(ran.job_id, ran.deliveries), (waited.job_id, waited.deliveries)] == [("ran", 2), ("waited", 1)]
    await two.exchange([(ran, Release(refund=False)), (waited, Release())], None)

    (ran,) = await claim(two, 2, idle=True)
    assert (ran.job_id, ran.deliveries) == ("ran", 3)
    await two.exchange([(ran, Release(refund=False))], None)

    assert ids(await claim(two, 2)) == ["waited"]
    assert (await found(store, "ran")).state is State.DEAD


async def test_a_released_job_passes_ahead_of_new_ones_even_behind_a_cancelled_one(
    store: Store, worker: Open
) -> None:
    consumer = await worker()
    await push(store, "a", "b", "c")
    a, b = await claim(consumer, 2)
    await store.driver.change(Cancel("a"))
    await consumer.exchange([(a, Release()), (b, Release())], None)

    assert ids(await claim(consumer, 1)) == ["b"]
    assert await store.driver.read(Find("a")) is None


async def test_no_more_released_jobs_are_claimed_than_asked_for_whatever_their_priority(
    store: Store, worker: Open
) -> None:
    consumer = await worker()
    await push(store, *[job(f"{priority} {n}", priority=priority) for n in range(3) for priority in Priority])
    for lease in await claim(consumer, 9):
        await settle(consumer, lease, Release())
    await push(store, "new")

    assert ids(await claim(consumer, 4)) == ["high 0", "high 1", "high 2", "normal 0"]
    assert ids(await claim(consumer, 9)) == ["normal 1", "normal 2", "new", "low 0", "low 1", "low 2"]


async def test_a_failed_job_is_a_dead_letter_with_its_fields_and_the_notes(store: Store, worker: Open) -> None:
    consumer = await worker()
    await push(store, NewJob("a", ["name", "Work", "parameters", '{"n":1}', "attempt", "4"], Priority.HIGH))
    store.clock.advance(1)
    lease = await claim_one(consumer)

    assert await settle(consumer, lease, FAILED) is Reply.OK

    row = await found(store, "a")
    kept = {"id": "a", "name": "Work", "parameters": '{"n":1}', "attempt": "4", "priority": "high"}
    notes = {"reason": "failed", "error": "ValueError: no", "traceback": "the traceback", "worker": "w1"}
    notes |= {"error_type": "ValueError", "fingerprint": "0123456789ab"}
    times = {"queued_at": lease.token[1].partition("-")[0], "failed_at": str(store.clock()), "deliveries": "1"}
    assert texts(row.fields) == kept | notes | times
    assert (row.state, row.priority) == (State.DEAD, Priority.HIGH)
    assert await claim(consumer) == []


# Lost leases


async def claimed_again(store: Store, one: Consumer, two: Consumer, lease: Lease) -> Lease:
    """The same worker again, but the earlier delivery: its handler is not the one that counts."""
    assert await settle(one, lease, Release(refund=False)) is Reply.OK
    assert (await claim_one(one)).deliveries == lease.deliveries + 1
    return lease


async def miscounted(store: Store, one: Consumer, two: Consumer, lease: Lease) -> Lease:
    return replace(lease, deliveries=2)


async def another_job(store: Store, one: Consumer, two: Consumer, lease: Lease) -> Lease:
    """After a failover an entry id may come again for another job."""
    if isinstance(store, MemoryStore):
        pytest.skip("memory has no failover")
    return replace(lease, job_id="b")


async def released(store: Store, one: Consumer, two: Consumer, lease: Lease) -> Lease:
    assert await settle(one, lease, Release()) is Reply.OK
    return lease


async def handed_on(store: Store, one: Consumer, two: Consumer, lease: Lease) -> Lease:
    """The delivery count is what it was: only the worker differs."""
    await settle(one, lease, Release())
    assert (await claim_one(two)).deliveries == lease.deliveries
    return lease


async def settled(store: Store, one: Consumer, two: Consumer, lease: Lease) -> Lease:
    assert await settle(one, lease, Ack()) is Reply.OK
    return lease


async def retried(store: Store, one: Consumer, two: Consumer, lease: Lease) -> Lease:
    assert await settle(one, lease, AGAIN) is Reply.OK
    return lease


@pytest.mark.parametrize(
    ("lose", "settlement"),
    [
        (lose, settlement)
        for lose in (claimed_again, miscounted, released, handed_on, another_job, settled, retried)
        for settlement in (Ack(), Ack(cancelled=True), AGAIN, LATER, FAILED, Release(), Release(refund=False))
    ],
)
async def test_a_worker_that_lost_its_lease_writes_nothing(
    store: Store, worker: Open, lose: Any, settlement: Settlement
) -> None:
    one, two = await worker("w1"), await worker("w2")
    await push(store, job("a", unique="key"))
    lease = await lose(store, one, two, await claim_one(one))
    before = snapshot(store)

    assert await settle(one, lease, settlement) is Reply.LEASE_LOST

    assert snapshot(store) == before


async def test_each_job_of_a_batch_gets_its_own_word(store: Store, worker: Open) -> None:
    one = await worker("w1")
    settlements: list[Settlement] = [Ack(), FAILED, LATER, AGAIN, Release()]
    await push(store, *(job(f"{kind} {number}") for number in range(5) for kind in ("lost", "held")))
    leases = await claim(one)
    lost, held = leases[::2], leases[1::2]
    await one.exchange([(lease, AGAIN) for lease in lost], None)

    mixed = [(lease, settlements[number // 2]) for number, lease in enumerate(leases)]
    replies = (await one.exchange(mixed, None)).replies

    assert replies == [Reply.LEASE_LOST, Reply.OK] * 5
    states = [(await store.driver.read(Find(lease.job_id))) for lease in (*held, *lost)]
    expected = [None, State.DEAD, State.DELAYED, State.READY, State.READY, *[State.READY] * 5]
    assert [row and row.state for row in states] == expected


@pytest.mark.parametrize("off", ["cancelling", "lost", "unlocated", "nobody's"])
@pytest.mark.parametrize("settlement", [Ack(), AGAIN, LATER, FAILED, Release(), Ack(cancelled=True)])
async def test_a_batch_of_which_one_job_is_not_as_it_should_be_settles_the_others(
    store: Store, worker: Open, off: str, settlement: Settlement
) -> None:
    consumer = await worker()
    await push(store, *[job(f"{priority} {n}", priority=priority) for n in range(3) for priority in Priority])
    if off == "unlocated":
        store.put(WORK)
    leases = await claim(consumer, 20)
    odd = leases[-1] if off == "unlocated" else leases[4]
    if off == "unlocated":
        odd = next(lease for lease in leases if lease.fields.get(b"id") is None)
        if isinstance(store, RedisStore):
            store.admin.hdel(f"{store.prefix}jobs", odd.job_id)
    if off == "cancelling":
        assert await store.driver.change(Cancel(odd.job_id)) is Reply.CANCELLING
    if off == "lost":
        assert await settle(consumer, odd, AGAIN) is Reply.OK
    if off == "nobody's":
        odd = lease_at(odd.token[0], "1-1", 1, "unknown")
        leases[4] = odd

    answer = await consumer.exchange([(lease, settlement if lease is odd else Ack()) for lease in leases], None)

    again = isinstance(settlement, RetryLater)
    reply = {"cancelling": Reply.CANCELLED if again else Reply.OK, "unlocated": Reply.OK}.get(
        off, Reply.LEASE_LOST
    )
    assert answer.replies == [reply if lease is odd else Reply.OK for lease in leases]
    for lease in leases:
        if lease is not odd:
            assert await store.driver.read(Find(lease.job_id)) is None
    done = [lease for lease in leases if lease is not odd or (settlement == Ack() and reply is Reply.OK)]
    assert (await store.driver.read(Count())).totals["completed"] == len(done)


# Batcher that are sent again


@pytest.mark.parametrize(
    "settlement", [Ack(), Ack(cancelled=True), AGAIN, LATER, FAILED, Release(), Release(refund=False)]
)
@pytest.mark.parametrize("others", [0, 2])
async def test_an_exchange_that_is_sent_again_is_answered_as_before_and_not_applied_twice(
    store: Store, worker: Open, settlement: Settlement, others: int
) -> None:
    consumer = await worker()
    store.clock.advance(0)
    await push(store, job("a", unique="key"), *(f"other {number}" for number in range(others)))
    lease, *rest = await claim(consumer)
    lost = lease_at(2, "1-1", 1, "unknown")
    batch = [(lease, settlement), *((each, Ack()) for each in rest), *([(lost, settlement)] if others else [])]

    first = await consumer.exchange(batch, None, turn=Turn(1, 7))
    before = snapshot(store)
    second = await consumer.exchange(batch, None, turn=Turn(1, 7))

    assert first.replies == [Reply.OK] * (1 + others) + ([Reply.LEASE_LOST] if others else [])
    assert second.replies == first.replies
    assert snapshot(store) == before


@pytest.mark.parametrize("refund", [True, False])
async def test_a_release_that_is_sent_again_leaves_its_job_to_whoever_claimed_it_since(
    store: Store, worker: Open, refund: bool
) -> None:
    """Be it the same worker, whose later lease may look as the earlier one did."""
    consumer = await worker()
    await push(store, "a")
    batch = [(await claim_one(consumer), Release(refund=refund))]
    assert (await consumer.exchange(batch, None, turn=Turn(1, 1))).replies == [Reply.OK]
    later = await claim_one(consumer)
    assert later.deliveries == (1 if refund else 2)
    before = snapshot(store)

    assert (await consumer.exchange(batch, None, turn=Turn(1, 1))).replies == [Reply.OK]

    assert snapshot(store) == before
    assert await settle(consumer, later, Ack()) is Reply.OK


async def test_a_retry_that_is_sent_again_is_answered_as_the_cancel_that_it_was(
    store: Store, worker: Open
) -> None:
    consumer = await worker()
    await push(store, "a")
    batch = [(await claim_one(consumer), AGAIN)]
    await store.driver.change(Cancel("a"))
    for _ in range(2):
        assert (await consumer.exchange(batch, None, turn=Turn(1, 1))).replies == [Reply.CANCELLED]
    assert (await store.driver.read(Count())).totals["cancelled"] == 1


async def test_what_an_exchange_claims_is_claimed_once_more_when_it_is_sent_again(
    store: Store, worker: Open
) -> None:
    consumer = await worker()
    await push(store, "a", "b", "c")
    batch = [((await consumer.exchange([], 1)).leases[0], Ack())]

    first = await consumer.exchange(batch, 1, turn=Turn(1, 1))
    second = await consumer.exchange(batch, 1, turn=Turn(1, 1))

    assert (first.replies, second.replies) == ([Reply.OK], [Reply.OK])
    assert (ids(list(first.leases)), ids(list(second.leases))) == (["b"], ["c"])


async def test_an_exchange_that_comes_after_a_later_one_is_refused(store: Store, worker: Open) -> None:
    consumer = await worker()
    await push(store, "a", "b", "c", "d")
    a, b, c, d = await claim(consumer)
    await consumer.exchange([(a, Ack())], None, turn=Turn(1, 8))
    before = snapshot(store)

    with pytest.raises(DriverError, match="nothing was written") as refused:
        await consumer.exchange([(b, Ack())], None, turn=Turn(1, 7))

    assert not isinstance(refused.value, Fenced)
    assert snapshot(store) == before
    assert (await consumer.exchange([(b, Ack())], None, turn=Turn(2, 1))).replies == [Reply.OK]  # another lane
    assert (await consumer.exchange([(c, Ack())], None, turn=Turn(1, 9))).replies == [Reply.OK]
    assert (await consumer.exchange([(d, Ack())], None)).replies == [Reply.OK]  # never sent again: no turn


async def test_what_settles_nothing_has_no_turn_to_keep(store: Store, worker: Open) -> None:
    consumer = await worker()
    await push(store, "a", "b")
    claimed = [(await consumer.exchange([], 1, turn=Turn(1, number))).leases[0] for number in (3, 2)]

    assert ids(claimed) == ["a", "b"]
    assert (await consumer.exchange([(claimed[0], Ack())], None, turn=Turn(1, 1))).replies == [Reply.OK]


async def test_the_turns_of_a_worker_are_its_own_and_begin_anew_with_its_id(store: Store, worker: Open) -> None:
    one, two = await worker("w1"), await worker("w2")
    await push(store, "a", "b", "c")
    a, b = await claim(one, 2)
    c = await claim_one(two)
    await one.exchange([(a, Ack())], None, turn=Turn(1, 5))

    assert (await two.exchange([(c, FAILED)], None, turn=Turn(1, 5))).replies == [Reply.OK]
    assert (await found(store, "c")).state is State.DEAD
    await one.release(refund=True, watch=False)
    await one.open("w3")
    b = await claim_one(one)
    assert (await one.exchange([(b, FAILED)], None, turn=Turn(1, 5))).replies == [Reply.OK]
    assert (await found(store, "b")).state is State.DEAD


# Priority


async def test_what_comes_with_a_higher_priority_is_passed_by_one_exchange_at_most(
    store: Store, worker: Open
) -> None:
    """Each goes by what the one before it has heard: strict priority holds to the exchange."""
    consumer = await worker()
    await push(store, *(f"normal {number}" for number in range(4)))
    assert ids(list((await consumer.exchange([], 1)).leases)) == ["normal 0"]
    await push(store, job("urgent", priority=Priority.HIGH))

    next_two = [ids(list((await consumer.exchange([], 1)).leases)) for _ in range(2)]

    assert sorted(next_two) == [["normal 1"], ["urgent"]]
    await push(store, job("soon", due=After(1000), priority=Priority.HIGH))
    store.clock.advance(2)
    next_two = [ids(list((await consumer.exchange([], 1)).leases)) for _ in range(2)]
    assert sorted(next_two) == [["normal 2"], ["soon"]]


async def test_what_was_handed_back_is_passed_by_one_exchange_at_most(store: Store, worker: Open) -> None:
    consumer, other = await worker("w1"), await worker("w2")
    await push(store, "a", "b", "c", "d")
    a = await claim(other, 1)
    assert ids(list((await consumer.exchange([], 1)).leases)) == ["b"]
    await settle(other, a[0], Release())

    next_two = [ids(list((await consumer.exchange([], 1)).leases)) for _ in range(2)]

    assert sorted(next_two) == [["a"], ["c"]]


async def test_an_exchange_that_brings_nothing_though_there_is_something_says_so(
    store: Store, worker: Open
) -> None:
    consumer = await worker()
    assert not (await consumer.exchange([], 5)).more
    await push(store, "a", job("urgent", priority=Priority.HIGH))

    brought: list[Lease] = []
    for _ in range(4):
        answer = await consumer.exchange([], 1)
        assert len(answer.leases) <= 1
        brought += answer.leases
        assert answer.leases or answer.more
        if len(brought) == 2:
            break

    assert sorted(ids(brought)) == ["a", "urgent"]
    assert not answer.more


# Lost workers


async def test_a_job_whose_worker_died_goes_to_another(store: Store, worker: Open) -> None:
    one, two = await worker("w1"), await worker("w2")
    await push(store, "a")
    first = await claim_one(one)
    look = await take_over(two)
    assert replace(look, server_ms=0) == Reclaimed([], [])
    assert abs(look.server_ms - store.clock()) < 60_000

    look = await outlive(store, two)
    row = await found(store, "a")
    second = await claim_one(two)

    assert (look.fenced, look.jobs, look.released) == (["w1"], 1, True)
    assert (row.state, row.worker, row.deliveries) == (State.READY, "", 1)
    assert (second.job_id, second.token[1], second.deliveries) == ("a", first.token[1], 2)
    row = await found(store, "a")
    assert (row.worker, row.deliveries) == ("w2", 2)
    assert await settle(two, second, Ack()) is Reply.OK


async def test_a_worker_that_beats_keeps_its_jobs(store: Store, worker: Open) -> None:
    one, two = await worker("w1"), await worker("w2")
    await push(store, "a")
    lease = await claim_one(one)
    store.age(60)

    beat(one, lease)
    beat(two)

    look = await take_over(two)
    assert (look.silent, look.fenced, look.jobs) == ([], [], 0)
    assert await settle(one, lease, Ack()) is Reply.OK  # the delivery count is what it was


async def test_a_worker_that_beats_between_being_named_and_being_fenced_is_spared(
    store: Store, worker: Open
) -> None:
    one, two, three = await worker("w1"), await worker("w2"), await worker("w3")
    await push(store, "a", "b")
    (a,) = await claim(one, 1)
    await claim(two, 1)
    store.age(60)
    beat(three)
    named = (await three.reclaim()).silent
    assert sorted(each.worker_id for each in named) == ["w1", "w2"]
    beat(one)

    look = await three.reclaim(named)

    assert (look.fenced, look.jobs, look.silent) == (["w2"], 1, [])
    assert await settle(one, a, Ack()) is Reply.OK
    assert ids(await claim(three)) == ["b"]


async def test_to_name_who_may_be_lost_does_nothing_to_them(store: Store, worker: Open) -> None:
    """The clock may have been set: who is surely lost is for the caller to know."""
    one, two = await worker("w1"), await worker("w2")
    await push(store, "a")
    lease = await claim_one(one)
    store.age(60)
    beat(two)
    before = snapshot(store)

    for _ in range(3):
        (named,) = (await two.reclaim()).silent
        assert (named.worker_id, named.lease) == ("w1", 15)

    assert snapshot(store) == before
    assert await settle(one, lease, Ack()) is Reply.OK


@pytest.mark.parametrize(("theirs", "ours"), [(60, 2), (2, 60)])
async def test_a_lease_is_as_long_as_its_own_worker_said_whatever_that_of_the_others_is(
    store: Store, worker: Open, theirs: float, ours: float
) -> None:
    one, two = await worker("w1", lease=theirs), await worker("w2", lease=ours)
    await push(store, "a")
    await claim_one(one)
    beat(one)

    store.age(theirs - 1)
    beat(two)
    assert (await take_over(two)).silent == []
    beat(two)
    store.age(2)
    beat(two)
    (named,) = (await two.reclaim()).silent

    assert (named.worker_id, named.lease) == ("w1", theirs)
    assert (await two.reclaim([named])).fenced == ["w1"]


async def test_the_many_jobs_of_a_dead_worker_are_handed_back_in_bounded_steps(store: Store, worker: Open) -> None:
    one, two = await worker("w1"), await worker("w2")
    for start in range(0, 1200, 400):
        await push(store, *(job(str(n), priority=PRIORITIES[n % 3]) for n in range(start, start + 400)))
    assert len(await claim(one, 1200)) == 1200
    store.age(60)
    beat(two)

    looks = [await two.reclaim((await two.reclaim()).silent)]
    while looks[-1].more:
        looks.append(await two.reclaim())

    assert [look.jobs for look in looks if look.jobs] == [500, 500, 200]
    assert [look.fenced for look in looks if look.fenced] == [["w1"]]
    leases = await claim(two, 2000)
    ordered = [str(n) for first in range(3) for n in range(first, 1200, 3)]
    assert ids(leases) == ordered
    assert {lease.deliveries for lease in leases} == {2}
    assert (await store.driver.read(Count())).totals["reclaimed"] == 1200


async def test_one_look_finds_an_orphan_behind_hundreds_of_healthy_leases(store: Store, worker: Open) -> None:
    busy, dead, heir = await worker("busy"), await worker("dead"), await worker("heir")
    await push(store, *(f"j{number}" for number in range(301)))
    await claim(busy, 300)
    await claim(dead)

    look = await outlive(store, heir, busy)

    assert (look.fenced, look.jobs, look.more) == (["dead"], 1, look.more)
    assert ids(await claim(heir)) == ["j300"]


async def test_an_orphan_among_many_healthy_workers_is_found_at_once(store: Store, worker: Open) -> None:
    dead, heir = await worker("dead"), await worker("heir")
    await push(store, "orphan")
    await claim(dead)
    store.age(14)
    for number in range(25):
        await worker(f"healthy {number}")
    beat(heir)
    store.age(2)

    look = await take_over(heir)

    assert (look.fenced, look.jobs) == (["dead"], 1)
    assert ids(await claim(heir)) == ["orphan"]


async def test_however_many_workers_died_at_once_all_are_fenced_in_the_end(store: Store, worker: Open) -> None:
    names = [f"dead {number}" for number in range(105)]
    await push(store, *names)
    for name in names:
        assert len(await claim(await worker(name), 1)) == 1
    heir = await worker("heir")
    store.age(60)
    beat(heir)

    looks = [await take_over(heir) for _ in range(4)]

    assert [len(look.fenced) for look in looks] == [100, 5, 0, 0]
    while looks[-1].more:
        looks.append(await heir.reclaim())
    assert sorted(worker_id for look in looks for worker_id in look.fenced) == sorted(names)
    assert sum(look.jobs for look in looks) == 105
    assert sorted(ids(await claim(heir, 105))) == sorted(names)


@pytest.mark.parametrize("dead", [1, 25])
async def test_a_beat_from_before_the_clock_was_set_back_does_not_spare_the_dead(
    store: Store, worker: Open, dead: int
) -> None:
    store.clock.advance(0)
    names = [f"dead {number}" for number in range(dead)]
    await push(store, *names)
    for name in names:
        await claim(await worker(name), 1)
    store.clock.advance(-86_400)
    heir = await worker("heir")

    for _ in range(3):  # ten at a time: from now on their leases are as long as any
        assert (await heir.reclaim()).silent == []
    jobs = 0
    for _ in range(5):
        store.age(16)
        beat(heir)
        jobs += (await take_over(heir)).jobs

    assert jobs == dead
    assert sorted(ids(await claim(heir, 25))) == sorted(names)


async def test_a_clock_that_was_set_back_spares_who_beats_and_holds_nothing_against_them(
    store: Store, worker: Open
) -> None:
    store.clock.advance(0)
    one, heir = await worker("w1"), await worker("heir")
    await push(store, "a")
    lease = await claim_one(one)
    for seconds in (-86_400, 86_400, 86_400):
        store.clock.advance(seconds)
        beat(one, lease)
        beat(heir)
        look = await take_over(heir)
        assert (look.silent, look.fenced) == ([], [])
    assert await settle(one, lease, Ack()) is Reply.OK


# Fenced workers

VERBS: dict[str, Callable[[Consumer, Lease], Awaitable[object]]] = {
    "done": lambda worker, lease: worker.exchange([(lease, Ack())], None),
    "done, in a turn": lambda worker, lease: worker.exchange([(lease, Ack())], None, turn=Turn(1, 1)),
    "done, in a turn of before": lambda worker, lease: worker.exchange([(lease, Ack())], None, turn=Turn(2, 3)),
    "cancelled": lambda worker, lease: worker.exchange([(lease, Ack(cancelled=True))], None),
    "retry": lambda worker, lease: worker.exchange([(lease, AGAIN)], None),
    "retry later": lambda worker, lease: worker.exchange([(lease, LATER)], None),
    "fail": lambda worker, lease: worker.exchange([(lease, FAILED)], None),
    "release": lambda worker, lease: worker.exchange([(lease, Release())], None),
    "done, and claim": lambda worker, lease: worker.exchange([(lease, Ack())], 5, turn=Turn(1, 1)),
    "claim": lambda worker, lease: worker.exchange([], 5),
    "promote": lambda worker, lease: worker.exchange([], 0),
    "recover": lambda worker, lease: worker.recover([lease]),
    "name": lambda worker, lease: worker.reclaim(),
    "fence": lambda worker, lease: worker.reclaim([Silent("w3", "1", 15)], others=True),
}


@pytest.mark.parametrize("verb", VERBS)
async def test_a_fenced_worker_is_refused_whole_and_writes_nothing(store: Store, worker: Open, verb: str) -> None:
    one, two, silent = await worker("w1"), await worker("w2"), await worker("w3")
    await push(store, job("a", unique="key"), "b")
    lease, other = await claim(one)
    await one.exchange([(other, Ack())], None, turn=Turn(2, 3))
    await outlive(store, two, silent)
    store.age(60)
    beat(two)
    await push(store, job("due", due=After(1000)))
    store.clock.advance(2)
    before = snapshot(store)

    for _ in range(2):
        with pytest.raises(Fenced) as refused:
            await VERBS[verb](one, lease)
        assert refused.value.worker_id == "w1"

    assert snapshot(store) == before
    assert ids(await claim(two)) == ["a", "due"]


async def test_a_fenced_worker_does_not_come_to_life_by_a_beat(store: Store, worker: Open) -> None:
    one, two = await worker("w1"), await worker("w2")
    await push(store, "a")
    lease = await claim_one(one)
    await store.driver.change(Cancel("a"))
    await outlive(store, two)
    before = snapshot(store)

    with pytest.raises(Fenced) as refused:
        beat(one, lease)

    assert refused.value.worker_id == "w1"
    assert snapshot(store) == before


async def test_a_worker_that_never_joined_is_refused(store: Store, worker: Open) -> None:
    await worker("w1")
    await push(store, "a")
    before = snapshot(store)
    unknown = store.driver.consumer("unknown", lease=15, max_deliveries=3)

    with pytest.raises(Fenced):
        await unknown.exchange([], 5)
    with pytest.raises(Fenced):
        beat(unknown)

    await unknown.aclose()
    assert snapshot(store) == before


async def test_a_fenced_worker_goes_on_under_a_new_id_and_holds_nothing(store: Store, worker: Open) -> None:
    one, two = await worker("w1"), await worker("w2")
    await push(store, "a", "b")
    a, _ = await claim(one)
    heart = Heart(one)
    await outlive(store, two)
    with pytest.raises(DriverError, match="another worker's, or was a moment ago"):
        await one.open()  # under the same id it would find what others hold by now

    await one.open("w1 again")

    assert one.worker_id == "w1 again"
    assert await one.recover([]) == []
    assert await settle(one, a, Release()) is Reply.LEASE_LOST
    store.age(60)
    beat(two)
    assert list(heart.beat(list, {})) == []  # as the worker of the moment
    assert (await take_over(two)).fenced == []
    assert ids(await claim(one)) == ["a", "b"]
    heart.close()


@pytest.mark.parametrize("way", ["wait", "claim"])
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


async def test_an_id_that_is_in_use_is_refused_to_another_worker_but_not_to_its_own(
    store: Store, worker: Open
) -> None:
    one = await worker("w1")
    await push(store, "a")
    lease = await claim_one(one)
    before = snapshot(store)
    other = store.driver.consumer("w1", lease=15, max_deliveries=3)

    for _ in range(2):
        with pytest.raises(DriverError, match="'w1' is another worker's") as refused:
            await other.open()
        assert not isinstance(refused.value, Fenced)
    assert snapshot(store) == before
    await one.open()  # as after a lost reply

    assert await settle(one, lease, Ack()) is Reply.OK
    await one.release(refund=True, watch=False)
    await other.open()  # it has left
    await other.aclose()


async def test_a_queue_of_another_release_is_refused_with_both_versions_named(redis_store: RedisStore) -> None:
    store, one = redis_store, redis_store.consumer("w1")
    await one.open()
    assert store.admin.hget(f"{store.prefix}layout", "version") == b"1"
    store.admin.hset(f"{store.prefix}layout", "version", "2")
    before = snapshot(store)
    other = store.driver.consumer("w2", lease=15, max_deliveries=3)

    with pytest.raises(DriverError, match=r"of version 2, .* version 1\b.*nothing was claimed"):
        await other.open()

    assert snapshot(store) == before
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


# Jobs that kill their workers


async def test_a_job_that_kills_its_workers_becomes_a_dead_letter(store: Store, worker: Open) -> None:
    one, two = await worker("w1", max_deliveries=2), await worker("w2", max_deliveries=2)
    three = await worker("w3", max_deliveries=2)
    await push(store, "a", job("b", priority=Priority.LOW))
    await claim(one)
    await outlive(store, two, three)
    assert await claim(two) == []
    assert ids(await claim(two, idle=True)) == ["a"]
    assert ids(await claim(three, idle=True)) == ["b"]
    four = await worker("w4", max_deliveries=2)
    store.clock.advance(0)

    assert await inherit(store, four) == []

    error = "delivered 2 times without an outcome, the last time with nothing beside it: it may kill its workers"
    for job_id, priority in (("a", "normal"), ("b", "low")):
        fields = texts((await found(store, job_id)).fields)
        assert (fields["reason"], fields["deliveries"], fields["priority"]) == ("worker lost", "2", priority)
        assert (fields["error"], fields["worker"], fields["failed_at"]) == (error, "w4", str(store.clock()))
    counts = await store.driver.read(Count())
    assert (sum(counts.ready.values()), counts.running) == (0, 0)
    assert happened(counts) == {"pushed": 2, "dead": 2, "reclaimed": 4}


async def test_what_is_ended_instead_of_claimed_is_no_news_for_those_who_wait(store: Store, worker: Open) -> None:
    one, two = await worker("w1", max_deliveries=1), await worker("w2", max_deliveries=1)
    await push(store, "killer", "unwanted")
    await claim(one)
    await store.driver.change(Cancel("unwanted"))
    heard: list[Notification] = []
    subscribed = anyio.Event()

    def hear(notification: Notification) -> None:
        heard.append(notification)
        subscribed.set()

    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(one.listen, hear)
            await subscribed.wait()
            assert await inherit(store, two) == []
            await push(store, job("last", due=After(60000)))
            while heard[-1].kind != "due":  # noqa: ASYNC110
                await anyio.sleep(0.005)
            tasks.cancel_scope.cancel()

    assert [notification.kind for notification in heard] == ["subscribed", "released", "due"]
    assert heard[1].value == "2"  # as they were handed back: whether they are ended shows in a claim
    error = (await found(store, "killer")).fields[b"error"]
    assert error == b"delivered 1 times without an outcome: it may kill its workers"


async def test_a_job_delivered_for_the_last_time_has_its_worker_for_itself(store: Store, worker: Open) -> None:
    """It may kill it; whatever ran beside it would be delivered once more for nothing."""
    one, two = await worker("w1", max_deliveries=2), await worker("w2", max_deliveries=2)
    await push(store, "a", "b", "c", job("new", priority=Priority.LOW))
    await claim(one, 3)
    three = await worker("w3", max_deliveries=2)
    await outlive(store, two, three)

    assert ids(await claim(two)) == ["new"]  # not said to run nothing
    assert await claim(two, idle=True) == []  # said so, but not so
    (new,) = [lease_at(3, (await found(store, "new")).key, 1, "new")]
    assert await settle(two, new, Ack()) is Reply.OK
    alone = await claim(two, idle=True)
    assert ids(alone) == ["a"]
    assert (await found(store, "a")).worker == "w2"
    assert ids(await claim(three, idle=True)) == ["b"]
    assert await settle(two, alone[0], Ack()) is Reply.OK
    assert ids(await claim(two, idle=True)) == ["c"]


async def test_a_job_that_has_to_run_alone_is_claimed_with_no_other_whatever_their_priority(
    store: Store, worker: Open
) -> None:
    one, two = await worker("w1", max_deliveries=2), await worker("w2", max_deliveries=2)
    await push(store, "a")
    await claim(one)
    three = await worker("w3")
    await outlive(store, two, three)
    assert (await three.reclaim(others=True)).others == 0  # it waits, and is nobody's
    await push(store, job("urgent", priority=Priority.HIGH), "b", job("c", priority=Priority.LOW))

    (urgent,) = await claim(two, 1, idle=True)
    await settle(two, urgent, Release())
    await two.exchange([], 0)
    exchange = await two.exchange([], 9, idle=True)
    assert ids(list(exchange.leases)) == ["urgent", "b", "c"]
    assert exchange.waits is not None
    assert (await two.exchange([(lease, Ack()) for lease in exchange.leases], None)).replies == [Reply.OK] * 3

    await push(store, "d", job("e", priority=Priority.LOW))
    assert ids(await claim(two, 9, idle=True)) == ["a"]
    assert (await three.reclaim(others=True)).others == 1


async def waits_for(consumer: Consumer, *, idle: bool = False) -> float | None:
    """For how long a job has been waiting that has to run alone, as a claim tells."""
    await consumer.exchange([], 0)
    return (await consumer.exchange([], 5, idle=idle)).waits


async def test_a_claim_tells_for_how_long_a_job_has_been_waiting_that_has_to_run_alone(
    store: Store, worker: Open
) -> None:
    one, two = await worker("w1", max_deliveries=2), await worker("w2", max_deliveries=2)
    await push(store, "a", "b")
    await claim(one)
    assert await waits_for(two) is None
    began = time.monotonic()
    await outlive(store, two)
    waits = await waits_for(two)
    assert waits is not None
    assert 0 <= waits <= time.monotonic() - began + 0.01
    store.age(60)

    waits = await waits_for(two)
    assert waits is not None
    assert 59 < waits < 70
    assert await waits_for(two, idle=True) is None


async def test_a_look_for_lost_workers_leaves_a_job_that_has_to_run_alone_the_time_it_has_waited(
    store: Store, worker: Open
) -> None:
    one, two = await worker("w1", max_deliveries=2), await worker("w2", max_deliveries=2)
    await push(store, "a")
    await claim(one)
    assert (await outlive(store, two)).jobs == 1
    store.age(60)
    beat(two)

    look = await take_over(two)

    assert (look.jobs, look.released) == (0, True)
    waits = await waits_for(two)
    assert waits is not None
    assert 59 < waits < 70
    assert ids(await claim(two, idle=True)) == ["a"]
    assert not (await take_over(two)).released


async def test_that_a_job_has_to_run_alone_is_told_once(store: Store, worker: Open) -> None:
    one, two = await worker("w1", max_deliveries=2), await worker("w2", max_deliveries=2)
    await push(store, "a", "b")
    await claim(one)
    heard: list[Notification] = []
    subscribed = anyio.Event()

    def hear(notification: Notification) -> None:
        heard.append(notification)
        subscribed.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(one.listen, hear)
        await subscribed.wait()
        for _ in range(3):
            assert (await outlive(store, two)).released
        await store.driver.push([job("last", due=After(60000))], repeated=False)
        with anyio.fail_after(5):
            while heard[-1].kind != "due":  # noqa: ASYNC110
                await anyio.sleep(0.005)
        tasks.cancel_scope.cancel()
    assert [notification.kind for notification in heard] == ["subscribed", "released", "due"]
    assert heard[1].value == "2"


async def test_no_job_is_convicted_of_killing_workers_that_did_not_run_alone(store: Store, worker: Open) -> None:
    """A worker that allows more deliveries runs it beside others; that is no proof for one that allows fewer."""
    generous = await worker("w1", max_deliveries=9)
    await push(store, "a")
    await claim(generous)
    for deliveries in (2, 3, 4):
        generous = await worker(f"generous {deliveries}", max_deliveries=9)
        assert [lease.deliveries for lease in await inherit(store, generous)] == [deliveries]

    strict = await worker("w2", max_deliveries=2)
    assert await inherit(store, strict) == []

    assert (await found(store, "a")).state is State.READY
    assert [lease.deliveries for lease in await claim(strict, idle=True)] == [5]
    assert await inherit(store, await worker("w3", max_deliveries=2)) == []
    assert (await found(store, "a")).state is State.DEAD


async def test_a_proof_of_long_ago_does_not_convict_a_job_that_ran_beside_others_since(
    store: Store, worker: Open
) -> None:
    await push(store, "a")
    await claim(await worker("w1", max_deliveries=2))
    strict = await worker("w2", max_deliveries=2)
    await outlive(store, strict)
    assert ids(await claim(strict, idle=True)) == ["a"]
    assert ids(await inherit(store, await worker("w3", max_deliveries=9))) == ["a"]

    assert await inherit(store, await worker("w4", max_deliveries=2)) == []
    assert (await found(store, "a")).state is State.READY


async def test_a_job_that_may_be_delivered_but_once_need_not_run_alone(store: Store, worker: Open) -> None:
    consumer = await worker(max_deliveries=1)
    await push(store, "a", "b", "c")
    leases = await claim(consumer)
    for lease in leases:
        await settle(consumer, lease, Release())

    assert ids(await claim(consumer)) == ["a", "b", "c"]


# Cancel


@pytest.mark.parametrize("bring", [delay, wait_in_line, retry, release])
async def test_a_job_that_waits_is_cancelled_at_once(store: Store, worker: Open, bring: Any) -> None:
    consumer = await worker()
    await bring(store, consumer)

    assert await store.driver.change(Cancel("a")) is Reply.CANCELLED

    assert await store.driver.read(Find("a")) is None
    store.clock.advance(60)
    assert await claim(consumer) == []
    assert await store.driver.change(Cancel("a")) is Reply.NOT_FOUND
    assert (await store.driver.read(Count())).totals["cancelled"] == 1


async def test_a_dead_letter_and_a_job_that_ended_are_not_cancelled(store: Store, worker: Open) -> None:
    consumer = await worker()
    await fail(store, consumer)
    before = snapshot(store)

    assert await store.driver.change(Cancel("a")) is Reply.DEAD
    assert await store.driver.change(Cancel("unknown")) is Reply.NOT_FOUND
    assert await store.driver.change(Cancel("1732438800000-0")) is Reply.NOT_FOUND
    assert snapshot(store) == before


async def test_a_running_job_is_marked_and_its_worker_told(store: Store, worker: Open) -> None:
    consumer = await worker()
    await push(store, "a", "b")
    leases = await claim(consumer)

    assert await store.driver.change(Cancel("a")) is Reply.CANCELLING
    assert await store.driver.change(Cancel("a")) is Reply.CANCELLING

    assert beat(consumer, *leases) == ["a"]
    rows = [(await found(store, "a")), *await store.driver.read(List(State.RUNNING, 10))]
    assert [(row.state, row.cancelling) for row in rows] == [
        (State.RUNNING, is_it) for is_it in (True, True, False)
    ]
    assert await settle(consumer, leases[0], Ack(cancelled=True)) is Reply.OK
    totals = (await store.driver.read(Count())).totals
    assert (totals["cancelled"], totals["completed"]) == (1, 0)


@pytest.mark.parametrize("nonce", ["", "0123456789abcdef"])
async def test_a_cancelled_job_is_not_handed_out_again_after_its_worker_died(
    store: Store, worker: Open, nonce: str
) -> None:
    one, two = await worker("w1"), await worker("w2")
    await push(store, job("a", unique="key", nonce=nonce))
    await claim_one(one)
    await store.driver.change(Cancel("a"))

    assert await inherit(store, two) == []

    assert await store.driver.read(Find("a")) is None
    assert await push(store, job("a", nonce=nonce), repeated=True) == [Pushed(Reply.REPEATED)]
    assert await push(store, job("b", unique="key")) == [Pushed(Reply.OK)]
    counts = await store.driver.read(Count())
    assert (counts.ready[Priority.NORMAL], counts.running) == (1, 0)
    assert happened(counts) == {"pushed": 2, "reclaimed": 1, "cancelled": 1}


async def test_a_cancel_reaches_whoever_holds_the_job_by_the_next_beat_even_if_it_was_still_on_its_way(
    store: Store, worker: Open
) -> None:
    one, other = await worker("w1"), await worker("w2")
    await push(store, "a", "b", "c")
    theirs = await claim(other, 1)
    leases = await claim(one)
    with closing(Heart(one)) as heart:
        assert list(heart.beat(lambda: leases, {})) == []
        assert await store.driver.change(Cancel("b")) is Reply.CANCELLING

        assert list(heart.beat(list, {})) == []  # it was delivered, and nobody has seen it yet
        assert ids(list(heart.beat(lambda: leases, {}))) == ["b"]

        assert await store.driver.change(Cancel("c")) is Reply.CANCELLING
        assert "c" in ids(list(heart.beat(lambda: leases, {})))
    assert beat(other, *theirs) == []
    assert beat(one, *leases) == ["b", "c"]  # who begins to listen only now is told, too


async def test_nobody_is_told_of_a_cancel_that_came_before_the_job_was_handed_on(
    store: Store, worker: Open
) -> None:
    one, two = await worker("w1"), await worker("w2")
    await push(store, "a", "b")
    a, _ = await claim(one)
    await store.driver.change(Cancel("a"))
    assert await settle(one, a, Release()) is Reply.OK
    leases, ended = await claim_and_hear(two, 5)
    assert (leases, ended) == ([], [("a", Reply.CANCELLED)])
    assert beat(two, *leases) == []


async def test_a_cancelled_job_is_not_handed_out_again_after_a_release(store: Store, worker: Open) -> None:
    consumer = await worker()
    await push(store, "a")
    lease = await claim_one(consumer)
    await store.driver.change(Cancel("a"))
    await settle(consumer, lease, Release())

    rows = [await found(store, "a"), *await store.driver.read(List(State.READY, 10))]
    assert [(row.state, row.cancelling) for row in rows] == [(State.READY, True)] * 2
    assert await claim(consumer) == []
    assert await store.driver.read(Find("a")) is None
    counts = await store.driver.read(Count())
    assert (counts.ready[Priority.NORMAL], counts.running) == (0, 0)
    assert happened(counts) == {"pushed": 1, "released": 1, "cancelled": 1}


@pytest.mark.parametrize("nonce", ["", "0123456789abcdef"])
@pytest.mark.parametrize("settlement", [AGAIN, LATER])
async def test_a_retry_of_a_cancelled_job_ends_it(
    store: Store, worker: Open, settlement: Settlement, nonce: str
) -> None:
    consumer = await worker()
    await push(store, job("a", unique="key", nonce=nonce))
    lease = await claim_one(consumer)
    await store.driver.change(Cancel("a"))

    assert await settle(consumer, lease, settlement) is Reply.CANCELLED

    assert await store.driver.read(Find("a")) is None
    assert await push(store, job("a", nonce=nonce), repeated=True) == [Pushed(Reply.REPEATED)]
    assert await push(store, job("b", unique="key")) == [Pushed(Reply.OK)]
    assert happened(await store.driver.read(Count())) == {"pushed": 2, "cancelled": 1}


async def test_a_cancelled_job_may_still_succeed_or_fail(store: Store, worker: Open) -> None:
    consumer = await worker()
    await push(store, "a", "b")
    done, failed = await claim(consumer)
    await store.driver.change(Cancel("a"))
    await store.driver.change(Cancel("b"))

    assert (await consumer.exchange([(done, Ack()), (failed, FAILED)], None)).replies == [Reply.OK] * 2

    row = await found(store, "b")
    assert (row.state, row.cancelling) == (State.DEAD, False)
    assert await store.driver.change(Requeue("b")) is Reply.OK
    assert ids(await claim(consumer)) == ["b"]


# Dead letters


async def test_a_requeued_dead_letter_starts_anew_under_its_id(store: Store, worker: Open) -> None:
    consumer = await worker()
    fields = ["name", "Work", "parameters", "{}", "headers", '{"k":"v"}', "attempt", "4", "unknown_since", "1"]
    fields += ["started_at", "1"]
    await push(store, NewJob("a", fields, Priority.HIGH, expires_in_ms=1, unique="key"))
    lease = await claim_one(consumer)
    await settle(consumer, lease, FAILED)

    assert await store.driver.change(Requeue("a")) is Reply.OK

    again = await claim_one(consumer)
    assert (again.job_id, again.token[0], again.deliveries) == ("a", 1, 1)
    queued_at = lease.token[1].partition("-")[0]
    kept = {"id": "a", "name": "Work", "parameters": "{}", "headers": '{"k":"v"}', "queued_at": queued_at}
    assert texts(again.fields) == kept
    assert await store.driver.read(List(State.DEAD, 10)) == []


@pytest.mark.parametrize("bring", [delay, wait_in_line, run, finish])
async def test_only_a_dead_letter_is_requeued_or_deleted(store: Store, worker: Open, bring: Any) -> None:
    await bring(store, await worker())
    before = snapshot(store)
    assert await store.driver.change(Requeue("a")) is Reply.NOT_FOUND
    assert await store.driver.change(Delete("a")) is Reply.NOT_FOUND
    assert snapshot(store) == before


async def test_a_deleted_dead_letter_is_gone_and_its_id_free(store: Store, worker: Open) -> None:
    consumer = await worker()
    await fail(store, consumer)

    assert await store.driver.change(Delete("a")) is Reply.OK

    assert await store.driver.read(Find("a")) is None
    assert await store.driver.change(Delete("a")) is Reply.NOT_FOUND
    assert await push(store, another("a")) == [Pushed(Reply.OK)]


# Look


async def test_every_state_is_found_listed_and_counted(store: Store, worker: Open) -> None:
    consumer = await worker()
    store.clock.advance(0)
    await push(store, "dead", "handed back", "running")
    dead, handed_back, _ = await claim(consumer)
    await consumer.exchange([(dead, FAILED), (handed_back, Release())], None)
    await push(store, "ready", job("delayed", due=After(5000), priority=Priority.HIGH))

    listed = {state: await store.driver.read(List(state, 10)) for state in State}
    assert listed.pop(State.COMPLETED) == listed.pop(State.CANCELLED) == []  # none are kept

    names = {state: [row.fields[b"id"].decode() for row in rows] for state, rows in listed.items()}
    waiting = {State.READY: ["handed back", "ready"], State.DELAYED: ["delayed"]}
    assert names == waiting | {State.RUNNING: ["running"], State.DEAD: ["dead"]}
    every = [row for rows in listed.values() for row in rows]
    for row in every:
        assert await store.driver.read(Find(row.fields[b"id"].decode())) == row
    details = [(row.worker, row.deliveries, row.due_ms) for row in every]
    assert details == [("", 0, store.clock() + 5000), ("", 0, None), ("", 0, None), ("w1", 1, None), ("", 0, None)]
    counts = await store.driver.read(Count())
    assert (counts.ready, counts.running, counts.delayed, counts.dead) == (
        {Priority.HIGH: 0, Priority.NORMAL: 2, Priority.LOW: 0}, 1, 1, 1
    )  # fmt: skip
    assert happened(counts) == {"pushed": 5, "dead": 1, "released": 1}


async def test_a_list_is_in_the_order_of_its_state_and_no_longer_than_asked(store: Store, worker: Open) -> None:
    consumer = await worker()
    await push(
        store, job("low", priority=Priority.LOW), "a", "b", job("c", due=After(9000)), job("d", due=After(5000))
    )
    assert [row.fields[b"id"] for row in await store.driver.read(List(State.READY, 9))] == [b"a", b"b", b"low"]
    assert [row.fields[b"id"] for row in await store.driver.read(List(State.READY, 2))] == [b"a", b"b"]
    assert [row.fields[b"id"] for row in await store.driver.read(List(State.DELAYED, 9))] == [b"d", b"c"]
    await consumer.exchange([(lease, FAILED) for lease in await claim(consumer)], None)
    assert [row.fields[b"id"] for row in await store.driver.read(List(State.DEAD, 2))] == [b"low", b"b"]


async def test_a_queue_that_no_worker_has_joined_yet_can_be_looked_at(store: Store, worker: Open) -> None:
    assert happened(await store.driver.read(Count())) == {}
    await push(store, "a")
    assert (await found(store, "a")).state is State.READY
    assert len(await store.driver.read(List(State.READY, 10))) == 1
    assert await store.driver.read(List(State.RUNNING, 10)) == []
    assert (await store.driver.read(Count())).ready[Priority.NORMAL] == 1
    assert await store.driver.change(Cancel("a")) is Reply.CANCELLED


# Recover, release, wait, listen


def known(leases: list[Lease]) -> list[tuple[str, str, int, dict[bytes, bytes]]]:
    return [(lease.job_id, lease.key, lease.deliveries, dict(lease.fields)) for lease in leases]


async def test_what_a_lost_reply_brought_is_recovered_as_it_was_and_nothing_that_is_held(
    store: Store, worker: Open
) -> None:
    one, two = await worker("w1"), await worker("w2")
    await push(store, "a", "b", job("c", priority=Priority.HIGH), job("d", priority=Priority.LOW), "e", "f")
    await claim(two, 2)
    await two.release(refund=False, watch=False)
    leases = await claim(one, 5)
    others = await claim(await worker("w3"))
    before = snapshot(store)

    assert await one.recover(leases) == []
    found_again = await one.recover(leases[1:3])

    assert known(found_again) == known([leases[0], *leases[3:]])
    assert [lease.deliveries for lease in found_again] == [2, 1, 1]
    assert known(await one.recover([])) == known(leases)
    assert known(await one.recover(others)) == known(leases)
    assert snapshot(store) == before
    assert (await one.exchange([(lease, Ack()) for lease in found_again], None)).replies == [Reply.OK] * 3
    assert known(await one.recover([])) == known(leases[1:3])


async def test_what_came_by_a_wait_that_nobody_heard_is_recovered(store: Store, worker: Open) -> None:
    consumer = await worker()
    await push(store, "a", job("b", priority=Priority.LOW))
    await consumer.wait(5, 1)
    leases = await consumer.recover([])
    assert [(lease.job_id, lease.deliveries) for lease in leases] == [("a", 1), ("b", 1)]
    assert (await consumer.exchange([(lease, AGAIN) for lease in leases], None)).replies == [Reply.OK] * 2


async def test_a_job_put_in_by_hand_is_recovered_under_the_id_that_it_goes_by(store: Store, worker: Open) -> None:
    consumer = await worker()
    entry = store.put(WORK, Priority.HIGH)
    store.put(WORK, Priority.LOW, entry=entry)
    await consumer.wait(5, 1)
    leases = await consumer.recover([])
    assert ids(leases) == [entry, f"{entry}@low"]
    assert [await settle(consumer, lease, LATER) for lease in leases] == [Reply.OK] * 2


async def test_however_much_a_lost_reply_brought_is_recovered(store: Store, worker: Open) -> None:
    consumer = await worker()
    for start in range(0, 1200, 300):
        await push(store, *(str(number) for number in range(start, start + 300)))
    leases = await claim(consumer, 1200)
    assert ids(await consumer.recover(leases[:120])) == [str(number) for number in range(120, 1200)]
    assert ids(await consumer.recover(leases[:1199])) == ["1199"]
    assert ids(await consumer.recover(leases[1:])) == ["0"]


async def test_however_large_what_a_lost_reply_brought_is_recovered(store: Store, worker: Open) -> None:
    consumer = await worker()
    for number in range(12):
        await store.driver.push(
            [NewJob(f"{number}", ["name", "Work", "parameters", "x" * 300_000])], repeated=False
        )
    assert len(await claim(consumer, 12)) == 12
    assert ids(await consumer.recover([])) == [str(number) for number in range(12)]


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


@pytest.mark.parametrize(
    ("was_fenced", "refund", "deliveries"),
    [(False, True, 1), (False, False, 2), (True, True, 2), (True, False, 2)],
)
@pytest.mark.parametrize("watch", [False, True])
async def test_all_that_a_worker_holds_is_released_in_its_place(
    store: Store, worker: Open, was_fenced: bool, refund: bool, deliveries: int, watch: bool
) -> None:
    """Refunded only if that is asked for by a worker that nobody has taken for dead meanwhile."""
    one, two = await worker("w1"), await worker("w2")
    await push(store, "a", "b", "c", job("d", priority=Priority.LOW), "e")
    if was_fenced:  # and a read of it came later
        await outlive(store, two)
        assert len(await one.wait(2, 5)) == 3
    else:
        await claim(one, 2)
        await one.wait(1, 5)
    others = await claim(two, 1)

    assert await one.release(refund=refund, watch=watch) == (3 if was_fenced else 4)

    assert (await two.exchange([(others[0], Ack())], None)).replies == [Reply.OK]
    left = [(lease.job_id, lease.deliveries) for lease in await claim(two)]
    if was_fenced:
        assert left == [("a", 2), ("b", 2), ("e", 1), ("d", 2)]
    else:
        assert left == [("a", deliveries), ("b", deliveries), ("c", deliveries), ("d", deliveries)]
    assert await one.release(refund=refund, watch=watch) == 0


async def test_a_worker_that_released_all_is_one_no_longer(store: Store, worker: Open) -> None:
    one, two = await worker("w1"), await worker("w2")
    await push(store, "a")
    lease = await claim_one(one)
    await one.release(refund=True, watch=False)

    with pytest.raises(Fenced):
        await settle(one, lease, Ack())
    with pytest.raises(Fenced):
        beat(one)
    assert (await outlive(store, two)).fenced == []
    if isinstance(store, RedisStore):
        assert workers_known(store) == ["worker:w2"]


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


async def test_the_jobs_of_a_worker_that_is_known_to_be_dead_are_released_by_its_heartbeat_at_once(
    store: Store, worker: Open
) -> None:
    one, two = await worker("w1"), await worker("w2")
    await push(store, "a", "b")
    await claim(one)
    heart = Heart(one)

    assert heart.release() == 2

    assert [(lease.job_id, lease.deliveries) for lease in await claim(two)] == [("a", 2), ("b", 2)]
    with pytest.raises(Fenced):
        heart.beat(list, {})
    heart.close()


async def test_a_delivery_handed_back_does_not_hide_an_earlier_crash(store: Store, worker: Open) -> None:
    one, two = await worker("w1"), await worker("w2")
    await push(store, "a")
    await claim_one(one)
    assert [lease.deliveries for lease in await inherit(store, two)] == [2]

    await two.release(refund=True, watch=False)

    assert (await claim_one(await worker("w3"))).deliveries == 2


@pytest.mark.parametrize("refund", [True, False])
async def test_more_than_a_page_of_jobs_is_released(store: Store, worker: Open, refund: bool) -> None:
    one, two = await worker("w1"), await worker("w2")
    for start in range(0, 1200, 300):
        await push(store, *(str(number) for number in range(start, start + 300)))
    await claim(one, 1130)
    assert await one.release(refund=refund, watch=False) == 1130
    leases = await claim(two, 1200)
    assert ids(leases) == [str(number) for number in range(1200)]
    assert [lease.deliveries for lease in leases] == [1 if refund else 2] * 1130 + [1] * 70


async def wait_for(consumer: Consumer, do: Callable[[], Awaitable[object]]) -> list[Lease]:
    """What a wait returns that has begun before something is done."""
    leases: list[Lease] = []

    async def wait() -> None:
        leases.extend(await consumer.wait(10, 5))

    with anyio.fail_after(3):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait)
            await anyio.wait_all_tasks_blocked()
            await do()
    return leases


async def test_a_wait_ends_with_a_push(store: Store, worker: Open) -> None:
    consumer = await worker()
    leases = await wait_for(consumer, lambda: push(store, "a"))
    assert [(lease.job_id, lease.deliveries) for lease in leases] == [("a", 1)]
    assert await settle(consumer, leases[0], Ack()) is Reply.OK


async def test_a_wait_ends_when_somebody_promotes_a_job(store: Store, worker: Open) -> None:
    consumer, other = await worker("w1"), await worker("w2")
    await push(store, job("a", due=After(1000), priority=Priority.LOW))
    store.clock.advance(2)
    leases = await wait_for(consumer, lambda: other.exchange([], 0))
    assert [(lease.job_id, lease.token[0]) for lease in leases] == [("a", 3)]


async def test_a_wait_takes_what_is_there_by_priority_up_to_its_count_of_each(store: Store, worker: Open) -> None:
    await push(store, "a", "b", "c", job("d", priority=Priority.LOW), job("e", priority=Priority.HIGH))
    assert ids(await (await worker()).wait(2, 5)) == ["e", "a", "b", "d"]


async def test_a_wait_for_nothing_ends_after_its_time(store: Store, worker: Open) -> None:
    with anyio.fail_after(3):
        assert await (await worker()).wait(10, 0.01) == []


async def test_a_cancelled_wait_loses_nothing(store: Store, worker: Open) -> None:
    consumer, other = await worker("w1"), await worker("w2")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(consumer.wait, 10, 5)
        await anyio.wait_all_tasks_blocked()
        tasks.cancel_scope.cancel()

    await push(store, "a")
    await consumer.release(refund=True, watch=False)
    assert [(lease.job_id, lease.deliveries) for lease in await claim(other)] == [("a", 1)]


async def test_notifications_tell_of_an_earlier_due_time_a_cancel_and_a_release(
    store: Store, worker: Open
) -> None:
    consumer, heard, waiting = await worker(), list[Notification](), anyio.Event()
    ear = await worker("w2")
    store.clock.advance(0)
    now_ms = store.clock()

    async def act() -> None:
        await push(store, job("a", due=After(5000)), job("b", due=After(9000)))  # the second is not the earliest
        await push(store, "c d", "e", "f")
        first, *others = await claim(consumer)
        await store.driver.change(Cancel("c d"))
        await settle(consumer, first, Ack(cancelled=True))
        await store.driver.change(Cancel("b"))
        await consumer.exchange([(lease, Release()) for lease in others], None)
        await claim(consumer)
        await consumer.exchange([(others[0], RetryLater(After(7000))), (others[1], RetryLater(After(3000)))], None)
        await consumer.release(refund=True, watch=False)  # there is nothing to tell
        await consumer.open("w3")
        await push(store, "g")
        await claim_one(consumer)
        await consumer.release(refund=True, watch=False)

    def hear(notification: Notification) -> None:
        heard.append(notification)
        if len(heard) == 1:
            waiting.set()
        if len(heard) == 6:
            tasks.cancel_scope.cancel()

    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ear.listen, hear)
            await waiting.wait()
            await act()
            await anyio.sleep_forever()

    told = [("subscribed", ""), ("due", str(now_ms + 5000)), ("cancel", "c d"), ("released", "2")]
    told += [("due", str(now_ms + 3000)), ("released", "1")]
    assert heard == [Notification(kind, value) for kind, value in told]


# Put in by hand


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
    before = snapshot(store)

    assert await settle(consumer, lease_at(2, lease.token[1], 1, "b"), settlement) is Reply.LEASE_LOST

    assert snapshot(store) == before
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
    assert [row.job_id for row in await store.driver.read(List(State.READY, 9))] == names
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


@pytest.mark.parametrize(
    "name", ["1-0@", "1-0@nowhere", "1-0@dead", "1-0@high", "99999999999999999999-0", "1-0@HIGH"]
)
async def test_a_name_that_no_job_has_finds_none(store: Store, worker: Open, name: str) -> None:
    await worker()
    assert await store.driver.read(Find(name)) is None
    assert await store.driver.change(Cancel(name)) is Reply.NOT_FOUND
    assert await store.driver.change(Requeue(name)) is Reply.NOT_FOUND
    assert await store.driver.change(Delete(name)) is Reply.NOT_FOUND


@pytest.mark.parametrize("said", ["", b"\xff\xfe", "a\nb"])
async def test_a_dead_letter_is_requeued_and_deleted_by_the_name_it_is_listed_by(
    store: Store, worker: Open, said: str | bytes
) -> None:
    consumer = await worker()
    store.put({"id": said, **WORK})
    for act in (Requeue, Delete):
        assert await settle(consumer, await claim_one(consumer), FAILED) is Reply.OK
        (letter,) = await store.driver.read(List(State.DEAD, 9))
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
            await store.driver.change(Requeue(row.job_id)) for row in await store.driver.read(List(State.DEAD, 9))
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

    before = snapshot(store)
    assert await settle(consumer, lease, AGAIN) is Reply.OVERSIZED
    assert snapshot(store) == before
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


# Odd characters

ODD = [
    "with  spaces ", "ünïcödé 🐇", "quotes'\"\\", "100% %s %1", "line\nbreak\r\n", "nul\0", "{brace}:*?[a-z]",
    "x" * 500, "1-1", "ready:normal 1-1", "delayed", "dead 1-1 cancelling", "-", "+5000",
]  # fmt: skip


@pytest.mark.parametrize("odd", ODD)
async def test_an_id_may_have_any_characters(store: Store, worker: Open, odd: str) -> None:
    consumer = await worker()
    store.clock.advance(0)
    await push(store, job(odd, due=After(1000)))
    assert (await found(store, odd)).state is State.DELAYED
    store.clock.advance(1)

    for settlement in (AGAIN, LATER, FAILED):
        lease = await claim_one(consumer)
        assert (lease.job_id, beat(consumer, lease)) == (odd, [])
        assert await settle(consumer, lease, settlement) is Reply.OK
        store.clock.advance(5)

    assert (await found(store, odd)).fields[b"id"] == odd.encode()
    assert await store.driver.change(Requeue(odd)) is Reply.OK
    lease = await claim_one(consumer)
    assert await store.driver.change(Cancel(odd)) is Reply.CANCELLING
    assert beat(consumer, lease) == [odd]
    assert await settle(consumer, lease, Ack(cancelled=True)) is Reply.OK
    assert await push(store, odd, repeated=True) == [Pushed(Reply.REPEATED)]


@pytest.mark.parametrize("odd", ODD)
async def test_a_unique_key_and_its_holder_may_have_any_characters(store: Store, worker: Open, odd: str) -> None:
    consumer = await worker()
    await push(store, job(odd, unique=odd))
    assert await push(store, job("b", unique=odd)) == [Pushed(Reply.DUPLICATE, odd)]
    lease = await claim_one(consumer)
    assert lease.unique == odd.encode()
    assert await settle(consumer, lease, Ack()) is Reply.OK
    assert await push(store, job("b", unique=odd)) == [Pushed(Reply.OK)]


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


@pytest.mark.parametrize("way", ["reclaimed", "released"])
async def test_what_is_ended_instead_of_handed_out_again_is_told(store: Store, worker: Open, way: str) -> None:
    lost, heir = await worker("lost"), await worker("heir", max_deliveries=1)
    await push(store, "poison", "unwanted")
    await claim(lost)
    await store.driver.change(Cancel("unwanted"))
    if way == "reclaimed":
        await outlive(store, heir)
        expected = [("poison", Reply.DEAD), ("unwanted", Reply.CANCELLED)]
    else:
        await lost.release(refund=True, watch=False)
        expected = [("unwanted", Reply.CANCELLED)]

    leases, ended = await claim_and_hear(heir, 2)

    assert ended == expected
    assert ids(leases) == ([] if way == "reclaimed" else ["poison"])
    if way == "reclaimed":
        error = (await found(store, "poison")).fields[b"error"].decode()
        assert error == "delivered 1 times without an outcome: it may kill its workers"
