"""Transactions in Postgres that would not see what others committed while they waited for a lock."""

from inspect import isawaitable
from typing import Any

import anyio
import psycopg
import pytest
from databases import Postgres
from postgres_store import Other, PostgresStore

from redisjobs import JobName, JobQueue, Worker, sync
from redisjobs.drivers.postgres import pushes, working
from redisjobs.drivers.postgres.calls import Call, change_call
from redisjobs.drivers.postgres.connection import Connection
from redisjobs.drivers.postgres.sync_connection import SyncConnection
from redisjobs.drivers.postgres.target import Target
from redisjobs.errors import DriverError
from redisjobs.model.changes import Cancel, ChangeMany, DeleteAll, Hold, Pause, RequeueAll
from redisjobs.model.stored import Fire, PauseSchedule
from redisjobs_proof.contract.acts import job

pytestmark = [pytest.mark.slow, pytest.mark.anyio]

Add = JobName("Add", dict[str, int])
LATE = 10**15  # never too late
CALLS: dict[str, Call[Any]] = {
    "a plain push": pushes.push([job("x")], repeated=False, sent_ms=LATE),
    "a push with a key": pushes.push([job("x", unique="k")], repeated=False, sent_ms=LATE),
    "an exchange": working.exchange(working.Floors(), "w1", None, [], 1, 3, idle=False, now=0),
    "a join": working.join("w2", 15_000, "run"),
    "a beat": working.beat([("q", "w1", {})]),
    "a pause": change_call(Pause()),
    "a hold": change_call(Hold("a")),
    "a cancel": change_call(Cancel("a")),
    "several cancels": change_call(ChangeMany([Cancel("a")])),
    "a requeue of all": change_call(RequeueAll(after="0 0")),
    "a deletion of all": change_call(DeleteAll(after="0 0")),
    "a pause of a schedule": change_call(PauseSchedule("report", True)),
    "a firing": change_call(Fire("s", [])),
}


@pytest.mark.parametrize("what", CALLS)
def test_a_call_refuses_a_transaction_that_is_not_read_committed(
    postgres_store: PostgresStore, other: Other, what: str
) -> None:
    other.transaction.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ

    with pytest.raises(psycopg.Error, match=r"begun as repeatable read.*nothing was written") as raised:
        other.run(CALLS[what])
    assert raised.value.sqlstate == "25004"


async def test_a_queue_works_where_transactions_have_another_isolation_and_changes_no_session(
    postgres: Postgres, database: str
) -> None:
    name = database.rpartition("/")[2]
    postgres.run(f"alter database {name} set default_transaction_isolation = 'serializable'")
    async with JobQueue(database, "sums") as queue:
        queue.register(Add)(lambda parameters, context: None)
        await queue.push_many([{"a": number} for number in range(50)], Add)
        with sync.JobQueue(database, "sums") as producer:
            await anyio.to_thread.run_sync(lambda: producer.push({"a": 50}, Add))
        await Worker(queue).run(until_idle=True)
        assert (await queue.control.counts()).totals["completed"] == 51
        connections = queue.driver._loop().connections.all  # type: ignore[attr-defined]
        assert [await each.ask(SET) for each in connections] == [[]] * len(connections)


SET = b"select name, setting from pg_settings where source = 'session' and name !~ '^transaction_'"


@pytest.mark.parametrize("kind", [Connection, SyncConnection])
async def test_a_session_that_another_application_has_changed_takes_calls_and_stays_as_it_was(
    database: str, kind: type[Connection | SyncConnection]
) -> None:
    link = kind(Target(database), "q")
    await _of(link.ask(b"set default_transaction_isolation = 'serializable'"))

    assert await _of(link.run(CALLS["a plain push"]))
    with pytest.raises(DriverError, match="division by zero"):
        await _of(link.ask(b"select 1 / 0"))
    assert await _of(link.run(CALLS["a push with a key"]))
    assert await _of(link.ask(b"show default_transaction_isolation")) == [("serializable",)]

    link._drop()


async def _of(answer: Any) -> Any:
    return await answer if isawaitable(answer) else answer


@pytest.mark.parametrize("level", [psycopg.IsolationLevel.REPEATABLE_READ, psycopg.IsolationLevel.SERIALIZABLE])
def test_a_push_within_a_transaction_takes_any_isolation(database: str, level: psycopg.IsolationLevel) -> None:
    with sync.JobQueue(database, "sums") as queue, psycopg.connect(database) as connection:
        connection.isolation_level = level
        pushed = queue.push({"a": 1}, Add, within=connection, unique="key")
        connection.commit()
        assert pushed.added
        assert queue.get(pushed.id) is not None
