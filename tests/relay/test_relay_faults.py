"""The relay: what it sets aside, what it waits for, and what it does not repeat."""

import anyio
import pytest
import redis
from at_work import running
from databases import Postgres
from prometheus_client import CollectorRegistry
from relays import Add, ask, left, ready, until, write
from relays import queue as queue
from store import RedisStore, eventually

from redisjobs import JobQueue, Worker
from redisjobs.contrib.metrics import Metrics
from redisjobs.control.relay.relay import Relayer
from redisjobs.drivers.postgres import outbox as outboxes
from redisjobs.errors import DriverError, Unavailable
from redisjobs.events import JobsPushed, OutboxMeasured, RelayAvailable, RelayUnavailable, RowsRefused
from redisjobs.local import server
from redisjobs.model.driver import OtherVersion
from redisjobs.model.relaying import FindRelayed, ForgetRelayed, row_name
from redisjobs.model.relaying import Relay as RelayRows

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


# Rows that can't be pushed


BAD = {
    "the name is wrong": {"name": ""},
    "the id has 1 to 500 characters": {"id": ""},
    "the options are no JSON object": {"options": "[1]"},
    "the option priority is none of": {"options": '{"priority": "urgent"}'},
    "the option unique_for_ms is no whole number": {"options": '{"unique_for_ms": -1}'},
    "there is no option 'delay'": {"options": '{"delay": 5}'},
    "names a column": {"options": '{"fields": {"name": "x"}}'},
    "limit_key='xx": {"options": f'{{"fields": {{"limit_key": "{"x" * 201}"}}}}'},
    "the option unique is no text": {"options": '{"unique": 5}'},
    "this queue takes up to": {"parameters": f'"{"x" * 600_000}"'},
}


async def test_a_row_that_can_never_be_pushed_is_set_aside_and_stops_no_other(
    queue: JobQueue, database: str
) -> None:
    for change in BAD.values():
        row = {"queue": queue.name, "name": "Add"} | change
        marks = ", ".join(["%s"] * len(row))
        ask(database, f"INSERT INTO redisjobs.outbox ({', '.join(row)}) VALUES ({marks})", *row.values())
    ids = write(database, queue, {"a": 1})
    refused = list[RowsRefused]()
    queue.events.subscribe(RowsRefused, refused.append)

    measured = await Relayer(queue, database).run_once()

    assert await ready(queue) == ids
    assert measured.refused == len(BAD)
    errors = [error for event in refused for *_, error in event.rows]
    assert len(errors) == len(BAD)
    assert all(why in error for why, error in zip(BAD, errors, strict=True))
    assert [error for _, error in left(database)] == errors


async def test_a_row_set_aside_is_pushed_after_its_correction(queue: JobQueue, database: str) -> None:
    ask(database, "INSERT INTO redisjobs.outbox (queue, name, id) VALUES (%s, '', 'x')", queue.name)
    await Relayer(queue, database).run_once()

    ask(
        database,
        "UPDATE redisjobs.outbox SET name = 'Add', error = NULL, failed_at = NULL WHERE failed_at IS NOT NULL",
    )
    await Relayer(queue, database).run_once()

    assert await ready(queue) == ["x"]


async def test_a_job_that_the_queue_refuses_is_set_aside_if_it_takes_others(
    queue: JobQueue, redis_store: RedisStore, database: str
) -> None:
    redis_store.admin.rpush(f"{redis_store.prefix}unique:spoiled", "junk")
    (bad,) = write(database, queue, {}, unique="spoiled")
    with pytest.raises(DriverError, match="WRONGTYPE"):
        await Relayer(queue, database).run_once()
    assert left(database) == [(bad, None)]

    ids = write(database, queue, {"a": 1}, {"a": 2})
    await Relayer(queue, database).run_once()

    assert await ready(queue) == ids
    ((job_id, error),) = left(database)
    assert job_id == bad
    assert "WRONGTYPE" in error
    redis_store.admin.delete(f"{redis_store.prefix}unique:spoiled")


async def test_a_full_server_is_waited_for(database: str) -> None:
    with server.start() as full, redis.Redis.from_url(full.url) as admin:
        queue = JobQueue(full.url, "q")
        ids = write(database, queue, {"a": 1}, {"a": 2})
        admin.config_set("maxmemory", 1)
        away = list[RelayUnavailable]()
        back = anyio.Event()
        queue.events.subscribe(RelayUnavailable, away.append)
        queue.events.subscribe(RelayAvailable, lambda _: back.set())

        async with running(Relayer(queue, database)):
            await eventually(lambda: away, within=20)
            assert "out of memory" in away[0].why
            assert len(left(database)) == 2
            admin.config_set("maxmemory", 0)
            with anyio.fail_after(20):
                await back.wait()
            assert await ready(queue) == ids
        assert len(away) == 1
        await queue.aclose()


# Outages, and relays that come late


async def test_an_outage_of_the_queue_is_waited_for(database: str) -> None:
    with server.start() as running_server:
        queue = JobQueue(running_server.url, "q")
        running_server.kill()
        write(database, queue, {"a": 1})
        away = list[RelayUnavailable]()
        queue.events.subscribe(RelayUnavailable, away.append)

        async with running(Relayer(queue, database)):
            await eventually(lambda: away, within=20)
            running_server.restart()
            await eventually(lambda: not left(database), within=20)

        assert len(await ready(queue)) == 1
        await queue.aclose()


async def test_a_relay_whose_sessions_are_ended_goes_on(
    queue: JobQueue, postgres: Postgres, database: str
) -> None:
    async with running(Relayer(queue, database)):
        for number in range(3):
            (job_id,) = write(database, queue, {"a": number})
            await until(lambda job_id=job_id: queue.get(job_id))  # type: ignore[misc]
            name = database.rpartition("/")[2]
            postgres.run(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")


async def test_rows_whose_deletion_was_not_committed_are_not_pushed_again(
    queue: JobQueue, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = write(database, queue, {"a": 1}, {"a": 2})
    ran = list[int]()
    queue.register(Add)(lambda given: ran.append(given["a"]))

    async def cut(*_: object) -> None:
        raise Unavailable("the connection was cut")

    with monkeypatch.context() as patch:
        patch.setattr(outboxes.Outbox, "settle", cut)
        with pytest.raises(Unavailable, match="was cut"):
            await Relayer(queue, database).run_once()
    await Worker(queue).run(until_idle=True)
    assert len(left(database)) == 2

    heard = list[JobsPushed]()
    queue.events.subscribe(JobsPushed, heard.append)
    await Relayer(queue, database).run_once()
    await Worker(queue).run(until_idle=True)

    assert sorted(ran) == [1, 2]
    assert left(database) == []
    assert [job for event in heard for job in event.jobs] == [(each, "Add", False) for each in ids]


async def test_what_a_dead_relay_left_to_forget_is_forgotten_by_another(
    queue: JobQueue, redis_store: RedisStore, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("redisjobs.control.relay.relay._ORPHANS", 0.05)
    (there,) = write(database, queue, {"a": 1})
    ((name,),) = ask(database, "SELECT id::text FROM redisjobs.outbox_identity")
    driver = redis_store.another()
    jobs = [queue.prepare({}, Add), queue.prepare({}, Add, job_id="mine")]
    read_ms = (await driver.change(RelayRows(name))).server_ms
    await driver.change(RelayRows(name, jobs, read_ms))
    ask(database, "UPDATE redisjobs.outbox SET failed_at = now()")  # so it stays
    kept = queue.prepare({}, Add)
    kept.job_id = there
    await driver.change(RelayRows(name, [kept], read_ms))

    async with running(Relayer(queue, database)):
        await until(lambda: is_forgotten(queue, name, [there]))

    await driver.change(ForgetRelayed(name, [there]))
    late = await driver.change(RelayRows(name, jobs, read_ms))
    assert late.pushed is not None
    assert {each.reply for each in late.pushed} == {"REPEATED"}
    await driver.change(ForgetRelayed(name, [row_name(job.job_id, job.nonce) for job in jobs]))
    await driver.aclose()


async def is_forgotten(queue: JobQueue, name: str, but: list[str]) -> bool:
    return await queue.driver.read(FindRelayed(name, 0)) == but


async def test_the_lag_is_measured(queue: JobQueue, database: str) -> None:
    measured = list[OutboxMeasured]()
    queue.events.subscribe(OutboxMeasured, measured.append)
    registry = CollectorRegistry()
    Metrics(registry).listen(queue)
    write(database, queue, {"a": 1}, {"a": 2})
    ask(database, "UPDATE redisjobs.outbox SET pushed_at = pushed_at - interval '100 s'")
    opened = await outboxes.Outbox.open(database, queue.name)
    waiting, oldest, refused = await opened.lag()
    await opened.aclose()

    await Relayer(queue, database).run_once()

    assert (waiting, refused) == (2, 0)
    assert 100 <= oldest < 130
    assert [(each.waiting, each.oldest) for each in measured] == [(0, 0.0)]
    shown = [f"redisjobs_outbox_{what}" for what in ("rows", "oldest_seconds", "refused_rows")]
    assert [registry.get_sample_value(each, {"queue": queue.name}) for each in shown] == [0, 0, 0]


async def test_a_database_without_the_schema_ends_the_relay(queue: JobQueue, postgres: Postgres) -> None:
    with postgres.database(migrated=False) as url, pytest.raises(OtherVersion, match="run `redisjobs migrate"):
        await Relayer(queue, url).run()
    with pytest.raises(ValueError, match="is no database"):
        Relayer(queue, "mysql://host/x")


async def test_a_read_only_server_is_said_and_waited_for(queue: JobQueue, database: str) -> None:
    write(database, queue, {"a": 1})
    name = database.rpartition("/")[2]
    ask(database, f"ALTER DATABASE {name} SET default_transaction_read_only = on")

    with pytest.raises(Unavailable, match="read-only transaction"):
        await Relayer(queue, database).run_once()

    assert len([row for row in left(database) if row[1] is None]) == 1
