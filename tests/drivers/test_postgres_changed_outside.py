"""What a database in use meets: readers, an upgrade of its server, millions of jobs, and the longest names."""

import random
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import psycopg
import pytest
from databases import Owned
from postgres_store import PostgresStore
from postgres_store import store as store

from redisjobs import JobName, JobQueue, Unavailable, Worker
from redisjobs.drivers import connect
from redisjobs.drivers.postgres import functions, schema
from redisjobs.errors import DriverError, Forbidden
from redisjobs.model.changes import GetStatus, Tidy
from redisjobs.model.health import Audit
from redisjobs.model.job import Priority
from redisjobs.model.queries import Count
from redisjobs.model.transitions import Ack, NewJob
from redisjobs_proof.contract.acts import push
from redisjobs_proof.contract.limit_acts import claim, limit, limited

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

Add = JobName("Add", dict[str, int])


# Readers


async def test_a_reader_audits_and_repairs_nothing(owned: Owned) -> None:
    columns = "queue, id, ending, value_until_ms, until_ms"
    owned.run(f"insert into redisjobs.results ({columns}) values ('emails', 'a', '', 1, 1)")
    async with JobQueue(owned.url_of(owned.role("reader")), name="emails") as queue:
        found = {each.check: each.level for each in await queue.control.doctor()}
        assert "overdue" in found
        with pytest.raises(Forbidden, match="'operator'"):
            await queue.driver.change(Audit("results ", repair=True))
    assert owned.run("select count(*) from redisjobs.results") == [(1,)]

    async with JobQueue(owned.url_of(owned.role("operator")), name="emails") as queue:
        await queue.driver.change(Audit("results ", repair=True))
    assert owned.run("select count(*) from redisjobs.results") == [(0,)]


async def test_a_reader_sees_how_jobs_ended_and_is_noted_at_none(owned: Owned) -> None:
    async with JobQueue(owned.url_of(owned.role("producer")), name="emails") as queue:
        await queue.driver.push([NewJob("a", ["name", "Work"])], repeated=False)
    async with JobQueue(owned.url_of(owned.role("reader")), name="emails") as queue:
        (status,) = await queue.driver.change(GetStatus(["a"]))
        assert status.place == Priority.NORMAL
        with pytest.raises(Forbidden, match="'producer'"):
            await queue.driver.change(GetStatus(["a"], "process"))
    assert owned.run("select count(*) from redisjobs.waiters") == [(0,)]


def test_no_function_for_readers_may_write(owned: Owned) -> None:
    role = owned.role("reader")
    assert (
        owned.run(
            "select proname from pg_proc where pronamespace = 'redisjobs'::regnamespace and prosecdef"
            " and provolatile = 'v' and has_function_privilege(%s, oid, 'execute')",
            role,
        )
        == []
    )


# A sequence that is behind the jobs


_FILL = """
insert into redisjobs.jobs (seq, queue, id, rank, place, since_ms)
select nextval('redisjobs.line'), 'emails', place || n, 1, place, 0
from unnest(%s::text[]) place, generate_series(1, %s) n
"""
PLACES = ["ready", "returned", "alone", "parked", "line", "delayed", "running", "dead", "completed", "cancelled"]


@pytest.fixture
async def emails(owned: Owned) -> AsyncIterator[JobQueue]:
    async with JobQueue(owned.url, name="emails") as queue:
        yield queue


@pytest.mark.parametrize("noted", [False, True])
@pytest.mark.parametrize("place", PLACES)
async def test_no_worker_joins_while_the_sequence_is_behind_a_job(
    owned: Owned, emails: JobQueue, place: str, noted: bool
) -> None:
    owned.run(_FILL, [place], 1)
    worker = emails.driver.consumer("w1", lease=15, max_deliveries=3)
    await worker.open()
    await worker.aclose()
    if noted:
        await emails.driver.change(Tidy())

    owned.run("alter sequence redisjobs.line restart")  # as in a database that logical replication has filled

    worker = emails.driver.consumer("w2", lease=15, max_deliveries=3)
    with pytest.raises(DriverError, match="line is behind the places of jobs") as caught:
        await worker.open()
    owned.run("delete from redisjobs.settings where name = 'tidied'")
    with pytest.raises(DriverError, match="line is behind"):
        await emails.driver.change(Tidy())
    owned.run(str(caught.value).partition("run: ")[2])
    await worker.open()
    await emails.driver.change(Tidy())
    await worker.aclose()


async def test_what_was_noted_of_the_sequence_holds_on_the_same_server_alone(
    owned: Owned, emails: JobQueue
) -> None:
    owned.run(_FILL, ["delayed"], 5)
    await emails.driver.change(Tidy())
    owned.run("delete from redisjobs.settings where name = 'tidied'")
    owned.run("select setval('redisjobs.line', 3)")
    # as another server noted it, when it had given 3
    owned.run("update redisjobs.settings set value = '1 3' where name = 'line'")
    with pytest.raises(DriverError, match="line is behind"):
        await emails.driver.change(Tidy())


# More than is counted, and the longest texts


async def test_jobs_are_counted_up_to_a_number(owned: Owned, monkeypatch: pytest.MonkeyPatch) -> None:
    text = functions._text().replace("most constant bigint := 5000000;", "most constant bigint := 4;")
    assert text != functions._text()
    monkeypatch.setattr(functions, "_text", lambda: text)
    for cached in (functions.statement, functions.committing):
        cached.cache_clear()
    list(schema.migrate(owned.url))
    try:
        driver = connect(owned.url, "emails")
        async with aclosing(driver):
            owned.run(_FILL, PLACES, 1)
            found = await driver.read(Count())
            assert (found.ready[Priority.NORMAL], found.running, found.completed) == (4, 1, 1)
            owned.run("delete from redisjobs.jobs")
            owned.run(_FILL, PLACES, 6)
            found = await driver.read(Count())
            assert (found.ready[Priority.NORMAL], found.running, found.delayed, found.dead) == (4, 4, 4, 4)
    finally:
        monkeypatch.undo()
        for cached in (functions.statement, functions.committing):
            cached.cache_clear()


async def test_the_longest_names_and_keys_fit(postgres_store: PostgresStore, longest: Any) -> None:
    queue, job_id, key, name = longest
    store = PostgresStore(postgres_store.url, queue)
    try:
        async with aclosing(store.driver), aclosing(store.driver.consumer("w1", lease=9, max_deliveries=3)) as one:
            await one.open()
            await limit(store.driver, "max_concurrency=1", name)
            jobs = [limited(f"{at}{job_id}"[:500], key, name, unique=f"{at}{job_id}"[:500]) for at in range(3)]
            for at, each in enumerate(jobs):
                each.nonce = f"{at}" * 16
            await push(store, *jobs)
            ran = list[str]()
            while leases := await claim(one):
                ran += [lease.job_id for lease in leases]
                assert [*(await one.exchange([(lease, Ack()) for lease in leases], None)).replies] == ["OK"]
        assert ran == [each.job_id for each in jobs]
    finally:
        store.end()


def letters(many: int, seed: int) -> str:
    """Letters of four bytes in an order that can't be compressed."""
    return "".join(chr(random.Random(seed + at).randrange(0x20000, 0x2A6D0)) for at in range(many))


@pytest.fixture
def longest() -> tuple[str, str, str, str]:
    """A queue's name, a job's id, a limit key and a job's name, as long as they may be."""
    return letters(50, 0), letters(500, 1000), letters(200, 2000), letters(200, 3000)


def test_a_queue_whose_name_has_too_many_bytes_is_refused() -> None:
    with pytest.raises(ValueError, match="give up to 200 bytes"):
        connect("postgresql://127.0.0.1/none", letters(51, 0))


# Publications


async def test_tables_that_are_published_keep_old_rows_whole_and_only_those(database: str) -> None:
    identities = "select relreplident from pg_class where oid = 'redisjobs.jobs'::regclass"
    async with JobQueue(database, "sums") as queue:
        queue.register(Add)(lambda parameters, context: None)
        await queue.push({"a": 1}, Add)
        with psycopg.connect(database, autocommit=True) as admin:
            assert admin.execute(identities).fetchall() == [("d",)]
            admin.execute("create publication everything for all tables")
            with pytest.raises(Unavailable, match="was published a moment ago"):
                await queue.cancel((await queue.push({"a": 2}, Add)).id)
            await queue.driver.change(Tidy())
            assert admin.execute(identities).fetchall() == [("f",)]
        await Worker(queue).run(until_idle=True)
        counts = await queue.control.counts()
    assert counts.totals["completed"] == 2
