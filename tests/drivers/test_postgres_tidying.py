"""Tidying in Postgres: how much a run does, beside what, and what it leaves alone while a snapshot is held."""

from collections.abc import Iterator
from contextlib import aclosing
from typing import Any

import anyio
import psycopg
import pytest
from databases import Owned
from postgres_store import Other, PostgresStore
from postgres_store import store as store

from redisjobs.drivers import connect
from redisjobs.drivers.postgres import functions
from redisjobs.errors import DriverError
from redisjobs.model.changes import Tidy
from redisjobs.model.transitions import Ack
from redisjobs_proof.contract.limit_acts import claim, limit, limited, push, tidy

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

ALL = "select key from redisjobs.buckets where queue = %s"
_BUCKETS = """
insert into redisjobs.buckets (queue, name, key, number, running, next_us, is_open, turn_ms, line_from)
select %s, 'Limited', 'k' || n, 1, 0, 0, {}, null, array[0, 0, 0] from generate_series(1, %s) n returning key
"""
OPEN, CLOSED = (_BUCKETS.format(is_open) for is_open in ("true", "false"))
SHARE = "select pg_advisory_xact_lock_shared(hashtextextended('redisjobs queue ' || %s, 0))::text"


async def test_a_run_drops_all_buckets_that_no_job_is_in(store: PostgresStore) -> None:
    await limit(store.driver, "max_concurrency=1")
    store.rows(CLOSED, 2_345)

    await tidy(store.driver)

    assert store.rows(ALL) == []


async def test_buckets_that_a_rate_still_counts_and_those_in_use_stay(store: PostgresStore) -> None:
    store.clock.set_to = 1_900_000_000_000
    worker = store.consumer("w1")
    await worker.open()
    await limit(store.driver, "max_concurrency=1 rate=1/m")
    await push(
        store.driver, limited("a", "done"), limited("b", "runs"), limited("c", "waits"), limited("d", "waits")
    )
    leases = await claim(worker)
    await claim(worker, *((lease, Ack()) for lease in leases if lease.job_id != "b"))

    await tidy(store.driver)
    assert store.rows(ALL) == [("done",), ("runs",), ("waits",)]

    store.clock.advance(61)
    await tidy(store.driver)
    assert store.rows(ALL) == [("runs",), ("waits",)]
    await worker.aclose()


async def test_steps_that_find_nothing_wrong_go_on_beside_an_exchange(store: PostgresStore, other: Other) -> None:
    store.rows(CLOSED, 10)
    other.ask(SHARE)

    with anyio.fail_after(5):
        step = await store.driver.change(Tidy("lines"))
        while step.after:
            step = await store.driver.change(Tidy(step.after))

    assert store.rows(ALL) == []


async def test_lines_without_a_turn_get_one_in_steps(store: PostgresStore) -> None:
    store.clock.set_to = 1_900_000_000_000
    await limit(store.driver, "max_concurrency=1")
    store.rows(OPEN, 1_200)

    steps = [await store.driver.change(Tidy("lines"))]
    while steps[-1].after != "buckets":
        steps.append(await store.driver.change(Tidy(steps[-1].after)))

    assert len(steps) == 3
    turns = "select distinct turn_ms from redisjobs.buckets where queue = %s"
    assert store.rows(turns) == [(1_900_000_000_000,)]


@pytest.mark.parametrize("after", ["trim x", "line", "lines k", 'lines ["a"', "buckets 99999999999999999999"])
async def test_a_place_where_no_step_ends_is_refused(store: PostgresStore, after: str) -> None:
    with pytest.raises(DriverError):
        await store.driver.change(Tidy(after))


# While a snapshot is held


@pytest.fixture
def snapshot(database: str) -> Iterator["psycopg.Connection[Any]"]:
    with psycopg.connect(database) as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        connection.execute("select")
        yield connection


def test_a_step_looks_at_lines_and_not_at_all_that_they_were_before(database: str, snapshot: Any) -> None:
    look = functions.installed_as(
        "explain (analyze, buffers, format json) select redisjobs_f._open_lines('q', '', '')"
    )
    with psycopg.connect(database, autocommit=True) as admin:
        admin.execute("alter table redisjobs.buckets set (autovacuum_enabled = off)")

        def blocks() -> int:
            ((explained,),) = admin.execute(functions.installed_as(look).encode()).fetchall()
            return int(explained[0]["Plan"]["Shared Hit Blocks"])

        admin.execute(OPEN.encode(), ("q", 100))
        blocks()  # it is planned
        before = blocks()
        for _ in range(50):
            admin.execute("update redisjobs.buckets set number = number + 1")
        assert blocks() < 3 * before


_XIDS = """
create temporary table consumed (n integer);
do $$
begin
  for i in 1..100001 loop
    begin
      insert into consumed values (1);
    exception when division_by_zero then null;
    end;
  end loop;
end $$"""
"""Each part with an exception has a transaction id of its own."""


async def test_what_an_owner_deletes_waits_for_a_snapshot_whose_start_it_may_not_see(owned: Owned) -> None:
    count = "select count(*) from redisjobs.deltas"
    driver = connect(owned.url, "emails")
    async with aclosing(driver):
        owned.run("insert into redisjobs.deltas values ('emails', 'pushed', 1)")
        owned.run(CLOSED, "emails", 1)
        with psycopg.connect(owned.url_of("postgres")) as reader:
            reader.execute("begin isolation level repeatable read")
            reader.execute("select")
            owned.run(_XIDS)
            await tidy(driver)
            assert owned.run(count) == [(1,)]
            assert owned.run("select count(*) from redisjobs.buckets") == [(1,)]

        owned.run("update redisjobs.settings set at_ms = 0 where name = 'tidied'")
        await tidy(driver)

    assert owned.run(count) == [(0,)]
    assert owned.run("select count(*) from redisjobs.buckets") == [(0,)]
