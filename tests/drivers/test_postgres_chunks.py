"""Chunks in Postgres: how long they are kept, and what becomes of the rows."""

import pytest
from postgres_store import PostgresStore
from postgres_store import one as one
from postgres_store import store as store
from store import Store

from redisjobs.model.changes import Tidy
from redisjobs.model.chunks import GetChunks
from redisjobs.model.driver import Consumer
from redisjobs.model.transitions import Ack, Result
from redisjobs_proof.contract.acts import claim, claim_one, push, settle
from redisjobs_proof.contract.awaiting import HOUR
from redisjobs_proof.contract.streaming import byte_chunks, emitted, number_chunks

pytestmark = [pytest.mark.slow, pytest.mark.anyio]


async def there(store: Store, *job_ids: str) -> list[bool]:
    return [bool((await store.driver.read(GetChunks(job_id))).chunks) for job_id in job_ids]


async def test_chunks_are_kept_for_a_minute_after_the_end_or_as_long_as_the_result(
    store: PostgresStore, one: Consumer
) -> None:
    store.clock.advance(0)
    await push(store, "short", "long", "runs")
    short, long, runs = await claim(one)
    for lease in (short, long, runs):
        await settle(one, lease, byte_chunks(b"1", wait=0))
    await settle(one, short, Ack(reported=True))
    await settle(one, long, Ack(result=Result(HOUR, b"5"), reported=True))

    store.clock.advance(59)
    assert await there(store, "short", "long", "runs") == [True, True, True]
    store.clock.advance(2)
    assert await there(store, "short", "long", "runs") == [False, True, True]
    store.clock.advance(3600)
    assert await there(store, "long", "runs") == [False, True]
    store.clock.advance(23 * 3600)
    assert await there(store, "runs") == [False]
    await settle(one, runs, byte_chunks(b"2"))
    assert await emitted(store, job_id="runs") == [b"2"]


async def test_the_rows_of_chunks_whose_time_is_over_are_deleted(store: PostgresStore, one: Consumer) -> None:
    store.clock.advance(0)
    names = [f"job {number}" for number in range(25)]
    await push(store, *names, "stays")
    for lease in await claim(one, 26):
        await settle(one, lease, number_chunks(1, 40, wait=0))
        if lease.job_id != "stays":
            await settle(one, lease, Ack(reported=True))
    store.clock.advance(120)

    after: str | None = None
    while after is None or after:
        after = (await store.driver.change(Tidy(after or ""))).after

    assert store.rows("select id, count(*) from redisjobs.chunks where queue = %s group by 1") == [("stays", 40)]
    assert store.rows("select id, first, last from redisjobs.streams where queue = %s") == [("stays", 1, 40)]


async def test_only_the_rows_of_chunks_that_are_kept_are_there(store: PostgresStore, one: Consumer) -> None:
    await push(store, "a")
    lease = await claim_one(one)
    for first in range(1, 12_001, 1000):
        await settle(one, lease, number_chunks(first, first + 999))

    counted = "select count(*), min(number), max(number) from redisjobs.chunks where queue = %s"
    assert store.rows(counted) == [(10_000, 2_001, 12_000)]
