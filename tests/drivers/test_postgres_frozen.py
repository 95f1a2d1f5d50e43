"""A frozen client or session keeps no others from working."""

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import psycopg
import pytest
from postgres_store import Other, PostgresStore, worker
from postgres_store import store as store
from psycopg import pq
from store import eventually

from redisjobs.drivers.postgres import functions, working
from redisjobs.drivers.postgres.calls import Call, change_call
from redisjobs.drivers.postgres.wire import packed
from redisjobs.model.changes import Pause, RequeueAll, SetLimit, Tidy
from redisjobs.model.transitions import Ack, Turn
from redisjobs_proof.contract.acts import FAILED, claim, push, settle

pytestmark = [pytest.mark.slow, pytest.mark.anyio]

HUGE = 16_000_000  # bytes: more than the buffers of any socket


class Frozen:
    """A client that sends a call, and reads no answer."""

    def __init__(self, store: PostgresStore) -> None:
        self._store = store
        self._connection: psycopg.Connection[Any] = psycopg.connect(store.url)

    def send(self, call: Call[Any], *, all_of_it: bool = True) -> None:
        """Send a call; without `all_of_it`, as if the last packet of the request were lost."""
        pgconn = self._connection.pgconn
        statement, values = packed(call, self._store.queue_name, self._store.clock.set_to)
        pgconn.enter_pipeline_mode()
        pgconn.send_query_params(statement, values)
        if all_of_it:
            pgconn.pipeline_sync()
        else:
            pgconn.send_flush_request()
        while pgconn.flush():
            pass

    def read(self) -> None:
        """Read the answer."""
        result = self._connection.pgconn.get_result()
        assert result is not None
        assert result.status == pq.ExecStatus.TUPLES_OK

    def waits_for(self) -> str:
        """What its session waits for, in the words of the server."""
        ((event,),) = self._store.admin.execute(
            "select wait_event from pg_stat_activity where pid = %s", (self._connection.info.backend_pid,)
        )
        return event or ""

    def locks(self) -> list[Any]:
        """What its session has locked, but for what reads need."""
        return self._store.admin.execute(
            "select locktype, mode from pg_locks where pid = %s and mode <> 'AccessShareLock'"
            " and locktype <> 'virtualxid'",
            (self._connection.info.backend_pid,),
        ).fetchall()

    def close(self) -> None:
        self._connection.close()


@pytest.fixture
def frozen(store: PostgresStore) -> Iterator[Frozen]:
    with closing(Frozen(store)) as frozen:
        yield frozen


def grow(store: PostgresStore, job_id: str) -> None:
    store.rows(
        f"update redisjobs.jobs set parameters = repeat('x', {HUGE}) where queue = %s and id = %s returning id",
        job_id,
    )


def exchange(*, count: int = 9) -> Call[Any]:
    return working.exchange(working.Floors(), "frozen", Turn(1, 1), [], count, 3, idle=False, now=0)


CLAIMS = {
    "an exchange": exchange(),
    "a wait": working.read(working.Floors(), "frozen", 9),
}


@pytest.mark.parametrize("limit", ["", "max_concurrency=9"])
@pytest.mark.parametrize("call", CLAIMS)
async def test_a_worker_that_is_frozen_while_it_gets_jobs_stops_no_other(
    store: PostgresStore, frozen: Frozen, call: str, limit: str
) -> None:
    if limit:
        await store.driver.change(SetLimit("Work", limit))
    await (await worker(store, "frozen")).aclose()
    await push(store, "huge")
    grow(store, "huge")
    frozen.send(CLAIMS[call])
    await eventually(lambda: frozen.waits_for() == "ClientWrite")

    two = await worker(store, "two")
    await push(store, "small")
    (small,) = await claim(two)
    assert (await two.exchange([(small, Ack())], 9)).leases == []
    assert (await store.driver.change(Tidy())).after != ""
    store.rows("update redisjobs.beats set until_ms = 1 where queue = %s and id = 'frozen' returning id")
    found = await two.reclaim((await two.reclaim()).silent)
    assert (found.fenced, found.jobs) == (["frozen"], 1)
    assert frozen.waits_for() == "ClientWrite"
    frozen.close()
    assert [lease.job_id for lease in await claim(two)] == ["huge"]
    await two.release(refund=True, watch=False)
    await two.aclose()


REQUESTS = {
    "an exchange": exchange(),
    "a wait": working.read(working.Floors(), "frozen", 9),
    "a look for lost answers": working.recover("frozen", [], 0, 0),
    "a reclaim": working.reclaim("frozen", [], others=False),
    "a release": working.release("frozen", refund=True, watch=False),
    "a pause": change_call(Pause()),
    "a requeue": change_call(RequeueAll(after="0 -1000000000000000")),
}


@pytest.mark.parametrize("call", REQUESTS)
async def test_a_client_that_is_frozen_before_the_end_of_its_request_has_locked_nothing(
    store: PostgresStore, frozen: Frozen, call: str
) -> None:
    consumer = await worker(store, "frozen")
    await push(store, "a", "b", "c")
    for lease in await claim(consumer, 2):
        await settle(consumer, lease, FAILED)
    before = store.rows("select n from redisjobs.totals where queue = %s")

    frozen.send(REQUESTS[call], all_of_it=False)

    frozen.read()
    assert frozen.locks() == before == []
    await consumer.aclose()


async def test_a_session_that_stands_still_keeps_only_the_jobs_that_it_has_locked(
    store: PostgresStore, other: Other
) -> None:
    """As when the session's process is stopped, or waits for a replica."""
    one = await worker(store, "frozen")
    await push(store, "done", "held")
    done, _ = await claim(one)
    await push(store, "new")
    other.run(working.exchange(working.Floors(), "frozen", Turn(1, 1), [(done, Ack())], 1, 3, idle=False, now=0))

    two = await worker(store, "two")
    await push(store, "small")
    (small,) = await claim(two)
    assert small.job_id == "small"
    store.rows("update redisjobs.beats set until_ms = 1 where queue = %s and id = 'frozen' returning id")
    found = await two.reclaim((await two.reclaim()).silent)
    assert (found.fenced, found.jobs) == (["frozen"], 1)
    assert (await store.driver.change(Tidy())).after != ""
    assert [lease.job_id for lease in await claim(two)] == ["held"]

    store.rows("update redisjobs.fenced set until_ms = 1 where queue = %s returning id")
    await two.reclaim()
    assert (
        store.rows("select id from redisjobs.fenced where queue = %s") != []
    )  # remembered while it may still claim
    other.transaction.commit()
    assert (await two.reclaim()).jobs == 1
    assert [lease.job_id for lease in await claim(two)] == ["new"]
    await one.aclose()
    await two.release(refund=True, watch=False)
    await two.aclose()


async def test_each_call_that_writes_commits_before_its_answer(store: PostgresStore) -> None:
    suffix = f"_{functions.release()}"
    found = store.admin.execute(
        "select left(proname, -length(%s)), prokind from pg_proc where pronamespace = 'redisjobs'::regnamespace"
        " and proname ~ ('^[a-z].*' || %s || '$')",
        (suffix, suffix),
    ).fetchall()
    procedures = {name for name, kind in found if kind == "p"}
    assert procedures == {name for name, _ in found if functions.writes(name)} - {"push_within"}
    assert all(functions.committing(name).startswith(b"call ") for name in procedures)
