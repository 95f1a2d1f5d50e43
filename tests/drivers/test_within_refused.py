"""Connections that a push within a transaction refuses: nothing is written, and the error says what to do."""

import asyncio
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import asyncpg
import psycopg
import pytest
import sqlalchemy as sa
from databases import Postgres
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool
from test_within import NOWHERE, Add, engine, rows

from redisjobs import JobQueue, sync
from redisjobs.errors import Forbidden, NoTransaction
from redisjobs.model.driver import OtherVersion

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


def test_a_connection_without_a_transaction_is_refused(database: str) -> None:
    queue = sync.JobQueue(NOWHERE, "q")

    def refused(connection: Any, why: str) -> None:
        with pytest.raises(NoTransaction, match=f"{why}.*Nothing was written"):
            queue.push({}, Add, within=connection)

    with psycopg.connect(database, autocommit=True) as connection:
        refused(connection, "in autocommit")
        with connection.transaction():
            queue.push({"a": 1}, Add, within=connection)
    refused(connection, "a closed connection")
    with psycopg.connect(database) as connection:
        with pytest.raises(psycopg.Error):
            connection.execute("SELECT 1 / 0")
        refused(connection, "an aborted transaction")
    with engine(database, isolation_level="AUTOCOMMIT").connect() as automatic:
        refused(automatic, "in autocommit")
    refused(automatic, "can't be used now")
    with engine(database).connect() as broken:
        with pytest.raises(sa.exc.DBAPIError):
            broken.execute(sa.text("SELECT 1 / 0"))
        refused(broken, "an aborted transaction")
    with Session(engine(database)) as session:
        with pytest.raises(sa.exc.DBAPIError), session.begin_nested():
            session.execute(sa.text("SELECT 1 / 0"))
        session.execute(sa.text("SELECT 1"))
        with pytest.raises(sa.exc.DBAPIError):
            session.execute(sa.text("SELECT 1 / 0"))
        refused(session, "an aborted transaction")

    assert len(rows(database)) == 1


async def test_an_async_connection_without_a_transaction_is_refused(database: str) -> None:
    queue = JobQueue(NOWHERE, "q")

    async def refused(connection: Any, why: str) -> None:
        with pytest.raises(NoTransaction, match=f"{why}.*Nothing was written"):
            await queue.push({}, Add, within=connection)

    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as automatic:
        await refused(automatic, "in autocommit")
    await refused(automatic, "a closed connection")
    connection = await asyncpg.connect(database)
    await refused(connection, "in autocommit")
    with pytest.raises(asyncpg.PostgresError):  # noqa: PT012
        async with connection.transaction():
            with pytest.raises(asyncpg.PostgresError):
                await connection.execute("SELECT 1 / 0")
            await refused(connection, "an aborted transaction")
            await connection.execute("SELECT 1")
    other = threading.Thread(target=lambda: errors.append(pushed_elsewhere(connection)))
    errors = list[BaseException | None]()
    other.start()
    await asyncio.to_thread(other.join)
    assert isinstance(errors[0], NoTransaction)
    assert "another event loop" in str(errors[0])
    await connection.close()
    await refused(connection, "a closed connection")
    url = database.replace("postgresql:", "postgresql+asyncpg:")
    automatic_engine = create_async_engine(url, isolation_level="AUTOCOMMIT", poolclass=NullPool)
    async with automatic_engine.connect() as raw:
        await refused(raw, "in autocommit")
    assert rows(database) == []


def pushed_elsewhere(connection: Any) -> BaseException | None:
    """The error of a push in another event loop."""
    try:
        asyncio.run(JobQueue(NOWHERE, "q").push({}, Add, within=connection))
    except NoTransaction as error:
        return error
    return None


def test_a_connection_that_runs_another_statement_is_refused(database: str) -> None:
    queue = sync.JobQueue(NOWHERE, "q")
    with psycopg.connect(database) as connection:
        connection.execute("SELECT 1")
        connection.pgconn.send_query(b"SELECT pg_sleep(0.2)")
        with pytest.raises(NoTransaction, match="runs another statement"):
            queue.push({}, Add, within=connection)
        connection.close()


def test_a_pipeline_is_no_other_statement(database: str) -> None:
    queue = sync.JobQueue(NOWHERE, "q")
    with psycopg.connect(database) as connection, connection.pipeline():
        connection.execute("SELECT 1")
        handle = queue.push({}, Add, within=connection)
    assert rows(database) == [handle.id]


async def test_a_foreign_object_and_the_wrong_side_are_refused(database: str) -> None:
    queue, other = sync.JobQueue(NOWHERE, "q"), JobQueue(NOWHERE, "q")
    with psycopg.connect(database) as connection:
        with pytest.raises(TypeError, match="an async queue needs an async connection"):
            await other.push({}, Add, within=connection)
        with pytest.raises(TypeError, match="give its connection"):
            queue.push({}, Add, within=connection.cursor())
    async with await psycopg.AsyncConnection.connect(database) as async_connection:
        with pytest.raises(TypeError, match="a sync queue needs a sync connection"):
            queue.push({}, Add, within=async_connection)
    for foreign in (object(), "postgresql://", 7):
        with pytest.raises(TypeError, match="is not a connection of psycopg or asyncpg"):
            queue.push({}, Add, within=foreign)
    with pytest.raises(TypeError, match="that opens other connections"):
        queue.push({}, Add, within=engine(database))
    of_sqlite = sa.create_engine("sqlite://")
    with of_sqlite.begin() as sqlite, pytest.raises(TypeError, match="to sqlite: the outbox is in"):
        queue.push({}, Add, within=sqlite)
    of_sqlite.dispose()


def test_a_database_without_an_outbox_asks_for_the_migration(postgres: Postgres) -> None:
    queue = sync.JobQueue(NOWHERE, "q")
    with postgres.database(migrated=False) as url, psycopg.connect(url) as connection:  # noqa: SIM117
        with pytest.raises(OtherVersion, match="run `redisjobs migrate --database URL`"):
            queue.push({}, Add, within=connection)


def test_a_role_needs_no_more_than_to_insert(postgres: Postgres, database: str) -> None:
    role = f"producer_{database.rpartition('_')[2]}"
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(f"CREATE ROLE {role} LOGIN".encode())
    url = postgres.url_of(database.rpartition("/")[2], role)
    queue = sync.JobQueue(NOWHERE, "q")
    try:
        with psycopg.connect(url) as producer, pytest.raises(Forbidden, match=r"redisjobs\.allow"):
            queue.push({}, Add, within=producer)
        with psycopg.connect(database, autocommit=True) as connection:
            connection.execute(f"SELECT redisjobs.allow('{role}', 'outbox')".encode())
        with psycopg.connect(url) as producer:
            queue.push({}, Add, within=producer)
    finally:
        with psycopg.connect(database, autocommit=True) as connection:
            connection.execute(f"DROP OWNED BY {role}; DROP ROLE {role}".encode())
    assert len(rows(database)) == 1


def test_an_error_of_the_database_stays_the_librarys(database: str) -> None:
    with psycopg.connect(database) as connection:
        connection.execute("SET TRANSACTION READ ONLY")
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            sync.JobQueue(NOWHERE, "q").push({}, Add, within=connection)


def test_a_producer_loads_no_client_of_redis(database: str) -> None:
    code = f"""
import sys, psycopg
from redisjobs import JobName
from redisjobs.sync import JobQueue
with psycopg.connect({database!r}) as connection:
    JobQueue("memory://").push({{}}, JobName("n", dict[str, int]), within=connection)
needless = {{"redis", "redisjobs.control.relay", "redisjobs.events.kinds", "sqlalchemy", "asyncpg"}}
assert not needless & sys.modules.keys()
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
