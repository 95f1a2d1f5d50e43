"""Waiting for results at a server that is away now and then, or refuses."""

from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest
from results import drain, listening, result, waited_for
from store import RedisStore

import redisjobs
import redisjobs.client.waiting
from redisjobs import JobQueue, Unavailable
from redisjobs.local import server
from redisjobs.model.changes import Ending, GetStatus
from redisjobs.model.transitions import After, NewJob

pytestmark = pytest.mark.anyio


@pytest.fixture
async def far(engine_store: RedisStore) -> AsyncIterator[JobQueue]:
    """A queue on each server at hand."""
    async with JobQueue(engine_store.driver, engine_store.queue_name) as queue:
        yield queue


def keeping(queue: JobQueue) -> Any:
    @queue.job(keep_result=60)
    async def add(a: int) -> int:
        return a + 1

    return add


async def test_large_results_come_some_at_a_time(far: JobQueue, engine_store: RedisStore) -> None:
    @far.job(keep_result=60)
    async def large(number: int) -> str:
        return f"{number}" * 500_000

    handles = await far.push_many([large.prepare(number) for number in range(9)])
    await drain(far)
    (standings, got) = (
        await engine_store.driver.change(GetStatus([handle.id for handle in handles])),
        dict[str, Any](),
    )
    assert {standing.ending for standing in standings} == {Ending.COMPLETED, Ending.LATER}

    async def wait(job_id: str) -> None:
        got[job_id] = await result(far.result(job_id))

    async with anyio.create_task_group() as tasks:
        for handle in handles:
            tasks.start_soon(wait, handle.id)
    assert [got[handle.id][:1] for handle in handles] == [*"012345678"]


@pytest.mark.parametrize("due", [None, After(60_000)])
async def test_jobs_that_are_large_are_asked_about_some_at_a_time(
    far: JobQueue, engine_store: RedisStore, due: After | None
) -> None:
    fields = ["name", "large", "parameters", "x" * 100_000, "keep_result", "60000"]
    jobs = [NewJob(f"{number}", fields, due=due) for number in range(40)]
    jobs.append(NewJob("larger", [*fields, "more", "x" * 1_500_000], due=due))
    await engine_store.driver.push(jobs, repeated=False)

    left, steps = [job.job_id for job in reversed(jobs)], list[int]()
    while left:
        standings = await engine_store.driver.change(GetStatus(left, "me"))
        assert {standing.ending for standing in standings} <= {Ending.PENDING, Ending.LATER}
        later = [each for each, standing in zip(left, standings, strict=True) if standing.ending is Ending.LATER]
        steps.append(len(left) - len(later))
        left = later

    assert steps == [1, 11, 11, 11, 7]  # about 1 MiB each, or one that is larger
    assert engine_store.admin.hlen(f"{engine_store.prefix}waiters") == 41


async def test_a_listening_connection_that_is_cut_is_made_again_and_nothing_is_missed(
    far: JobQueue, engine_store: RedisStore
) -> None:
    store, add = engine_store, keeping(far)
    handles = [await add.push(a) for a in range(20)]
    got: list[Any] = []

    async def wait(a: int) -> None:
        got.append(await result(handles[a].result()))

    async with anyio.create_task_group() as tasks:
        for a in range(20):
            tasks.start_soon(wait, a)
        await waited_for(store, *(handle.id for handle in handles))
        (connection,) = listening(store)
        store.admin.client_kill_filter(_id=connection["id"])
        await drain(far)
    assert sorted(got) == list(range(1, 21))


async def test_a_notification_that_was_lost_is_made_up_for_at_the_next_look(
    far: JobQueue, engine_store: RedisStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redisjobs.client.waiting, "_EVERY", 0.05)
    store, add = engine_store, keeping(far)
    handle = await add.push(1)
    got: list[Any] = []

    async def wait() -> None:
        got.append(await result(handle.result()))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait)
        await waited_for(store, handle.id)
        # As if the server had told it to a connection that was just gone.
        store.admin.hset(f"{store.prefix}waiters", handle.id, "another-process")
        await drain(far)
    assert got == [2]


async def test_a_server_that_was_restarted_is_asked_again(queue_name: str) -> None:
    with server.start() as own:
        async with JobQueue(own.url, queue_name) as queue:
            add = keeping(queue)
            handle = await add.push(1)
            got: list[Any] = []

            async def wait() -> None:
                got.append(await result(handle.result()))

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(wait)
                await queue.push_many([add.prepare(a) for a in range(5)])
                own.restart()
                await drain(queue)
            assert got == [2]


async def test_a_time_out_says_why_the_store_could_not_be_asked() -> None:
    async with JobQueue("redis://127.0.0.1:1") as queue:
        with pytest.raises(TimeoutError, match=r"job a has not ended in 0.5 s.* can't be asked at the moment: "):
            await queue.result("a", timeout=0.5)
        with pytest.raises(Unavailable):
            await queue.result("a", timeout=0)


async def test_a_user_who_may_not_listen_is_told_so(far: JobQueue, engine_store: RedisStore) -> None:
    store, add = engine_store, keeping(far)
    handle = await add.push(1)
    store.admin.execute_command("ACL", "SETUSER", store.user, "resetchannels")
    try:
        with pytest.raises(redisjobs.DriverError, match="ermission"), anyio.fail_after(20):
            await handle.result()
    finally:
        store.admin.execute_command("ACL", "SETUSER", store.user, "allchannels")
    with pytest.raises(TimeoutError):  # and begins again once it may
        await handle.result(timeout=0.05)


async def test_a_look_at_a_store_that_is_away_says_so_and_a_wait_waits() -> None:
    queue = JobQueue("redis://127.0.0.1:1/0")
    with pytest.raises(Unavailable, match="connecting to"):
        await queue.result("a", timeout=0)
    with pytest.raises(TimeoutError, match="can't be asked at the moment"):
        await queue.result("a", timeout=0.5)
    await queue.aclose()
