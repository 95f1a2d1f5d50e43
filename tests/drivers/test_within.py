"""Pushes within a transaction, on the connections of each library: written with it, gone with it, or refused."""

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import psycopg
import pytest
import sqlalchemy as sa
from psycopg.rows import dict_row
from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session, async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session, scoped_session, sessionmaker
from sqlalchemy.pool import NullPool

from redisjobs import EncodeError, JobName, JobQueue, Middleware, Priority, sync
from redisjobs.events.middleware import OutgoingJob

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

Add = JobName("Add", dict[str, Any])
NOWHERE = "redis://127.0.0.1:1/0"
"""Where no server is: a push within a transaction asks none."""


def of_psycopg(url: str) -> AbstractContextManager[Any]:
    return psycopg.connect(url, row_factory=dict_row)


@contextmanager
def of_sqlalchemy(url: str) -> Any:
    with engine(url).connect() as connection, connection.begin():
        yield connection


@contextmanager
def of_a_session(url: str) -> Any:
    with Session(engine(url)) as session, session.begin():
        yield session


@contextmanager
def of_a_scoped_session(url: str) -> Any:
    scoped = scoped_session(sessionmaker(engine(url)))
    with scoped.begin():
        yield scoped
    scoped.remove()


def engine(url: str, **options: Any) -> sa.Engine:
    return sa.create_engine(url.replace("postgresql:", "postgresql+psycopg:"), poolclass=NullPool, **options)


@asynccontextmanager
async def of_async_psycopg(url: str) -> AsyncIterator[Any]:
    async with await psycopg.AsyncConnection.connect(url) as connection:
        yield connection


@asynccontextmanager
async def of_asyncpg(url: str) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(url)
    await connection.set_type_codec("json", encoder=json.dumps, decoder=json.loads, schema="pg_catalog")
    try:
        async with connection.transaction():
            yield connection
    finally:
        await connection.close()


@asynccontextmanager
async def of_a_pool_of_asyncpg(url: str) -> AsyncIterator[Any]:
    pool = asyncpg.create_pool(url, min_size=1, max_size=1)
    async with pool, pool.acquire() as connection, connection.transaction():
        yield connection


def of_async_sqlalchemy(library: str) -> Callable[[str], AbstractAsyncContextManager[Any]]:
    @asynccontextmanager
    async def connect(url: str) -> AsyncIterator[Any]:
        made = create_async_engine(url.replace("postgresql:", f"postgresql+{library}:"), poolclass=NullPool)
        async with made.begin() as connection:
            yield connection

    return connect


def of_an_async_session(
    library: str, *, scoped: bool = False
) -> Callable[[str], AbstractAsyncContextManager[Any]]:
    @asynccontextmanager
    async def connect(url: str) -> AsyncIterator[Any]:
        made = create_async_engine(url.replace("postgresql:", f"postgresql+{library}:"), poolclass=NullPool)
        if scoped:
            registry = async_scoped_session(async_sessionmaker(made), asyncio.current_task)
            async with registry.begin():
                yield registry
            await registry.remove()
        else:
            async with AsyncSession(made) as session, session.begin():
                yield session

    return connect


SYNC = {
    "psycopg": of_psycopg,
    "sqlalchemy": of_sqlalchemy,
    "session": of_a_session,
    "scoped session": of_a_scoped_session,
}
ASYNC = {
    "psycopg": of_async_psycopg,
    "asyncpg": of_asyncpg,
    "pool": of_a_pool_of_asyncpg,
    "sqlalchemy, psycopg": of_async_sqlalchemy("psycopg"),
    "sqlalchemy, asyncpg": of_async_sqlalchemy("asyncpg"),
    "session, psycopg": of_an_async_session("psycopg"),
    "session, asyncpg": of_an_async_session("asyncpg"),
    "scoped session": of_an_async_session("asyncpg", scoped=True),
}


class Undone(Exception):
    """Raised to roll back."""


def rows(url: str, columns: str = "id") -> list[Any]:
    with psycopg.connect(url) as connection:
        found = connection.execute(f"SELECT {columns} FROM redisjobs.outbox ORDER BY seq".encode()).fetchall()
    return [row[0] if len(row) == 1 else row for row in found]


@pytest.mark.parametrize("library", SYNC)
def test_a_push_commits_with_the_transaction_and_is_gone_with_it(library: str, database: str) -> None:
    queue = sync.JobQueue(NOWHERE, "q")
    with SYNC[library](database) as connection:
        handle = queue.push({"a": 1}, Add, within=connection)
        assert rows(database) == []
    assert (handle.name, handle.added) == ("Add", None)

    with pytest.raises(Undone), SYNC[library](database) as connection:  # noqa: PT012
        queue.push_many([{"a": 2}, {"a": 3}], Add, within=connection)
        raise Undone

    assert rows(database) == [handle.id]


@pytest.mark.parametrize("library", ASYNC)
async def test_an_async_push_commits_with_the_transaction_and_is_gone_with_it(library: str, database: str) -> None:
    queue = JobQueue(NOWHERE, "q")
    async with ASYNC[library](database) as connection:
        first = await queue.push({"a": 1}, Add, within=connection)
        others = await queue.push_many([{"a": number} for number in range(1200)], Add, within=connection)
        assert rows(database) == []

    with pytest.raises(Undone):  # noqa: PT012
        async with ASYNC[library](database) as connection:
            await queue.push({"a": 2}, Add, within=connection)
            raise Undone

    assert rows(database) == [first.id, *(handle.id for handle in others)]


def test_a_push_within_a_savepoint_is_gone_with_the_savepoint(database: str) -> None:
    queue = sync.JobQueue(NOWHERE, "q")
    with psycopg.connect(database) as connection:
        with pytest.raises(Undone), connection.transaction():  # noqa: PT012
            queue.push({"a": 1}, Add, within=connection)
            raise Undone
        kept = queue.push({"a": 2}, Add, within=connection)

    assert rows(database) == [kept.id]


def test_a_row_has_what_the_push_says(database: str) -> None:
    at, queue = datetime.now(UTC) + timedelta(hours=1), sync.JobQueue(NOWHERE, "q")
    with psycopg.connect(database) as connection:
        queue.push({"ü": "\0\U0001f600"}, Add, within=connection)
        options: Any = {"priority": "low", "unique": "k", "unique_for": 5, "on_conflict": "replace", "replicas": 1}
        options |= {"headers": {"h": "ö"}, "expires_in": 9, "keep_result": 60}
        queue.push({}, Add, within=connection, job_id="mine", at=at, **options)
        queue.push({}, Add, within=connection, delay=60)

    plain, full, delayed = rows(database, "queue, nonce, name, parameters, options, due_at - pushed_at")
    assert plain == ("q", "", "Add", {"ü": "\0\U0001f600"}, {}, None)
    assert full[2:4] == ("Add", {})
    assert len(full[1]) == 16
    assert full[4] == {
        "priority": "low",
        "at_ms": -(-int(at.timestamp() * 1e6) // 1000),
        "unique": "k",
        "unique_for_ms": 5000,
        "expires_in_ms": 9000,
        "on_conflict": "replace",
        "replicas": 1,
        "fields": {"headers": '{"h":"ö"}', "keep_result": "60000"},
    }
    assert abs(delayed[5] - timedelta(seconds=60)) < timedelta(seconds=1)


def test_a_job_function_pushes_within_a_transaction(database: str) -> None:
    queue = sync.JobQueue(NOWHERE, "q")

    @queue.job
    def add(a: int, b: int = 2) -> int:
        return a + b

    with psycopg.connect(database) as connection:
        add.options(within=connection, priority=Priority.HIGH).push(1, b=5)
        with pytest.raises(TypeError, match="within= is for push"):
            add.options(within=connection).run(1)

    assert rows(database, "name, parameters, options") == [("add", {"a": 1, "b": 5}, {"priority": "high"})]


def test_defaults_validation_and_middleware_are_those_of_a_push(database: str) -> None:
    ended = list[tuple[bool, BaseException | None]]()

    class Marks(Middleware):
        def on_push(self, job: OutgoingJob) -> None:
            job.headers["mark"] = job.name
            job.when_pushed(lambda added, error: ended.append((added, error)))

    queue = sync.JobQueue(NOWHERE, "q", middleware=[Marks()])
    typed = JobName("Typed", dict[str, int])

    @queue.register(typed, unique=lambda given: f"key-{given['a']}")
    def handle(given: dict[str, int]) -> None:
        pass

    with psycopg.connect(database) as connection:
        with pytest.raises(EncodeError):
            queue.push({"a": "no number"}, typed, within=connection)
        queue.push({"a": 1}, typed, within=connection)

    (options,) = rows(database, "options")
    assert options == {"unique": "key-1", "fields": {"headers": '{"mark":"Typed"}'}}
    assert ended == [(True, None)]


def test_what_can_only_be_known_later_is_refused(database: str) -> None:
    queue = sync.JobQueue(NOWHERE, "q")
    with psycopg.connect(database) as connection:
        with pytest.raises(ValueError, match="known after the commit"):
            queue.push({}, Add, within=connection, unique="k", on_conflict="raise")
        with pytest.raises(EncodeError, match="U\\+0000"):
            queue.push({}, Add, within=connection, job_id="a\0b")
        with pytest.raises(TypeError, match="there is no push option within"):
            queue.run({}, Add, within=connection)  # type: ignore[call-overload]
    assert rows(database) == []


DJANGO = """
import sys, threading
from urllib.parse import urlsplit
from django.conf import settings

parts = urlsplit(sys.argv[1])
postgres = {"ENGINE": "django.db.backends.postgresql", "NAME": parts.path[1:], "USER": parts.username,
            "HOST": parts.hostname, "PORT": parts.port}
sqlite = {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}
settings.configure(DATABASES={"default": postgres, "other": sqlite})
import django
django.setup()
from django.db import connection, connections, transaction
from redisjobs import JobName
from redisjobs.errors import NoTransaction
from redisjobs.sync import JobQueue

queue, add = JobQueue("redis://127.0.0.1:1/0", "q"), JobName("Add", dict)

def refused(within, kind, why):
    try:
        queue.push({}, add, within=within)
    except kind as error:
        assert why in str(error), error
    else:
        raise AssertionError(why)

with transaction.atomic():
    queue.push({"a": 1}, add, within=connection)
with transaction.atomic():
    queue.push({"a": 2}, add, within=connections["default"])
    transaction.set_rollback(True)
    refused(connection, NoTransaction, "an aborted transaction")
refused(connection, NoTransaction, "in autocommit")
refused(connections["other"], TypeError, "to sqlite")
with transaction.atomic():
    mine = connections["default"]
    thread = threading.Thread(target=lambda: refused(mine, NoTransaction, "another thread"))
    thread.start()
    thread.join()
connection.set_autocommit(False)
queue.push({"a": 3}, add, within=connection)
connection.commit()
"""


def test_djangos_connection_is_one_too(database: str) -> None:
    pytest.importorskip("django")
    subprocess.run([sys.executable, "-c", DJANGO, database], check=True, cwd=Path(__file__).parents[2])

    assert rows(database, "parameters") == [{"a": 1}, {"a": 3}]
