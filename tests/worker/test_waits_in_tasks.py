"""Steps and waits of async handlers in tasks, cancel scopes, `finally` and `async with`."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from each_setting import store as store
from flows import saved
from results import drain
from store import Store

from redisjobs import JobContext, JobQueue, State, no_retry
from redisjobs.errors import JobSuspended
from redisjobs.model.steps import MOST_STEPS

pytestmark = pytest.mark.anyio

HOUR = 3600.0
Run = Callable[..., Any]


@pytest.fixture
def on_asyncio(setting: str) -> None:
    if not setting.endswith("asyncio"):
        pytest.skip("asyncio's own")


async def state_of(queue: JobQueue, job_id: str) -> State | None:
    info = await queue.get(job_id)
    return None if info is None else info.state


async def test_finally_and_async_with_run_as_a_wait_ends_the_run(queue: JobQueue, store: Store) -> None:
    seen = list[str]()

    @asynccontextmanager
    async def connection() -> AsyncIterator[None]:
        seen.append("opened")
        try:
            yield
        finally:
            await anyio.lowlevel.checkpoint()
            seen.append("closed")

    @queue.job
    async def work(context: JobContext) -> None:
        async with connection():
            try:
                await context.sleep(HOUR)
                seen.append("awake")
            finally:
                await anyio.lowlevel.checkpoint()
                seen.append("finally")

    await work.push()
    await drain(queue)
    assert seen == ["opened", "finally", "closed"]

    store.clock.ahead += HOUR + 1
    await drain(queue)
    assert seen[3:] == ["opened", "awake", "finally", "closed"]


@pytest.mark.usefixtures("on_asyncio")
async def test_waits_that_are_gathered_are_waited_for_one_after_another(queue: JobQueue) -> None:
    got = list[Any]()

    @queue.job
    async def work(context: JobContext) -> None:
        got.append(await asyncio.gather(context.wait_for("a"), context.step("charge", str), context.wait_for("b")))

    job = await work.push()
    await drain(queue)
    await queue.signal(job, "b", 2)
    await drain(queue)
    assert await state_of(queue, job.id) is State.SUSPENDED

    await queue.signal(job, "a", 1)
    await drain(queue)
    assert got == [[1, "", 2]]
    assert (await queue.control.counts()).totals["retried"] == 0


async def test_a_wait_in_a_task_group_suspends_the_job_and_cancels_the_other_tasks(
    queue: JobQueue, store: Store
) -> None:
    seen, groups, begun = list[str](), list[BaseException](), anyio.Event()

    async def slow() -> str:
        begun.set()
        try:
            await anyio.sleep(0 if "slow" in seen else 60)
        except anyio.get_cancelled_exc_class():
            seen.append("slow")
            raise
        return "slow"

    @queue.job
    async def work(context: JobContext) -> None:
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(context.step, "slow", slow)
                await begun.wait()
                tasks.start_soon(context.sleep, HOUR)
        except BaseExceptionGroup as group:
            groups.append(group.exceptions[0])
            raise

    job = await work.push()
    await drain(queue)
    assert await state_of(queue, job.id) is State.SUSPENDED
    assert [type(each) for each in groups] == [JobSuspended]
    assert (await saved(queue, job.id)).saved == {}

    store.clock.ahead += HOUR + 1
    await drain(queue)
    assert (seen, await queue.get(job)) == (["slow"], None)
    assert (await queue.control.counts()).totals["retried"] == 0


async def test_an_error_beside_a_wait_is_the_outcome(queue: JobQueue) -> None:
    @queue.job(retry=no_retry())
    async def work(context: JobContext) -> None:
        async def fails() -> None:
            try:
                await anyio.sleep(60)
            finally:
                raise LookupError("it can't be undone")

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(fails)
            await anyio.sleep(0.01)
            await context.sleep(HOUR)

    job = await work.push()
    await drain(queue)
    info = await queue.get(job)
    assert info is not None
    assert (info.state, "LookupError" in info.traceback) == (State.DEAD, True)


async def test_a_name_used_twice_at_a_time_is_an_error(queue: JobQueue) -> None:
    said = list[str]()

    @queue.job
    async def work(context: JobContext) -> None:
        async def outer() -> str:
            for verb in (context.step("page", str), context.wait_for("page")):
                with pytest.raises(ValueError, match="need different names") as raised:
                    await verb
                said.append(str(raised.value))
            return "outer"

        assert await context.step("page", outer) == "outer"
        assert await context.step("page", str) == ""

    await work.push()
    await drain(queue)
    assert (
        said
        == [
            "step 'page' has not ended: steps that run at the same time need different names, or the next run "
            "can't tell them apart"
        ]
        * 2
    )
    assert (await queue.control.counts()).totals["completed"] == 1


async def test_a_job_has_up_to_1_000_steps(queue: JobQueue) -> None:
    calls = list[int]()

    @queue.job(retry=no_retry())
    async def work(context: JobContext) -> None:
        for _ in range(0, MOST_STEPS, 100):
            async with anyio.create_task_group() as tasks:
                for number in range(100):
                    tasks.start_soon(context.step, f"page-{number}", lambda: calls.append(1))
        for verb in (context.step("more", lambda: calls.append(1)), context.sleep(1)):
            with pytest.raises(Exception, match=r"this job has saved 1,000 steps, and can save no more"):
                await verb
        raise LookupError

    job = await work.push()
    await drain(queue)
    assert len(calls) == len((await saved(queue, job.id)).saved) == MOST_STEPS

    await queue.control.requeue(job)
    await drain(queue)
    assert len(calls) == MOST_STEPS


async def test_a_step_that_is_cancelled_by_the_handler_is_called_again(queue: JobQueue) -> None:
    @queue.job
    async def work(context: JobContext) -> None:
        with anyio.move_on_after(0.01):
            await context.step("charge", anyio.sleep, 60)
        await context.step("charge", anyio.sleep, 0)

    await work.push()
    await drain(queue)
    assert (await queue.control.counts()).totals["completed"] == 1


async def test_a_run_that_is_over_cancels_the_function_of_a_step_as_any_other_code(queue: JobQueue) -> None:
    seen = list[str]()

    async def slow() -> None:
        try:
            await anyio.sleep(60)
        except anyio.get_cancelled_exc_class():
            seen.append("cancelled")
            raise

    @queue.job(timeout=0.1, retry=no_retry())
    async def work(context: JobContext) -> None:
        try:
            await context.step("slow", slow)
        except anyio.get_cancelled_exc_class():
            seen.append("cancelled too")
            raise

    job = await work.push()
    await drain(queue)
    info = await queue.get(job)
    assert info is not None
    assert seen == ["cancelled", "cancelled too"]
    assert (info.state, "this run is over" in info.traceback) == (State.DEAD, False)


async def test_a_wait_in_a_step_suspends_the_job_and_the_step_begins_again(queue: JobQueue) -> None:
    calls = list[str]()

    @queue.job
    async def work(context: JobContext) -> None:
        async def outer() -> Any:
            calls.append("outer")
            return await context.wait_for("go")

        calls.append(await context.step("outer", outer))

    job = await work.push()
    await drain(queue)
    await queue.signal(job, "go", "went")
    await drain(queue)
    assert calls == ["outer", "outer", "went"]


async def test_a_task_that_outlives_the_run_saves_and_waits_no_more(queue: JobQueue) -> None:
    said, contexts = list[str](), list[JobContext]()

    @queue.job
    async def work(context: JobContext) -> None:
        contexts.append(context)

    await work.push()
    await drain(queue)
    (context,) = contexts
    for verb in (context.step("late", str), context.sleep(1), context.wait_for("late"), context.checkpoint(1)):
        with pytest.raises(RuntimeError, match="this run is over") as raised:
            await verb
        said.append(str(raised.value))
    assert len(said) == 4


@pytest.mark.parametrize("text", ["a b", "a\nb", "\x00", ""])
async def test_a_function_whose_name_is_any_text_can_be_a_step(queue: JobQueue, text: str) -> None:
    class Callable:
        def __call__(self) -> int:
            return 5

        def __repr__(self) -> str:
            return text

    got = list[int]()

    @queue.job
    async def work(context: JobContext) -> None:
        got.append(await context.step("five", Callable()))

    await work.push()
    await drain(queue)
    assert got == [5]
