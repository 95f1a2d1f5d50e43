"""Pushes within a transaction of the database that the queue is in: the job is there once it commits, or never."""

from contextlib import suppress
from typing import Any

import anyio
import asyncpg
import psycopg
import pytest
from databases import Postgres
from results import drain
from test_within import ASYNC, SYNC, Add, Undone

import redisjobs.sync
from redisjobs import JobContext, JobName, JobQueue, State, UniqueConflict, Worker
from redisjobs.errors import NoTransaction
from redisjobs.model.driver import Unsupported

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

COUNT = b"SELECT count(*) FROM redisjobs.jobs"


def jobs_in(url: str) -> int:
    with psycopg.connect(url) as connection:
        (row,) = connection.execute(COUNT).fetchall()
    return int(row[0])


@pytest.mark.parametrize("library", ASYNC)
async def test_a_job_is_there_once_the_transaction_commits_and_not_if_it_is_rolled_back(
    library: str, database: str
) -> None:
    async with JobQueue(database, "sums") as queue:
        with suppress(Undone):
            async with ASYNC[library](database) as connection:
                await queue.push({"a": 1}, Add, within=connection)
                raise Undone
        assert jobs_in(database) == 0

        async with ASYNC[library](database) as connection:
            handle = await queue.push({"a": 1}, Add, within=connection, delay=60)
            assert handle.added
            assert await queue.get(handle.id) is None
        found = await queue.get(handle.id)
    assert found is not None
    assert found.parameters == '{"a":1}'


@pytest.mark.parametrize("library", SYNC)
def test_a_sync_push_is_there_once_the_transaction_commits(library: str, database: str) -> None:
    with redisjobs.sync.JobQueue(database, "sums") as queue:
        with suppress(Undone), SYNC[library](database) as connection:
            queue.push({"a": 1}, Add, within=connection)
            raise Undone
        with SYNC[library](database) as connection:
            handles = queue.push_many([{"a": number} for number in range(1_200)], Add, within=connection)
        assert len({handle.id for handle in handles}) == 1_200
        assert all(handle.added for handle in handles)
        assert jobs_in(database) == 1_200


@pytest.mark.parametrize("is_async", [True, False])
async def test_the_first_push_within_a_transaction_goes_on_though_the_queues_own_session_was_ended(
    database: str, is_async: bool
) -> None:
    name = f"{database}?application_name=producer"
    async with JobQueue(name, "sums") as queue, await psycopg.AsyncConnection.connect(database) as connection:
        with redisjobs.sync.JobQueue(name, "sums") as sync_queue, psycopg.connect(database) as sync_connection:
            await queue.control.counts()
            sync_queue.control.counts()
            ended = await connection.execute(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name = 'producer'"
            )
            assert await ended.fetchall() == [(True,), (True,)]
            if is_async:
                assert (await queue.push({"a": 1}, Add, within=connection)).added
            else:
                assert sync_queue.push({"a": 1}, Add, within=sync_connection).added


async def test_the_push_says_at_once_what_it_met(database: str) -> None:
    async with (
        JobQueue(database, "sums") as queue,
        await psycopg.AsyncConnection.connect(database) as connection,
    ):
        first = await queue.push({"a": 1}, Add, job_id="mine", unique="k", within=connection)
        again = await queue.push({"a": 2}, Add, job_id="mine", within=connection)
        other = await queue.push({"a": 3}, Add, unique="k", within=connection)
        with pytest.raises(UniqueConflict):
            await queue.push({"a": 4}, Add, unique="k", on_conflict="raise", within=connection)
    assert (first.added, again.added) == (True, False)
    assert (other.added, other.is_other, other.id) == (False, True, "mine")
    assert jobs_in(database) == 1


async def test_a_waiting_worker_is_notified_when_the_transaction_commits(database: str) -> None:
    queue, ran = JobQueue(database, "sums"), anyio.Event()

    @queue.register(Add)
    async def add(parameters: dict[str, Any], context: JobContext) -> None:
        ran.set()

    async with queue, anyio.create_task_group() as tasks:
        tasks.start_soon(Worker(queue).run)
        async with await psycopg.AsyncConnection.connect(database) as connection:
            await queue.push({"a": 1}, Add, within=connection)
        with anyio.fail_after(10):
            await ran.wait()
        tasks.cancel_scope.cancel()


async def test_a_transaction_of_another_database_is_refused(postgres: Postgres, database: str) -> None:
    with postgres.database() as other:
        async with (
            JobQueue(database, "sums") as queue,
            await psycopg.AsyncConnection.connect(other) as connection,
        ):
            with pytest.raises(NoTransaction, match="another database"):
                await queue.push({"a": 1}, Add, within=connection)
        assert jobs_in(other) == 0


async def test_a_push_that_is_to_wait_for_replicas_is_refused(database: str) -> None:
    async with JobQueue(database, "sums") as queue:
        with pytest.raises(Unsupported, match="synchronous_standby_names"):
            await queue.push({"a": 1}, Add, replicas=1)
    assert jobs_in(database) == 0


@pytest.mark.parametrize("library", ASYNC)
async def test_a_wait_in_a_transaction_that_the_run_has_pushed_in_is_an_error(library: str, database: str) -> None:
    queue, said = JobQueue(database, "sums"), list[str]()

    @queue.register(Add)
    async def add(parameters: dict[str, Any], context: JobContext) -> None:
        async with ASYNC[library](database) as connection:
            await queue.push({}, JobName("Later", dict[str, Any]), within=connection, delay=60)
            for wait in (context.sleep(60), context.wait_for("paid"), context.run(queue.prepare({"a": 1}, Add))):
                with pytest.raises(RuntimeError, match="commit before the wait") as refused:
                    await wait
                said.append(str(refused.value))
        await context.wait_for("paid")
        said.append("after it")

    async with queue:
        job = await queue.push({}, Add)
        await drain(queue)
        await queue.signal(job, "paid", None)
        await drain(queue)
    assert said[-1] == "after it"
    assert [line.split("'")[1] for line in said[3:6]] == ["sleep", "paid", "Add"]
    assert jobs_in(database) == 2


@pytest.mark.parametrize("library", SYNC)
async def test_a_sync_wait_in_a_transaction_that_the_run_has_pushed_in_is_an_error(
    library: str, database: str
) -> None:
    queue, pusher = JobQueue(database, "sums"), redisjobs.sync.JobQueue(database, "sums")

    @queue.register(Add)
    def add(parameters: dict[str, Any], context: redisjobs.sync.JobContext) -> None:
        with SYNC[library](database) as connection:
            pusher.push({}, JobName("Later", dict[str, Any]), within=connection, delay=60)
            with pytest.raises(RuntimeError, match="commit before the wait"):
                context.sleep(60)
        context.sleep(60)

    with pusher:
        async with queue:
            job = await queue.push({}, Add)
            await drain(queue)
            found = await queue.get(job.id)
    assert found is not None
    assert found.state is State.SUSPENDED


async def test_a_wait_after_a_connection_went_back_to_its_pool_is_no_error(database: str) -> None:
    queue = JobQueue(database, "sums")

    @queue.register(Add)
    async def add(parameters: dict[str, Any], context: JobContext) -> None:
        async with asyncpg.create_pool(database, min_size=1, max_size=1) as pool:
            async with pool.acquire() as connection, connection.transaction():
                await queue.push({}, JobName("Later", dict[str, Any]), within=connection, delay=60)
            async with pool.acquire() as connection, connection.transaction():
                await context.sleep(60)

    async with queue:
        job = await queue.push({}, Add)
        await drain(queue)
        found = await queue.get(job.id)
    assert found is not None
    assert found.state is State.SUSPENDED
