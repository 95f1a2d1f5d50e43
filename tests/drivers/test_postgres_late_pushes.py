"""The first bytes of a push that arrive on Postgres when its client has long given them up add nothing."""

import time

import pytest
from postgres_store import PostgresStore

from redisjobs.drivers.postgres.pushes import push
from redisjobs.drivers.postgres.sync_connection import SyncConnection
from redisjobs.drivers.postgres.target import Target
from redisjobs.model.queries import Find
from redisjobs.model.transitions import NewJob

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


@pytest.mark.parametrize("nonce", ["", "a nonce"])
@pytest.mark.parametrize(("seconds", "is_added"), [(31, False), (20, True)])
async def test_a_first_try_that_comes_too_late_adds_no_job(
    postgres_store: PostgresStore, nonce: str, seconds: float, is_added: bool
) -> None:
    job = NewJob("late", ["name", "Work", "parameters", "{}"], nonce=nonce)
    now_ms = postgres_store.clock() or time.time() * 1000
    connection = SyncConnection(Target(postgres_store.url), postgres_store.queue_name, postgres_store.clock)

    pushed = connection.run(push([job], repeated=False, sent_ms=now_ms - seconds * 1000))
    connection.close()

    assert (pushed is not None) is is_added
    assert (await postgres_store.driver.read(Find("late")) is not None) is is_added
    await postgres_store.driver.aclose()


async def test_a_push_whose_clock_was_set_since_is_sent_again_with_the_right_time(
    postgres_store: PostgresStore,
) -> None:
    job, then = NewJob("a", ["name", "Work", "parameters", "{}"]), (postgres_store.clock() or 0) - 60_000
    times = iter([then])
    another = postgres_store.another()
    loop = another._loop()  # type: ignore[attr-defined]
    connection = loop.connections.take()
    await connection.time_ms()
    real = connection.time_ms

    async def time_ms(until: float = 0) -> float:
        return next(times, None) or await real()

    connection.time_ms = time_ms
    await loop.connections.put(connection)

    (pushed,) = await another.push([job], repeated=False)

    assert pushed.reply == "OK"
    assert job.sent_ms is not None
    assert job.sent_ms > then + 30_000
    await another.aclose()
