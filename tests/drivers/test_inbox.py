"""The inbox: jobs that people push with redis-cli, by one XADD."""

import time
from typing import Any

import anyio
import pytest
from store import RedisStore, eventually

from redisjobs import JobQueue, Worker
from redisjobs.model.changes import Pause, Requeue, Resume
from redisjobs.model.job import Priority, State
from redisjobs.model.queries import Count, Find
from redisjobs.model.transitions import Ack, DeadLetter, Lease, Pushed, Reply
from redisjobs_proof.contract.acts import another, claim, claim_one, found, ids, push, settle, texts

pytestmark = pytest.mark.anyio

WORK = {"name": "Work", "parameters": '{"number": 1}'}


def put(store: RedisStore, fields: Any = WORK, entry: str = "*") -> str:
    made: bytes = store.admin.xadd(f"{store.prefix}inbox", fields, id=entry)
    return made.decode()


@pytest.fixture
async def consumer(redis_store: RedisStore) -> Any:
    consumer = redis_store.consumer("w1")
    await consumer.open()
    yield consumer
    await consumer.aclose()
    await redis_store.driver.aclose()


def left(store: RedisStore) -> int:
    """How many entries the inbox has, and how many of them its group thinks are pending."""
    pending = store.admin.xpending(f"{store.prefix}inbox", "workers")["pending"]
    return int(store.admin.xlen(f"{store.prefix}inbox") + pending)


async def test_an_entry_becomes_a_job_by_its_entry_id(redis_store: RedisStore, consumer: Any) -> None:
    store = redis_store
    entry = put(store)
    assert (await store.driver.read(Count())).inbox == 1

    lease = await claim_one(consumer)

    assert (lease.job_id, lease.token[0], lease.deliveries) == (entry, 2, 1)
    assert texts(lease.fields) == {"id": entry, **WORK, "queued_at": entry.partition("-")[0]}
    assert (await found(store, entry)).state is State.RUNNING
    assert await push(store, another(entry)) == [Pushed(Reply.EXISTS)]
    assert await settle(consumer, lease, Ack()) is Reply.OK
    assert await store.driver.read(Find(entry)) is None
    counts = await store.driver.read(Count())
    assert (counts.inbox, counts.totals["pushed"], left(store)) == (0, 1, 0)


async def test_priority_id_and_delay_are_what_a_push_would_make_of_them(
    redis_store: RedisStore, consumer: Any
) -> None:
    store = redis_store
    entry = put(store, {**WORK, "priority": "low", "id": "mine", "delay": "1.5"})
    assert await claim(consumer) == []

    row = await found(store, "mine")
    assert (row.state, row.priority) == (State.DELAYED, Priority.LOW)
    assert row.due_ms == int(entry.partition("-")[0]) + 1500
    store.clock.advance(2)
    (lease,) = await claim(consumer)
    assert (lease.job_id, lease.token[0]) == ("mine", 3)
    assert await settle(consumer, lease, Ack()) is Reply.OK


async def test_a_delay_counts_from_when_the_entry_was_put_in(redis_store: RedisStore, consumer: Any) -> None:
    put(redis_store, {**WORK, "delay": "30"})
    redis_store.clock.advance(31)
    assert len(await claim(consumer)) == 1


async def test_a_job_of_an_id_that_is_on_the_queue_is_not_pushed_again_and_one_that_has_ended_is_new(
    redis_store: RedisStore, consumer: Any
) -> None:
    store = redis_store
    for _ in range(3):
        put(store, {**WORK, "id": "mine"})
    (lease,) = await claim(consumer)
    put(store, {**WORK, "id": "mine"})
    assert await claim(consumer) == []
    assert await settle(consumer, lease, Ack()) is Reply.OK
    put(store, {**WORK, "id": "mine"})
    assert ids(await claim(consumer)) == ["mine"]
    assert ((await store.driver.read(Count())).dead, left(store)) == (0, 0)


async def test_a_job_without_an_id_is_pushed_though_another_has_its_entry_id(
    redis_store: RedisStore, consumer: Any
) -> None:
    store = redis_store
    await push(store, another("1732438800000-0"))
    put(store, entry="1732438800000-0")
    one, other = await claim(consumer)
    assert (one.job_id, other.job_id.startswith("1732438800000-0-")) == ("1732438800000-0", True)


async def test_the_id_that_such_a_job_gets_is_no_other_ones_either(redis_store: RedisStore, consumer: Any) -> None:
    store, entry = redis_store, "1732438800000-0"
    store.clock.set_to = 1732438900000
    await push(store, another(entry), another(f"{entry}-1732438900000"))
    dead, *others = await claim(consumer)
    assert await settle(consumer, dead, DeadLetter("failed", "an error")) is Reply.OK
    put(store, entry=entry)
    (third,) = await claim(consumer)
    assert [lease.job_id for lease in (dead, *others, third)] == [
        entry,
        f"{entry}-1732438900000",
        f"{entry}-1732438900001",
    ]
    assert (await found(store, entry)).state is State.DEAD
    for lease in (*others, third):
        assert await settle(consumer, lease, Ack()) is Reply.OK


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"parameters": "{}"}, "no name"),
        ({**WORK, "name": ""}, "no name"),
        ({**WORK, "name": "two words"}, "no name"),
        ({**WORK, "name": "x" * 1000}, "no name"),
        ({**WORK, "priority": "urgent"}, "priority urgent: give high, normal or low"),
        ({**WORK, "priority": "dead"}, "priority dead: give high, normal or low"),
        ({**WORK, "prioritty": "high"}, "no field prioritty: give name, parameters, priority, id, delay"),
        ({**WORK, "id": ""}, "id: give 1 to 500 characters"),
        ({**WORK, "id": "x" * 3000}, "id: give 1 to 500 characters"),
        ({**WORK, "delay": "-1"}, "delay -1: give seconds"),
        ({**WORK, "delay": "tomorrow"}, "delay tomorrow: give seconds"),
        ({**WORK, "delay": "9" * 20}, f"delay {'9' * 20}: give seconds"),
    ],
)
async def test_what_can_be_no_job_becomes_a_dead_letter_that_says_why(
    redis_store: RedisStore, consumer: Any, fields: dict[str, str], error: str
) -> None:
    entry = put(redis_store, fields)
    good = put(redis_store)
    answer = await consumer.exchange([], 9)
    assert (ids(answer.leases), answer.ended) == ([good], [(entry, Reply.UNDECODABLE)])

    letter = texts((await found(redis_store, entry)).fields)
    assert (letter["reason"], letter["id"]) == ("undecodable", entry)
    assert letter["error"].startswith(error)
    assert left(redis_store) == 0


async def test_a_dead_letter_from_the_inbox_can_be_requeued_with_its_id(
    redis_store: RedisStore, consumer: Any
) -> None:
    entry = put(redis_store, {**WORK, "priority": "urgent"})
    assert await claim(consumer) == []
    assert await redis_store.driver.change(Requeue(entry)) is Reply.OK
    assert ids(await claim(consumer)) == [entry]


async def test_bytes_that_are_no_text_go_through_as_they_are(redis_store: RedisStore, consumer: Any) -> None:
    put(redis_store, {"name": b"\xff", "parameters": b"\xc3", "id": b"\xff\xfe \x80"})
    lease = await claim_one(consumer)
    assert lease.job_id.encode("utf-8", "surrogateescape") == b"\xff\xfe \x80"
    assert (lease.fields[b"name"], lease.fields[b"parameters"]) == (b"\xff", b"\xc3")
    assert await settle(consumer, lease, Ack()) is Reply.OK


async def test_a_busy_worker_hears_of_an_entry_with_its_next_exchange(
    redis_store: RedisStore, consumer: Any
) -> None:
    store = redis_store
    await push(store, *"abc")
    (first,) = (await consumer.exchange([], 1)).leases
    entry = put(store, {**WORK, "priority": "high"})

    (second,) = (await consumer.exchange([(first, Ack())], 1)).leases
    (third,) = (await consumer.exchange([(second, Ack())], 1)).leases

    assert [first.job_id, second.job_id, third.job_id] == ["a", "b", entry]


async def test_a_read_that_waits_ends_and_the_next_brings_the_job(redis_store: RedisStore, consumer: Any) -> None:
    leases = list[Lease]()
    assert (await consumer.exchange([], 1)).leases == []
    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_wait, consumer, leases)
            await eventually(lambda: redis_store.admin.info("clients")["blocked_clients"])
            entry = put(redis_store)
    assert ids(leases) == [entry]


async def test_what_an_idle_worker_rejects_is_told_with_its_next_exchange(
    redis_store: RedisStore, consumer: Any
) -> None:
    assert (await consumer.exchange([], 1)).leases == []
    entry = put(redis_store, {"priority": "high"})
    assert await consumer.wait(1, 1) == []
    assert (await consumer.exchange([], 1)).ended == [(entry, Reply.UNDECODABLE)]


async def test_an_entry_of_a_priority_that_takes_no_more_becomes_a_dead_letter(
    redis_store: RedisStore, consumer: Any
) -> None:
    redis_store.put({"name": "Last"}, Priority.LOW, entry=f"{2**64 - 1}-{2**64 - 1}")
    entry = put(redis_store, {**WORK, "priority": "low"})
    good = put(redis_store)
    assert good in ids(await claim(consumer))
    assert "exhausted" in texts((await found(redis_store, entry)).fields)["error"]
    assert left(redis_store) == 0


async def _wait(consumer: Any, leases: list[Lease]) -> None:
    while not leases:
        leases += await consumer.wait(1, 5)


async def test_an_entry_that_several_workers_have_read_is_one_job(redis_store: RedisStore, consumer: Any) -> None:
    store, other = redis_store, redis_store.consumer("w2")
    await other.open()
    entry = put(store)
    store.admin.xreadgroup("workers", "w2", {f"{store.prefix}inbox": ">"})  # and that one does nothing with it
    assert ids(await claim(consumer)) == [entry]
    assert await claim(other) == []
    assert left(store) == 0
    await other.aclose()


async def test_an_entry_whose_reader_died_is_found_by_a_worker_that_looks_around(
    redis_store: RedisStore, consumer: Any
) -> None:
    store = redis_store
    assert (await consumer.exchange([], 1)).leases == []
    assert not (await consumer.reclaim()).released
    entry = put(store)
    store.admin.xreadgroup("workers", "died", {f"{store.prefix}inbox": ">"})

    assert (await consumer.reclaim()).released

    assert ids(await claim(consumer)) == [entry]
    store.admin.xgroup_delconsumer(f"{store.prefix}inbox", "workers", "died")


async def test_thousands_of_entries_are_pushed_in_their_order(redis_store: RedisStore, consumer: Any) -> None:
    pipeline = redis_store.admin.pipeline(transaction=False)
    for _ in range(2500):
        pipeline.xadd(f"{redis_store.prefix}inbox", WORK)
    entries = [entry.decode() for entry in pipeline.execute()]
    claimed = list[Lease]()
    with anyio.fail_after(20):
        while len(claimed) < len(entries):
            claimed += (await consumer.exchange([], 500)).leases
    assert ids(claimed) == entries


async def test_a_paused_queue_starts_nothing_from_its_inbox(redis_store: RedisStore, consumer: Any) -> None:
    await redis_store.driver.change(Pause())
    entry = put(redis_store)
    assert await claim(consumer) == []
    await redis_store.driver.change(Resume())
    assert ids(await claim(consumer)) == [entry]


async def test_the_inbox_of_a_full_server_is_pushed_and_drained(redis_store: RedisStore, consumer: Any) -> None:
    entry = put(redis_store)
    redis_store.admin.config_set("maxmemory", 1)
    try:
        lease = await claim_one(consumer)
        assert await settle(consumer, lease, Ack()) is Reply.OK
    finally:
        redis_store.admin.config_set("maxmemory", 0)
    assert (lease.job_id, left(redis_store)) == (entry, 0)


@pytest.mark.parametrize("until_idle", [True, False])
async def test_a_worker_runs_what_is_put_in_before_and_while_it_waits(
    redis_store: RedisStore, until_idle: bool
) -> None:
    store, ran = redis_store, list[int]()
    queue = JobQueue(store.driver, store.queue_name)

    @queue.job(name="Work")
    async def work(number: int) -> None:
        ran.append(number)

    put(store)
    worker = Worker(queue)
    async with queue:
        with anyio.fail_after(20):
            if until_idle:
                await worker.run(until_idle=True)
            else:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(worker.run)
                    await eventually(lambda: ran == [1])
                    put(store, {**WORK, "parameters": '{"number": 2}'})
                    await eventually(lambda: ran == [1, 2])
                    put(store, {"name": "Work", "delay": "0.2", "parameters": '{"number": 3}'})
                    began = time.monotonic()
                    await eventually(lambda: ran == [1, 2, 3])
                    assert time.monotonic() - began >= 0.15
                    worker.stop()
    consumers = store.admin.xinfo_consumers(f"{store.prefix}inbox", "workers")
    assert (left(store), consumers) == (0, [])


async def test_an_inbox_that_is_no_stream_is_named(redis_store: RedisStore, consumer: Any) -> None:
    redis_store.admin.delete(f"{redis_store.prefix}inbox")
    redis_store.admin.set(f"{redis_store.prefix}inbox", "x")
    with pytest.raises(Exception, match="inbox is a string, it must be a stream"):
        await consumer.exchange([], 1)
    redis_store.admin.delete(f"{redis_store.prefix}inbox")


async def test_an_inbox_that_was_deleted_is_made_again(redis_store: RedisStore, consumer: Any) -> None:
    redis_store.admin.delete(f"{redis_store.prefix}inbox")
    assert await consumer.wait(1, 0.01) == []
    entry = put(redis_store)
    assert ids(await claim(consumer)) == [entry]
