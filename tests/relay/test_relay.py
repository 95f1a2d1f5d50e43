"""The relay: what it pushes, in which order, and with which options."""

from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from at_work import running
from relays import Add, ask, left, ready, until, write
from relays import queue as queue
from store import RedisStore, documented_rule, eventually

from redisjobs import JobQueue, Worker, sync
from redisjobs.control.relay.relay import _POLLS as POLLS
from redisjobs.control.relay.relay import Relayer
from redisjobs.events import JobsPushed
from redisjobs.model.job import OnConflict
from redisjobs.model.queries import Find
from redisjobs.model.relaying import FindRelayed

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


async def test_rows_are_pushed_in_order_and_deleted(queue: JobQueue, database: str) -> None:
    ids = write(database, queue, *({"a": number} for number in range(1203)))

    measured = await Relayer(queue, database).run_once()

    assert (measured.waiting, measured.refused) == (0, 0)
    assert await ready(queue) == ids
    assert left(database) == []


async def test_an_idle_relay_finds_what_is_committed(queue: JobQueue, database: str) -> None:
    async with running(relay := Relayer(queue, database)):
        await eventually(lambda: relay._poll == POLLS[1])
        ids = write(database, queue, {"a": 1})

        await until(lambda: queue.get(ids[0]))


async def test_options_arrive_as_they_were_pushed(queue: JobQueue, database: str) -> None:
    at = datetime.now(UTC) + timedelta(hours=1)
    ids = [
        *write(database, queue, {"a": "ü\0"}, priority="high", headers={"h": "ö"}, keep_result=60),
        *write(database, queue, {}, delay=3600),
        *write(database, queue, {}, at=at),
        *write(database, queue, {}, expires_in=3600, unique="k", unique_until="start"),
    ]

    await Relayer(queue, database).run_once()

    high, delayed, later, expiring = [await queue.driver.read(Find(each)) for each in ids]
    assert high is not None
    assert (high.priority, high.fields[b"parameters"]) == ("high", b'{"a":"\xc3\xbc\\u0000"}')
    assert (high.fields[b"headers"], high.fields[b"keep_result"]) == ('{"h":"ö"}'.encode(), b"60000")
    assert delayed is not None
    assert delayed.due_ms is not None
    assert abs(delayed.due_ms / 1000 - at.timestamp()) < 60
    assert later is not None
    assert later.due_ms == -(-int(at.timestamp() * 1e6) // 1000)
    assert expiring is not None
    assert expiring.fields[b"unique"] == b"k"
    assert expiring.fields[b"unique_until"] == b"start"
    assert 3_500_000 < int(expiring.fields[b"expires_at"]) - datetime.now(UTC).timestamp() * 1000 <= 3_600_000


async def test_a_delay_counts_from_the_push_within_the_transaction(queue: JobQueue, database: str) -> None:
    late, soon = [*write(database, queue, {}, delay=60), *write(database, queue, {}, expires_in=60)]
    ask(
        database,
        "UPDATE redisjobs.outbox SET due_at = due_at - interval '50 s', pushed_at = pushed_at - interval '50 s'",
    )

    await Relayer(queue, database).run_once()

    row, expiring = await queue.driver.read(Find(late)), await queue.driver.read(Find(soon))
    now_ms = datetime.now(UTC).timestamp() * 1000
    assert row is not None
    assert row.due_ms is not None
    assert 0 < row.due_ms - now_ms <= 10_000
    assert expiring is not None
    assert 0 < int(expiring.fields[b"expires_at"]) - now_ms <= 10_000


async def test_ids_and_unique_keys_that_are_taken_add_nothing_and_are_done(queue: JobQueue, database: str) -> None:
    await queue.push({}, Add, job_id="mine")
    await queue.push({}, Add, job_id="holder", unique="k")
    write(database, queue, {}, unique="k")
    write(database, queue, {"new": 1}, unique="k", on_conflict=OnConflict.REPLACE)
    producer = sync.JobQueue("redis://127.0.0.1:1/0", queue.name)
    with psycopg.connect(database) as connection:
        producer.push({}, Add, within=connection, job_id="mine")
    heard = list[JobsPushed]()
    queue.events.subscribe(JobsPushed, heard.append)

    await Relayer(queue, database).run_once()

    assert left(database) == []
    assert await ready(queue) == ["mine", "holder"]
    assert [added for event in heard for _, _, added in event.jobs] == [False, False, False]
    holder = await queue.driver.read(Find("holder"))
    assert holder is not None
    assert holder.fields[b"parameters"] == b'{"new":1}'


async def test_several_relays_share_the_rows(queue: JobQueue, redis_store: RedisStore, database: str) -> None:
    ids = write(database, queue, *({"a": number} for number in range(5000)))
    others = [JobQueue(redis_store.url, redis_store.queue_name) for _ in range(4)]

    async with running(*(Relayer(other, database) for other in others)):
        await eventually(lambda: not left(database), within=30)

    assert sorted(await ready(queue)) == sorted(ids)


async def test_rows_of_another_queue_are_left_alone(queue: JobQueue, database: str) -> None:
    ask(database, "INSERT INTO redisjobs.outbox (queue, name) VALUES ('other', 'Add')")

    await Relayer(queue, database).run_once()

    assert len(left(database)) == 1


async def test_rows_written_by_sql_are_jobs_too(queue: JobQueue, database: str) -> None:
    ask(
        database,
        "INSERT INTO redisjobs.outbox (queue, name, parameters) VALUES (%s, 'Add', '{\"a\": 1}')",
        queue.name,
    )
    ran = list[dict[str, Any]]()
    queue.register(Add)(ran.append)

    await Relayer(queue, database).run_once()
    await Worker(queue).run(until_idle=True)

    assert ran == [{"a": 1}]


async def test_a_relay_needs_no_more_of_redis_than_a_producer(
    queue: JobQueue, redis_store: RedisStore, database: str
) -> None:
    user, rule = f"relay-{redis_store.queue_name}", documented_rule("producer", redis_store.queue_name)
    redis_store.admin.execute_command("ACL", "SETUSER", user, "on", ">secret", *rule)
    place = redis_store.url.rpartition("@")[2]
    producer = JobQueue(f"redis://{user}:secret@{place}", redis_store.queue_name)
    ids = write(database, queue, {"a": 1}, {"a": 2}, delay=60) + write(database, queue, {"a": 3}, unique="k")
    try:
        await Relayer(producer, database).run_once()
        await producer.driver.read(FindRelayed("o", 0))
    finally:
        await producer.aclose()
        redis_store.admin.execute_command("ACL", "DELUSER", user)

    assert left(database) == []
    assert [await queue.get(each) is not None for each in ids] == [True] * 3
