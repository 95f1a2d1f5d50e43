"""While an application's transaction stays open, only pushes of the keys and ids that it has taken wait for it."""

import logging
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import anyio
import psycopg
import pytest
from store import eventually

import redisjobs.sync
from redisjobs import JobContext, JobName, JobQueue, Worker, no_retry
from redisjobs.drivers.postgres.calls import change_call
from redisjobs.drivers.postgres.functions import installed_as
from redisjobs.events import JobsCompleted
from redisjobs.model.changes import Cancel, Delete, Requeue
from redisjobs.model.transitions import Reply

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

Add = JobName("Add", dict[str, Any])
Told = JobName("Told", dict[str, Any])
TAKEN = [f"taken-{number}" for number in range(20)]  # more than a process has connections


@pytest.fixture(params=["unique", "job_id"])
def kind(request: pytest.FixtureRequest) -> str:
    """What the open transaction has taken."""
    return str(request.param)


@pytest.fixture
async def application(database: str, kind: str) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
    """A transaction that has pushed jobs, and stays open."""
    async with JobQueue(database, "sums") as queue, await psycopg.AsyncConnection.connect(database) as connection:
        for taken in TAKEN:
            await queue.push({}, Told, within=connection, delay=3600, **{kind: taken})  # type: ignore[call-overload]
        yield connection


@pytest.mark.parametrize("how", ["a follow-up", "a child"])
async def test_a_worker_goes_on_and_settles_what_waits_for_an_open_transaction_once_that_has_ended(
    database: str, application: psycopg.AsyncConnection[Any], kind: str, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    queue, ran, parent, done = JobQueue(database, "sums"), anyio.Event(), anyio.Event(), set[str]()
    queue.events.subscribe(JobsCompleted, lambda event: done.update(job.name for job in event.jobs))
    caplog.set_level(logging.WARNING, "redisjobs.worker")

    @queue.job
    async def pushes(context: JobContext) -> None:
        parent.set()
        child = queue.prepare({}, Told, **{kind: TAKEN[0]})  # type: ignore[call-overload]
        if how == "a follow-up":
            context.push(child)
        else:
            await context.run(child)

    @queue.job
    async def plain(number: int) -> None:
        if number == 99:
            ran.set()

    @queue.register(Told)
    async def told(parameters: dict[str, Any], context: JobContext) -> None: ...

    async with queue, anyio.create_task_group() as tasks:
        tasks.start_soon(Worker(queue, concurrency=1 if how == "a follow-up" else 4).run)
        handle = await pushes.push()
        await parent.wait()
        with anyio.fail_after(10):
            for number in range(100):
                await plain.push(number)
            await ran.wait()
        assert await handle.info()  # it is held
        await application.rollback()
        await eventually(lambda: "pushes" in done)
        tasks.cancel_scope.cancel()
    (line,) = [record.getMessage() for record in caplog.records if "not committed" in record.getMessage()]
    assert handle.id in line
    assert TAKEN[0] in line


async def test_pushes_in_one_event_loop_go_on_beside_those_that_wait_for_an_open_transaction(
    database: str, application: psycopg.AsyncConnection[Any], kind: str
) -> None:
    answers: list[bool | None] = []
    async with JobQueue(database, "sums") as queue, anyio.create_task_group() as tasks:

        async def push(taken: str) -> None:
            handle = await queue.push({}, Told, **{kind: taken})  # type: ignore[call-overload]
            answers.append(handle.added)

        for taken in TAKEN:
            tasks.start_soon(push, taken)
        await anyio.wait_all_tasks_blocked()
        with anyio.fail_after(5):
            for number in range(30):
                assert (await queue.push({"a": number}, Add)).added
                assert (await queue.push({}, Told, **{kind: f"free-{number}"})).added  # type: ignore[call-overload]
        many = [queue.prepare({}, Told, **{kind: f"{number}"}) for number in range(200)]  # type: ignore[call-overload]
        with anyio.fail_after(5):
            assert len(await queue.push_many(many)) == 200
        assert answers == []
        await application.commit()
    assert answers == [False] * len(TAKEN)


def test_pushes_in_threads_go_on_beside_those_that_wait_for_an_open_transaction(database: str, kind: str) -> None:
    with (
        redisjobs.sync.JobQueue(database, "sums") as queue,
        psycopg.connect(database) as application,
        ThreadPoolExecutor(len(TAKEN)) as threads,
    ):
        for taken in TAKEN:
            queue.push({}, Told, within=application, delay=3600, **{kind: taken})  # type: ignore[call-overload]
        waiting = [threads.submit(partial(queue.push, {}, Told, **{kind: taken})) for taken in TAKEN]
        for number in range(30):
            assert queue.push({"a": number}, Add).added
            assert queue.push({}, Told, **{kind: f"free-{number}"}).added  # type: ignore[call-overload]
        assert not any(push.done() for push in waiting)
        application.rollback()
        assert [push.result(10).added for push in waiting] == [True] * len(TAKEN)


async def test_changes_of_many_jobs_leave_those_that_an_open_transaction_replaces(database: str) -> None:
    async with JobQueue(database, "sums") as queue, await psycopg.AsyncConnection.connect(database) as connection:
        for number in range(100):
            await queue.push({}, Told, job_id=f"job-{number}", unique=f"key-{number}", delay=3600)
        for number in range(80):
            unique = f"key-{number}"
            await queue.push({}, Told, within=connection, unique=unique, delay=7200, on_conflict="replace")

        assert await queue.control.hold_all("delayed") == 20
        assert await queue.control.cancel_all("delayed") == 20

        await connection.commit()
        assert await queue.control.cancel_all("delayed") == 80


@pytest.mark.parametrize(
    ("change", "answer"),
    [(Cancel("waits"), Reply.CANCELLED), (Delete("dead"), Reply.OK), (Requeue("dead"), Reply.OK)],
)
async def test_a_change_that_is_repeated_while_the_first_call_is_open_gets_the_answer_of_that(
    database: str, change: Cancel | Delete | Requeue, answer: Reply
) -> None:
    async with JobQueue(database, "sums") as queue, await psycopg.AsyncConnection.connect(database) as first:
        await queue.push({}, Told, job_id="waits", delay=3600)
        queue.register(Add, retry=no_retry())(fails)
        await queue.push({}, Add, job_id="dead")
        await Worker(queue).run(until_idle=True)
        call = change_call(change)
        statement = installed_as(
            "select redisjobs_f._change(%s, convert_from(%s, 'utf8')::jsonb, redisjobs_f._now(null))"
        ).encode()
        ((word,),) = await (await first.execute(statement, ("sums", call.arguments[0]))).fetchall()
        assert word == str(answer)
        async with anyio.create_task_group() as tasks, await psycopg.AsyncConnection.connect(database) as admin:
            answers = list[Reply]()

            async def repeat() -> None:
                answers.append(await queue.driver.change(change))

            tasks.start_soon(repeat)
            await admin.set_autocommit(True)
            waiting = (
                "select count(*) from pg_stat_activity"
                " where wait_event_type = 'Lock' and datname = current_database()"
            )
            with anyio.fail_after(10):
                while await (await admin.execute(waiting)).fetchone() != (1,):
                    await anyio.lowlevel.checkpoint()
            await first.commit()
        assert answers == [answer]


async def fails(parameters: dict[str, Any]) -> None:
    raise RuntimeError("as it should")
