"""Steps that the tests of the relay share: write rows, run relays, look at what is left."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import anyio
import psycopg
import pytest
from store import RedisStore

from redisjobs import JobName, JobQueue, State, sync

Add = JobName("Add", dict[str, Any])


@pytest.fixture
async def queue(redis_store: RedisStore) -> AsyncIterator[JobQueue]:
    async with JobQueue(redis_store.url, redis_store.queue_name) as queue:
        yield queue


def ask(url: str, statement: str, *values: object) -> list[Any]:
    with psycopg.connect(url, autocommit=True) as connection:
        done = connection.execute(statement.encode(), values or None)
        return done.fetchall() if done.description else []


def write(url: str, queue: JobQueue, *jobs: dict[str, Any], **options: Any) -> list[str]:
    """Push jobs within a transaction that commits; their ids."""
    producer = sync.JobQueue("redis://127.0.0.1:1/0", queue.name)
    with psycopg.connect(url) as connection:
        return [handle.id for handle in producer.push_many(jobs, Add, within=connection, **options)]


def left(url: str) -> list[Any]:
    return ask(url, "SELECT id, error FROM redisjobs.outbox ORDER BY seq")


async def until(condition: Callable[[], Awaitable[object]], within: float = 20) -> None:
    """Wait until a condition holds that is asked of a server."""
    with anyio.fail_after(within):
        while not await condition():  # noqa: ASYNC110
            await anyio.sleep(0.01)


async def ready(queue: JobQueue) -> list[str]:
    return [job.job_id async for job in queue.control.scan(State.READY)]
