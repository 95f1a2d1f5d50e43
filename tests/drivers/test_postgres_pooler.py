"""A queue works through a real PgBouncer in transaction mode; only notifications don't come, which is said."""

import logging
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import DEVNULL, Popen
from urllib.parse import urlsplit, urlunsplit

import anyio
import psycopg
import pytest
from databases import Postgres
from store import eventually

from redisjobs import JobContext, JobName, JobQueue, Worker, sync
from redisjobs.control.relay.relay import Relayer
from redisjobs.local.server import free_port

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.release,
    pytest.mark.skipif(not shutil.which("pgbouncer"), reason="apt-get install pgbouncer"),
]

Double = JobName("Double", dict[str, int])


@contextmanager
def pgbouncer(url: str, statements: int, sessions: int = 3) -> Iterator[str]:
    """Run PgBouncer, which keeps this many prepared statements; the URL of the database through it."""
    parts, port = urlsplit(url), free_port()
    with tempfile.TemporaryDirectory() as folder:
        settings = Path(folder) / "pgbouncer.ini"
        settings.write_text(
            f"[databases]\n* = host={parts.hostname} port={parts.port} user={parts.username}\n"
            f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = any\n"
            f"pool_mode = transaction\ndefault_pool_size = {sessions}\nmax_prepared_statements = {statements}\n"
        )
        Path(folder).chmod(0o755)
        user = 65534 if os.geteuid() == 0 else None  # it refuses to be root
        process = Popen(["pgbouncer", "--quiet", settings], stderr=DEVNULL, user=user)
        try:
            yield urlunsplit(parts._replace(netloc=f"{parts.username}@127.0.0.1:{port}"))
        finally:
            process.kill()  # else it waits for its clients
            process.wait()


def is_open(url: str) -> bool:
    parts = urlsplit(url)
    with socket.socket() as tried:
        return tried.connect_ex((parts.hostname, parts.port)) == 0


@pytest.fixture(params=[0, 200], ids=["no prepared statements", "prepared statements"])
def pooled(request: pytest.FixtureRequest, database: str) -> Iterator[str]:
    with pgbouncer(database, request.param) as url:
        yield url


def doubling(url: str) -> JobQueue:
    queue = JobQueue(url, "numbers")

    @queue.register(Double, keep_result=60)
    async def double(parameters: dict[str, int], context: JobContext) -> int:
        return 2 * parameters["number"]

    return queue


async def test_a_queue_works_through_a_pooler_in_transaction_mode(
    pooled: str, caplog: pytest.LogCaptureFixture
) -> None:
    await eventually(lambda: is_open(pooled))
    queue = doubling(pooled)
    async with queue, anyio.create_task_group() as tasks:
        pushed = await queue.push_many([{"number": number} for number in range(300)], Double)
        later = await queue.push({"number": 1000}, Double, delay=0.5)
        worker = Worker(queue, concurrency=20)
        tasks.start_soon(worker.run)
        with anyio.fail_after(30):
            assert [await queue.result(each) for each in pushed] == [2 * number for number in range(300)]
            assert await queue.result(later) == 2000
            with sync.JobQueue(pooled, "numbers") as producer:
                alone = await anyio.to_thread.run_sync(lambda: producer.push({"number": 7}, Double))
            assert await queue.result(alone) == 14
            async with await psycopg.AsyncConnection.connect(pooled, prepare_threshold=None) as connection:
                within = await queue.push({"number": 8}, Double, within=connection)
            assert await queue.result(within) == 16
        counts = await queue.control.counts()
        worker.stop()
    assert (counts.running, counts.totals["completed"]) == (0, 303)
    said = [each.getMessage() for each in caplog.records if each.levelno >= logging.WARNING]
    assert [each for each in said if "notifications of" in each and "don't come" in each]
    assert len(said) == len({*said})


LEFT = """
    select 'setting', name, setting from pg_settings where source = 'session'
      and name !~ '^transaction_' and name <> 'application_name'  -- of this transaction, and by the pooler
    union all select 'channel', channel, '' from pg_listening_channels() channel
    union all select 'statement', name, '' from pg_prepared_statements
    union all select 'lock', objid::text, '' from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()
"""
OTHERS = "select pid from pg_locks where locktype = 'advisory' and pid <> pg_backend_pid()"


async def test_nothing_stays_in_a_session_that_the_application_has_too(postgres: Postgres, database: str) -> None:
    with psycopg.connect(database) as connection:
        connection.execute("create table public.on_call as values (1, true), (2, true)")
    name = database.rpartition("/")[2]
    postgres.run(f"alter database {name} set default_transaction_isolation = 'serializable'")
    with pgbouncer(database, 200, sessions=2) as url:
        await eventually(lambda: is_open(url))
        queue = doubling(url)
        async with queue:
            for number in range(20):  # often enough to prepare
                await queue.push({"number": number}, Double)
            await Worker(queue).run(until_idle=True)
            with anyio.move_on_after(1):  # listens
                await queue.result((await queue.push({"number": 1}, Double)).id)
        relay = Relayer(queue, url)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(relay.run)
            await anyio.sleep(0.2)
            relay.stop()
        one, two = (psycopg.connect(url, prepare_threshold=None) for _ in range(2))  # each session, at once
        with one, two:
            for each in (one, two):
                assert each.execute(LEFT).fetchall() == []
                assert each.execute("select count(*) from public.on_call where column2").fetchone() == (2,)
            one.execute("update public.on_call set column2 = false where column1 = 1")
            two.execute("update public.on_call set column2 = false where column1 = 2")
            one.commit()
            with pytest.raises(psycopg.errors.SerializationFailure):
                two.commit()
            assert one.execute(OTHERS).fetchall() == []
