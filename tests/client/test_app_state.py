"""What an application sets as `queue.state` reaches its handlers."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import anyio
import process_handlers
import pytest
from store import Store

from redisjobs import JobContext, JobQueue, Worker

pytestmark = pytest.mark.anyio


@dataclass
class Work:
    job_name: ClassVar[str] = "Work"


@dataclass
class Resources:
    pool: str


async def test_handlers_find_the_state_of_their_application_in_their_context(store: Store) -> None:
    async with JobQueue(store.driver, store.queue_name) as queue:
        seen: list[Any] = []

        @queue.register(Work)
        async def work(parameters: Work, context: JobContext[Resources]) -> None:
            seen.append(context.state.pool)

        @queue.job
        def in_thread(context: JobContext[Resources]) -> None:
            seen.append(context.state.pool)

        @queue.job
        async def maybe(n: int, context: JobContext[Resources] | None = None) -> None:
            assert context
            seen.append(context.state.pool)

        @queue.job
        async def none(context: JobContext) -> None:
            seen.append(context.state)

        queue.state = Resources("open")
        await queue.push(Work())
        await in_thread.push()
        await maybe.push(1)
        await none.push()
        await Worker(queue).run(until_idle=True)

        queue.state = None
        await none.push()
        await Worker(queue).run(until_idle=True)
    assert sorted(map(str, seen)) == ["None", "Resources(pool='open')", "open", "open", "open"]


async def test_a_lifespan_sets_the_state_before_jobs_run_and_ends_it_after(store: Store) -> None:
    queue = JobQueue(store.driver, store.queue_name)
    started = anyio.Event()
    seen: list[str] = []

    @queue.register(Work)
    async def work(parameters: Work, context: JobContext[Resources]) -> None:
        started.set()
        await anyio.sleep(0.02)
        seen.append(context.state.pool)

    @asynccontextmanager
    async def resources(app: Any) -> AsyncIterator[None]:
        queue.state = Resources("open")
        yield
        queue.state.pool = "closed"

    await queue.push(Work())
    async with queue.lifespan(then=resources)(None):
        with anyio.fail_after(5):
            await started.wait()
    assert seen == ["open"]
    await queue.aclose()


@pytest.mark.slow
async def test_a_handler_in_a_process_is_told_that_the_state_is_the_workers(store: Store) -> None:
    async with process_handlers.queue_of(store.driver, store.queue_name) as queue:
        queue.state = Resources("open")
        await queue.push(process_handlers.Do("state"))
        await Worker(queue).run(until_idle=True)
        (letter,) = await queue.control.jobs("dead")
    assert letter.error.startswith("AttributeError: Do runs in a process of its own")
