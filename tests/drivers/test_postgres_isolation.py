"""Transactions in Postgres that would not see what others committed while they waited for a lock."""

from contextlib import closing
from typing import Any

import psycopg
import pytest
from databases import Postgres
from postgres_store import Other, PostgresStore

from redisjobs import JobName, sync
from redisjobs.drivers.postgres import pushes, working
from redisjobs.drivers.postgres.calls import Call, change_call
from redisjobs.drivers.postgres.sync_connection import SyncConnection
from redisjobs.drivers.postgres.target import Target
from redisjobs.model.changes import Cancel, ChangeMany, DeleteAll, Hold, Pause, RequeueAll
from redisjobs.model.stored import Fire, PauseSchedule
from redisjobs.testing.driver_contract.acts import job

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
DEFAULT = "select setting, source from pg_settings where name = 'default_transaction_isolation'"


@pytest.mark.parametrize("what", CALLS)
def test_a_call_refuses_a_transaction_that_is_not_read_committed(
    postgres_store: PostgresStore, other: Other, what: str
) -> None:
    other.transaction.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ

    with pytest.raises(
        psycopg.errors.RaiseException, match=r"repeatable read.* Run: alter role .* set default_tr"
    ):
        other.run(CALLS[what])


@pytest.fixture
def repeatable(postgres: Postgres, database: str) -> str:
    """A database whose transactions are repeatable read unless they say otherwise."""
    name = database.rpartition("/")[2]
    postgres.run(f"alter database {name} set default_transaction_isolation = 'repeatable read'")
    return database


def test_a_session_with_another_default_is_set_to_read_committed(repeatable: str) -> None:
    with closing(SyncConnection(Target(repeatable))) as connection:
        assert connection.ask(DEFAULT.encode()) == [("read committed", "session")]


def test_a_session_with_the_right_default_is_left_as_it_is(database: str) -> None:
    with closing(SyncConnection(Target(database))) as connection:
        assert connection.ask(DEFAULT.encode()) == [("read committed", "default")]


def test_a_call_writes_in_a_session_with_other_defaults_and_leaves_them(database: str) -> None:
    with closing(SyncConnection(Target(database), "q")) as connection:
        connection.ask(b"set default_transaction_isolation = 'serializable'")
        connection.ask(b"set default_transaction_read_only = on")
        connection.run(CALLS["a plain push"])
        assert connection.ask(b"show default_transaction_isolation") == [("serializable",)]
        assert connection.ask(b"show default_transaction_read_only") == [("on",)]


@pytest.mark.parametrize("level", [psycopg.IsolationLevel.REPEATABLE_READ, psycopg.IsolationLevel.SERIALIZABLE])
def test_a_push_within_a_transaction_takes_any_isolation(database: str, level: psycopg.IsolationLevel) -> None:
    with sync.JobQueue(database, "sums") as queue, psycopg.connect(database) as connection:
        connection.isolation_level = level
        pushed = queue.push({"a": 1}, Add, within=connection, unique="key")
        connection.commit()
        assert pushed.added
        assert queue.get(pushed.id) is not None
