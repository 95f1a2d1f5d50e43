"""Jobs in Postgres end, are changed and tidied beside other transactions, which the contract knows nothing of."""

from collections.abc import Sequence

import anyio
import anyio.lowlevel
import psycopg
import pytest
from postgres_store import Other, PostgresStore
from postgres_store import one as one
from postgres_store import store as store
from psycopg.types.json import Jsonb
from store import eventually

from redisjobs.drivers.postgres.functions import installed_as
from redisjobs.errors import Unavailable
from redisjobs.model.changes import Cancel, ChangeMany, Ending, GetStatus, Requeue, Retain, Tidied, Tidy
from redisjobs.model.driver import Consumer
from redisjobs.model.job import State
from redisjobs.model.queries import Count, Find
from redisjobs.model.retention import Keep, Retention
from redisjobs.model.transitions import Ack, Reply, ReportProgress, Result, Settlement
from redisjobs_proof.contract.acts import FAILED, claim, claim_one, job, push, rows_of, settle
from redisjobs_proof.contract.awaiting import told, until_told

pytestmark = [pytest.mark.slow, pytest.mark.anyio]

HOUR = 3_600_000


async def tidy(store: PostgresStore) -> Sequence[Tidied]:
    """Tidy to the end, as if a minute had passed since the last time."""
    store.rows("delete from redisjobs.settings where queue = %s and name = 'tidied' returning name")
    steps = [await store.driver.change(Tidy())]
    while steps[-1].after:
        steps.append(await store.driver.change(Tidy(steps[-1].after)))
    return steps


# Processes that wait


async def test_a_process_that_asks_just_as_a_job_ends_sees_the_end(
    store: PostgresStore, one: Consumer, other: Other
) -> None:
    await push(store, "a")
    await claim_one(one)
    other.lock("a")
    finish = "select redisjobs_f._finish(j, 'completed', '{}', 1, %s) from redisjobs.jobs j where queue = %s"
    other.transaction.execute(installed_as(finish).encode(), ('{"keep_ms": 5000, "value": "7"}', store.queue_name))

    asked = other.change(GetStatus(["a"], "me"))
    await eventually(other.is_waited_for)
    other.transaction.commit()

    (status,) = asked.result(5)
    assert status.ending is not Ending.PENDING
    assert store.rows("select process from redisjobs.waiters where queue = %s") == []


@pytest.mark.parametrize("runs", [True, False])
@pytest.mark.parametrize(
    "settlement", [Ack(), Ack(result=Result(HOUR, b"7")), FAILED], ids=["ack", "result", "dead"]
)
async def test_a_job_that_ends_just_as_a_process_asks_tells_it(
    store: PostgresStore, one: Consumer, other: Other, settlement: Settlement, runs: bool
) -> None:
    await push(store, "a")
    lease = await claim_one(one) if runs else None
    async with told(store, "me") as heard, anyio.create_task_group() as tasks:
        other.ask("select redisjobs_f.await(%s, null, array['a'], 'me')")
        tasks.start_soon(settle, one, lease or await claim_one(one), settlement)
        await eventually(other.is_waited_for)
        other.transaction.commit()
        await until_told(heard)

    assert heard == ["changed a"]


async def test_the_last_hundred_processes_that_wait_for_a_job_are_told(store: PostgresStore) -> None:
    await push(store, "a")
    for number in range(102):
        store.clock.advance(0.001)
        await store.driver.change(GetStatus(["a"], f"p{number}"))

    noted = {process for (process,) in store.rows("select process from redisjobs.waiters where queue = %s")}

    assert noted == {f"p{number}" for number in range(2, 102)}


async def test_large_results_come_in_several_answers(store: PostgresStore, one: Consumer) -> None:
    large = b'"%s"' % (b"x" * 1_500_000)
    await push(store, *"abcd")
    for lease in await claim(one):
        await settle(one, lease, Ack(result=Result(HOUR, large)))

    first = await store.driver.change(GetStatus([*"abcd"]))

    assert [status.ending for status in first] == [*[Ending.COMPLETED] * 3, Ending.LATER]
    (last,) = await store.driver.change(GetStatus(["d"]))
    assert last.value == large


# Changes beside open transactions


async def test_changes_of_many_jobs_lock_them_in_order_of_their_ids(store: PostgresStore, other: Other) -> None:
    """So two such calls never wait for each other."""
    await push(store, *"abc")
    other.lock("b")
    changed = other.change(ChangeMany([Cancel("c"), Cancel("b"), Cancel("a")]))
    await eventually(other.is_waited_for)

    free = store.rows("select id from redisjobs.jobs where queue = %s for update skip locked")
    other.transaction.commit()

    assert free == [("c",)]
    assert changed.result(5) == [Reply.CANCELLED] * 3


async def test_a_job_that_a_transaction_has_locked_for_long_is_not_changed_and_the_call_says_so(
    store: PostgresStore, other: Other
) -> None:
    await push(store, "a", "b")
    before = store.contents()
    other.lock("a")

    with pytest.raises(Unavailable, match="lock"):
        await store.driver.change(Cancel("a"))

    other.transaction.rollback()
    assert store.contents() == before
    assert await store.driver.change(Cancel("a")) is Reply.CANCELLED


@pytest.mark.parametrize("commits", [True, False])
async def test_an_ended_job_is_not_requeued_if_a_job_of_its_id_is_pushed_meanwhile(
    store: PostgresStore, one: Consumer, other: Other, commits: bool
) -> None:
    await store.driver.change(Retain(Retention(completed=Keep())))
    await push(store, "a")
    await settle(one, await claim_one(one), Ack())
    pushed = [{"id": "a", "name": "Work", "parameters": "{}", "rank": 1, "nonce": "another"}]
    assert other.ask("select redisjobs_f.push(%s, null, %s, false)", Jsonb(pushed))

    requeued = other.change(Requeue("a", ended=True))
    await eventually(other.is_waited_for)
    (other.transaction.commit if commits else other.transaction.rollback)()

    assert requeued.result(5) is (Reply.NOT_FOUND if commits else Reply.OK)
    ready, done = [await rows_of(store.driver, state) for state in (State.READY, State.COMPLETED)]
    assert ([row.job_id for row in ready], [row.job_id for row in done]) == (["a"], ["a"] if commits else [])


# Tidying


async def test_what_is_over_is_deleted(store: PostgresStore, one: Consumer) -> None:
    await push(store, job("a", unique="key", unique_for_ms=HOUR))
    lease = await claim_one(one)
    await settle(one, lease, ReportProgress(b"{}"))
    await settle(one, lease, Ack(result=Result(HOUR, b"7")))
    tables = ("uniques", "progress", "results")

    def rows() -> list[int]:
        return [len(store.rows(f"select * from redisjobs.{table} where queue = %s")) for table in tables]

    await tidy(store)
    assert rows() == [1, 1, 1]
    store.clock.advance(3601)
    await tidy(store)
    assert rows() == [0, 0, 1]
    assert store.rows("select value from redisjobs.results where queue = %s") == [(None,)]
    store.clock.advance(3600)
    await tidy(store)
    assert rows() == [0, 0, 0]


async def test_processes_that_were_noted_as_a_job_ended_are_forgotten_and_those_that_wait_are_not(
    store: PostgresStore,
) -> None:
    await push(store, "a")
    await store.driver.change(GetStatus(["a"], "me"))
    store.rows("insert into redisjobs.waiters values (%s, 'gone', 'me', 0) returning id")
    store.clock.advance(3601)

    await tidy(store)

    assert store.rows("select id, at_ms from redisjobs.waiters where queue = %s") == [("a", store.clock())]


async def test_counters_are_folded_and_say_the_same(store: PostgresStore, one: Consumer) -> None:
    await push(store, *"abc")
    for lease in await claim(one):
        await settle(one, lease, Ack())
    for _ in range(2):
        before = await store.driver.read(Count())
        await tidy(store)
        assert await store.driver.read(Count()) == before
        assert store.rows("select * from redisjobs.deltas where queue = %s") == []
        await push(store, "d")


async def test_counters_are_exact_at_each_moment_while_several_fold_and_others_count(
    store: PostgresStore, other: Other
) -> None:
    store.rows(
        "insert into redisjobs.deltas select %s, 'old' || number %% 3, number"
        " from generate_series(1, 40000) number returning n"
    )
    counted = """select sum(n) from (table redisjobs.totals union all table redisjobs.deltas) each
        where queue = %s and name like 'old%%'"""
    other.transaction.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
    (exact,) = other.ask(counted)
    folding = list[bool]()

    def fold() -> None:
        with psycopg.connect(store.url, autocommit=True) as connection:
            statement = installed_as("select redisjobs_f._fold(%s), redisjobs_f._count(%s, 'new')").encode()
            while connection.execute(statement, (store.queue_name, store.queue_name)).fetchall()[0][0]:
                folding.append(True)

    async with anyio.create_task_group() as tasks:
        for _ in range(4):
            tasks.start_soon(anyio.to_thread.run_sync, fold)
        while store.rows("select name from redisjobs.deltas where queue = %s and name like 'old%%' limit 1"):
            assert store.rows(counted) == [exact]
            await anyio.lowlevel.checkpoint()

    assert other.ask(counted) == [exact]  # by the snapshot of before
    assert store.rows(counted) == [exact]
    assert (await store.driver.read(Count())).totals["new"] == len(folding) + 4


async def test_retention_is_kept_in_bounded_steps(store: PostgresStore) -> None:
    store.rows(
        "insert into redisjobs.jobs (seq, queue, id, rank, place, since_ms, kind)"
        " select nextval('redisjobs.line'), %s, number, 1, 'dead', %s, '' from generate_series(1, 1203) number"
        " returning id",
        store.clock(),
    )
    await store.driver.change(Retain(Retention(dead=Keep(count=3))))

    steps = await tidy(store)

    assert [step.trimmed for step in steps if step.trimmed] == [500, 500, 200]
    assert [row.job_id for row in await rows_of(store.driver, State.DEAD)] == ["1203", "1202", "1201"]


async def test_jobs_of_a_worker_that_the_queue_does_not_know_are_handed_back(
    store: PostgresStore, one: Consumer
) -> None:
    await push(store, "a")
    lost = store.consumer("lost")
    await lost.open()
    await claim_one(lost)
    for table in ("workers", "beats"):
        store.rows(f"delete from redisjobs.{table} where queue = %s and id = 'lost' returning id")

    await tidy(store)

    assert (await one.reclaim()).jobs == 1
    row = await store.driver.read(Find("a"))
    assert row is not None
    assert row.state is State.READY
    await lost.aclose()


async def test_the_beats_of_a_worker_that_the_queue_does_not_know_are_forgotten(
    store: PostgresStore, one: Consumer
) -> None:
    """Its row was deleted, and it ran no job, or its jobs were handed back since."""
    lost = store.consumer("lost")
    await lost.open()
    store.rows("delete from redisjobs.workers where queue = %s and id = 'lost' returning id")

    await tidy(store)
    await one.reclaim()

    assert store.rows("select id from redisjobs.beats where queue = %s") == [("w1",)]
    assert store.rows("select id from redisjobs.fenced where queue = %s") == []
    await lost.aclose()
